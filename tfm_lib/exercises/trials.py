"""Tests of the checks themselves: every wrong answer, and things that no one should hand in."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tfm_lib.exercises.catalogue import exercises
from tfm_lib.exercises.declare import Exercise, Wrong
from tfm_lib.exercises.engine import REFUSED, Report, alike, examine, gap, known_failures
from tfm_lib.show.table import Table


@dataclass(frozen=True)
class Mutation:
    """What became of one wrong answer."""

    exercise: Exercise
    wrong: Wrong
    report: Report
    distance: float  # from the right result, where it was refused
    nearest: float  # to the nearest wrong answer of another mistake that fails at the same step

    @property
    def refused(self) -> bool:
        return self.report.verdict == REFUSED

    @property
    def named(self) -> bool:
        """Whether it was refused with the message meant for it."""
        return self.refused and self.report.mistake == self.wrong.says


@cache
def mutations(exercise: Exercise) -> list[Mutation]:
    """Hand in every wrong answer of an exercise."""
    known = known_failures(exercise)
    found = []
    for wrong, failure in known:
        report = examine(exercise, exercise.make(exercise.source_of(wrong)))
        others = [other for w, other in known if w.says != wrong.says and other is not None]
        apart = [
            gap(failure.result, other.result) if failure.sort == "value"
            else 0.0 if alike(exercise, failure, other) else math.inf
            for other in others
            if failure is not None and (failure.number, failure.sort) == (other.number, other.sort)
        ]  # fmt: skip
        distance = 0.0 if failure is None else failure.distance
        found.append(Mutation(exercise, wrong, report, distance, min(apart, default=math.inf)))
    return found


def mutation_table() -> tuple[Table, str]:
    """A row for each exercise, and the totals in a sentence."""
    rows, totals = [], [0, 0, 0]
    for exercise in exercises().values():
        tried = mutations(exercise)
        counts = [len(tried), sum(m.refused for m in tried), sum(m.named for m in tried)]
        rows.append((exercise.id, exercise.title, exercise.kind, *counts))
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
    header = ("exercise", "title", "kind", "wrong answers", "refused", "right message")
    words = (
        f"{len(rows)} exercises, {totals[0]} wrong answers: {totals[1]} refused, "
        f"{totals[2]} with the message meant for them."
    )
    return Table(header, rows), words


class Hostile:
    """Raises whatever one asks of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("no attribute for you")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    def __repr__(self) -> str:
        raise RuntimeError("not to be shown")

    __str__ = __repr__
    __call__ = __len__ = __iter__ = __bool__ = __repr__


class Empty:
    """A class where a function or another class was wanted."""


def answering(value: Callable[[], Any]) -> Callable[..., Any]:
    """A function that takes anything and gives what `value()` makes."""
    return lambda *args, **kwargs: value()


def _raises(*args: Any, **kwargs: Any) -> Any:
    raise KeyError("nothing here")


def _leaves(*args: Any, **kwargs: Any) -> Any:
    raise SystemExit(1)


def _recurses(*args: Any, **kwargs: Any) -> Any:
    return _recurses(*args)


def _damages(*args: Any, **kwargs: Any) -> Any:
    for arg in args:
        if isinstance(arg, torch.Tensor) and arg.numel():
            arg.zero_().add_(5)
        elif isinstance(arg, list | dict):
            arg.clear()
    return args[0] if args else None


VALUES: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a string": lambda: "0.62",
    "an empty string": lambda: "",
    "a class": lambda: Empty,
    "an object": Empty,
    "a hostile object": Hostile,
    "True": lambda: True,
    "a number": lambda: 7,
    "a huge number": lambda: 10**400,
    "NaN": lambda: math.nan,
    "infinity": lambda: -math.inf,
    "a complex number": lambda: 1j,
    "bytes": lambda: b"abc",
    "a list": lambda: [1, "two", None],
    "a nested list": lambda: [[1.0, 2.0], [3.0]],
    "an empty tuple": tuple,
    "a dictionary": lambda: {"a": 1},
    "a set": lambda: {1, 2},
    "a generator": lambda: (i for i in range(3)),
    "a wrong shape": lambda: torch.zeros(7, 1, 3),
    "an empty tensor": lambda: torch.zeros(0),
    "a scalar tensor": lambda: torch.tensor(2.0),
    "a wrong dtype": lambda: torch.ones(2, 2, dtype=torch.float16),
    "integers": lambda: torch.ones(2, 3, dtype=torch.long),
    "booleans": lambda: torch.ones(3, 3, dtype=torch.bool),
    "complex entries": lambda: torch.ones(2, dtype=torch.complex64),
    "NaN entries": lambda: torch.full((2, 3), math.nan),
    "another device": lambda: torch.ones(2, 3, device="meta"),
    "a sparse tensor": lambda: torch.eye(3).to_sparse(),
    "a tensor with a gradient": lambda: torch.ones(2, 3, requires_grad=True) * 2,
    "random numbers": lambda: torch.randn(2, 3),
    "a pair": lambda: (torch.randn(2, 3), torch.randn(2, 2)),
    "a numpy array": lambda: torch.randn(2, 3).numpy(),
    "a module": lambda: torch.nn.Linear(2, 3),
}
CALLABLES: dict[str, Callable[..., Any]] = {
    **{f"returns {name}": answering(value) for name, value in VALUES.items()},
    "takes nothing": lambda: torch.ones(1),
    "takes nine": lambda a, b, c, d, e, f, g, h, i: a,
    "gives its input back": lambda *args, **kwargs: args[0] if args else None,
    "gives all inputs back": lambda *args, **kwargs: args,
    "raises": _raises,
    "leaves Python": _leaves,
    "recurses for ever": _recurses,
    "damages its inputs": _damages,
    "a builtin": len,
    "a bound method": "abc".join,
}


def hand_ins(exercise: Exercise) -> dict[str, Any]:
    """Name -> something to hand in that is no answer to any exercise."""
    objects = {name: value() for name, value in VALUES.items()}
    if exercise.answer != "class":
        return objects | CALLABLES
    classes = {f"a class: {name}": as_answer(exercise, code) for name, code in CALLABLES.items()}
    return objects | CALLABLES | classes


def as_answer(exercise: Exercise, code: Callable[..., Any]) -> Any:
    """The code as what the exercise asks for: a class whose objects run it, or the code itself."""
    if exercise.answer != "class":
        return code
    body = {"__init__": lambda self, *args, **kwargs: torch.nn.Module.__init__(self)}
    body["forward"] = lambda self, *args, **kwargs: code(*args)
    return type("Answer", (torch.nn.Module,), body)
