"""The program that writes the dates: its file, and other seeds."""

from collections import Counter
from importlib.metadata import version

import pytest

from data.make_dates import BABEL_VERSION, DATE_SPLITS, generate_dates
from tools.lessons import ROOT

DATA = ROOT / "data"


def test_the_frozen_file_is_what_the_generator_makes():
    if version("babel") != BABEL_VERSION:
        lines = generate_dates().splitlines()
        assert lines[0] == "split\tlocale\tformat\ttext\tiso"
        assert Counter(line.split("\t")[0] for line in lines[1:]) == DATE_SPLITS
        pytest.skip(f"structure only: Babel {version('babel')}, frozen with {BABEL_VERSION}")
    assert generate_dates().encode("utf-8") == (DATA / "dates.tsv").read_bytes()


def test_another_seed_deals_other_days():
    ours, other = generate_dates(seed=0), generate_dates(seed=1)
    assert ours != other
    assert len(ours.splitlines()) == len(other.splitlines())
