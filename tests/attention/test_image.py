"""DALL-E's patterns against double loops over places, and attention under them against dense."""

import pytest
import torch

from tfm_lib.attention.functions import scaled_dot_product_attention
from tfm_lib.attention.image import column_mask, convolution_mask, pattern_attention, row_mask

# (text_len, height, width): the paper's figure, then sizes that all differ
GRIDS = [(6, 4, 4), (3, 2, 5), (0, 7, 3), (2, 1, 5)]

# Of the earlier image tokens `down` rows above the query and `across` columns to its left: which?
by_loop = {
    row_mask: lambda down, across: down == 0 or (down == 1 and across <= 0),
    column_mask: lambda down, across: across == 0,
}


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("build", [row_mask, column_mask], ids=lambda build: build.__name__)
def test_masks_equal_a_double_loop_over_places(build, grid):
    text_len, _, width = grid
    mask = build(*grid)
    for query, key in pairs(mask, grid):
        row, column = divmod(query - text_len, width)
        key_row, key_column = divmod(key - text_len, width)
        seen = by_loop[build](row - key_row, column - key_column)
        assert mask[query, key] == seen, (query, key)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_convolution_covers_a_causal_kernel_that_wraps_around(grid, kernel):
    text_len, _, width = grid
    mask, reach = convolution_mask(*grid, kernel=kernel), kernel // 2
    for query, key in pairs(mask, grid):
        place = query - text_len
        covered = {
            place - up * width + left
            for up in range(reach + 1)
            for left in range(-reach, reach + 1)
        }
        assert mask[query, key] == (key - text_len in covered), (query, key)


def pairs(mask, grid):
    """Image query and earlier image key, after all that must hold for any pattern was checked."""
    text_len, height, width = grid
    size = text_len + height * width
    assert mask.shape == (size, size)
    assert mask.dtype == torch.bool
    for query in range(size):
        for key in range(size):
            if key > query:
                assert not mask[query, key], "causal"
            elif key < text_len:
                assert mask[query, key], "text is seen, by text and by every image token"
            elif query >= text_len:
                yield query, key


def test_the_last_rows_of_the_papers_figure():
    """Figure 11: 6 text tokens, a 4 x 4 grid; the last image token's row of each mask."""
    last = {
        build: "".join("#" if seen else "." for seen in build(6, 4, 4)[-1, 6:])
        for build in (row_mask, column_mask, convolution_mask)
    }
    assert last[row_mask] == "...........#####"
    assert last[column_mask] == "...#...#...#...#"
    assert last[convolution_mask] == "..........###.##"


def test_a_column_then_a_row_reach_every_earlier_image_token():
    row, column = row_mask(2, 5, 3).double(), column_mask(2, 5, 3).double()
    assert torch.equal((row @ column) > 0, torch.ones(17, 17).tril().bool())
    assert not torch.equal((row @ row) > 0, torch.ones(17, 17).tril().bool())


@pytest.mark.parametrize("length", [1, 4, 13])
@pytest.mark.parametrize("build", [row_mask, column_mask, convolution_mask])
def test_attention_equals_dense_attention_under_the_mask(build, length):
    torch.manual_seed(0)
    pattern = build(3, 2, 5)
    make = lambda width: torch.randn(2, 3, length, width, requires_grad=True)  # noqa: E731
    inputs = (make(5), make(5), make(7))
    padding = torch.ones(2, 1, 1, length, dtype=torch.bool)
    padding[0, ..., length // 2] = length == 1
    output, weights = pattern_attention(pattern)(*inputs, padding)
    mask = torch.zeros(2, 1, length, length, dtype=torch.bool)
    for row in range(length):
        for column in range(length):
            mask[:, 0, row, column] = pattern[row, column] & padding[:, 0, 0, column]
    wanted, wanted_weights = scaled_dot_product_attention(*inputs, mask)
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(weights, wanted_weights)
    direction = torch.randn_like(output)
    for ours, theirs in zip(
        torch.autograd.grad((output * direction).sum(), inputs),
        torch.autograd.grad((wanted * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    assert (weights[:, :, ~pattern[:length, :length]] == 0).all()


def test_dropout_drops_weights():
    torch.manual_seed(0)
    attention = pattern_attention(row_mask(3, 2, 5))
    query, value = torch.randn(1, 2, 13, 5), torch.eye(13).expand(1, 2, 13, 13)
    kept, weights = attention(query, query, value, dropout=0.5)
    dropped = (kept == 0) & (weights > 0)
    assert 0.3 < dropped.sum() / (weights > 0).sum() < 0.7


@pytest.mark.parametrize("build", [row_mask, column_mask, convolution_mask])
@pytest.mark.parametrize("grid", [(-1, 3, 5), (2, 0, 5), (2, 3, 0)])
def test_impossible_grids_are_refused(build, grid):
    with pytest.raises(ValueError, match=r"must be 0 or more|must be odd"):
        build(*grid)


@pytest.mark.parametrize("kernel", [0, 2, -1, 7])
def test_impossible_kernels_are_refused(kernel):
    with pytest.raises(ValueError, match=f"kernel={kernel} must be odd"):
        convolution_mask(2, 3, 5, kernel=kernel)


@pytest.mark.parametrize(
    "pattern", [torch.ones(3, 3), torch.ones(3, 5).bool(), torch.ones(3).bool()]
)
def test_patterns_must_be_boolean_and_square(pattern):
    with pytest.raises(ValueError, match="boolean and square"):
        pattern_attention(pattern)


def test_sequences_must_fit_the_pattern():
    attention = pattern_attention(row_mask(1, 2, 2))
    for lengths in ((6, 6), (3, 5)):
        query, key = (torch.randn(1, length, 3) for length in lengths)
        with pytest.raises(ValueError, match=f"query_len={lengths[0]} and key_len={lengths[1]}"):
            attention(query, key, key)


def test_masks_must_be_boolean_and_fit():
    attention, x = pattern_attention(row_mask(1, 2, 2)), torch.randn(2, 5, 3)
    with pytest.raises(ValueError, match="must be boolean"):
        attention(x, x, x, torch.ones(5, 5))
    with pytest.raises(ValueError, match="does not fit"):
        attention(x, x, x, torch.ones(5, 4).bool())
