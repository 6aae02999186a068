"""Multi30k: found, checked, read as published, and downloaded when asked for; never in silence."""

import gzip
import hashlib
import re
from itertools import permutations

import pytest

from tests.commands.calling import tfm
from tfm_lib.datasets import multi30k
from tfm_lib.datasets.download import DownloadError
from tfm_lib.datasets.multi30k import (
    COMMIT,
    LANGUAGES,
    MIRRORS,
    SHA256,
    SPLITS,
    MissingDataError,
    download_multi30k,
    load_multi30k,
)

PAIRS = list(permutations(LANGUAGES, 2))
LINES = {"train": 5, "val": 3, "test": 2}
# What the published files hold too: spaces at the ends, no-break spaces, a tab, a rare line end.
ODD = [" Un homme", "Nummer\xa028 ", "einer \tFontäne", "a\x0bb\x85c\u2028d", "Eis."]


@pytest.fixture(autouse=True)
def nothing_here(request, monkeypatch, tmp_path):
    """Without the reader's own files, except in the tests of the real data."""
    if "real" not in request.fixturenames:
        monkeypatch.delenv("TFM_LIB_DATA", raising=False)
        monkeypatch.setattr(multi30k, "CACHE", tmp_path / "cache" / "multi30k")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A folder of tiny files under the real names, with sizes and hashes that fit them."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    splits, hashes = {}, {}
    for split, lines in LINES.items():
        splits[split] = SPLITS[split][0], lines
        for language in ("de", "en", "fr"):
            name = f"{splits[split][0]}.{language}.gz"
            text = "".join(f"{language} {split} {row}\n" for row in ODD[:lines])
            (folder / name).write_bytes(gzip.compress(text.encode("utf-8")))
            hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(multi30k, "SPLITS", splits)
    monkeypatch.setattr(multi30k, "SHA256", hashes)
    return folder


@pytest.mark.parametrize(("src", "tgt"), PAIRS)
@pytest.mark.parametrize("split", LINES)
def test_lines_are_read_as_they_are_without_their_ends(tiny, split, src, tgt):
    pairs = load_multi30k(split, src=src, tgt=tgt, folder=tiny)
    rows = ODD[: LINES[split]]
    assert pairs.sources == [f"{src} {split} {row}" for row in rows]
    assert pairs.targets == [f"{tgt} {split} {row}" for row in rows]
    assert pairs.kinds == ["caption"] * LINES[split]


def test_german_to_english_is_the_default(tiny):
    assert load_multi30k("val", folder=tiny) == load_multi30k(
        "val", src="de", tgt="en", folder=str(tiny)
    )


def test_files_are_looked_for_in_the_folder_then_the_variable_then_the_cache(
    tiny, tmp_path, monkeypatch
):
    expected = load_multi30k("test", folder=tiny)
    with pytest.raises(MissingDataError):
        load_multi30k("test")
    monkeypatch.setenv("TFM_LIB_DATA", str(tiny))
    assert load_multi30k("test") == expected
    with pytest.raises(MissingDataError):  # a folder that is named is the only one
        load_multi30k("test", folder=tmp_path)
    tiny.rename(tmp_path / "multi30k")
    with pytest.raises(MissingDataError):
        load_multi30k("test")
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    assert load_multi30k("test") == load_multi30k("test", folder=tmp_path) == expected
    multi30k.CACHE.parent.mkdir()
    (tmp_path / "multi30k").rename(multi30k.CACHE)
    assert load_multi30k("test") == expected  # the variable's folder holds other data


def test_absent_files_come_with_the_command_and_the_steps_by_hand(monkeypatch, tmp_path):
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    with pytest.raises(MissingDataError, match=r"train\.en\.gz") as error:
        load_multi30k("train", src="en", tgt="fr")
    message = str(error.value)
    for folder in (tmp_path, tmp_path / "multi30k", multi30k.CACHE):
        assert f"\n  {folder}\n" in message
    assert "tfm data multi30k --src en --tgt fr\n" in message
    names = {f"{stem}.{language}.gz" for stem, _ in SPLITS.values() for language in ("en", "fr")}
    assert set(re.findall(rf"{re.escape(MIRRORS[0])}(\S+)", message)) == names
    assert "TFM_LIB_DATA" in message


def test_the_advice_is_for_the_folder_that_was_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"--tgt en --folder \"(.*)\"") as error:
        load_multi30k("train", folder=tmp_path)
    assert f"not unpacked, in {tmp_path}\n" in str(error.value)


def test_an_altered_file_is_refused_with_both_hashes(tiny):
    path = tiny / "val.de.gz"
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"\0")
    actual = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match=r"val\.de\.gz is not the published file") as error:
        load_multi30k("val", folder=tiny)
    assert not isinstance(error.value, MissingDataError)
    assert all(text in str(error.value) for text in (expected, actual, "tfm data multi30k"))
    assert len(load_multi30k("test", folder=tiny)) == LINES["test"]


def test_the_lines_are_counted(tiny, monkeypatch):
    monkeypatch.setitem(multi30k.SPLITS, "val", ("val", 4))
    with pytest.raises(ValueError, match=r"val\.de\.gz has 3 lines; it must have 4"):
        load_multi30k("val", folder=tiny)


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown pair of languages fr-fr; it must be two"):
        load_multi30k("train", src="fr", tgt="fr")
    with pytest.raises(ValueError, match="unknown pair of languages de-xx"):
        download_multi30k(src="de", tgt="xx")
    with pytest.raises(ValueError, match=r"unknown split 'dev'; known: train, val, test$"):
        load_multi30k("dev")


# --- the download


@pytest.fixture
def fetched(monkeypatch):
    """What would be downloaded: the arguments of each call of `fetch`."""
    calls = []
    monkeypatch.setattr(multi30k, "fetch", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def test_the_terms_are_shown_before_a_pairs_six_files_are_fetched(fetched, capsys, monkeypatch):
    at_first = []
    monkeypatch.setattr(
        multi30k, "fetch", lambda *_, **__: at_first.append(capsys.readouterr().out)
    )
    assert download_multi30k() == multi30k.CACHE
    assert "non-commercial research and education" in at_first[0]
    assert "Flickr terms of use" in at_first[0]
    assert len(at_first) == 6


@pytest.mark.parametrize(("src", "tgt"), PAIRS)
def test_the_files_come_from_the_frozen_commit_with_their_hashes(fetched, tmp_path, src, tgt):
    assert download_multi30k(src=src, tgt=tgt, folder=tmp_path) == tmp_path
    assert {path.name for (_, path), _ in fetched} == {
        f"{stem}.{language}.gz" for stem, _ in SPLITS.values() for language in (src, tgt)
    }
    for (urls, path), options in fetched:
        assert path.parent == tmp_path
        assert options["sha256"] == SHA256[path.name]
        assert len({url.split("/")[2] for url in urls}) == len(urls) == 3
        for url in urls:
            assert url.startswith("https://")
            assert COMMIT in url
            assert url.endswith(f"/data/task1/raw/{path.name}")


def test_the_hashes_are_of_all_files():
    languages = {language for pair in PAIRS for language in pair}
    assert set(SHA256) == {
        f"{stem}.{language}.gz" for stem, _ in SPLITS.values() for language in languages
    }
    assert len(set(SHA256.values())) == len(SHA256) == 9


def test_loading_never_downloads(fetched):
    with pytest.raises(MissingDataError):
        load_multi30k("train")
    assert fetched == []


def test_the_command_downloads_what_is_asked_for(fetched, tmp_path, capsys):
    assert tfm("data", "multi30k", "--src", "en", "--tgt", "fr", "--folder", tmp_path) == 0
    assert len(fetched) == 6
    printed = capsys.readouterr().out
    assert printed.startswith("Multi30k (Elliott et al., 2016")
    assert printed.endswith(f"Multi30k en-fr is in {tmp_path}\n")


@pytest.mark.parametrize(
    ("failure", "status", "said"),
    [
        (DownloadError("train.de.gz was not downloaded: ..."), 1, "tfm: train.de.gz was not down"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_the_command_ends_with_a_sentence_not_a_traceback(
    monkeypatch, failure, status, said, capsys
):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(multi30k, "fetch", fail)
    assert tfm("data", "multi30k") == status
    assert said in capsys.readouterr().err
    assert tfm("data", "multi30k", "--src", "en") == 1
    assert "unknown pair of languages en-en" in capsys.readouterr().err


# --- the real files, where they are


@pytest.fixture(scope="module")
def real():
    """Every pair and split, or a skip that says how to get them."""
    try:
        return {
            (*pair, split): load_multi30k(split, src=pair[0], tgt=pair[1])
            for pair in PAIRS
            for split in SPLITS
        }
    except MissingDataError:
        pytest.skip("Multi30k is not here: download it, or name its folder in TFM_LIB_DATA")


def test_the_real_files_have_their_sizes_and_no_blank_line(real):
    for (_, _, split), pairs in real.items():
        assert len(pairs) == SPLITS[split][1]
        for line in (*pairs.sources, *pairs.targets):
            assert line.strip()
            assert not re.search("[\r\n\ufeff]", line)


def test_the_real_languages_belong_together(real):
    german, english = real["de", "en", "test"].sources, real["de", "en", "test"].targets
    assert german[0].startswith("Ein Mann mit einem orange")
    assert english[0].startswith("A man in an orange hat")
    assert real["en", "de", "test"].sources == real["en", "fr", "test"].sources == english
    assert real["en", "de", "test"].targets == german
    assert real["en", "fr", "test"].targets[0].startswith("Un homme avec un chapeau orange")
