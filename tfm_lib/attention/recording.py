"""Attention maps, collected by hooks over a model's own forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from tfm_lib.attention.functions import Attention, AttentionFunction
from tfm_lib.attention.multi_head import MultiHeadAttention


class AttentionModule(nn.Module):
    """Any attention function as a module, so that `record_attention` finds it."""

    def __init__(self, function: AttentionFunction) -> None:
        super().__init__()
        self.function = function

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.function(query, key, value, mask)


RECORDABLE = Attention, MultiHeadAttention, AttentionModule


def recordable(attention: AttentionFunction) -> nn.Module:
    """The same attention function as a module that `record_attention` finds."""
    return attention if isinstance(attention, RECORDABLE) else AttentionModule(attention)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights of every forward pass inside the `with` block, without a second pass.

    Yields a dictionary: the name of each `Attention`, `MultiHeadAttention` or `recordable` function
    in the model -> its weights, one detached tensor a call, in order. A step that calls
    `MultiHeadAttention.attend`, as `CachedStep` does, leaves no weights. Raises ValueError if the
    model holds none.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, RECORDABLE)
    }
    if not layers:
        name = type(model).__name__
        raise ValueError(f"{name} holds no Attention, MultiHeadAttention or recordable function")
    maps: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, result: tuple[Tensor, Tensor | None]) -> None:
            if result[1] is None:
                raise ValueError(f"{name}: this attention function never forms its weights")
            maps[name].append(result[1].detach())

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in layers.items()]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
