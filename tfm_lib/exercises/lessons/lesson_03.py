"""Exercises of lesson 03: gates."""

import itertools
import math

import torch
from torch import nn, tensor

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, slopes, tensors


def gates_by_torch():
    """What the predictions come to."""
    cell = 0.5 * 2.0 + 0.25 * 0.8
    return {
        "the new cell": cell,
        "the new cell, forget gate 1 and input gate 0": 2.0,
        "left of a gradient after 10 steps at gate 0.9": 0.9**10,
        "weights of an LSTM over those of an RNN": count(nn.LSTM) / count(nn.RNN),
        "weights of a GRU over those of an RNN": count(nn.GRU) / count(nn.RNN),
    }


def count(kind):
    """How many numbers a layer from 3 to 5 holds."""
    return sum(p.numel() for p in kind(3, 5).parameters())


POWERS = "(scores.exp() - (-scores).exp()) / (scores.exp() + (-scores).exp())"
OF_GATES = ('gate 0": 2.0',)
OF_LSTM = ('LSTM over those of an RNN": 4',)
OF_GRU = ('GRU over those of an RNN": 3',)

GATES = Exercise(
    id="03.1",
    title="One step of a cell",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        A cell holds 2.0. The forget gate is 0.5, the input gate 0.25, the candidate 0.8. Predict
        the new cell; the new cell with the gates at 1 and 0 instead; what is left of a gradient on
        the direct way after 10 steps with the forget gate at 0.9; and what LSTM and GRU cost, as
        multiples of an RNN. Two digits after the point will do.
        """,
    stub="""
        one_step = {
            "the new cell": ...,
            "the new cell, forget gate 1 and input gate 0": ...,
            "left of a gradient after 10 steps at gate 0.9": ...,
            "weights of an LSTM over those of an RNN": ...,
            "weights of a GRU over those of an RNN": ...,
        }
        """,
    hints=(
        "Which gate goes with the old cell, which with the candidate? How many blocks has a layer?",
        "new = forget * old + input * candidate; a factor each step; a block of weights per score",
        "0.5 * 2.0 + 0.25 * 0.8; then 2.0 untouched; 0.9 ** 10",
    ),
    solution="""
        one_step = {
            "the new cell": 1.2,
            "the new cell, forget gate 1 and input gate 0": 2.0,
            "left of a gradient after 10 steps at gate 0.9": 0.35,
            "weights of an LSTM over those of an RNN": 4,
            "weights of a GRU over those of an RNN": 3,
        }
        """,
    explanation="""
        Half of the old cell stays, a quarter of the candidate comes in. With the gates at 1 and 0
        nothing is touched. 0.9 ten times is about a third: a gate that looks open forgets soon.
        Three gates and a candidate make four blocks; the GRU has two gates and a candidate.
        """,
    steps=tuple(
        Step(step.asks, step.given, step.want, step.run, 0.005) for step in parts(gates_by_torch)
    ),
    wrong=(
        Wrong("the gates are exchanged: forget goes with the old cell", ": 1.2", ": 0.9"),
        Wrong("no tanh stands between the old cell and the new one", ": 1.2", ": 0.8337"),
        Wrong("the input gate is one of its own, not 1 - forget", ": 1.2", ": 1.4"),
        Wrong("the candidate passes the input gate first", ": 1.2", ": 1.8"),
        Wrong("nothing of the candidate came in", ": 1.2", ": 1.0"),
        Wrong("the forget gate says how much stays, not how much goes", *OF_GATES, 'gate 0": 0.0'),
        Wrong("an input gate of 0 lets nothing in", *OF_GATES, 'gate 0": 2.8'),
        Wrong("ten factors, not ten times a tenth", "0.35", "0.0"),
        Wrong("that is what is lost, not what is left", "0.35", "0.65"),
        Wrong("that is one step, not ten", "0.35", "0.9"),
        Wrong("the candidate has a block, too", *OF_LSTM, 'LSTM over those of an RNN": 3'),
        Wrong("the cell itself has no weights", *OF_LSTM, 'LSTM over those of an RNN": 5'),
        Wrong("the candidate has a block, too", *OF_GRU, 'GRU over those of an RNN": 2'),
        Wrong("a GRU has a gate less than an LSTM", *OF_GRU, 'GRU over those of an RNN": 4'),
    ),
)


def paper_gru_by_loops(x, h, w, u):
    """Unit by unit: first all reset and update gates, then the candidates from the reset state."""
    size = h.size(-1)
    new = torch.zeros_like(h)
    x, h, w, u = (value.double() for value in (x, h, w, u))
    for row in range(len(h)):
        scores = [float(w[i] @ x[row]) for i in range(3 * size)]
        reset = [sigmoid(scores[i] + float(u[i] @ h[row])) for i in range(size)]
        update = [sigmoid(scores[size + i] + float(u[size + i] @ h[row])) for i in range(size)]
        for i in range(size):
            past = sum(float(u[2 * size + i, j]) * reset[j] * float(h[row, j]) for j in range(size))
            candidate = math.tanh(scores[2 * size + i] + past)
            new[row, i] = update[i] * h[row, i] + (1 - update[i]) * candidate
    return new


def sigmoid(score):
    """The sigmoid of a plain number."""
    return (1 + math.tanh(score / 2)) / 2


def by_nudging(*given):
    """What `slopes` asks for, from the loops: each number is moved a little to both sides."""
    given = [value.detach().double() for value in given]
    found = [torch.zeros_like(value) for value in given]
    for value, slope in zip(given, found, strict=True):
        for place in itertools.product(*map(range, value.shape)):
            for nudge in (1e-4, -1e-4):
                value[place] += nudge
                slope[place] += counted(paper_gru_by_loops(*given)) / (2 * nudge)
                value[place] -= nudge
    return [slope.float() for slope in found]


def counted(result):
    """The sum of a result's numbers: the first counts 1, the second 2, and so on."""
    return (result * torch.arange(1.0, result.numel() + 1).reshape(result.shape)).sum()


def one_unit(x, h, w, u):
    """A step of one unit: x and h are numbers, w and u hold reset, update, candidate."""
    return tensors(x=[[x]], h=[[h]], w=[[number] for number in w], u=[[number] for number in u])


TWO_UNITS = tensors(
    x=[[1, 2, 0]],
    h=[[1, -1]],
    w=[[1, 0, 1], [0, -1, 0], [0, 1, 1], [-1, 0, 2], [1, 1, 0], [1, -1, 1]],
    u=[[0, 1], [2, 0], [1, 3], [0, 1], [2, 1], [-1, 0]],
)
THREE_ROWS = TWO_UNITS | tensors(x=[[1, 2, 0], [0, 1, -1], [-1, 0, 1]], h=[[1, -1], [0, 2], [1, 1]])

PAPER = Exercise(
    id="03.2",
    title="The GRU as the paper has it",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        The lesson's GRU resets **after** the product with the recurrent matrix, as PyTorch does.
        Write one step of the paper's: the candidate is made from the state that was reset
        **before** the product. No biases. As in the lesson, an update gate of 1 keeps the state. It
        must hold for scores of any size and for any dtype, and pass the gradient on.
        """,
    stub='''
        def paper_gru_step(x, h, w, u):
            """One step: x (batch, input_size), h (batch, hidden_size) -> (batch, hidden_size).

            w (3 * hidden_size, input_size), u (3 * hidden_size, hidden_size); blocks: reset,
            update, candidate.
            """
            return ...
        ''',
    hints=(
        "The gates come first, from x and h. Only then can the state be reset.",
        "r, z = sigmoid(W x + U h) in their blocks; n = tanh(W_n x + U_n (r * h)); z h + (1 - z) n",
        """
        cut w and u into three blocks each (chunk); reset and update by sigmoid
        candidate = tanh(x @ w_n.T + (reset * h) @ u_n.T)
        """,
    ),
    solution="""
        def paper_gru_step(x, h, w, u):
            (w_r, w_z, w_n), (u_r, u_z, u_n) = w.chunk(3), u.chunk(3)
            reset = torch.sigmoid(x @ w_r.T + h @ u_r.T)
            update = torch.sigmoid(x @ w_z.T + h @ u_z.T)
            scores = x @ w_n.T + (reset * h) @ u_n.T
            candidate = torch.tanh(scores)
            return update * h + (1 - update) * candidate
        """,
    explanation="""
        The paper's form needs two products with U, one after the other, because the reset state is
        not known before the gates. PyTorch's needs one, which is faster on a GPU. With one unit the
        two are the same, which is why a test with one unit alone would prove little.
        """,
    steps=(
        Step(
            "all weights 0: half of the state stays",
            one_unit(1, 4, (0, 0, 0), (0, 0, 0)),
            torch.tensor([[2.0]]),
        ),
        Step(
            "update gate near 1: the state stays",
            one_unit(1, 3, (0, 50, 2), (0, 0, 0)),
            torch.tensor([[3.0]]),
        ),
        Step(
            "reset gate near 1: the candidate sees the state",
            one_unit(1, 1, (50, 0, 1), (0, 0, 1)),
            paper_gru_by_loops,
        ),
        Step(
            "reset gate near 0: the candidate sees x alone",
            one_unit(1, 1, (-50, 0, 1), (0, 0, 1)),
            paper_gru_by_loops,
        ),
        Step(
            "scores of 1000 and -1000: the state stays, or becomes 1 or -1",
            tensors(x=[[1], [-1]], h=[[3], [2]], w=[[0], [1000], [1000]], u=[[0], [0], [0]]),
            tensor([[3.0], [-1.0]]),
        ),
        Step("two units", TWO_UNITS, paper_gru_by_loops),
        Step("a batch of three", THREE_ROWS, paper_gru_by_loops),
        Step(
            "float64, turned in memory",
            {name: value.double().T.contiguous().T for name, value in THREE_ROWS.items()},
            paper_gru_by_loops,
        ),
        Step("the gradient at every input", THREE_ROWS, by_nudging, slopes, 1e-3),
    ),
    wrong=(
        Wrong("reset after the product, not before", "(reset * h) @ u_n.T", "reset * (h @ u_n.T)"),
        Wrong("an update gate of 1 keeps the state", "return", "update = 1 - update\n    return"),
        Wrong("a reset gate of 1 keeps the state", "(reset * h)", "((1 - reset) * h)"),
        Wrong("the state is not reset", "(reset * h)", "h"),
        Wrong("the candidate needs a tanh", "torch.tanh(scores)", "scores"),
        Wrong("the candidate is a tanh, not a sigmoid", "torch.tanh", "torch.sigmoid"),
        Wrong(
            "the order is reset, update, candidate",
            "w_r, w_z, w_n), (u_r, u_z",
            "w_z, w_r, w_n), (u_z, u_r",
        ),
        Wrong("the candidate was added to the whole state", "update * h +", "h +"),
        Wrong("the recurrent weights are turned: h @ u.T", "* h) @ u_n.T", "* h) @ u_n"),
        Wrong("the gates' recurrent weights are turned: h @ u.T", "h @ u_r.T", "h @ u_r"),
        Wrong("the update gate reads the whole state", "h @ u_z.T", "(reset * h) @ u_z.T"),
        Wrong("only the state is reset, not the input", "x @ w_n.T", "reset * (x @ w_n.T)"),
        Wrong("the reset state is for the candidate alone", "update * h", "update * reset * h"),
        Wrong("all rows got the first one's gate", "return", "update = update[:1]\n    return"),
        Wrong("infinity by infinity: powers fail at large scores", "torch.tanh(scores)", POWERS),
        Wrong("the gates' gradient is cut off", "return", "update = update.detach()\n    return"),
        Wrong("no gradient reaches the state before", "return", "h = h.detach()\n    return"),
    ),
)


def sums(x):
    """A stand-in for a layer that reads from the left: the sum so far."""
    return x.cumsum(dim=1)


def past_and_future(ahead, back, x):
    """By loops: what stands up to here, and what stands from here on."""
    rows = [[[sum(r[: t + 1]), sum(r[t:])] for t in range(len(r))] for r in x[..., 0].tolist()]
    return torch.tensor(rows)


def reversed_torch(ahead, back, x):
    """PyTorch's bidirectional RNN with the weights of the two layers."""
    both = nn.RNN(2, 3, bidirectional=True, batch_first=True)
    state = dict(ahead.named_parameters())
    state |= {f"{k}_reverse": v for k, v in back.named_parameters()}
    return torch.func.functional_call(both, state, (x,))[0]


def from_each_position(ahead, back, x):
    """For each position: the last output of `back`, having read from the end down to it."""
    behind = [back(x[:, t:].flip(1))[:, -1] for t in range(x.size(1))]
    return torch.cat([ahead(x), torch.stack(behind, dim=1)], dim=-1)


def slopes_through(answer, ahead, back, x):
    """The gradients of a counted sum at x and at the first weights of both layers."""
    x = x.clone().requires_grad_()
    leaves = [x, ahead.weight_ih_l0, back.weight_ih_l0]
    total = counted(answer(ahead, back, x)) + sum(0 * leaf.sum() for leaf in leaves)
    return list(torch.autograd.grad(total, leaves))


class OutputsAlone(nn.RNN):
    """PyTorch's RNN that returns its outputs and not its state."""

    def forward(self, x):
        return super().forward(x)[0]


TURNS = "stack([past, future], dim=-1).flatten(2)"


def layer(seed, width=3):
    """A small RNN with fixed weights."""
    small = OutputsAlone(2, width, batch_first=True)
    with torch.no_grad():
        for weight in small.parameters():
            weight.copy_((torch.arange(weight.numel()).reshape(weight.shape) * seed % 5 - 2) / 2)
    return small


def reads(asks, x):
    """A step with two layers that add up."""
    return Step(asks, {"ahead": sums, "back": sums, **tensors(x=x)}, past_and_future)


REAL = {
    "ahead": layer(1),
    "back": layer(2),
    **tensors(x=[[[1, 0], [2, 1], [0, 1]], [[0, 1], [-1, 1], [2, 0]]]),
}

BOTH = Exercise(
    id="03.3",
    title="Broken reader: both sides, at the wrong places",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        Two layers read a sequence from both ends. **Symptom:** the middle of a sequence is tagged
        well, its ends badly; and position 0 knows the last input, but not the one next to it.
        **Tool:** put in layers whose output you can follow: `cumsum`, the sum of all that was read
        so far. At position 0 the second half must be the sum of everything. The layers may have
        different widths, and the gradient must pass through both.
        """,
    stub='''
        def both_ways(ahead, back, x):
            """ahead, back: layers, (batch, time, width) -> (batch, time, own width).

            Returns both outputs side by side, for each position what each layer says of it.
            """
            return torch.cat([ahead(x), back(x.flip(1))], dim=-1)
        ''',
    hints=(
        "`back` reads the last position first. Where does its first output stand?",
        "Its output at place t belongs to position time - 1 - t.",
        "turn x around, let `back` read, and turn what it gives around again, along the time",
    ),
    solution="""
        def both_ways(ahead, back, x):
            past, future = ahead(x), back(x.flip(1)).flip(1)
            return torch.cat([past, future], dim=-1)
        """,
    explanation="""
        Turned once, the outputs of the backward layer stand in the order in which it read. Nothing
        crashes, because all shapes are right; in the middle position it is even correct. With
        padding it takes more care: each row must be turned within its own length.
        """,
    steps=(
        reads("one position", [[[7]]]),
        reads("one position in each of two rows", [[[7]], [[5]]]),
        reads("1, 2, 4: past and future", [[[1], [2], [4]]]),
        reads("two rows", [[[1], [2], [4]], [[5], [0], [3]]]),
        Step("as PyTorch's, with real layers", REAL, reversed_torch),
        Step("layers of different widths", REAL | {"back": layer(2, width=4)}, from_each_position),
        Step(
            "the gradient at the input and at the first weights of both layers",
            REAL,
            lambda *given: slopes_through(reversed_torch, *given),
            slopes_through,
        ),
    ),
    wrong=(
        Wrong("nothing was turned: both halves are the past", "back(x.flip(1)).flip(1)", "back(x)"),
        Wrong("the input was not turned, only the output", "back(x.flip(1))", "back(x)"),
        Wrong("the backward outputs stand in the order of reading", ")).flip(1)", "))"),
        Wrong("both outputs were turned", "[past, future]", "[past.flip(1), future.flip(1)]"),
        Wrong("the halves are exchanged", "[past, future]", "[future, past]"),
        Wrong("added, not put side by side", "torch.cat([past, future], dim=-1)", "past + future"),
        Wrong("the rows of the batch were turned, not the time", ")).flip(1)", ")).flip(0)"),
        Wrong("the width was turned, not the time", ")).flip(1)", ")).flip(1).flip(2)"),
        Wrong("`back` was never asked: `ahead` read both ways", "back(x", "ahead(x"),
        Wrong("`ahead` must read from the left", "ahead(x)", "ahead(x.flip(1)).flip(1)"),
        Wrong(
            "the halves take turns: each in one piece",
            "cat([past, future], dim=-1)",
            TURNS,
        ),
        Wrong("the two were put behind each other in time", "dim=-1", "dim=1"),
        Wrong("the same future everywhere", "[past, future]", "[past, 0 * future + future[:, :1]]"),
        Wrong("no gradient passes through `back`", ")).flip(1)", ")).flip(1).detach()"),
        Wrong("no gradient reaches the input", "ahead(x)", "ahead(x := x.detach())"),
    ),
)
