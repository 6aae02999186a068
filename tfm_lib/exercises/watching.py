"""Watches what an answer does: functions that its task forbids, and how much it holds at once."""

from collections.abc import Callable, Collection
from contextlib import ExitStack
from types import CodeType, FunctionType
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class ForbiddenError(Exception):
    """The answer called what its task asks it to do without."""


class TooMuchError(Exception):
    """The answer made a larger tensor than its task allows."""


class _Refuse(TorchFunctionMode):
    """Refuses PyTorch's functions of certain names, however they are called."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self.names = names

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if (name := getattr(function, "__name__", "")) in self.names:
            raise ForbiddenError(refusal(name))
        return function(*args, **(kwargs or {}))


class _Limit(TorchDispatchMode):
    """Refuses tensors of more numbers than `at_once`; a view of an input holds nothing new."""

    def __init__(self, at_once: float) -> None:
        super().__init__()
        self.at_once = at_once

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, tuple | list) else [result]:
            if isinstance(made, Tensor) and not made._is_view() and made.numel() > self.at_once:
                raise TooMuchError(
                    f"made a tensor of shape {tuple(made.shape)}: {made.numel()} numbers at once, "
                    f"at most {self.at_once:g} are allowed"
                )
        return result


def watched(call: Callable[[], Any], forbidden: Collection[str], at_once: float) -> Any:
    """Call something; ForbiddenError or TooMuchError if it does what it must not."""
    with ExitStack() as modes:
        if forbidden:
            modes.enter_context(_Refuse(forbidden))
        if at_once < float("inf"):
            modes.enter_context(_Limit(at_once))
        return call()


def refusal(name: str) -> str:
    """What is said about a forbidden function."""
    return f"`{name}` does what this task asks you to write; do without it"


def named_in(answer: Any, forbidden: Collection[str]) -> str:
    """The first forbidden name that a function, or a method of a class, spells out, or nothing.

    So are found the functions that cannot be watched, such as those of `torch.autograd`.
    """
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    codes = [f.__code__ for f in functions if isinstance(f, FunctionType)]
    while codes:
        code = codes.pop()
        for name in code.co_names:
            if name in forbidden:
                return name
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return ""
