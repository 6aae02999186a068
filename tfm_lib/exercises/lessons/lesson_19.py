"""Exercises of lesson 19: BERT."""

import torch
from torch import tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def rates_by_counting():
    """What the predictions come to for 1,000 ordinary tokens, each rule applied to exact shares."""
    chosen = 1000 * 15 // 100
    hidden, swapped = chosen * 80 // 100, chosen * 10 // 100
    label_count = tensor([True] * chosen + [False] * (1000 - chosen)).sum().item()
    return {
        "labels": label_count,
        "inputs that are [MASK]": hidden,
        "labels whose input was left as it was": chosen - hidden - swapped,
        "loss counts the [CLS] token": False,
        "[MASK] may look at the token after it": True,
    }


RATES = Exercise(
    id="19.1",
    title="Hide, swap, leave",
    kind="predict",
    difficulty=1,
    minutes=6,
    task="""
        A text of 1,000 ordinary tokens, and one [CLS], goes through BERT's 80/10/10 rule with a
        share of 15%. Predict the numbers on average, as whole numbers, and two answers `True` or
        `False`.
        """,
    stub="""
        masked_text = {
            "labels": ...,
            "inputs that are [MASK]": ...,
            "labels whose input was left as it was": ...,
            "loss counts the [CLS] token": ...,
            "[MASK] may look at the token after it": ...,
        }
        """,
    hints=(
        "First 15% are chosen. The three shares are shares of those.",
        "Of the chosen 80% are hidden, 10% swapped, 10% left. Is [CLS] an ordinary token? Is "
        "BERT's model an encoder or a decoder?",
        "0.15 * 1,000; 0.8 and 0.1 of that; [CLS] is never chosen; an encoder has no causal mask",
    ),
    solution="""
        masked_text = {
            "labels": 150,
            "inputs that are [MASK]": 120,
            "labels whose input was left as it was": 15,
            "loss counts the [CLS] token": False,
            "[MASK] may look at the token after it": True,
        }
        """,
    explanation="""
        All 150 are predicted, whatever their input looks like. The 15 that were left are there so
        that the model cannot trust a token just because it is no [MASK]: it is never sure which one
        it will be asked for.
        """,
    steps=parts(rates_by_counting),
    wrong=(
        Wrong("every chosen token has a label, hidden or not", '"labels": 150', '"labels": 120'),
        Wrong("only chosen tokens have labels", '"labels": 150', '"labels": 1000'),
        Wrong("80% of the chosen ones, not all of them", "120", "150"),
        Wrong("swapped ones are not hidden", "120", "135"),
        Wrong("80% of the chosen ones, not of the text", "120", "800"),
        Wrong("10% of the chosen ones, not of the text", 'was": 15,', 'was": 100,'),
        Wrong("only chosen tokens have labels", 'was": 15,', 'was": 850,'),
        Wrong("swapped ones were not left", 'was": 15,', 'was": 30,'),
        Wrong("special tokens are never chosen", 'token": False', 'token": True'),
        Wrong("there is no causal mask: both sides are seen", 'it": True', 'it": False'),
    ),
)


def corrupt_by_loop(token_ids, draw, fate, words, mask_id, pad_id):
    """Token by token, by the rule; -100 where there is nothing to predict."""
    inputs, labels = token_ids.tolist(), []
    for row, ids in enumerate(token_ids.tolist()):
        labels.append([])
        for at, token in enumerate(ids):
            if token == pad_id or draw[row, at] >= 0.15:
                labels[-1].append(-100)
                continue
            labels[-1].append(token)
            if fate[row, at] < 0.8:
                inputs[row][at] = mask_id
            elif fate[row, at] >= 0.9:
                inputs[row][at] = words[row, at].item()
    return tensor(inputs), tensor(labels)


def dice(ids, draw, fate, words, mask_id=1, pad_id=0):
    """A step's inputs: the numbers that chance would have brought, in float64."""
    return {
        "token_ids": tensor(ids),
        "draw": tensor(draw, dtype=torch.float64),
        "fate": tensor(fate, dtype=torch.float64),
        "words": tensor(words),
        "mask_id": mask_id,
        "pad_id": pad_id,
    }


def labelled(answer, *given):
    """Where there is a label: the places that are not -100."""
    return answer(*given)[1] != -100


MIXED = dice(  # hidden, swapped, left, not chosen, a pad
    [[5, 7, 6, 8, 0]], [[0.1, 0.1, 0.1, 0.9, 0.1]], [[0.5, 0.95, 0.85, 0.3, 0.5]], [[3, 4, 2, 9, 5]]
)

CORRUPT = Exercise(
    id="19.2",
    title="80, 10, 10",
    kind="write",
    difficulty=2,
    minutes=15,
    task="""
        Chance has been drawn already: `draw` and `fate` are numbers between 0 and 1, `words` random
        tokens. A token that is no pad is chosen where draw < 0.15. A chosen one becomes `mask_id`
        where fate < 0.8, the word in `words` where fate >= 0.9, and else stays. The ids of mask and
        pad are given, and pads may stand anywhere. Nothing is changed in place. Return the inputs,
        and the labels: the old token where chosen, -100 elsewhere.
        """,
    stub='''
        def corrupt(token_ids, draw, fate, words, mask_id, pad_id):
            """All of them (batch, length), but for two ids -> inputs, labels (batch, length)."""
            return ..., ...
        ''',
    hints=(
        "Build one boolean table: which tokens are chosen? Everything else hangs on it.",
        "inputs change where chosen and fate says so; labels keep the old token where chosen",
        "torch.where(chosen & (fate < 0.8), mask_id, token_ids); masked_fill(~chosen, -100)",
    ),
    solution="""
        def corrupt(token_ids, draw, fate, words, mask_id, pad_id):
            chosen = (draw < 0.15) & (token_ids != pad_id)
            inputs = torch.where(chosen & (fate < 0.8), mask_id, token_ids)
            inputs = torch.where(chosen & (fate >= 0.9), words, inputs)
            return inputs, token_ids.masked_fill(~chosen, -100)
        """,
    explanation="""
        -100 is the label that PyTorch's cross-entropy skips. Labels are taken from the old tokens,
        so they must not be made from what has been changed.
        """,
    steps=(
        Step(
            "nothing chosen: all stays, no labels",
            dice([[5, 7]], [[0.9, 0.2]], [[0.1, 0.1]], [[3, 4]]),
            corrupt_by_loop,
        ),
        Step(
            "labels stand at the three chosen tokens: hidden, swapped, left",
            MIXED,
            tensor([[True, True, True, False, False]]),
            labelled,
        ),
        Step(
            "chosen and hidden",
            dice([[5, 7, 6]], [[0.1, 0.9, 0.9]], [[0.5, 0.5, 0.95]], [[3, 4, 2]]),
            corrupt_by_loop,
        ),
        Step(
            "chosen, and swapped or left",
            dice([[5, 7, 6, 8]], [[0.1, 0.1, 0.9, 0.05]], [[0.95, 0.85, 0.5, 0.3]], [[3, 4, 2, 9]]),
            corrupt_by_loop,
        ),
        Step(
            "pads are never chosen",
            dice(
                [[5, 6, 0], [0, 7, 0]],
                [[0.9, 0.1, 0.1], [0.1, 0.1, 0.1]],
                [[0.5, 0.5, 0.5], [0.2, 0.92, 0.95]],
                [[3, 4, 2], [8, 9, 5]],
            ),
            corrupt_by_loop,
        ),
        Step(
            "exactly 0.8: left",
            dice([[5, 7, 6]], [[0.1, 0.1, 0.9]], [[0.8, 0.5, 0.8]], [[3, 4, 2]]),
            corrupt_by_loop,
        ),
        Step(
            "exactly 0.9: swapped",
            dice([[5, 7, 6]], [[0.1, 0.1, 0.9]], [[0.9, 0.5, 0.9]], [[3, 4, 2]]),
            corrupt_by_loop,
        ),
        Step(
            "exactly 0.15: not chosen",
            dice([[5, 7, 6]], [[0.15, 0.1, 0.9]], [[0.5, 0.5, 0.5]], [[3, 4, 2]]),
            corrupt_by_loop,
        ),
        Step(
            "the pad is 6: 0 is a token like others",
            dice(
                [[6, 0, 5], [0, 6, 2]],
                [[0.1, 0.1, 0.9], [0.9, 0.1, 0.1]],
                [[0.5, 0.5, 0.5], [0.2, 0.92, 0.95]],
                [[3, 4, 2], [8, 9, 5]],
                pad_id=6,
            ),
            corrupt_by_loop,
        ),
        Step(
            "the mask is 8: 1 is a token like others",
            dice(
                [[8, 1, 5], [1, 2, 6], [3, 6, 1]],
                [[0.1, 0.1, 0.9], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]],
                [[0.5, 0.85, 0.5], [0.2, 0.92, 0.1], [0.85, 0.5, 0.1]],
                [[3, 4, 2], [8, 9, 5], [3, 2, 1]],
                mask_id=8,
                pad_id=6,
            ),
            corrupt_by_loop,
        ),
    ),
    wrong=(
        Wrong("pads are chosen too", " & (token_ids != pad_id)", ""),
        Wrong(
            "labels for all tokens: the loss must skip the others",
            "~chosen, -100",
            "chosen & False, -100",
        ),
        Wrong(
            "labels made from the changed inputs",
            "token_ids.masked_fill(~chosen, -100)",
            "inputs.masked_fill(~chosen, -100)",
        ),
        Wrong("labels for the hidden ones alone", "~chosen, -100", "inputs != mask_id, -100"),
        Wrong("all chosen ones hidden", "chosen & (fate < 0.8)", "chosen"),
        Wrong("tokens that were not chosen are hidden too", "chosen & (fate < 0.8)", "fate < 0.8"),
        Wrong(
            "the mask's id may be chosen like any other token",
            "~chosen, -100",
            "~chosen | (token_ids == mask_id), -100",
        ),
        Wrong("the pad's id is given: not always 0", "!= pad_id", "!= 0"),
        Wrong("the mask's id is given: not always 1", "0.8), mask_id", "0.8), 1"),
        Wrong("at exactly 0.8 a token stays: <", "fate < 0.8", "fate <= 0.8"),
        Wrong("at exactly 0.9 a token is swapped: >=", "fate >= 0.9", "fate > 0.9"),
        Wrong("at exactly 0.15 a token is not chosen: <", "draw < 0.15", "draw <= 0.15"),
        Wrong(
            "labels only where the input was changed: what was left is asked for too",
            "~chosen, -100",
            "inputs == token_ids, -100",
        ),
        Wrong("words stand where nothing was chosen", "chosen & (fate >= 0.9)", "fate >= 0.9"),
        Wrong(
            "labels and inputs are exchanged",
            "return inputs, token_ids.masked_fill(~chosen, -100)",
            "return token_ids.masked_fill(~chosen, -100), inputs",
        ),
        Wrong("swapped from 0.8 on: nothing is left", "fate >= 0.9", "fate >= 0.8"),
        Wrong("the label of a token with nothing to say is -100, not the pad", "-100", "pad_id"),
    ),
)


def mean_by_loop(hidden, token_ids):
    """Each text's own vectors, then their mean (pad id 0)."""
    texts = zip(hidden, token_ids, strict=True)
    return torch.stack([rows[ids != 0].mean(dim=0) for rows, ids in texts])


def similar_by_torch(hidden, token_ids):
    """The cosine between the first text's mean and each text's."""
    means = mean_by_loop(hidden, token_ids)
    return F.cosine_similarity(means[:1], means)


ANYWHERE = {  # not contiguous: width 2 came before length 4
    "hidden": tensor([
        [[9.0, 3.0, 1.0, 2.0], [-8.0, 4.0, 0.0, 5.0]],
        [[2.0, 7.0, 7.0, 1.0], [3.0, -9.0, 6.0, -1.0]],
        [[1.0, 8.0, -2.0, -8.0], [4.0, 8.0, 1.0, -9.0]],
    ]).double().transpose(1, 2),
    "token_ids": tensor([[0, 5, 6, 8], [7, 0, 0, 5], [6, 0, 9, 4]]),
}  # fmt: skip


POOL = Exercise(
    id="19.3",
    title="Broken search: short sentences all look alike",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        A sentence's vector is the mean of its tokens' vectors, and two sentences are compared by
        the cosine. Texts are padded with id 0. **Symptom:** the same sentence gets another score
        when a longer one is in the batch, and short ones all seem alike. **Tool:** score a sentence
        alone and in a padded batch. Pads may stand anywhere. The rows of `hidden` at the pads hold
        anything, NaN included.
        """,
    stub='''
        def rank_by_first(hidden, token_ids):
            """hidden (batch, length, width), token_ids (batch, length) -> (batch,): the cosine
            of each text with the first one.
            """
            means = hidden.mean(dim=1)
            means = means / means.norm(dim=1, keepdim=True)
            return means @ means[0]
        ''',
    hints=(
        "What do the pads add to the sum, and by what number is it divided?",
        "mean = sum over real tokens / number of real tokens; then divide by its length",
        "real = (token_ids != 0)[..., None]; hidden.masked_fill(~real, 0).sum(1) / real.sum(1)",
    ),
    solution="""
        def rank_by_first(hidden, token_ids):
            real = (token_ids != 0)[..., None]
            means = hidden.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1)
            means = means / means.norm(dim=1, keepdim=True)
            return means @ means[0]
        """,
    explanation="""
        The cosine forgives a wrong divisor, since the length of a vector does not matter, but not
        what the pads add. Models put something at every place, pads included, so leaving them out
        is the reader's work.
        """,
    steps=(
        Step(
            "one text without pads: like itself",
            {**tensors(hidden=[[[3, 4], [1, 0]]]), "token_ids": tensor([[5, 6]])},
            similar_by_torch,
        ),
        Step(
            "two texts without pads",
            {
                **tensors(hidden=[[[3, 4], [1, 0]], [[0, 2], [1, 1]]]),
                "token_ids": tensor([[5, 6], [7, 5]]),
            },
            similar_by_torch,
        ),
        Step(
            "a pad in the second",
            {
                **tensors(hidden=[[[3, 4], [1, 0], [2, 2]], [[0, 2], [1, -1], [9, -6]]]),
                "token_ids": tensor([[5, 6, 8], [7, 5, 0]]),
            },
            similar_by_torch,
        ),
        Step(
            "a pad in the first, and NaN in its place",
            {
                "hidden": tensor([[[3.0, 4.0], [torch.nan, torch.nan]], [[1.0, -2.0], [0.0, 5.0]]]),
                "token_ids": tensor([[5, 0], [7, 5]]),
            },
            similar_by_torch,
        ),
        Step("pads on the left and between, in float64", ANYWHERE, similar_by_torch),
    ),
    wrong=(
        Wrong("the pads are still in the sum", ".masked_fill(~real, 0)", ""),
        Wrong("the real tokens were left out, not the pads", "fill(~real, 0)", "fill(real, 0)"),
        Wrong(
            "0 times NaN is NaN: fill, do not multiply",
            "hidden.masked_fill(~real, 0)",
            "(hidden * real)",
        ),
        Wrong(
            "a product of means is no cosine: divide by the lengths",
            "means / means.norm(dim=1, keepdim=True)",
            "means",
        ),
        Wrong(
            "the first token's vector, not the mean",
            """
            def rank_by_first(hidden, token_ids):
                return F.cosine_similarity(hidden[:1, 0], hidden[:, 0])
            """,
        ),
        Wrong(
            "the first ones were taken, as many as there are: pads may stand in front",
            "~real",
            "torch.arange(hidden.size(1))[:, None] >= real.sum(1, keepdim=True)",
        ),
        Wrong("compared with the last text, not with the first", "means[0]", "means[-1]"),
        Wrong("a cosine may be below 0", "means @ means[0]", "(means @ means[0]).abs()"),
        Wrong(
            "the mean of unit vectors, where the mean itself must have length 1",
            "hidden.masked_fill(~real, 0)",
            "F.normalize(hidden.masked_fill(~real, 0), dim=-1)",
        ),
        Wrong(
            "the largest number of each column, not the mean",
            "hidden.masked_fill(~real, 0).sum(dim=1) / real.sum(dim=1)",
            "hidden.masked_fill(~real, -torch.inf).amax(dim=1)",
        ),
        Wrong("the length over the batch, not over the width", "norm(dim=1", "norm(dim=0"),
    ),
)
