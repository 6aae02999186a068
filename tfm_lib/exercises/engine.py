"""Checks an answer: step by step, the simplest question first, up to the first that fails.

A failing answer is compared with every wrong answer of the exercise. If one of those first fails at
the same step with the same result, its mistake is what the reader most likely made.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from tfm_lib.exercises.declare import Exercise, Step, Wrong
from tfm_lib.exercises.running import Outcome, run
from tfm_lib.exercises.values import compare, name_type, same_kind, show
from tfm_lib.exercises.watching import (
    ForbiddenError,
    TooMuchError,
    named_in,
    refusal,
    watched,
)

SECONDS = 10.0  # for each step
NOT_ATTEMPTED, REFUSED, SOLVED = "not attempted yet", "not yet", "solved"
AS_GIVEN = "as given, it is broken"  # the stub of a "mend" exercise
LONGEST = 300  # characters shown of an error's message


@dataclass(frozen=True)
class Failure:
    """The first step that an answer failed: how, with which result, and how far from the right."""

    number: int  # of the step, from 0; -1 if the answer could not be asked anything
    sort: str  # "value", "error", "damage", "time", "forbidden" or "hand-in"
    lines: tuple[str, ...] = ()
    result: Any = None  # what came, or the error's text
    distance: float = math.inf


@dataclass(frozen=True)
class Report:
    """What a check says: the verdict, the steps that held, and the first that did not."""

    exercise: Exercise
    verdict: str  # NOT_ATTEMPTED, AS_GIVEN, REFUSED or SOLVED
    held: tuple[str, ...] = ()
    failure: Failure | None = None
    mistake: str = ""

    def __str__(self) -> str:
        lines = [f"{self.exercise.id} {self.exercise.title}: {self.verdict}"]
        lines += [f"  ok  {text}" for text in self.held]
        if self.failure is not None:
            number = self.failure.number
            step = self.exercise.steps[number] if number >= 0 else None
            if step is not None:
                lines.append(f"  NO  {step.asks}")
                given = ", ".join(f"{name}={show(value)}" for name, value in step.given.items())
                lines += [f"      with      {given}"] if given else []
            lines += [f"      {line}" for line in self._told(self.failure)]
        if self.mistake:
            lines.append(f"      looks like: {self.mistake}")
        return "\n".join(lines)

    def _told(self, failure: Failure) -> tuple[str, ...]:
        """The failure's lines; of a prediction not the number, which `solution` alone shows."""
        if self.exercise.kind != "predict" or failure.sort != "value":
            return failure.lines
        if not same_kind(want_of(self.exercise.steps[failure.number]), failure.result):
            return failure.lines
        return (f"you say   {show(failure.result)}: that is not it",)


@dataclass
class _Trial:
    """The steps that an answer passed, and the first that it failed, if any."""

    held: list[str] = field(default_factory=list)
    failure: Failure | None = None
    untouched: bool = False  # it gave only dots, or said that it is not implemented


def examine(exercise: Exercise, answer: Any, *, seconds: float = SECONDS) -> Report:
    """Check an answer, whatever it is, and report. `seconds` is the time limit of each step."""
    as_given = _is_stub(exercise, answer)
    if as_given and exercise.kind != "mend":
        return Report(exercise, NOT_ATTEMPTED)
    if words := _refuse_hand_in(exercise, answer):
        return Report(exercise, REFUSED, failure=Failure(-1, "hand-in", (words,)))
    trial = attempt(exercise, answer, seconds)
    if as_given:  # the symptom, and nothing about its cause
        return Report(exercise, AS_GIVEN, tuple(trial.held), trial.failure)
    if trial.untouched:
        return Report(exercise, NOT_ATTEMPTED)
    if trial.failure is None:
        return Report(exercise, SOLVED, tuple(trial.held))
    mistake = _recognise(exercise, trial.failure)
    return Report(exercise, REFUSED, tuple(trial.held), trial.failure, mistake)


def attempt(exercise: Exercise, answer: Any, seconds: float = SECONDS) -> _Trial:
    """Ask an answer one step after the other until one fails."""
    trial = _Trial()
    for number, step in enumerate(exercise.steps):
        given = _copies(step)
        outcome = run(partial(_call, exercise, step, answer, given), seconds)
        if number == 0 and _is_untouched(outcome):
            return _Trial(untouched=True)
        trial.failure = _judge(step, number, given, outcome, seconds)
        if trial.failure is not None:
            return trial
        difference = compare(want_of(step), outcome.value)
        trial.held.append(step.asks + (" (within rounding)" if difference.distance else ""))
    return trial


def want_of(step: Step) -> Any:
    """What a step expects, worked out from inputs of its own."""
    if not callable(step.want):
        return step.want
    outcome = run(lambda: step.want(*_copies(step)), math.inf)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _copies(step: Step) -> list:
    return [copy.deepcopy(value) for value in step.given.values()]


def _call(exercise: Exercise, step: Step, answer: Any, given: list) -> Any:
    if exercise.answer == "value":
        return answer if step.run is None else step.run(answer, *given)
    if name := named_in(answer, exercise.forbidden):
        raise ForbiddenError(refusal(name))
    ask = answer if step.run is None else partial(step.run, answer)
    return watched(partial(ask, *given), exercise.forbidden, step.at_once)


def _judge(
    step: Step, number: int, given: list, outcome: Outcome, seconds: float
) -> Failure | None:
    where = () if outcome.line is None else ("at line   {}: {}".format(*outcome.line),)
    printed = (f"it printed {show(outcome.printed.strip())}",) if outcome.printed else ()
    if outcome.out_of_time:
        lines = (f"stopped after {seconds:g} seconds: does a loop never end?", *where)
        if outcome.left_behind:
            lines += ("it could not be stopped and still runs: restart the kernel",)
        return Failure(number, "time", lines)
    if isinstance(outcome.error, ForbiddenError | TooMuchError):
        text = str(outcome.error)
        return Failure(number, "forbidden", (text, *where), text)
    if outcome.error is not None:
        text = _error_text(outcome.error)
        if outcome.line is None and isinstance(outcome.error, TypeError):
            where = ("it could not be called in this way: how many arguments does it take?",)
        return Failure(number, "error", (f"raised    {text}", *where, *printed), text)
    for (name, before), after in zip(step.given.items(), given, strict=True):
        if not _unchanged(before, after):
            line = f"your code changed its input `{name}` in place; work on a copy"
            return Failure(number, "damage", (line, *printed), (name, outcome.value))
    difference = compare(want_of(step), outcome.value)
    if difference.distance <= step.tolerance:
        return None
    lines = difference.lines + printed
    return Failure(number, "value", lines, outcome.value, difference.distance)


def _recognise(exercise: Exercise, failure: Failure) -> str:
    """The words for the first wrong answer that fails in the same way, or nothing."""
    for wrong, theirs in known_failures(exercise):
        if theirs is not None and alike(exercise, failure, theirs):
            return wrong.says
    return ""


@cache
def known_failures(exercise: Exercise) -> tuple[tuple[Wrong, Failure | None], ...]:
    """Each of an exercise's wrong answers with its first failure."""
    return tuple(
        (wrong, attempt(exercise, exercise.make(exercise.source_of(wrong))).failure)
        for wrong in exercise.wrong
    )


def alike(exercise: Exercise, ours: Failure, theirs: Failure) -> bool:
    """Whether two answers failed at the same step, in the same way, with the same result."""
    if (ours.number, ours.sort) != (theirs.number, theirs.sort):
        return False
    if ours.sort == "damage":  # the name of what was damaged, and what came of it
        same_place = ours.result[0] == theirs.result[0]
        return same_place and gap(theirs.result[1], ours.result[1]) == 0
    if ours.sort != "value":
        return ours.result == theirs.result
    return gap(theirs.result, ours.result) <= exercise.steps[ours.number].tolerance


def gap(one: Any, other: Any) -> float:
    """The largest difference between two results of answers, inf if they cannot be compared."""
    try:
        return compare(one, other).distance
    except TypeError:  # results of a kind that no step expects
        return math.inf


def _refuse_hand_in(exercise: Exercise, answer: Any) -> str:
    """Why this is not the kind of thing that the exercise asks for, or nothing."""
    name, got = exercise.name, name_type(answer)
    if exercise.answer == "value":
        return ""
    if exercise.answer == "class" and not isinstance(answer, type):
        return f"expected a class, got {got}: hand in the class itself, check(..., {name})"
    if exercise.answer == "function" and isinstance(answer, type):
        return f"expected a function, got {got}"
    if not callable(answer):
        return f"expected a function, got {got}: hand in the function itself, check(..., {name})"
    return ""


def _is_stub(exercise: Exercise, answer: Any) -> bool:
    """Whether an answer is the stub as it was given."""
    if exercise.answer == "value":
        return _only_dots(answer)
    return _codes(answer) == _codes(exercise.make(exercise.stub)) != []


def _is_untouched(outcome: Outcome) -> bool:
    # PyTorch raises the same error for what it cannot run, such as a product of sparse tensors.
    said = isinstance(outcome.error, NotImplementedError)
    return _only_dots(outcome.value) or (said and "aten::" not in str(outcome.error))


def _only_dots(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if type(value) in (list, tuple):
        return bool(value) and all(_only_dots(member) for member in value)
    return value is ...


def _codes(answer: Any) -> list:
    """What a function or the methods of a class do, whatever the file, the lines, the comments."""
    functions = vars(answer).values() if isinstance(answer, type) else [answer]
    return [_code(f.__code__) for f in functions if isinstance(f, FunctionType)]


def _code(code: CodeType) -> tuple:
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return code.co_code, code.co_names, code.co_varnames, constants


def _unchanged(before: Any, after: Any) -> bool:
    """Whether an input is still what it was; only kinds that can be changed are compared."""
    if isinstance(before, Tensor):
        same = before.shape == after.shape and before.dtype == after.dtype
        return same and bool(torch.equal(before.nan_to_num(), after.nan_to_num()))
    if isinstance(before, nn.Module):
        return _unchanged(before.state_dict(), after.state_dict())
    if isinstance(before, Mapping):
        same = list(before) == list(after)
        return same and all(_unchanged(before[key], after[key]) for key in before)
    if isinstance(before, Sequence) and not isinstance(before, str):
        same = len(before) == len(after)
        return same and all(map(_unchanged, before, after))
    return not isinstance(before, int | float | str) or before == after


def _error_text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # a message that cannot be made
        text = ""
    first = " ".join(text.split())
    return f"{type(error).__name__}: {first[:LONGEST]}".removesuffix(": ")
