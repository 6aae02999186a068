"""The harness itself: what must turn a run red does, and a clean notebook stays green."""

import pytest
from nbformat.v4 import new_markdown_cell, new_output

from tests.course.copies import run_copy, tiny_notebook

CELLS = [("x = 6 * 7\nprint(x)", "42\n"), ("x + 1;", ""), ("print('the end')", "the end\n")]


def with_cell(source, printed=""):
    """The clean notebook with its middle cell replaced."""
    return tiny_notebook(CELLS[0], (source, printed), CELLS[2])


def without_outputs():
    notebook = tiny_notebook(*CELLS)
    for cell in notebook.cells[1:]:
        cell.outputs = []
    return notebook


def never_executed():
    notebook = without_outputs()
    for cell in notebook.cells[1:]:
        cell.execution_count = None
    return notebook


def executed_out_of_order():
    notebook = tiny_notebook(*CELLS)
    notebook.cells[1].execution_count = 7
    return notebook


def with_picture(text):
    notebook = tiny_notebook(*CELLS)
    data = {"image/png": "iVBORw0KGgo=", "text/plain": text}
    notebook.cells[2].metadata.tags = ["nbval-ignore-output"]
    notebook.cells[2].outputs = [new_output("display_data", data)]
    return notebook


def with_committed_error():
    notebook = tiny_notebook(*CELLS)
    error = new_output("error", ename="ValueError", evalue="no", traceback=[])
    notebook.cells[2].outputs = [error]
    return notebook


def with_widget_state():
    notebook = tiny_notebook(*CELLS)
    notebook.metadata.widgets = {}
    return notebook


def with_markdown(text):
    notebook = tiny_notebook(*CELLS)
    notebook.cells.append(new_markdown_cell(text))
    return notebook


# name of the notebook -> the notebook, a part of the failing test's name, words in its message
BROKEN_WHEN_RUN = {
    "00_error": (with_cell("1 / 0"), "Cell 1", "ZeroDivisionError"),
    "00_changed": (with_cell("print(x)", "41\n"), "Cell 1", "Cell outputs differ"),
    "00_exit": (with_cell("import os; os._exit(0)"), "Cell 1", "the kernel died"),
    "00_killed": (with_cell("import os; os.kill(os.getpid(), 9)"), "Cell 1", "the kernel died"),
    "00_no_outputs": (without_outputs(), "Cell 0", "Unexpected output fields"),
}
BROKEN_AS_FILES = {
    "00_never_executed": (never_executed(), "executed_from_top", "assert"),
    "00_out_of_order": (executed_out_of_order(), "executed_from_top", "assert"),
    "00_committed_error": (with_committed_error(), "executed_from_top", "raises-exception"),
    "00_bare_picture": (with_picture("<Figure size 1x1>"), "pictures", "Figure size"),
    "00_all_exempt": (with_picture("a map"), "exempt", "assert"),
    "00_widgets": (with_widget_state(), "file_is_clean", "widgets"),
    "00_path": (with_markdown("see " + "/home" + "/me/data"), "file_is_clean", "machine's path"),
    "00_two_titles": (with_markdown("# Again"), "outline", "assert"),
    "00_skipped_level": (with_markdown("### Deep"), "outline", "level 3 follows level 1"),
    "00_dead_link": (with_markdown("[next](01_none.ipynb)"), "links", "01_none.ipynb"),
    "00_no_table": (with_markdown("## Differs from the paper"), "sections", "no table"),
    "00_long_cell": (with_cell("\n".join(["x = 1"] * 31)), "short", "x = 1"),
    "00_unused": (with_cell("import math"), "imported_is_used", "math"),
    "01_no_sections": (tiny_notebook(*CELLS), "sections", "no section"),
}
BROKEN = BROKEN_WHEN_RUN | BROKEN_AS_FILES
CLEAN = {
    "00_clean": tiny_notebook(*CELLS),
    "00_semicolon": with_cell("x * 2;"),
    "00_progress": with_cell("import sys\nprint('100%|##| 3/3 [00:01<00:00]', file=sys.stderr)"),
    "00_fenced": with_markdown("## Code\n```python\n# no heading\n```"),
}
CLEAN["00_progress"].cells[2].outputs = [
    new_output("stream", name="stderr", text=" 50%|# | 1/3 [00:09<00:00]\r100%|##| 3/3 [00:09]\n")
]


@pytest.fixture(scope="module")
def red(tmp_path_factory):
    executed = CLEAN | {name: notebook for name, (notebook, _, _) in BROKEN_WHEN_RUN.items()}
    read = {name: notebook for name, (notebook, _, _) in BROKEN_AS_FILES.items()}
    return run_copy(tmp_path_factory.mktemp("harness"), executed, read)


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_notebook_is_green(red, name):
    assert red[name] == {}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_notebook_turns_the_run_red(red, name):
    _, test, words = BROKEN[name]
    messages = [text for failed, text in red[name].items() if test in failed]
    assert any(words in text for text in messages), red[name]
