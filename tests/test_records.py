"""The records of what was broken on purpose: large enough, few survivors, each with its reason."""

import json

import pytest

from tools.lessons import lesson_paths
from tools.mutants import LEAST, core_modules

TOOLS = lesson_paths()[0].parent.parent / "tools"
MUTANTS, SURVIVORS, BROKEN = (
    json.loads((TOOLS / f"{name}.json").read_text(encoding="utf-8"))
    for name in ("mutants", "survivors", "broken")
)
SAMPLE, KILLED, RED = 800, 0.95, 0.90


def tried(entry):
    return sum(kind["sampled"] for kind in entry["kinds"].values())


def test_the_core_was_broken_often_enough_and_the_unit_tests_noticed():
    modules = MUTANTS["modules"]
    assert set(modules) == set(core_modules())
    sampled = sum(tried(entry) for entry in modules.values())
    survived = sum(len(entry["survived"]) for entry in modules.values())
    assert sampled >= SAMPLE
    assert 1 - survived / sampled >= KILLED


@pytest.mark.parametrize("module", core_modules())
def test_no_module_was_left_out(module):
    entry = MUTANTS["modules"][module]
    assert tried(entry) >= min(LEAST, entry["possible"])


def test_every_survivor_has_its_reason_and_every_reason_its_survivor():
    alive = {name for entry in MUTANTS["modules"].values() for name in entry["survived"]}
    assert set(SURVIVORS) == alive
    assert all(len(reason) > 10 for reason in SURVIVORS.values())


def test_every_lesson_was_broken_and_nine_in_ten_turned_an_assert_red():
    assert set(BROKEN) == {path.name[:2] for path in lesson_paths()}
    assert sum(e["red"] for e in BROKEN.values()) >= RED * sum(
        e["mutants"] for e in BROKEN.values()
    )
