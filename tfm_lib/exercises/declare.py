"""What an exercise is: a declaration of data and small functions. README.md shows how to write."""

import ast
import linecache
import math
import textwrap
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("write", "mend", "predict", "judge")
ANSWERS = {ast.FunctionDef: "function", ast.ClassDef: "class", ast.Assign: "value"}
# What every stub, solution and wrong answer finds at hand, as in a lesson.
AT_HAND = {"torch": torch, "Tensor": Tensor, "nn": nn, "F": F, "math": math}


@dataclass(frozen=True)
class Step:
    """One question to an answer: what it asks, on which input, and what must come.

    asks: a plain statement of what holds for a right answer. given: name -> value of each argument,
    small enough to follow; copied for every call. want: the result, or a function of the given
    values that works it out by PyTorch, by brute force or from a hand-worked number, never by the
    solution. run: (answer, *given values) -> what is compared with `want`; by default the answer is
    called with the given values (or, if it is a value, taken as it is). tolerance: the largest
    difference that passes. at_once: the most numbers that any one tensor may hold which the answer
    makes; math.inf: any.
    """

    asks: str
    given: Mapping[str, Any]
    want: Any
    run: Callable[..., Any] | None = None
    tolerance: float = 1e-4
    at_once: float = math.inf


@dataclass(frozen=True)
class Wrong:
    """A realistic wrong answer, and what the reader who hands it in shall be told.

    says: the mistake in words; it is printed for every answer that first fails at the same step
    with the same result. text, into: the answer is the solution with `text`, which occurs there
    just once, replaced by `into`; without `into`, `text` is its whole source.
    """

    says: str
    text: str
    into: str | None = None


@dataclass(frozen=True, eq=False)
class Exercise:
    """An exercise: task (Markdown), stub, hints, solution, the check's steps, wrong answers.

    id: lesson and number, as "06.1". kind: one of KINDS. difficulty: 1 to 3. hints: a nudge, then
    the formula, then near-code. The last name that the stub defines is what a reader hands in.
    forbidden: names of PyTorch's functions that would do what the task asks for, as "softmax".
    """

    id: str
    title: str
    kind: str
    difficulty: int
    minutes: int
    task: str
    stub: str
    hints: tuple[str, ...]
    solution: str
    explanation: str
    steps: tuple[Step, ...]
    wrong: tuple[Wrong, ...]
    forbidden: tuple[str, ...] = ()

    @cached_property
    def name(self) -> str:
        """The name of what is handed in."""
        match ast.parse(tidy(self.stub)).body[-1]:
            case ast.Assign(targets=[ast.Name(id=name)]):
                return name
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                return name
        raise ValueError(f"{self.id}: the stub must end in a value, a function or a class")

    @cached_property
    def answer(self) -> str:
        """What is handed in: "function", "class" or "value"."""
        return ANSWERS[type(ast.parse(tidy(self.stub)).body[-1])]

    @property
    def heading(self) -> str:
        """The Markdown that the lesson shows above the code cell."""
        about = f"{self.kind}, difficulty {self.difficulty} of 3, about {self.minutes} minutes"
        return f"### {self.id} · {self.title}\n\n*{about.capitalize()}.*\n\n{tidy(self.task)}"

    @property
    def cell(self) -> str:
        """The code cell that the lesson shows: the stub, and the call of its check."""
        gap = "\n" if self.answer == "value" else "\n\n\n"
        return f'{tidy(self.stub)}{gap}check("{self.id}", {self.name})'

    def source_of(self, wrong: Wrong) -> str:
        """The source of a wrong answer; raises ValueError if its replacement fits not just once."""
        if wrong.into is None:
            return tidy(wrong.text)
        solution = tidy(self.solution)
        if (count := solution.count(wrong.text)) != 1:
            raise ValueError(f"{self.id}: {wrong.text!r} occurs {count} times in the solution")
        return solution.replace(wrong.text, wrong.into)

    def make(self, source: str) -> Any:
        """Run a source text in a namespace of its own and return what it hands in."""
        text = tidy(source)
        file = f"<answer {self.id}, {zlib.crc32(text.encode()):08x}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        namespace = {**AT_HAND, "__name__": "answer"}
        exec(compile(text, file, "exec"), namespace)
        return namespace[self.name]


def tidy(text: str) -> str:
    """A text without common indentation and without blank lines around it."""
    return textwrap.dedent(text).strip()


def tensors(**numbers: Any) -> dict[str, Tensor]:
    """Name -> tensor of floats, for the inputs of a step written as plain nested lists."""
    return {name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()}


def slopes(answer: Callable[..., Any], *given: Tensor) -> list[Tensor]:
    """The gradients at all inputs of floats, if the numbers of each result count 1, 2, 3, ...

    An input without influence has a gradient of zeros; a result without a gradient is an error.
    """
    given = tuple(v.detach().clone().requires_grad_(v.is_floating_point()) for v in given)
    leaves = [value for value in given if value.requires_grad]
    results = answer(*given)
    total = torch.stack([0 * leaf.sum() for leaf in leaves]).sum()
    for result in [results] if isinstance(results, Tensor) else results:
        factors = torch.arange(1.0, result.numel() + 1).view(result.shape)
        total = total + (result * factors).sum()
    return list(torch.autograd.grad(total, leaves))


def parts(want: Callable[[], Mapping[str, Any]]) -> tuple[Step, ...]:
    """A step for each entry of a predicted dictionary; `want` works all of them out."""

    def part(name: str) -> Step:
        return Step(name, {}, lambda: want()[name], lambda answer: _entry(answer, name))

    return tuple(part(name) for name in want())


def _entry(answer: Any, name: str) -> Any:
    if not isinstance(answer, Mapping) or name not in answer:
        raise LookupError(f"the answer must be a dictionary with the entry {name!r}")
    return answer[name]
