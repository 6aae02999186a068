"""Exercises of lesson 04: sequence to sequence."""

import torch
from torch import tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts
from tfm_lib.text import pad


def shift_by_library():
    """What the predictions come to."""
    tgt_ids = pad([[1, 7, 4, 2], [1, 5, 2]])
    labels = tgt_ids[:, 1:]
    return {
        "row 1 reads": tgt_ids[0, :-1].tolist(),
        "row 1 must say": labels[0].tolist(),
        "row 2 must say": labels[1].tolist(),
        "labels that count": int((labels != 0).sum()),
        "loss of guessing among 15": F.cross_entropy(torch.zeros(1, 15), tensor([3])).item(),
    }


SHIFT = Exercise(
    id="04.1",
    title="Read this, say that",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Two targets, with the ids `7 4` and `5`; bos is 1, eos is 2, pad is 0. They form one batch.
        What does the decoder read and what must it say? How many labels count in the loss? And what
        does guessing among 15 tokens cost (natural logarithm, two digits after the point)?
        """,
    stub="""
        shifted = {
            "row 1 reads": [..., ..., ...],
            "row 1 must say": [..., ..., ...],
            "row 2 must say": [..., ..., ...],
            "labels that count": ...,
            "loss of guessing among 15": ...,
        }
        """,
    hints=(
        "Write each target with bos in front and eos behind, and fill up to the same length.",
        "It reads all but the last, it says all but the first. Pads do not count.",
        "rows: 1 7 4 2 and 1 5 2 0; ln 15 = ln 3 + ln 5",
    ),
    solution="""
        shifted = {
            "row 1 reads": [1, 7, 4],
            "row 1 must say": [7, 4, 2],
            "row 2 must say": [5, 2, 0],
            "labels that count": 5,
            "loss of guessing among 15": 2.71,
        }
        """,
    explanation="""
        Reading begins with bos, saying ends with eos: what is read at step t is what had to be said
        at t - 1. Row 2 has one pad among its labels, so 5 of 6 count. An even guess gives each
        token 1/15, and -ln(1/15) = ln 15.
        """,
    steps=tuple(
        Step(step.asks, step.given, step.want, step.run, 0.006) for step in parts(shift_by_library)
    ),
    wrong=(
        Wrong("it must not read what it has to say", 'reads": [1, 7, 4]', 'reads": [7, 4, 2]'),
        Wrong("it must say eos at the end, and never bos", "[7, 4, 2]", "[1, 7, 4]"),
        Wrong("eos comes right behind the last token, then pads", "[5, 2, 0]", "[5, 0, 2]"),
        Wrong("the pad does not count", ": 5,\n", ": 6,\n"),
        Wrong("eos counts: the model must learn to stop", ": 5,\n", ": 3,\n"),
        Wrong("the natural logarithm is wanted, not bits", "2.71", "3.91"),
    ),
)


def loss_by_torch(logits, labels, pad_id):
    """PyTorch's loss, which leaves the pads out."""
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=pad_id)


LOGITS = (torch.arange(24.0).reshape(2, 3, 4) * 5 % 7) / 2

LOSS = Exercise(
    id="04.2",
    title="A loss that does not see the pads",
    kind="write",
    difficulty=2,
    minutes=15,
    task="""
        Cross-entropy over a padded batch, without `F.cross_entropy`: the mean surprise (natural
        logarithm) of the labels that are no pads. Each **token** counts the same, whatever row it
        stands in. `log_softmax` and `gather` are allowed.
        """,
    stub='''
        def loss_without_pads(logits, labels, pad_id):
            """logits (batch, length, vocab_size), labels (batch, length) -> a 0-d tensor."""
            return ...
        ''',
    hints=(
        "First the surprise of every label, (batch, length). Then leave out, then average.",
        "surprise = -log_softmax(logits)[label]; sum over the tokens / number of tokens",
        """
        surprise = -(log_softmax over the last dimension, gathered at labels[..., None])
        return the mean of surprise[labels != pad_id]
        """,
    ),
    solution="""
        def loss_without_pads(logits, labels, pad_id):
            log_p = logits.log_softmax(dim=-1)  # (batch, length, vocab_size)
            surprise = -log_p.gather(-1, labels[..., None]).squeeze(-1)  # (batch, length)
            return surprise[labels != pad_id].mean()
        """,
    explanation="""
        Multiplying by the mask and taking the mean over all places would divide by the pads as
        well: then the loss falls if the padding grows, and batches cannot be compared. Averaging
        each row first would give a token of a short row more weight.
        """,
    steps=(
        Step(
            "one token among four alike: ln 4",
            {"logits": torch.zeros(1, 1, 4), "labels": tensor([[3]]), "pad_id": 0},
            torch.tensor(4.0).log(),
        ),
        Step(
            "no pads",
            {"logits": LOGITS, "labels": tensor([[1, 2, 3], [3, 1, 1]]), "pad_id": 0},
            loss_by_torch,
        ),
        Step(
            "one row with two pads",
            {"logits": LOGITS, "labels": tensor([[1, 2, 3], [2, 0, 0]]), "pad_id": 0},
            loss_by_torch,
        ),
        Step(
            "another id for padding",
            {"logits": LOGITS, "labels": tensor([[0, 2, 1], [2, 3, 3]]), "pad_id": 3},
            loss_by_torch,
        ),
    ),
    wrong=(
        Wrong("the pads count in the loss", "surprise[labels != pad_id].mean()", "surprise.mean()"),
        Wrong(
            "the pads are 0 in the sum, but counted in the number",
            "surprise[labels != pad_id].mean()",
            "(surprise * (labels != pad_id)).mean()",
        ),
        Wrong("the sum of the surprises, not their mean", ".mean()", ".sum()"),
        Wrong(
            "each row was averaged first; each token counts the same",
            "surprise[labels != pad_id].mean()",
            "torch.stack([s[k].mean() for s, k in zip(surprise, labels != pad_id)]).mean()",
        ),
        Wrong(
            "the softmax runs over the positions, not the vocabulary",
            "dim=-1)  # (batch, length, vocab_size)",
            "dim=1)  # (batch, length, vocab_size)",
        ),
        Wrong("the sign is missing: surprise is minus the logarithm", "-log_p", "log_p"),
        Wrong("the logarithm is missing", "log_softmax", "softmax"),
        Wrong("pad_id is an argument: it need not be 0", "!= pad_id", "!= 0"),
    ),
)


def follow(table):
    """A model whose next token depends on the last one alone: id -> the likeliest next id."""

    def next_logits(token_ids):
        return F.one_hot(tensor(table[token_ids[-1]]), len(table)).float()

    return next_logits


def greedy_by_hand(table, max_len):
    """Follow the table from bos (1) up to eos (2)."""
    written, token = [], 1
    while len(written) < max_len and table[token] != 2:
        token = table[token]
        written.append(token)
    return written


def write_with(answer, table, max_len):
    """Let an answer write with the model of a table."""
    return answer(follow(table), max_len)


GREEDY = Exercise(
    id="04.3",
    title="Broken writer: the same token for ever",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        Greedy decoding with a model that takes the ids so far and gives logits for the next.
        **Symptom:** the loss in training is fine, and the model writes `5 5 5 5 5 5`. **Tool:**
        print what goes **into** the model at each step. Mend it, so that it also stops at eos (2),
        which is not part of what is returned.
        """,
    stub='''
        def write_greedily_alone(next_logits, max_len):
            """next_logits: list of ids -> logits (vocab_size,). Returns at most max_len ids.

            bos is 1, eos is 2; neither is returned.
            """
            token_ids, written = [1], []
            for _ in range(max_len):
                token = next_logits(token_ids).argmax().item()
                written.append(token)
            return written
        ''',
    hints=(
        "Does the model ever hear what it has just said?",
        "Each step: logits of all ids so far, the largest; stop if it is eos, else remember it.",
        "token_ids.append(token) after the test for eos; bos stays in token_ids, not in written",
    ),
    solution="""
        def write_greedily_alone(next_logits, max_len):
            token_ids = [1]
            for _ in range(max_len):
                token = next_logits(token_ids).argmax().item()
                if token == 2:
                    break
                token_ids.append(token)
            return token_ids[1:]
        """,
    explanation="""
        In training the right token is fed at each step (teacher forcing), so nothing in the loss
        can show that the writer feeds nothing back. That is why one looks at what a model writes,
        and not at its loss alone.
        """,
    steps=(
        Step(
            "one token, then eos",
            {"table": [0, 4, 0, 0, 2], "max_len": 5},
            greedy_by_hand,
            write_with,
        ),
        Step(
            "4 3 5, then eos",
            {"table": [0, 4, 0, 5, 3, 2], "max_len": 6},
            greedy_by_hand,
            write_with,
        ),
        Step(
            "never eos: max_len tokens",
            {"table": [0, 3, 0, 4, 3], "max_len": 3},
            greedy_by_hand,
            write_with,
        ),
        Step(
            "eos at once: nothing", {"table": [0, 2, 0], "max_len": 4}, greedy_by_hand, write_with
        ),
    ),
    wrong=(
        Wrong(
            "it stops at eos, but feeds nothing back",
            "        token_ids.append(token)\n    return token_ids[1:]",
            "        written.append(token)\n    return written",
        ),
        Wrong(
            "eos must not be part of what is returned",
            """
            def write_greedily_alone(next_logits, max_len):
                token_ids = [1]
                for _ in range(max_len):
                    token_ids.append(next_logits(token_ids).argmax().item())
                    if token_ids[-1] == 2:
                        break
                return token_ids[1:]
            """,
        ),
        Wrong("it does not stop at eos", "        if token == 2:\n            break\n", ""),
        Wrong(
            "bos must not be part of what is returned", "return token_ids[1:]", "return token_ids"
        ),
        Wrong("one token fewer than max_len allows", "range(max_len)", "range(max_len - 1)"),
        Wrong("the least likely token was taken", "argmax", "argmin"),
    ),
)
