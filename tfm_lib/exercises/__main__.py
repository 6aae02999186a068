"""The exercises in a terminal.

python -m tfm_lib.exercises                        what is solved, attempted and open
python -m tfm_lib.exercises check my_answers.py    check every answer that the file defines
python -m tfm_lib.exercises mutations [FILE]       the table of wrong answers; its totals into FILE
"""

import argparse
import re
import runpy
from pathlib import Path

from tfm_lib.exercises.catalogue import exercises
from tfm_lib.exercises.running import run
from tfm_lib.exercises.trials import mutation_table
from tfm_lib.exercises.verbs import check, progress

FILE_SECONDS = 60.0  # for a file of answers to be read and run once
TOTALS = re.compile(r"(?m)^\d+ exercises, \d+ wrong answers: .*$")


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


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tfm_lib.exercises",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", nargs="?", choices=("progress", "check", "mutations"))
    parser.add_argument("file", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.verb == "check":
        if arguments.file is None:
            parser.error("check needs a file: python -m tfm_lib.exercises check my_answers.py")
        return check_file(arguments.file)
    if arguments.verb == "mutations":
        table, totals = mutation_table()
        print(table, totals, sep="\n\n")
        if arguments.file is not None:
            text = arguments.file.read_text(encoding="utf-8")
            arguments.file.write_text(TOTALS.sub(totals, text), encoding="utf-8")
        return 0
    progress()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
