"""Runs a lesson's code outside Jupyter and watches its asserts, instead of stopping at them.

A `Trial` executes the code cells one after the other. Each assert, and each `evidence=` of a claim,
becomes a note: was it true, and which numbers were compared. Seeds can be moved, so that the same
lesson is another run of the same experiment.
"""

import ast
import contextlib
import io
import math
import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import torch

from tools.lessons import EXERCISE_ID, NOTEBOOKS, code_cells, python_source, read

SEED_STRIDE = 1000  # run 3 of a lesson uses 3000 where the lesson says 0
LITERALS = ast.Constant | ast.UnaryOp | ast.List | ast.Tuple | ast.Dict | ast.Set
SEEDERS = {"manual_seed", "seed", "Random", "default_rng"}


@dataclass
class Note:
    """What became of one assert in one run."""

    cell: str  # the cell's id
    source: str  # of the condition
    claim: bool = False  # the evidence of a claim
    held: list[bool] = field(default_factory=list)  # one entry for each time it was asked
    numbers: dict[str, list[float]] = field(default_factory=dict)  # operand -> values compared


class Watch(ast.NodeTransformer):
    """Turn asserts into notes, and seeds into seeds of this run."""

    def __init__(self, cell, notes):
        self.cell, self.notes = cell, notes
        self.watching = None  # the note whose condition is being rewritten

    def visit_Assert(self, node):
        return ast.copy_location(ast.Expr(self.watched(node.test)), node)

    def visit_Expr(self, node):
        call = node.value
        if not (isinstance(call, ast.Call) and ast.unparse(call.func).endswith("assert_close")):
            return self.generic_visit(node)
        self.notes.append(Note(self.cell, ast.unparse(call)))
        number = ast.Constant(len(self.notes) - 1)
        later = ast.Lambda(ast.arguments([], [], None, [], [], None, []), self.visit(call))
        return ast.copy_location(ast.Expr(self.call("tried", number, later)), node)

    def visit_Call(self, node):
        for keyword in node.keywords:
            if keyword.arg == "evidence" and self.watching is None:
                noted = self.watched(keyword.value, claim=True)
                keyword.value = ast.BoolOp(ast.Or(), [noted, ast.Constant(True)])
            elif keyword.arg == "seed":
                keyword.value = self.call("moved", self.visit(keyword.value))
        name = (
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        )
        if name in SEEDERS and node.args:
            node.args[0] = self.call("moved", node.args[0])
        return self.generic_visit(node)

    def visit_Compare(self, node):
        node = self.generic_visit(node)
        if self.watching is not None:
            operands = [node.left, *node.comparators]
            seen = [self.number(each) for each in operands]
            node.left, node.comparators = seen[0], seen[1:]
        return node

    def watched(self, condition, *, claim=False):
        """The condition, asked and noted."""
        if self.watching is not None:
            return condition
        self.notes.append(Note(self.cell, ast.unparse(condition), claim))
        self.watching = len(self.notes) - 1
        asked = self.call("asked", ast.Constant(self.watching), self.visit(condition))
        self.watching = None
        return asked

    def number(self, operand):
        if isinstance(
            operand, ast.Constant | ast.UnaryOp | ast.List | ast.Tuple | ast.Dict | ast.Set
        ):
            return operand
        label = ast.Constant(ast.unparse(operand))
        return self.call("compared", ast.Constant(self.watching), label, operand)

    @staticmethod
    def call(name, *args):
        function = ast.Attribute(ast.Name("_trial", ast.Load()), name, ast.Load())
        return ast.Call(function, list(args), [])


class Trial:
    """One run of a lesson without its exercises; `number` moves its seeds."""

    def __init__(self, path, number=0):
        self.path, self.number = path, number
        self.notes = []
        self.space = {"__name__": "__main__", "_trial": self}
        self.broken = None  # the first exception: (cell's id, what it says)
        self.cells = [
            SimpleNamespace(id=cell.id, tags=cell.metadata.get("tags", []), tree=tree)
            for cell in code_cells(read(path))
            if not cell.id.startswith(EXERCISE_ID)
            for tree in [ast.parse(python_source(cell))]
        ]

    def run(self):
        """Execute all cells; returns the notes. An exception ends the run and is kept."""
        for cell in self.cells:
            if not self.run_cell(cell):
                break
        return self.notes

    def run_cell(self, cell):
        tree = Watch(cell.id, self.notes).visit(cell.tree)
        code = compile(ast.fix_missing_locations(tree), f"{self.path.name}[{cell.id}]", "exec")
        with silence():
            try:
                exec(code, self.space)
            except Exception as error:  # whatever a lesson's code may raise
                self.broken = cell.id, f"{type(error).__name__}: {error}"
        return self.broken is None

    # What the rewritten code calls.

    def asked(self, number, condition):
        held = bool(condition)
        self.notes[number].held.append(held)
        return held

    def tried(self, number, comparison):
        try:
            comparison()
        except AssertionError:
            self.notes[number].held.append(False)
        else:
            self.notes[number].held.append(True)

    def compared(self, number, label, value):
        if isinstance(value, int | float) and not isinstance(value, bool):
            self.note(number, label, value)
        elif isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel():
            with torch.no_grad():
                self.note(number, label, value.min().item())
                self.note(number, label, value.max().item())
        return value

    def note(self, number, label, value):
        if math.isfinite(value):
            self.notes[number].numbers.setdefault(label, []).append(float(value))

    def moved(self, seed):
        return seed + SEED_STRIDE * self.number if isinstance(seed, int) else seed


@contextlib.contextmanager
def silence():
    """In the lessons' folder, without output, pictures or warnings."""
    import matplotlib

    matplotlib.use("agg")
    before = Path.cwd()
    os.chdir(NOTEBOOKS)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        os.chdir(before)


def asserts_of(path):
    """The asserts of a lesson, in order, as `Trial.run` notes them; nothing is executed."""
    trial = Trial(path)
    for cell in trial.cells:
        Watch(cell.id, trial.notes).visit(cell.tree)
    return trial.notes
