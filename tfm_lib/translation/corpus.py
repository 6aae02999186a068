"""What a run learns from and is judged by: pairs for training and pairs for validation."""

import hashlib
from dataclasses import dataclass
from itertools import compress

from tfm_lib.datasets.multi30k import load_multi30k
from tfm_lib.datasets.text_files import read_pairs
from tfm_lib.text.batches import encode_pairs
from tfm_lib.text.codec import Codec
from tfm_lib.text.pairs import Pairs
from tfm_lib.translation.settings import RunError, Settings

HELD_OUT = 50  # without validation files, one pair in so many


@dataclass(frozen=True)
class Corpus:
    """What a run learns from and is judged by."""

    train: Pairs
    valid: Pairs
    blank: int  # pairs left out, since a side was blank

    @property
    def fingerprint(self) -> str:
        """A hash of the text: going on with another text would be another run."""
        sides = (side for text in (self.train, self.valid) for side in (text.sources, text.targets))
        return hashlib.sha256("\0".join(map("\n".join, sides)).encode("utf-8")).hexdigest()


def load_corpus(settings: Settings) -> Corpus:
    """The text that the settings name; RunError, or what its reader raises, if it is no use."""
    if settings.data == "multi30k":
        languages = {"src": settings.src, "tgt": settings.tgt}
        return Corpus(load_multi30k("train", **languages), load_multi30k("val", **languages), 0)
    pairs, blank = read_pairs(*settings.train)
    if settings.valid:
        valid, more = read_pairs(*settings.valid)
        return Corpus(pairs, valid, blank + more)
    if len(pairs) < 2 * HELD_OUT:
        raise RunError(
            f"{len(pairs)} pairs are too few to hold some out for validation: need {2 * HELD_OUT}, "
            "or give --valid"
        )
    held_out = slice(None, None, HELD_OUT)
    valid = pairs[held_out]
    columns = [list(column) for column in (pairs.sources, pairs.targets, pairs.kinds)]
    for column in columns:
        del column[held_out]
    return Corpus(Pairs(*columns), valid, blank)


def without_long(pairs: Pairs, codec: Codec, *, max_tokens: int) -> Pairs:
    """The pairs without those with a longer side; RunError if that is all of them."""
    fits = [max(map(len, row)) <= max_tokens for row in encode_pairs(pairs, codec, codec)]
    if not any(fits):
        raise RunError(
            f"each of the {len(pairs)} pairs for validation has a side of more than {max_tokens=}"
        )
    columns = (pairs.sources, pairs.targets, pairs.kinds)
    return Pairs(*(list(compress(column, fits)) for column in columns))
