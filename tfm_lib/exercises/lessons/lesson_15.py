"""Exercises of lesson 15: what it costs."""

import gc
import math

import torch
from torch import Tensor, nn, tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def multiplications(run):
    """What PyTorch's counter counts; it counts a multiplication and an addition for each."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def costs_by_torch():
    """What the predictions come to, counted while PyTorch works."""
    x, step = torch.ones(6, 4), torch.ones(4, 4)
    convolution = nn.Conv1d(4, 4, 3, padding=1, bias=False)
    pairs = sum(1 for i in range(6) for j in range(6) if 0 <= i - j <= 1)
    return {
        "attention": multiplications(lambda: (x @ x.T) @ x),
        "recurrence": multiplications(lambda: [row @ step for row in x.unsqueeze(1)]),
        "convolution": multiplications(lambda: convolution(x.T[None])),
        "attention of 12 positions": multiplications(lambda: (t := torch.ones(12, 4)) @ t.T @ t),
        "windowed attention": 2 * 4 * pairs,
        "attention costs as much as recurrence at length": next(
            n for n in range(1, 9) if 2 * n * n * 4 == n * 4 * 4
        ),
    }


COUNT = Exercise(
    id="15.1",
    title="Multiply in your head",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Six positions of width 4. Count the multiplications alone. Attention: the scores and the
        weighted sum, no projections. Recurrence: only the state times its 4 x 4 matrix at each
        step; the product with the input, which the lesson counted too, is left out. Convolution:
        kernel 3, width 4 in and out, six outputs; products with the padding count. Windowed
        attention: each position sees itself and the one before it, the first only itself. The
        numbers are exact, nothing is rounded.
        """,
    stub="""
        costs = {
            "attention": ...,
            "recurrence": ...,
            "convolution": ...,
            "attention of 12 positions": ...,
            "windowed attention": ...,
            "attention costs as much as recurrence at length": ...,
        }
        """,
    hints=(
        "How many multiplications has one score? How many scores? And the second product?",
        "2 n^2 d; n d^2; k n d^2; for the window count the pairs (i, j): each costs 2 d",
        "2 * 36 * 4; 6 * 16; 3 * 6 * 16; four times the first; 11 pairs; 2 n^2 d = n d^2",
    ),
    solution="""
        costs = {
            "attention": 288,
            "recurrence": 96,
            "convolution": 288,
            "attention of 12 positions": 1152,
            "windowed attention": 88,
            "attention costs as much as recurrence at length": 2,
        }
        """,
    explanation="""
        Attention pays for pairs, recurrence for matrices. With one matrix a step they are equal
        where 2 n = d; with the input's matrix too, as in the lesson, where n = d. Below that length
        attention is the cheaper one, above it recurrence.
        """,
    steps=parts(costs_by_torch),
    wrong=(
        Wrong("two products: scores, then weighted sum", '"attention": 288', '"attention": 144'),
        Wrong("a score needs d multiplications", '"attention": 288', '"attention": 72'),
        Wrong("a matrix times a vector is d * d", '"recurrence": 96', '"recurrence": 24'),
        Wrong("each tap is a d x d matrix", '"convolution": 288', '"convolution": 72'),
        Wrong("one tap only: the kernel has three", '"convolution": 288', '"convolution": 96'),
        Wrong("twice as long is four times the pairs", "1152", "576"),
        Wrong("the first position has nothing before it", 'attention": 88', 'attention": 96'),
        Wrong("each pair costs in both products", 'attention": 88', 'attention": 44'),
        Wrong("set 2 n^2 d equal to n d^2", 'length": 2', 'length": 4'),
        Wrong("n is half of d, not twice", 'length": 2', 'length": 8'),
        Wrong("that is one step, and there are six", '"recurrence": 96', '"recurrence": 16'),
    ),
)


def softmax_average(pieces):
    """The same at once, by PyTorch."""
    scores, values = (torch.cat(column) for column in zip(*pieces, strict=True))
    return scores.softmax(dim=0) @ values


def one_by_one(answer, pieces):
    """Give the pieces to the answer; each is overwritten when the next one is asked for."""

    def stream():
        held = ()
        for piece in pieces:
            for gone in held:
                gone.fill_(torch.nan)
            held = tuple(part.clone() for part in piece)
            yield held

    return answer(stream())


def tensors_held(answer, pieces):
    """How many numbers the answer's tensors hold when the last piece is gone; up to 40 count as 0.

    Three things and what the last round of a loop leaves behind stay far below 40.
    """
    counts = []

    def alive():
        return sum(each.numel() for each in gc.get_objects() if type(each) is Tensor)

    def counted(stream):
        before = alive()
        yield from stream
        counts.append(alive() - before)

    one_by_one(lambda stream: answer(counted(stream)), pieces)
    return tensor(counts[0] if counts and counts[0] > 40 else 0)


def asked(asks, want, *pieces, tolerance=1e-4, double=False):
    """A step; each piece: scores, values. The tolerance allows for rounding at 1000."""
    dtype, at_once = (torch.float64, 9) if double else (torch.float32, math.inf)
    given = [tuple(tensor(part, dtype=dtype) for part in piece) for piece in pieces]
    return Step(asks, {"pieces": given}, want, one_by_one, tolerance, at_once)


STREAM = Exercise(
    id="15.2",
    title="A softmax that never sees all its scores",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        One query's scores and values come in pieces, each once, and a piece is gone when the next
        one comes. Return the average of all values, weighted by the softmax over **all** scores.
        Keep three things only: the largest score so far, the sum of the exponentials, and the
        weighted sum of the values, both relative to that largest score. Scores lie between -1000
        and 1000.
        """,
    stub='''
        def streamed_average(pieces):
            """pieces: an iterator over (scores (keys,), values (keys, d_v)) -> (d_v,)."""
            return ...
        ''',
    hints=(
        "A new piece brings a larger score. By what factor are the sums so far too large?",
        "exp(s - old_top) = exp(s - new_top) * exp(new_top - old_top)",
        "new_top = max(top, scores.max()); both sums *= exp(top - new_top), then add the piece's",
    ),
    solution="""
        def streamed_average(pieces):
            top, total, weighted = torch.tensor(-torch.inf), 0.0, 0.0
            for scores, values in pieces:
                new_top = torch.maximum(top, scores.max())
                shrink = (top - new_top).exp()
                shares = (scores - new_top).exp()
                total = total * shrink + shares.sum()
                weighted = weighted * shrink + shares @ values
                top = new_top
            return weighted / total
        """,
    explanation="""
        The largest score can only be known at the end, so what was added up before is corrected
        whenever it grows. Chunked attention is this for every query at once: exact, with memory for
        one piece. FlashAttention is the same sum, arranged for a GPU's fast memory.
        """,
    steps=(
        asked("one piece, one key: its value", tensor([5.0, 7.0]), ([3], [[5, 7]])),
        asked(
            "equal scores in two pieces: the plain mean",
            tensor([3.0, 2.0]),
            ([2], [[3, 0]]),
            ([2, 2], [[6, 3], [0, 3]]),
        ),
        asked("the largest one last", softmax_average, ([0, 1], [[4], [8]]), ([3], [[-2]])),
        asked(
            "the largest score first, then a smaller one, then a middle one",
            softmax_average,
            ([4], [[5]]),
            ([1, 0], [[90], [20]]),
            ([3], [[-7]]),
        ),
        asked(
            "scores around 1000: no overflow",
            softmax_average,
            ([1000], [[2]]),
            ([1001, 999], [[4], [9]]),
            tolerance=0.01,
        ),
        asked(
            "scores around -1000: no underflow",
            softmax_average,
            ([-1000], [[2]]),
            ([-1001, -999], [[4], [9]]),
            tolerance=0.01,
        ),
        asked("0, then 1000", softmax_average, ([0], [[2]]), ([1000, 0], [[4], [9]])),
        asked("1000, then -1000", softmax_average, ([0, 1000], [[2], [5]]), ([-1000], [[9]])),
        asked("1000, 0, 0", softmax_average, ([1000], [[5]]), ([0], [[9]]), ([0], [[7]])),
        asked(
            "in float64, and no tensor larger than a piece",
            softmax_average,
            ([1, 0], [[3, 1, 4], [1, 5, 9]]),
            ([2, 4, 3], [[2, 6, 5], [3, 5, 8], [9, 7, 9]]),
            double=True,
        ),
        Step(
            "what is held after 50 pieces: three things, no list of copies",
            {"pieces": [(tensor([k, 1.0, 2.0]), torch.ones(3, 3) * k) for k in range(50)]},
            tensor(0),
            tensors_held,
        ),
    ),
    wrong=(
        Wrong("the sum of the exponentials is not corrected", "total * shrink", "total"),
        Wrong("the weighted sum is not corrected", "weighted * shrink", "weighted"),
        Wrong("the factor is turned round: it must shrink", "top - new_top)", "new_top - top)"),
        Wrong("the largest score is not remembered", "        top = new_top", "        pass"),
        Wrong(
            "the mean of the pieces' averages: a piece counts by its share of the exponentials",
            """
            def streamed_average(pieces):
                averages = [scores.softmax(0) @ values for scores, values in pieces]
                return sum(averages) / len(averages)
            """,
        ),
        Wrong(
            "a piece is gone when the next one comes: they were collected",
            """
            def streamed_average(pieces):
                scores, values = zip(*pieces)
                return torch.cat(scores).softmax(0) @ torch.cat(values)
            """,
        ),
        Wrong(
            "copies of all pieces at once: keep three things only",
            """
            def streamed_average(pieces):
                kept = [(scores.clone(), values.clone()) for scores, values in pieces]
                scores, values = zip(*kept)
                return torch.cat(scores).softmax(0) @ torch.cat(values)
            """,
        ),
        Wrong(
            "a list of copies: keep three things only",
            """
            def streamed_average(pieces):
                kept = [(scores.clone(), values.clone()) for scores, values in pieces]
                top = max(scores.max() for scores, _ in kept)
                total = sum((scores - top).exp().sum() for scores, _ in kept)
                return sum((scores - top).exp() @ values for scores, values in kept) / total
            """,
        ),
        Wrong(
            "the pieces come once: nothing is left for a second walk",
            """
            def streamed_average(pieces):
                top = max(scores.max() for scores, _ in pieces)
                total = weighted = torch.zeros(())
                for scores, values in pieces:
                    shares = (scores - top).exp()
                    total, weighted = total + shares.sum(), weighted + shares @ values
                return weighted / total
            """,
        ),
        Wrong(
            "exponentials without the largest score taken off overflow",
            """
            def streamed_average(pieces):
                total = weighted = 0
                for scores, values in pieces:
                    total, weighted = total + scores.exp().sum(), weighted + scores.exp() @ values
                return weighted / total
            """,
        ),
        Wrong("before the first piece the largest score is minus infinity", "-torch.inf", "0.0"),
        Wrong(
            "the first piece's largest score is kept: a larger one may follow",
            "torch.maximum(top, scores.max())",
            "scores.max() if top.isinf() else top",
        ),
        Wrong(
            "the piece's own largest score, where it must be the largest so far",
            "torch.maximum(top, scores.max())",
            "scores.max()",
        ),
        Wrong("weighted, but not divided by the sum", "weighted / total", "weighted"),
        Wrong("keep the dtype", "weighted / total", "(weighted / total).float()"),
    ),
)


def causal_by_torch(query, key, value, size):
    """All queries at once."""
    return F.scaled_dot_product_attention(query, key, value, is_causal=True)


ROWS = tensors(
    query=[[1, 0], [0, 2], [1, 1], [2, 0], [0, 1]],
    key=[[0, 1], [2, 0], [1, 1], [0, 3], [3, 1]],
    value=[[1, 0, 2], [0, 4, 1], [5, 0, 0], [0, 3, 7], [8, 1, 0]],
)
FAR = tensors(  # what is seen scores -30,000, what is hidden 30,000
    query=[[600, 1, 2, 0]] * 3,
    key=[[-100, 0, 3, 0], [-100, 1, 0, 0], [100, 0, 0, 2]],
    value=[[1, 0, 2], [0, 4, 1], [5, 0, 0]],
)
LONG = tensors(
    query=[[1], [0], [2], [1], [3], [0], [2]],
    key=[[2], [0], [1], [3], [1], [2], [0]],
    value=[[1], [0], [4], [9], [2], [7], [5]],
)


def first(count):
    return {name: rows[:count] for name, rows in ROWS.items()}


CHUNKS = Exercise(
    id="15.3",
    title="Broken Transformer: good for one chunk",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        Causal attention, `size` queries at a time: only `size` rows exist at once, of the scores
        and of the mask. Do without `scaled_dot_product_attention`. **Symptom:** texts no longer
        than a chunk are right; in longer ones the later chunks have forgotten nearly everything.
        **Tool:** compare with all queries at once, row by row, and print the mask of the second
        chunk.
        """,
    stub='''
        def attend_in_chunks(query, key, value, size):
            """query, key (length, d_k), value (length, d_v) -> (length, d_v)."""
            rows = []
            for start in range(0, len(query), size):
                scores = query[start : start + size] @ key.T / key.size(1) ** 0.5
                future = torch.ones_like(scores, dtype=torch.bool).triu(1)
                rows.append(scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ value)
            return torch.cat(rows)
        ''',
    hints=(
        "Row 0 of a chunk is not position 0 of the text. Which position is it?",
        "row r of the chunk is position start + r; it may see the keys 0 to start + r",
        "triu(k) keeps the entries with column - row >= k",
    ),
    solution="""
        def attend_in_chunks(query, key, value, size):
            rows = []
            for start in range(0, len(query), size):
                scores = query[start : start + size] @ key.T / key.size(1) ** 0.5
                future = torch.ones_like(scores, dtype=torch.bool).triu(1 + start)
                rows.append(scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ value)
            return torch.cat(rows)
        """,
    explanation="""
        Wherever a part of the queries meets all keys, the mask's diagonal moves: in chunks, behind
        a memory, and with a cache. A triangle drawn from the corner fits the first part alone.
        """,
    steps=(
        Step("one query, chunks of two", {**first(1), "size": 2}, causal_by_torch),
        Step("two queries in one chunk", {**first(2), "size": 2}, causal_by_torch),
        Step("three queries, one at a time", {**first(3), "size": 1}, causal_by_torch),
        Step(
            "five queries, chunks of two: the last is shorter", {**ROWS, "size": 2}, causal_by_torch
        ),
        Step(
            "what is hidden scores 30,000, what is seen -30,000",
            {**FAR, "size": 2},
            causal_by_torch,
        ),
        Step(
            "seven queries, one at a time, in float64: one row of 7 at once",
            {**{name: rows.double() for name, rows in LONG.items()}, "size": 1},
            causal_by_torch,
            at_once=7,
        ),
    ),
    forbidden=("scaled_dot_product_attention",),
    wrong=(
        Wrong("the mask still starts anew in each chunk", "1 + start", "1"),
        Wrong("a position must see itself", "1 + start", "start"),
        Wrong("the whole chunk is shown, its future too", "1 + start", "size + start"),
        Wrong("nothing is hidden at all", "future, -torch.inf", "future, 0.0"),
        Wrong("the scores are not divided by the root of the width", " / key.size(1) ** 0.5", ""),
        Wrong("divided by the root of the length, not of the width", "key.size(1)", "len(key)"),
        Wrong("the last chunk is lost", "len(query), size", "len(query) - size + 1, size"),
        Wrong("-10,000 is not minus infinity: what is seen may score less", "-torch.inf", "-1e4"),
        Wrong(
            "only the chunk's own keys are seen: what came before is lost",
            """
            def attend_in_chunks(query, key, value, size):
                rows = []
                for q, k, v in zip(query.split(size), key.split(size), value.split(size)):
                    scores = q @ k.T / key.size(1) ** 0.5
                    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
                    rows.append(scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v)
                return torch.cat(rows)
            """,
        ),
        Wrong("the size is given: not always 2", "rows = []", "rows, size = [], 2"),
        Wrong(
            "a row for every query at once: the chunks are there to save that",
            """
            def attend_in_chunks(query, key, value, size):
                scores = query @ key.T / key.size(1) ** 0.5
                future = torch.ones_like(scores, dtype=torch.bool).triu(1)
                return scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ value
            """,
        ),
        Wrong(
            "attention is to be written here, not called",
            "torch.cat(rows)",
            "F.scaled_dot_product_attention(query, key, value, is_causal=True)",
        ),
    ),
)
