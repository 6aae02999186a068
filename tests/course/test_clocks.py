"""No assert of a lesson rests on a clock: a loaded machine must not turn the course red."""

import ast

import pytest

from tests.course.test_book import every_lesson
from tools.lessons import code_cells, python_source, read

CLOCKS = {
    *("time", "monotonic", "perf_counter", "process_time", "thread_time"),
    *("time_ns", "monotonic_ns", "perf_counter_ns", "process_time_ns", "thread_time_ns"),
    *("timeit", "default_timer", "now", "cpu_times", "getrusage"),
}
SECONDS = {"seconds", "cpu_seconds"}  # what `fit` returns and benchmarks record


SCOPES = ast.FunctionDef | ast.ClassDef
FILLING = {"append", "extend", "update", "add", "insert", "setdefault"}


def reads(node):
    """What a piece of code reads: global names, and "a clock" for each clock."""
    local = {each.arg for each in ast.walk(node) if isinstance(each, ast.arg)}
    inner = [each for each in ast.walk(node) if isinstance(each, ast.comprehension)]
    local |= {name for each in inner for name in gives(each)}
    if isinstance(node, SCOPES):
        local |= {name for each in ast.walk(node) for name in gives(each)}
    for each in ast.walk(node):
        match each:
            case ast.Name(id=name) if name in CLOCKS - {"time", "now"}:
                yield "a clock"
            case ast.Name(id=name) if name not in local:
                yield name
            case ast.Attribute(attr=name) | ast.Constant(value=name) if name in CLOCKS | SECONDS:
                yield "a clock"


def gives(node):
    """The names that a statement gives a value to, alone or by storing into them."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    for target in filter(None, targets):
        yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))


class Follow(ast.NodeVisitor):
    """Goes through a lesson in order and knows which names hold something from a clock."""

    def __init__(self):
        self.timed = {"a clock"}
        self.found = []  # conditions of asserts and evidence of claims that rest on one

    def bind(self, names, value, *, whole=True):
        """Names get a value: from a clock or not; a part of them alone never makes them clean."""
        if self.timed & set(reads(value)):
            self.timed |= set(names)
        elif whole:
            self.timed -= set(names)

    def ask(self, condition):
        if self.timed & set(reads(condition)):
            self.found.append(ast.unparse(condition))

    def visit_FunctionDef(self, node):
        self.bind([node.name], node)

    visit_ClassDef = visit_FunctionDef  # noqa: N815

    def visit_Assign(self, node):
        self.generic_visit(node)
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, part in zip(target.elts, value.elts, strict=True):
                self.bind(gives(ast.Assign([one])), part, whole=isinstance(one, ast.Name))
        else:
            self.bind(gives(node), value, whole=not isinstance(target, ast.Subscript))

    def visit_AugAssign(self, node):
        self.bind(gives(node), node.value, whole=False)

    def visit_NamedExpr(self, node):
        self.bind(gives(node), node.value)

    def visit_For(self, node):
        for _ in range(2):  # what the first round stores, the second may read
            self.bind(gives(node), node.iter)
            for statement in node.body:
                self.visit(statement)

    def visit_Call(self, node):
        self.generic_visit(node)
        for keyword in node.keywords:
            if keyword.arg == "evidence":
                self.ask(keyword.value)
        if isinstance(node.func, ast.Attribute) and node.func.attr in FILLING:
            filled = node.func.value
            while isinstance(filled, ast.Subscript | ast.Attribute):
                filled = filled.value
            for value in node.args:
                self.bind(reads(filled), value, whole=False)

    def visit_Assert(self, node):
        self.generic_visit(node)
        self.ask(node.test)


def asserted_clocks(sources):
    follow = Follow()
    for source in sources:
        follow.visit(ast.parse(source))
    return follow.found


@every_lesson
def test_no_assert_rests_on_a_clock(path):
    assert asserted_clocks(python_source(cell) for cell in code_cells(read(path))) == []


@pytest.mark.parametrize(
    "source",
    [
        "start = time.process_time()\nassert time.process_time() - start < 1",
        "a = perf_counter()\nb = perf_counter()\nassert b > a",
        "def spent():\n    return time.time()\n\nbest = {n: spent() for n in 'ab'}\nassert best",
        "rows = []\nfor _ in range(3):\n    rows.append(time.monotonic())\nassert sorted(rows)",
        "history = fit()\nassert history.seconds < 10",
        "record = json.loads(text)\nassert record['cpu_seconds'] < 10",
        "t = time.time()\nClaim(1, '', '', 'holds', evidence=t > 0)",
        "for t in [time.time()]:\n    u = t\nassert u",
        "class Timed:\n    def run(self):\n        return time.time()\n\nassert Timed().run()",
    ],
)
def test_a_clock_in_an_assert_is_found(source):
    assert len(asserted_clocks([source])) == 1


@pytest.mark.parametrize(
    "source",
    [
        "spent, count = time.time(), 3\nassert count == 3\nprint(spent)",
        "x = time.time()\nx = 3\nassert x",
        "x = time.time()\nassert [x for x in (1, 2)]",
        "for name, s in {1: time.time()}.items():\n    print(s)\nfor name in [2]:\n    assert name",
    ],
)
def test_a_count_beside_a_clock_is_no_clock(source):
    assert asserted_clocks([source]) == []
