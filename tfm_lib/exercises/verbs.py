"""The reader's four verbs. Each prints plain text, returns None and raises nothing."""

import difflib
import textwrap
from collections import Counter
from typing import Any

import tfm_lib.exercises.state as state
from tfm_lib.exercises.catalogue import exercises, lesson_of
from tfm_lib.exercises.declare import Exercise, tidy
from tfm_lib.exercises.engine import AS_GIVEN, NOT_ATTEMPTED, REFUSED, SOLVED, examine
from tfm_lib.show.table import Table

HINTS_GIVEN: Counter[str] = Counter()  # id -> how many, in this session
MISSES: Counter[str] = Counter()  # id of a prediction -> how often it was refused, in this session


def check(exercise_id: str, answer: Any = ...) -> None:
    """Check an answer: print what holds, and at the first thing that does not, what and why."""
    exercise = _find(exercise_id)
    if exercise is None:
        return
    try:
        report = examine(exercise, answer)
    except KeyboardInterrupt:
        print(f"{exercise.id} {exercise.title}: interrupted")
        return
    except Exception as error:  # a fault of ours must not cost the reader the session
        kind = type(error).__name__
        print(
            f"{exercise.id} {exercise.title}: the check itself failed ({kind}). Please report it."
        )
        return
    print(report)
    if exercise.kind == "predict" and report.verdict == REFUSED:
        print(_how_to_think(exercise))
    if report.verdict not in (NOT_ATTEMPTED, AS_GIVEN):
        reached = state.SOLVED if report.verdict == SOLVED else state.ATTEMPTED
        if complaint := state.save(exercise.id, reached):
            print(complaint)


def _how_to_think(exercise: Exercise) -> str:
    """After the first two misses of a prediction a hint, then the way to the numbers."""
    MISSES[exercise.id] += 1
    if MISSES[exercise.id] <= 2:
        words = tidy(exercise.hints[MISSES[exercise.id] - 1])
    else:
        words = f'solution("{exercise.id}") shows the numbers and how they come about'
    return textwrap.indent(f"think     {words}", "      ")


def hint(exercise_id: str) -> None:
    """Print one more hint at each call: a nudge, then the formula, then near-code."""
    exercise = _find(exercise_id)
    if exercise is None:
        return
    number = min(HINTS_GIVEN[exercise.id], len(exercise.hints) - 1)
    HINTS_GIVEN[exercise.id] += 1
    print(f"{exercise.id} {exercise.title}: hint {number + 1} of {len(exercise.hints)}")
    print(textwrap.indent(tidy(exercise.hints[number]), "  "))
    if number + 1 == len(exercise.hints):
        print(f'That was the last. A worked solution: solution("{exercise.id}")')


def solution(exercise_id: str) -> None:
    """Print a worked solution and its reasoning."""
    exercise = _find(exercise_id)
    if exercise is None:
        return
    print(f"{exercise.id} {exercise.title}: a solution\n")
    print(tidy(exercise.solution), "\n", sep="\n")
    print(textwrap.fill(" ".join(tidy(exercise.explanation).split()), width=88))


def progress() -> None:
    """Print how many exercises are solved, attempted and open, by lesson, and what comes next."""
    states, complaint = state.load()
    if complaint:
        print(complaint)
    lessons = sorted({lesson_of(id_) for id_ in exercises()})
    counts = [_count(states, lesson) for lesson in lessons]
    rows = [(lesson, *count) for lesson, count in zip(lessons, counts, strict=True)]
    total = ("all", *map(sum, zip(*counts, strict=True)))
    print(Table(("lesson", "solved", "attempted", "open"), [*rows, total]))
    following = suggest(states)
    if following is None:
        print("\nAll solved.")
        return
    words = f"about {following.minutes} minutes, difficulty {following.difficulty} of 3"
    print(f"\nNext: {following.id} {following.title} ({words})")


def suggest(states: dict[str, str]) -> Exercise | None:
    """The first exercise not solved, from the lesson of the latest answer on, else from 01."""
    unsolved = [e for id_, e in exercises().items() if states.get(id_) != state.SOLVED]
    here = lesson_of(next(reversed(states), ""))
    return next((e for e in unsolved if lesson_of(e.id) >= here), next(iter(unsolved), None))


def _count(states: dict[str, str], lesson: str) -> tuple[int, int, int]:
    ids = [id_ for id_ in exercises() if lesson_of(id_) == lesson]
    counts = Counter(states.get(id_) for id_ in ids)
    solved, attempted = counts[state.SOLVED], counts[state.ATTEMPTED]
    return solved, attempted, len(ids) - solved - attempted


def _find(exercise_id: Any) -> Exercise | None:
    known = exercises()
    if isinstance(exercise_id, str) and exercise_id in known:
        return known[exercise_id]
    text = exercise_id if isinstance(exercise_id, str) else type(exercise_id).__name__
    near = difflib.get_close_matches(text, known, n=1)
    also = f' Did you mean "{near[0]}"?' if near else ""
    print(f'No exercise has the id {text!r}: ids look like "06.1".{also}')
    return None
