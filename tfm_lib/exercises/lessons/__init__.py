"""The exercises of each lesson, declared: task, stub, hints, solution, checks, wrong answers.

They use every package but `commands`. Begin with `lesson_06`, and the README one folder up.
"""
