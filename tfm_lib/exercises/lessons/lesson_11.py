"""Exercises of lesson 11: encoder and decoder blocks."""

from functools import partial
from typing import Any

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
            "post-norm ends on the norm: the sum is normalised", 'x": [-1.0, 1.0]', 'x": [2.0, 6.0]'
        ),
        Wrong(
            "x is not normalised on the road, for the sub-layer alone", "[0.0, 4.0]", "[-2.0, 2.0]"
        ),
        Wrong("nothing was normalised: the sub-layer reads norm(x)", "[0.0, 4.0]", "[2.0, 6.0]"),
        Wrong("the norm divides by n, not by n - 1", "[0.0, 4.0]", "[0.2929, 3.7071]"),
        Wrong("zeros were normalised, not x + 0", '0": [-1.0, 1.0]', '0": [0.0, 0.0]'),
        Wrong("the sub-layer adds zeros, x stays", "[1.0, 3.0]", "[0.0, 0.0]"),
        Wrong("the residual was left out: x is added", "[0.0, 4.0]", "[-1.0, 1.0]"),
        Wrong("post-norm normalises even if nothing is added", '0": [-1.0, 1.0]', '0": [1.0, 3.0]'),
        Wrong("in pre-norm nothing normalises the sum", "[1.0, 3.0]", "[-1.0, 1.0]"),
    ),
)


def by_layer_norm(x, weight, bias, eps):
    """PyTorch's own."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def slopes(answer, *given):
    """The gradients of the first column at all tensors; zeros where they are cut off."""
    inputs = [x.requires_grad_() for x in given if torch.is_tensor(x)]
    total = answer(*given)[..., 0].sum() + sum(0 * x.sum() for x in inputs)
    return list(torch.autograd.grad(total, inputs))


def norm_of(x, eps):
    """What a step hands in: weight 1, bias 0."""
    width = len(x[0])
    return {**tensors(x=x, weight=[1] * width, bias=[0] * width), "eps": eps}


WIDE: dict[str, Any] = {
    "x": torch.arange(24.0).reshape(2, 3, 4).square() % 7,
    **tensors(weight=[1, 2, 3, 4], bias=[0, 1, 0, -1]),
    "eps": 0.5,
}
DOUBLE = {name: value if name == "eps" else value.double() for name, value in WIDE.items()}
DOUBLE["x"] = DOUBLE["x"].mT.contiguous().mT

VARIANCE = "distance.square().mean(dim=-1, keepdim=True)"  # in the solution

NORM = Exercise(
    id="11.2",
    title="LayerNorm, to the last digit",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Write layer normalisation with its two trained vectors, for any leading dimensions, without
        PyTorch's norms (`layer_norm`, `group_norm`, `batch_norm`, `instance_norm`, `rms_norm` and
        their modules). It must equal `F.layer_norm` for any epsilon, and so must its gradient.
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
        1 / (1 + 3). With the usual 0.00001 it shows only where all numbers are nearly the same.
        """,
    steps=(
        Step("2 and 6, eps 0: -1 and 1", norm_of([[2, 6]], 0.0), tensor([[-1.0, 1.0]])),
        Step("1 and 3, eps 3: sqrt(1 + 3) is 2", norm_of([[1, 3]], 3.0), tensor([[-0.5, 0.5]])),
        Step("two positions", norm_of([[1, 2, 6], [30, 10, 20]], 1e-5), by_layer_norm),
        Step("two sentences, three positions, width 4", WIDE, by_layer_norm),
        Step("large, little apart", norm_of([[10001, 10003]], 0.0), tensor([[-1.0, 1.0]])),
        Step("the gradients", WIDE, partial(slopes, by_layer_norm), slopes),
        Step("float64, memory not contiguous", DOUBLE, by_layer_norm),
    ),
    forbidden=(
        *("layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "batch_norm"),
        *("native_batch_norm", "instance_norm", "rms_norm", "LayerNorm", "GroupNorm", "RMSNorm"),
    ),
    wrong=(
        Wrong(
            "PyTorch's own norm does the work",
            "distance / (variance + eps).sqrt() * weight + bias",
            "F.layer_norm(x, x.shape[-1:], weight, bias, eps)",
        ),
        Wrong("the statistics are part of the gradient", "x.mean(", "x.detach().mean("),
        Wrong(
            "the mean distance is not the root of the mean square",
            VARIANCE,
            "distance.abs().mean(dim=-1, keepdim=True).square()",
        ),
        Wrong(
            "mean of squares minus square of the mean: of large numbers nothing is left",
            VARIANCE,
            "x.square().mean(-1, keepdim=True) - x.mean(-1, keepdim=True).square()",
        ),
        Wrong(
            "the variance is divided by n, not by n - 1", VARIANCE, "x.var(dim=-1, keepdim=True)"
        ),
        Wrong("the weight no longer learns", "* weight", "* weight.detach()"),
        Wrong("divided by the variance, not by its root", ".sqrt()", ""),
        Wrong("the mean was not subtracted before dividing", "return distance /", "return x /"),
        Wrong("eps stands outside the root", "(variance + eps).sqrt()", "(variance.sqrt() + eps)"),
        Wrong("eps is an argument: it need not be 0.00001", "+ eps", "+ 1e-5"),
        Wrong("the bias was multiplied too: first weight, then bias", "+ bias", "+ bias * weight"),
        Wrong("one mean for all positions", "x.mean(dim=-1, keepdim=True)", "x.mean()"),
        Wrong("one variance for all positions", VARIANCE, "distance.square().mean()"),
    ),
)


def affine(x):
    """A sub-layer with a bias that can be followed by eye."""
    return 2 * x + 1


def tenfold(x):
    """In place of dropout: the last entry goes, and one sees how often it was called."""
    return 10 * x * (torch.arange(x.size(-1)) < x.size(-1) - 1)


def around(sublayer, dropout):
    """What a step of the lab hands in."""
    return {"x": ONE_THREE, "sublayer": sublayer, "norm": nn.LayerNorm(2), "dropout": dropout}


def by_formula(x, sublayer, norm, dropout):
    """The same with PyTorch's function in place of the module."""
    return x + dropout(sublayer(F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias)))


ONE_THREE = tensor([[[1.0, 3.0]]])
TRAINED = nn.LayerNorm(3)
TRAINED.weight.data, TRAINED.bias.data = tensor([1.0, 2.0, 3.0]), tensor([0.0, 1.0, -1.0])
BOTH = around(affine, tenfold) | {"norm": TRAINED} | tensors(x=[[[1, 3, 2]], [[7, 7, 1]]])

STEP = "x + dropout(sublayer(norm(x)))"  # the solution

PRE_NORM = Exercise(
    id="11.3",
    title="Broken Transformer: the input is lost on its way up",
    kind="mend",
    difficulty=2,
    minutes=8,
    task="""
        A pre-norm step. Shapes are right and the model learns, but a deep stack learns no better
        than a shallow one. **Symptom:** entries are as large after 24 layers as after one; in the
        lesson's pre-norm stack they grew. **Tool:** a sub-layer of zeros: what must come out?
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
        Step("a sub-layer of zeros", around(torch.zeros_like, nn.Identity()), ONE_THREE),
        Step("a dropout that drops everything", around(affine, torch.zeros_like), ONE_THREE),
        Step("a sub-layer 2x + 1", around(affine, nn.Identity()), tensor([[[0.0, 6.0]]])),
        Step("a trained norm, 10x as dropout", BOTH, by_formula),
        Step("the gradient goes both ways", BOTH, partial(slopes, by_formula), slopes),
    ),
    wrong=(
        Wrong("the residual was taken out altogether", "x + dr", "dr"),
        Wrong("that is post-norm: the sum is normalised", STEP, "norm(x + dropout(sublayer(x)))"),
        Wrong(
            "dropout was put on the sum: keep the road open", STEP, "dropout(x + sublayer(norm(x)))"
        ),
        Wrong("dropout is gone from the sub-layer's output", STEP, "x + sublayer(norm(x))"),
        Wrong("the sub-layer no longer reads a normalised x", "sublayer(norm(x))", "sublayer(x)"),
        Wrong("dropout comes before the sub-layer", STEP, "x + sublayer(dropout(norm(x)))"),
        Wrong("the sub-layer's output was normalised", "sublayer(norm(x))", "norm(sublayer(x))"),
        Wrong("dropout was called twice", "sublayer(norm(x))", "dropout(sublayer(norm(x)))"),
        Wrong("the norm that was given is not used", "norm(x)", "F.layer_norm(x, x.shape[-1:])"),
        Wrong("the input was changed in place", STEP, "x.add_(dropout(sublayer(norm(x))))"),
        Wrong("the sub-layer's path is cut off", "norm(x)", "norm(x.detach())"),
        Wrong("the road past the sub-layer is cut off", "x + dr", "x.detach() + dr"),
    ),
)


def block_of_ones(answer, *, training):
    """The answer's block, 2 -> 3 -> 2, with weights that anyone can make, whatever their names.

    Matrices of ones; biases of -10, 1, 2, then of 1, 1. So (3, 5) gives 0, 9, 10, then 20, 20.
    """
    block = answer(2, 3, 0.6)
    for parameter in block.parameters():
        values = {(3,): tensor([-10.0, 1.0, 2.0])}.get(tuple(parameter.shape), tensor(1.0))
        parameter.data.copy_(values.expand_as(parameter))
    return block.train(training)


def evaluated(answer, x):
    """What it gives in evaluation."""
    return block_of_ones(answer, training=False)(x)


def values_in_training(answer, size):
    """The different values that come for an input of threes."""
    out = block_of_ones(answer, training=True)(torch.full((size, 2), 3.0))
    return sorted({round(value, 2) for value in out.flatten().tolist()})


def draws(answer, size):
    """What can be said of 2 x `size` entries in training, drawn twice."""
    block = block_of_ones(answer, training=True)
    one, two = (block(torch.full((size, 2), 3.0)) for _ in "ab")
    dropped = one == 3
    one.sum().backward()
    share, by_itself = dropped.float().mean().item(), dropped[:, 0] != dropped[:, 1]
    reached = [parameter.grad is not None for parameter in block.parameters()]
    found = 0.55 < share < 0.65, bool(by_itself.any()), not torch.equal(one, two), all(reached)
    return dict(zip(DRAWS, found, strict=True))


DRAWS = ("6 of 10 are dropped", "each by itself", "others the next time", "all weights learn")
FIVES = tensors(x=[[3, 5], [3, 5], [3, 5]])
RIGHT = tensor([[23.0, 25.0], [23.0, 25.0], [23.0, 25.0]])

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
        evaluation nothing is dropped, in training the sub-layer's output is, and x never. Names
        inside are free.
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
                y = self.contract(self.expand(x).relu())
                return x + self.dropout(y)
        """,
    explanation="""
        `eval()` reaches modules that the block holds, nothing else. A function has no mode, and a
        module made inside `forward` is a new one, in training mode. So `nn.Dropout` is made once,
        in `__init__`. Gradients and modes are two things: `no_grad` switches no dropout off.
        """,
    steps=(
        Step("evaluation: 3 + 20 and 5 + 20", FIVES, RIGHT, torch.no_grad()(evaluated)),
        Step("evaluation with gradients: the same", FIVES, RIGHT, evaluated),
        Step("training: 3, or 3 + 16 / (1 - 0.6)", {"size": 50}, [3.0, 43.0], values_in_training),
        Step("each entry is drawn anew", {"size": 1000}, dict.fromkeys(DRAWS, True), draws),
    ),
    wrong=(
        Wrong(
            "it still drops in evaluation: it was not told the mode, or is made anew in forward",
            "self.dropout(y",
            "nn.Dropout(self.dropout.p)(y",
        ),
        Wrong("x was not added any more", "x + self.dr", "self.dr"),
        Wrong(
            "whether gradients are kept is not the mode: ask self.training",
            "return x",
            "self.dropout.train(torch.is_grad_enabled())\n        return x",
        ),
        Wrong("the relu is gone", ".relu()", ""),
        Wrong("nothing is dropped in training", "self.dropout(y)", "y"),
        Wrong("x is dropped as well", "x + self.dropout(y)", "self.dropout(x + y)"),
        Wrong(
            "dropout is on the hidden layer: it belongs on the output",
            "self.expand(x).relu())",
            "self.dropout(self.expand(x).relu()))\n        return x + y",
        ),
        Wrong(
            "the hidden layer is dropped, too",
            "self.expand(x).relu()",
            "self.dropout(self.expand(x).relu())",
        ),
        Wrong("the input is dropped as well", "self.expand(x)", "self.expand(self.dropout(x))"),
        Wrong("p is what is dropped, not what is kept", "nn.Dropout(p)", "nn.Dropout(1 - p)"),
        Wrong(
            "what is kept was not divided by 1 - p: the mean sinks",
            "self.dropout(y)",
            "y * (torch.rand(y.shape) >= self.dropout.p * self.training)",
        ),
        Wrong(
            "whole positions are dropped", "self.dropout(y)", "self.dropout(y[..., :1] ** 0) * y"
        ),
        Wrong("the same are dropped each time", "return", "torch.manual_seed(0)\n        return"),
        Wrong("the block no longer learns", "dropout(y)", "dropout(y.detach())"),
    ),
)
