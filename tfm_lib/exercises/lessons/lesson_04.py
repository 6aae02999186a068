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
        What does the decoder read and what must it say? How many labels count in the loss, of both
        rows? And what does guessing among 15 tokens cost (natural logarithm, two digits after the
        point)?
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
        Wrong("behind eos there is nothing to say: it is not read", "[1, 7, 4]", "[1, 7, 4, 2]"),
        Wrong("bos is read first: something must be", "[1, 7, 4]", "[0, 7, 4]"),
        Wrong("it must say eos at the end, and never bos", "[7, 4, 2]", "[1, 7, 4]"),
        Wrong("a pad is not what ends a sentence", "[7, 4, 2]", "[7, 4, 0]"),
        Wrong("eos comes right behind the last token, then pads", "[5, 2, 0]", "[5, 0, 2]"),
        Wrong("one batch: its rows are equally long", "[5, 2, 0]", "[5, 2]"),
        Wrong("the pads stand at the end", "[5, 2, 0]", "[0, 5, 2]"),
        Wrong("it ends once; what follows is padding", "[5, 2, 0]", "[5, 2, 2]"),
        Wrong("the pad does not count", ": 5,\n", ": 6,\n"),
        Wrong("eos counts: the model must learn to stop", ": 5,\n", ": 3,\n"),
        Wrong("bos is no label: it is never said", ": 5,\n", ": 7,\n"),
        Wrong("the natural logarithm is wanted, not bits", "2.71", "3.91"),
        Wrong("the natural logarithm is wanted, not that to base 10", "2.71", "1.18"),
        Wrong("that is the probability, not its surprise", "2.71", "0.07"),
        Wrong("surprise is minus the logarithm: never below 0", "2.71", "-2.71"),
    ),
)


def loss_by_torch(logits, labels, pad_id):
    """PyTorch's loss, which leaves the pads out."""
    return F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=pad_id)


LOGITS = (torch.arange(24.0).reshape(2, 3, 4) * 5 % 7) / 2

OF_FIVE = (torch.arange(60.0).reshape(3, 4, 5) * 7 % 11) / 3
ODD = {
    "logits": OF_FIVE,
    "labels": tensor([[0, 2, 0, 4], [0, 0, 0, 0], [0, 0, 3, 1]]),
    "pad_id": 0,
}
TURNED = ODD | {"logits": OF_FIVE.double().transpose(0, 1).contiguous().transpose(0, 1)}


def slopes(loss, logits, labels, pad_id):
    """The gradient of a loss at the logits; zeros if none gets there."""
    logits = logits.clone().requires_grad_()
    return torch.autograd.grad(loss(logits, labels, pad_id) + 0 * logits.sum(), logits)[0]


LOG = "logits.log_softmax(dim=-1)"
POWERS = "(logits.exp() / logits.exp().sum(-1, keepdim=True)).log()"
BY_SIZE = (
    "(logits - (s := logits.abs().amax(-1, keepdim=True)) - (logits - s).exp().sum(-1, True).log())"
)
NO_PAD = "logits.index_fill(-1, torch.tensor(pad_id), -math.inf).log"
FROM_LEFT = "torch.arange(labels.size(1)) < (labels != pad_id).sum(1, True)"
BY_TORCH = (
    """
    def loss_without_pads(logits, labels, pad_id):
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id)
    """,
)

LOSS = Exercise(
    id="04.2",
    forbidden=("cross_entropy", "nll_loss", "nll_loss_nd", "cross_entropy_loss"),
    title="A loss that does not see the pads",
    kind="write",
    difficulty=2,
    minutes=15,
    task="""
        Cross-entropy over a padded batch, without `F.cross_entropy` and `F.nll_loss`: the mean
        surprise (natural logarithm) of the labels that are no pads. Each **token** counts the same,
        whatever row it stands in and wherever the pads stand. Logits may have any size; the
        gradient must reach them. `log_softmax` and `gather` are allowed. Four digits must be right.
        """,
    stub='''
        def loss_without_pads(logits, labels, pad_id):
            """logits (batch, length, vocab_size), labels (batch, length) -> a 0-d tensor.

            pad_id is one of the vocabulary's ids. At least one label is a token.
            """
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
            {"logits": LOGITS, "labels": tensor([[0, 3, 1], [3, 2, 2]]), "pad_id": 2},
            loss_by_torch,
        ),
        Step("pads before and between the tokens, and a row of pads", ODD, loss_by_torch),
        Step(
            "all logits 1000, or all -1000: ln 4",
            {
                "logits": tensor([[[1000.0] * 4, [-1000.0] * 4]]),
                "labels": tensor([[1, 2]]),
                "pad_id": 0,
            },
            tensor(4.0).log(),
        ),
        Step(
            "logits of 1000 and -1000: surprise 1000, 2000 and 0",
            {
                "logits": 1000.0 * tensor([[[1, 0, -1], [-1, 1, 0], [-1, 1, 0]]]),
                "labels": tensor([[1, 0, 1]]),
                "pad_id": 2,
            },
            tensor(1000.0),
        ),
        Step("float64, turned in memory", TURNED, loss_by_torch),
        Step(
            "the gradient at the logits",
            ODD,
            lambda *given: slopes(loss_by_torch, *given),
            slopes,
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
        Wrong("divided by the rows, not by the tokens", ".mean()", ".sum() / len(labels)"),
        Wrong("the pad's logit belongs to the softmax", "logits.log", NO_PAD),
        Wrong(
            "the largest logits are no labels",
            "gather(-1, labels[..., None])",
            "amax(-1, keepdim=True)",
        ),
        Wrong("a pad may stand before a token", "labels != pad_id", FROM_LEFT),
        Wrong(
            "a floor under the probability hides a large surprise",
            LOG,
            "(logits.softmax(-1) + 1e-9).log()",
        ),
        Wrong("the logarithm of a 0 is infinite", LOG, "logits.softmax(-1).log()"),
        Wrong("e^1000 is infinite: log_softmax takes care of that", LOG, POWERS),
        Wrong("e^-1000 is 0: take off the largest logit, not the largest size", LOG, BY_SIZE),
        Wrong("the numbers became float32: keep the dtype", LOG, "logits.float().log_softmax(-1)"),
        Wrong("no gradient reaches the logits", "].mean()", "].mean().detach()"),
        Wrong("F.cross_entropy is what this task asks you to write", *BY_TORCH),
    ),
)


def follow(script):
    """A model that says a script word by word, if it is given bos and all that it said so far.

    Of anything else it does not know how to go on, and says 9, 10 or 11.
    """

    def next_logits(token_ids):
        said = [int(token) for token in token_ids]
        knows = said == [1, *script[: len(said) - 1]] and len(said) <= len(script)
        token = script[len(said) - 1] if knows else 9 + min(len(said), 2)
        return 5 * F.one_hot(tensor(token), 12) - 7.0

    return next_logits


def greedy_by_hand(script, max_len):
    """The script up to eos (2), and not more than max_len of it."""
    return script[: min(max_len, script.index(2))]


def write_with(answer, script, max_len):
    """Let an answer write with the model of a script."""
    return answer(follow(script), max_len)


def writes(asks, script, max_len):
    """A step that lets an answer write."""
    return Step(asks, {"script": script, "max_len": max_len}, greedy_by_hand, write_with)


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
        which is not part of what is returned. The model of the check says a script, word by word,
        and 9, 10 or 11 if it is not given bos (1) and all that it said so far.
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
        writes("one token, then eos", [4, 2], 5),
        writes("4 3 4, then eos", [4, 3, 4, 2], 6),
        writes("just max_len tokens, then no more", [3, 4, 3, 4, 5, 2], 3),
        writes("eos at once: nothing", [2], 4),
        writes("the same token twice, and 0, which is a token like others", [6, 6, 0, 5, 2], 8),
        writes("as many tokens as max_len allows, and eos after them", [7, 8, 2], 2),
        writes("max_len 0: nothing", [3, 2], 0),
        writes("long: 40 tokens", [3, 4, 5, 6] * 10 + [2], 50),
    ),
    wrong=(
        Wrong(
            "it stops at eos, but feeds nothing back", "next_logits(token_ids)", "next_logits([1])"
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
        Wrong("the last token alone goes in; all so far must", "(token_ids)", "(token_ids[-1:])"),
        Wrong("bos comes first, the newest token last", "(token_ids)", "(token_ids[::-1])"),
        Wrong("bos must go in, first of all", "(token_ids)", "(token_ids[1:])"),
        Wrong(
            "bos and the last token are not all so far",
            "(token_ids)",
            "(token_ids[:1] + token_ids[1:][-1:])",
        ),
        Wrong("0 is a token like others; eos alone ends", "token == 2", "token in (0, 2)"),
        Wrong("a token may come twice in a row", "token == 2", "token in (2, token_ids[-1])"),
        Wrong("one token more than max_len allows", "range(max_len)", "range(max_len + 1)"),
        Wrong(
            "the limit is max_len, not a number of its own",
            "range(max_len)",
            "range(min(max_len, 20))",
        ),
    ),
)
