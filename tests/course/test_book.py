"""Rules that every lesson keeps, read from the notebook files; nothing is executed here."""

import ast
import re
import textwrap
from itertools import pairwise

import nbformat
import pytest

from tools.lessons import (
    EXERCISE_ID,
    NOTEBOOKS,
    code_cells,
    imported,
    lesson_paths,
    library_module,
    python_source,
    read,
    tags,
)

MIN_LESSONS = 15
MAX_BYTES = 2_000_000
MAX_CODE_LINES = 30  # two to fifteen is the aim; tagged pieces and claims tables may be longer
MAX_IGNORED_SHARE = 0.25
SECTIONS = ("claim", "your turn", "summary", "references")  # of each lesson but the first
MACHINE_PATH = re.compile(r"/(home|root|Users|work|tmp|opt|mnt)/\w|[A-Z]:\\+Users")

NUMBER = re.compile(r"\d+(?:\.\d+)?|\bnan\b")
BARE_TRUTH = re.compile(r"(?m)(?:^|[:=])\s*(True|False)\s*$")

every_lesson = pytest.mark.parametrize("path", lesson_paths(), ids=lambda path: path.stem)


def test_lessons_are_numbered_consecutively():
    numbers = [int(path.name[:2]) for path in lesson_paths()]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= MIN_LESSONS
    assert sorted(NOTEBOOKS.glob("*.ipynb")) == lesson_paths()


@every_lesson
def test_was_executed_from_top_to_bottom(path):
    cells = code_cells(read(path))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        errors = [output.ename for output in cell.outputs if output.output_type == "error"]
        assert not errors or "raises-exception" in tags(cell), cell.source


@every_lesson
def test_file_is_clean(path):
    assert path.stat().st_size < MAX_BYTES
    notebook = read(path)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    assert "version" not in notebook.metadata.get("language_info", {})
    found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
    assert not found, f"a machine's path: {found}"


@every_lesson
def test_headings_form_an_outline(path):
    notebook = read(path)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    levels = [level for level, _, _ in sections(notebook)]
    assert levels.count(1) == 1
    for above, below in pairwise(levels):
        assert below <= above + 1, f"heading level {below} follows level {above}"


@every_lesson
def test_has_the_sections_of_a_lesson(path):
    found = sections(read(path))
    if not path.name.startswith("00"):
        for wanted in SECTIONS:
            assert any(wanted in title for _, title, _ in found), f"no section {wanted!r}"
        claims = [text.lower() for _, title, text in found if "claim" in title]
        assert any("verdict" in text for text in claims), "no table of claims and verdicts"
    for _, title, text in found:
        if title.startswith("differs"):
            assert re.search(r"(?m)^\|", text), f"section {title!r} holds no table"


@every_lesson
def test_pictures_have_a_text_alternative(path):
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            data = output.get("data", {})
            if any(kind.startswith("image/") for kind in data):
                text = data.get("text/plain", "")
                assert text.strip(), cell.source
                assert not text.startswith("<Figure size"), cell.source


# A prediction answered by a word: the cell that asks, and why no number answers it.
ANSWERED_IN_WORDS = {
    "7a7f3749": "the answer is a row of tokens",
    "8b9f21b0": "the answer is a sentence, and its probability follows in the next prediction",
    "16-017": "the answer is two letters",
    "21-027": "the answer is a table of yes and no",
}


@every_lesson
def test_a_prediction_is_answered_by_a_number_or_a_picture(path):
    cells = read(path).cells
    for position, cell in enumerate(cells):
        asks = cell.cell_type == "markdown" and "**Predict" in cell.source
        if asks and cell.id not in ANSWERED_IN_WORDS:
            assert any(map(gives_a_number, answer_to(cells[position + 1 :]))), cell.source


def answer_to(following):
    """The code cells that answer a prediction: up to the next prediction or heading."""
    for cell in following:
        if cell.cell_type == "markdown" and re.search(r"(?m)^#|\*\*Predict", cell.source):
            return
        if cell.cell_type == "code":
            yield cell


def gives_a_number(cell):
    """Whether an output is a picture or has a number that no text of the cell has already."""
    known = {
        number
        for node in ast.walk(ast.parse(python_source(cell)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for number in NUMBER.findall(node.value)
    }
    for output in cell.outputs:
        data = output.get("data", {})
        shown = output.get("text", "") + data.get("text/plain", "")
        if "image/png" in data or set(NUMBER.findall(shown)) - known:
            return True
    return False


@every_lesson
def test_no_output_ends_in_a_bare_truth(path):
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            shown = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not BARE_TRUTH.search(shown), f"show the number:\n{shown}"


@every_lesson
def test_few_outputs_are_exempt_from_comparison(path):
    with_output = [cell for cell in code_cells(read(path)) if cell.outputs]
    # A table of recorded seeds has a test of its own (test_seeds.py).
    with_output = [cell for cell in with_output if "among_seeds(" not in cell.source]
    exempt = [cell for cell in with_output if "nbval-ignore-output" in tags(cell)]
    assert len(exempt) <= MAX_IGNORED_SHARE * len(with_output)
    for cell in code_cells(read(path)):
        assert "nbval-skip" not in tags(cell)
        assert not re.search(r"#\s*(NBVAL|PYTEST_VALIDATE)_", cell.source), "use a cell tag instead"


@every_lesson
def test_code_cells_are_short(path):
    for cell in code_cells(read(path)):
        assert cell.source.strip(), "an empty code cell"
        if library_module(cell) is None and not cell.source.startswith("claims_table("):
            assert len(cell.source.splitlines()) <= MAX_CODE_LINES, cell.source


@every_lesson
def test_what_is_imported_is_used(path):
    cells = [cell for cell in code_cells(read(path)) if not cell.id.startswith(EXERCISE_ID)]
    nodes = [node for cell in cells for node in ast.walk(ast.parse(python_source(cell)))]
    assert imported(cells) - {node.id for node in nodes if isinstance(node, ast.Name)} == set()


@every_lesson
def test_links_inside_the_course_resolve(path):
    for cell in markdown_cells(read(path)):
        assert broken_links(cell.source, path.parent) == []


def broken_links(text, folder):
    """Targets of links in a Markdown text to files that do not exist."""
    targets = re.findall(r"\]\(([^)\s]+)\)", without_fences(text))
    inside = [target for target in targets if not re.match(r"\w+:|#", target)]
    return [target for target in inside if not (folder / target.split("#")[0]).exists()]


def markdown_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "markdown"]


def without_fences(text):
    return re.sub(r"(?ms)^ *(```|~~~).*?^ *\1 *$", "", text)


def sections(notebook):
    """(level, lower-case title, text and printed output below it) of every heading."""
    text = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text += without_fences(cell.source) + "\n\n"
        else:
            text += textwrap.indent(printed_text(cell), "    ")  # so that no line is a heading
    parts = re.split(r"(?m)^(#{1,6}) +(.*)$", text)[1:]
    return [
        (len(marks), title.strip().lower(), body)
        for marks, title, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def printed_text(cell):
    texts = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        texts += [output.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", "")]
    return "\n".join(texts) + "\n"
