"""Exercises of lesson 10: positional encoding."""

import math

import torch
from torch import tensor

from tfm_lib.attention import sinusoidal_encoding
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def waves_by_library():
    """What the predictions come to."""
    narrow, wide = sinusoidal_encoding(2, 4), sinusoidal_encoding(30, 32).double()
    return {
        "position 0 at width 4": narrow[0].tolist(),
        "norm of an encoding of width 32": wide[7].norm().item(),
        "steps until the slow pair of width 4 comes round": 2 * math.pi * 10000 ** (2 / 4),
        "PE(5).PE(8) equals PE(20).PE(23)": bool(
            (wide[5] @ wide[8] - wide[20] @ wide[23]).abs() < 1e-6
        ),
    }


WAVES = Exercise(
    id="10.1",
    title="Clock hands",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Sinusoids as in the lesson, sine and cosine in turns. Predict the encoding of position 0 at
        width 4; the norm (the root of the sum of squares) of any encoding of width 32; after how
        many steps the **slow** pair of width 4 comes round (to the nearest ten); and whether the
        dot product of positions 5 and 8 equals that of 20 and 23.
        """,
    stub="""
        waves = {
            "position 0 at width 4": [..., ..., ..., ...],
            "norm of an encoding of width 32": ...,
            "steps until the slow pair of width 4 comes round": ...,
            "PE(5).PE(8) equals PE(20).PE(23)": ...,  # True or False
        }
        """,
    hints=(
        "What are sine and cosine of 0? Each pair adds sin^2 + cos^2 to the squared length.",
        "The slow pair turns by 1/10000^(2/4) a step; a round is 2 pi. What if both vectors turn?",
        "0 and 1 in turns; the root of 16; 2 pi * 100; the dot product depends on the distance",
    ),
    solution="""
        waves = {
            "position 0 at width 4": [0.0, 1.0, 0.0, 1.0],
            "norm of an encoding of width 32": 4.0,
            "steps until the slow pair of width 4 comes round": 628,
            "PE(5).PE(8) equals PE(20).PE(23)": True,
        }
        """,
    explanation="""
        16 pairs add 1 each: the squared length is 16. A round of the slow pair takes 2 pi * 100
        steps. Moving both positions by 15 turns both vectors by the same angles, and turning both
        changes no dot product.
        """,
    steps=tuple(
        Step(step.asks, step.given, step.want, step.run, 5.0 if "steps" in step.asks else 1e-4)
        for step in parts(waves_by_library)
    ),
    wrong=(
        Wrong("the cosine of 0 is 1", "[0.0, 1.0, 0.0, 1.0]", "[0.0, 0.0, 0.0, 0.0]"),
        Wrong("sine comes first in each pair", "[0.0, 1.0, 0.0, 1.0]", "[1.0, 0.0, 1.0, 0.0]"),
        Wrong("sine and cosine in turns", "[0.0, 1.0, 0.0, 1.0]", "[0.0, 0.0, 1.0, 1.0]"),
        Wrong("that is the squared norm", "4.0,", "16.0,"),
        Wrong("32 numbers are 16 pairs, and each pair adds 1", "4.0,", "5.657,"),
        Wrong("a round is 2 pi, not 1", "628", "100"),
        Wrong("the slow pair of width 4 has exponent 2/4", "628", "62832"),
        Wrong("half a round turns the hand about", "628", "314"),
        Wrong("that is the fast pair", "628", "6.283"),
        Wrong("only the distance counts, and it is 3 both times", "True", "False"),
    ),
)


def places_by_loop(token_ids, pad_id):
    """Row by row: tokens are counted from 0, a pad gets 0."""
    rows = []
    for row in token_ids.tolist():
        seen, places = 0, []
        for token in row:
            places.append(0 if token == pad_id else seen)
            seen += token != pad_id
        rows.append(places)
    return tensor(rows)


PADS = tensor([[0, 6, 0, 0, 6, 8, 0], [4, 4, 0, 4, 0, 0, 5], [0, 0, 0, 0, 0, 0, 0]]).T.clone().T

PLACES = Exercise(
    id="10.2",
    title="Positions behind pads",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        When several texts are continued at once, pads stand at the **left**, so that all texts end
        at the same place. Then `torch.arange` gives a short text the wrong positions. Count the
        tokens of each row from 0. A pad gets 0, wherever it stands: nobody reads it.
        """,
    stub='''
        def positions_of(token_ids, pad_id):
            """token_ids (batch, length) -> positions, integers of the same shape."""
            return ...
        ''',
    hints=(
        "How many tokens stand up to here? That is one more than the position.",
        "position = (running count of tokens) - 1, and not below 0",
        "(token_ids != pad_id), cumulative sum along the row, minus 1, then 0 at the pads",
    ),
    solution="""
        def positions_of(token_ids, pad_id):
            is_token = token_ids != pad_id  # (batch, length)
            return (is_token.cumsum(dim=1) - 1).masked_fill(~is_token, 0)
        """,
    explanation="""
        A running sum of truth values counts. The same line serves pads at the right, at the left
        and in between. With rotary or relative positions the distances come out right even with
        `arange`, and only the mask is needed.
        """,
    steps=(
        Step("no pads: 0, 1, 2", {"token_ids": tensor([[5, 6, 7]]), "pad_id": 0}, places_by_loop),
        Step(
            "pads at the left", {"token_ids": tensor([[0, 0, 5, 6]]), "pad_id": 0}, places_by_loop
        ),
        Step(
            "pads at the right", {"token_ids": tensor([[5, 6, 0, 0]]), "pad_id": 0}, places_by_loop
        ),
        Step("pads on all sides", {"token_ids": PADS, "pad_id": 0}, places_by_loop),
        Step(
            "two rows, pad 9",
            {"token_ids": tensor([[9, 4, 0, 4], [4, 9, 3, 9]]), "pad_id": 9},
            places_by_loop,
        ),
    ),
    wrong=(
        Wrong("positions begin at 0: one less", " - 1)", ")"),
        Wrong(
            "pads were counted as well",
            "is_token.cumsum(dim=1)",
            "torch.ones_like(token_ids).cumsum(dim=1)",
        ),
        Wrong(
            "a pad at the left got -1, which is no row of a table",
            "(is_token.cumsum(dim=1) - 1).masked_fill(~is_token, 0)",
            "is_token.cumsum(dim=1) - 1",
        ),
        Wrong(
            "a pad at the right goes on with the last position",
            ".masked_fill(~is_token, 0)",
            ".clamp(min=0)",
        ),
        Wrong(
            "only the pads in front were left out of the count, not those between",
            "(is_token.cumsum(dim=1) - 1)",
            "(torch.arange(token_ids.size(1)) - is_token.int().argmax(dim=1)[:, None])",
        ),
        Wrong("counted down the batch, not along the row", "cumsum(dim=1)", "cumsum(dim=0)"),
        Wrong("pad_id is an argument: it need not be 0", "token_ids != pad_id", "token_ids != 0"),
        Wrong(
            "positions are integers: they choose rows of a table",
            "~is_token, 0)",
            "~is_token, 0).float()",
        ),
        Wrong(
            "counting starts again behind each pad: pads between are passed over",
            "(is_token.cumsum(dim=1) - 1)",
            "(lambda c: c - c.masked_fill(is_token, 0).cummax(1)[0] - 1)(is_token.cumsum(1))",
        ),
        Wrong(
            "the input was changed: a pad is written in place",
            "is_token = token_ids != pad_id",
            "token_ids[token_ids == pad_id] = -1\n    is_token = token_ids != -1",
        ),
        Wrong(
            "counted from the right",
            "(is_token.cumsum(dim=1) - 1)",
            "(is_token.flip(1).cumsum(dim=1).flip(1) - 1)",
        ),
        Wrong(
            "all rows were counted as one",
            "is_token.cumsum(dim=1)",
            "is_token.flatten().cumsum(0).view(is_token.shape)",
        ),
    ),
)


def stamped(x, encoding, start):
    """Position by position: each vector plus its own row of the table."""
    return torch.stack([x[:, i] + encoding[start + i] for i in range(x.size(1))], dim=1)


def one_by_one(answer, x, encoding, start):
    """Hand in one position at a time, as decoding does."""
    steps = [answer(x[:, i : i + 1], encoding, start + i) for i in range(x.size(1))]
    return torch.cat(steps, dim=1)


def all_and_one_by_one(answer, x, encoding, start):
    """How far writing token by token is from reading all at once."""
    whole = answer(x, encoding, start)
    return float((one_by_one(answer, x, encoding, start) - whole).abs().max())


def slopes(answer, x, encoding, start):
    """The gradient of the first column: summed at x, and at each row of the table."""
    total = answer(x.requires_grad_(), encoding.requires_grad_(), start)[..., 0].sum()
    at_x, at_table = torch.autograd.grad(total + 0 * (x.sum() + encoding.sum()), [x, encoding])
    return [at_x.sum().item(), at_table[:, 0].tolist()]


TABLE = tensors(encoding=[[0, 10], [1, 20], [2, 30], [3, 40], [4, 50]])
WORDS = tensors(x=[[[1, 1], [2, 2], [3, 3]], [[4, 4], [5, 5], [6, 6]]])

START = Exercise(
    id="10.3",
    title="Broken Transformer: every new word is the first",
    kind="mend",
    difficulty=1,
    minutes=8,
    task="""
        **Symptom:** the model scores well when it reads a whole text, and writes rubbish when it
        writes word by word, from the second word on. **Tool:** run the same text in one go, then
        position by position, and compare the first place where the two differ.
        """,
    stub='''
        def add_positions(x, encoding, start):
            """x (batch, length, d_model); encoding (max_len, d_model), a row for each position;
            start: the position of x's first token. Returns the shape of x.
            """
            return x + encoding[: x.size(1)]
        ''',
    hints=(
        "Writing word by word, x has length 1 each time. Which row does it get?",
        "The token at place i of x stands at position start + i.",
        "rows from start up to, but not including, start + length",
    ),
    solution="""
        def add_positions(x, encoding, start):
            return x + encoding[start : start + x.size(1)]
        """,
    explanation="""
        In training start is always 0, so no loss can show this bug. "All at once equals one by one"
        is the test that finds it, and it finds many others in decoding and caching: lesson 14
        leans on it.
        """,
    steps=(
        Step("a text from position 0", {**WORDS, **TABLE, "start": 0}, stamped),
        Step("one word at position 2", {**tensors(x=[[[1, 1]]]), **TABLE, "start": 2}, stamped),
        Step("three words from position 1", {**WORDS, **TABLE, "start": 1}, stamped),
        Step("up to the table's last row", {**WORDS, **TABLE, "start": 2}, stamped),
        Step(
            "a gradient reaches 6 words, and a row for both sentences",
            {**WORDS, **TABLE, "start": 1},
            [6.0, [0.0, 2.0, 2.0, 2.0, 0.0]],
            slopes,
        ),
        Step("all at once = one by one", {**WORDS, **TABLE, "start": 2}, 0.0, all_and_one_by_one),
    ),
    wrong=(
        Wrong(
            "the same row for all of x, not one for each place",
            "encoding[start : start + x.size(1)]",
            "encoding[start]",
        ),
        Wrong(
            "one row too far", "[start : start + x.size(1)]", "[start + 1 : start + 1 + x.size(1)]"
        ),
        Wrong("all rows from start on, not length many", "[start : start + x.size(1)]", "[start:]"),
        Wrong(
            "the number was added, not the row of the table",
            "encoding[start : start + x.size(1)]",
            "start",
        ),
        Wrong("the position is multiplied; it must be added", "x + encoding", "x * encoding"),
        Wrong("the last rows were taken", "[start : start + x.size(1)]", "[-x.size(1) :]"),
        Wrong("the end does not move with the start", "start + x.size(1)]", "x.size(1)]"),
        Wrong("as many rows as sentences, not as words", "start + x.size(1)", "start + x.size(0)"),
        Wrong(
            "the table was rolled the wrong way",
            "encoding[start : start + x.size(1)]",
            "encoding.roll(start, 0)[: x.size(1)]",
        ),
        Wrong("the words are cut off from the gradient", "x + enc", "x.detach() + enc"),
        Wrong(
            "the table is cut off: it can no longer learn",
            "x + encoding[",
            "x + encoding.detach()[",
        ),
        Wrong(
            "x was changed in place",
            "return x + encoding[start : start + x.size(1)]",
            "x += encoding[start : start + x.size(1)]\n    return x",
        ),
    ),
)


def nearest_by_loops(base, d_model, length):
    """How close two different positions come, pair by pair, in plain numbers."""
    waves = [1 / base ** (2 * i / d_model) for i in range(d_model // 2)]
    points = [[f(p * w) for w in waves for f in (math.sin, math.cos)] for p in range(length)]
    gap = min(math.dist(points[p], points[q]) for p in range(length) for q in range(p))
    return {"gap": gap, "verdict": "holds" if gap > 0.1 else "does not hold as stated"}


def pairs(base, d_model, length):
    """What a step of the experiment hands in."""
    return {"base": base, "d_model": d_model, "length": length}


JUDGE = Exercise(
    id="10.4",
    title="Judge: every position has an encoding of its own",
    kind="judge",
    difficulty=3,
    minutes=20,
    task="""
        Is that so for every base and width? Measure it: the smallest distance between the
        encodings of two different positions below `length`, to 0.0001, for a `base` in place of
        10000 and an even `d_model`. Call the claim "holds" if the distance is above 0.1 (so that a
        layer can tell the two apart), else "does not hold as stated".
        """,
    stub='''
        def judge_encoding(base, d_model, length):
            """Returns {"gap": the smallest distance, "verdict": one of the two}."""
            return {"gap": ..., "verdict": ...}
        ''',
    hints=(
        "A table of all encodings first, then all distances between its rows, but one kind.",
        "angle = p / base^(2i / d_model); torch.cdist gives all distances; the diagonal is 0",
        "float64; cdist + a large number on the diagonal; .min(); the order of columns is free",
    ),
    solution="""
        def judge_encoding(base, d_model, length):
            even = torch.arange(0, d_model, 2, dtype=torch.float64)
            angle = torch.arange(length, dtype=torch.float64)[:, None] / base ** (even / d_model)
            encoding = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (length, d_model)
            gaps = (encoding[:, None] - encoding).norm(dim=-1) + 9 * torch.eye(length)
            gap = gaps.min().item()
            return {"gap": gap, "verdict": "holds" if gap > 0.1 else "does not hold as stated"}
        """,
    explanation="""
        With one pair the hand comes round: positions 0 and 44 are nearly the same (44 is close to 7
        rounds). With two pairs of very different speed they stay apart for long. What matters is
        that no number of steps is nearly a whole number of rounds for all pairs at once.
        """,
    steps=(
        Step("one pair, 7 positions: nearly a round", pairs(10000, 2, 7), nearest_by_loops),
        Step("one pair, 44 positions: 0 to 43", pairs(10000, 2, 44), nearest_by_loops),
        Step("one pair, 45: 44 steps are nearly 7 rounds", pairs(10000, 2, 45), nearest_by_loops),
        Step("two pairs, base 20", pairs(20, 4, 50), nearest_by_loops),
        Step("four pairs, base 10000", pairs(10000, 8, 50), nearest_by_loops),
    ),
    wrong=(
        Wrong("the diagonal was left in: a position is no other", " + 9 * torch.eye(length)", ""),
        Wrong(
            "only the sines: most values come twice a turn",
            "[angle.sin(), angle.cos()]",
            "[angle.sin(), angle.sin()]",
        ),
        Wrong(
            "the largest distance was taken", "gaps.min()", "(gaps - 18 * torch.eye(length)).max()"
        ),
        Wrong("only neighbours were compared", "gaps.min()", "gaps.diagonal(1).min()"),
        Wrong("the base is an argument", "/ base **", "/ 10000 **"),
        Wrong("the verdict is turned round", "gap > 0.1", "gap < 0.1"),
        Wrong(
            "the exponent is 2i / d_model, the same for both of a pair",
            "even / d_model",
            "even / 2 / d_model",
        ),
        Wrong("positions end before length", "torch.arange(length,", "torch.arange(length - 1,"),
        Wrong(
            "the angle is divided by the power, not multiplied",
            "[:, None] / base",
            "[:, None] * base",
        ),
        Wrong("the mean distance was taken", "gaps.min()", "gaps.mean()"),
        Wrong(
            "the sum of the differences is not the distance", "norm(dim=-1)", "norm(p=1, dim=-1)"
        ),
        Wrong("the squared distance was taken", "gaps.min().item()", "gaps.min().item() ** 2"),
    ),
)
