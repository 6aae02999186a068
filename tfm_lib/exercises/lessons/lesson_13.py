"""Exercises of lesson 13: training."""

from functools import partial
from itertools import pairwise

import torch
from torch import nn, tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts


class Toy(nn.Module):
    """Logits (batch, length, 8) that depend on the token just read and on the source."""

    def __init__(self, size=1):
        super().__init__()
        self.table = nn.Parameter((torch.arange(64.0).reshape(8, 8) * 5) % 7 * size)

    def forward(self, src_ids, decoder_input):
        return self.table[decoder_input] * (1 + src_ids[:, :1, None] / 4)


def slope(answer, model, *given):
    """The gradient of the loss at the model's table; zeros if it is cut off."""
    (answer(model, *given) + 0 * model.table.sum()).backward()
    return model.table.grad


def loss_by_loop(model, src_ids, tgt_ids, pad_id):
    """Token by token: read one, pay for the next."""
    losses = []
    for source, row in zip(src_ids, tgt_ids.tolist(), strict=True):
        for read, said in pairwise(row):
            if said != pad_id:
                logits = model(source[None], tensor([[read]]))[0, 0]
                losses.append(logits.logsumexp(0) - logits[said])
    return torch.stack(losses).mean()


def task(src_ids, tgt_ids, pad_id=0, size=1):
    """What a step of the first lab hands in."""
    ids = {"src_ids": tensor(src_ids), "tgt_ids": tensor(tgt_ids)}
    return {"model": Toy(size), **ids, "pad_id": pad_id}


TWO = task([[4], [2]], [[1, 5, 3, 7, 2], [1, 6, 2, 0, 0]])
SHIFTED = "tgt_ids[:, :-1], tgt_ids[:, 1:]"  # in the solution

SHIFT = Exercise(
    id="13.1",
    title="Broken Transformer: a loss too good to be true",
    kind="mend",
    difficulty=1,
    minutes=8,
    task="""
        **Symptom:** the loss falls to almost 0 within a hundred steps, and the model then writes
        the token it was given, for ever. **Tool:** print, for one row of a batch, what the decoder
        reads above what it must say.
        """,
    stub='''
        def teacher_forced_loss(model, src_ids, tgt_ids, pad_id):
            """The mean loss of a token, pads not counted.

            model(src_ids, decoder_input (batch, length)) -> logits (batch, length, vocab);
            tgt_ids (batch, tgt_len) begin with bos and end with eos, then pads.
            """
            logits = model(src_ids, tgt_ids)
            return F.cross_entropy(logits.flatten(0, 1), tgt_ids.flatten(), ignore_index=pad_id)
        ''',
    hints=(
        "What must the model say at the place where it reads bos?",
        "It reads tgt_ids without the last column and says tgt_ids without the first.",
        "logits = model(src_ids, tgt_ids[:, :-1]); labels = tgt_ids[:, 1:]",
    ),
    solution="""
        def teacher_forced_loss(model, src_ids, tgt_ids, pad_id):
            decoder_input, labels = tgt_ids[:, :-1], tgt_ids[:, 1:]
            logits = model(src_ids, decoder_input)  # (batch, tgt_len - 1, vocab)
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id)
        """,
    explanation="""
        Without the shift each label stands where it can be read: copying is enough, and the causal
        mask does not help, since a position may see itself. Too fast a fall is a symptom.
        """,
    steps=(
        Step("bos and one token: one thing to say", task([[4]], [[1, 5]]), loss_by_loop),
        Step("bos, two tokens, eos: three things", task([[4]], [[1, 5, 3, 2]]), loss_by_loop),
        Step("pads cost nothing", task([[4]], [[1, 6, 2, 0, 0]]), loss_by_loop),
        Step("two rows: every token counts alike", TWO, loss_by_loop),
        Step("pad 7", task([[4], [2]], [[1, 5, 0, 2], [1, 2, 7, 7]], 7), loss_by_loop),
        Step("logits of 1000 and more", task([[4]], [[1, 5, 6, 2]], size=300), loss_by_loop),
        Step("a gradient reaches the model", TWO, partial(slope, loss_by_loop), slope),
    ),
    wrong=(
        Wrong("it still says what it reads: no shift", SHIFTED, "tgt_ids, tgt_ids"),
        Wrong("both were cut at the end: still no shift", "tgt_ids[:, 1:]", "tgt_ids[:, :-1]"),
        Wrong("it reads the next token, says the last", SHIFTED, "tgt_ids[:, 1:], tgt_ids[:, :-1]"),
        Wrong("the sum was not divided by the tokens", "=pad_id", "=pad_id, reduction='sum'"),
        Wrong("the loss of the pads is in the mean", ", ignore_index=pad_id", ""),
        Wrong(
            "pads were counted as well", "=pad_id)", "=pad_id, reduction='sum') / labels.numel()"
        ),
        Wrong(
            "the mean of each row's mean: tokens of short rows weigh more",
            "return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id)",
            "return torch.stack([F.cross_entropy(a, b, ignore_index=pad_id)"
            " for a, b in zip(logits, labels)]).mean()",
        ),
        Wrong("pad_id is an argument: it need not be 0", "=pad_id", "=0"),
        Wrong(
            "eos must be learnt, too", "logits =", "labels = labels * (labels > 2)\n    logits ="
        ),
        Wrong("the first row's source was read for all", "model(src_ids", "model(src_ids[:1]"),
        Wrong("the model is cut off from the gradient", "logits.flat", "logits.detach().flat"),
        Wrong(
            "the logarithm of a share of 0 is infinite: take log_softmax or cross_entropy",
            "F.cross_entropy(logits.flatten(0, 1)",
            "F.nll_loss(logits.flatten(0, 1).softmax(-1).log()",
        ),
    ),
)


def targets_by_gradient(labels, vocab_size, smoothing, pad_id):
    """PyTorch never shows its targets; but the loss's gradient is softmax(logits) - target."""
    logits = torch.zeros(len(labels), vocab_size, requires_grad=True)
    options = {"ignore_index": pad_id, "label_smoothing": smoothing, "reduction": "sum"}
    F.cross_entropy(logits, labels, **options).backward()
    return logits.detach().softmax(dim=-1) * (labels != pad_id)[:, None] - logits.grad


def as_float32(answer, *given):
    """Shares of any precision."""
    shares = answer(*given)
    return shares.float() if getattr(shares, "dtype", None) == torch.float64 else shares


def some(labels, size, share, pad_id=0):
    """What a step hands in."""
    return {"labels": tensor(labels), "vocab_size": size, "smoothing": share, "pad_id": pad_id}


SMOOTH = Exercise(
    id="13.2",
    title="The smoothed target",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        `label_smoothing_loss` never builds its target. Build it, as the formula in the lesson has
        it: a row of shares for each label, float32 or float64. A pad gets a row of zeros, so
        that it costs nothing.
        """,
    stub='''
        def smoothed_targets(labels, vocab_size, smoothing, pad_id):
            """labels (tokens,) of ids -> shares (tokens, vocab_size), floats."""
            return ...
        ''',
    hints=(
        "Each row is a mixture of two distributions. Which two?",
        "(1 - smoothing) * one-hot + smoothing / vocab_size; the right token gets of both.",
        "F.one_hot(labels, vocab_size) * (1 - s) + s / vocab_size, then 0 in the rows of pads",
    ),
    solution="""
        def smoothed_targets(labels, vocab_size, smoothing, pad_id):
            one_hot = F.one_hot(labels, vocab_size).float()  # (tokens, vocab_size)
            even = smoothing / vocab_size
            shares = (1 - smoothing) * one_hot + even
            return shares * (labels != pad_id)[:, None]
        """,
    explanation="""
        Every row of a token adds up to 1. The uniform part runs over all tokens, the right one and
        the pad among them: so PyTorch has it. Other codes share it among the wrong tokens only, or
        leave the pad out; among thousands of tokens nobody sees the difference.
        """,
    steps=(
        Step("no smoothing", some([2], 5, 0.0), tensor([[0.0, 0.0, 1.0, 0.0, 0.0]]), as_float32),
        Step(
            "0.92 and 0.02", some([2], 5, 0.1), tensor([[0.02, 0.02, 0.92, 0.02, 0.02]]), as_float32
        ),
        Step("a pad among the labels", some([1, 0, 3], 4, 0.2), targets_by_gradient, as_float32),
        Step("pad 2", some([1, 2, 0, 4, 1], 6, 0.3, 2), targets_by_gradient, as_float32),
    ),
    wrong=(
        Wrong("nothing is smoothed", "(1 - smoothing) * one_hot + even", "one_hot"),
        Wrong("the two shares are exchanged", "even =", "smoothing = 1 - smoothing\n    even ="),
        Wrong(
            "shared among the wrong tokens only: the formula's uniform part is over all",
            "+ even",
            "+ (1 - one_hot) * smoothing / (vocab_size - 1)",
        ),
        Wrong(
            "the right token lost its part of the even share", "+ even", "+ (1 - one_hot) * even"
        ),
        Wrong("each token got the whole share: divide it", " / vocab_size", ""),
        Wrong("the row adds up to more than 1", "(1 - smoothing) * one_hot", "one_hot"),
        Wrong("shared among all tokens, not one less", "/ vocab_size", "/ (vocab_size - 1)"),
        Wrong(
            "the pad takes a share, too: other codes leave it out",
            "+ even",
            "+ (1 - one_hot) * (torch.arange(vocab_size) != pad_id) * smoothing / (vocab_size - 2)",
        ),
        Wrong("a pad is to cost nothing: its row is zeros", " * (labels != pad_id)[:, None]", ""),
        Wrong(
            "the pad's column was emptied; it is the pad's row",
            "(labels != pad_id)[:, None]",
            "(torch.arange(vocab_size) != pad_id)",
        ),
        Wrong("pad_id is an argument: it need not be 0", "labels != pad_id", "labels != 0"),
    ),
)


def rates_by_search():
    """The formula of section 5.3 at every step of a long training."""

    def rate(step, d_model=100, warmup=400):
        return 1000 * d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)

    steps = range(1, 5000)
    return {
        "step of the highest rate": max(steps, key=rate),
        "highest rate, in thousandths": max(map(rate, steps)),
        "at step 100, in thousandths": rate(100),
        "at step 1600, in thousandths": rate(1600),
        "highest rate at width 400, in thousandths": max(rate(i, d_model=400) for i in steps),
        "highest rate with warm-up 1600, in thousandths": max(rate(i, warmup=1600) for i in steps),
    }


RATES = Exercise(
    id="13.3",
    title="Up and down in your head",
    kind="predict",
    difficulty=2,
    minutes=8,
    task="""
        The paper's schedule with width 100 and a warm-up of 400. Predict its peak and two other
        rates, in thousandths (0.001 is 1). Then change one number: width 400, or warm-up 1600. The
        numbers are squares, so no computer is needed.
        """,
    stub="""
        rates = {
            "step of the highest rate": ...,
            "highest rate, in thousandths": ...,
            "at step 100, in thousandths": ...,
            "at step 1600, in thousandths": ...,
            "highest rate at width 400, in thousandths": ...,
            "highest rate with warm-up 1600, in thousandths": ...,
        }
        """,
    hints=(
        "Two terms, one rising and one falling: where do they meet?",
        "The peak is (width * warmup)^-0.5. Before it the rate is linear, after it step^-0.5.",
        "All numbers are squares: take the roots first. Then ask what a factor of 4 does to each.",
    ),
    solution="""
        rates = {
            "step of the highest rate": 400,
            "highest rate, in thousandths": 5.0,
            "at step 100, in thousandths": 1.25,
            "at step 1600, in thousandths": 2.5,  # step times 4: half
            "highest rate at width 400, in thousandths": 2.5,  # width times 4: half
            "highest rate with warm-up 1600, in thousandths": 2.5,  # warm-up times 4: half
        }
        """,
    explanation="""
        The peak of 1/200 falls with the root of the width and of the warm-up: a longer warm-up is
        also a lower peak. Whoever changes only `warmup` to "start gently" has changed the rate of
        the whole first part of the training.
        """,
    steps=parts(rates_by_search),
    wrong=(
        Wrong("the two terms meet at step = warmup", 'rate": 400', 'rate": 1'),
        Wrong("warm-up ends at step 400, not at the width", 'rate": 400', 'rate": 100'),
        Wrong("the width is part of it: divide by its root, 10", "5.0", "50.0"),
        Wrong("the width is under the root as well", "5.0", "0.5"),
        Wrong("step 100 is a quarter of the way up: the rise is linear", "1.25", "2.5"),
        Wrong("that is the falling term: the smaller one counts", "1.25", "10.0"),
        Wrong("the unit is a thousandth: 0.001 is 1", "5.0", "0.005"),
        Wrong("that is the rising term: the smaller one counts", "2.5,  # step", "20.0,  # step"),
        Wrong("four times the step is half the rate", "2.5,  # step", "1.25,  # step"),
        Wrong("four times the width is half the rate", "2.5,  # width", "1.25,  # width"),
        Wrong("a wider model gets a lower rate", "2.5,  # width", "10.0,  # width"),
        Wrong("the peak depends on the warm-up", "2.5,  # warm", "5.0,  # warm"),
        Wrong("a longer warm-up has a lower peak", "2.5,  # warm", "10.0,  # warm"),
    ),
)


def whole_batch(pieces, pad_id):
    """All pieces as one batch, by PyTorch."""
    logits, labels = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return F.cross_entropy(logits, labels, ignore_index=pad_id)


def pieces_of(*labels, pad_id=0, size=1):
    """Pieces of a batch with made-up logits, six tokens wide."""
    made = torch.arange(6.0 * sum(map(len, labels))).reshape(-1, 6).square() % 5 * size
    logits = made.split([len(row) for row in labels])
    pieces = [(piece, tensor(row)) for piece, row in zip(logits, labels, strict=True)]
    return {"pieces": pieces, "pad_id": pad_id}


def gradients(answer, pieces, pad_id):
    """The loss's gradient at each piece's logits."""
    inputs = [logits.requires_grad_() for logits, _ in pieces]
    loss = answer(pieces, pad_id) + 0 * sum(logits.sum() for logits in inputs)
    return list(torch.autograd.grad(loss, inputs))


UNEVEN = pieces_of([3, 0], [2, 5, 1])

PIECES = Exercise(
    id="13.4",
    title="Broken Transformer: the same batch, another loss",
    kind="mend",
    difficulty=3,
    minutes=12,
    task="""
        A batch that does not fit into memory is run in pieces, and the gradients are added up.
        **Symptom:** the loss of the pieces is not that of the whole batch, and the model cares more
        for short sentences; with pieces of equally many tokens nothing is wrong. **Tool:** the same
        few rows once whole and once in pieces, with very different lengths.
        """,
    stub='''
        def loss_in_pieces(pieces, pad_id):
            """The mean loss of a token over all pieces.

            pieces: a list of (logits (tokens, vocab), labels (tokens,)); pads are not counted.
            """
            means = [F.cross_entropy(*piece, ignore_index=pad_id) for piece in pieces]
            return sum(means) / len(means)
        ''',
    hints=(
        "A piece of one token and a piece of a hundred: how much does each token weigh here?",
        "(sum of all tokens' losses) / (number of all tokens), over all pieces together",
        "reduction='sum' for each piece; count (labels != pad_id) in all pieces; divide once",
    ),
    solution="""
        def loss_in_pieces(pieces, pad_id):
            tokens = sum((labels != pad_id).sum() for _, labels in pieces)
            losses = [
                F.cross_entropy(logits, labels, ignore_index=pad_id, reduction="sum")
                for logits, labels in pieces
            ]
            return sum(losses) / tokens
        """,
    explanation="""
        A mean of means is the mean only if all parts are equally large. The number of tokens of the
        whole batch must be known before the first piece runs backward. And a piece of pads alone
        has no mean at all: 0 / 0. This bug stood in widely used training code until 2024.
        """,
    steps=(
        Step("one piece of one token", pieces_of([3]), whole_batch),
        Step("two pieces of three tokens", pieces_of([3, 1, 4], [2, 5, 1]), whole_batch),
        Step("one token, then four", pieces_of([3], [2, 5, 1, 4]), whole_batch),
        Step("pads in both", pieces_of([3, 0, 0], [2, 5, 4, 0, 0]), whole_batch),
        Step("a piece of pads alone", pieces_of([3, 1, 5], [0, 0]), whole_batch),
        Step("pad 5", pieces_of([3, 5, 0], [2, 1, 4, 5, 5], pad_id=5), whole_batch),
        Step(
            "pads in front and between", pieces_of([0, 0, 3], [2, 0, 4, 0, 1], [5, 5]), whole_batch
        ),
        Step("logits of 1000 and more", pieces_of([3, 1], [2, 5, 4], size=400), whole_batch),
        Step("a gradient reaches every piece", UNEVEN, partial(gradients, whole_batch), gradients),
    ),
    wrong=(
        Wrong("the sum of all losses: divide by the number of tokens", " / tokens", ""),
        Wrong("divided by the number of pieces, not of tokens", " / tokens", " / len(pieces)"),
        Wrong("only the last piece counts", "_, labels in pieces)", "_, labels in pieces[-1:])"),
        Wrong("the pads were counted as tokens", "(labels != pad_id).sum()", "len(labels)"),
        Wrong("the loss of the pads was added", ", ignore_index=pad_id", ""),
        Wrong(
            "pieces of pads were left out, but the mean is still one of means",
            "sum(losses) / tokens",
            "torch.stack([F.cross_entropy(*p, ignore_index=pad_id) for p in pieces]).nanmean()",
        ),
        Wrong(
            "0 times NaN is NaN: add up sums", ', reduction="sum")', ") * (labels != pad_id).sum()"
        ),
        Wrong(
            "so many first places as there are tokens were read: a pad may stand in front",
            "for logits, labels in pieces",
            "for logits, labels in ([t[: p[1].ne(pad_id).sum()] for t in p] for p in pieces)",
        ),
        Wrong(
            "the logarithm of a share of 0 is infinite: take cross_entropy",
            "F.cross_entropy(logits",
            "F.nll_loss(logits.softmax(-1).log()",
        ),
        Wrong("pad_id is an argument: it need not be 0", "ignore_index=pad_id", "ignore_index=0"),
        Wrong("no gradient: the sums were detached", "sum(losses) /", "sum(losses).detach() /"),
        Wrong(
            "only the last piece learns",
            "sum(losses)",
            "(sum(losses).detach() + losses[-1] - losses[-1].detach())",
        ),
    ),
)
