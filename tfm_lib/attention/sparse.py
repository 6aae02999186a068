"""Sparse attention (Child et al. 2019): each position attends to about sqrt(n) others, not to n.

A *connectivity set* A_i holds the positions that position i may attend to, all of them j <= i. The
paper gives two patterns of two sets each, for a stride l of about sqrt(n) (section 4.3):

    strided   A1 the last l positions and i itself;  A2 the positions a multiple of l before i
    fixed     A1 i's own block of l positions;       A2 the last c positions of each block

The makers below return causal attention functions, (query, key, value, mask=None) -> (output,
None), whose time and memory are O(n * (l + n / l)), for fixed O(n * (l + c n / l)): the table of
weights is never formed. They need self-attention, take no dropout, and give what
`scaled_dot_product_attention` gives under the pattern's mask `& mask`, for any n. A mask with a row
for each query costs what it holds, n * n.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tfm_lib.attention.blocked import split_blocks
from tfm_lib.attention.functions import AttentionFunction, check_mask, check_shapes, fused_attention
from tfm_lib.attention.masks import causal_mask

# (query positions i, key positions j) -> boolean, whether j is in A_i; i and j broadcast.
Membership = Callable[[Tensor, Tensor], Tensor]
# Blocks (..., blocks, l, width) -> the keys worth scoring, (..., blocks or 1, l or 1, keys, width).
View = Callable[[Tensor], Tensor]


def strided_sets(stride: int) -> tuple[Membership, Membership]:
    """A1 and A2 of the strided pattern (Child et al. 2019, section 4.3, l = stride).

    Each takes positions i and j that broadcast and tells whether j is in A_i: A1 where
    0 <= i - j <= stride, A2 where i - j is 0, stride, 2 * stride, ... ValueError if stride < 1.
    """
    _require_stride(stride)
    return (
        lambda i, j: (j <= i) & (i - j <= stride),
        lambda i, j: (j <= i) & ((i - j) % stride == 0),
    )


def fixed_sets(stride: int, c: int) -> tuple[Membership, Membership]:
    """A1 and A2 of the fixed pattern (Child et al. 2019, section 4.3, l = stride).

    Each takes positions i and j that broadcast and tells whether j is in A_i, j <= i: A1 where both
    lie in one block of `stride` positions, A2 where j is among the last c positions of any block.
    ValueError unless 1 <= c <= stride.
    """
    _require_stride(stride)
    if not 1 <= c <= stride:
        raise ValueError(f"c={c} must be at least 1 and at most stride={stride}")
    return (
        lambda i, j: (j <= i) & (i // stride == j // stride),
        lambda i, j: (j <= i) & (j % stride >= stride - c),
    )


def set_mask(size: int, *members: Membership) -> Tensor:
    """Who may attend to whom under the union of some sets: boolean (size, size), True = may attend.

    Raises ValueError if size < 1 or without a set.
    """
    if size < 1 or not members:
        raise ValueError(f"size={size} and the number of sets, {len(members)}, must be 1 or more")
    position = torch.arange(size)
    allowed = [member(position[:, None], position[None, :]) for member in members]
    return torch.stack(allowed).any(dim=0)


def fused_causal_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """Dense causal attention by PyTorch's kernel; without a mask it skips the upper triangle.

    Equals `scaled_dot_product_attention` under ``causal_mask(n) & mask``; the weights are None, as
    they are never formed (section 5.5). Raises ValueError unless query and key are equally long.
    """
    _require_self_attention(query, key, value)
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True), None
    check_mask(mask, (*query.shape[:-1], key.size(-2)))
    return fused_attention(query, key, value, causal_mask(key.size(-2), device=key.device) & mask)


def recent_attention(stride: int) -> AttentionFunction:
    """Attend to the strided pattern's A1: the last `stride` positions and oneself."""
    recent, _ = strided_sets(stride)
    return _attention_by_blocks(stride, [(recent, _own_and_previous)])


def column_attention(stride: int) -> AttentionFunction:
    """Attend to the strided pattern's A2: a column, if the sequence is written in rows of stride.

    Where stride is the width of an image, this is the column above a pixel.
    """
    _, column = strided_sets(stride)
    return _attention_by_blocks(stride, [(column, _same_place)])


def block_attention(stride: int) -> AttentionFunction:
    """Attend to the fixed pattern's A1: one's own block of `stride` positions, up to oneself."""
    block, _ = fixed_sets(stride, 1)
    return _attention_by_blocks(stride, [(block, _own)])


def summary_attention(stride: int, c: int) -> AttentionFunction:
    """Attend to the fixed pattern's A2: the last c positions of each block so far.

    The first stride - c queries may attend to nothing and get zeros.
    """
    _, summary = fixed_sets(stride, c)
    return _attention_by_blocks(stride, [(summary, _last_of_each(c))])


def strided_attention(stride: int) -> AttentionFunction:
    """Attend to both sets of the strided pattern in one softmax ("merged", section 5.1).

    Equals dense attention under ``set_mask(n, *strided_sets(stride))``. ValueError if stride < 1
    and, on a call, if the shapes do not fit or query and key differ in length.
    """
    recent, column = strided_sets(stride)
    return _attention_by_blocks(stride, [(recent, _own_and_previous), (column, _same_place)])


def fixed_attention(stride: int, c: int) -> AttentionFunction:
    """Attend to both sets of the fixed pattern in one softmax ("merged", section 5.1).

    Equals dense attention under ``set_mask(n, *fixed_sets(stride, c))``. ValueError unless
    1 <= c <= stride and, on a call, if the shapes do not fit or query and key differ in length.
    """
    block, summary = fixed_sets(stride, c)
    return _attention_by_blocks(stride, [(block, _own), (summary, _last_of_each(c))])


def split_heads(*attentions: AttentionFunction) -> AttentionFunction:
    """Give each attention function an equal share of the heads, in order (section 5.1, "multi").

    The heads are dimension -3 of query, key and value. The weights of the whole are None.
    ValueError on a call if the number of heads is not a multiple of that of the functions.
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        check_shapes(query, key, value)
        count = len(attentions)
        heads = query.size(-3) if query.dim() > 2 else 0
        if count == 0 or heads == 0 or heads % count != 0:
            raise ValueError(f"{heads} heads cannot be shared among {count} attention functions")
        each = [part.chunk(count, dim=-3) for part in (query, key, value)]
        if mask is not None:
            check_mask(mask, (*query.shape[:-1], key.size(-2)))
        masks: Sequence[Tensor | None] = [mask] * count
        if mask is not None and mask.dim() > 2 and mask.size(-3) > 1:
            masks = mask.chunk(count, dim=-3)
        outputs = [
            attention(*parts)[0] for attention, *parts in zip(attentions, *each, masks, strict=True)
        ]
        return torch.cat(outputs, dim=-3), None

    return attend


def recomputed(attention: AttentionFunction) -> AttentionFunction:
    """Keep nothing of an attention function but its inputs; work it out again for the gradients.

    The weights of the result are None: whoever held them would keep them in memory. The function
    must give the same result twice, so it takes no dropout (section 5.4; Chen et al. 2016).
    """

    def attend(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        output = checkpoint(
            lambda *inputs: attention(*inputs)[0],
            *(query, key, value, mask),
            use_reentrant=False,
            preserve_rng_state=False,
        )
        return output, None

    return attend


def _attention_by_blocks(stride: int, parts: list[tuple[Membership, View]]) -> AttentionFunction:
    """Make an attention function over the union of sets, each with a view that covers its keys."""

    def attend(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, None]:
        _require_self_attention(query, key, value)
        length = query.size(-2)
        size = min(stride, length)  # of a block: one that the text does not fill costs no more
        if mask is not None:
            check_mask(mask, (*query.shape[:-1], length))
            mask = mask.expand(*mask.shape[:-2], length, length)
        queries = split_blocks(query, size) / math.sqrt(query.size(-1))  # (..., blocks, l, d_k)
        keys = split_blocks(key, size)
        # A last column of ones: where the values are summed by weight, it sums the weights.
        values = split_blocks(F.pad(value, (0, 1), value=1.0), size)  # (..., blocks, l, d_v + 1)
        # Zeros fill the last block and what lies before the first; as positions, they count from 1.
        places = split_blocks(torch.arange(1, length + 1, device=query.device)[:, None], size)
        i = torch.arange(places.size(0) * size, device=query.device).view_as(places)
        scores = []
        for number, (member, view) in enumerate(parts):
            j = view(places).squeeze(-1) - 1  # (blocks or 1, l or 1, keys): where the keys stand
            new = member(i, j) & (j >= 0)
            for earlier, _ in parts[:number]:
                new = new & ~earlier(i, j)  # a position that stands in both sets counts once
            if mask is not None:
                new = new & mask[..., i.clamp(max=length - 1), j.clamp(min=0)]
            # To add minus infinity is cheaper than to fill it in: its gradient is free.
            hide = torch.zeros(new.shape, dtype=query.dtype, device=query.device)
            hide = hide.masked_fill_(~new, -math.inf)[(None,) * (queries.dim() - new.dim())]
            # The dimensions that are 1 long in a view are the ones whose queries share its keys.
            scores.append(torch.einsum("...bid,...bikd->...bik", queries, view(keys)) + hide)
        # One softmax over all parts; its maximum guards against overflow and needs no gradient.
        highest = torch.cat([part.detach().amax(dim=-1, keepdim=True) for part in scores], dim=-1)
        lowest = torch.finfo(query.dtype).min  # of a row that may attend to nothing
        highest = highest.amax(dim=-1, keepdim=True).clamp(min=lowest)  # (..., blocks, l, 1)
        # In place, because these tables are what is large.
        weighted = (
            torch.einsum("...bik,...bikd->...bid", part.sub_(highest).exp_(), view(values))
            for part, (_, view) in zip(scores, parts, strict=True)
        )
        output = sum(weighted, torch.zeros_like(values))
        total = output[..., -1:].masked_fill(output[..., -1:] == 0, 1.0)
        output = output[..., :-1] / total
        return output.flatten(-3, -2)[..., :length, :], None

    return attend


def _own(blocks: Tensor) -> Tensor:
    """A block's own l keys for each of its queries: (..., blocks, 1, l, width)."""
    return blocks.unsqueeze(-3)


def _own_and_previous(blocks: Tensor) -> Tensor:
    """The keys of a block and of the one before it: (..., blocks, 1, 2 * l, width)."""
    previous = F.pad(blocks, (0, 0, 0, 0, 1, -1))
    return torch.cat([previous, blocks], dim=-2).unsqueeze(-3)


def _same_place(blocks: Tensor) -> Tensor:
    """The keys that stand where the query stands, in every block: (..., 1, l, blocks, width)."""
    return blocks.transpose(-3, -2).unsqueeze(-4)


def _last_of_each(c: int) -> View:
    """The last c keys of every block, for every query: (..., 1, 1, blocks * c, width)."""
    return lambda blocks: blocks[..., -c:, :].flatten(-3, -2)[..., None, None, :, :]


def _require_self_attention(query: Tensor, key: Tensor, value: Tensor) -> None:
    check_shapes(query, key, value)
    if query.size(-2) != key.size(-2):
        raise ValueError(
            f"a causal pattern needs self-attention: query_len={query.size(-2)} must equal "
            f"key_len={key.size(-2)}"
        )


def _require_stride(stride: int) -> None:
    if stride < 1:
        raise ValueError(f"stride={stride} must be 1 or more")
