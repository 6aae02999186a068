"""Exercises of lesson 03: gates."""

import torch
from torch import nn

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


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


GATES = Exercise(
    id="03.1",
    title="One step of a cell",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        A cell holds 2.0. The forget gate is 0.5, the input gate 0.25, the candidate 0.8. Predict
        the new cell; the new cell with the gates at 1 and 0 instead; what is left of a gradient on
        the direct way after 10 steps with the forget gate at 0.9 (two digits will do); and what
        LSTM and GRU cost, as multiples of an RNN.
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
        "new = forget * old + input * candidate; one factor 0.9 for each step; blocks 4, 3, 1",
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
        Wrong(
            "the forget gate says how much stays, not how much goes", 'gate 0": 2.0', 'gate 0": 0.0'
        ),
        Wrong("ten factors, not ten times a tenth", "0.35", "0.0"),
        Wrong(
            "three gates and the candidate make four blocks",
            'LSTM over those of an RNN": 4',
            'LSTM over those of an RNN": 3',
        ),
        Wrong(
            "two gates and the candidate make three blocks",
            'GRU over those of an RNN": 3',
            'GRU over those of an RNN": 2',
        ),
    ),
)


def paper_gru_by_loops(x, h, w, u):
    """Unit by unit: first all reset and update gates, then the candidates from the reset state."""
    size = h.size(-1)
    new = torch.zeros_like(h)
    for row in range(len(h)):
        scores = [float(w[i] @ x[row]) for i in range(3 * size)]
        reset = [sigmoid(scores[i] + float(u[i] @ h[row])) for i in range(size)]
        update = [sigmoid(scores[size + i] + float(u[size + i] @ h[row])) for i in range(size)]
        for i in range(size):
            past = sum(float(u[2 * size + i, j]) * reset[j] * float(h[row, j]) for j in range(size))
            candidate = torch.tensor(scores[2 * size + i] + past).tanh()
            new[row, i] = update[i] * h[row, i] + (1 - update[i]) * candidate
    return new


def sigmoid(score):
    """The sigmoid of a plain number."""
    return torch.tensor(score).sigmoid().item()


def one_unit(x, h, w, u):
    """A step of one unit: x and h are numbers, w and u hold reset, update, candidate."""
    return tensors(x=[[x]], h=[[h]], w=[[number] for number in w], u=[[number] for number in u])


PAPER = Exercise(
    id="03.2",
    title="The GRU as the paper has it",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        The lesson's GRU resets **after** the product with the recurrent matrix, as PyTorch does.
        Write one step of the paper's: the candidate is made from the state that was reset
        **before** the product. No biases. As in the lesson, an update gate of 1 keeps the state.
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
            candidate = torch.tanh(x @ w_n.T + (reset * h) @ u_n.T)
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
            "reset gate near 0: the candidate sees x alone",
            one_unit(1, 1, (-50, 0, 1), (0, 0, 1)),
            paper_gru_by_loops,
        ),
        Step(
            "two units",
            tensors(
                x=[[1, 2]],
                h=[[1, -1]],
                w=[[1, 0], [0, -1], [0, 1], [-1, 0], [1, 1], [1, -1]],
                u=[[0, 1], [1, 0], [1, 0], [0, 1], [2, 1], [1, 0]],
            ),
            paper_gru_by_loops,
        ),
    ),
    wrong=(
        Wrong(
            "reset after the product, as PyTorch does", "(reset * h) @ u_n.T", "reset * (h @ u_n.T)"
        ),
        Wrong(
            "an update gate of 1 must keep the state",
            "update * h + (1 - update) * candidate",
            "(1 - update) * h + update * candidate",
        ),
        Wrong("the state is not reset", "(reset * h)", "h"),
        Wrong(
            "the candidate needs a tanh",
            "torch.tanh(x @ w_n.T + (reset * h) @ u_n.T)",
            "x @ w_n.T + (reset * h) @ u_n.T",
        ),
        Wrong(
            "the blocks are reset, update, candidate, in this order",
            "(w_r, w_z, w_n), (u_r, u_z, u_n)",
            "(w_z, w_r, w_n), (u_z, u_r, u_n)",
        ),
        Wrong("the candidate was added to the whole state", "update * h +", "h +"),
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
    state = ahead.state_dict() | {f"{k}_reverse": v for k, v in back.state_dict().items()}
    both.load_state_dict(state)
    return both(x)[0]


class OutputsAlone(nn.RNN):
    """PyTorch's RNN that returns its outputs and not its state."""

    def forward(self, x):
        return super().forward(x)[0]


def layer(seed):
    """A small RNN with fixed weights."""
    small = OutputsAlone(2, 3, batch_first=True)
    with torch.no_grad():
        for weight in small.parameters():
            weight.copy_((torch.arange(weight.numel()).reshape(weight.shape) * seed % 5 - 2) / 2)
    return small


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
        so far. At position 0 the second half must be the sum of everything.
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
            return torch.cat([ahead(x), back(x.flip(1)).flip(1)], dim=-1)
        """,
    explanation="""
        Turned once, the outputs of the backward layer stand in the order in which it read. Nothing
        crashes, because all shapes are right; in the middle position it is even correct. With
        padding it takes more care: each row must be turned within its own length.
        """,
    steps=(
        Step("one position", {"ahead": sums, "back": sums, **tensors(x=[[[7]]])}, past_and_future),
        Step(
            "1, 2, 4: past and future",
            {"ahead": sums, "back": sums, **tensors(x=[[[1], [2], [4]]])},
            past_and_future,
        ),
        Step(
            "two rows",
            {"ahead": sums, "back": sums, **tensors(x=[[[1], [2], [4]], [[5], [0], [3]]])},
            past_and_future,
        ),
        Step(
            "as PyTorch's, with real layers",
            {"ahead": layer(1), "back": layer(2), **tensors(x=[[[1, 0], [2, 1], [0, 1], [1, 1]]])},
            reversed_torch,
        ),
    ),
    wrong=(
        Wrong("nothing was turned: both halves are the past", "back(x.flip(1)).flip(1)", "back(x)"),
        Wrong(
            "the input was not turned, only the output",
            "back(x.flip(1)).flip(1)",
            "back(x).flip(1)",
        ),
        Wrong(
            "both outputs were turned around",
            "[ahead(x), back(x.flip(1)).flip(1)]",
            "[ahead(x).flip(1), back(x.flip(1))]",
        ),
        Wrong(
            "the halves are exchanged",
            "[ahead(x), back(x.flip(1)).flip(1)]",
            "[back(x.flip(1)).flip(1), ahead(x)]",
        ),
        Wrong(
            "the two were added, not put side by side",
            "torch.cat([ahead(x), back(x.flip(1)).flip(1)], dim=-1)",
            "ahead(x) + back(x.flip(1)).flip(1)",
        ),
        Wrong(
            "the rows of the batch were turned, not the time",
            "back(x.flip(1)).flip(1)",
            "back(x.flip(1)).flip(0)",
        ),
    ),
)
