"""Pairs and the share of exact matches."""

import pytest

from tfm_lib.text.pairs import Pairs, exact_match

PAIRS = Pairs(["a", "b", "c", "d", "e"], ["1", "2", "3", "4", "5"], ["x"] * 5)


def test_a_slice_of_pairs_is_pairs():
    part = PAIRS[3:5]
    assert part == Pairs(PAIRS.sources[3:5], PAIRS.targets[3:5], PAIRS.kinds[3:5])
    assert len(part) == 2


def test_pairs_of_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match=r"equally long; got \(2, 1, 2\)"):
        Pairs(["a", "b"], ["c"], ["x", "y"])


def test_exact_match_counts_whole_texts():
    assert exact_match(["a", "bc", "d", "e"], ["a", "b", "d", "x"]) == 0.5
    with pytest.raises(ValueError, match="got 1 and 2"):
        exact_match(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="got 0 and 0"):
        exact_match([], [])
