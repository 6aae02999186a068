"""All exercises of the course, found by file: every module of `exercises/lessons`."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from tfm_lib.exercises.declare import Exercise


@cache
def exercises() -> dict[str, Exercise]:
    """Id -> exercise, in the course's order."""
    folder = Path(__file__).parent / "lessons"
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    modules = [importlib.import_module(f"tfm_lib.exercises.lessons.{name}") for name in names]
    found = [thing for module in modules for thing in vars(module).values()]
    return {thing.id: thing for thing in found if isinstance(thing, Exercise)}


def lesson_of(id_: str) -> str:
    """The lesson's two digits."""
    return id_.partition(".")[0]
