"""Small notebooks run by a copy of this project's own test set-up, to see what turns it red."""

import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.lessons import ROOT


def tiny_notebook(*cells):
    """An executed notebook; each cell is (source, printed text), after a title."""
    notebook = new_notebook(cells=[new_markdown_cell("# A tiny lesson")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    for count, (source, printed) in enumerate(cells, start=1):
        outputs = [new_output("stream", name="stdout", text=printed)] if printed else []
        notebook.cells.append(new_code_cell(source, execution_count=count, outputs=outputs))
    return notebook


def run_copy(folder, executed, read=()):
    """Run the book's rules over all notebooks and nbval over those to be executed.

    Both are dicts, name -> notebook; returns name -> {failed test: its message}.
    """
    notebooks = {**executed, **dict(read)}
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("tools", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "notebooks").mkdir()
    for name, notebook in notebooks.items():
        nbformat.write(notebook, folder / "notebooks" / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "--color=no", "-p", "no:cacheprovider"]
    command += ["--junitxml=report.xml", "tests/course/test_book.py"]
    command += [f"notebooks/{name}.ipynb" for name in executed]
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,  # less than a cell's: a dead kernel that goes unnoticed must not pass
    )
    assert done.returncode in (0, 1), (
        done.stdout + done.stderr
    )  # anything else: pytest itself broke
    red = {name: {} for name in notebooks}
    ran = set()
    for case in ET.parse(folder / "report.xml").iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        for name in [name for name in notebooks if name in test]:
            ran.add(name)
            if (failure := case.find("failure")) is not None:
                red[name][test] = failure.text
    assert ran == set(notebooks), done.stdout
    return red
