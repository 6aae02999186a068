"""Exercises of lesson 11: encoder and decoder blocks."""

import torch
from torch import nn, tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def orders_by_torch():
    """What the four predictions come to, with PyTorch's norm and epsilon 0."""
    x, norm = tensor([1.0, 3.0]), nn.LayerNorm(2, eps=0.0)
    echo, nothing = x.clone, torch.zeros(2)
    return {
        "post-norm, f(x) = x": norm(x + echo()).tolist(),
        "pre-norm, f(x) = x": (x + norm(x)).tolist(),
        "post-norm, f(x) = 0": norm(x + nothing).tolist(),
        "pre-norm, f(x) = 0": (x + nothing).tolist(),
    }


ORDERS = Exercise(
    id="11.1",
    title="Two orders in your head",
    kind="predict",
    difficulty=1,
    minutes=6,
    task="""
        One position holds the numbers 1 and 3. No dropout; the norm has weight 1, bias 0 and an
        epsilon of 0. Predict what a residual with norm makes of it, in both orders: once with a
        sub-layer that gives its input back, once with one that gives zeros.
        """,
    stub="""
        orders = {
            "post-norm, f(x) = x": [..., ...],
            "pre-norm, f(x) = x": [..., ...],
            "post-norm, f(x) = 0": [..., ...],
            "pre-norm, f(x) = 0": [..., ...],
        }
        """,
    hints=(
        "What is the norm of (1, 3)? Mean first, then the distances, then the standard deviation.",
        "post-norm: norm(x + f(x)). pre-norm: x + f(norm(x)).",
        "norm(1, 3) = (-1, 1), and norm(2, 6) is the same: size is forgotten",
    ),
    solution="""
        orders = {
            "post-norm, f(x) = x": [-1.0, 1.0],
            "pre-norm, f(x) = x": [0.0, 4.0],
            "post-norm, f(x) = 0": [-1.0, 1.0],
            "pre-norm, f(x) = 0": [1.0, 3.0],
        }
        """,
    explanation="""
        Post-norm ends on the norm, so its output always has mean 0 and variance 1: here the two
        cases cannot even be told apart. In pre-norm x itself goes through untouched, and the
        sub-layer adds to it. With a sub-layer of zeros, a pre-norm block does nothing.
        """,
    steps=parts(orders_by_torch),
    wrong=(
        Wrong(
            "the sum was not normalised: post-norm ends on the norm",
            'post-norm, f(x) = x": [-1.0, 1.0]',
            'post-norm, f(x) = x": [2.0, 6.0]',
        ),
        Wrong(
            "x was normalised on the road, too: only the sub-layer reads norm(x)",
            "[0.0, 4.0]",
            "[-2.0, 2.0]",
        ),
        Wrong("nothing was normalised: the sub-layer reads norm(x)", "[0.0, 4.0]", "[2.0, 6.0]"),
        Wrong("the residual was left out: x is added", "[0.0, 4.0]", "[-1.0, 1.0]"),
        Wrong(
            "post-norm normalises x even if the sub-layer adds nothing",
            'post-norm, f(x) = 0": [-1.0, 1.0]',
            'post-norm, f(x) = 0": [1.0, 3.0]',
        ),
        Wrong("in pre-norm nothing normalises the sum", "[1.0, 3.0]", "[-1.0, 1.0]"),
    ),
)


def by_layer_norm(x, weight, bias, eps):
    """PyTorch's own."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


ONES = tensors(weight=[1, 1], bias=[0, 0])

NORM = Exercise(
    id="11.2",
    title="LayerNorm, to the last digit",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Write layer normalisation with its two trained vectors, for any leading dimensions, without
        `nn.LayerNorm` and `F.layer_norm`. It must equal PyTorch's for any epsilon.
        """,
    stub='''
        def layer_norm(x, weight, bias, eps):
            """x (..., width), weight and bias (width,), eps a number -> the shape of x."""
            return ...
        ''',
    hints=(
        "Three questions: along which dimension, divided by n or n - 1, and where eps stands.",
        "(x - mean) / sqrt(variance + eps) * weight + bias; the variance is the mean square.",
        "distance = x - mean; then distance / (mean of its square + eps).sqrt() * weight + bias",
    ),
    solution="""
        def layer_norm(x, weight, bias, eps):
            distance = x - x.mean(dim=-1, keepdim=True)  # (..., width)
            variance = distance.square().mean(dim=-1, keepdim=True)  # (..., 1)
            return distance / (variance + eps).sqrt() * weight + bias
        """,
    explanation="""
        With eps = 3 and variance 1 the difference is plain: inside the root 1 / sqrt(4), outside
        1 / (1 + 3). With the usual 0.00001 it shows only where numbers are tiny: at a position that
        has died, where everything is nearly the same.
        """,
    steps=(
        Step(
            "2 and 6, eps 0: -1 and 1",
            {**tensors(x=[[2, 6]]), **ONES, "eps": 0.0},
            tensor([[-1.0, 1.0]]),
        ),
        Step(
            "1 and 3, eps 3: the root of 1 + 3 is 2",
            {**tensors(x=[[1, 3]]), **ONES, "eps": 3.0},
            tensor([[-0.5, 0.5]]),
        ),
        Step(
            "two positions: each by itself",
            {**tensors(x=[[1, 2, 6], [30, 10, 20]], weight=[1, 1, 1], bias=[0, 0, 0]), "eps": 1e-5},
            by_layer_norm,
        ),
        Step(
            "a batch of two, three positions, width 4",
            {
                "x": torch.arange(24.0).reshape(2, 3, 4).square() % 7,
                **tensors(weight=[1, 2, 3, 4], bias=[0, 1, 0, -1]),
                "eps": 0.5,
            },
            by_layer_norm,
        ),
    ),
    wrong=(
        Wrong(
            "the variance was divided by n - 1: PyTorch's norm divides by n",
            "distance.square().mean(dim=-1, keepdim=True)",
            "x.var(dim=-1, keepdim=True)",
        ),
        Wrong("divided by the variance, not by its root", ".sqrt()", ""),
        Wrong("the mean was not subtracted before dividing", "return distance /", "return x /"),
        Wrong("eps stands outside the root", "(variance + eps).sqrt()", "(variance.sqrt() + eps)"),
        Wrong("eps is an argument: it need not be 0.00001", "+ eps", "+ 1e-5"),
        Wrong(
            "the bias was multiplied too: first weight, then bias",
            "distance / (variance + eps).sqrt() * weight + bias",
            "(distance / (variance + eps).sqrt() + bias) * weight",
        ),
        Wrong(
            "one mean and one variance for all positions",
            """
            def layer_norm(x, weight, bias, eps):
                distance = x - x.mean()
                return distance / (distance.square().mean() + eps).sqrt() * weight + bias
            """,
        ),
    ),
)


def double(x):
    """A sub-layer that can be followed by eye."""
    return 2 * x


NORMS = {"norm": nn.LayerNorm(2), "dropout": nn.Identity()}

PRE_NORM = Exercise(
    id="11.3",
    title="Broken Transformer: the input is lost on its way up",
    kind="mend",
    difficulty=2,
    minutes=8,
    task="""
        A pre-norm step. Shapes are right and the model learns, but a deep stack learns no better
        than a shallow one. **Symptom:** entries are as large after 24 layers as after one; in the
        lesson's pre-norm stack they grew. **Tool:** put in a sub-layer
        that gives zeros. What must come out?
        """,
    stub='''
        def pre_norm_step(x, sublayer, norm, dropout):
            """x (batch, length, d_model) -> the same shape; the other three are functions of x."""
            x = norm(x)
            return x + dropout(sublayer(x))
        ''',
    hints=(
        "What travels on the road past the sub-layer here?",
        "x + dropout(f(norm(x))): the norm belongs to the sub-layer's path alone.",
        "do not give the normalised x the name x",
    ),
    solution="""
        def pre_norm_step(x, sublayer, norm, dropout):
            return x + dropout(sublayer(norm(x)))
        """,
    explanation="""
        One name too few: after `x = norm(x)` the old x is gone. A sub-layer of zeros is a fine
        probe: whatever still changes x stands on the road, where nothing should stand. A dropout
        that drops everything is the other one.
        """,
    steps=(
        Step(
            "a sub-layer of zeros: x comes through",
            {**tensors(x=[[[1, 3]]]), "sublayer": torch.zeros_like, **NORMS},
            tensor([[[1.0, 3.0]]]),
        ),
        Step(
            "a dropout that drops everything: x comes through",
            {
                **tensors(x=[[[1, 3]]]),
                "sublayer": double,
                "norm": nn.LayerNorm(2),
                "dropout": torch.zeros_like,
            },
            tensor([[[1.0, 3.0]]]),
        ),
        Step(
            "a sub-layer that doubles: 1 + 2 * -1 and 3 + 2 * 1",
            {**tensors(x=[[[1, 3]]]), "sublayer": double, **NORMS},
            tensor([[[-1.0, 5.0]]]),
        ),
        Step(
            "two sentences, three positions",
            {
                **tensors(x=[[[1, 3], [2, 8], [5, 4]], [[0, 1], [7, 7], [9, 2]]]),
                "sublayer": torch.square,
                **NORMS,
            },
            lambda x, *functions: x + F.layer_norm(x, (2,)).square(),
        ),
    ),
    wrong=(
        Wrong(
            "the residual was taken out altogether",
            "x + dropout(sublayer(norm(x)))",
            "dropout(sublayer(norm(x)))",
        ),
        Wrong(
            "that is post-norm: the sum is normalised",
            "x + dropout(sublayer(norm(x)))",
            "norm(x + dropout(sublayer(x)))",
        ),
        Wrong(
            "dropout was put on the sum: the road must stay open",
            "x + dropout(sublayer(norm(x)))",
            "dropout(x + sublayer(norm(x)))",
        ),
        Wrong(
            "dropout is gone from the sub-layer's output",
            "dropout(sublayer(norm(x)))",
            "sublayer(norm(x))",
        ),
        Wrong("the sub-layer no longer reads a normalised x", "sublayer(norm(x))", "sublayer(x)"),
    ),
)


def constant_block(answer, p, *, training):
    """The answer's block with a sub-layer that gives 1 everywhere."""
    block = answer(2, 3, p)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
        block.contract.bias.fill_(1.0)
    return block.train(training)


def in_evaluation(answer, p, x):
    """Run it as a user does, without gradients."""
    with torch.no_grad():
        return constant_block(answer, p, training=False)(x)


def in_evaluation_with_gradients(answer, p, x):
    """Run it as someone does who looks at gradients."""
    return constant_block(answer, p, training=False)(x)


def values_in_training(answer, p, size):
    """The different values that come for an input of threes."""
    out = constant_block(answer, p, training=True)(torch.full((size, 2), 3.0))
    return sorted({round(value, 2) for value in out.flatten().tolist()})


THREES = {"p": 0.6, **tensors(x=[[3, 5], [3, 5], [3, 5]])}
FOURS = tensor([[4.0, 6.0], [4.0, 6.0], [4.0, 6.0]])

DROPOUT = Exercise(
    id="11.4",
    title="Broken Transformer: another answer every time",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        **Symptom:** a trained model in evaluation mode gives another score each time it is asked
        the same. **Tool:** call `block.eval()`, run the same input twice and compare, first the
        whole model, then one module after the other; it leads to this class. Mend it: in
        evaluation nothing is dropped, in training the sub-layer's output is, and x never.
        """,
    stub='''
        class FeedForwardBlock(nn.Module):
            """x + dropout(feed-forward(x)): (..., d_model) -> the same shape."""

            def __init__(self, d_model, d_ff, p):
                super().__init__()
                self.expand = nn.Linear(d_model, d_ff)
                self.contract = nn.Linear(d_ff, d_model)
                self.p = p

            def forward(self, x):
                return x + F.dropout(self.contract(self.expand(x).relu()), self.p)
        ''',
    hints=(
        "How does F.dropout know in which mode the block is?",
        "It does not: its argument `training` is True unless told. A module has self.training.",
        "F.dropout(..., self.p, training=self.training), or an nn.Dropout made in __init__",
    ),
    solution="""
        class FeedForwardBlock(nn.Module):
            def __init__(self, d_model, d_ff, p):
                super().__init__()
                self.expand = nn.Linear(d_model, d_ff)
                self.contract = nn.Linear(d_ff, d_model)
                self.dropout = nn.Dropout(p)

            def forward(self, x):
                return x + self.dropout(self.contract(self.expand(x).relu()))
        """,
    explanation="""
        `eval()` reaches modules that the block holds, nothing else. A function has no mode, and a
        module made inside `forward` is a new one, in training mode. So `nn.Dropout` is made once,
        in `__init__`. Gradients and modes are two things: `no_grad` switches no dropout off.
        """,
    steps=(
        Step("evaluation: nothing is dropped, 3 + 1 and 5 + 1", THREES, FOURS, in_evaluation),
        Step("evaluation with gradients: the same", THREES, FOURS, in_evaluation_with_gradients),
        Step(
            "training: an entry is x alone, 3, or 3 + 1 / (1 - 0.6)",
            {"p": 0.6, "size": 50},
            [3.0, 5.5],
            values_in_training,
        ),
    ),
    wrong=(
        Wrong(
            "it still drops in evaluation: a module made in forward is new, so in training mode",
            "x + self.dropout(",
            "x + nn.Dropout(self.dropout.p)(",
        ),
        Wrong("x was not added any more", "x + self.dropout(", "self.dropout("),
        Wrong(
            "whether gradients are kept is not the mode: ask self.training",
            "return x + self.dropout(",
            "self.dropout.train(torch.is_grad_enabled())\n        return x + self.dropout(",
        ),
        Wrong(
            "dropout was taken out: nothing is dropped in training",
            "x + self.dropout(self.contract(self.expand(x).relu()))",
            "x + self.contract(self.expand(x).relu())",
        ),
        Wrong(
            "x is dropped as well: add it afterwards",
            "x + self.dropout(self.contract(self.expand(x).relu()))",
            "self.dropout(x + self.contract(self.expand(x).relu()))",
        ),
        Wrong(
            "p is the share that is dropped, not the share that is kept",
            "nn.Dropout(p)",
            "nn.Dropout(1 - p)",
        ),
        Wrong(
            "what is kept was not divided by 1 - p: the mean sinks",
            """
            class FeedForwardBlock(nn.Module):
                def __init__(self, d_model, d_ff, p):
                    super().__init__()
                    self.expand = nn.Linear(d_model, d_ff)
                    self.contract = nn.Linear(d_ff, d_model)
                    self.p = p

                def forward(self, x):
                    y = self.contract(self.expand(x).relu())
                    return x + y * (torch.rand_like(y) >= self.p) if self.training else x + y
            """,
        ),
    ),
)
