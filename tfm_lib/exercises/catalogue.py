"""All exercises of the course, found by file: every module of this package named lesson_NN."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from tfm_lib.exercises.declare import Exercise


@cache
def exercises() -> dict[str, Exercise]:
    """Id -> exercise, in the course's order."""
    names = sorted(m.name for m in pkgutil.iter_modules([str(Path(__file__).parent)]))
    modules = [
        importlib.import_module(f"tfm_lib.exercises.{name}")
        for name in names
        if name.startswith("lesson_")
    ]
    found = [thing for module in modules for thing in vars(module).values()]
    return {thing.id: thing for thing in found if isinstance(thing, Exercise)}


def lesson_of(id_: str) -> str:
    """The lesson's two digits."""
    return id_.partition(".")[0]
