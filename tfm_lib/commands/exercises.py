"""`tfm exercises`: the exercises at the command line."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def exercises(
    answers: Annotated[Path | None, Parameter(help="a Python file whose answers to check")] = None,
    /,
    *,
    mutations: Annotated[
        bool, Parameter(help="try every wrong answer and show which are refused", negative=())
    ] = False,
) -> int:
    """Show what is solved, attempted and open; or check the answers that a file defines.

    Examples: `tfm exercises` and `tfm exercises my_answers.py`
    """
    if mutations:
        from tfm_lib.exercises.trials import mutation_table

        print(*mutation_table(), sep="\n\n")
        return 0
    if answers is not None:
        from tfm_lib.exercises.files import check_file

        return check_file(answers)
    from tfm_lib.exercises.verbs import progress

    progress()
    return 0
