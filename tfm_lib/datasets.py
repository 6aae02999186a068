"""The course's text pairs, checked when they are read, and the padded batches made from them."""

import datetime
import hashlib
import os
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from babel.dates import format_date
from torch import Tensor

from tfm_lib.vocab import Vocab

SHA256 = {
    "dates.tsv": "dbcbefaad520f98b1b9de174e7a9874e9b06e561faf4216b3b306aba128d3c89",
    "parallel.tsv": "63d52017082bbd6ef43d45b9e18080fca914bd94535a8310aff21a175033a5bf",
}

BABEL_VERSION = "2.18.0"  # with CLDR 47: made the frozen dates.tsv
DATE_SPLITS = {"train": 20_000, "val": 1_000, "test": 1_000}
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


class TextTokenizer(Protocol):
    """What cuts a text into tokens and joins them again (see `tfm_lib.tokenizers`)."""

    def tokenize(self, text: str) -> list[str]: ...
    def detokenize(self, tokens: Iterable[str]) -> str: ...


@dataclass(frozen=True)
class Pairs:
    """Texts and what each is to become: ``sources[i]`` -> ``targets[i]``.

    ``kinds[i]`` says what sort of pair it is, for accuracies by kind. A slice is again Pairs.
    """

    sources: Sequence[str]
    targets: Sequence[str]
    kinds: Sequence[str]

    def __post_init__(self) -> None:
        sizes = len(self.sources), len(self.targets), len(self.kinds)
        if len(set(sizes)) > 1:
            raise ValueError(f"sources, targets, kinds must be equally long; got {sizes}")

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, part: slice) -> "Pairs":
        return Pairs(self.sources[part], self.targets[part], self.kinds[part])


@dataclass(frozen=True)
class Codec:
    """A tokenizer and a vocabulary: together they turn texts into ids and back."""

    tokenizer: TextTokenizer
    vocab: Vocab

    @classmethod
    def build(
        cls, texts: Iterable[str], tokenizer: TextTokenizer, *, min_count: int = 1
    ) -> "Codec":
        """Take the vocabulary from the texts: every token seen ``min_count`` times or more."""
        return cls(tokenizer, Vocab.build(map(tokenizer.tokenize, texts), min_count=min_count))

    def encode(self, text: str) -> list[int]:
        """The text's token ids, ended by ``eos_id``."""
        return [*self.vocab.encode(self.tokenizer.tokenize(text)), self.vocab.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids (a list or a 1-D tensor) up to the first ``eos_id``."""
        return self.tokenizer.detokenize(self.vocab.decode(ids))

    def batch(self, texts: Iterable[str]) -> Tensor:
        """The texts as a model's source: (batch, longest) ids, each row tokens, eos, padding."""
        return pad([self.encode(text) for text in texts], self.vocab.pad_id)


def pad(rows: Sequence[Sequence[int]], pad_id: int = Vocab.pad_id) -> Tensor:
    """Stack rows of ids as a LongTensor (batch, longest), filled with ``pad_id`` on the right."""
    if not rows:
        raise ValueError("a batch needs at least one row; got none")
    longest = max(map(len, rows))
    padded = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long)


class Batches:
    """Padded batches ``(src_ids, tgt_ids)``, shuffled anew each time they are iterated.

    LongTensors: src_ids (batch, src_len) are tokens, eos; tgt_ids (batch, tgt_len) are bos, tokens,
    eos. Every pair comes exactly once per epoch, among pairs of about its length, so that little is
    padded: shuffled pairs are sorted by length within pools of ``POOL`` batches, and the batches
    are shuffled again. The order depends on the seed and the number of the epoch alone.
    Raises ValueError if there are no pairs or ``batch_size`` is below 1.
    """

    POOL = 5

    def __init__(
        self, pairs: Pairs, src: Codec, tgt: Codec, *, batch_size: int, seed: int = 0
    ) -> None:
        if not len(pairs) or batch_size < 1:
            raise ValueError(
                f"batches need at least one pair and batch_size >= 1; "
                f"got {len(pairs)} pairs, batch_size={batch_size}"
            )
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self.pad_ids = src.vocab.pad_id, tgt.vocab.pad_id
        self.rows = [
            (src.encode(source), [tgt.vocab.bos_id, *tgt.encode(target)])
            for source, target in zip(pairs.sources, pairs.targets, strict=True)
        ]

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        order = random.Random(f"{self.seed}, {self.epoch}")
        rows = order.sample(self.rows, len(self.rows))
        pool = self.POOL * self.batch_size
        rows = [
            row
            for start in range(0, len(rows), pool)
            for row in sorted(rows[start : start + pool], key=lambda row: list(map(len, row)))
        ]
        starts = order.sample(range(0, len(rows), self.batch_size), len(self))
        for start in starts:
            sources, targets = zip(*rows[start : start + self.batch_size], strict=True)
            yield pad(sources, self.pad_ids[0]), pad(targets, self.pad_ids[1])


def exact_match(predicted: Sequence[str], expected: Sequence[str]) -> float:
    """The share of texts that are right to the last character, between 0 and 1."""
    if len(predicted) != len(expected) or not expected:
        raise ValueError(
            f"as many predicted as expected texts, at least one; "
            f"got {len(predicted)} and {len(expected)}"
        )
    return sum(map(str.__eq__, predicted, expected)) / len(expected)


def load_dates(split: str, *, locales: Collection[str] = tuple(DATE_FORMATS)) -> Pairs:
    """Dates as people write them and in ISO form; ``split`` is train, val or test.

    No day of one split occurs in another. ``kinds`` are locale and format: ``fr_FR full``.
    Raises ValueError for an unknown split or locale, and for a missing or altered file.
    """
    for locale in locales:
        _require(locale, DATE_FORMATS, "locale")
    rows = [row for row in _read_split("dates.tsv", split) if row["locale"] in locales]
    return Pairs(
        sources=[row["text"] for row in rows],
        targets=[row["iso"] for row in rows],
        kinds=[f"{row['locale']} {row['format']}" for row in rows],
    )


def load_parallel(split: str, *, target: str = "fr") -> Pairs:
    """English sentences and their French (``target="fr"``) or Korean (``"ko"``) translations.

    ``kinds`` are the sentence patterns. In Korean ``|`` marks particles and endings, which
    `WordTokenizer` cuts off there.
    Raises ValueError for an unknown split or target, and for a missing or altered file.
    """
    _require(target, ("fr", "ko"), "target")
    rows = _read_split("parallel.tsv", split)
    return Pairs(
        sources=[row["en"] for row in rows],
        targets=[row[target] for row in rows],
        kinds=[row["pattern"] for row in rows],
    )


def write_date(date: datetime.date, locale: str, style: str) -> str:
    """Write a date as people of the locale do, in one of the styles that ``DATE_FORMATS`` lists.

    CLDR's no-break spaces (U+00A0, U+202F) become plain ones: they look the same, and a reader who
    types a date has no other.
    """
    _require(locale, DATE_FORMATS, "locale")
    _require(style, DATE_FORMATS[locale], f"{locale} style")
    return format_date(date, style, locale=locale).translate({0x00A0: " ", 0x202F: " "})


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


def _require(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")


def _read_split(name: str, split: str) -> list[dict[str, str]]:
    header, *lines = _read_checked(name).rstrip("\n").split("\n")
    columns = header.split("\t")
    rows = [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]
    _require(split, dict.fromkeys(row["split"] for row in rows), "split")
    return [row for row in rows if row["split"] == split]


def _read_checked(name: str) -> str:
    shipped = Path(__file__).parent.parent / "data"
    path = Path(os.environ.get("TFM_LIB_DATA") or shipped) / name
    path = path if path.is_file() else shipped / name
    content = path.read_bytes() if path.is_file() else None
    actual = "none, the file is missing" if content is None else hashlib.sha256(content).hexdigest()
    if actual != SHA256[name]:
        restore = f"git checkout -- data/{name}" if path == shipped / name else f"delete {path}"
        raise ValueError(
            f"{path} is not the file this course was written with\n"
            f"  expected SHA-256: {SHA256[name]}\n"
            f"  actual SHA-256:   {actual}\n"
            f"  to restore it:    {restore}"
        )
    return content.decode("utf-8")
