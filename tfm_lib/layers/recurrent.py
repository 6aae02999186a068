"""Recurrent layers that read a batch of padded sequences: RNN, LSTM, GRU and bidirectional pairs.

A recurrent layer carries a *state* along the sequence: each time step makes the next state from
the input x_t and the state before it. The output at t is the hidden state h_t. Batch first:

    x        (batch, time, input_size)
    lengths  (batch,) integers, how many time steps of each row are tokens; the rest are pads
    outputs  (batch, time, hidden_size), zero at the pads
    state    h (batch, hidden_size), for the LSTM a pair (h, c) of that shape; zeros if none is
             given. The final state is the one after each row's last token, never at a pad.

What the pads hold changes no output, no state and no gradient. With the same weights, `nn.RNN`,
`nn.LSTM` and `nn.GRU` of one layer give the same numbers, faster.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from tfm_lib.layers.checks import is_traced


class _Recurrent(nn.Module):
    """The projections and the loop over time that RNN, LSTM and GRU share.

    A subclass writes `step(x_projected, *state) -> state`; inside, a state is a tuple of tensors
    (batch, hidden_size) whose first member is the output.
    """

    torch_class: ClassVar[type[nn.RNNBase]]  # PyTorch's name for the layer
    num_blocks: ClassVar[int]  # blocks of hidden_size rows in each weight: one for each gate
    state_names: ClassVar[tuple[str, ...]] = ("h",)
    step: Callable[..., tuple[Tensor, ...]]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        if input_size < 1 or hidden_size < 1:
            raise ValueError(
                f"input_size={input_size}, hidden_size={hidden_size} must be 1 or more"
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.input_proj = nn.Linear(input_size, self.num_blocks * hidden_size)
        self.hidden_proj = nn.Linear(hidden_size, self.num_blocks * hidden_size)

    def _scan(
        self, x: Tensor, lengths: Tensor | None, state: tuple[Tensor, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        self._check(x, lengths, state)
        batch, time, _ = x.shape
        if lengths is None:
            lengths = torch.full((batch,), time, device=x.device)
        if state is None:
            state = (x.new_zeros(batch, self.hidden_size),) * len(self.state_names)
        pads = (torch.arange(time, device=x.device) >= lengths[:, None])[..., None]
        shortest = 0 if is_traced(lengths) else int(lengths.min())

        # No input waits for a state, so one product serves every time step; the states must queue.
        # Pads become zeros first: were one NaN, 0 * NaN would still reach the weights' gradients.
        projected = self.input_proj(x.masked_fill(pads, 0.0))  # (batch, time, blocks * hidden)
        outputs = []
        for t, x_t in enumerate(projected.unbind(dim=1)):  # (batch, blocks * hidden)
            proposed = self.step(x_t, *state)
            if t >= shortest:  # a row that has ended keeps the state of its last token
                kept = zip(state, proposed, strict=True)
                proposed = tuple(torch.where(pads[:, t], old, new) for old, new in kept)
            state = proposed
            outputs.append(state[0])
        return torch.stack(outputs, dim=1).masked_fill(pads, 0.0), state

    def _check(self, x: Tensor, lengths: Tensor | None, state: tuple[Tensor, ...] | None) -> None:
        if x.dim() != 3 or x.size(-1) != self.input_size or x.numel() == 0:
            raise ValueError(
                f"x has shape {tuple(x.shape)}, must be (batch, time, input_size="
                f"{self.input_size}) with batch and time 1 or more"
            )
        batch, time, _ = x.shape
        weight = self.input_proj.weight
        if x.dtype != weight.dtype:
            raise ValueError(f"x has {x.dtype}, must have the weights' {weight.dtype}")
        if lengths is not None:
            _check_lengths(lengths, batch, time)
        if state is None:
            return
        if len(state) != len(self.state_names):
            names = ", ".join(self.state_names)
            raise ValueError(f"state has {len(state)} members, must be ({names})")
        for name, part in zip(self.state_names, state, strict=True):
            if not isinstance(part, Tensor):
                raise ValueError(f"state {name} is a {type(part).__name__}, must be a tensor")
            if part.shape != (batch, self.hidden_size) or part.dtype != x.dtype:
                raise ValueError(
                    f"state {name} has shape {tuple(part.shape)} and {part.dtype}, must be (batch="
                    f"{batch}, hidden_size={self.hidden_size}) and {x.dtype}"
                )

    @classmethod
    def from_torch(cls, module: nn.RNNBase) -> Self:
        """Copy the weights of PyTorch's layer of the same name; the copy is batch first.

        Raises ValueError unless `module` is that class, with one layer, one direction, biases, no
        dropout and no projection.
        """
        _check_torch(module, (cls.torch_class,), bidirectional=False)
        return cls._copy(module)

    @classmethod
    def _copy(cls, module: nn.RNNBase, direction: str = "", **options: Any) -> Self:
        weights = {
            f"{mine}_proj.{kind}": getattr(module, f"{kind}_{theirs}_l0{direction}")
            for mine, theirs in (("input", "ih"), ("hidden", "hh"))
            for kind in ("weight", "bias")
        }
        layer = cls(module.input_size, module.hidden_size, **options)
        layer.to(weights["input_proj.weight"])  # the same precision
        layer.load_state_dict(weights)
        return layer.train(module.training)


class RNN(_Recurrent):
    """The plain recurrent layer: h' = activation(W_x x + b_x + W_h h + b_h) (Elman 1990).

    activation: any function applied element by element; `nn.RNN` knows tanh and ReLU.
    """

    torch_class = nn.RNN
    num_blocks = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.activation = activation

    def step(self, x_projected: Tensor, h: Tensor) -> tuple[Tensor]:
        """One time step: W_x x + b_x (batch, hidden_size) and h (batch, hidden_size) -> (h',)."""
        return (self.activation(x_projected + self.hidden_proj(h)),)

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (batch, time, hidden_size) and the final h (batch, hidden_size).

        Arguments as in the module's docstring; raises ValueError if one does not fit.
        """
        outputs, (h,) = self._scan(x, lengths, None if state is None else (state,))
        return outputs, h

    @classmethod
    def _copy(cls, module: nn.RNNBase, direction: str = "", **options: Any) -> Self:
        activation = {"RNN_TANH": torch.tanh, "RNN_RELU": torch.relu}[module.mode]
        return super()._copy(module, direction, activation=activation)


class LSTM(_Recurrent):
    """Long short-term memory: a cell c that gates write, keep and read.

    Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000. The projections hold
    the blocks input, forget, cell, output, in PyTorch's order.
    """

    torch_class = nn.LSTM
    num_blocks = 4
    state_names = ("h", "c")

    def step(self, x_projected: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: projected x (batch, 4 * hidden_size), the state (h, c) -> (h', c')."""
        gates = x_projected + self.hidden_proj(h)  # (batch, 4 * hidden_size)
        input_gate, forget_gate, candidate, output_gate = gates.chunk(4, dim=-1)
        c = torch.sigmoid(forget_gate) * c + torch.sigmoid(input_gate) * torch.tanh(candidate)
        h = torch.sigmoid(output_gate) * torch.tanh(c)
        return h, c

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return outputs (batch, time, hidden_size), the final h and c (batch, hidden_size) each.

        Arguments as in the module's docstring; raises ValueError if one does not fit.
        """
        outputs, (h, c) = self._scan(x, lengths, state)
        return outputs, (h, c)


class GRU(_Recurrent):
    """The gated recurrent unit: two gates and no cell (Cho et al. 2014, section 2.3).

    The projections hold the blocks reset, update, candidate, in PyTorch's order. As there, the
    reset gate acts after the product with the hidden weights; the paper's acts before it.
    """

    torch_class = nn.GRU
    num_blocks = 3

    def step(self, x_projected: Tensor, h: Tensor) -> tuple[Tensor]:
        """One time step: projected x (batch, 3 * hidden_size), h (batch, hidden_size) -> (h',)."""
        x_reset, x_update, x_candidate = x_projected.chunk(3, dim=-1)  # (batch, hidden_size) each
        h_reset, h_update, h_candidate = self.hidden_proj(h).chunk(3, dim=-1)
        reset = torch.sigmoid(x_reset + h_reset)
        update = torch.sigmoid(x_update + h_update)
        candidate = torch.tanh(x_candidate + reset * h_candidate)
        return (candidate + update * (h - candidate),)  # update = 1 keeps h, 0 replaces it

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, state: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return outputs (batch, time, hidden_size) and the final h (batch, hidden_size).

        Arguments as in the module's docstring; raises ValueError if one does not fit.
        """
        outputs, (h,) = self._scan(x, lengths, None if state is None else (state,))
        return outputs, h


class Bidirectional(nn.Module):
    """Two recurrent layers over the same input, one from each end (Schuster and Paliwal 1997).

    The backward layer starts at each row's last token, not at the pads behind it, so every token
    sees both sides. A state is the pair (forward state, backward state), each as its own layer
    has it: the final state can be handed back as an initial one, whatever the cells.
    """

    def __init__(self, forward_rnn: RNN | LSTM | GRU, backward_rnn: RNN | LSTM | GRU) -> None:
        super().__init__()
        if forward_rnn.input_size != backward_rnn.input_size:
            raise ValueError(
                f"both directions read the same input: forward_rnn has input_size="
                f"{forward_rnn.input_size}, backward_rnn {backward_rnn.input_size}"
            )
        self.forward_rnn = forward_rnn
        self.backward_rnn = backward_rnn

    def forward(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        state: tuple[Any, Any] | None = None,
    ) -> tuple[Tensor, tuple[Any, Any]]:
        """Return outputs (batch, time, both hidden sizes) and (forward state, backward state).

        The backward final state is the one after its row's first token. Arguments as in the
        module's docstring; raises ValueError if one does not fit.
        """
        if state is None:
            state = (None, None)
        if len(state) != 2:
            raise ValueError(f"state has {len(state)} members, must be (forward, backward)")
        forward_state, backward_state = state
        ahead, forward_state = self.forward_rnn(x, lengths, forward_state)
        back, backward_state = self.backward_rnn(_reverse(x, lengths), lengths, backward_state)
        outputs = torch.cat([ahead, _reverse(back, lengths)], dim=-1)
        return outputs, (forward_state, backward_state)

    @classmethod
    def from_torch(cls, module: nn.RNNBase) -> Self:
        """Copy the weights of a bidirectional `nn.RNN`, `nn.LSTM` or `nn.GRU`.

        Raises ValueError unless `module` has one layer, two directions, biases, no dropout and no
        projection.
        """
        layers: tuple[type[RNN | LSTM | GRU], ...] = (RNN, LSTM, GRU)
        _check_torch(module, tuple(each.torch_class for each in layers), bidirectional=True)
        (layer,) = (each for each in layers if each.torch_class is type(module))
        return cls(layer._copy(module), layer._copy(module, "_reverse")).train(module.training)


def _reverse(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Turn the tokens of each row around and leave its pads in place: (batch, time, size)."""
    if lengths is None:
        return x.flip(1)
    position = torch.arange(x.size(1), device=x.device)  # (time,)
    mirrored = lengths[:, None] - 1 - position  # (batch, time), negative at the pads
    source = torch.where(mirrored >= 0, mirrored, position)
    return x.gather(1, source[..., None].expand_as(x))


def _check_lengths(lengths: Tensor, batch: int, time: int) -> None:
    if lengths.dtype != torch.long or lengths.shape != (batch,):
        raise ValueError(
            f"lengths has {lengths.dtype} and shape {tuple(lengths.shape)}, must be torch.int64 "
            f"and (batch={batch},)"
        )
    if not is_traced(lengths) and (lengths.min() < 1 or lengths.max() > time):
        raise ValueError(f"lengths={lengths.tolist()} must lie between 1 and time={time}")


def _check_torch(
    module: nn.RNNBase, classes: tuple[type[nn.RNNBase], ...], *, bidirectional: bool
) -> None:
    if type(module) not in classes:
        names = " or ".join(f"nn.{wanted.__name__}" for wanted in classes)
        raise ValueError(f"module is a {type(module).__name__}, must be {names}")
    wanted = {"num_layers": 1, "bias": True, "dropout": 0.0, "proj_size": 0}
    for name, value in {**wanted, "bidirectional": bidirectional}.items():
        if getattr(module, name) != value:
            raise ValueError(f"module has {name}={getattr(module, name)}, must be {value}")
