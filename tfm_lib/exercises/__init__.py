"""The exercises' machinery: `check`, `hint`, `solution`, `progress`; `lessons/` declares them.

It uses `show`. Begin with `declare`, what an exercise is, then `engine`, how an answer is judged.
"""

from tfm_lib.exercises.verbs import check, hint, progress, solution

__all__ = ["check", "hint", "progress", "solution"]
