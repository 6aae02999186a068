"""DALL-E's attention patterns over one stream of text tokens and then an image, row by row.

A stream holds text_len text tokens and height * width image tokens in raster order. Every pattern
is causal; text sees all earlier text, and every image token sees the whole text. The patterns
differ in which earlier image tokens an image token sees (Ramesh et al. 2021, appendix B.1,
figure 11); distances count in raster order and wrap around the grid's edges, as in the paper.

    row           itself and the `width` tokens before it, the last of them straight above it
    column        itself and every token of its column above it
    convolution   what a kernel centred on it covers, as far as it has been drawn

`pattern_attention` makes an attention function of a pattern. It computes dense attention under a
mask: it shows what a pattern can do, and saves nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tfm_lib.attention.functions import AttentionFunction, check_mask, scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask


def row_mask(text_len: int, height: int, width: int) -> Tensor:
    """Let an image token see itself and the `width` image tokens before it.

    Returns a boolean (size, size), True = may attend, size = text_len + height * width.
    Raises ValueError if text_len < 0, height < 1 or width < 1.
    """
    return _image_mask(text_len, height, width, lambda distance: distance <= width)


def column_mask(text_len: int, height: int, width: int) -> Tensor:
    """Let an image token see itself and the image tokens above it; as `row_mask` otherwise."""
    return _image_mask(text_len, height, width, lambda distance: distance % width == 0)


def convolution_mask(text_len: int, height: int, width: int, kernel: int = 3) -> Tensor:
    """Let an image token see what a kernel x kernel square around it covers and is drawn already.

    DALL-E's kernel is 11 on its 32 x 32 grid. As `row_mask` otherwise; ValueError also for a kernel
    that is even, below 1, or wider than the grid.
    """
    if kernel % 2 == 0 or not 1 <= kernel <= width:
        raise ValueError(f"kernel={kernel} must be odd, at least 1 and at most width={width}")
    reach = kernel // 2
    steps = range(-reach, reach + 1)
    covered = torch.tensor([up * width + left for up in range(reach + 1) for left in steps])
    return _image_mask(text_len, height, width, lambda distance: torch.isin(distance, covered))


def pattern_attention(pattern: Tensor) -> AttentionFunction:
    """Make an attention function that never leaves a pattern, whatever else its mask allows.

    pattern: boolean (size, size), True = may attend. The function takes self-attention over the
    first `length` <= size positions, so that a stream may still be growing. It computes
    scaled_dot_product_attention under `pattern & mask`, at dense attention's cost.
    Raises ValueError for a pattern that is not boolean and square, and, on a call, for sequences
    longer than it or queries and keys of different lengths.
    """
    if pattern.dtype != torch.bool or pattern.dim() != 2 or len(pattern) != pattern.size(1):
        raise ValueError(
            f"pattern must be boolean and square, got {pattern.dtype} {tuple(pattern.shape)}"
        )

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        length = query.size(-2)
        if key.size(-2) != length or length > len(pattern):
            raise ValueError(
                f"query_len={length} and key_len={key.size(-2)} must be equal and at most the "
                f"pattern's size={len(pattern)}"
            )
        seen = pattern[:length, :length].to(query.device)
        if mask is not None:
            check_mask(mask, (*query.shape[:-1], length))
            seen = seen & mask
        return scaled_dot_product_attention(query, key, value, seen, dropout=dropout)

    return attention


def _image_mask(text_len: int, height: int, width: int, sees: Callable[[Tensor], Tensor]) -> Tensor:
    """Causal attention, from image to image only where sees(distance in raster order)."""
    if text_len < 0 or height < 1 or width < 1:
        raise ValueError(f"{text_len=} must be 0 or more, {height=} and {width=} 1 or more")
    position = torch.arange(text_len + height * width)
    distance = position[:, None] - position[None, :]  # (size, size), how far back the key lies
    to_text = position[None, :] < text_len  # (1, size)
    return causal_mask(len(position)) & (to_text | sees(distance))
