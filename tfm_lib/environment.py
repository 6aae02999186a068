"""The environment check: is every package here, in a version the course is written for?

It reads the ranges from pyproject.toml and needs only the standard library, so that it can speak
when the packages it looks for are missing.
"""

import platform
import re
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def check() -> bool:
    """Print a line for Python, each package and each data file; True if all of them are OK.

    A line that says FAIL names the version found, the version wanted and the command that mends it.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python = (platform.python_version(), project["requires-python"])
    rows = [("Python", *python, "install Python 3.12, then: make lab PYTHON=python3.12")]
    for requirement in project["dependencies"] + project["optional-dependencies"]["learn"]:
        name, wanted = split_requirement(requirement)
        rows.append((name, installed_version(name), wanted, mend(name)))
    good = [line(*row) for row in rows]
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        print("Note: torch has no recent wheels for Intel Macs. Use another computer, or a Linux")
        print("      container or hosted notebook; the README says more.")
    return all([*good, data_is_intact()])


def line(name: str, found: str | None, wanted: str, command: str) -> bool:
    """Print one package's line; True if the version found lies in the wanted range."""
    good = found is not None and in_range(found, wanted)
    print(
        f"{'OK' if good else 'FAIL':5}{name:22}{found or 'missing':12}{f'wanted {wanted}':24}",
        end="",
    )
    print("" if good else f"mend with: {command}")
    return good


def data_is_intact() -> bool:
    """Read each data file and print whether its contents are those the course was written with."""
    try:
        from tfm_lib.datasets import load_dates, load_parallel
    except (ImportError, OSError) as error:
        print(f"FAIL data files: not checked, since tfm_lib.datasets cannot be imported ({error})")
        return False
    good = True
    for name, load in (("dates.tsv", load_dates), ("parallel.tsv", load_parallel)):
        try:
            load("test")
        except ValueError as error:
            good = False
            print(f"FAIL data/{name}: {error}")
        else:
            print(f"OK   data/{name}")
    return good


def split_requirement(requirement: str) -> tuple[str, str]:
    """Cut ``"numpy>=2.2,<3"`` into ``("numpy", ">=2.2,<3")``."""
    name = re.match(r"[\w.-]+", requirement)[0]
    return name, requirement.removeprefix(name)


def installed_version(name: str) -> str | None:
    """The installed version of a package, None if it is missing."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def in_range(found: str, wanted: str) -> bool:
    """Whether a version such as ``2.13.0+cpu`` lies in a range such as ``>=2.8,<3``."""
    release = release_numbers(found)
    bounds = re.findall(r"(>=|<)([\d.]+)", wanted)
    return all(
        release >= release_numbers(bound) if sign == ">=" else release < release_numbers(bound)
        for sign, bound in bounds
    )


def release_numbers(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: ``2.13.0+cpu`` -> ``(2, 13, 0)``."""
    return tuple(int(part) for part in re.match(r"\d+(\.\d+)*", text)[0].split("."))


def mend(name: str) -> str:
    """The command that installs a package's exact version into this Python."""
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pin = re.search(rf"^{re.escape(name)}==[^\s;]+", lock, re.MULTILINE)
    return f'"{sys.executable}" -m pip install "{pin[0] if pin else name}"'
