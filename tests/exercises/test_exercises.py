"""Every exercise keeps its promises: stub, hints, solution, wrong answers, odd hand-ins."""

import ast
import re
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.test_architecture import ROOMS
from tfm_lib.exercises import check, hint, solution
from tfm_lib.exercises.catalogue import exercises, lesson_of
from tfm_lib.exercises.declare import AT_HAND, KINDS
from tfm_lib.exercises.engine import AS_GIVEN, NOT_ATTEMPTED, REFUSED, SOLVED, attempt, examine
from tfm_lib.exercises.files import check_file
from tfm_lib.exercises.trials import as_answer, hand_ins, mutation_table, mutations
from tfm_lib.exercises.verbs import HINTS_GIVEN
from tools.lessons import (
    EXERCISE_ID,
    ROOT,
    code_cells,
    exercise_cells,
    lesson_paths,
    python_source,
    read,
)

MARGIN = 10  # a wrong answer is off by at least so many times what a step allows
EXERCISES = list(exercises().values())
every_lesson = pytest.mark.parametrize("path", lesson_paths(), ids=lambda path: path.stem)
every_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)


@pytest.fixture(autouse=True)
def record_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TFM_LIB_PROGRESS", str(tmp_path / "progress.json"))
    torch.set_num_threads(1)


def test_ids_and_names_are_unique_and_ordered():
    ids = [exercise.id for exercise in EXERCISES]
    assert ids == sorted(set(ids))
    for lesson in {lesson_of(id_) for id_ in ids}:
        own = [id_ for id_ in ids if lesson_of(id_) == lesson]
        assert own == [f"{lesson}.{i}" for i in range(1, len(own) + 1)]
        assert len(own) >= 3, f"lesson {lesson} has {len(own)} exercises"
    names = Counter(exercise.name for exercise in EXERCISES)
    assert [name for name, count in names.items() if count > 1] == []


def test_each_id_stands_in_the_file_of_its_lesson():
    for exercise in EXERCISES:
        file = ROOT / "tfm_lib" / "exercises" / "lessons" / f"lesson_{lesson_of(exercise.id)}.py"
        assert f'id="{exercise.id}"' in file.read_text(encoding="utf-8")


def test_several_kinds_and_labs():
    kinds = Counter(exercise.kind for exercise in EXERCISES)
    assert set(kinds) == set(KINDS)
    assert kinds["mend"] >= 8


@every_exercise
def test_declaration_is_complete(exercise):
    assert exercise.kind in KINDS
    assert exercise.difficulty in (1, 2, 3)
    assert 2 <= exercise.minutes <= 45
    assert len(exercise.hints) >= 3
    assert len(set(exercise.hints)) == len(exercise.hints)
    for text in (exercise.title, exercise.task, exercise.explanation, *exercise.hints):
        assert text.strip()
    assert len(exercise.steps) >= 2
    assert len({step.asks for step in exercise.steps}) == len(exercise.steps)
    if exercise.kind == "mend":
        assert exercise.title.startswith("Broken ")
        assert "**Symptom:**" in exercise.task
        assert "**Tool:**" in exercise.task


@every_exercise
def test_the_stub_is_not_attempted_and_a_broken_one_shows_its_symptom(exercise, capsys, tmp_path):
    namespace = {}
    exec(exercise.cell, {"torch": torch, "nn": torch.nn, "check": check}, namespace)
    first, *rest = capsys.readouterr().out.splitlines()
    if exercise.kind == "mend":  # the symptom, and not a word about its cause
        assert first == f"{exercise.id} {exercise.title}: {AS_GIVEN}"
        assert any(line.startswith("  NO  ") for line in rest)
        assert not any("looks like" in line for line in rest)
    else:
        assert (first, rest) == (f"{exercise.id} {exercise.title}: {NOT_ATTEMPTED}", [])
    assert not (tmp_path / "progress.json").exists()


@every_exercise
def test_a_prediction_is_never_told_its_number(exercise):
    if exercise.kind != "predict":
        return
    right = exercise.make(exercise.solution)
    for name, value in right.items():
        text = str(examine(exercise, right | {name: another(value)}))
        assert f"NO  {name}" in text
        assert "you say" in text
        assert "expected" not in text
        assert "off by" not in text


def another(value):
    """A value of the same kind that is wrong, and far enough from the right one to hide it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 173
    if isinstance(value, str):
        return value + " or not"
    return [another(each) for each in value] or [173]


@every_exercise
def test_a_planted_bug_is_one(exercise):
    if exercise.kind == "mend":
        assert attempt(exercise, exercise.make(exercise.stub)).failure is not None
    else:
        assert "..." in exercise.stub


@every_exercise
def test_the_solution_passes_with_room(exercise):
    report = examine(exercise, exercise.make(exercise.solution))
    assert report.verdict == SOLVED, str(report)
    assert len(report.held) == len(exercise.steps)


@every_exercise
def test_every_wrong_answer_gets_the_message_meant_for_it(exercise):
    tried = mutations(exercise)
    assert len(tried) >= 4
    for mutation in tried:
        assert mutation.refused, mutation.wrong.says
        assert mutation.report.mistake == mutation.wrong.says, str(mutation.report)
        assert f"looks like: {mutation.wrong.says}" in str(mutation.report)
        step = exercise.steps[mutation.report.failure.number]
        for apart in (mutation.distance, mutation.nearest):
            assert apart >= MARGIN * step.tolerance, str(mutation.report)


def test_right_answers_written_otherwise_pass(capsys):
    assert check_file(ROOT / "tests" / "exercises" / "other_answers.py") == 0
    verdicts = re.findall(r"(?m)^\d\d\.\d+ .*: (.*)$", capsys.readouterr().out)
    assert len(verdicts) > 20
    assert set(verdicts) == {SOLVED}


def test_whatever_is_handed_in_gets_a_message(capsys, monkeypatch):
    monkeypatch.setattr("tfm_lib.exercises.state.save", lambda id_, state: "")
    count = 0
    for exercise in EXERCISES:
        for name, answer in hand_ins(exercise).items():
            check(exercise.id, answer)
            out = capsys.readouterr().out
            assert re.match(re.escape(f"{exercise.id} {exercise.title}: {REFUSED}"), out), (
                name,
                out,
            )
            assert "the check itself failed" not in out, (name, out)
            count += 1
    with capsys.disabled():
        sys.stdout.write(f" [{count:,} hand-ins, no exception] ")


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_without_end_is_stopped(kind):
    exercise = next((e for e in EXERCISES if e.kind == kind and e.answer != "value"), None)
    if exercise is None:
        assert kind == "predict"
        return

    def loop(*args):
        while True:
            pass

    report = examine(exercise, as_answer(exercise, loop), seconds=0.2)
    assert report.verdict == REFUSED
    assert "stopped after 0.2 seconds" in str(report)


@every_exercise
def test_hints_come_one_by_one_and_the_solution_whenever_asked(exercise, capsys):
    HINTS_GIVEN.clear()
    seen = []
    for _ in range(len(exercise.hints) + 1):
        hint(exercise.id)
        seen.append(capsys.readouterr().out)
    assert len(set(seen)) == len(exercise.hints)
    assert seen[-1] == seen[-2]
    assert f'solution("{exercise.id}")' in seen[-1]
    solution(exercise.id)
    assert f"{exercise.name}" in capsys.readouterr().out


@every_lesson
def test_a_lesson_shows_its_exercises_as_declared(path):
    notebook = read(path)
    shown = {cell.id: cell.source for cell in notebook.cells if cell.id.startswith(EXERCISE_ID)}
    wanted = {cell.id: cell.source for cell in exercise_cells(notebook, path.name[:2])}
    assert shown == wanted, "python -m tools.lessons sync, then run the lesson"
    checks = [cell for cell in code_cells(notebook) if re.search(r"^check\(", cell.source, re.M)]
    assert len(checks) == sum(lesson_of(id_) == path.name[:2] for id_ in exercises())
    for cell in checks:
        (output,) = cell.outputs
        broken = exercises()[re.search(r'^check\("([\d.]+)"', cell.source, re.M)[1]].kind == "mend"
        assert output.text.split("\n")[0].endswith(f": {AS_GIVEN if broken else NOT_ATTEMPTED}")


@every_lesson
def test_stubs_fit_into_their_lesson(path):
    """No stub hides a name of its lesson, and each finds there the names that it uses."""
    cells = code_cells(read(path))
    own = [exercise for exercise in EXERCISES if lesson_of(exercise.id) == path.name[:2]]
    rest = [c for c in cells if not any(f'check("{e.id}"' in c.source for e in own)]
    nodes = [node for cell in rest for node in ast.walk(ast.parse(python_source(cell)))]
    imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    imported = {alias.asname or alias.name for node in imports for alias in node.names}
    bound = imported | {node.id for node in nodes if isinstance(node, ast.Name)}
    bound |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for exercise in own:
        assert exercise.name not in bound, f"{exercise.id} hides {exercise.name}"
        used = {n.id for n in ast.walk(ast.parse(exercise.cell)) if isinstance(n, ast.Name)}
        assert used & set(AT_HAND) <= imported, f"{exercise.id} needs what is not imported"


def test_the_example_for_authors_keeps_the_rules():
    text = Path(ROOT, "tfm_lib", "exercises", "README.md").read_text(encoding="utf-8")
    namespace = {}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], namespace)
    example = namespace["MEAN"]
    assert examine(example, example.make(example.solution)).verdict == SOLVED
    assert examine(example, example.make(example.stub)).verdict == NOT_ATTEMPTED
    assert all(mutation.named for mutation in mutations(example))
    assert len(example.wrong) == len(mutations(example)) == 4


def test_nothing_but_the_command_imports_exercises():
    for room, allowed in ROOMS.items():
        if not room.startswith("exercises") and room != "commands":
            assert not any(name.startswith("exercises") for name in allowed), room


def test_the_documented_totals_are_those_of_the_command():
    _, totals = mutation_table()
    text = Path(ROOT, "tfm_lib", "exercises", "README.md").read_text(encoding="utf-8")
    assert totals in text.splitlines(), "tfm exercises --mutations says other totals"
