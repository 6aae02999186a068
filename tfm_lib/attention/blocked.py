"""Attention in blocks: exact attention over any length in linear memory, and over a window alone.

Two makers of attention functions, (query, key, value, mask=None) -> (output, None): the table of
weights (query_len, key_len) is never formed, so it cannot be returned. Neither takes dropout.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tfm_lib.attention.functions import (
    AttentionFunction,
    check_mask,
    check_shapes,
    scaled_dot_product_attention,
)


def chunked_attention(chunk_len: int) -> AttentionFunction:
    """Make an exact attention function whose memory grows with the length, not with its square.

    The function gives what `scaled_dot_product_attention` gives, for any mask, with weights None.
    It works on chunk_len queries and chunk_len keys at a time and keeps a running maximum and a
    running sum (Milakov and Gimelshein 2018, section 3). Nothing but query, key, value, mask and
    output is kept for the backward pass, which computes each chunk of queries again (Rabe and
    Staats 2021, sections 2 to 4). Raises ValueError if chunk_len < 1.
    """
    if chunk_len < 1:
        raise ValueError(f"chunk_len={chunk_len} must be 1 or more")

    def attend(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        check_shapes(query, key, value)
        if mask is not None:
            check_mask(mask, (*query.shape[:-1], key.size(-2)))
        masks = _split_mask(mask, -2, query.size(-2), chunk_len)
        outputs = [
            checkpoint(
                _attend_by_chunks,
                *(part, key, value, mask_part, chunk_len),
                use_reentrant=False,
                preserve_rng_state=False,
            )
            for part, mask_part in zip(query.split(chunk_len, dim=-2), masks, strict=True)
        ]
        return torch.cat(outputs, dim=-2), None

    return attend


def _attend_by_chunks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, chunk_len: int
) -> Tensor:
    """Attention of a few queries (..., rows, d_k) to all keys, chunk_len keys at a time."""
    wide = torch.promote_types(query.dtype, torch.float32)  # in half precision the sums would stall
    query = query.to(wide) / math.sqrt(query.size(-1))
    lowest = torch.finfo(wide).min
    highest = query.new_full((*query.shape[:-1], 1), lowest)  # (..., rows, 1): the largest so far
    total = torch.zeros_like(highest)  # sum of exp(score - highest)
    output = query.new_zeros(*query.shape[:-1], value.size(-1))  # the same sum, times the values
    # split, not slices: the backward pass of a slice would fill all of key_len for each chunk.
    keys, values = key.split(chunk_len, dim=-2), value.split(chunk_len, dim=-2)
    masks = _split_mask(mask, -1, key.size(-2), chunk_len)
    for key_part, value_part, allowed in zip(keys, values, masks, strict=True):
        scores = query @ key_part.to(wide).transpose(-2, -1)  # (..., rows, chunk)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, lowest)
        # The maximum only guards against overflow: it cancels, and so needs no gradient.
        higher = torch.maximum(highest, scores.detach().amax(dim=-1, keepdim=True))
        weights = (scores - higher).exp()
        if allowed is not None:
            weights = weights.masked_fill(~allowed, 0.0)
        shrink = (highest - higher).exp()  # (..., rows, 1): what was summed, in the new measure
        total = shrink * total + weights.sum(dim=-1, keepdim=True)
        output = shrink * output + weights @ value_part.to(wide)
        highest = higher
    output = output / total.masked_fill(total == 0, 1.0)  # 0: the row may attend to nothing
    return output.to(value.dtype)


def _split_mask(
    mask: Tensor | None, dim: int, length: int, chunk_len: int
) -> tuple[Tensor | None, ...]:
    """The mask of each chunk along dim; a mask that is 1 long there serves every chunk."""
    if mask is None or mask.size(dim) == 1:
        return (mask,) * math.ceil(length / chunk_len)
    return mask.split(chunk_len, dim=dim)


def windowed_attention(window: int) -> AttentionFunction:
    """Make self-attention that reaches `window` positions to each side, in time O(length * window).

    The function gives what `scaled_dot_product_attention` gives under `window_mask(length, window)
    & mask`, with weights None, for any length. mask: None or one that is the same for every query,
    (1, length) or (..., 1, length), as `padding_mask` makes it. This is the restricted attention of
    Vaswani et al. 2017, section 4. Raises ValueError if window < 0 and, on a call, if query and key
    differ in length or the mask has a row for each query.
    """
    if window < 0:
        raise ValueError(f"window={window} must be 0 or more")

    def attend(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        check_shapes(query, key, value)
        length = query.size(-2)
        if key.size(-2) != length:
            raise ValueError(
                f"a window needs self-attention: query_len={length} must equal key_len="
                f"{key.size(-2)}"
            )
        seen = (
            torch.ones(1, length, dtype=torch.bool, device=query.device) if mask is None else mask
        )
        check_mask(seen, (*query.shape[:-1], length))
        if seen.size(-2) != 1:
            raise ValueError(
                f"mask of shape {tuple(seen.shape)} has a row for each query; the window takes "
                f"masks of one row, (1, {length}) or (batch, 1, 1, {length})"
            )
        # A block is as long as the window, so a query sees its own block and the two next to it.
        size = max(1, min(window, length))
        queries = split_blocks(query, size)  # (..., blocks, size, d_k)
        keys, values = _neighbourhoods(key, size), _neighbourhoods(value, size)
        seen = seen.expand(*seen.shape[:-1], length)[(None,) * (query.dim() - seen.dim())]
        exists = _neighbourhoods(seen.transpose(-2, -1), size)  # (..., blocks, 3 * size, 1)
        position = torch.arange(3 * size, device=query.device)
        near = (position[size : 2 * size, None] - position).abs() <= window  # (size, 3 * size)
        output, _ = scaled_dot_product_attention(
            queries, keys, values, near & exists.transpose(-2, -1)
        )
        return output.flatten(-3, -2)[..., :length, :], None

    return attend


def split_blocks(x: Tensor, size: int) -> Tensor:
    """Cut (..., length, width) into (..., blocks, size, width); zeros fill the last block."""
    return F.pad(x, (0, 0, 0, -x.size(-2) % size)).unflatten(-2, (-1, size))


def _neighbourhoods(x: Tensor, size: int) -> Tensor:
    """Each block with the one before it and the one after it: (..., blocks, 3 * size, width)."""
    blocks = F.pad(split_blocks(x, size), (0, 0, 0, 0, 1, 1))  # zeros (False) at both ends
    before, own, after = blocks[..., :-2, :, :], blocks[..., 1:-1, :, :], blocks[..., 2:, :, :]
    return torch.cat([before, own, after], dim=-2)
