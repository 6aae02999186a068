"""A file of answers, checked as a whole: what `tfm exercises my_answers.py` does."""

import runpy
from pathlib import Path

from tfm_lib.exercises.catalogue import exercises
from tfm_lib.exercises.running import run
from tfm_lib.exercises.verbs import check

FILE_SECONDS = 60.0  # for a file of answers to be read and run once


def check_file(file: Path) -> int:
    """Check each answer of a file; returns 1 if the file does not run or holds no answer."""
    outcome = run(lambda: runpy.run_path(str(file)), FILE_SECONDS)
    if outcome.error is not None or outcome.out_of_time:
        where = "" if outcome.line is None else " at line {}: {}".format(*outcome.line)
        what = "it did not end" if outcome.out_of_time else repr(outcome.error)
        print(f"{file} could not be run{where}\n{what}")
        return 1
    named = {exercise.name: id_ for id_, exercise in exercises().items()}
    found = [name for name in outcome.value if name in named]
    for name in found:
        check(named[name], outcome.value[name])
    if not found:
        print(f"{file} defines none of the names that the exercises ask for.")
    return 0 if found else 1
