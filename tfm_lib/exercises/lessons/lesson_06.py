"""Exercises of lesson 06: scaled dot-product attention."""

import torch
from torch import tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def from_torch(query, key, value):
    """Output and weights by PyTorch's kernel, which hands out the weights if value is identity."""
    identity = torch.eye(key.size(-2)).expand(*key.shape[:-1], -1)
    weights = F.scaled_dot_product_attention(query, key, identity)
    return F.scaled_dot_product_attention(query, key, value), weights


def by_autograd(scores, grad):
    """The gradient at the scores, given the one at the weights."""
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(scores.softmax(dim=-1), scores, grad)[0]


def weights_and_grad(answer, scores, grad):
    """Hand an answer the weights that belong to the scores."""
    return answer(scores.softmax(dim=-1), grad)


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
        add up to, and one weight of a query that is all zeros.
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
        Wrong("the output has the width of the values, not of the keys", "(4, 3)", "(4, 6)"),
        Wrong("there is an answer for each query, not for each key", "(4, 3)", "(5, 3)"),
        Wrong("each row adds up to 1, and there is a row for each query", "4.0", "1.0"),
        Wrong("each query shares itself out, not each key", "4.0", "5.0"),
        Wrong("a score of 0 is not a weight of 0: equal scores share evenly", "0.2", "0.0"),
    ),
)

ATTEND = Exercise(
    id="06.2",
    title="Attention in a few lines",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Write scaled dot-product attention without a mask, for any leading dimensions: return the
        output **and** the weights. Use neither PyTorch's function nor the library's.
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
        Step(
            "one key: its value comes through, whatever the score",
            tensors(query=[[1, 2]], key=[[3, 1]], value=[[7, 8, 9]]),
            lambda query, key, value: (value, tensor([[1.0]])),
        ),
        Step(
            "two keys of equal score: the mean of their values",
            tensors(query=[[1, 0]], key=[[2, 0], [2, 5]], value=[[4], [6]]),
            lambda query, key, value: (tensor([[5.0]]), tensor([[0.5, 0.5]])),
        ),
        Step(
            "scores 4 and 0 at width 4: scaled to 2 and 0",
            tensors(query=[[2, 0, 0, 0]], key=[[2, 0, 0, 0], [0, 1, 0, 0]], value=[[10], [0]]),
            from_torch,
        ),
        Step(
            "two queries, three keys: each query shares out its own attention",
            tensors(query=[[1, 0], [0, 2]], key=[[1, 0], [0, 1], [1, 1]], value=[[1], [2], [4]]),
            from_torch,
        ),
        Step(
            "a batch of two, three heads each",
            {
                "query": torch.arange(48.0).reshape(2, 3, 4, 2) % 5,
                "key": torch.arange(60.0).reshape(2, 3, 5, 2) % 7,
                "value": torch.arange(90.0).reshape(2, 3, 5, 3) % 4,
            },
            from_torch,
        ),
    ),
    wrong=(
        Wrong("the scores were not divided by sqrt(d_k)", " / math.sqrt(query.size(-1))", ""),
        Wrong(
            "divided by d_k, not by its square root", "math.sqrt(query.size(-1))", "query.size(-1)"
        ),
        Wrong("the softmax runs over the queries: its rows do not add up to 1", "dim=-1", "dim=-2"),
        Wrong(
            "divided after the softmax: the weights do not add up to 1",
            " / math.sqrt(query.size(-1))\n    weights = scores.softmax(dim=-1)",
            "\n    weights = scores.softmax(dim=-1) / math.sqrt(query.size(-1))",
        ),
        Wrong("the scores came back, not the weights", "@ value, weights", "@ value, scores"),
        Wrong(
            "a batch in front moves the last two dimensions", "transpose(-2, -1)", "transpose(0, 1)"
        ),
    ),
)

SOFTMAX = Exercise(
    id="06.3",
    title="Broken Transformer: the weights turn into NaN",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        This softmax is right on paper. In a model it works for a while; then one day the loss is
        NaN. **Symptom:** rows of NaN among the weights, and only where scores are large. **Tool:**
        `weights.isnan().any(dim=-1)` finds the rows; then look at their scores, and at `exp` of
        them. Mend it without `torch.softmax`. Scores of any size must give the true weights.
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
        Step("scores 0 and 0: half and half", tensors(scores=[[0, 0]]), tensor([[0.5, 0.5]])),
        Step("scores 100 and 100: as well", tensors(scores=[[100, 100]]), tensor([[0.5, 0.5]])),
        Step(
            "scores 101 and 100: as 1 and 0",
            tensors(scores=[[101, 100]]),
            lambda scores: tensor([[1.0, 0.0]]).softmax(dim=-1),
        ),
        Step(
            "a row of large scores beside a row of small ones",
            tensors(scores=[[200, 201, 199], [1, 0, 2]]),
            lambda scores: scores.double().softmax(dim=-1).float(),
        ),
        Step(
            "a row whose scores lie far apart",
            tensors(scores=[[0, 300, 0, 0]]),
            tensor([[0.0, 1.0, 0.0, 0.0]]),
        ),
    ),
    wrong=(
        Wrong(
            "NaN was replaced afterwards: the row is no distribution any more",
            """
            def softmax_of(scores):
                powers = scores.exp()
                return (powers / powers.sum(dim=-1, keepdim=True)).nan_to_num(0.0)
            """,
        ),
        Wrong(
            "scores were cut off at a limit: what lies above it can no longer be told apart",
            """
            def softmax_of(scores):
                powers = scores.clamp(max=80).exp()
                return powers / powers.sum(dim=-1, keepdim=True)
            """,
        ),
        Wrong(
            "one maximum for all rows: a row far below becomes 0/0",
            ".amax(dim=-1, keepdim=True)",
            ".max()",
        ),
        Wrong(
            "dividing the scores changes the shares",
            "(scores - scores.amax(dim=-1, keepdim=True))",
            "(scores / scores.amax(dim=-1, keepdim=True).clamp(min=1))",
        ),
    ),
)

BACKWARD = Exercise(
    id="06.4",
    title="Back through the softmax",
    kind="write",
    difficulty=3,
    minutes=15,
    task="""
        Given the weights $w$ of a softmax and the gradient $g$ that arrives at them, return the
        gradient at the scores, without the Jacobian and without autograd.
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
            "the same gradient everywhere: no score can gain",
            tensors(scores=[[0, 0]], grad=[[3, 3]]),
            tensor([[0.0, 0.0]]),
            weights_and_grad,
        ),
        Step(
            "two equal scores, gradient (4, 0): by hand (1, -1)",
            tensors(scores=[[0, 0]], grad=[[4, 0]]),
            tensor([[1.0, -1.0]]),
            weights_and_grad,
        ),
        Step(
            "three scores in each of two rows",
            tensors(scores=[[2, 0, 1], [0, 1, 3]], grad=[[1, -2, 4], [5, 0, 1]]),
            by_autograd,
            weights_and_grad,
        ),
    ),
    wrong=(
        Wrong(
            "if one weight rises, the rest must fall: they are left out", "(grad - total)", "grad"
        ),
        Wrong("only the Jacobian's diagonal is there", "(grad - total)", "(1 - weights) * grad"),
        Wrong("the sum runs over all rows, not over each", ".sum(dim=-1, keepdim=True)", ".sum()"),
        Wrong("the factor w in front is missing", "weights * (grad - total)", "grad - total"),
        Wrong("the sign is turned round", "grad - total", "total - grad"),
    ),
)
