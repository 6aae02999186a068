"""The command `tfm`: help without PyTorch, one line for each wrong use, exit statuses."""

import subprocess
import sys

import pytest

from tests.commands.calling import tfm
from tfm_lib.commands import app as application
from tfm_lib.commands.app import app
from tfm_lib.translation.settings import Settings

COMMANDS = ("check", "data", "exercises", "train", "translate")


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)])
def test_help_needs_no_pytorch(command):
    code = (
        "import sys\nfrom tfm_lib.commands.app import main\n"
        f"try:\n    main([*{command!r}, '--help'])\n"
        "except SystemExit as stopped:\n"
        "    heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "    sys.exit(stopped.code or bool(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage: tfm" in done.stdout
    assert not command or "Example" in done.stdout


def test_every_command_is_listed_with_a_word_about_it(capsys):
    assert tfm("--help") == 0
    printed = capsys.readouterr().out
    for name in COMMANDS:
        line = next(line for line in printed.splitlines() if f"│ {name} " in line)
        assert len(line.replace("│", "").split()) > 3


def test_every_setting_is_an_option_with_its_default(capsys):
    assert tfm("train", "--help") == 0
    printed = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, setting in Settings.__dataclass_fields__.items():
        assert f"--{name.replace('_', '-')} " in printed
        if setting.default not in ((), None):
            assert f"[default: {setting.default}]" in printed


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["trian"], 2, 'Unknown command "trian". Did you mean "train"?'),
        (["train"], 2, "--out requires an argument. See: tfm train --help"),
        (["train", "--out", "x", "--d-modl", "3"], 2, "Did you mean --d-model?"),
        (["train", "--out", "x", "--d-model", "a"], 2, 'unable to convert "a" into int'),
        (["train", "--out", "x", "--d-model", "130"], 2, "must be divisible by num_heads=4"),
        (["train", "--out", "x", "--train", "a"], 2, "See: tfm train --help"),
        (["train", "--out", "x", "stray"], 2, "stray"),
        (["train", "--out", "x", "--epochs", "0"], 2, "epochs=0 must be 1 or more"),
        (["train", "--out", "x", "--src", "de", "--tgt", "de"], 1, "must be two of de, en, fr"),
        (["train", "--out", "x", "--train", "no.a", "no.b"], 1, "no.a cannot be read"),
        (["train", "--resume", "--out", "x"], 1, "x is not a run"),
        (["translate", "x", "--beam", "5000", "text"], 2, "--beam. Must be <= 100"),
        (["translate", "x", "--beam", "5", "text"], 1, "x is not a run"),
        (["translate", "--weights", "worst", "x", "text"], 2, "Choose from"),
        (["data", "multi31k"], 2, 'Choose from: "multi30k"'),
        (["data", "multi30k", "--src", "xx"], 2, "Choose from"),
    ],
)
def test_a_wrong_use_gets_one_line(arguments, status, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tfm(*arguments) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("tfm: ")
    assert words in line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    text = tmp_path / "a"
    text.write_text("a b\n" * 120, encoding="utf-8")
    options = ("--train", text, text, "--vocab-size", "300", "--out", text / "runs")
    assert tfm("train", *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{text / 'runs'} cannot be written (Not a directory): choose another --out" in line


def test_ctrl_c_ends_with_130(capsys, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(application, "app", interrupted)
    assert tfm("check") == 130
    assert capsys.readouterr().err == "tfm: stopped\n"


def test_exercises_are_shown_and_files_of_answers_checked(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TFM_LIB_PROGRESS", str(tmp_path / "progress.json"))
    assert tfm("exercises") == 0
    assert "solved" in capsys.readouterr().out
    (tmp_path / "answers.py").write_text("x = 1\n", encoding="utf-8")
    assert tfm("exercises", tmp_path / "answers.py") == 1
    assert "defines none of the names" in capsys.readouterr().out


def test_completion_can_be_written():
    for shell in ("bash", "zsh", "fish"):
        assert "translate" in app.generate_completion(shell=shell)
