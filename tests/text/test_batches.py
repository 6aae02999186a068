"""Batches of pairs: all pairs once, shuffled, of like length, little padded."""

import pytest
import torch

from data.make_dates import DATE_SPLITS
from tfm_lib.datasets.dates import load_dates
from tfm_lib.text.batches import Batches, TokenBatches
from tfm_lib.text.codec import Codec, pad
from tfm_lib.text.pairs import Pairs
from tfm_lib.text.tokenizers import CharTokenizer, WordTokenizer
from tfm_lib.text.vocab import Vocab


@pytest.fixture(scope="module")
def dates() -> dict[str, Pairs]:
    return {split: load_dates(split) for split in DATE_SPLITS}


@pytest.fixture(scope="module")
def codecs(dates) -> tuple[Codec, Codec]:
    train = dates["train"]
    src = Codec.build(train.sources, CharTokenizer())
    return src, Codec.build(train.targets, CharTokenizer())


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


# --- by tokens


def batches(count=101, **changes):
    texts = [" ".join(["w", str(i), *"x" * (i % 13)]) for i in range(count)]
    pairs = Pairs(texts, texts[::-1], ["text"] * count)
    codec = Codec.build(texts, WordTokenizer())
    return TokenBatches(pairs, codec, **({"batch_tokens": 90, "max_tokens": 14} | changes))


def test_every_pair_comes_once_in_batches_within_the_limit():
    found = batches(max_tokens=99)
    epoch = found.epoch(3)
    rows = [row for batch in epoch for row in batch]
    assert sorted(rows) == sorted(found.rows)
    assert len(rows) == 101
    assert all(len(b) * max(max(map(len, row)) for row in b) <= 90 for b in epoch)
    assert len(epoch) < 2 * sum(len(row[1]) for row in rows) / 90  # and the batches are full


def test_batches_are_of_like_length_by_the_longer_side():
    texts = (
        [" ".join("x" * (i % 7)) for i in range(91)],
        [" ".join("x" * (i % 13)) for i in range(91)],
    )
    codec = Codec.build(["x"], WordTokenizer())
    found = TokenBatches(Pairs(*texts, ["text"] * 91), codec, batch_tokens=60, max_tokens=99)
    lengths = [[max(map(len, row)) for row in batch] for batch in found.epoch(1)]
    assert sum(len(batch) * max(batch) for batch in lengths) < 1.05 * sum(map(sum, lengths))


def test_an_epoch_depends_on_seed_and_number_alone():
    found = batches()
    assert found.epoch(2) == batches().epoch(2)
    assert found.epoch(2) != found.epoch(1)
    assert found.epoch(2) != batches(seed=1).epoch(2)
    assert len({len(found.epoch(number)) for number in range(1, 9)}) == 1


def test_long_pairs_are_left_out_and_counted():
    found = batches(max_tokens=9)
    assert found.skipped + len(found.rows) == 101
    assert found.skipped > 0
    assert all(max(map(len, row)) <= 9 for row in found.rows)
    with pytest.raises(ValueError, match="each of the 101 pairs"):
        batches(max_tokens=2)


def test_a_pair_longer_than_a_batch_has_one_of_its_own():
    assert max(map(len, batches(batch_tokens=1).epoch(1))) == 1
