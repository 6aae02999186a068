"""Writes dates.tsv: python -m data.make_dates

The file is made from Babel 2.18.0, which carries CLDR 47; other versions may carry other names and
formats. What the file holds is told in README.md.
"""

import datetime
import random
from pathlib import Path

from tfm_lib.datasets.dates import DATE_FORMATS, write_date

BABEL_VERSION = "2.18.0"  # with CLDR 47: made the frozen dates.tsv


DATE_SPLITS = {"train": 20_000, "val": 1_000, "test": 1_000}


def generate_dates(*, seed: int = 0) -> str:
    """The text of ``dates.tsv``, from Babel: every day at most once, locale and format in turn.

    Days of 1970-01-01..2049-12-31 are shuffled by the seed and dealt to train, val and test.
    """
    first, last = datetime.date(1970, 1, 1), datetime.date(2049, 12, 31)
    draw = random.Random(seed).random  # all of `random` that no Python version may change
    days = sorted(range(first.toordinal(), last.toordinal() + 1), key=lambda _: draw())
    styles = [(locale, style) for locale, names in DATE_FORMATS.items() for style in names]
    splits = [split for split, count in DATE_SPLITS.items() for _ in range(count)]
    lines = ["split\tlocale\tformat\ttext\tiso"]
    for index, split in enumerate(splits):
        date, (locale, style) = datetime.date.fromordinal(days[index]), styles[index % len(styles)]
        lines.append("\t".join([split, locale, style, write_date(date, locale, style), str(date)]))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("dates.tsv").write_bytes(generate_dates().encode("utf-8"))
