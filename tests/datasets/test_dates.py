"""The dates: their splits and their forms."""

import datetime
import re
import unicodedata
from collections import Counter

import pytest

from data.make_dates import DATE_SPLITS
from tfm_lib.datasets.dates import DATE_FORMATS, load_dates, write_date
from tfm_lib.text.pairs import Pairs


@pytest.fixture(scope="module")
def dates() -> dict[str, Pairs]:
    return {split: load_dates(split) for split in DATE_SPLITS}


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
    monkeypatch.setattr("babel.dates.format_date", lambda *_, **__: "21\u00a0nov.\u202f2026")
    assert write_date(datetime.date(2026, 11, 21), "fr_FR", "medium") == "21 nov. 2026"


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
