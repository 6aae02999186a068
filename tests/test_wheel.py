"""The built wheel, installed beside nothing but the core's dependencies, away from the clone."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tfm_lib.datasets.parallel import load_parallel
from tools.lessons import ROOT


def core_distributions(requirements):
    """The installed distributions that the requirements need, and what those need in turn."""
    found, todo = {}, [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        marker, name = requirement.marker, canonicalize_name(requirement.name)
        if name in found or (marker and not marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # of another platform
            continue
        todo += [Requirement(text) for text in found[name].requires or []]
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds the wheel's contents, and links to what the core depends on."""
    built, home = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", built, ROOT]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = built.glob("tfm_lib-*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", home, wheel], check=True)
    for distribution in core_distributions(importlib.metadata.requires("tfm-lib")).values():
        for file in distribution.files or []:
            top = file.parts[0]
            place = Path(distribution.locate_file(top))
            if top not in ("..", "__pycache__") and not (home / top).exists() and place.exists():
                (home / top).symlink_to(place)
    return home


def run(installed, folder, *arguments):
    # -S: no site-packages, so neither the clone nor what only lessons need can be imported.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TFM_LIB")}
    environment |= {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-S", *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=240,
    )


def test_the_data_files_come_with_it(installed, tmp_path):
    code = (
        "import tfm_lib; from tfm_lib.datasets import load_dates, load_noun_kinds, load_parallel; "
        "print(tfm_lib.__file__); print(len(load_dates('test')), len(load_parallel('test')), "
        "len(load_noun_kinds()))"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    where, counts = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert counts == "1000 1000 99"


def test_the_core_does_without_what_lessons_need(installed, tmp_path):
    for name in ("IPython", "matplotlib", "babel", "sklearn"):
        done = run(installed, tmp_path, "-c", f"import {name}")
        assert "ModuleNotFoundError" in done.stderr
    done = run(
        installed,
        tmp_path,
        "-c",
        "import datetime; from tfm_lib.datasets import write_date; "
        "write_date(datetime.date(2026, 11, 21), 'de_DE', 'long')",
    )
    assert 'pip install "tfm-lib[learn]"' in done.stderr


def test_the_environment_check_speaks(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "tfm_lib", "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "OK   torch" in done.stdout
    assert "OK   data/dates.tsv" in done.stdout
    assert 'pip install "tfm-lib[learn]"' in done.stdout


def test_a_translator_is_trained_and_used(installed, tmp_path):
    pairs = load_parallel("train")[:300]
    for name, lines in (("a.en", pairs.sources), ("a.fr", pairs.targets)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    sizes = ("--vocab-size", 420, "--d-model", 12, "--num-heads", 2, "--num-layers", 1)
    options = ("--train", "a.en", "a.fr", *sizes, "--epochs", 1, "--out", "runs/x")
    done = run(installed, tmp_path, "-m", "tfm_lib", "train", *options)
    assert done.returncode == 0, done.stderr
    assert "epoch 1: validation BLEU" in done.stdout
    done = run(installed, tmp_path, "-m", "tfm_lib", "translate", "--beam", 2, "runs/x", "the cat.")
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stderr
    picture = ("translate", "runs/x", "the cat.", "--attention", "a.png")
    done = run(installed, tmp_path, "-m", "tfm_lib", *picture)
    assert done.returncode == 1
    assert 'pip install "tfm-lib[learn]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_and_the_version_are_the_packages_own(installed):
    (metadata,) = installed.glob("tfm_lib-*.dist-info")
    entry_points = (metadata / "entry_points.txt").read_text(encoding="utf-8")
    assert "tfm = tfm_lib.commands.app:main" in entry_points
    assert importlib.metadata.version("tfm-lib") in metadata.name
