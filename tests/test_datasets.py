import datetime
import re
import unicodedata
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from tfm_lib import datasets
from tfm_lib.datasets import (
    BABEL_VERSION,
    DATE_FORMATS,
    DATE_SPLITS,
    SHA256,
    Batches,
    Codec,
    Pairs,
    exact_match,
    generate_dates,
    load_dates,
    load_parallel,
    pad,
    write_date,
)
from tfm_lib.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from tfm_lib.vocab import Vocab

DATA = Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def dates() -> dict[str, Pairs]:
    return {split: load_dates(split) for split in DATE_SPLITS}


@pytest.fixture(scope="module")
def codecs(dates) -> tuple[Codec, Codec]:
    train = dates["train"]
    src = Codec.build(train.sources, CharTokenizer())
    return src, Codec.build(train.targets, CharTokenizer())


# --- the dates


def test_the_splits_have_their_sizes_and_every_locale_and_format(dates):
    kinds = {f"{locale} {style}" for locale, styles in DATE_FORMATS.items() for style in styles}
    for split, count in DATE_SPLITS.items():
        assert len(dates[split]) == count
        per_kind = Counter(dates[split].kinds)
        assert per_kind.keys() == kinds
        assert max(per_kind.values()) - min(per_kind.values()) <= 1


def test_no_day_of_one_split_occurs_in_another(dates):
    days = {split: set(pairs.targets) for split, pairs in dates.items()}
    assert not days["train"] & days["val"]
    assert not days["train"] & days["test"]
    assert not days["val"] & days["test"]


def test_one_text_never_means_two_days(dates):
    meaning = {}
    for pairs in dates.values():
        for text, iso in zip(pairs.sources, pairs.targets, strict=True):
            assert meaning.setdefault(text, iso) == iso
    assert len(meaning) == sum(DATE_SPLITS.values())


def test_one_text_never_means_two_days_over_two_whole_years():
    """Every day of an ordinary and a leap year, in every locale and format, seen or not."""
    meaning = {}
    day = datetime.date(2027, 1, 1)
    while day.year < 2029:
        for locale, styles in DATE_FORMATS.items():
            for style in styles:
                assert meaning.setdefault(write_date(day, locale, style), day) == day
        day += datetime.timedelta(days=1)
    assert len(meaning) > 10_000


def test_the_targets_are_days_in_iso_form_and_the_texts_hold_their_year_and_day(dates):
    for pairs in dates.values():
        for text, iso in zip(pairs.sources, pairs.targets, strict=True):
            day = datetime.date.fromisoformat(iso)
            assert str(day) == iso
            assert 1970 <= day.year <= 2049
            numbers = list(map(int, re.findall(r"\d+", text)))
            assert {day.year, day.day} <= set(numbers)
            # digits alone, as in 2026. 11. 21., must come year first
            assert any(map(str.isalpha, text)) or numbers == [day.year, day.month, day.day]


def test_the_texts_hold_plain_spaces_and_composed_letters_only(dates):
    for pairs in dates.values():
        for text in pairs.sources:
            assert text == unicodedata.normalize("NFC", text) == " ".join(text.split())
            assert all(character == " " or character.isprintable() for character in text)
            assert not re.search(r"[^\S ]", text)


def test_dates_are_written_as_people_of_the_locale_do():
    day = datetime.date(2026, 11, 21)
    assert write_date(day, "fr_FR", "full") == "samedi 21 novembre 2026"
    assert write_date(day, "ko_KR", "full") == "2026년 11월 21일 토요일"
    assert write_date(day, "de_DE", "long") == "21. November 2026"
    assert write_date(day, "en_US", "medium") == "Nov 21, 2026"


def test_odd_spaces_become_plain_ones(monkeypatch):
    monkeypatch.setattr(datasets, "format_date", lambda *_, **__: "21\u00a0nov.\u202f2026")
    assert write_date(datetime.date(2026, 11, 21), "fr_FR", "medium") == "21 nov. 2026"


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


def test_locales_can_be_chosen(dates):
    french = load_dates("val", locales=["fr_FR"])
    assert set(french.kinds) == {"fr_FR full", "fr_FR long", "fr_FR medium"}
    assert list(french.sources) == [
        text
        for text, kind in zip(dates["val"].sources, dates["val"].kinds, strict=True)
        if kind.startswith("fr_FR")
    ]


def test_unknown_names_are_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown locale 'xx_XX'; known: en_US, de_DE, .*ko_KR"):
        load_dates("train", locales=["xx_XX"])
    with pytest.raises(ValueError, match=r"unknown locale 'fr'; known: en_US"):
        write_date(datetime.date(2026, 1, 1), "fr", "full")
    with pytest.raises(ValueError, match=r"unknown de_DE style 'medium'; known: full, long$"):
        write_date(datetime.date(2026, 1, 1), "de_DE", "medium")
    with pytest.raises(ValueError, match=r"unknown split 'dev'; known: train, val, test$"):
        load_dates("dev")
    with pytest.raises(ValueError, match=r"unknown target 'de'; known: fr, ko$"):
        load_parallel("train", target="de")


# --- the files


@pytest.mark.parametrize("name", SHA256)
def test_a_tampered_file_is_refused(name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes((DATA / name).read_bytes() + b"\n")
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"(?s)not the file.*expected.*actual") as error:
        load_dates("train") if name == "dates.tsv" else load_parallel("train")
    message = str(error.value)
    assert str(tmp_path / name) in message
    assert SHA256[name] in message
    assert len(re.findall(r"\b[0-9a-f]{64}\b", message)) == 2
    assert f"delete {tmp_path / name}" in message  # the shipped one is read then


def test_a_missing_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "__file__", str(tmp_path / "tfm_lib" / "datasets.py"))
    with pytest.raises(
        ValueError, match=r"(?s)none, the file is missing.*git checkout -- data/dates.tsv"
    ):
        load_dates("train")


def test_the_folder_can_be_elsewhere(tmp_path, monkeypatch, dates):
    monkeypatch.setenv("TFM_LIB_DATA", str(tmp_path))
    assert load_dates("test") == dates["test"]  # not in that folder: the shipped file
    (tmp_path / "dates.tsv").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"(?s)not the file"):
        load_dates("test")


# --- the parallel corpus


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


# --- texts to ids and back


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), WordTokenizer(), "pieces"])
@pytest.mark.parametrize("target", ["fr", "ko"])
def test_tokenizers_restore_the_parallel_corpus(tokenizer, target):
    pairs = load_parallel("train", target=target)
    texts = [*pairs.sources, *pairs.targets]
    if tokenizer == "pieces":
        tokenizer = BPETokenizer.train(texts, vocab_size=800)
    assert_restored(Codec.build(texts, tokenizer), texts)


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), "pieces"])
def test_tokenizers_restore_the_dates(tokenizer, dates):
    train = [*dates["train"].sources, *dates["train"].targets]
    if tokenizer == "pieces":
        tokenizer = BPETokenizer.train(train, vocab_size=800)
    codec = (
        Codec(tokenizer, Vocab(tokenizer.tokens))
        if isinstance(tokenizer, BPETokenizer)
        else (Codec.build(train, tokenizer))
    )
    for pairs in dates.values():
        assert_restored(codec, [*pairs.sources, *pairs.targets])


def assert_restored(codec: Codec, texts: list[str]):
    for text in texts:
        ids = codec.encode(text)
        assert ids[-1] == codec.vocab.eos_id
        assert codec.vocab.unk_id not in ids
        assert codec.decode(ids) == text


def test_words_of_dates_are_cut_and_joined_in_western_locales(dates):
    """Korean dates such as 2026. 11. 21. too: their marks touch the word before them."""
    words = WordTokenizer()
    for text in dates["test"].sources:
        assert words.detokenize(words.tokenize(text)) == text


def test_a_batch_of_sources_is_tokens_end_padding():
    codec = Codec(CharTokenizer(), Vocab("abc"))
    assert codec.batch(["ab", "c", ""]).tolist() == [[4, 5, 2], [6, 2, 0], [2, 0, 0]]
    assert codec.decode(codec.batch(["ab", "c"])[1]) == "c"


def test_padding():
    rows = pad([[5], [6, 7, 8]], pad_id=9)
    assert rows.dtype == torch.long
    assert rows.tolist() == [[5, 9, 9], [6, 7, 8]]
    assert pad([[], []]).dtype == torch.long
    with pytest.raises(ValueError, match="at least one row; got none"):
        pad([])


# --- batches

PAIRS = Pairs(
    sources=["a" * (1 + index % 17) + f"{index}" for index in range(103)],
    targets=[f"{index}" for index in range(103)],
    kinds=["made up"] * 103,
)
DIGITS = Codec(CharTokenizer(), Vocab("0123456789a"))


def texts_of(batches: Batches) -> list[tuple[str, str]]:
    return [
        (DIGITS.decode(src), DIGITS.decode(tgt))
        for src_ids, tgt_ids in batches
        for src, tgt in zip(src_ids, tgt_ids, strict=True)
    ]


@pytest.mark.parametrize("batch_size", [1, 7, 103, 500])
def test_an_epoch_holds_every_pair_once_and_no_empty_batch(batch_size):
    batches = Batches(PAIRS, DIGITS, DIGITS, batch_size=batch_size)
    for _ in range(2):
        sizes = [len(src_ids) for src_ids, _ in batches]
        assert len(sizes) == len(batches)
        assert all(1 <= size <= batch_size for size in sizes)
        expected = sorted(zip(PAIRS.sources, PAIRS.targets, strict=True))
        assert sorted(texts_of(batches)) == expected


def test_a_batch_is_begin_tokens_end_padding():
    for src_ids, tgt_ids in Batches(PAIRS, DIGITS, DIGITS, batch_size=7):
        assert src_ids.dtype == tgt_ids.dtype == torch.long
        assert (tgt_ids[:, 0] == Vocab.bos_id).all()
        assert not (src_ids == Vocab.bos_id).any()
        for row in [*src_ids, *tgt_ids]:
            end = row.tolist().index(Vocab.eos_id)
            assert (row[end + 1 :] == Vocab.pad_id).all()
            assert (row[:end] != Vocab.pad_id).all()
        assert (src_ids[:, -1] != Vocab.pad_id).any()  # no column of padding alone
        assert (tgt_ids[:, -1] != Vocab.pad_id).any()


def test_epochs_differ_and_the_seed_repeats_them_all():
    batches = Batches(PAIRS, DIGITS, DIGITS, batch_size=7, seed=3)
    first, second = texts_of(batches), texts_of(batches)
    assert first != second
    again = Batches(PAIRS, DIGITS, DIGITS, batch_size=7, seed=3)
    assert [texts_of(again), texts_of(again)] == [first, second]
    assert texts_of(Batches(PAIRS, DIGITS, DIGITS, batch_size=7, seed=4)) != first


def test_global_random_state_is_neither_used_nor_touched():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = texts_of(Batches(PAIRS, DIGITS, DIGITS, batch_size=7))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert texts_of(Batches(PAIRS, DIGITS, DIGITS, batch_size=7)) == first


def test_batches_are_shuffled_not_served_by_length():
    one_pool = Batches(PAIRS[: 7 * Batches.POOL], DIGITS, DIGITS, batch_size=7)
    epochs = [[src_ids.size(1) for src_ids, _ in one_pool] for _ in range(3)]
    assert any(widths not in (sorted(widths), sorted(widths)[::-1]) for widths in epochs)


def test_bucketing_pads_less_than_half_of_what_chance_would(dates, codecs):
    batches = Batches(dates["train"], *codecs, batch_size=64)
    padded = sum(int((src_ids == 0).sum()) for src_ids, _ in batches)
    rows = [codecs[0].encode(source) for source in dates["train"].sources]
    unbucketed = sum(
        int((pad(rows[start : start + 64]) == 0).sum()) for start in range(0, len(rows), 64)
    )
    assert padded < 0.5 * unbucketed


@pytest.mark.parametrize(("pairs", "batch_size"), [(PAIRS[:0], 4), (PAIRS, 0)])
def test_nothing_to_batch_is_an_error(pairs, batch_size):
    with pytest.raises(ValueError, match=f"got {len(pairs)} pairs, batch_size={batch_size}"):
        Batches(pairs, DIGITS, DIGITS, batch_size=batch_size)


# --- pairs and matches


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
