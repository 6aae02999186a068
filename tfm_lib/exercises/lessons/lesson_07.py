"""Exercises of lesson 07: self-attention."""

import math

import torch
from torch import nn, tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def mirror_by_torch():
    """What the predictions come to."""
    x = tensor([[3.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    layers = [nn.Linear(32, width, bias=False) for width in (16, 16, 8)]
    shuffled = x[[2, 0, 1]]
    same = torch.allclose(attention(shuffled), attention(x)[[2, 0, 1]])
    return {
        "where each of the three looks most": (x @ x.T).argmax(dim=-1).tolist(),
        "numbers in W_q, W_k and W_v": sum(layer.weight.numel() for layer in layers),
        "shuffled in, shuffled out": same,
        "scores of a sequence of 100": torch.ones(100, 2).matmul(torch.ones(2, 100)).numel(),
    }


def attention(x):
    """Self-attention of raw vectors by PyTorch."""
    return F.scaled_dot_product_attention(x[None], x[None], x[None])[0]


MIRROR = Exercise(
    id="07.1",
    title="Who looks where",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Three raw vectors, (3, 0), (0, 1) and (2, 0), play query, key and value. At which position
        (0, 1 or 2) does each look most? How many numbers do $W_q$, $W_k$ and $W_v$ hold for
        `d_model=32`, `d_k=16`, `d_v=8`, without biases? Does self-attention of shuffled vectors
        give the same outputs, shuffled? And how many scores has a sequence of 100?
        """,
    stub="""
        mirror = {
            "where each of the three looks most": [..., ..., ...],
            "numbers in W_q, W_k and W_v": ...,
            "shuffled in, shuffled out": ...,  # True or False
            "scores of a sequence of 100": ...,
        }
        """,
    hints=(
        "Write the nine dot products down. Are the vectors equally long?",
        "W_q and W_k are (d_model, d_k), W_v is (d_model, d_v). One score for each pair.",
        "rows of scores: 9 0 6, 0 1 0, 6 0 4; 32 * (16 + 16 + 8)",
    ),
    solution="""
        mirror = {
            "where each of the three looks most": [0, 1, 0],
            "numbers in W_q, W_k and W_v": 1280,
            "shuffled in, shuffled out": True,
            "scores of a sequence of 100": 10000,
        }
        """,
    explanation="""
        The third vector scores 4 with itself and 6 with the first, which points the same way and is
        longer: it does not look at itself. Nothing in the computation knows a position, so a
        shuffle goes through. The scores grow with the square of the length.
        """,
    steps=parts(mirror_by_torch),
    wrong=(
        Wrong("a longer vector that points the same way scores higher", "[0, 1, 0]", "[0, 1, 2]"),
        Wrong("0 times anything is 0: the second has only itself", "[0, 1, 0]", "[0, 0, 0]"),
        Wrong("W_v makes values, d_v = 8 wide", "1280", "1536"),
        Wrong("the matrices need not be square", "1280", "3072"),
        Wrong("no biases were asked for", "1280", "1320"),
        Wrong("there are three matrices, not one for all", "1280", "512"),
        Wrong("nothing in it knows a position", "True", "False"),
        Wrong("every position has a score with every position", "10000", "100"),
        Wrong("each pair has two scores: i with j and j with i", "10000", "5050"),
        Wrong("a position has a score with itself, too", "10000", "9900"),
    ),
)


def shuffle_gap_by_loop(layer, x, order):
    """Position by position: the output for a vector, wherever it stands."""
    before, after = layer(x), layer(torch.stack([x[:, i] for i in order.tolist()], dim=1))
    gaps = [(after[:, place] - before[:, i]).abs().max() for place, i in enumerate(order.tolist())]
    return max(gap.item() for gap in gaps)


def mean_of_all(x):
    """A layer that does not know of order: each vector plus the mean of all."""
    return x + x.mean(dim=1, keepdim=True)


def sum_so_far(x):
    """A layer that does know of order."""
    return x.cumsum(dim=1)


def faint(x):
    """A layer that hardly knows of order."""
    return x + 0.001 * x.cumsum(dim=1)


def ask(layer, x, order=(1, 2, 3, 0)):
    """What a step hands in; by default each vector moves one place to the left."""
    return {"layer": layer, "x": x, "order": tensor(order)}


ROWS = tensor([[[-1.0], [-2.0], [-6.0], [-4.0]]])
BATCH = tensor(
    [[[1.0, 0, 2], [0, 1, 1], [2, 1, 0], [1, 1, 3]], [[3, 1, 20], [1, 4, 9], [0, 2, 1], [2, 0, 5]]]
)
SWAPPED = -BATCH.flip(0, 2).roll(1, 1).double()

GAP = Exercise(
    id="07.2",
    title="A test for order-blindness",
    kind="write",
    difficulty=2,
    minutes=12,
    task="""
        Build the tool: given a layer, a batch and an order of its positions, return by how much
        "shuffle, then the layer" differs at most from "the layer, then shuffle", as a plain number.
        0 means that the layer cannot see the order.
        """,
    stub='''
        def shuffle_gap(layer, x, order):
            """layer: (batch, length, width) -> the same; x (batch, length, width); order (length,),
            where order[i] is the old place of what stands at place i. Returns a float.
            """
            return ...
        ''',
    hints=(
        "Two ways to the same place, and one subtraction.",
        "the largest |layer(x shuffled) - layer(x) shuffled|, over all entries",
        "shuffle a tensor along its length: t[:, order]; then .abs().max().item()",
    ),
    solution="""
        def shuffle_gap(layer, x, order):
            return (layer(x[:, order]) - layer(x)[:, order]).abs().max().item()
        """,
    explanation="""
        Comparing layer(x[:, order]) with layer(x) is the usual slip: it says "differs" of every
        layer, because the outputs stand at other places. Mathematicians call a gap of 0
        equivariance.
        """,
    steps=(
        Step("a layer that cannot see order: 0", ask(mean_of_all, ROWS), 0.0),
        Step("a running sum can", ask(sum_so_far, ROWS), shuffle_gap_by_loop),
        Step("a batch of two, width 3", ask(sum_so_far, BATCH), shuffle_gap_by_loop),
        Step(
            "a faint gap; float64",
            ask(faint, SWAPPED, (0, 2, 3, 1)),
            shuffle_gap_by_loop,
            None,
            1e-5,
        ),
    ),
    wrong=(
        Wrong("the second way is not shuffled: every layer would differ", "(x)[:, order]", "(x)"),
        Wrong(
            "the output is shuffled the wrong way round", "(x)[:, order]", "(x)[:, order.argsort()]"
        ),
        Wrong(
            "the gap is always 0: shuffle the input of one",
            "layer(x[:, order])",
            "layer(x)[:, order]",
        ),
        Wrong("the mean difference was taken, not the largest", ".max()", ".mean()"),
        Wrong("the sign must go before the largest is taken", ".abs()", ""),
        Wrong("differences were squared", ".abs()", ".square()"),
        Wrong("the norm of all differences is not the largest", ".abs().max()", ".norm()"),
        Wrong("the sign was turned: it must go", ".abs().max()", ".min().neg()"),
        Wrong("only the first example of the batch was compared", ".abs()", "[0].abs()"),
        Wrong("only the first column was compared", ".abs()", "[..., 0].abs()"),
        Wrong("only the last place was compared", ".abs()", "[:, -1].abs()"),
        Wrong("a small gap was taken for none: give the number", ".item()", ".round().item()"),
        Wrong("the order that was given is ignored: it was reversed", "x[:, order]", "x.flip(1)"),
        Wrong("the examples were shuffled, not the positions", "x[:, order]", "x[order]"),
    ),
)


def attend_by_torch(x, w_q, w_k, w_v):
    """Self-attention with PyTorch's kernel."""
    return F.scaled_dot_product_attention(x @ w_q, x @ w_k, x @ w_v)


NAMES = ("x", "W_q", "W_k", "W_v")


def who_learns(answer, *given):
    """Which of the inputs a gradient reaches."""
    given = [each.requires_grad_() for each in given]
    total = answer(*given)[..., 0] @ tensor([1.0, 2.0]) + sum(0 * each.sum() for each in given)
    found = torch.autograd.grad(total.sum(), given)
    return {name: bool(grad.any()) for name, grad in zip(NAMES, found, strict=True)}


PROJECT = {  # d_model 3, d_k 4
    **tensors(x=[[[1, 0, 1], [0, 2, -1]], [[1, 1, 0], [2, 0, 0]]]),
    **tensors(w_q=[[1, 0, 2, 0], [0, 1, 0, 1], [1, 1, 0, 0]]),
    **tensors(w_k=[[0, 1, 1, 0], [1, 0, 0, 2], [0, 0, 1, 1]]),
}
SAME = {**PROJECT, **tensors(w_v=[[3, 1, 0], [-1, 2, 1], [0, 1, 4]])}  # d_v 3, as d_model
OTHER = {**PROJECT, **tensors(w_v=[[3, 1, 0, 2, 1], [-1, 2, 1, 0, 3], [5, 4, 0, 1, -2]])}  # d_v 5
ONES = tensors(x=[[[30], [40], [36]]], w_q=[[1]], w_k=[[1]], w_v=[[2]])
DOUBLE = {name: value.mT.clone().mT.double() for name, value in OTHER.items()}
DOUBLE |= {name: DOUBLE[name][:, 1:] for name in ("w_q", "w_k")}  # d_k 3

VALUES = Exercise(
    id="07.3",
    title="Broken Transformer: one matrix never learns",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        Self-attention with three matrices. It trains, and stays far behind. **Symptom:** after
        training $W_v$ is what it was at the start. **Tool:** after `backward()`, list the weights
        whose gradient is None or all zeros; then read which of them the forward pass never uses.
        """,
    stub='''
        def self_attend(x, w_q, w_k, w_v):
            """x (batch, length, d_model); w_q, w_k (d_model, d_k), w_v (d_model, d_v).

            Returns (batch, length, d_v), scaled by sqrt(d_k).
            """
            query, key = x @ w_q, x @ w_k
            scores = query @ key.transpose(-2, -1) / w_k.size(1) ** 0.5
            return scores.softmax(dim=-1) @ x
        ''',
    hints=(
        "Three roles, three matrices. Which role is played by the raw vectors?",
        "output = softmax(Q K^T / sqrt(d_k)) V, and V = X W_v",
        "value = x @ w_v; the weights must average it, and nothing else is added",
    ),
    solution="""
        def self_attend(x, w_q, w_k, w_v):
            query, key, value = x @ w_q, x @ w_k, x @ w_v
            scores = query @ key.transpose(-2, -1) / w_k.size(1) ** 0.5
            return scores.softmax(dim=-1) @ value
        """,
    explanation="""
        With d_v = d_model nothing crashes, and the layer still learns where to look. A list of
        weights without a gradient, taken after the first backward pass, finds this whole family of
        bugs: an unused layer, a forgotten branch, a detached tensor.
        """,
    steps=(
        Step("a gradient reaches x and all three", SAME, dict.fromkeys(NAMES, True), who_learns),
        Step(
            "one position: its value comes through",
            {**OTHER, **tensors(x=[[[1, 2, 1]]])},
            attend_by_torch,
        ),
        Step("two sentences; d_model 3, d_k 4, d_v 5", OTHER, attend_by_torch),
        Step("scores from 900 to 1600", {**ONES, **tensors(w_k=[[1]])}, attend_by_torch),
        Step("scores from -900 to -1600", {**ONES, **tensors(w_k=[[-1]])}, attend_by_torch),
        Step("float64, memory not contiguous, d_k 3", DOUBLE, attend_by_torch),
    ),
    wrong=(
        Wrong("no gradient reaches W_v: the values do not come from it", "@ value", "@ key"),
        Wrong("no gradient reaches W_q: the queries are raw", "x @ w_q", "F.pad(x, (0, 1))"),
        Wrong("the weights are cut off: W_q and W_k never learn", "(dim=-1)", "(dim=-1).detach()"),
        Wrong("no gradient reaches x", "query, key, v", "x = x.detach()\n    query, key, v"),
        Wrong("W_v is turned", "x @ w_v", "x @ w_v.T"),
        Wrong("raw vectors were added to the values", "@ value", "@ (value + x[..., :1])"),
        Wrong("queries and keys changed places", "query @ key.transp", "key @ query.transp"),
        Wrong("the keys were projected by W_q", "x @ w_k,", "x @ (w_q + 0 * w_k),"),
        Wrong("the keys were reshaped, not turned", "key.transpose(-2, -1)", "key.view(-1, 4, 2)"),
        Wrong("the softmax is missing: scores are no shares", ".softmax(dim=-1)", ""),
        Wrong("the softmax runs over the queries; it is over the keys", "dim=-1", "dim=-2"),
        Wrong("the scores were not divided", " / w_k.size(1) ** 0.5", ""),
        Wrong("divided by d_k, not by its root", "w_k.size(1) ** 0.5", "w_k.size(1)"),
        Wrong("divided by the root of d_model, not of d_k", "w_k.size(1)", "w_k.size(0)"),
        Wrong("divided by the root of d_v, not of d_k", "w_k.size(1)", "w_v.size(1)"),
        Wrong("divided by the root of the length, not of d_k", "w_k.size(1)", "x.size(1)"),
        Wrong("the root of d_k is not always 2", "w_k.size(1)", "4"),
        Wrong(
            "e^1000 is infinite: subtract each row's largest score first",
            "scores.softmax(dim=-1)",
            "F.normalize(scores.exp(), p=1, dim=-1)",
        ),
        Wrong(
            "the largest of all scores was subtracted; each row has its own",
            "scores.softmax(dim=-1)",
            "F.normalize((scores - scores.max()).exp(), p=1, dim=-1)",
        ),
        Wrong("float64 came in and float32 went out", "@ value", "@ value.float()"),
    ),
)


def lookers(x):
    """Shares of positions that score highest with themselves, by loops, and the verdict."""
    shares = []
    for rows in (x.tolist(), [[n / math.hypot(*row) for n in row] for row in x.tolist()]):
        scores = [[sum(a * b for a, b in zip(q, k, strict=True)) for k in rows] for q in rows]
        own = sum(
            all(s < row[i] for j, s in enumerate(row) if j != i) for i, row in enumerate(scores)
        )
        shares.append(own / len(rows))
    raw, equal = shares
    limits = "holds within limits" if equal == 1 else "does not hold as stated"
    return {"raw": raw, "equal length": equal, "verdict": "holds" if raw == 1 else limits}


JUDGE = Exercise(
    id="07.4",
    title="Judge: a token is most similar to itself",
    kind="judge",
    difficulty=3,
    minutes=20,
    task="""
        Write the experiment and the rule for its verdict. For the vectors given, measure the share
        of positions whose score (dot product) with **itself** is the highest: once as they are,
        once after each was divided by its length. The claim "a vector is most similar to itself"
        then **holds** if the first share is 1, **holds within limits** if only the second is 1, and
        **does not hold as stated** otherwise (two vectors that point the same way).
        """,
    stub='''
        def judge_mirror(x):
            """x (length, width), no zero vector. A tie with another position is not the highest.

            Returns {"raw": share, "equal length": share, "verdict": one of the three}.
            """
            return {"raw": ..., "equal length": ..., "verdict": ...}
        ''',
    hints=(
        "One helper for both shares: vectors in, share out. Only its input differs.",
        "share = how many rows of X X^T have their single largest entry on the diagonal",
        """
        others = scores with minus infinity on the diagonal
        share = (scores.diagonal() > others.max(of each row)).float().mean().item()
        the second time with x / x.norm(of each row, as a column)
        """,
    ),
    solution="""
        def judge_mirror(x):
            def share(rows):
                scores = rows @ rows.T  # (length, length)
                others = scores.masked_fill(torch.eye(len(rows)).bool(), -math.inf)
                return (scores.diagonal() > others.amax(dim=-1) + 1e-6).float().mean().item()

            raw, equal = share(x), share(x / x.norm(dim=-1, keepdim=True))
            limits = "holds within limits" if equal == 1 else "does not hold as stated"
            return {"raw": raw, "equal length": equal, "verdict": "holds" if raw == 1 else limits}
        """,
    explanation="""
        For vectors of equal length q.k is largest where the angle is 0, so the claim holds unless
        two point the same way. For raw vectors length counts as well, and a long neighbour can win.
        Trained vectors are not equally long: "holds within limits" is the verdict of the lesson.
        """,
    steps=(
        Step("two at right angles, equally long", tensors(x=[[2, 0], [0, 2]]), lookers),
        Step("a long neighbour", tensors(x=[[3, 0], [0, 2], [1, 1], [2, 1]]), lookers),
        Step("two that point the same way", tensors(x=[[3, 0], [1, 0], [0, 2], [0, -2]]), lookers),
        Step(
            "four numbers each; float64, memory not contiguous",
            {"x": torch.tensor([[2.0, 3, 1], [2, 0, 0], [0, 0, 2], [0, 1, 4]]).double().T},
            lookers,
        ),
    ),
    wrong=(
        Wrong("a tie is not the highest", "amax(dim=-1) + 1e-6", "amax(dim=-1) - 1e-6"),
        Wrong(
            "each vector must be divided by its own length", "x / x.norm(dim=-1, keepdim=True)", "x"
        ),
        Wrong("a share is wanted, not a number of positions", ".mean().item()", ".sum().item()"),
        Wrong(
            "each position was compared with itself, too", "fill(torch.eye", "fill(0 * torch.eye"
        ),
        Wrong(
            "if only equal lengths make it true, it holds within limits", "if raw ==", "if equal =="
        ),
        Wrong(
            "where two point the same way even equal lengths do not help", "equal == 1", "raw < 1"
        ),
        Wrong(
            "argmax takes one of a tie: a tie is not the highest",
            "(scores.diagonal() > others.amax(dim=-1) + 1e-6)",
            "(scores.argmax(dim=-1) == torch.arange(len(rows)))",
        ),
        Wrong("divided by something else than the length", "True))", "True) ** 2)"),
        Wrong("each vector must be divided by its own length", "(dim=-1, keepdim=True)", "()"),
        Wrong("columns were divided, not rows", "x.norm(dim=-1", "x.norm(dim=0"),
        Wrong("numbers were compared, not positions", "rows @ rows.T", "rows.T @ rows"),
    ),
)
