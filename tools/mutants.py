"""Breaks the library's core, one small change at a time, and sees whether the unit tests notice.

    python -m tools.mutants              # a random sample of the core: an hour on two cores
    python -m tools.mutants attention/functions models/gpt
    python -m tools.mutants --again      # the survivors alone, after tests were added

The changes are mutmut's (another operator, number, argument, branch, assignment). Its own run puts
a switch into every function, through which torch.compile and torch.export cannot see, so here each
change is a process of its own: the changed module stands in the library's place, and the tests that
reach the changed lines run until one is red. Left out: what an error says, and annotations. Needs
`pip install mutmut==3.8.1`, which is no part of the environment, and Linux or macOS for fork().

Writes tools/mutants.json: the sample's seed, and every survivor. Why each may live stands in
tools/survivors.json, written by hand.
"""

import argparse
import copy
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import math
import multiprocessing
import os
import platform
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "tfm_lib"
RESULTS = Path(__file__).with_suffix(".json")
CORE = ("attention", "layers", "models", "decoding.py", "training.py")
TESTS = ("attention", "layers", "models", "test_decoding.py", "test_devices.py", "test_training.py")
MUTMUT = "3.8.1"  # its table of operators is no public interface
SEED, SAMPLE, LEAST = 2017, 1000, 20  # of the sample; mutants in all; mutants of a module
BROKEN = 99  # the exit status of a process in which pytest could not even start
QUIET = ["-x", "-q", "--disable-plugin-autoload", "-p", "no:cacheprovider"]
QUIET += ["-o", "addopts=--import-mode=importlib"]  # without notebooks and workers


@dataclass(frozen=True)
class Mutant:
    """One change of one module, as libcst holds it."""

    module: str  # "attention/functions"
    function: str  # "MultiHeadAttention.forward"
    kind: str  # mutmut's name for the operator: "number", "swap_op", "arg_removal", ...
    lines: tuple[int, int]  # first and last that it touches, in the unchanged source
    tree: Any
    node: Any
    changed: Any
    again: int = 0  # how many changes before it in the function read the same

    @property
    def source(self):
        """The module's text with the change."""
        return self.tree.deep_replace(self.node, self.changed).code

    @property
    def name(self):
        """What the record calls it: stays the same while the function does."""
        before, after = (self.tree.code_for_node(each) for each in (self.node, self.changed))
        change = f"{' '.join(before.split())} -> {' '.join(after.split())}"
        nth = f" [{self.again + 1}]" if self.again else ""
        return f"{self.module} {self.function}: {change}{nth}"


def core_modules():
    """The names of the modules that are broken: "attention/functions", ..., "training"."""
    found = []
    for name in CORE:
        path = LIBRARY / name
        files = [path] if path.is_file() else sorted(path.glob("*.py"))
        found += [str(file.relative_to(LIBRARY).with_suffix("")) for file in files]
    return [name for name in found if not name.endswith("__init__")]


def mutants_of(module):
    """Every change of a module that mutmut's table of operators makes."""
    import libcst as cst
    from libcst.metadata import MetadataWrapper, PositionProvider
    from mutmut.mutation.mutators import mutation_operators

    class Changes(cst.CSTVisitor):
        """Collects (node, changed node, names of the definitions around it)."""

        def __init__(self):
            self.around, self.found = [], []

        def on_visit(self, node):
            if isinstance(node, left_out) or is_docstring(node):
                return False
            if isinstance(node, cst.FunctionDef | cst.ClassDef):
                self.around.append(node.name.value)
            for kind, operator in mutation_operators:
                if isinstance(node, kind):
                    where = ".".join(self.around) or "module", operator.__name__[len("operator_") :]
                    self.found += [(*where, node, changed) for changed in operator(node)]
            return True

        def on_leave(self, node):
            if isinstance(node, cst.FunctionDef | cst.ClassDef):
                self.around.pop()

    def is_docstring(node):
        return isinstance(node, cst.Expr) and isinstance(node.value, cst.BaseString)

    left_out = cst.Raise | cst.Annotation | cst.Import | cst.ImportFrom
    tree = cst.parse_module((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    places = MetadataWrapper(tree, unsafe_skip_copy=True).resolve(PositionProvider)
    changes = Changes()
    tree.visit(changes)
    alike = Counter()
    for function, kind, node, changed in changes.found:
        lines = places[node].start.line, places[node].end.line
        mutant = Mutant(module, function, kind, lines, tree, node, changed)
        yield replace(mutant, again=alike[mutant.name])
        alike[mutant.name] += 1


def sample_of(mutants_by_module):
    """SAMPLE mutants at random, at least LEAST of each module or all that it has."""
    chance = random.Random(SEED)
    every = sum(map(len, mutants_by_module.values()))
    chosen = []
    for mutants in mutants_by_module.values():
        share = max(LEAST, math.ceil(SAMPLE * len(mutants) / every))
        chosen += chance.sample(mutants, min(share, len(mutants)))
    return chosen


class InPlace(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Hands out a changed source for one module of the library."""

    def __init__(self, module, source):
        self.module, self.source = module, source

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "tfm_lib." + self.module.replace("/", "."):
            return None
        file = LIBRARY / f"{self.module}.py"
        return importlib.util.spec_from_file_location(fullname, file, loader=self)

    def exec_module(self, module):
        exec(compile(self.source, module.__file__, "exec"), module.__dict__)


class Reach:
    """A pytest plugin: which test reaches which lines of the core, and how long it takes."""

    def __init__(self, coverage):
        self.coverage, self.seconds = coverage, {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        start = time.process_time()
        result = yield
        self.seconds[item.nodeid] = time.process_time() - start
        self.coverage.switch_context("")
        return result


def measure_reach(queue):
    """Run the tests once under coverage: {module: {line: tests}}, {test: seconds}."""
    coverage = importlib.import_module("coverage").Coverage(
        data_file=None, source=[str(LIBRARY)], config_file=False
    )
    plugin = Reach(coverage)
    coverage.start()
    status = pytest.main([*QUIET, *(str(ROOT / "tests" / name) for name in TESTS)], [plugin])
    coverage.stop()
    if status:
        raise SystemExit("the tests are red without any change")
    data, lines = coverage.get_data(), {}
    for module in core_modules():
        contexts = data.contexts_by_lineno(str(LIBRARY / f"{module}.py"))
        lines[module] = {line: [t for t in tests if t] for line, tests in contexts.items()}
    queue.put((lines, plugin.seconds))


def tests_for(mutant, lines, seconds):
    """The tests that reach a mutant's lines, its own module's first, then the quick ones."""
    reached = lines[mutant.module]
    found = {t for n in range(mutant.lines[0], mutant.lines[1] + 1) for t in reached.get(n, ())}
    if not found:  # a definition's own line runs when the module is loaded
        found = {test for tests in reached.values() for test in tests}
    own = f"test_{Path(mutant.module).name}.py"
    return sorted(found, key=lambda test: (own not in test, seconds[test]))


def try_out(module, source, tests):
    """In a process of its own: the source in the module's place, then the tests."""
    os.chdir(ROOT)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    sys.meta_path.insert(0, InPlace(module, source))
    os._exit(int(pytest.main([*QUIET, *tests])))


def outcome(module, source, tests, limit):
    """ "killed", "survived" or "out of time"."""
    child = os.fork()  # PyTorch is loaded, the library is not
    if child == 0:
        try:
            try_out(module, source, tests)
        finally:
            os._exit(BROKEN)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            # Red tests, or (interrupted, usage) a module that cannot be loaded.
            if code > 0 and code not in (1, 2, 4):
                raise RuntimeError(f"pytest itself failed with status {code} on {module}")
            return "killed" if code else "survived"
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "out of time"


def digest(module):
    """What a record belongs to: a module's source."""
    return hashlib.sha256((LIBRARY / f"{module}.py").read_bytes()).hexdigest()[:16]


def record_of(module, every, results):
    """What the file says of a module: how many changes, of each kind, and what survived."""
    kinds = {}
    for mutant, result in results:
        counts = kinds.setdefault(mutant.kind, {"sampled": 0, "killed": 0, "out of time": 0})
        counts["sampled"] += 1
        if result != "survived":
            counts[result] += 1
    return {
        "digest": digest(module),
        "possible": len(every),
        "kinds": dict(sorted(kinds.items())),
        "survived": sorted(mutant.name for mutant, result in results if result == "survived"),
    }


def with_more_killed(entry, results):
    """The entry of a module whose survivors were tried again, after tests were added."""
    entry = copy.deepcopy(entry)
    for mutant, result in results:
        if result != "survived":
            entry["survived"].remove(mutant.name)
            entry["kinds"][mutant.kind][result] += 1
    return entry


def save(modules):
    """Write the record: its circumstances, the sample's seed, the modules."""
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    about = {"mutmut": version("mutmut"), "python": platform.python_version(), "seed": SEED}
    merged = dict(sorted((known.get("modules", {}) | modules).items()))
    text = json.dumps(about | {"modules": merged}, indent=1, ensure_ascii=False)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def report(modules):
    """Sampled and killed, by module and in all."""
    sampled = alive = 0
    for module, entry in modules.items():
        number = sum(kind["sampled"] for kind in entry["kinds"].values())
        left = len(entry["survived"])
        print(f"{module:<26} {number:4} of {entry['possible']:4} tried, {left:3} survived")
        sampled, alive = sampled + number, alive + left
    print(f"{sampled} tried, {sampled - alive} killed: {1 - alive / sampled:.1%}")


def main():
    parser = argparse.ArgumentParser(description="Break the library's core under its unit tests.")
    parser.add_argument("modules", nargs="*", help="attention/functions, ...; none: all")
    parser.add_argument("--again", action="store_true", help="the recorded survivors alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parser.parse_args()
    names = options.modules or core_modules()
    if unknown := set(names) - set(core_modules()):
        parser.error(f"no module of the core: {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("mutmut") is None:
        parser.error(f"the changes come from mutmut: pip install mutmut=={MUTMUT}")

    spawn = multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    measuring = spawn.Process(target=measure_reach, args=(queue,))
    measuring.start()
    lines, seconds = queue.get()
    measuring.join()

    every = {module: list(mutants_of(module)) for module in core_modules()}
    sample = [mutant for mutant in sample_of(every) if mutant.module in names]
    known = json.loads(RESULTS.read_text(encoding="utf-8"))["modules"] if options.again else {}
    if options.again:
        alive = [name for module in names for name in known[module]["survived"]]
        sample = [mutant for mutant in sample if mutant.name in alive]
    for heavy in ("torch", "transformers", "nbval.plugin", "tokenizers", "safetensors.torch"):
        importlib.import_module(heavy)

    # The control: without a change every test is green in a process of its own, too.
    unchanged = (LIBRARY / f"{names[0]}.py").read_text(encoding="utf-8")
    if outcome(names[0], unchanged, list(seconds), limit=600) != "survived":
        raise SystemExit("the tests are red without any change, in a process of its own")

    def judge(mutant):
        tests = tests_for(mutant, lines, seconds)
        limit = 30 + 5 * sum(seconds[test] for test in tests)
        return outcome(mutant.module, mutant.source, tests, limit) if tests else "survived"

    results = {module: [] for module in names}
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, result in zip(sample, pool.map(judge, sample), strict=True):
            results[mutant.module].append((mutant, result))
            if result != "killed":
                print(f"{result}: {mutant.name}", flush=True)
    if options.again:
        modules = {module: with_more_killed(known[module], results[module]) for module in names}
    else:
        modules = {module: record_of(module, every[module], results[module]) for module in names}
    save(modules)
    report(modules)


if __name__ == "__main__":
    main()
