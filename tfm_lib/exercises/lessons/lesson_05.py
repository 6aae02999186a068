"""Exercises of lesson 05: attention."""

import math

import torch
from torch import tensor
from torch.nn import functional as F

from tfm_lib.attention import window_mask
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, slopes, tensors


def blend_by_torch():
    """What the predictions come to."""
    query, key = tensor([[1.0]]), tensor([[math.log(3.0)], [0.0]])
    value = tensor([[8.0], [0.0]])
    weights = (query @ key.T).softmax(dim=-1)
    return {
        "soft weights": weights[0].tolist(),
        "soft output": (weights @ value).item(),
        "hard output": value[weights.argmax()].item(),
        "keys that position 0 of 9 sees, window 2": int(window_mask(9, 2)[0].sum()),
    }


BLEND = Exercise(
    id="05.1",
    title="Soft, hard, local",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        A query scores ln 3 with the first key and 0 with the second; the values are 8 and 0.
        Predict the soft weights, the soft output and the hard output. And how many keys does
        position 0 of 9 see through `window_mask(9, 2)`? All numbers are exact; a fraction will do.
        """,
    stub="""
        blend = {
            "soft weights": [..., ...],
            "soft output": ...,
            "hard output": ...,
            "keys that position 0 of 9 sees, window 2": ...,
        }
        """,
    hints=(
        "The softmax shares out powers of e: of each score. What stands left of position 0?",
        "Weights: powers over their total. Soft: the weighted mean. Hard: the value of the best.",
        "3 / (3 + 1); 3/4 of 8; all of 8; positions 0, 1 and 2",
    ),
    solution="""
        blend = {
            "soft weights": [0.75, 0.25],
            "soft output": 6.0,
            "hard output": 8.0,
            "keys that position 0 of 9 sees, window 2": 3,
        }
        """,
    explanation="""
        The powers are 3 and 1, so the shares are 3/4 and 1/4, and the blend is 3/4 of 8. Hard
        attention takes the first value whole. A window of 2 would be five keys in the middle; at
        the edge half of it is missing.
        """,
    steps=parts(blend_by_torch),
    wrong=(
        Wrong("a score of 0 is not a weight of 0: take its power", "[0.75, 0.25]", "[1.0, 0.0]"),
        Wrong("the first key has the larger score", "[0.75, 0.25]", "[0.25, 0.75]"),
        Wrong("powers are no shares yet: divide by their total", "[0.75, 0.25]", "[3.0, 1.0]"),
        Wrong("the power of ln 3 is that of e", "[0.75, 0.25]", "[0.6816, 0.3184]"),
        Wrong("two keys share evenly only if their scores are equal", "[0.75, 0.25]", "[0.5, 0.5]"),
        Wrong("that is the plain mean of the values", "6.0", "4.0"),
        Wrong("the weights were given to the other values", "6.0", "2.0"),
        Wrong("a mean is divided by the total of the weights", "6.0", "24.0"),
        Wrong("hard attention hands over a value, not a blend", "8.0", "6.0"),
        Wrong("hard attention hands over the value, not its place", "8.0", "0.0"),
        Wrong("nothing stands to the left of position 0", 'window 2": 3', 'window 2": 5'),
        Wrong("it sees itself, too", 'window 2": 3', 'window 2": 2'),
        Wrong("the window ends; 9 is the length", 'window 2": 3', 'window 2": 9'),
        Wrong("a window of 2 reaches two positions to each side", 'window 2": 3', 'window 2": 1'),
    ),
)


def bilinear(query, key, w):
    """PyTorch's layer for this score, pair by pair."""
    if query.dim() > 2:
        return torch.stack([bilinear(q, k, w) for q, k in zip(query, key, strict=True)])
    pairs = [[F.bilinear(q[None], k[None], w[None])[0, 0] for k in key] for q in query]
    return torch.stack([torch.stack(row) for row in pairs])


def numbers(*shape):
    """Small whole numbers, -3 to 3, in an order without symmetry."""
    return (torch.arange(1.0, math.prod(shape) + 1) ** 2 * 3 % 7 - 3).reshape(shape)


HEADS = {"query": numbers(2, 3, 4, 2) / 4, "key": numbers(2, 3, 5, 3), "w": numbers(2, 3)}


SCORE = "query @ w @ key.transpose(-2, -1)"
ONE_DIM = 'torch.einsum("bqi,ij,bkj->bqk", query, w, key) if query.dim() > 2 else query @ w @ key.T'
OTHER_DTYPE = "query @ w @ torch.eye(w.size(1)) @"

GENERAL = Exercise(
    id="05.2",
    title="Luong's general score",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Between dot and additive stands a third score (Luong et al. 2015, section 3.1, "general"):
        $\\operatorname{score}(q, k) = q\\, W k$, with a learned matrix $W$. Query and key may have
        different widths. Score every query with every key, for any leading dimensions and any
        dtype; the gradient must reach all three. Four digits must be right.
        """,
    stub='''
        def general_score(query, key, w):
            """query (..., query_len, query_size), key (..., key_len, key_size),
            w (query_size, key_size). Returns scores (..., query_len, key_len).
            """
            return ...
        ''',
    hints=(
        "Two products. After the first, the query is as wide as the key.",
        "scores = Q W K^T",
        "(query @ w) is (..., query_len, key_size); then the dot score with key",
    ),
    solution="""
        def general_score(query, key, w):
            return query @ w @ key.transpose(-2, -1)
        """,
    explanation="""
        With W the identity it is the dot score. Lesson 07 splits W into two: with q = x W_q and
        k = x W_k the score is x W_q W_k^T x^T, so W_q W_k^T plays the part of W.
        """,
    steps=(
        Step(
            "W doubles: twice the dot score",
            tensors(query=[[1, 2]], key=[[3, 1]], w=[[2, 0], [0, 2]]),
            tensor([[10.0]]),
        ),
        Step(
            "W swaps: the first of q meets the second of k",
            tensors(query=[[1, 0]], key=[[3, 5]], w=[[0, 2], [0, 0]]),
            tensor([[10.0]]),
        ),
        Step(
            "two queries of width 2, three keys of width 3",
            tensors(
                query=[[1, 2], [0, 1]],
                key=[[1, 0, 2], [0, 1, 0], [3, 1, 1]],
                w=[[1, 2, 0], [0, 1, 3]],
            ),
            bilinear,
        ),
        Step(
            "a batch of two",
            tensors(
                query=[[[1, 2]], [[3, 0]]],
                key=[[[1, 1, 0], [0, 2, 1]], [[2, 0, -1], [1, 1, 1]]],
                w=[[1, 2, 0], [0, 1, 3]],
            ),
            bilinear,
        ),
        Step("a batch of two with three heads each", HEADS, bilinear),
        Step(
            "float64, turned in memory",
            {k: v.double().mT.contiguous().mT for k, v in HEADS.items()},
            bilinear,
        ),
        Step(
            "the gradient at every input",
            HEADS,
            lambda *given: slopes(bilinear, *given),
            slopes,
            tolerance=1e-3,
        ),
    ),
    wrong=(
        Wrong("W is left out: that is the dot score", "query @ w @ key", "query @ key"),
        Wrong("W is turned: its rows belong to the query", "@ w @", "@ w.T @"),
        Wrong(
            "rows are queries: the scores are turned", SCORE, "key @ w.T @ query.transpose(-2, -1)"
        ),
        Wrong(
            "a batch in front moves the last two dimensions",
            "key.transpose(-2, -1)",
            "key.transpose(0, 1)",
        ),
        Wrong(
            "shares came back; scores come before the softmax",
            SCORE,
            "(query @ w @ key.transpose(-2, -1)).softmax(dim=-1)",
        ),
        Wrong(
            "entry by entry: only a query and the key at its own place met",
            SCORE,
            "((query @ w) * key).sum(dim=-1, keepdim=True)",
        ),
        Wrong(
            "this score is not divided by the root of the width",
            "query @ w",
            "query / query.size(-1) ** 0.5 @ w",
        ),
        Wrong(
            "cosines came out: the length of a query counts",
            "query @ w",
            "F.normalize(query, dim=-1) @ w",
        ),
        Wrong(
            "each query met the keys of every batch row",
            "key.transpose(-2, -1)",
            "key.flatten(0, -2).T",
        ),
        Wrong(
            "one batch dimension only: ... stands for any number",
            SCORE,
            ONE_DIM,
        ),
        Wrong("scores below 0 were cut off", SCORE, "(query @ w @ key.transpose(-2, -1)).relu()"),
        Wrong("a tensor made on the way has another dtype", "query @ w @", OTHER_DTYPE),
        Wrong("W gets no gradient", "@ w @", "@ w.detach() @"),
        Wrong("the key gets no gradient", "key.t", "key.detach().t"),
        Wrong("the query gets no gradient", "query @", "query.detach() @"),
        Wrong("no gradient at all", SCORE, f"({SCORE}).detach()"),
    ),
)


def attend_by_torch(query, memory, mask):
    """PyTorch's attention without scaling; a query without a key gets zeros."""
    output = F.scaled_dot_product_attention(query, memory, memory, attn_mask=mask, scale=1.0)
    return output.nan_to_num(0.0)


def with_more_pads(answer, query, memory, mask):
    """The same input with two more pads."""
    longer = F.pad(memory, (0, 0, 0, 2), value=7.0)
    return answer(query, longer, F.pad(mask, (0, 2)))


def seen(*rows):
    """A mask (batch, 1, src_len) from zeros and ones."""
    return tensor(rows).bool()[:, None]


MEMORY = tensors(query=[[[1, 0], [0, 2], [1, -1]]], memory=[[[1, 0], [0, 1], [2, 2]]])
SEEN = {
    "query": numbers(2, 3, 2) / 2,
    "memory": numbers(2, 4, 2),
    "mask": seen([0, 1, 0, 1], [1, 1, 1, 0]),
}
ROWS = SEEN | {"mask": seen([0, 1, 0, 1], [0, 0, 0, 0])}
TURNED = {name: v.transpose(0, 1).contiguous().transpose(0, 1) for name, v in SEEN.items()}
TURNED |= {name: TURNED[name].double() for name in ("query", "memory")}

POWERS = ".exp()\n    weights = weights / weights.sum(-1, keepdim=True)"
SOFTMAX = "scores.masked_fill(~mask, -math.inf).softmax(dim=-1)"
AGAIN = "scores.softmax(-1) * mask\n    weights = weights / weights.sum(-1, True).clamp(min=1e-9)"
CUT = (
    "~mask, -math.inf",
    "torch.arange(mask.size(-1)) >= mask.sum(-1, keepdim=True), -math.inf",
)

PADS = Exercise(
    id="05.3",
    title="Broken attention: the pads still talk",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        The mask is used, and the weights of pads are even rather small. **Symptom:** the same
        sentence gets another output in another batch, beside a longer one. **Tool:** pad the memory
        further and compare; then print the weights and look at the columns of the pads. A query
        that may see nothing must get zeros. Scores may have any size, a pad may stand anywhere, and
        the gradient must reach query and memory.
        """,
    stub='''
        def attend_to_tokens(query, memory, mask):
            """Dot-product attention, not scaled; memory is key and value.

            query (batch, tgt_len, d), memory (batch, src_len, d), mask boolean (batch, 1, src_len),
            True = a token. Returns (batch, tgt_len, d).
            """
            scores = query @ memory.transpose(-2, -1)  # (batch, tgt_len, src_len)
            weights = (scores * mask).softmax(dim=-1)
            return weights @ memory
        ''',
    hints=(
        "What is the score of a pad now, and what does the softmax make of that score?",
        "exp(0) is 1. Which score has the power 0?",
        "scores.masked_fill(~mask, minus infinity) before the softmax; NaN rows to 0 after it",
    ),
    solution="""
        def attend_to_tokens(query, memory, mask):
            scores = query @ memory.transpose(-2, -1)  # (batch, tgt_len, src_len)
            weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1)
            return weights.masked_fill(~mask, 0.0) @ memory
        """,
    explanation="""
        A product makes the score 0, and a score of 0 is an average score, not the lowest. Only
        minus infinity has the power 0. Filling the weights with 0 afterwards mends the row that may
        see nothing, which would be 0/0.
        """,
    steps=(
        Step("no pads", MEMORY | {"mask": seen([1, 1, 1])}, attend_by_torch),
        Step("one pad", MEMORY | {"mask": seen([1, 1, 0])}, attend_by_torch),
        Step(
            "two more pads change nothing",
            MEMORY | {"mask": seen([1, 1, 0])},
            attend_by_torch,
            with_more_pads,
        ),
        Step("nothing to see: zeros", MEMORY | {"mask": seen([0, 0, 0])}, torch.zeros(1, 3, 2)),
        Step(
            "two rows: pads before and between, another with nothing to see", ROWS, attend_by_torch
        ),
        Step(
            "scores 1000, and 2000 of a pad: the first token alone",
            tensors(query=[[[10, 0]]], memory=[[[100, 2], [200, 7], [0, 4]]])
            | {"mask": seen([1, 0, 1])},
            tensor([[[100.0, 2.0]]]),
        ),
        Step(
            "scores of tokens are -20 billion, the pad's is 0: the mean of the tokens",
            tensors(query=[[[-2e8, 0]]], memory=[[[100, 2], [0, 7], [100, 4]]])
            | {"mask": seen([1, 0, 1])},
            tensor([[[100.0, 3.0]]]),
        ),
        Step("float64, turned in memory", TURNED, attend_by_torch),
        Step(
            "the gradient at query and memory",
            SEEN,
            lambda *given: slopes(attend_by_torch, *given),
            slopes,
        ),
    ),
    wrong=(
        Wrong(
            "masked after the softmax: the pads have taken their share",
            ".masked_fill(~mask, -math.inf).softmax",
            ".softmax",
        ),
        Wrong("-1 is a score like others: it must be minus infinity", "-math.inf", "-1.0"),
        Wrong("no number is low enough: it must be minus infinity", "-math.inf", "-20.0"),
        Wrong("no number is low enough: it must be minus infinity", "-math.inf", "-1e4"),
        Wrong("no number is low enough: it must be minus infinity", "-math.inf", "-1e9"),
        Wrong(
            "a score may lie below -100",
            "scores.masked_fill(~mask, -math.inf)",
            "scores.masked_fill(~mask, -math.inf).clamp(min=-100)",
        ),
        Wrong("masked afterwards: if a pad took all, nothing is left", SOFTMAX, AGAIN),
        Wrong("e^1000 is infinite: the softmax takes care of that", ".softmax(dim=-1)", POWERS),
        Wrong("the scores are not scaled here", "query @", "query / query.size(-1) ** 0.5 @"),
        Wrong("cut to the number of tokens: a pad may stand before a token", *CUT),
        Wrong(
            "the numbers became float32: keep the dtype",
            "(dim=-1)",
            "(dim=-1, dtype=torch.float32)",
        ),
        Wrong("no gradient reaches the query", "query @", "query.detach() @"),
        Wrong(
            "no gradient reaches query and memory",
            "0.0) @ memory",
            "0.0).detach() @ memory.detach()",
        ),
        Wrong(
            "turned round: the pads are seen and the tokens are not",
            """
            def attend_to_tokens(query, memory, mask):
                scores = query @ memory.transpose(-2, -1)
                weights = scores.masked_fill(mask, -math.inf).softmax(dim=-1)
                return weights.masked_fill(mask, 0.0) @ memory
            """,
        ),
        Wrong("a row with nothing to see is 0/0", "weights.masked_fill(~mask, 0.0)", "weights"),
        Wrong("the softmax runs over the queries", "dim=-1", "dim=-2"),
        Wrong(
            "the pads' vectors were set to zero, but they keep a score of 0 and its share",
            """
            def attend_to_tokens(query, memory, mask):
                memory = memory * mask.transpose(-2, -1)
                return (query @ memory.transpose(-2, -1)).softmax(dim=-1) @ memory
            """,
        ),
    ),
)
