"""The record of other seeds: it is of these lessons, and every assert held every time."""

import json
from pathlib import Path

import pytest

from benchmarks.seeds import RESULTS, SEEDS, digest
from tests.course.test_book import every_lesson
from tools.lessons import code_cells, lesson_paths, read
from tools.trial import Trial, asserts_of

RECORD = json.loads(RESULTS.read_text(encoding="utf-8"))["lessons"]
recorded = pytest.mark.parametrize("lesson", RECORD)


@every_lesson
def test_the_record_is_of_the_lessons_asserts(path):
    lesson = path.name[:2]
    again = f"no record of these asserts: python -m benchmarks.seeds {lesson}"
    assert lesson in RECORD, again
    assert RECORD[lesson]["digest"] == digest(asserts_of(path)), again


@recorded
def test_every_assert_held_for_every_seed(lesson):
    assert RECORD[lesson]["seeds"] >= SEEDS == 10
    for each in RECORD[lesson]["varying"]:
        assert each["held"] == RECORD[lesson]["seeds"], each["assert"]


@recorded
def test_lessons_show_their_claims_numbers_among_those_of_other_seeds(lesson):
    (path,) = lesson_paths([lesson])
    shown = any(f'among_seeds("{lesson}"' in cell.source for cell in code_cells(read(path)))
    assert shown == any(each["claim"] and each["numbers"] for each in RECORD[lesson]["varying"])


SOURCE = """
import torch
torch.manual_seed(0)
x = torch.rand(3)
assert x.max() < 1
for limit in (2, 3):
    assert float(x.min()) < limit, "never"
torch.testing.assert_close(x, x + 1)
Claim(1, "", "", "holds", evidence=x.sum() > 5)
"""


def test_a_trial_goes_on_after_a_false_assert_and_moves_the_seeds(tmp_path):
    path = tmp_path / "99_tiny.ipynb"
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [cell | {"source": "def Claim(*args, evidence):\n    assert evidence\n" + SOURCE}]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(notebook), encoding="utf-8")
    folder = Path.cwd()
    runs = []
    for number in (0, 1):
        trial = Trial(path, number)
        runs.append(trial.run())
        assert trial.broken is None
    assert Path.cwd() == folder
    first, second = runs
    assert [note.source for note in first] == [note.source for note in asserts_of(path)]
    held = {note.source.split("\n")[0]: note.held for note in first}
    assert held["x.max() < 1"] == [True]
    assert held["float(x.min()) < limit"] == [True, True]
    assert held["torch.testing.assert_close(x, x + 1)"] == [False]
    assert held["x.sum() > 5"] == [False]
    assert [note.source for note in first if note.claim] == ["x.sum() > 5"]
    assert [note.numbers for note in first] != [note.numbers for note in second]
