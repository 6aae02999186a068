"""Rules for the pages that are no lessons: README and its like."""

import re

import pytest

from benchmarks import multi30k
from tests.course.test_book import broken_links
from tfm_lib.exercises.catalogue import exercises
from tools.lessons import NOTEBOOKS, ROOT, lesson_paths

STUCK = NOTEBOOKS / "if_you_are_stuck.md"
SOURCES = NOTEBOOKS / "sources.md"
README = ROOT / "README.md"
FIRST = NOTEBOOKS / "00_start_here.ipynb"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "data" / "README.md",
    STUCK,
    NOTEBOOKS / "claims.md",
    SOURCES,
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.parent.name + "/" + path.name)
def test_links_resolve(path):
    assert broken_links(path.read_text(encoding="utf-8"), path.parent) == []


@pytest.mark.parametrize("table_in", [README, FIRST], ids=lambda path: path.name)
def test_every_lesson_has_a_line_in_the_tables(table_in):
    text = table_in.read_text(encoding="utf-8")
    for path in lesson_paths()[1:]:
        assert re.search(rf"\| [^|]*{path.name}", text), path.name


def test_the_page_for_those_who_are_stuck_leads_to_labs():
    entries = re.findall(r"(?ms)^## \d+\. .*?(?=^## )", STUCK.read_text(encoding="utf-8"))
    assert len(entries) == 10
    for entry in entries:
        ids = re.findall(r"\d\d\.\d", entry)
        assert ids, entry
        assert [id_ for id_ in ids if exercises()[id_].kind != "mend"] == []
        assert set(re.findall(r"\]\((\d\d)_", entry)) == {id_[:2] for id_ in ids}


def test_the_sources_lead_to_every_lesson():
    text = SOURCES.read_text(encoding="utf-8")
    first, last = (int(path.name[:2]) for path in (lesson_paths()[1], lesson_paths()[-1]))
    named = {int(number) for number in re.findall(r"\]\((\d\d)_", text)}
    for start, end in re.findall(r"\]\((\d\d)_\S+ to \[\d\d\]\((\d\d)_", text):
        named |= set(range(int(start), int(end) + 1))
    assert named == set(range(first, last + 1))


def test_readme_shows_the_translators_that_are_recorded():
    recorded = multi30k.recorded()
    assert {"small", "full"} <= set(recorded)
    assert multi30k.results_table(recorded) + "\n" in README.read_text(encoding="utf-8")
