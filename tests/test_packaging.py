"""pyproject.toml, the lock, environment.yml, the Makefile and the README agree."""

import importlib.metadata
import re
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import install
from tools.lessons import ROOT

# What torch's CUDA builds bring along and pin themselves.
TORCH_PINS_THEM = re.compile(r"nvidia-|cuda-|triton")


def read_text(name):
    return (ROOT / name).read_text(encoding="utf-8")


project = tomllib.loads(read_text("pyproject.toml"))["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
requirements = [Requirement(text) for group in groups for text in group]
lock_lines = [line for line in read_text("requirements.lock").splitlines() if line[0] != "#"]
lock = {pin.name: pin for pin in map(Requirement, lock_lines)}


def pinned_version(name):
    return next(iter(lock[name].specifier)).version


def test_the_lock_holds_exact_public_versions_once_each():
    for line in lock_lines:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+( ; [\w<>=!.' ]+)?", line), line
    assert len(lock) == len(lock_lines)
    assert list(lock) == sorted(lock)


@pytest.mark.parametrize("requirement", requirements, ids=lambda requirement: requirement.name)
def test_the_lock_lies_in_the_ranges(requirement):
    assert len(requirement.specifier) == 2, "a range has a lower and an upper bound"
    assert requirement.specifier.contains(pinned_version(requirement.name))


def test_the_lock_is_complete():
    missing, seen = set(), set()
    todo = [(requirement, "") for requirement in requirements]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if TORCH_PINS_THEM.match(name) or (marker and not marker.evaluate({"extra": extra})):
            continue
        for extra in requirement.extras | {""}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                needed = importlib.metadata.requires(name) or []
                todo += [(Requirement(text), extra) for text in needed]
        if name not in lock:
            missing.add(name)
    assert missing == set()


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load(read_text("environment.yml"))
    python, pip, nested = environment["dependencies"]
    assert pip == "pip"
    assert nested == {"pip": ["-r requirements.lock", "-e ."]}
    name, version = python.split("=")
    assert name == "python"
    assert Requirement(f"python{project['requires-python']}").specifier.contains(version)


def test_the_installer_takes_torch_from_the_lock():
    expected = f"torch=={pinned_version('torch')}"
    assert install.locked_version(ROOT / "requirements.lock", "torch") == expected


def test_the_installer_stops_with_advice(capsys):
    with pytest.raises(SystemExit) as stopped:
        install.stop("What happened.", "What to do.")
    assert stopped.value.code == 1
    assert capsys.readouterr().err == "\nWhat happened.\nWhat to do.\n"


def test_the_readme_begins_with_the_two_commands_and_names_what_exists():
    readme = read_text("README.md")
    opening = readme[:1500]
    assert "make lab" in opening
    assert "make test" in opening
    for target in re.findall(r"\]\(([\w./]+)\)", readme):
        assert (ROOT / target).exists(), target
    targets = set(re.findall(r"(?m)^([a-z]+):", read_text("Makefile")))
    assert set(re.findall(r"\bmake ([a-z]+)", readme)) <= targets


def test_ci_covers_the_promised_platforms():
    jobs = yaml.safe_load(read_text(".github/workflows/ci.yml"))["jobs"]
    matrix = jobs["locked"]["strategy"]["matrix"]
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert "NEWEST=1" in str(jobs["newest"])
