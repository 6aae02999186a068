"""Exercises of lesson 02: recurrent networks."""

import torch
from torch import nn, tensor

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, slopes, tensors


def factors_by_torch():
    """What the predictions come to, by autograd and PyTorch's own functions."""
    z = torch.zeros(1, requires_grad=True)
    h = torch.tensor([0.6]).atanh().requires_grad_()
    short = nn.Parameter(torch.zeros(2))
    short.grad = tensor([0.3, 0.4])
    nn.utils.clip_grad_norm_([short], 5.0)
    return {
        "sigmoid's slope at 0": torch.autograd.grad(torch.sigmoid(z), z)[0].item(),
        "tanh's slope where the state is 0.6": torch.autograd.grad(h.tanh(), h)[0].item(),
        "what 3 steps with weight 0.5 leave": 0.5 * 0.5 * 0.5,
        "(0.3, 0.4) clipped at 5": short.grad.tolist(),
        "weights and biases of nn.RNN(2, 4)": sum(p.numel() for p in nn.RNN(2, 4).parameters()),
    }


FACTORS = Exercise(
    id="02.1",
    title="One factor a step",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Five entries, each without a computer, each exact. The third: a ReLU that is on, recurrent
        weight 0.5; what is left of a gradient three steps back? The fourth: the gradient (0.3, 0.4)
        is clipped at length 5. The fifth: how many numbers, all together, does the layer learn?
        """,
    stub="""
        five_factors = {
            "sigmoid's slope at 0": ...,
            "tanh's slope where the state is 0.6": ...,
            "what 3 steps with weight 0.5 leave": ...,
            "(0.3, 0.4) clipped at 5": [..., ...],
            "weights and biases of nn.RNN(2, 4)": ...,
        }
        """,
    hints=(
        "Slopes in terms of the output: sigmoid s (1 - s), tanh 1 - h^2.",
        "Each step back multiplies by w times the slope. Clipping only ever shortens.",
        "0.5 * 0.5; 1 - 0.36; 0.5 ** 3; length 0.5 is below 5; 4*2 + 4*4 + 4 + 4",
    ),
    solution="""
        five_factors = {
            "sigmoid's slope at 0": 0.25,
            "tanh's slope where the state is 0.6": 0.64,
            "what 3 steps with weight 0.5 leave": 0.125,
            "(0.3, 0.4) clipped at 5": [0.3, 0.4],
            "weights and biases of nn.RNN(2, 4)": 32,
        }
        """,
    explanation="""
        Sigmoid never lets more than a quarter through. A large state means a flat tanh. A gradient
        that is shorter than the limit stays as it is. And PyTorch has two biases, of which only the
        sum matters.
        """,
    steps=parts(factors_by_torch),
    wrong=(
        Wrong("that is its value at 0, not its slope", ": 0.25", ": 0.5"),
        Wrong("that is tanh's slope at 0", ": 0.25", ": 1"),
        Wrong("sigmoid is not flat at 0: there it is steepest", ": 0.25", ": 0"),
        Wrong("the slope is 1 - h^2, not 1 - h", "0.64", "0.4"),
        Wrong("that is sigmoid's slope, s (1 - s)", "0.64", "0.24"),
        Wrong("1 - h^2 is the slope: no root", "0.64", "0.8"),
        Wrong("three steps are three factors", "0.125", "0.25"),
        Wrong("three steps back multiply; they do not add", "0.125", "1.5"),
        Wrong("clipping makes no gradient longer", "[0.3, 0.4]", "[3.0, 4.0]"),
        Wrong("5 is a limit, not a divisor", "[0.3, 0.4]", "[0.06, 0.08]"),
        Wrong("5 is the limit, not 1", "[0.3, 0.4]", "[0.6, 0.8]"),
        Wrong("PyTorch keeps two biases", ": 32", ": 28"),
        Wrong("the biases are learned, too", ": 32", ": 24"),
        Wrong("the recurrent weights are missing", ": 32", ": 16"),
    ),
)


def clipped_by_torch(grads, max_norm):
    """PyTorch's own clipping."""
    holders = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for holder, grad in zip(holders, grads, strict=True):
        holder.grad = grad.clone()
    nn.utils.clip_grad_norm_(holders, max_norm)
    return [holder.grad for holder in holders]


LENGTH = "math.sqrt(sum(grad.square().sum().item() for grad in grads))"
NO_COPY = ("[grad * factor for grad in grads]", "[g * factor if factor < 1 else g for g in grads]")
BY_TORCH = (
    """
    def clip_together(grads, max_norm):
        holders = [nn.Parameter(grad.clone()) for grad in grads]
        for holder in holders:
            holder.grad = holder.detach().clone()
        nn.utils.clip_grad_norm_(holders, max_norm)
        return [holder.grad for holder in holders]
    """,
)


def copied(clip, grads, max_norm):
    """Of each gradient that came back: whether it lies elsewhere than the one handed in."""
    places = [grad.data_ptr() for grad in grads]
    return ["the old one" if g.data_ptr() in places else "a copy" for g in clip(grads, max_norm)]


CLIP = Exercise(
    id="02.2",
    forbidden=(
        "clip_grad_norm_",
        "clip_grads_with_norm_",
        "clip_grad_norm",
        "get_total_norm",
        "renorm",
    ),
    title="Clip by the whole length",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        A model has many weight matrices, and a gradient for each. Clip them **together**: if the
        length of all numbers as one vector is above `max_norm`, shorten all by the same factor.
        Return new tensors, each of the shape and dtype of the old one; leave the old ones as they
        are. Do without PyTorch's own clipping. Four digits must be right.
        """,
    stub='''
        def clip_together(grads, max_norm):
            """grads: a list of tensors of any shapes. Returns a list of tensors, same shapes."""
            return ...
        ''',
    hints=(
        "All gradients are one long vector. Its direction must stay.",
        "length = sqrt(sum of the squares of all entries); factor = max_norm / length",
        "factor = min(1, max_norm / length); return [grad * factor for each grad]",
    ),
    solution="""
        def clip_together(grads, max_norm):
            length = math.sqrt(sum(grad.square().sum().item() for grad in grads))
            factor = min(1.0, max_norm / max(length, 1e-12))
            return [grad * factor for grad in grads]
        """,
    explanation="""
        Clipping each tensor, or each number, alone would turn the direction: large parts are cut,
        small ones stay. With one factor for all, the step is shorter and goes the same way.
        """,
    steps=(
        Step(
            "one gradient of length 10, limit 5",
            {"grads": [tensor([6.0, 8.0])], "max_norm": 5.0},
            [tensor([3.0, 4.0])],
        ),
        Step(
            "a short gradient stays as it is",
            {"grads": [tensor([3.0, 0.0])], "max_norm": 5.0},
            [tensor([3.0, 0.0])],
        ),
        Step(
            "two tensors: 6 and 8 together are 10 long",
            {"grads": [tensor([6.0]), tensor([[8.0]])], "max_norm": 5.0},
            clipped_by_torch,
        ),
        Step("no gradient at all", {"grads": [torch.zeros(2)], "max_norm": 5.0}, [torch.zeros(2)]),
        Step(
            "a small limit: length 0.05, limit 0.025",
            {"grads": [tensor([0.03, 0.0]), tensor([-0.04])], "max_norm": 0.025},
            [tensor([0.015, 0.0]), tensor([-0.02])],
        ),
        Step(
            "three shapes, one of them turned in memory: length 6, limit 3",
            {
                "grads": [
                    tensor([[4.0, 1.0], [-2.0, 1.0], [0.0, 3.0]]).T,
                    tensor([2.0]),
                    tensor(-1.0),
                ],
                "max_norm": 3.0,
            },
            clipped_by_torch,
        ),
        Step(
            "float64 stays float64",
            {"grads": [tensor([[0.375], [0.5]]).double()], "max_norm": 0.125},
            [tensor([[0.075], [0.1]]).double()],
        ),
        Step(
            "what is short comes back as a copy",
            {"grads": [tensor([3.0]), tensor([1.0, 2.0])], "max_norm": 5.0},
            ["a copy", "a copy"],
            copied,
        ),
    ),
    wrong=(
        Wrong(
            "short gradients were made longer",
            "min(1.0, max_norm / max(length, 1e-12))",
            "max_norm / max(length, 1e-12)",
        ),
        Wrong(
            "each tensor was clipped alone: the direction turns",
            """
            def clip_together(grads, max_norm):
                return [g * min(1.0, max_norm / max(g.norm().item(), 1e-12)) for g in grads]
            """,
        ),
        Wrong(
            "each number was cut off alone: the direction turns",
            """
            def clip_together(grads, max_norm):
                return [grad.clamp(-max_norm, max_norm) for grad in grads]
            """,
        ),
        Wrong("the root is missing: that is the squared length", "math.sqrt", ""),
        Wrong(
            "absolute values were added up; a length adds squares",
            "math.sqrt(sum(grad.square().sum()",
            "(sum(grad.abs().sum()",
        ),
        Wrong(
            "0 divided by 0: a gradient of zeros is NaN now",
            """
            def clip_together(grads, max_norm):
                length = torch.stack([grad.norm() for grad in grads]).norm()
                return [grad / length * length.clamp(max=max_norm) for grad in grads]
            """,
        ),
        Wrong(
            "that is the mean of the squares; a length adds them up",
            LENGTH,
            "math.sqrt(sum(grad.square().mean().item() for grad in grads))",
        ),
        Wrong(
            "the largest number is not the length",
            LENGTH,
            "max(grad.abs().max().item() for grad in grads)",
        ),
        Wrong(
            "lengths do not add up: 6 and 8 make 10",
            LENGTH,
            "sum(grad.norm().item() for grad in grads)",
        ),
        Wrong("shortened to length 1, not to max_norm", "max_norm / max(", "1.0 / max("),
        Wrong("the limit is max_norm: it need not be 5", "max_norm / max(", "5.0 / max("),
        Wrong("a length below 1 is a length, too", "1e-12", "1.0"),
        Wrong(
            "the numbers became float32: keep the dtype",
            "grad * factor for",
            "(grad * factor).float() for",
        ),
        Wrong("a short gradient must come back as a copy", *NO_COPY),
        Wrong(
            "view needs numbers in one piece of memory; flatten does not",
            "grad.square()",
            "grad.view(-1).square()",
        ),
        Wrong("PyTorch's clipping is what this task asks you to write", *BY_TORCH),
    ),
)


def run_torch(x, w_x, w_h):
    """PyTorch's RNN with these weights."""
    rnn = nn.RNN(w_x.size(1), w_h.size(0), bias=False, batch_first=True)
    weights = {"weight_ih_l0": w_x, "weight_hh_l0": w_h}
    return torch.func.functional_call(rnn, weights, (x,))[0]


def gradient_of_last(read, x, w_x, w_h):
    """How the last output depends on each input: (batch, time, input_size)."""
    return slopes(lambda x: read(x, w_x, w_h)[:, -1:], x)[0]


WEIGHTS = tensors(w_x=[[1, 0], [0, 1], [1, -1]], w_h=[[0, 1, 0], [0, 0, 1], [1, 0, 0]])
READ = {**tensors(x=[[[1, 0], [0, 1], [1, 1]], [[0, 2], [1, 0], [-1, 0]]]), **WEIGHTS}
LONG = {"x": (torch.arange(56.0).reshape(7, 4, 2) * 5 % 7 / 10 - 0.3).transpose(0, 1), **WEIGHTS}
FAR = {"x": (torch.arange(120.0).reshape(2, 30, 2) % 7 - 3) / 200, **WEIGHTS}  # tanh hardly bends

LOOP = Exercise(
    id="02.3",
    title="Broken RNN: it runs, and sends no gradient to the past",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        This loop gives the right outputs. **Symptom:** trained, it remembers two or three steps
        back, and a few steps further hardly more than chance. **Tool:** `torch.autograd.grad` of
        the last output with respect to `x`: which time steps get a gradient? Mend it; the outputs
        must stay as they are, and whatever an output is made of must get its gradient in full.
        """,
    stub='''
        def read_through_time(x, w_x, w_h):
            """A tanh RNN without biases: x (batch, time, input_size) -> (batch, time, hidden_size).

            w_x (hidden_size, input_size), w_h (hidden_size, hidden_size); the first state is 0.
            """
            h = x.new_zeros(x.size(0), w_h.size(0))
            outputs = []
            for x_t in x.unbind(dim=1):
                h = torch.tanh(x_t @ w_x.T + h.detach() @ w_h.T)
                outputs.append(h)
            return torch.stack(outputs, dim=1)
        ''',
    hints=(
        "The numbers are right, so look at what only the backward pass sees.",
        "The gradient goes from a state to the state before. Which operation cuts that way?",
        "`detach` makes a copy that no gradient passes; the state must come as it is",
    ),
    solution="""
        def read_through_time(x, w_x, w_h):
            h = x.new_zeros(x.size(0), w_h.size(0))
            outputs = []
            for x_t in x.unbind(dim=1):
                h = torch.tanh(x_t @ w_x.T + h @ w_h.T)
                outputs.append(h)
            return torch.stack(outputs, dim=1)
        """,
    explanation="""
        `detach` has its use: truncated backpropagation cuts the way every so many steps on purpose,
        to save memory. Cut at each step, nothing flows back at all. A test of outputs cannot find
        this; a test of gradients does.
        """,
    steps=(
        Step("one time step", {**tensors(x=[[[1, 2]]]), **WEIGHTS}, run_torch),
        Step("three time steps, two rows", READ, run_torch),
        Step("seven time steps", LONG, run_torch),
        Step(
            "the last output depends on every input",
            READ,
            lambda *given: gradient_of_last(run_torch, *given),
            gradient_of_last,
        ),
        Step(
            "the last of seven, too",
            LONG,
            lambda *given: gradient_of_last(run_torch, *given),
            gradient_of_last,
        ),
        Step(
            "the last of thirty, small inputs and a turning state",
            FAR,
            lambda *given: gradient_of_last(run_torch, *given),
            gradient_of_last,
        ),
        Step(
            "every output, by every input and weight",
            LONG,
            lambda *given: slopes(run_torch, *given),
            slopes,
        ),
    ),
    wrong=(
        Wrong("now no gradient reaches the inputs", "x_t @ w_x.T", "x_t.detach() @ w_x.T"),
        Wrong("the state no longer goes into the next step", "h @ w_h.T", "0 * h"),
        Wrong("the recurrent weights are turned: h @ w_h.T", "h @ w_h.T", "h @ w_h"),
        Wrong(
            "the time steps are stacked before the batch",
            "torch.stack(outputs, dim=1)",
            "torch.stack(outputs)",
        ),
        Wrong("only the last state came back", "torch.stack(outputs, dim=1)", "h"),
        Wrong(
            "the tanh is missing", "torch.tanh(x_t @ w_x.T + h @ w_h.T)", "x_t @ w_x.T + h @ w_h.T"
        ),
        Wrong(
            "the state is cut off every third step",
            "h @ w_h.T",
            "(h if len(outputs) % 3 else h.detach()) @ w_h.T",
        ),
        Wrong(
            "the state is cut off every tenth step",
            "h @ w_h.T",
            "(h.detach() if len(outputs) % 10 == 9 else h) @ w_h.T",
        ),
        Wrong(
            "all but the last outputs are cut off",
            "stack(outputs,",
            "stack([h.detach() for h in outputs[:-1]] + [h],",
        ),
        Wrong("the recurrent weights get no gradient", "h @ w_h.T", "h @ w_h.detach().T"),
        Wrong("the input's weights get no gradient", "x_t @ w_x.T", "x_t @ w_x.detach().T"),
        Wrong("the first state is 0", "h = x.new_zeros", "h = x.new_ones"),
        Wrong("the last input was read first", "x.unbind(dim=1)", "x.flip(1).unbind(dim=1)"),
        Wrong(
            "now no gradient reaches the inputs",
            "outputs, dim=1)",
            "outputs, dim=1).detach()",
        ),
        Wrong(
            "the state before was noted, not the new one",
            "stack(outputs,",
            "stack([0 * h, *outputs[:-1]],",
        ),
    ),
)
