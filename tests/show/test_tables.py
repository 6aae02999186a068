"""Tables and the claims that they must not show without evidence."""

import json

import pytest

from tfm_lib.show.claims import Claim, claims_table
from tfm_lib.show.seeds import among_seeds
from tfm_lib.show.table import Table


def test_a_table_has_a_plain_and_a_markdown_form():
    table = Table(("model", "score"), [("RNN", 0.5), ("a|b", 12)])
    assert repr(table) == "model  score\nRNN    0.5\na|b    12"
    assert table._repr_markdown_() == (
        "| model | score |\n| --- | --- |\n| RNN | 0.5 |\n| a\\|b | 12 |"
    )


def test_a_page_shows_angle_brackets_as_they_are():
    table = Table(("token",), [("<pad>",), ("`<pad>` <bos>",), ("$a<b$ $5",)])
    *_, plain, code, formula = table._repr_markdown_().split("\n")
    assert plain == "| &lt;pad> |"
    assert code == "| `<pad>` &lt;bos> |"
    assert formula == "| $a<b$ $5 |"
    assert "<pad>" in repr(table)


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"\['x'\] has 1 cells, header \['a', 'b'\] 2"):
        Table(("a", "b"), [("x",)])


def test_a_verdict_needs_its_evidence():
    good = Claim(9, "variance is d_k", "ratio 1.0", "holds", evidence=True)
    assert "variance is d_k" in repr(claims_table(good))
    bad = Claim(10, "tokens see themselves", "0.2", "holds", evidence=False)
    with pytest.raises(AssertionError, match="claim 10: the verdict 'holds' lacks its evidence"):
        claims_table(good, bad)


def test_an_unknown_verdict_is_refused():
    with pytest.raises(ValueError, match="verdict='true'"):
        claims_table(Claim(9, "x", "y", "true", evidence=True))


def test_numbers_stand_among_those_of_other_seeds(tmp_path):
    record = tmp_path / "seeds.json"
    varying = [
        {"claim": True, "numbers": {"min(runs[2])": [0.5, 1.0, 0.75], "lowest x": [3, 1, 2]}},
        {"claim": False, "numbers": {"loss": [1, 2, 3]}},
    ]
    record.write_text(json.dumps({"lessons": {"02": {"seeds": 3, "varying": varying}}}), "utf-8")
    table = among_seeds("02", {"runs": {2: [0.9, 0.6]}}, record=record)
    assert table.header == ["number", "here", "lowest of 3", "median", "highest"]
    assert table.rows == [
        ["`min(runs[2])`", "0.6", "0.5", "0.75", "1"],
        ["`lowest x`", "", "1", "2", "3"],
    ]
    with pytest.raises(ValueError, match=r"python -m benchmarks\.seeds 03"):
        among_seeds("03", {}, record=record)
