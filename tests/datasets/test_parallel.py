"""The parallel sentences and the kinds of their nouns, read by column."""

import re

import pytest

from tfm_lib.datasets.parallel import load_noun_kinds, load_parallel
from tools.lessons import ROOT

DATA = ROOT / "data"


@pytest.mark.parametrize("target", ["fr", "ko"])
def test_the_parallel_corpus_is_read_by_column(target):
    pairs = load_parallel("train", target=target)
    header, *lines = (DATA / "parallel.tsv").read_text(encoding="utf-8").splitlines()
    columns = header.split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]
    rows = [row for row in rows if row["split"] == "train"]
    assert len(pairs) == len(rows) > 1_000
    assert list(pairs.sources) == [row["en"] for row in rows]
    assert list(pairs.targets) == [row[target] for row in rows]
    assert list(pairs.kinds) == [row["pattern"] for row in rows]
    hangul = sum(bool(re.search(r"[가-힣]", text)) for text in pairs.targets)
    assert hangul == (len(pairs) if target == "ko" else 0)


def test_every_noun_form_has_a_kind():
    kinds = load_noun_kinds()
    assert len(kinds) == 99
    assert set(kinds.values()) == {"person", "animal", "food", "place", "thing"}
    assert (kinds["cats"], kinds["soup"], kinds["girl"]) == ("animal", "food", "person")
    words = {word for text in load_parallel("train").sources for word in text.split()}
    assert len(words & set(kinds)) > 90


def test_an_unknown_target_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown target 'de'; known: fr, ko$"):
        load_parallel("train", target="de")
