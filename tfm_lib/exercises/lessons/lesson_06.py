"""Exercises of lesson 06: scaled dot-product attention."""

import math

import torch
from torch import tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, slopes, tensors


def from_torch(query, key, value):
    """Output and weights by PyTorch's kernel, which hands out the weights if value is identity."""
    identity = torch.eye(key.size(-2), dtype=key.dtype).expand(*key.shape[:-1], -1)
    weights = F.scaled_dot_product_attention(query, key, identity)
    return F.scaled_dot_product_attention(query, key, value), weights


def by_autograd(scores, grad):
    """The gradient at the scores, given the one at the weights."""
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(scores.softmax(dim=-1), scores, grad)[0]


def weights_and_grad(answer, scores, grad):
    """Hand an answer the weights that belong to the scores."""
    return answer(scores.softmax(dim=-1), grad)


def by_double(scores):
    """PyTorch's softmax, worked out in float64."""
    return scores.double().softmax(dim=-1).to(scores)


def slope_step(given, oracle):
    """The gradient must reach every input."""
    return Step("the gradient at every input", given, lambda *g: slopes(oracle, *g), slopes, 1e-3)


def turned(given):
    """The same numbers as float64, in another order in memory."""
    return {k: v.double().transpose(0, -1).contiguous().transpose(0, -1) for k, v in given.items()}


HEADS = {
    "query": torch.arange(72.0).reshape(2, 3, 4, 3) % 5,
    "key": torch.arange(90.0).reshape(2, 3, 5, 3) % 7,
    "value": torch.arange(60.0).reshape(2, 3, 5, 2) % 4,
}
SCORES = {"scores": (torch.arange(120.0).reshape(2, 3, 4, 5) * 7 % 11) / 2}
MANY = {"scores": SCORES["scores"] / 4, "grad": SCORES["scores"] % 3 - 1}


def shares_by_torch():
    """What the four predictions come to."""
    scores = torch.ones(4, 6) @ torch.ones(5, 6).T
    weights = scores.softmax(dim=-1)
    return {
        "scores": tuple(scores.shape),
        "output": tuple((weights @ torch.ones(5, 3)).shape),
        "all weights together": weights.sum().item(),
        "a weight of the zero query": torch.zeros(5).softmax(dim=-1)[0].item(),
    }


SHARES = Exercise(
    id="06.1",
    title="Shapes and shares",
    kind="predict",
    difficulty=1,
    minutes=5,
    task="""
        Four queries of width 6 meet five keys of width 6 with values of width 3. Predict, without
        running anything: the shape of the scores, the shape of the output, what **all** weights
        add up to, and one weight of a query that is all zeros. The numbers are exact.
        """,
    stub="""
        shares = {
            "scores": ...,  # a shape, as (2, 3)
            "output": ...,  # a shape
            "all weights together": ...,  # a number
            "a weight of the zero query": ...,  # a number
        }
        """,
    hints=(
        "There is one score for each pair of a query and a key. Who shares out the weights?",
        "Scores: (query_len, key_len). Output: (query_len, d_v). Each row of weights sums to 1.",
        "A zero query scores 0 with every key. The softmax of five equal numbers is even.",
    ),
    solution="""
        shares = {
            "scores": (4, 5),
            "output": (4, 3),
            "all weights together": 4.0,
            "a weight of the zero query": 0.2,
        }
        """,
    explanation="""
        Q is (4, 6) and K transposed is (6, 5): the scores are (4, 5). Each of the 4 rows adds up
        to 1, so all together make 4. The zero query has five equal scores: 1/5 each. The output
        has a row for each query and the width of the values.
        """,
    steps=parts(shares_by_torch),
    wrong=(
        Wrong("queries are rows and keys are columns: (query_len, key_len)", "(4, 5)", "(5, 4)"),
        Wrong("the width is summed away in the products", "(4, 5)", "(4, 6)"),
        Wrong("the queries meet the keys, not each other", "(4, 5)", "(4, 4)"),
        Wrong("the output has the width of the values, not of the keys", "(4, 3)", "(4, 6)"),
        Wrong("there is an answer for each query, not for each key", "(4, 3)", "(5, 3)"),
        Wrong("that is the shape of the weights, not of the output", "(4, 3)", "(4, 5)"),
        Wrong("each row adds up to 1, and there is a row for each query", "4.0", "1.0"),
        Wrong("each query shares itself out, not each key", "4.0", "5.0"),
        Wrong("weights are shares, not ones", "4.0", "20.0"),
        Wrong("a score of 0 is not a weight of 0: equal scores share evenly", "0.2", "0.0"),
        Wrong("the keys share, not the queries", "0.2", "0.25"),
        Wrong("the keys share, not the numbers in one", "0.2", "0.1667"),
        Wrong("that is all its weights together", "0.2", "1.0"),
    ),
)

ONE, ALL = tensors(query=[[1, 2]], key=[[3, 1]], value=[[7, 8, 9]]), tensor([[1.0]])
TWO, HALVES = tensors(query=[[1, 0]], key=[[2, 0], [2, 5]], value=[[4], [6]]), tensor([[0.5, 0.5]])
WIDTH, SHARE = "query.size(-1)", "scores.softmax(dim=-1)"
ROOT = f" / math.sqrt({WIDTH})"
HARDEST = "F.one_hot(scores.argmax(-1), scores.size(-1)).float()"
POWERS = "scores.exp() / scores.exp().sum(-1, keepdim=True)"
KERNEL = "F.scaled_dot_product_attention(query, key, value), weights"

ATTEND = Exercise(
    id="06.2",
    forbidden=("scaled_dot_product_attention", "MultiheadAttention", "tfm_lib"),
    title="Attention in a few lines",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Write scaled dot-product attention without a mask, for any leading dimensions, any dtype and
        scores of any size: return the output **and** the weights. Use neither PyTorch's attention
        nor the library's. The gradient must reach all three. Four digits must be right.
        """,
    stub='''
        def attend(query, key, value):
            """Attention without a mask.

            query (..., query_len, d_k), key (..., key_len, d_k), value (..., key_len, d_v)
            Returns output (..., query_len, d_v) and weights (..., query_len, key_len).
            """
            return ...
        ''',
    hints=(
        "Four steps: score, scale, softmax, average. Three lines of matrices do them.",
        "softmax(Q K^T / sqrt(d_k)) V, with d_k the width of the queries, the softmax over keys.",
        """
        scores = query @ (key with its last two dimensions swapped) / (root of the last size)
        weights = scores.softmax(over the last dimension)
        return weights @ value, weights
        """,
    ),
    solution="""
        def attend(query, key, value):
            scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))
            weights = scores.softmax(dim=-1)  # (..., query_len, key_len)
            return weights @ value, weights
        """,
    explanation="""
        `transpose(-2, -1)` swaps the last two dimensions whatever stands before them, so one code
        serves a matrix, a batch and a batch of heads. The width in the root is that of queries and
        keys, because it is their products that are added up.
        """,
    steps=(
        Step("one key: its value comes through, whatever the score", ONE, (ONE["value"], ALL)),
        Step("two keys of equal score: the mean of their values", TWO, (tensor([[5.0]]), HALVES)),
        Step(
            "two queries and three keys of width 4: scores 4 and 0 are scaled to 2 and 0",
            tensors(
                query=[[2, 0, 0, 0], [0, 4, 0, 0]],
                key=[[2, 0, 0, 0], [0, 1, 0, 0], [0, 0, 3, 1]],
                value=[[10, 0, 1, 0, 0], [0, 20, 0, 2, 0], [0, 0, 0, 0, 3]],
            ),
            from_torch,
        ),
        Step("a batch of two, three heads each", HEADS, from_torch),
        Step(
            "scores of 1000 and 3000, and of -1000 and -3000",
            tensors(query=[[1000], [-1000]], key=[[1], [3], [1]], value=[[2], [9], [4]]),
            (tensor([[9.0], [3.0]]), tensor([[0, 1, 0], [0.5, 0, 0.5]])),
        ),
        Step("float64, turned in memory", turned(HEADS), from_torch),
        slope_step(HEADS, from_torch),
    ),
    wrong=(
        Wrong("the scores were not divided by sqrt(d_k)", ROOT, ""),
        Wrong("divided by d_k, not by its square root", f"math.sqrt({WIDTH})", WIDTH),
        Wrong("divided by the root of the values' width", WIDTH, "value.size(-1)"),
        Wrong("divided by the root of the number of queries", WIDTH, "query.size(-2)"),
        Wrong("divided by the root of the number of keys", WIDTH, "key.size(-2)"),
        Wrong("divided by 2, whatever the width", WIDTH, "4"),
        Wrong("multiplied by the root, not divided", ROOT, ROOT.replace("/", "*")),
        Wrong("the softmax runs over the queries", "dim=-1", "dim=-2"),
        Wrong("the root belongs before the softmax", ROOT, "\n    value = value" + ROOT),
        Wrong("the scores came back, not the weights", "@ value, weights", "@ value, scores"),
        Wrong("the output comes first", "weights @ value, weights", "weights, weights @ value"),
        Wrong("the weights go with the values", "weights @ value,", "weights @ key,"),
        Wrong("the best key took all: soft attention shares", SHARE, HARDEST),
        Wrong("a batch moves the last two dimensions", "transpose(-2, -1)", "transpose(0, 1)"),
        Wrong("e^1000 is infinite: the softmax takes care of that", SHARE, POWERS),
        Wrong("the dtype changed on the way", SHARE, "scores.float().softmax(dim=-1)"),
        Wrong("no gradient passes the weights", SHARE, "scores.softmax(dim=-1).detach()"),
        Wrong("the value gets no gradient", "@ value", "@ value.detach()"),
        Wrong("the returned weights lost their gradient", "value, weights", "value, weights.data"),
        Wrong("PyTorch's attention is what you shall write", "weights @ value, weights", KERNEL),
    ),
)

MASKED = {"scores": tensor([[100.0, -math.inf, 100.0], [-math.inf, -100.0, -math.inf]])}
LARGEST, END = ".amax(dim=-1, keepdim=True)", "return powers"
TAKEN_OFF = f"(scores - scores{LARGEST})"
DIVIDED = f"(scores / scores{LARGEST}.clamp(min=1))"
NO_NAN = "scores.exp()\n    return (powers / powers.sum(-1, True)).nan_to_num(0.0)"


def share_step(asks, scores, want=None):
    """A step with these scores; without `want`, PyTorch's softmax in float64 is right."""
    return Step(asks, tensors(scores=scores), by_double if want is None else tensor(want) * 1.0)


SOFTMAX = Exercise(
    id="06.3",
    forbidden=("softmax", "log_softmax", "special_softmax", "softmin", "_softmax"),
    title="Broken Transformer: the weights turn into NaN",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        This softmax is right on paper. In a model it works for a while; then one day the loss is
        NaN. **Symptom:** rows of NaN among the weights, and only where scores are large. **Tool:**
        `weights.isnan().any(dim=-1)` finds the rows; then look at their scores, and at `exp` of
        them. Mend it without PyTorch's softmax, in whatever form. Scores of any size and any number
        of leading dimensions must give the true weights (four digits), -inf among them a weight of
        0; the weights keep the scores' dtype and pass the gradient on.
        """,
    stub='''
        def softmax_of(scores):
            """Shares of e^score over the last dimension: (..., query_len, key_len), as scores."""
            powers = scores.exp()
            return powers / powers.sum(dim=-1, keepdim=True)
        ''',
    hints=(
        "What is e^100 in float32? What is that divided by itself?",
        "Numerator and denominator may be multiplied by the same e^-m: the shares stay. Choose m.",
        "powers = (scores - the largest score of each row, as a column).exp()",
    ),
    solution="""
        def softmax_of(scores):
            powers = (scores - scores.amax(dim=-1, keepdim=True)).exp()  # at most e^0 = 1
            return powers / powers.sum(dim=-1, keepdim=True)
        """,
    explanation="""
        float32 ends at about 3.4e38, and e^89 is larger: infinity by infinity is NaN. Subtracting
        the row's largest score changes no share, makes the largest power 1, and lets the others
        only fall towards 0, which is what they are. Every softmax in every library does so.
        """,
    steps=(
        share_step("scores 0 and 0: half and half", [[0, 0]], [[0.5, 0.5]]),
        share_step("scores 0, 2 and 8", [[0, 2, 8]]),
        share_step("scores 100 and 100: as well", [[100, 100]], [[0.5, 0.5]]),
        share_step(
            "scores 101 and 100, and 100 and 103: as 1 and 0, 0 and 3", [[101, 100], [100, 103]]
        ),
        share_step("large scores beside small ones", [[200, 201, 199], [1, 0, 2]]),
        share_step("scores far apart", [[0, 300, 0, 0]], [[0, 1, 0, 0]]),
        share_step("scores around -200 and -300", [[-200, -201, -199], [-300, -300, -300]]),
        share_step("1000 and -1000", [[1000, 1000], [-1000, -1000], [1000, -1000]]),
        Step("a masked score: -inf", MASKED, tensor([[0.5, 0, 0.5], [0, 1, 0]])),
        Step("a batch of two, three heads each", SCORES, by_double),
        Step("float64, turned in memory", turned(SCORES), by_double),
        slope_step(SCORES, by_double),
    ),
    wrong=(
        Wrong("NaN was replaced afterwards", TAKEN_OFF + ".exp()", NO_NAN),
        Wrong("cut off at 80: above, scores look alike", TAKEN_OFF, "scores.clamp(max=80)"),
        Wrong("one maximum for all: a row far below becomes 0/0", LARGEST, ".max()"),
        Wrong("dividing the scores changes the shares", TAKEN_OFF, DIVIDED),
        Wrong("the mean taken off: a score may lie far above it", LARGEST, ".mean(-1, True)"),
        Wrong("the largest of each column, not of each row", LARGEST, ".amax(-2, True)"),
        Wrong("the largest size may be that of the lowest score", LARGEST, ".abs().amax(-1, True)"),
        Wrong("scores far below count nothing", TAKEN_OFF, TAKEN_OFF + ".clamp(min=-3)"),
        Wrong("scores may be larger than any fixed number", LARGEST, ".new_tensor(150)"),
        Wrong("float64 ends, too: e^1000 is infinite", TAKEN_OFF, "scores.double()"),
        Wrong("the sum runs over all rows", ".sum(dim=-1, keepdim=True)", ".sum()"),
        Wrong("the sum runs over the queries", ".sum(dim=-1,", ".sum(dim=-2,"),
        Wrong("the dtype changed on the way", END, "powers = powers.float()\n    " + END),
        Wrong("no gradient reaches the scores", END, "powers = powers.detach()\n    " + END),
        Wrong("the sum passes a gradient, too", "/ powers", "/ powers.detach()"),
        Wrong("PyTorch's softmax does this; write it", TAKEN_OFF + ".exp()", SHARE),
    ),
)

WHOLE = "weights * (grad - total)"
JACOBIAN = "weights.diag_embed() - weights[..., None] * weights[..., None, :]"
BY_JACOBIAN = f"(({JACOBIAN}) * grad[..., None]).sum(-2)"
AUTOGRAD = "torch.autograd.grad((s := weights.log().requires_grad_()).softmax(-1), s, grad)[0]"

BACKWARD = Exercise(
    id="06.4",
    forbidden=("grad", "backward", "jacobian", "vjp", "jvp", "jacrev", "_softmax_backward_data"),
    title="Back through the softmax",
    kind="write",
    difficulty=3,
    minutes=15,
    task="""
        Given the weights $w$ of a softmax and the gradient $g$ that arrives at them, return the
        gradient at the scores, for any leading dimensions and any dtype, right to four digits. Do
        without autograd, and without the Jacobian: make no tensor that is larger than the weights.
        """,
    stub='''
        def softmax_backward(weights, grad):
            """The gradient at the scores.

            weights (..., key_len): the softmax of the scores. grad (..., key_len): the gradient
            that arrives at the weights. Returns (..., key_len).
            """
            return ...
        ''',
    hints=(
        "The lesson has the Jacobian: dw_i/ds_j = w_i (1 if i = j, else 0, minus w_j).",
        "Sum it over i with g_i: grad_j = w_j g_j - w_j * (sum over i of g_i w_i).",
        "total = (grad * weights).sum(last dimension, kept); return weights * (grad - total)",
    ),
    solution="""
        def softmax_backward(weights, grad):
            total = (grad * weights).sum(dim=-1, keepdim=True)  # (..., 1)
            return weights * (grad - total)
        """,
    explanation="""
        The sum g w is the gradient's mean by the weights. A score gains if its own g lies above
        that mean. All is multiplied by w, so a weight near 0 moves nothing; and if one weight is 1,
        the mean is its own g. That is why a certain softmax passes no gradient.
        """,
    steps=(
        Step(
            "the same gradient everywhere in a row: no score can gain",
            tensors(weights=[[0.25, 0.75], [0.5, 0.5]], grad=[[4, 4], [2, 2]]),
            torch.zeros(2, 2),
        ),
        Step(
            "two equal scores, gradient (80, 0): by hand (20, -20)",
            tensors(scores=[[0, 0]], grad=[[80, 0]]),
            tensor([[20.0, -20.0]]),
            weights_and_grad,
        ),
        Step(
            "three scores in each of two rows",
            tensors(scores=[[2, 0, 1], [0, 1, 3]], grad=[[1, -2, 4], [5, 0, 1]]),
            by_autograd,
            weights_and_grad,
        ),
        Step(
            "one row alone, weights 1, 0 and 0: nothing passes; no tensor of more numbers",
            tensors(weights=[1, 0, 0], grad=[5, -2, 7]),
            torch.zeros(3),
            at_once=3,
        ),
        Step(
            "a small weight, a large gradient",
            tensors(weights=[[0.001, 0.999]], grad=[[1000, 0]]),
            tensor([[0.999, -0.999]]),
        ),
        Step("float64, turned in memory", turned(MANY), by_autograd, weights_and_grad),
        Step("two dimensions in front", MANY, by_autograd, weights_and_grad),
    ),
    wrong=(
        Wrong("if one weight rises, the rest must fall", WHOLE, "weights * grad"),
        Wrong("only the Jacobian's diagonal is there", "(grad - total)", "(1 - weights) * grad"),
        Wrong("the sum runs over all rows, not over each", ".sum(dim=-1, keepdim=True)", ".sum()"),
        Wrong("the sum runs over the queries", "dim=-1,", "dim=max(-2, -weights.dim()),"),
        Wrong("the factor w in front is missing", WHOLE, "grad - total"),
        Wrong("the sign is turned round", "grad - total", "total - grad"),
        Wrong("the products g w are added up; dividing is too much", ".sum(", ".mean("),
        Wrong("the plain mean of g: weights count", "(grad * weights).sum", "grad.mean"),
        Wrong("the plain sum of g: weights count", "(grad * weights)", "grad"),
        Wrong("the mean, too, is multiplied by w", WHOLE, "weights * grad - total"),
        Wrong("w (1 - w) is a sigmoid's slope", WHOLE, "weights * (1 - weights) * (grad - total)"),
        Wrong("the dtype changed: keep that of the weights", WHOLE, f"({WHOLE}).float()"),
        Wrong("0 divided by 0: a weight may be 0", WHOLE, f"{WHOLE} * weights / weights"),
        Wrong("right, but it builds the Jacobian", WHOLE, BY_JACOBIAN),
        Wrong("autograd is what you shall do without", WHOLE, AUTOGRAD),
    ),
)
