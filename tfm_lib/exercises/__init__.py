"""Exercises that answer back: `check`, `hint`, `solution` and `progress`, without a server.

`check("06.1", my_function)` says at once what holds and what does not; `hint("06.1")` gives one
more hint at each call; `solution("06.1")` shows a worked solution; `progress()` shows what is
solved. In a terminal: `python -m tfm_lib.exercises`.
"""

from tfm_lib.exercises.verbs import check, hint, progress, solution

__all__ = ["check", "hint", "progress", "solution"]
