"""The environment check: is every package here, in a version the course is written for?

It reads the ranges that the installed package declares and needs only the standard library, so that
it can speak when the packages it looks for are missing.
"""

import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"  # of a clone
EXTRA = re.compile(r"""extra == ["'](\w+)["']""")


def check() -> bool:
    """Print a line for Python, each package and each data file; True if all of them are OK.

    A line that says FAIL names the version found, the version wanted and the command that mends it.
    What only lessons need is named, but fails nothing where none of it is installed.
    """
    wanted = metadata("tfm-lib")["Requires-Python"]
    advice = "install Python 3.12, then: make lab PYTHON=python3.12"
    good = [line("Python", platform.python_version(), wanted, advice)]
    for requirement in requirements(""):
        good.append(check_package(requirement))
    lessons = requirements("learn")
    if any(installed_version(split_requirement(each)[0]) for each in lessons):
        good += [check_package(requirement) for requirement in lessons]
    else:
        print('Note: for the lessons, pip install "tfm-lib[learn]"')
    if platform.system() == "Darwin" and platform.machine() == "x86_64":
        print("Note: torch has no recent wheels for Intel Macs. Use another computer, or a Linux")
        print("      container or hosted notebook; the README says more.")
    return all([*good, data_is_intact()])


def requirements(extra: str) -> list[str]:
    """What the installed package requires, with an extra or ("") without: ``"numpy>=2.2,<3"``."""
    found = []
    for requirement in requires("tfm-lib") or []:
        what, _, marker = requirement.partition(";")
        named = EXTRA.search(marker)
        if (named[1] if named else "") == extra:
            name, bounds = split_requirement(what.strip())
            found.append(name + ",".join(sorted(bounds.split(","), reverse=True)))  # from, below
    return sorted(found, key=str.lower)


def check_package(requirement: str) -> bool:
    """Print one package's line; True if its version lies in the range."""
    name, wanted = split_requirement(requirement)
    return line(name, installed_version(name), wanted, mend(name, wanted))


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
        from tfm_lib.datasets.shipped import SHA256, read_checked
    except (ImportError, OSError) as error:
        print(f"FAIL data files: not checked, since tfm_lib.datasets cannot be imported ({error})")
        return False
    good = True
    for name in SHA256:
        try:
            read_checked(name)
        except ValueError as error:
            good = False
            print(f"FAIL data/{name}: {error}")
        else:
            print(f"OK   data/{name}")
    return good


def split_requirement(requirement: str) -> tuple[str, str]:
    """Cut ``"numpy>=2.2,<3"`` into ``("numpy", ">=2.2,<3")``."""
    name, version_range = re.findall(r"^([\w.-]+)(.*)", requirement)[0]
    return name, version_range


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
    leading = re.findall(r"^[\d.]*\d", text)[0]
    return tuple(int(part) for part in leading.split("."))


def mend(name: str, wanted: str) -> str:
    """The command that installs the right version of a package into this Python."""
    lock = LOCK.read_text(encoding="utf-8") if LOCK.is_file() else ""
    pin = re.search(rf"^{re.escape(name)}==[^\s;]+", lock, re.MULTILINE)
    return f'"{sys.executable}" -m pip install "{pin[0] if pin else name + wanted}"'
