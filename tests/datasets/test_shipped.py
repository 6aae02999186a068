"""The files that ship, read as they were written or refused."""

import re

import pytest

from data.make_dates import DATE_SPLITS
from tfm_lib.datasets import shipped
from tfm_lib.datasets.dates import load_dates
from tfm_lib.datasets.shipped import SHA256, read_rows
from tfm_lib.text.pairs import Pairs
from tools.lessons import ROOT

DATA = ROOT / "data"


@pytest.fixture(scope="module")
def dates() -> dict[str, Pairs]:
    return {split: load_dates(split) for split in DATE_SPLITS}


@pytest.mark.parametrize("name", SHA256)
def test_a_tampered_file_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes((DATA / name).read_bytes() + b"\n")
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"(?s)not the file.*expected.*actual") as error:
        read_rows(name)
    message = str(error.value)
    assert str(tmp_path / name) in message
    assert SHA256[name] in message
    assert len(re.findall(r"\b[0-9a-f]{64}\b", message)) == 2
    assert f"delete {tmp_path / name}" in message  # the shipped one is read then


def test_a_missing_file_is_refused_with_what_restores_it(tmp_path, monkeypatch):
    monkeypatch.delenv("TFM_LIB_DATA", raising=False)
    monkeypatch.setattr(shipped, "CLONE", tmp_path)
    with pytest.raises(
        ValueError, match=r"(?s)none, the file is missing.*git checkout -- data/dates.tsv"
    ):
        load_dates("train")
    monkeypatch.setattr(shipped, "CLONE", tmp_path / "none")
    monkeypatch.setattr(shipped, "INSTALLED", tmp_path)
    with pytest.raises(ValueError, match=r"(?s)missing.*pip install --force-reinstall"):
        load_dates("train")


def test_the_folder_can_be_elsewhere(tmp_path, monkeypatch, dates):
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    assert load_dates("test") == dates["test"]  # not in that folder: the shipped file
    (tmp_path / "dates.tsv").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"(?s)not the file"):
        load_dates("test")
