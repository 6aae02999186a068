"""Exercises of lesson 21: XLNet."""

import math

import torch
from torch import tensor

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors
from tfm_lib.models import permutation_masks


def sight_by_library():
    """What the predictions come to for the order 2, 0, 3, 1."""
    order = [2, 0, 3, 1]
    content, query = (mask[0, 0] for mask in permutation_masks(tensor([order])))
    return {
        "turn of position 1": order.index(1),
        "content stream of 3 sees": content[3].nonzero().flatten().tolist(),
        "query stream of 3 sees": query[3].nonzero().flatten().tolist(),
        "query stream of 2 sees": query[2].nonzero().flatten().tolist(),
        "orders of four tokens": math.factorial(4),
        "words that change places in the text": 0,
    }


SIGHT = Exercise(
    id="21.1",
    title="Whose turn is it?",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Four tokens at the positions 0 to 3 are predicted in the order 2, 0, 3, 1: position 2 first,
        at turn 0. Say what each stream of a position sees, as a list of positions in rising order.
        Turns count from 0, and all numbers are whole.
        """,
    stub="""
        in_order = {
            "turn of position 1": ...,
            "content stream of 3 sees": ...,
            "query stream of 3 sees": ...,
            "query stream of 2 sees": ...,
            "orders of four tokens": ...,
            "words that change places in the text": ...,
        }
        """,
    hints=(
        "Write the turns below the positions: position 2 has turn 0, position 0 turn 1, ...",
        "the content stream sees earlier turns and itself, the query stream earlier turns only",
        "Read the order up to the position asked for. How many choices has each turn of an order?",
    ),
    solution="""
        in_order = {
            "turn of position 1": 3,
            "content stream of 3 sees": [0, 2, 3],
            "query stream of 3 sees": [0, 2],
            "query stream of 2 sees": [],
            "orders of four tokens": 24,
            "words that change places in the text": 0,
        }
        """,
    explanation="""
        The order says who is predicted from whom. It moves no word: positions stay what they are,
        and only the masks change.
        """,
    steps=parts(sight_by_library),
    wrong=(
        Wrong("turns count from 0: the last of four has turn 3", '1": 3', '1": 4'),
        Wrong("that is which position has turn 1, not the turn of position 1", '1": 3', '1": 0'),
        Wrong("the content stream knows its own token", "[0, 2, 3]", "[0, 2]"),
        Wrong("earlier in the order, not in the text", "[0, 2, 3]", "[0, 1, 2, 3]"),
        Wrong("the query stream must not see its own token", 'sees": [0, 2],', 'sees": [0, 2, 3],'),
        Wrong("earlier in the order, not in the text", 'sees": [0, 2],', 'sees": [0, 1, 2],'),
        Wrong("the first in the order sees nothing", "[],", "[0, 1],"),
        Wrong("its own token is what it must say", "[],", "[2],"),
        Wrong("position 1 is last in the order", '1": 3', '1": 1'),
        Wrong("position 1 comes after 3", "[0, 2, 3]", "[0, 1, 2]"),
        Wrong("each position has one turn: 4 * 3 * 2 * 1", "24", "16"),
        Wrong("each position has one turn: 4 * 3 * 2 * 1, not 4 ** 4", "24", "256"),
        Wrong("the text stands as it stands", 'text": 0', 'text": 4'),
    ),
)


def look_by_loop(query, content, turn):
    """Position by position: a softmax over those whose turn was earlier."""
    rows = []
    for i in range(len(query)):
        earlier = [j for j in range(len(turn)) if turn[j] < turn[i]]
        if not earlier:
            rows.append(torch.zeros(content.size(1), dtype=content.dtype))
            continue
        scores = torch.stack([query[i].dot(content[j]) for j in earlier]) / query.size(1) ** 0.5
        rows.append(scores.softmax(0) @ torch.stack([content[j] for j in earlier]))
    return torch.stack(rows)


def gradients_of(answer, query, content, turn):
    """What training would send back into both streams; zeros where nothing arrives."""
    both = query.clone().requires_grad_(), content.clone().requires_grad_()
    seen = answer(*both, turn)
    if not seen.requires_grad:
        return torch.zeros_like(query), torch.zeros_like(content)
    weights = torch.arange(1.0, 1 + seen.numel()).view_as(seen)
    return torch.autograd.grad(
        (seen * weights).sum(), both, allow_unused=True, materialize_grads=True
    )


STREAMS = tensors(
    query=[[1, 0, 2], [0, 1, 1], [2, 1, 0], [1, 1, 1]],
    content=[[0, 2, 1], [3, 0, 1], [1, 1, 4], [2, 5, 0]],
)


FAR = {  # what is seen scores -30,000, what is hidden 30,000
    **tensors(
        query=[[600, 1, 2, 0], [600, 0, 1, 1], [600, 2, 0, 1]],
        content=[[-100, 0, 3, 1], [100, 2, 0, 5], [-100, 1, 2, 0]],
    ),
    "turn": tensor([0, 2, 1]),
}
APART = {  # float64, not contiguous
    "query": tensor([[1.0, 0, 2, 1, 2], [0, 1, 1, 2, 1]]).double().T,
    "content": tensor([[2.0, 0, 1, 1, 3], [1, 4, 0, 2, 0]]).double().T,
    "turn": tensor([2, 4, 1, 0, 3]),
}


def streams(count, turn):
    return {**{name: rows[:count] for name, rows in STREAMS.items()}, "turn": tensor(turn)}


LOOK = Exercise(
    id="21.2",
    title="The look of the query stream",
    kind="write",
    difficulty=2,
    minutes=15,
    task="""
        One head without projections. Position i of the query stream asks with `query[i]`; keys and
        values are both `content`. It may see the positions whose turn is earlier than its own, not
        itself, whatever they score. Scores are divided by the root of the width. Who may see
        nothing gets zeros. Training must reach both streams.
        """,
    stub='''
        def query_look(query, content, turn):
            """query, content (length, width), turn (length,): turn[p] of position p
            -> (length, width).
            """
            return ...
        ''',
    hints=(
        "Compare turns, not positions: a table with a row for each query.",
        "allowed[i, j] = turn[j] < turn[i]",
        "masked_fill(~allowed, -inf), softmax, then masked_fill(~allowed, 0) for the empty row",
    ),
    solution="""
        def query_look(query, content, turn):
            allowed = turn[None, :] < turn[:, None]
            scores = query @ content.T / query.size(1) ** 0.5
            weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=-1)
            return weights.masked_fill(~allowed, 0) @ content
        """,
    explanation="""
        Strictly earlier: with <= the answer would stand among the keys, and the loss would fall to
        nothing. The content stream does use <=, for it helps the others and is never scored.
        """,
    steps=(
        Step("two tokens, the first first", streams(2, [0, 1]), look_by_loop),
        Step("two tokens, the second first", streams(2, [1, 0]), look_by_loop),
        Step("three tokens, from left to right", streams(3, [0, 1, 2]), look_by_loop),
        Step("four tokens in the order 2, 0, 3, 1", streams(4, [1, 3, 0, 2]), look_by_loop),
        Step("one token: it sees nothing", streams(1, [0]), look_by_loop),
        Step("what is hidden scores 30,000, what is seen -30,000", FAR, look_by_loop),
        Step("five tokens of width two, in float64", APART, look_by_loop),
        Step(
            "the gradients that reach the query and the content",
            streams(4, [1, 3, 0, 2]),
            lambda *given: gradients_of(look_by_loop, *given),
            gradients_of,
        ),
    ),
    wrong=(
        Wrong("it sees itself: the answer is among the keys", "] < turn", "] <= turn"),
        Wrong("later turns are seen, not earlier ones", "] < turn", "] > turn"),
        Wrong("the empty row is NaN", "weights.masked_fill(~allowed, 0)", "weights"),
        Wrong(
            "-1e9 in place of minus infinity: who sees nothing gets the mean of all",
            """
            def query_look(query, content, turn):
                allowed = turn[None, :] < turn[:, None]
                scores = query @ content.T / query.size(1) ** 0.5
                return scores.masked_fill(~allowed, -1e9).softmax(dim=-1) @ content
            """,
        ),
        Wrong(
            "turn and order are exchanged: turn[p] is the turn of position p already",
            "allowed = ",
            "turn = turn.argsort()\n    allowed = ",
        ),
        Wrong("-10,000 is not minus infinity: what is seen may score less", "-torch.inf", "-1e4"),
        Wrong("training reaches nothing: detached", "scores.masked", "scores.detach().masked"),
        Wrong(
            "training does not reach the values: detached", "0) @ content", "0) @ content.detach()"
        ),
        Wrong("always float32: keep the dtype", "0) @ content", "0).float() @ content.float()"),
        Wrong("divided by the root of the length", "query.size(1)", "len(query)"),
        Wrong("values come from the content stream", "0) @ content", "0) @ query"),
        Wrong("the scores are not divided by the root of the width", " / query.size(1) ** 0.5", ""),
        Wrong(
            "positions are compared, not turns",
            "turn[None, :] < turn[:, None]",
            "torch.ones(len(turn), len(turn)).tril(-1).bool()",
        ),
    ),
)


def masks_by_list(order):
    """Who comes before whom, looked up in the list."""
    places = order.tolist()
    count = range(len(places))
    return tensor([[places.index(j) <= places.index(i) for j in count] for i in count])


TURNS = Exercise(
    id="21.3",
    title="Broken XLNet: right for some orders",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        The content stream's mask from an order: `order[t]` is the position whose turn is t, and row
        i of the mask says what position i may see (True = may attend). **Symptom:** all is well
        from left to right, from right to left, and when two tokens change places; with other orders
        the training loss is too good, and filling in gaps goes wrong. **Tool:** take the order 1,
        2, 0, write by hand who comes before whom, and compare.
        """,
    stub='''
        def content_sight(order):
            """order (length,), a permutation of 0 ... length - 1 -> boolean (length, length)."""
            return order[None, :] <= order[:, None]
        ''',
    hints=(
        "What does order[1] say: the turn of position 1, or the position whose turn is 1?",
        "turn is the inverse of order: turn[order[t]] = t",
        "turn = order.argsort()",
    ),
    solution="""
        def content_sight(order):
            turn = order.argsort()
            return turn[None, :] <= turn[:, None]
        """,
    explanation="""
        A permutation and its inverse are equal for the identity, for the reversal and for one swap,
        which are just the cases that one tries first. Three tokens in a circle tell them apart.
        """,
    steps=(
        Step("from left to right", {"order": tensor([0, 1])}, masks_by_list),
        Step("the order 1, 2, 0", {"order": tensor([1, 2, 0])}, masks_by_list),
        Step("the order 2, 0, 3, 1", {"order": tensor([2, 0, 3, 1])}, masks_by_list),
        Step("the order 3, 0, 4, 1, 2", {"order": tensor([3, 0, 4, 1, 2])}, masks_by_list),
        Step("one position", {"order": tensor([0])}, masks_by_list),
    ),
    wrong=(
        Wrong("the order is still taken for the turns", "order.argsort()", "order"),
        Wrong(
            "columns are what is seen: transposed",
            "turn[None, :] <= turn[:, None]",
            "turn[:, None] <= turn[None, :]",
        ),
        Wrong("the content stream sees itself", "<=", "<"),
        Wrong(
            "columns stand in the order's order, not by position",
            "turn[None, :] <= turn[:, None]",
            "(turn[None, :] <= turn[:, None])[:, order]",
        ),
        Wrong(
            "only the turn just before and oneself: all earlier ones are seen",
            "turn[None, :] <= turn[:, None]",
            "(turn[None, :] <= turn[:, None]) & (turn[None, :] >= turn[:, None] - 1)",
        ),
        Wrong(
            "rows stand in the order's order, not by position",
            "turn[None, :] <= turn[:, None]",
            "(turn[None, :] <= turn[:, None])[order]",
        ),
        Wrong(
            "whatever the order, from left to right", "order.argsort()", "torch.arange(len(order))"
        ),
    ),
)
