"""Padded batches of text pairs: by count of pairs (`Batches`) or by tokens (`TokenBatches`).

Either order depends on a seed and the number of the epoch alone.
"""

import random
from collections.abc import Iterator

from torch import Tensor

from tfm_lib.text.codec import Codec, pad
from tfm_lib.text.pairs import Pairs

Row = tuple[list[int], list[int]]  # a pair: source ids, target ids


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
        self.rows = encode_pairs(pairs, src, tgt)

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


def encode_pairs(pairs: Pairs, src: Codec, tgt: Codec) -> list[Row]:
    """Source ids with eos, and target ids with bos and eos, of each pair."""
    return [
        (src.encode(source), [tgt.vocab.bos_id, *tgt.encode(target)])
        for source, target in zip(pairs.sources, pairs.targets, strict=True)
    ]


class TokenBatches:
    """Lists of (source ids, target ids), about `batch_tokens` padded tokens a side each.

    Sentences of like length go together, so little is padded: a shuffled epoch is sorted by the
    longer side, which leaves the shorter one free to vary, cut, and the batches shuffled again
    (section 5.1 of the paper batches by length and tokens too).
    `epoch(n)` depends on the seed and n alone, so that a run can be resumed anywhere. Pairs with a
    side longer than `max_tokens` are left out and counted in `skipped`.
    ValueError if no pair is left.
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
        encoded = encode_pairs(pairs, codec, codec)
        self.rows = [row for row in encoded if max(map(len, row)) <= max_tokens]
        self.skipped = len(encoded) - len(self.rows)
        self.batch_tokens, self.seed = batch_tokens, seed
        if not self.rows:
            raise ValueError(
                f"each of the {len(encoded)} pairs has a side of more than {max_tokens=}"
            )

    def epoch(self, number: int) -> list[list[Row]]:
        """The batches of one pass over all pairs, in the order in which to train on them."""
        order = random.Random(f"{self.seed}, {number}")
        rows = order.sample(self.rows, len(self.rows))
        rows.sort(key=lambda row: max(map(len, row)))  # stable: ties stay shuffled
        batches = list(self._cut(rows))
        return order.sample(batches, len(batches))

    def _cut(self, rows: list[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        longest = 0
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
