"""Dates as people write them, in eight locales, and in ISO form."""

import datetime
from collections.abc import Collection

from tfm_lib.datasets.shipped import read_split, require_known
from tfm_lib.text.pairs import Pairs

DATE_FORMATS = {  # without German's medium, 01.03.2026: digits alone whose order must be guessed
    "en_US": ("full", "long", "medium"),
    "de_DE": ("full", "long"),
    "es_ES": ("full", "long", "medium"),
    "fr_FR": ("full", "long", "medium"),
    "it_IT": ("full", "long", "medium"),
    "nl_NL": ("full", "long", "medium"),
    "ja_JP": ("full", "long", "medium"),
    "ko_KR": ("full", "long", "medium"),
}


def load_dates(split: str, *, locales: Collection[str] = tuple(DATE_FORMATS)) -> Pairs:
    """Dates as people write them and in ISO form; ``split`` is train, val or test.

    No day of one split occurs in another. ``kinds`` are locale and format: ``fr_FR full``.
    Raises ValueError for an unknown split or locale, and for a missing or altered file.
    """
    for locale in locales:
        require_known(locale, DATE_FORMATS, "locale")
    rows = [row for row in read_split("dates.tsv", split) if row["locale"] in locales]
    return Pairs(
        sources=[row["text"] for row in rows],
        targets=[row["iso"] for row in rows],
        kinds=[f"{row['locale']} {row['format']}" for row in rows],
    )


def write_date(date: datetime.date, locale: str, style: str) -> str:
    """Write a date as people of the locale do, in one of the styles that ``DATE_FORMATS`` lists.

    CLDR's no-break spaces (U+00A0, U+202F) become plain ones: they look the same, and a reader who
    types a date has no other.
    """
    require_known(locale, DATE_FORMATS, "locale")
    require_known(style, DATE_FORMATS[locale], f"{locale} style")
    try:
        from babel.dates import format_date
    except ImportError:
        raise ImportError('writing dates needs Babel: pip install "tfm-lib[learn]"') from None
    return format_date(date, style, locale=locale).translate({0x00A0: " ", 0x202F: " "})
