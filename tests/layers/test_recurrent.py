"""The recurrent layers against PyTorch's, forward and backward, with and without pads."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from tfm_lib.layers.recurrent import GRU, LSTM, RNN, Bidirectional

BATCH, TIME, INPUT, HIDDEN = 5, 7, 3, 11  # all different primes: a swapped axis crashes
LENGTHS = torch.tensor([4, 7, 1, 7, 2])
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
THEIRS = {
    "tanh": (nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (nn.RNN, {"nonlinearity": "relu"}),
    "lstm": (nn.LSTM, {}),
    "gru": (nn.GRU, {}),
}
MINE = {"tanh": RNN, "relu": RNN, "lstm": LSTM, "gru": GRU}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def make(kind, *, bidirectional=False, dtype=torch.float64, batch_first=True):
    """PyTorch's layer and this course's, with the same weights."""
    layer, options = THEIRS[kind]
    theirs = layer(
        INPUT, HIDDEN, bidirectional=bidirectional, batch_first=batch_first, **options
    ).to(dtype)
    mine = (Bidirectional if bidirectional else MINE[kind]).from_torch(theirs)
    return theirs, mine


def make_state(kind, directions, dtype):
    """An initial state as PyTorch has it, (directions, batch, hidden), and as this course does."""
    parts = [
        torch.randn(directions, BATCH, HIDDEN, dtype=dtype) for _ in range(1 + (kind == "lstm"))
    ]
    each = [tuple(part[d] for part in parts) for d in range(directions)]
    each = [pair if kind == "lstm" else pair[0] for pair in each]
    theirs = tuple(parts) if kind == "lstm" else parts[0]
    return theirs, each[0] if directions == 1 else tuple(each)


def flatten(state):
    """All tensors (batch, hidden) of a state, direction by direction."""
    return (
        [state] if isinstance(state, torch.Tensor) else [t for part in state for t in flatten(part)]
    )


def flatten_theirs(state, directions):
    parts = state if isinstance(state, tuple) else (state,)
    return [part[d] for d in range(directions) for part in parts]


def gradients_like_torch(mine):
    """The gradients of this course's weights in PyTorch's order of parameters."""
    layers = [mine.forward_rnn, mine.backward_rnn] if isinstance(mine, Bidirectional) else [mine]
    return [
        parameter.grad
        for layer in layers
        for parameter in (
            layer.input_proj.weight,
            layer.hidden_proj.weight,
            layer.input_proj.bias,
            layer.hidden_proj.bias,
        )
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("with_state", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("with_lengths", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("kind", THEIRS)
def test_equals_torch_forward_and_backward(kind, bidirectional, with_lengths, with_state, dtype):
    theirs, mine = make(kind, bidirectional=bidirectional, dtype=dtype)
    directions = 1 + bidirectional
    x = torch.randn(BATCH, TIME, INPUT, dtype=dtype, requires_grad=True)
    their_x = x.detach().clone().requires_grad_()
    their_initial, initial = make_state(kind, directions, dtype) if with_state else (None, None)

    if with_lengths:
        packed = pack_padded_sequence(their_x, LENGTHS, batch_first=True, enforce_sorted=False)
        packed_outputs, their_final = theirs(packed, their_initial)
        expected, _ = pad_packed_sequence(packed_outputs, batch_first=True)
        outputs, final = mine(x, LENGTHS, initial)
    else:
        expected, their_final = theirs(their_x, their_initial)
        outputs, final = mine(x, None, initial)

    everything = [outputs, *flatten(final)]
    their_everything = [expected, *flatten_theirs(their_final, directions)]
    # A random weight for each number: a sum alone would miss numbers that change places.
    seeds = [torch.randn_like(part) for part in everything]
    sum((part * seed).sum() for part, seed in zip(everything, seeds, strict=True)).backward()
    sum((part * seed).sum() for part, seed in zip(their_everything, seeds, strict=True)).backward()

    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    torch.testing.assert_close(everything, their_everything, **close)
    torch.testing.assert_close(x.grad, their_x.grad, **close)
    their_gradients = [parameter.grad for parameter in theirs.parameters()]
    torch.testing.assert_close(gradients_like_torch(mine), their_gradients, **close)


@pytest.mark.parametrize("kind", THEIRS)
def test_gradient_reaches_the_initial_state(kind):
    theirs, mine = make(kind)
    their_initial, initial = make_state(kind, 1, torch.float64)
    for part in (*flatten(initial), *flatten(their_initial)):
        part.requires_grad_()
    x = torch.randn(BATCH, TIME, INPUT, dtype=torch.float64)
    mine(x, None, initial)[0].square().sum().backward()
    theirs(x, their_initial)[0].square().sum().backward()
    expected = [part.grad[0] for part in flatten(their_initial)]
    assert all(gradient.abs().max() > 0 for gradient in expected)
    torch.testing.assert_close([part.grad for part in flatten(initial)], expected)


@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
@pytest.mark.parametrize("kind", THEIRS)
def test_pads_change_nothing(kind, bidirectional):
    _, mine = make(kind, bidirectional=bidirectional)
    x = torch.randn(BATCH, TIME, INPUT, dtype=torch.float64)
    pads = torch.arange(TIME) >= LENGTHS[:, None]  # (batch, time)

    def run(x):
        mine.zero_grad()
        x = x.clone().requires_grad_()
        outputs, final = mine(x, LENGTHS)
        (outputs.square().sum() + sum(part.square().sum() for part in flatten(final))).backward()
        weights = [parameter.grad.clone() for parameter in mine.parameters()]
        return outputs[:, :TIME], flatten(final), x.grad[:, :TIME], weights

    expected = run(x)
    assert (expected[0][pads] == 0).all()
    assert (expected[2][pads] == 0).all()
    for content in (0.0, 1e6, float("inf"), float("nan")):
        torch.testing.assert_close(run(x.masked_fill(pads[..., None], content)), expected)
    more = torch.cat([x, torch.full((BATCH, 2, INPUT), 13.0, dtype=x.dtype)], dim=1)
    torch.testing.assert_close(run(more), expected)


@pytest.mark.parametrize("kind", THEIRS)
def test_final_state_is_the_one_at_the_last_token(kind):
    _, mine = make(kind)
    x = torch.randn(BATCH, TIME, INPUT, dtype=torch.float64)
    _, final = mine(x, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        _, alone = mine(x[row : row + 1, :length])
        torch.testing.assert_close(
            [part[row] for part in flatten(final)], [part[0] for part in flatten(alone)]
        )


@pytest.mark.parametrize("kind", THEIRS)
def test_state_carries_a_sequence_over_a_cut(kind):
    _, mine = make(kind)
    x = torch.randn(BATCH, TIME, INPUT, dtype=torch.float64)
    whole, whole_final = mine(x)
    first, state = mine(x[:, :3])
    second, final = mine(x[:, 3:], None, state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole)
    torch.testing.assert_close(final, whole_final)


@pytest.mark.parametrize("kind", THEIRS)
def test_step_is_one_time_step_of_forward(kind):
    _, mine = make(kind)
    x = torch.randn(BATCH, 1, INPUT, dtype=torch.float64)
    _, initial = make_state(kind, 1, torch.float64)
    outputs, final = mine(x, None, initial)
    stepped = mine.step(mine.input_proj(x[:, 0]), *flatten(initial))
    torch.testing.assert_close(list(stepped), flatten(final))
    torch.testing.assert_close(stepped[0], outputs[:, 0])


def test_any_activation():
    layer = RNN(INPUT, HIDDEN, activation=torch.sigmoid)
    x = torch.randn(BATCH, TIME, INPUT)
    outputs, _ = layer(x)
    h = torch.zeros(BATCH, HIDDEN)
    for t in range(TIME):
        h = torch.sigmoid(layer.input_proj(x[:, t]) + layer.hidden_proj(h))
        torch.testing.assert_close(outputs[:, t], h)


def test_past_only_by_gradient():
    for layer in (RNN(INPUT, HIDDEN), LSTM(INPUT, HIDDEN), GRU(INPUT, HIDDEN)):
        x = torch.randn(BATCH, TIME, INPUT, requires_grad=True)
        layer(x)[0][:, 3].sum().backward()
        assert (x.grad[:, :4].abs().sum(dim=-1) > 0).all()
        assert (x.grad[:, 4:] == 0).all()


def test_bidirectional_sees_both_sides_and_no_pad():
    layer = Bidirectional(GRU(INPUT, HIDDEN), GRU(INPUT, 2))
    for t in range(4):
        x = torch.randn(BATCH, TIME, INPUT, requires_grad=True)
        outputs, _ = layer(x, LENGTHS)
        assert outputs.shape == (BATCH, TIME, HIDDEN + 2)
        outputs[0, t].sum().backward()  # row 0 has LENGTHS[0] = 4 tokens
        assert (x.grad[0, :4].abs().sum(dim=-1) > 0).all()
        assert (x.grad[0, 4:] == 0).all()
        assert (x.grad[1:] == 0).all()


def test_bidirectional_final_state_can_be_an_initial_one():
    for layers in ((LSTM(INPUT, HIDDEN), GRU(INPUT, 2)), (RNN(INPUT, 2), LSTM(INPUT, HIDDEN))):
        layer = Bidirectional(*layers)
        x = torch.randn(BATCH, TIME, INPUT)
        first, state = layer(x, LENGTHS)
        second, _ = layer(x, LENGTHS, state)
        assert not torch.allclose(first, second)


def test_state_shapes():
    x = torch.randn(BATCH, TIME, INPUT)
    for layer in (RNN(INPUT, HIDDEN), LSTM(INPUT, HIDDEN), GRU(INPUT, HIDDEN)):
        outputs, final = layer(x)
        assert outputs.shape == (BATCH, TIME, HIDDEN)
        assert isinstance(final, tuple) == isinstance(layer, LSTM)
        assert [part.shape for part in flatten(final)] == [(BATCH, HIDDEN)] * len(flatten(final))
        assert len(flatten(final)) == 1 + isinstance(layer, LSTM)
    _, (ahead, back) = Bidirectional(LSTM(INPUT, HIDDEN), GRU(INPUT, 2))(x)
    assert [part.shape for part in ahead] == [(BATCH, HIDDEN)] * 2
    assert back.shape == (BATCH, 2)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", THEIRS)
def test_from_torch_copies_whatever_the_layout(kind, batch_first):
    theirs, mine = make(kind, batch_first=batch_first, dtype=torch.float32)
    theirs.eval()
    assert mine.training
    assert not MINE[kind].from_torch(theirs).training
    x = torch.randn(BATCH, TIME, INPUT)
    expected = theirs(x)[0] if batch_first else theirs(x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(mine(x)[0], expected)
    before = mine(x)[0]
    with torch.no_grad():
        theirs.weight_hh_l0.zero_()
    torch.testing.assert_close(mine(x)[0], before)  # a copy, not a view


@pytest.mark.parametrize(
    ("option", "value"), [("num_layers", 2), ("bias", False), ("proj_size", 2), ("dropout", 0.5)]
)
@pytest.mark.filterwarnings("ignore:dropout option adds dropout")
def test_from_torch_refuses_what_the_layers_lack(option, value):
    with pytest.raises(ValueError, match=f"{option}={value}"):
        LSTM.from_torch(nn.LSTM(INPUT, HIDDEN, **{option: value}))
    with pytest.raises(ValueError, match=f"{option}={value}"):
        Bidirectional.from_torch(nn.LSTM(INPUT, HIDDEN, bidirectional=True, **{option: value}))


def test_from_torch_refuses_other_modules():
    with pytest.raises(ValueError, match=r"module is a GRU, must be nn\.LSTM"):
        LSTM.from_torch(nn.GRU(INPUT, HIDDEN))
    with pytest.raises(ValueError, match="module is a Linear"):
        Bidirectional.from_torch(nn.Linear(INPUT, HIDDEN))
    with pytest.raises(ValueError, match="bidirectional=True, must be False"):
        GRU.from_torch(nn.GRU(INPUT, HIDDEN, bidirectional=True))
    with pytest.raises(ValueError, match="bidirectional=False, must be True"):
        Bidirectional.from_torch(nn.GRU(INPUT, HIDDEN))


@pytest.mark.parametrize("kind", MINE)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one", "both"])
def test_refuses_inputs_that_do_not_fit(kind, bidirectional):
    _, layer = make(kind, bidirectional=bidirectional, dtype=torch.float32)
    x = torch.randn(BATCH, TIME, INPUT)
    for wrong in (x[0], x[..., :2], x[:0], x[:, :0]):
        with pytest.raises(ValueError, match="x has shape"):
            layer(wrong)
    with pytest.raises(ValueError, match=r"float64.*float32"):
        layer(x.double())
    for value in (0, -1, TIME + 1):
        wrong = LENGTHS.clone()
        wrong[2] = value
        with pytest.raises(ValueError, match=rf"{value}.* between 1 and time=7"):
            layer(x, wrong)
    for wrong in (LENGTHS.float(), LENGTHS.int(), LENGTHS[:3], LENGTHS[None]):
        with pytest.raises(ValueError, match="lengths has"):
            layer(x, wrong)


def test_refuses_states_that_do_not_fit():
    x = torch.randn(BATCH, TIME, INPUT)
    h = torch.zeros(BATCH, HIDDEN)
    for layer in (RNN(INPUT, HIDDEN), GRU(INPUT, HIDDEN)):
        for wrong in (h[:2], h[:, :2], h[None], h.double()):
            with pytest.raises(ValueError, match="state h has shape"):
                layer(x, None, wrong)
        with pytest.raises(ValueError, match="state h is a tuple"):
            layer(x, None, (h, h))
    lstm = LSTM(INPUT, HIDDEN)
    with pytest.raises(ValueError, match="state has 5 members"):
        lstm(x, None, h)
    with pytest.raises(ValueError, match="state c has shape"):
        lstm(x, None, (h, h[:2]))
    with pytest.raises(ValueError, match="state has 3 members"):
        Bidirectional(lstm, lstm)(x, None, (h, h, h))


def test_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="input_size=0"):
        GRU(0, HIDDEN)
    with pytest.raises(ValueError, match="hidden_size=-1"):
        RNN(INPUT, -1)
    with pytest.raises(ValueError, match=r"input_size=3.*2"):
        Bidirectional(GRU(INPUT, HIDDEN), GRU(2, HIDDEN))
