"""Blocks of token ids, cut from one long text."""

import pytest
import torch

from tfm_lib.text.blocks import Blocks, cut_blocks


def test_every_token_is_predicted_once():
    blocks = cut_blocks(range(100), 7, start=3)
    assert blocks.shape == (13, 8)
    assert blocks.dtype == torch.int64
    assert blocks[:, 1:].flatten().tolist() == list(range(4, 4 + 13 * 7))
    assert torch.equal(blocks[1:, 0], blocks[:-1, -1])


@pytest.mark.parametrize(("length", "tokens"), [(0, 5), (7, 7)])
def test_a_block_needs_its_tokens(length, tokens):
    with pytest.raises(ValueError, match=f"length={length}.*there are {tokens}"):
        cut_blocks(range(tokens), length)


def test_batches_are_shuffled_blocks():
    batches = Blocks(range(101), length=5, batch_size=3, seed=2)
    first, second = ([*batches] for _ in range(2))
    assert {len(batch) for batch in first[:-1]} == {3}
    for epoch in (first, second):
        rows = torch.cat(epoch)  # (blocks, 6)
        assert torch.equal(rows, rows[:, :1] + torch.arange(6))  # each row is consecutive
        starts = rows[:, 0].sort().values
        assert torch.equal(starts, starts[0] + 5 * torch.arange(len(rows)))
        assert starts[0] < 5
        assert starts[-1] + 10 > 100  # at most an end is left out
        assert not torch.equal(rows[:, 0], starts)
    assert first[0].tolist() != second[0].tolist()
    assert [b.tolist() for b in Blocks(range(101), length=5, batch_size=3, seed=2)] == [
        batch.tolist() for batch in first
    ]


def test_epochs_cut_at_every_offset():
    batches = Blocks(range(40), length=3, batch_size=50)
    offsets = {int(batch[:, 0].min()) for _ in range(30) for batch in batches}
    assert offsets == {0, 1, 2}


@pytest.mark.parametrize("sizes", [(0, 2, 9), (3, 0, 9), (3, 5, 9)])
def test_sizes_that_do_not_fit_are_refused(sizes):
    batch_size, length, tokens = sizes
    with pytest.raises(ValueError, match="must be 1 or more"):
        Blocks(range(tokens), length=length, batch_size=batch_size)
