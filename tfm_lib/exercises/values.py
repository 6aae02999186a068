"""Compares what came with what was expected, and says in words how they differ."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

FEW = 24  # numbers that are printed one by one; of more, only the worst is shown
ROUNDING = 1e-2  # a difference up to this share of the expected number is called close


@dataclass(frozen=True)
class Difference:
    """How far two values are apart: 0 exact, inf not comparable; and lines that say where."""

    distance: float
    lines: tuple[str, ...] = ()


SAME = Difference(0.0)


def compare(want: Any, got: Any, at: str = "") -> Difference:
    """Compare a result with what was expected: type, size, dtype, device, NaN, then the numbers.

    `at` names the part of a larger result in the lines. Never raises for any `got`.
    """
    if isinstance(want, Tensor):
        return _compare_tensors(want, got, at)
    if isinstance(want, bool):
        value = _plain(got)
        if not isinstance(value, bool):
            return _unlike(f"{at}expected True or False, got {name_type(got)}")
        return SAME if value is want else _unlike(f"{at}expected {want}, got {value}")
    if isinstance(want, int | float):
        return _compare_numbers(want, got, at)
    if isinstance(want, str):
        same = isinstance(got, str) and got.strip().lower() == want.lower()
        return SAME if same else _unlike(f"{at}expected {want!r}, got {show(got)}")
    if isinstance(want, Mapping):
        return _compare_mappings(want, got, at)
    if isinstance(want, Sequence):
        return _compare_sequences(want, got, at)
    if want is None:
        return SAME if got is None else _unlike(f"{at}expected None, got {show(got)}")
    raise TypeError(f"no way to compare a {type(want).__name__}")


def same_kind(want: Any, got: Any) -> bool:
    """Whether both are numbers, truth values, texts, lists or dictionaries."""
    one, other = _plain(want), _plain(got)
    if isinstance(one, bool) or isinstance(other, bool):
        return isinstance(one, bool) and isinstance(other, bool)
    kinds = (int | float, str, list | tuple | Tensor, Mapping)
    return any(isinstance(one, kind) and isinstance(other, kind) for kind in kinds)


def _unlike(line: str) -> Difference:
    return Difference(math.inf, (line,))


def _compare_tensors(want: Tensor, got: Any, at: str) -> Difference:
    if not isinstance(got, Tensor):
        return _unlike(f"{at}expected a tensor, got {name_type(got)}{_advice(got)}")
    if got.layout != torch.strided:
        return _unlike(f"{at}expected an ordinary tensor, got one with layout {got.layout}")
    if got.device.type != want.device.type:
        return _unlike(f"{at}expected a tensor on {want.device.type}, got one on {got.device.type}")
    if got.shape != want.shape:
        return _unlike(f"{at}expected shape {tuple(want.shape)}, got {tuple(got.shape)}")
    if got.dtype != want.dtype and not (_whole(got) and _whole(want)):
        return _unlike(f"{at}expected dtype {_short(want.dtype)}, got {_short(got.dtype)}")
    want, got = want.detach(), got.detach()
    expected_got = (f"{at}expected  {show(want)}", f"{at}got       {show(got)}")
    if want.numel() == 0:
        return SAME
    gap = (got.double() - want.double()).abs()
    gap = torch.where((got == want) | (got.isnan() & want.isnan()), 0.0, gap)  # and infinities
    strange = got.isnan() != want.isnan()
    if strange.any():
        place = _place(strange.double())
        return Difference(math.inf, (*expected_got, f"{at}NaN (not a number) at {place}"))
    worst = gap.max().item()
    if worst == 0:
        return SAME
    place = _place(gap)
    if not want.is_floating_point():  # how far ids are apart says nothing
        count = int((gap > 0).sum())
        line = f"{at}off at {count} of {gap.numel()} places, the first at {place}"
        return Difference(worst, (*expected_got, line))
    largest = want.abs().max().item()
    lines = expected_got
    if want.numel() > FEW:
        index = tuple(place)
        lines = (
            f"{at}expected  {_number(want[index].item())} at {place} of {tuple(want.shape)}",
            f"{at}got       {_number(got[index].item())}",
        )
    return Difference(worst, (*lines, f"{at}{_grade(worst, largest)} at {place}"))


def _compare_numbers(want: float, got: Any, at: str) -> Difference:
    value = _plain(got)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _unlike(f"{at}expected a number, got {name_type(got)}{_advice(got)}")
    lines = (f"{at}expected  {_number(want)}", f"{at}got       {_number(value)}")
    if value == want or (value != value and want != want):  # NaN is what differs from itself
        return SAME
    if value != value or want != want:
        return Difference(math.inf, (*lines, f"{at}NaN is not a number"))
    try:
        gap = abs(float(value) - float(want))
    except OverflowError:
        gap = math.inf
    return Difference(gap, (*lines, f"{at}{_grade(gap, abs(want))}"))


def _compare_mappings(want: Mapping, got: Any, at: str) -> Difference:
    if not isinstance(got, Mapping):
        return _unlike(f"{at}expected a dictionary, got {name_type(got)}{_advice(got)}")
    missing, extra = [k for k in want if k not in got], [k for k in got if k not in want]
    if missing or extra:
        parts = [f"{show(missing)} missing"] * bool(missing) + [f"{show(extra)} too many"] * bool(
            extra
        )
        return _unlike(f"{at}expected the keys {show(list(want))}: {', '.join(parts)}")
    return _worst([compare(want[key], got[key], f"{at}{show(key)}: ") for key in want])


def _compare_sequences(want: Sequence, got: Any, at: str) -> Difference:
    if isinstance(got, Tensor) and _readable(got) and got.dim() > 0:
        got = got.tolist()
    kind = "tuple" if isinstance(want, tuple) else "list"
    if not isinstance(got, list | tuple):
        return _unlike(f"{at}expected a {kind} of {len(want)}, got {name_type(got)}{_advice(got)}")
    if len(got) != len(want):
        return _unlike(f"{at}expected {len(want)} members, got {len(got)}: {show(got)}")
    if want and all(isinstance(x, int | float | str) for x in want):
        parts = [compare(w, g) for w, g in zip(want, got, strict=True)]
        worst = max(part.distance for part in parts)
        if worst == 0:
            return SAME
        first = next(i for i, part in enumerate(parts) if part.distance == worst)
        grade = _grade(worst, _size(want)) if worst < math.inf else "off"
        lines = (f"{at}expected  {show(want)}", f"{at}got       {show(got)}")
        return Difference(worst, (*lines, f"{at}{grade} at [{first}]"))
    return _worst([
        compare(w, g, f"{at}part {i}: ") for i, (w, g) in enumerate(zip(want, got, strict=True))
    ])  # fmt: skip


def _worst(parts: list[Difference]) -> Difference:
    return next((p for p in parts if p.distance == max(q.distance for q in parts)), SAME)


def _size(numbers: Sequence) -> float:
    return max((abs(x) for x in numbers if isinstance(x, int | float)), default=0.0)


def _grade(gap: float, largest: float) -> str:
    close = "close, but off" if gap <= ROUNDING * largest else "off"
    return f"{close} by {_number(gap)}"


def _place(gap: Tensor) -> list[int]:
    """The index of the largest entry, the first of them."""
    flat = int(gap.flatten().argmax())
    return [int(i) for i in torch.unravel_index(torch.tensor(flat), gap.shape)]


def _plain(value: Any) -> Any:
    """A tensor or numpy scalar as a plain Python number; anything else as it is."""
    if isinstance(value, Tensor):
        small = value.dim() == 0 and _readable(value) and not value.is_complex()
        return value.item() if small else value
    if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
        return value.item()
    if isinstance(value, Fraction | Decimal):
        return float(value)
    return value


def _whole(tensor: Tensor) -> bool:
    """Whether it holds integers; their size is free."""
    return not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)


def _readable(tensor: Tensor) -> bool:
    """Whether its numbers can be listed."""
    return tensor.layout == torch.strided and tensor.device.type == "cpu"


def _advice(got: Any) -> str:
    if got is None:
        return " (does every path through your code return something?)"
    if callable(got):
        return " (call it, and hand over what it returns)"
    return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _number(value: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if isinstance(value, int) or (
        math.isfinite(value) and value == int(value) and abs(value) < 1e6
    ):
        text = str(int(value))
        return text if len(text) <= FEW else f"a number of {len(text)} digits"
    return f"{value:.4g}"


def show(value: Any) -> str:
    """A short text for a value: numbers in full if they are few, else type and shape."""
    if isinstance(value, Tensor):
        if not _readable(value) or value.numel() > FEW:
            return f"a {_short(value.dtype)} tensor of shape {tuple(value.shape)}"
        return show(value.detach().tolist())
    if value is ...:
        return "..."
    if isinstance(value, str):
        return repr(value) if len(value) <= 80 else repr(value[:80]) + "..."
    if value is None:
        return "None"
    if isinstance(value, int | float):
        return _number(value)
    if isinstance(value, list | tuple):
        if len(value) > FEW:
            return f"{name_type(value)} of {len(value)}"
        inner = ", ".join(show(member) for member in value)
        trailing = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"[{inner}]" if isinstance(value, list) else f"({inner}{trailing})"
    if isinstance(value, Mapping) and len(value) <= FEW:
        return "{" + ", ".join(f"{show(k)}: {show(v)}" for k, v in value.items()) + "}"
    return name_type(value)


def name_type(value: Any) -> str:
    """The type in words: "None", "the function f", "the class C", "a list"."""
    if value is None or value is ...:
        return str(value) if value is None else "..."
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, FunctionType | BuiltinFunctionType | MethodType):
        return f"the function {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
