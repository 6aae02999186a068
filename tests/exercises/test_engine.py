"""The engine of the exercises: how answers are run, compared and recorded."""

import _thread
import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
import torch
from torch import nn

from tfm_lib.commands.exercises import exercises as command
from tfm_lib.exercises import check, hint, progress, solution, state, verbs
from tfm_lib.exercises.catalogue import exercises
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors, tidy
from tfm_lib.exercises.engine import NOT_ATTEMPTED, SOLVED, examine
from tfm_lib.exercises.running import run
from tfm_lib.exercises.values import compare, show
from tfm_lib.exercises.verbs import suggest


@pytest.fixture(autouse=True)
def record(tmp_path, monkeypatch):
    file = tmp_path / "progress.json"
    monkeypatch.setenv("TFM_LIB_PROGRESS", str(file))
    return file


MEAN = Exercise(
    id="99.1",
    title="Mean of each row",
    kind="write",
    difficulty=1,
    minutes=2,
    task="Return the mean of each row.",
    stub='def row_mean(x):\n    """(rows, columns) -> (rows,)."""\n    return ...',
    hints=("Add up.", "Divide by the number of columns.", "x.mean(the last dimension)"),
    solution="def row_mean(x):\n    return x.mean(dim=-1)",
    explanation="The last dimension goes.",
    steps=(
        Step("one number: itself", tensors(x=[[3]]), torch.tensor([3.0])),
        Step("two rows", tensors(x=[[1, 3], [5, 9]]), lambda x: x.sum(1) / 2),
    ),
    wrong=(
        Wrong("the sum, not the mean", "x.mean", "x.sum"),
        Wrong("the mean of each column", "dim=-1", "dim=0"),
    ),
)


def text_of(answer, exercise=MEAN, **options):
    return str(examine(exercise, answer, **options))


def test_a_right_answer_is_told_what_held():
    assert text_of(lambda x: x.sum(dim=1) / x.size(1)) == (
        "99.1 Mean of each row: solved\n  ok  one number: itself\n  ok  two rows"
    )


def test_a_wrong_answer_is_told_where_and_what_and_why():
    assert text_of(lambda x: torch.stack([row.sum() for row in x])) == (
        "99.1 Mean of each row: not yet\n"
        "  ok  one number: itself\n"
        "  NO  two rows\n"
        "      with      x=[[1, 3], [5, 9]]\n"
        "      expected  [2, 7]\n"
        "      got       [4, 14]\n"
        "      off by 7 at [1]\n"
        "      looks like: the sum, not the mean"
    )


SUMS = replace(MEAN, forbidden=("mean", "grad"))


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.mean(dim=-1),
        lambda x: torch.mean(x, dim=-1),
        lambda x: getattr(torch, "me" + "an")(x, dim=-1),
        lambda x: nn.AdaptiveAvgPool1d(1)(x[None])[0, :, 0] if len(x) > 9 else x.mean(-1),
    ],
)
def test_a_forbidden_function_is_refused_by_name(answer):
    text = text_of(answer, SUMS)
    assert "`mean` does what this task asks you to write; do without it" in text
    assert SOLVED in text_of(lambda x: x.sum(dim=-1) / x.size(1), SUMS)


def test_what_cannot_be_watched_is_found_by_its_name():
    def by_autograd(x):
        weights = torch.ones_like(x, requires_grad=True)
        return torch.autograd.grad((x * weights).sum(), weights)[0].sum(-1) / x.size(1)

    assert "`grad` does what this task asks you to write" in text_of(by_autograd, SUMS)


def test_more_at_once_than_allowed_is_measured():
    step = Step("in pieces", tensors(x=[[1, 3], [5, 9], [2, 2]]), lambda x: x.sum(1) / 2, at_once=3)
    pieces = replace(MEAN, steps=(step,))
    assert SOLVED in text_of(lambda x: torch.stack([row.sum() / 2 for row in x]), pieces)
    assert "made a tensor of shape (3, 2): 6 numbers at once, at most 3" in text_of(
        lambda x: (x / 2).sum(dim=1), pieces
    )


GUESS = replace(
    MEAN,
    kind="predict",
    stub='guess = {"a half": ...}',
    solution='guess = {"a half": 0.5}',
    steps=parts(lambda: {"a half": 0.5}),
    wrong=(),
)


def test_a_prediction_is_told_how_to_think_and_not_the_number(capsys, monkeypatch):
    monkeypatch.setattr(verbs, "_find", lambda exercise_id: GUESS)
    verbs.MISSES.clear()
    said = []
    for _ in range(4):
        check("99.1", {"a half": 0.25})
        said.append(capsys.readouterr().out)
    start = "99.1 Mean of each row: not yet\n  NO  a half\n      you say   0.25: that is not it\n"
    assert said[0] == start + "      think     Add up.\n"
    assert said[1] == start + "      think     Divide by the number of columns.\n"
    assert said[2] == said[3]
    assert 'solution("99.1") shows the numbers' in said[2]
    assert text_of({"a half": [1]}, GUESS).endswith("expected a number, got a list")


@pytest.mark.parametrize("half", [0.5, Fraction(1, 2), Decimal("0.5"), torch.tensor(0.5)])
def test_a_number_may_come_in_any_form(half):
    assert SOLVED in text_of({"a half": half}, GUESS)


def test_an_unknown_mistake_gets_no_name():
    text = text_of(lambda x: x.amax(dim=1) + 0.5 * (x.size(1) > 1))
    assert "looks like" not in text
    assert "got       [3.5, 9.5]" in text


def test_untouched_answers_are_not_attempted():
    def raising(x):
        raise NotImplementedError

    with_comment = MEAN.make("# mine\n\n" + MEAN.stub.replace("return ...", "return ...  # later"))
    for answer in (..., with_comment, raising, lambda x: ..., lambda x: (..., [...])):
        report = examine(MEAN, answer)
        assert report.verdict == NOT_ATTEMPTED or answer is ...
    assert "hand in the function itself" in text_of(...)


def test_an_exception_is_shown_at_the_readers_own_line():
    source = "def row_mean(x):\n    y = x + 1\n    return y @ y[:0]"
    text = text_of(MEAN.make(source))
    assert "raised    RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x1 and 0x1)" in text
    assert "at line   3: return y @ y[:0]" in text


def test_wrong_arity_is_named():
    text = text_of(lambda: 1)
    assert "raised    TypeError" in text
    assert "how many arguments does it take?" in text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "expected a function, got None"),
        ("0.5", "expected a function, got a str"),
        (torch.ones(2), "got a tensor of shape (2,): hand in the function itself"),
        (dict, "expected a function, got the class dict"),
        (lambda x: None, "expected a tensor, got None (does every path"),
        (lambda x: [3.0], "expected a tensor, got a list"),
        (lambda x: torch.ones(1, 1), "expected shape (1,), got (1, 1)"),
        (lambda x: torch.tensor([3]), "expected dtype float32, got int64"),
        (lambda x: torch.ones(1, device="meta"), "expected a tensor on cpu, got one on meta"),
        (lambda x: torch.tensor([torch.nan]), "NaN (not a number) at [0]"),
        (lambda x: x.add_(1)[:, 0] - 1, "your code changed its input `x` in place"),
        (lambda x: x.unsqueeze_(0).mean(dim=(0, 2)), "changed its input `x` in place"),
        (lambda x: torch.tensor([3.01]), "close, but off by 0.01 at [0]"),
        (lambda x: print("look", x) or x.sum(1) + 5, "it printed 'look tensor([[3.]])"),
    ],
)
def test_each_fault_is_named(answer, words):
    text = text_of(answer)
    assert text.startswith("99.1 Mean of each row: not yet")
    assert words in text


def test_a_loop_is_stopped_at_its_line_and_its_thread_ends():
    before = threading.active_count()
    source = "def row_mean(x):\n    while True:\n        try:\n            x = x + 0\n"
    source += "        except Exception:\n            pass"
    text = text_of(MEAN.make(source), seconds=0.2)
    assert "stopped after 0.2 seconds" in text
    assert "at line   " in text
    assert threading.active_count() == before


def test_a_loop_that_swallows_everything_is_left_behind(monkeypatch):
    monkeypatch.setattr("tfm_lib.exercises.running.PATIENCE", 0.2)
    release = threading.Event()

    def stubborn():
        while not release.is_set():
            try:
                time.sleep(0.01)
            except BaseException:
                continue

    outcome = run(stubborn, 0.1)
    release.set()
    assert outcome.out_of_time
    assert outcome.left_behind


@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt here too: test workers are started to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_stops_the_answer_and_is_said(capsys):
    exercise = next(e for e in exercises().values() if e.answer == "function")
    running = threading.Event()

    def slow(*args):
        while True:
            running.set()
            time.sleep(0.01)

    threading.Thread(target=lambda: running.wait() and _thread.interrupt_main()).start()
    check(exercise.id, slow)
    assert capsys.readouterr().out == f"{exercise.id} {exercise.title}: interrupted\n"
    assert "answer" not in [thread.name for thread in threading.enumerate()]


def test_running_changes_nothing_for_others():
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.randn(3), random.random()
    torch.manual_seed(5)
    random.seed(5)

    def careless():
        torch.manual_seed(1)
        random.seed(1)
        torch.set_default_dtype(torch.float64)
        sys.setrecursionlimit(5000)
        print("noise" * 1000)

    limit = sys.getrecursionlimit()
    outcome = run(careless, 5)
    assert torch.get_default_dtype() == torch.float32
    assert sys.getrecursionlimit() == limit
    assert len(outcome.printed) <= 400
    assert torch.equal(torch.randn(3), expected[0])
    assert random.random() == expected[1]


def test_random_answers_meet_the_same_random_numbers():
    texts = {text_of(lambda x: torch.randn(len(x))) for _ in range(3)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("want", "got", "distance"),
    [
        (torch.ones(2), torch.ones(2), 0),
        (torch.ones(2), torch.tensor([1.0, 3.0]), 2),
        (torch.tensor([torch.inf]), torch.tensor([torch.inf]), 0),
        (torch.tensor([torch.inf]), torch.tensor([1.0]), torch.inf),
        (torch.tensor([True, False]), torch.tensor([True, True]), 1),
        (3, 3.0, 0),
        (3, torch.tensor(3), 0),
        (3, True, torch.inf),
        (3, 10**400, torch.inf),
        (True, torch.tensor(True), 0),
        (True, 1, torch.inf),
        ((2, 3), torch.zeros(2, 3).shape, 0),
        ([1.0, 2.0], [1.0, 2.5], 0.5),
        ([1.0, 2.0], [1.0], torch.inf),
        ("holds", "Holds ", 0),
        ("holds", 1, torch.inf),
        ({"a": 1}, {"a": 3}, 2),
        ({"a": 1}, {"b": 1}, torch.inf),
        ((torch.ones(1), 2), (torch.ones(1), 5), 3),
    ],
)
def test_distances(want, got, distance):
    difference = compare(want, got)
    assert difference.distance == distance
    assert bool(difference.lines) == (distance > 0)


def test_large_tensors_are_shown_by_their_worst_entry():
    got = torch.zeros(5, 7)
    got[2, 3] = 4
    lines = compare(torch.zeros(5, 7), got).lines
    assert lines == ("expected  0 at [2, 3] of (5, 7)", "got       4", "off by 4 at [2, 3]")
    assert show(got) == "a float32 tensor of shape (5, 7)"


def test_the_record_goes_up_and_never_down(record):
    first, second = list(exercises())[:2]
    assert state.save(first, state.ATTEMPTED) == ""
    assert state.save(first, state.SOLVED) == ""
    assert state.save(second, state.ATTEMPTED) == ""
    assert state.save(first, state.ATTEMPTED) == ""
    assert state.load() == ({second: state.ATTEMPTED, first: state.SOLVED}, "")
    assert list(json.loads(record.read_text())) == ["exercises"]
    assert [path.name for path in record.parent.iterdir()] == [record.name]


DAMAGE = ["", "{", "[]", "null", '"text"', '{"exercises": 3}', '{"exercises": {"06.1": "sol', "\0"]


@pytest.mark.parametrize("content", [*DAMAGE, b"\xff\xfe\x00"])
def test_a_damaged_record_costs_only_itself(record, content, capsys):
    record.write_bytes(content if isinstance(content, bytes) else content.encode())
    progress()
    assert "is damaged" in capsys.readouterr().out
    id_ = next(iter(exercises()))
    check(id_, exercises()[id_].make(exercises()[id_].solution))
    out = capsys.readouterr().out
    assert f": {SOLVED}" in out
    assert "is damaged" in out
    progress()
    assert "is damaged" not in capsys.readouterr().out
    assert state.load() == ({id_: state.SOLVED}, "")
    assert record.with_name(".progress-damaged.json").exists()


def test_states_of_another_kind_are_left_out(record):
    record.write_text('{"exercises": {"06.1": "solved", "06.2": 5, "06.3": "eaten"}}')
    assert state.load() == ({"06.1": "solved"}, "")


def test_a_record_that_cannot_be_written_costs_only_itself(record, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkstemp", refuse)
    id_ = next(iter(exercises()))
    check(id_, exercises()[id_].make(exercises()[id_].solution))
    out = capsys.readouterr().out
    assert f": {SOLVED}" in out
    assert "could not be saved (Permission denied)" in out
    assert not record.exists()


def test_a_folder_in_place_of_the_record_and_a_folder_that_is_absent(record, monkeypatch, capsys):
    record.mkdir()
    assert "cannot be read" in state.load()[1]
    progress()
    assert "cannot be read" in capsys.readouterr().out
    monkeypatch.setenv("TFM_LIB_PROGRESS", str(record / "none" / "progress.json"))
    assert state.load() == ({}, "")
    assert "could not be saved" in state.save("06.1", state.SOLVED)


def test_a_write_that_breaks_off_leaves_the_old_record(record, monkeypatch):
    state.save("06.1", state.SOLVED)

    def break_off(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("json.dump", break_off)
    assert "No space left" in state.save("06.2", state.SOLVED)
    assert state.load() == ({"06.1": state.SOLVED}, "")
    assert [path.name for path in record.parent.iterdir()] == [record.name]


def test_progress_counts_and_suggests(capsys):
    ids = list(exercises())
    state.save(ids[0], state.SOLVED)
    state.save(ids[1], state.ATTEMPTED)
    progress()
    out = capsys.readouterr().out
    lesson = ids[0][:2]
    own = [id_ for id_ in ids if id_.startswith(lesson)]
    row = next(line.split() for line in out.splitlines() if line.startswith(lesson))
    assert row == [lesson, "1", "1", str(len(own) - 2)]
    assert f"Next: {ids[1]} " in out
    assert suggest(dict.fromkeys(ids, state.SOLVED)) is None
    last = ids[-1]
    assert suggest({last: state.ATTEMPTED}).id == f"{last[:2]}.1"
    assert suggest({id_: state.SOLVED for id_ in ids if id_[:2] == last[:2]}).id == ids[0]
    assert suggest({}).id == ids[0]


def test_unknown_ids_are_named(capsys):
    for verb in (check, hint, solution):
        for wrong in ("06.01", "", None, 6.1, ["06.1"]):
            verb(wrong)
            assert "No exercise has the id" in capsys.readouterr().out
    check("6.1")
    assert 'Did you mean "' in capsys.readouterr().out


def test_a_fault_of_the_check_is_no_exception(capsys, monkeypatch):
    monkeypatch.setattr("tfm_lib.exercises.verbs.examine", lambda *_: 1 / 0)
    check(next(iter(exercises())), 1)
    assert "the check itself failed (ZeroDivisionError)" in capsys.readouterr().out


def test_the_commands(tmp_path, record, capsys):
    exercise = next(e for e in exercises().values() if e.answer == "function")
    solved, broken, empty = (tmp_path / f"{name}.py" for name in ("solved", "broken", "empty"))
    imports = "import math, torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
    solved.write_text(imports + tidy(exercise.solution), encoding="utf-8")
    broken.write_text("x = 1\ny = x / 0\n", encoding="utf-8")
    empty.write_text("x = 1\n", encoding="utf-8")

    def run(*arguments):
        return command(*arguments), capsys.readouterr().out

    status, out = run(solved)
    assert status == 0
    assert out.startswith(f"{exercise.id} {exercise.title}: {SOLVED}\n  ok  ")
    assert exercise.id in record.read_text(encoding="utf-8")
    status, out = run(broken)
    assert status == 1
    assert "at line 2: y = x / 0" in out
    assert "ZeroDivisionError" in out
    assert run(empty)[0] == 1
    assert run(tmp_path / "none.py")[0] == 1
    status, out = run()
    assert status == 0
    assert "Next: " in out


def test_progress_in_a_terminal():
    line = [sys.executable, "-m", "tfm_lib", "exercises"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("lesson")
    assert done.stderr == ""
