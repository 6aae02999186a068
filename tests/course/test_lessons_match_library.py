"""A lesson's tagged cells are the library, word for word but for docstrings and comments.

And lessons build on what earlier ones finished: none imports what a later one, or itself, builds.
"""

import ast
from collections import Counter
from functools import cache

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tools.lessons import (
    ROOT,
    code_cells,
    definitions,
    from_library,
    lesson_paths,
    library_module,
    library_source,
    python_source,
    read,
)

every_lesson = pytest.mark.parametrize("path", lesson_paths(), ids=lambda path: path.stem)


@every_lesson
def test_tagged_cells_equal_the_library(path):
    for cell in code_cells(read(path)):
        if module := library_module(cell):
            assert differing(cell.source, library_source(module)) == [], f"make sync: {module}"


@every_lesson
def test_lessons_import_only_what_earlier_ones_finished(path):
    here = int(path.name[:2])
    for name in imported_names(read(path)):
        lesson = taught_in().get(name, -1)
        assert lesson < here, f"{'.'.join(name)} is built in lesson {lesson:02}"


def test_every_piece_is_tagged_once():
    counts = Counter(name for path in lesson_paths() for name in tagged_names(read(path)))
    assert counts, "no lesson has a cell tagged lib:<module>"
    assert [name for name, count in counts.items() if count > 1] == []


def tagged_names(notebook):
    """(module, name) of each definition in the tagged cells."""
    return [
        (module, name)
        for cell in code_cells(notebook)
        if (module := library_module(cell))
        for name in definitions(cell.source)
    ]


@cache
def taught_in():
    """(module, name) -> the number of the lesson that builds it."""
    return {
        name: int(path.name[:2]) for path in lesson_paths() for name in tagged_names(read(path))
    }


@every_lesson
def test_lessons_import_from_packages(path):
    """So a module may be cut in two without touching a lesson."""
    assert reaching_inside(read(path)) == []


def reaching_inside(notebook):
    """Imports of a package's modules, or of public names from them, as (module, name)."""
    found = []
    trees = [ast.parse(python_source(cell)) for cell in code_cells(notebook)]
    for node in [node for tree in trees for node in ast.walk(tree)]:
        match node:
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("tfm_lib."):
                package = ROOT.joinpath(*module.split("."))
                for name in [alias.name for alias in names]:
                    deep = module.count(".") > 1 and not name.startswith("_")
                    if deep or (package / f"{name}.py").is_file():
                        found.append((module, name))
    return found


def home_of(module, name):
    """The module that defines what a package hands on: attention -> attention.masks."""
    door = ROOT.joinpath("tfm_lib", *module.split("."), "__init__.py")
    if door.is_file():
        for node in ast.walk(ast.parse(door.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
                return node.module.removeprefix("tfm_lib.")
    return module


def imported_names(notebook):
    """(module, name) of everything a lesson takes from tfm_lib, by import or as an attribute."""
    found, modules = set(), {}
    trees = [ast.parse(python_source(cell)) for cell in code_cells(notebook)]
    for node in [node for tree in trees for node in ast.walk(tree)]:
        match node:
            case ast.ImportFrom(module="tfm_lib", names=names):
                modules |= {alias.asname or alias.name: alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("tfm_lib."):
                package = module.removeprefix("tfm_lib.")
                found |= {(home_of(package, alias.name), alias.name) for alias in names}
            case ast.Import(names=names):
                for alias in names:
                    plain = not alias.name.startswith("tfm_lib.")
                    assert plain, f"write `from tfm_lib import ...`, not `import {alias.name}`"
    for node in [node for tree in trees for node in ast.walk(tree)]:
        match node:
            case ast.Attribute(value=ast.Name(id=holder), attr=name) if holder in modules:
                found.add((home_of(modules[holder], name), name))
    return found


def differing(cell_source, module_source):
    """What keeps a tagged cell from being the library: names that differ, stray statements."""
    ours, truth = definitions(cell_source), definitions(module_source)
    starts = {node.lineno for node in ours.values()}
    stray = [
        ast.unparse(node)
        for node in ast.parse(cell_source).body
        if node.lineno not in starts and not isinstance(node, ast.Import | ast.ImportFrom)
    ]
    return stray + [
        name for name, node in ours.items() if name not in truth or bare(node) != bare(truth[name])
    ]


def bare(node):
    """A definition's syntax tree as text, without docstrings (comments are not in it anyway)."""
    node = ast.parse(ast.unparse(node))
    for inner in ast.walk(node):
        holder = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        if holder and ast.get_docstring(inner) is not None:
            inner.body = inner.body[1:]
    return ast.dump(node)


LIBRARY = '''\
import torch

SIZE = 3


@torch.no_grad()
def double(x):
    """Twice x."""
    return 2 * x  # (n,)


class Piece:
    """A piece."""

    def get(self):
        """Get it."""
        return SIZE
'''


@pytest.mark.parametrize(
    ("cell", "differs"),
    [
        ("@torch.no_grad()\ndef double(x):\n    # why\n    return 2 * x", []),
        ("class Piece:\n    def get(self):\n        'other'\n        return SIZE", []),
        ("import math\nSIZE = 3", []),
        ("SIZE = 4", ["SIZE"]),
        ("def double(x):\n    return 2 * x", ["double"]),
        ("class Piece:\n    def get(self):\n        return 3", ["Piece"]),
        ("def missing():\n    pass", ["missing"]),
        ("SIZE = 3\nprint(SIZE)", ["print(SIZE)"]),
        ("SIZE = other = 3", ["SIZE = other = 3"]),
    ],
)
def test_differences_are_found(cell, differs):
    assert differing(cell, LIBRARY) == differs


def test_sync_rewrites_definitions_and_leaves_imports():
    cell = "import torch\n\n\ndef double(x):\n    return x\n\n\nSIZE = 1"
    rewritten = from_library(cell, LIBRARY)
    expected = '@torch.no_grad()\ndef double(x):\n    """Twice x."""\n    return 2 * x  # (n,)'
    assert rewritten == f"import torch\n\n\n{expected}\n\n\nSIZE = 3"


def test_imports_are_found():
    notebook = lesson_of(
        "%matplotlib inline\nfrom tfm_lib.attention import causal_mask as mask",
        "from tfm_lib import attention as a, training\na.masked_softmax(torch.ones(2))",
        "from tfm_lib.training import fit",
    )
    assert imported_names(notebook) == {
        ("attention.masks", "causal_mask"),
        ("attention.functions", "masked_softmax"),
        ("training", "fit"),
    }
    with pytest.raises(AssertionError, match=r"not `import tfm_lib\.attention`"):
        imported_names(lesson_of("import tfm_lib.attention"))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from tfm_lib.attention import causal_mask", []),
        ("from tfm_lib.training import fit\nfrom tfm_lib import training, attention", []),
        ("from tfm_lib.show.plots import _frame", []),
        ("from tfm_lib.attention.masks import causal_mask", [("attention.masks", "causal_mask")]),
        ("from tfm_lib.show.plots import _frame, bars", [("show.plots", "bars")]),
        ("from tfm_lib.attention import masks", [("attention", "masks")]),
        ("from torch.nn.utils import parametrize", []),
    ],
)
def test_reaching_inside_a_package_is_found(source, found):
    named = [(f"tfm_lib.{module}", name) for module, name in found]
    assert reaching_inside(lesson_of(source)) == named


def lesson_of(*sources):
    return nbformat.from_dict(new_notebook(cells=[new_code_cell(source) for source in sources]))
