"""Masks against double loops."""

import pytest
import torch

from tfm_lib.attention.masks import causal_mask, padding_mask, window_mask


@pytest.mark.parametrize("size", [1, 2, 7])
def test_causal_mask_equals_a_double_loop(size):
    mask = causal_mask(size)
    assert mask.dtype == torch.bool
    assert mask.shape == (size, size)
    for i in range(size):
        for j in range(size):
            assert mask[i, j].item() == (j <= i)


@pytest.mark.parametrize(("size", "window"), [(1, 0), (7, 0), (7, 2), (5, 11)])
def test_window_mask_equals_a_double_loop(size, window):
    mask = window_mask(size, window)
    for i in range(size):
        for j in range(size):
            assert mask[i, j].item() == (abs(i - j) <= window)


def test_padding_mask_hides_pads_from_every_head_and_query():
    token_ids = torch.tensor([[5, 9, 3], [4, 3, 3]])
    mask = padding_mask(token_ids, pad_id=3)
    assert mask.shape == (2, 1, 1, 3)
    assert mask.dtype == torch.bool
    assert mask[:, 0, 0].tolist() == [[True, True, False], [True, False, False]]


def test_masks_combine_by_and():
    token_ids = torch.tensor([[5, 9, 0, 0], [4, 0, 0, 0]])
    both = causal_mask(4) & padding_mask(token_ids, pad_id=0)
    assert both.shape == (2, 1, 4, 4)
    for row, length in enumerate((2, 1)):
        for i in range(4):
            for j in range(4):
                assert both[row, 0, i, j].item() == (j <= i and j < length)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: causal_mask(0), "size=0 must be 1 or more"),
        (lambda: window_mask(0, 1), "size=0 must be 1 or more"),
        (lambda: window_mask(3, -1), "window=-1 must be 0 or more"),
        (lambda: padding_mask(torch.tensor([1, 2]), 0), r"int64 of shape \(2,\)"),
        (lambda: padding_mask(torch.ones(2, 3), 0), "float32"),
        (lambda: padding_mask(torch.ones(2, 3) > 0, 0), "bool"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
