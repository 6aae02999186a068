"""Parallel text, two files with one sentence a line, and batches of about equally many tokens."""

import random
from collections.abc import Iterator
from pathlib import Path

from tfm_lib.datasets import Codec, Pairs


class ParallelTextError(ValueError):
    """A pair of files is no parallel text; the message names file, line and what to do."""


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, ends removed; ParallelTextError if absent, empty or not UTF-8."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ParallelTextError(f"{path} cannot be read: {error.strerror}") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content = error.object  # without the mark that may stand in front of the text
        line = content.count(b"\n", 0, error.start) + 1
        raise ParallelTextError(
            f"{path}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8. Convert the "
            f"file, for example: iconv -f latin1 -t utf-8 {path.name}"
        ) from None
    # Split at line feeds alone: str.splitlines also splits at form feeds and U+2028 in a sentence.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise ParallelTextError(f"{path} is empty")
    return lines


def read_pairs(src_path: str | Path, tgt_path: str | Path) -> tuple[Pairs, int]:
    """Sentences of two files that belong together, and how many pairs were left out as empty.

    A pair of which one side is blank teaches nothing and is skipped. Spaces at the ends of a line
    are removed. ParallelTextError as in `read_lines`, or if the files differ in length.
    """
    sources, targets = read_lines(src_path), read_lines(tgt_path)
    if len(sources) != len(targets):
        raise ParallelTextError(
            f"{src_path} has {len(sources)} lines and {tgt_path} has {len(targets)}: line n of one "
            "must be the translation of line n of the other"
        )
    stripped = [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]
    kept = [pair for pair in stripped if all(pair)]
    if not kept:
        raise ParallelTextError(f"{src_path} and {tgt_path} hold no pair without a blank side")
    return Pairs(*zip(*kept, strict=True), ["text"] * len(kept)), len(stripped) - len(kept)


def encode_pairs(pairs: Pairs, codec: Codec) -> list[tuple[list[int], list[int]]]:
    """Source ids with eos, and target ids with bos and eos, of each pair."""
    return [
        (codec.encode(source), [codec.vocab.bos_id, *codec.encode(target)])
        for source, target in zip(pairs.sources, pairs.targets, strict=True)
    ]


class TokenBatches:
    """Lists of (source ids, target ids), about `batch_tokens` padded tokens a side each.

    Sentences of like length go together, so little is padded: a shuffled epoch is sorted by the
    longer side, which leaves the shorter one free to vary, cut, and the batches shuffled again
    (section 5.1 of the paper batches by length and tokens too).
    `epoch(n)` depends on the seed and n alone, so that a run can be resumed anywhere. Pairs with a
    side longer than `max_tokens` are left out and counted in `skipped`.
    ParallelTextError if no pair is left.
    """

    def __init__(
        self,
        pairs: Pairs,
        codec: Codec,
        *,
        batch_tokens: int,
        max_tokens: int,
        seed: int = 0,
    ) -> None:
        encoded = encode_pairs(pairs, codec)
        self.rows = [row for row in encoded if max(map(len, row)) <= max_tokens]
        self.skipped = len(encoded) - len(self.rows)
        self.batch_tokens, self.seed = batch_tokens, seed
        if not self.rows:
            raise ParallelTextError(
                f"each of the {len(encoded)} pairs has a side of more than {max_tokens=}"
            )

    def epoch(self, number: int) -> list[list[tuple[list[int], list[int]]]]:
        """The batches of one pass over all pairs, in the order in which to train on them."""
        order = random.Random(f"{self.seed}, {number}")
        rows = order.sample(self.rows, len(self.rows))
        rows.sort(key=lambda row: max(map(len, row)))  # stable: ties stay shuffled
        batches = list(self._cut(rows))
        return order.sample(batches, len(batches))

    def _cut(self, rows: list) -> Iterator[list]:
        batch, longest = [], 0
        for row in rows:
            length = max(map(len, row))
            if batch and max(longest, length) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch, longest = [], 0
            batch.append(row)
            longest = max(longest, length)
        yield batch


def in_steps(batches: list, per_step: int) -> list[list]:
    """The batches in order, `per_step` to a step; the last step may have fewer."""
    return [batches[first : first + per_step] for first in range(0, len(batches), per_step)]


def target_tokens(rows: list) -> int:
    """How many tokens of a batch are predicted: those of each target but its first, bos."""
    return sum(len(target) - 1 for _, target in rows)
