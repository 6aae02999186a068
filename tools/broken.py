"""Breaks the definitions of a lesson, one at a time, and sees whether its asserts turn red.

    python -m tools.broken 08 --most 999   # every definition of a lesson, up to four ways each
    python -m tools.broken --record        # 20 changes of each lesson, into tools/broken.json

A function's result gets the other sign, becomes 0 or NaN; a mask, a transposition, an axis, a
triangle or a comparison in it is changed. The lesson then runs on until something is red: a false
assert, a claim without evidence, an exception. What stays green to the last assert that depends on
the definition is named, with those asserts; a definition on which none depends is only shown, and
its output is nbval's to compare. The process forks, so it needs Linux or macOS.
"""

import argparse
import ast
import copy
import json
import math
import os
import random
import resource
import signal
import time
from numbers import Number
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from tools.lessons import lacks, lesson_paths
from tools.trial import Trial

RESULTS = Path(__file__).with_suffix(".json")
WAYS, MOST = 4, 20  # changes of a definition; of a lesson, at random
SECONDS = 90  # of CPU time, the longest that one may run
SHOWING = {"print", "show", "display", "Table"}
RED, GREEN, LATE, SAME = 10, 11, 12, 13  # how a mutant ends; LATE: out of time


class UnbrokenError(BaseException):
    """The change left the result as it was, so there is nothing to find."""


def spoil(way, value):
    """A result with the other sign, or 0 or NaN in its place; UnbrokenError if it is the same."""
    spoilt, changed = spoilt_form(way, value)
    if not changed:
        raise UnbrokenError
    return spoilt


def spoilt_form(way, value):
    """(the broken form of a value, whatever it consists of; whether it differs)."""
    if isinstance(value, tuple | list | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        members = {key: spoilt_form(way, member) for key, member in pairs}
        changed = any(different for _, different in members.values())
        if isinstance(value, dict):
            return {key: member for key, (member, _) in members.items()}, changed
        members = [member for member, _ in members.values()]
        named = hasattr(value, "_fields")
        return (type(value)(*members) if named else type(value)(members)), changed
    if isinstance(value, Tensor) and value.is_floating_point():
        spoilt = value * {"sign": -1, "zero": 0, "NaN": math.nan}[way]
        return spoilt, not torch.equal(spoilt, value)
    if isinstance(value, Tensor):
        turned = ~value if value.dtype == torch.bool else value.flip(-1) if value.dim() else -value
        spoilt = turned if way == "sign" else torch.zeros_like(value)
        return spoilt, not torch.equal(spoilt, value)
    if isinstance(value, bool):
        return not value, True
    if isinstance(value, Number):
        spoilt = {"sign": -value, "zero": value * 0, "NaN": math.nan}[way]
        return spoilt, spoilt != value
    if isinstance(value, str):
        spoilt = {"sign": value[::-1], "zero": "", "NaN": "nan"}[way]
        return spoilt, spoilt != value
    return value, False


class Change(ast.NodeTransformer):
    """Makes the n-th possible change of one sort; `made` says what it was, "" if there is none."""

    def __init__(self, sort, number):
        self.sort, self.left, self.made = sort, number, ""

    def here(self, node, changed):
        """Whether this is the place; then remember what was changed."""
        if self.made:
            return False
        self.left -= 1
        if self.left >= 0:
            return False
        self.made = f"{ast.unparse(node)} -> {ast.unparse(changed)}"
        return True

    def visit(self, node):
        node = super().visit(node)
        changed = self.changed(node)
        if changed is not None and self.here(node, changed):
            return ast.copy_location(changed, node)
        return node

    def changed(self, node):
        """What a node becomes under this sort of change, or None."""
        match self.sort, node:
            case "mask", ast.Call(func=ast.Attribute(value=whole, attr="masked_fill")):
                return whole
            case "mask", ast.Name(id="mask" | "causal", ctx=ast.Load()):
                return ast.Constant(None)
            case "triangle", ast.Attribute(value=whole, attr="tril" | "triu" as attr):
                return ast.Attribute(whole, "triu" if attr == "tril" else "tril", ast.Load())
            case "transposed", ast.Call(func=ast.Attribute(value=whole, attr="transpose")):
                return whole
            case "transposed", ast.Attribute(value=whole, attr="T" | "mT"):
                return whole
            case "axis", ast.keyword(arg="dim" | "axis" as arg, value=value):
                other = 0 if ast.unparse(value) in ("-1", "1", "2") else -1
                return ast.keyword(arg, ast.Constant(other))
            case "operator", ast.BinOp(left=left, op=ast.Add(), right=right):
                return ast.BinOp(left, ast.Sub(), right)
            case "operator", ast.BinOp(left=left, op=ast.Sub(), right=right):
                return ast.BinOp(left, ast.Add(), right)
            case "operator", ast.BinOp(left=left, op=ast.Div(), right=right):
                return ast.BinOp(left, ast.Mult(), right)
            case "comparison", ast.Compare(left=left, ops=[ast.Lt() | ast.LtE()], comparators=[c]):
                return ast.Compare(left, [ast.Gt()], [c])
            case "comparison", ast.Compare(left=left, ops=[ast.Gt() | ast.GtE()], comparators=[c]):
                return ast.Compare(left, [ast.Lt()], [c])
            case "comparison", ast.Compare(left=left, ops=[ast.Eq()], comparators=[c]):
                return ast.Compare(left, [ast.NotEq()], [c])
            case (("sign" | "zero" | "NaN" as way), ast.Return(value=ast.AST() as value)):
                function = ast.Attribute(ast.Name("_broken", ast.Load()), "spoil", ast.Load())
                return ast.Return(ast.Call(function, [ast.Constant(way), value], []))
        return None


SORTS = ("mask", "triangle", "transposed", "axis", "operator", "comparison", "sign", "zero", "NaN")


def mutants(definition, chance):
    """Up to WAYS broken forms of a definition: (what was changed, tree), different sorts first."""
    found = []
    for sort in SORTS:
        places = []
        for number in range(20):
            change = Change(sort, number)
            tree = change.visit(copy.deepcopy(definition))
            if not change.made:
                break
            places.append((f"{sort}: {change.made}", tree))
        chance.shuffle(places)
        found += [(rank, text, tree) for rank, (text, tree) in enumerate(places)]
    chance.shuffle(found)
    found.sort(key=lambda each: each[0])
    return [(text[:160], tree) for _, text, tree in found[:WAYS]]


def reads_a_clock(definition):
    """Whether it measures time: of that nothing may be asserted."""
    return "process_time" in ast.unparse(definition)


def names_in(node):
    """Every name that a piece of code reads or writes."""
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}


def is_check(node):
    """Whether a statement asserts something, as assert, assert_close or a claim's evidence."""
    return any(
        isinstance(each, ast.Assert)
        or (isinstance(each, ast.keyword) and each.arg == "evidence")
        or (isinstance(each, ast.Attribute) and each.attr == "assert_close")
        for each in ast.walk(node)
    )


def asserts_behind(name, cells):
    """The cells, from here on, that assert something about what a definition leads to."""
    led_to, found = {name}, []
    for cell in cells:
        for node in 2 * list(pieces(cell.tree.body)):  # twice: a loop leads back to its start
            if not names_in(node) & led_to:
                continue
            definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            led_to |= {node.name} if definition else led_from(node)
            if is_check(node) and not definition and cell not in found:
                found.append(cell)
    return found


def pieces(body):
    """The statements of a cell, those inside loops and conditions one by one after the header."""
    for node in body:
        inner = (
            [] if isinstance(node, ast.FunctionDef | ast.ClassDef) else getattr(node, "body", [])
        )
        if not inner:
            yield node
            continue
        header = copy.copy(node)
        header.body, header.orelse = [], []
        yield header
        yield from pieces([*inner, *getattr(node, "orelse", [])])


def led_from(node):
    """The names that a statement binds, or whose object it may change; showing changes nothing."""
    found, inner = set(), set()
    for each in ast.walk(node):
        if isinstance(getattr(each, "ctx", None), ast.Store):
            found.add(base_of(each))
        if isinstance(each, ast.comprehension):
            inner |= names_in(each.target)
        if isinstance(each, ast.Expr) and isinstance(each.value, ast.Call):
            call = each.value
            if base_of(call.func) not in SHOWING:
                found |= {base_of(part) for part in (call.func, *call.args)}
    return found - inner - {None}


def base_of(node):
    """The name at the start of name.attribute[index], None if there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def run_on(trial, cells):
    """In a process of its own: the cells, the first one broken, until something is red."""
    trial.space["_broken"] = SimpleNamespace(spoil=spoil)
    for cell in cells:
        if not trial.run_cell(cell) or not all(all(note.held) for note in trial.notes):
            os._exit(RED)
    os._exit(GREEN)


def outcome_of(trial, cells):
    """RED, GREEN, LATE or SAME, and the seconds it took."""
    start, child = time.monotonic(), os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        try:
            run_on(trial, cells)
        except UnbrokenError:
            os._exit(SAME)
        finally:
            os._exit(RED)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return (LATE if code == -signal.SIGXCPU else code), time.monotonic() - start


def break_lesson(path, most):
    """What became of a sample of the lesson's mutants, and which definitions are only shown."""
    trial, results, shown = Trial(path), [], []
    chance = random.Random(path.name)
    planned = []  # (position of the cell, index in it, the definition's name, change, tree)
    for position, cell in enumerate(trial.cells):
        for index, node in enumerate(cell.tree.body):
            if not isinstance(node, ast.FunctionDef | ast.ClassDef) or reads_a_clock(node):
                continue
            if asserts_behind(node.name, trial.cells[position:]):
                planned += [(position, index, node.name, *each) for each in mutants(node, chance)]
            else:
                shown.append(node.name)
    chosen = chance.sample(planned, min(most, len(planned)))
    for position, cell in enumerate(trial.cells):
        for _, index, name, text, broken in (each for each in chosen if each[0] == position):
            asserting = asserts_behind(name, trial.cells[position:])
            cells = trial.cells[position : trial.cells.index(asserting[-1]) + 1]
            cells[0] = copy.copy(cell)
            cells[0].tree = copy.deepcopy(cell.tree)
            cells[0].tree.body[index] = broken
            ast.fix_missing_locations(cells[0].tree)
            code, seconds = outcome_of(trial, cells)
            if code != SAME:
                results.append((name, text, code, seconds, [each.id for each in asserting]))
        if not trial.run_cell(copy.deepcopy(cell)):
            raise SystemExit(f"{path.name} does not run: {trial.broken}")
    return results, shown


def main():
    parser = argparse.ArgumentParser(description="Break lessons' definitions.")
    parser.add_argument("lessons", nargs="*", help="numbers of lessons; none: all")
    parser.add_argument("--most", type=int, default=MOST, help="changes of a lesson, at random")
    parser.add_argument("--record", action="store_true", help=f"write {RESULTS.name}")
    options = parser.parse_args()
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    for path in lesson_paths(options.lessons):
        if reason := lacks(path):
            print(f"{path.name}: {reason}")
            continue
        results, shown = break_lesson(path, options.most)
        green = [each for each in results if each[2] in (GREEN, LATE)]
        red = len(results) - len(green)
        print(f"{path.name}: {red} of {len(results)} red", flush=True)
        for name, text, code, seconds, asserting in green:
            print(f"  green{', out of time' if code == LATE else ''}: {name}, {text}")
            print(f"    asserts behind it ({seconds:.0f} s): {', '.join(asserting)}", flush=True)
        record[path.name[:2]] = {
            "mutants": len(results),
            "red": red,
            "green": [[name, text, code == LATE] for name, text, code, *_ in green],
            "only shown": shown,
        }
        if options.record:
            text = json.dumps(dict(sorted(record.items())), indent=1, ensure_ascii=False)
            RESULTS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
