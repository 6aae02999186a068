"""Reads, runs and synchronises the lessons.

python -m tools.lessons run 06 07    execute in place, in the tests' environment, and clean
python -m tools.lessons sync         rewrite the cells tagged `lib:<module>` from the library, and
                                     the exercises from their declarations
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import v4
from tqdm import tqdm

from tfm_lib.exercises.catalogue import exercises, lesson_of

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
OFFLINE = ROOT / "tests" / "offline"
LIBRARY_TAG = "lib:"
EXERCISE_ID = "exercise-"  # so begin the ids of the cells that declarations fill
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def lesson_paths(numbers=()):
    """The lessons' notebooks in order; of the given numbers alone ("06" or "6"), if any."""
    paths = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not numbers:
        return paths
    chosen = [
        path for path in paths if path.name[:2] in {f"{int(number):02}" for number in numbers}
    ]
    if len(chosen) != len(set(numbers)):
        raise SystemExit(f"lessons {' '.join(numbers)}: found {[path.name for path in chosen]}")
    return chosen


def lacks(path):
    """What a lesson needs that is not on this computer, in words, or None."""
    if path.name.startswith("16"):
        from tfm_lib.datasets.multi30k import MissingDataError, load_multi30k

        try:
            load_multi30k("test")
        except MissingDataError:
            return "Multi30k is not here; to download it: tfm data multi30k"
    return None


def read(path):
    return nbformat.read(path, as_version=4)


def write(notebook, path):
    """Write a notebook through a temporary file, so that a broken run costs nothing."""
    draft = path.with_suffix(".draft")
    draft.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8", newline="\n")
    draft.replace(path)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def library_module(cell):
    """The module a cell is tagged with: ``lib:masks`` -> ``masks``, or None."""
    found = [tag.removeprefix(LIBRARY_TAG) for tag in tags(cell) if tag.startswith(LIBRARY_TAG)]
    return found[0] if found else None


def python_source(cell):
    """A code cell's source with IPython's own lines (`%magic`, `!shell`) blanked, to be parsed."""
    return re.sub(r"(?m)^\s*[%!?].*$", "pass", cell.source)


def definitions(source):
    """Top-level name -> its node, for each class, function and assignment of one name."""
    found = {}
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found[name] = node
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found[name] = node
    return found


def library_source(module):
    return ROOT.joinpath("tfm_lib", *module.split(".")).with_suffix(".py").read_text("utf-8")


def kernel_environment(profile_dir):
    """Environment variables under which lessons run for tests and for committing.

    No network (see tests/offline), an empty IPython profile and record of exercises, one thread:
    sums come out the same.
    """
    environment = dict(os.environ, OMP_NUM_THREADS="1", IPYTHONDIR=str(profile_dir))
    environment["TFM_LIB_PROGRESS"] = str(Path(profile_dir) / "progress.json")
    search_path = [str(OFFLINE), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, search_path))
    environment.pop("MPLBACKEND", None)  # ipykernel then draws inline
    return environment


def run(path, profile_dir):
    """Execute a lesson in place and keep of it only what is stable."""
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=300,
        kernel_name=KERNELSPEC["name"],
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        coalesce_streams=True,
    )
    with tqdm(total=len(code_cells(notebook)), desc=path.stem, unit="cell") as bar:
        client.on_cell_complete = lambda **_: bar.update()
        client.execute(env=kernel_environment(profile_dir), stderr=subprocess.DEVNULL)
    clean(notebook)
    write(notebook, path)


def clean(notebook):
    """Drop what changes from machine to machine: language version, widget state, timings."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        kept = {"tags", "jupyter", "collapsed", "editable", "slideshow"}
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in kept})


def sync(path):
    """Rewrite a lesson's tagged cells and its exercises; True if something changed."""
    notebook = read(path)
    before = nbformat.writes(notebook)
    for cell in code_cells(notebook):
        if module := library_module(cell):
            cell.source = from_library(cell.source, library_source(module))
    renew_exercises(notebook, path.name[:2])
    changed = nbformat.writes(notebook) != before
    if changed:
        write(notebook, path)
    return changed


def renew_exercises(notebook, lesson):
    """Put a lesson's exercises, as they are declared, after the cell that opens "Your turn"."""
    wanted = exercise_cells(notebook, lesson)
    if not wanted:
        return
    known = {cell.id: cell for cell in notebook.cells if cell.id.startswith(EXERCISE_ID)}
    for cell in wanted:  # the outputs stay where the source does
        if cell.id in known and known[cell.id].source == cell.source:
            cell.update(known[cell.id])
    others = [cell for cell in notebook.cells if cell.id not in known]
    place = next(i for i, cell in enumerate(others) if cell.source.startswith("## Your turn"))
    notebook.cells = [*others[: place + 1], *wanted, *others[place + 1 :]]


def exercise_cells(notebook, lesson):
    """The cells of a lesson's exercises: what they use, then a task and a stub for each."""
    found = [exercise for id_, exercise in exercises().items() if lesson_of(id_) == lesson]
    if not found:
        return []
    cells = [v4.new_code_cell(exercise_imports(notebook), id=f"{EXERCISE_ID}{lesson}-imports")]
    for exercise in found:
        id_ = EXERCISE_ID + exercise.id.replace(".", "-")
        cells += [
            v4.new_markdown_cell(exercise.heading, id=f"{id_}-task"),
            v4.new_code_cell(exercise.cell, id=id_),
        ]
    return cells


def exercise_imports(notebook):
    """Imports of the exercises' verbs, and of what answers may use and the lesson has not yet."""
    known = imported(cell for cell in code_cells(notebook) if not cell.id.startswith(EXERCISE_ID))
    blocks = [
        ["import math"] * ("math" not in known),
        ["import torch"] * ("torch" not in known),
        [f"from torch import {', '.join(new)}"]
        if (new := [name for name in ("Tensor", "nn") if name not in known])
        else [],
        ["from torch.nn import functional as F"] * ("F" not in known),
    ]
    parts = [blocks[0], [line for block in blocks[1:] for line in block]]
    parts.append(["from tfm_lib.exercises import check, hint, progress, solution"])
    return "\n\n".join("\n".join(part) for part in parts if part)


def imported(cells):
    """The names that cells import."""
    nodes = [node for cell in cells for node in ast.walk(ast.parse(python_source(cell)))]
    found = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return {(alias.asname or alias.name).split(".")[0] for node in found for alias in node.names}


def from_library(cell_source, module_source):
    """The cell's source with each definition replaced by the library's of the same name."""
    lines = cell_source.splitlines()
    truth = definitions(module_source)
    for name, node in reversed(definitions(cell_source).items()):
        if name not in truth:
            raise SystemExit(f"the library has no {name}, which a tagged cell defines")
        first, last = line_span(node)
        wanted_first, wanted_last = line_span(truth[name])
        lines[first:last] = module_source.splitlines()[wanted_first:wanted_last]
    return "\n".join(lines)


def line_span(node):
    """Slice bounds of a definition's lines, its decorators included."""
    decorators = [decorator.lineno for decorator in getattr(node, "decorator_list", [])]
    return min([node.lineno, *decorators]) - 1, node.end_lineno


def main():
    parser = argparse.ArgumentParser(description="Run or synchronise the lessons.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("run", help="execute in place").add_argument("numbers", nargs="+")
    verbs.add_parser("sync", help="tagged cells from the library, exercises from declarations")
    options = parser.parse_args()
    if options.verb == "sync":
        for path in lesson_paths():
            print(f"{path.name}: {'rewritten, run it again' if sync(path) else 'unchanged'}")
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile_dir:
        for path in lesson_paths(options.numbers):
            try:
                run(path, profile_dir)
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                sys.exit(f"{path.name} was not changed, since it failed:\n{error}")


if __name__ == "__main__":
    main()
