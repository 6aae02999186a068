"""How the numbers of a lesson's claims came out with other seeds, beside what they are here."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfm_lib.show.table import Table

RECORD = Path("../benchmarks/seeds.json")  # from the lessons' folder


def among_seeds(lesson: str, here: Mapping[str, Any], *, record: Path = RECORD) -> Table:
    """Show each number that a lesson's claims rest on and that seeds change, among recorded runs.

    lesson: its number, as "02"; here: the lesson's names, `globals()`, in which each expression is
    worked out once more. Numbers of parts of an expression, as in `all(x > 1 for x in xs)`, are
    shown as recorded. Raises ValueError if the record does not hold the lesson.
    """
    lessons = json.loads(record.read_text(encoding="utf-8"))["lessons"]
    if lesson not in lessons:
        raise ValueError(f"no runs of lesson {lesson}: python -m benchmarks.seeds {lesson}")
    rows = []
    for each in lessons[lesson]["varying"]:
        if not each["claim"]:
            continue
        for name, values in each["numbers"].items():
            spread = (min(values), statistics.median(values), max(values))
            rows.append((f"`{name}`", _here(name, here), *(f"{value:.3g}" for value in spread)))
    count = lessons[lesson]["seeds"]
    return Table(("number", "here", f"lowest of {count}", "median", "highest"), rows)


def _here(name: str, names: Mapping[str, Any]) -> str:
    """The value of an expression in a lesson, if it has one outside its loop."""
    try:
        return f"{float(eval(name, dict(names))):.3g}"
    except (NameError, SyntaxError, TypeError, ValueError):
        return ""
