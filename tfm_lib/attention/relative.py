"""Relative attention: scores that depend on how far apart two tokens are, not on where they stand.

Dai et al. 2019 (Transformer-XL), section 3.3 and appendix B; XLNet uses the same. The queries are
the last query_len of the key_len positions, so query i and key j are key_len - query_len + i - j
apart: more than 0 for a key behind the query, less than 0 for a key ahead of it.

    attention = RelativeMultiHeadAttention(d_model, num_heads)
    context = torch.cat([memory, x], dim=1)  # (batch, key_len, d_model)
    around = relative_encoding(key_len - 1, 1 - query_len, d_model)  # XLNet: any mask
    behind = relative_encoding(key_len - 1, 0, d_model)  # Transformer-XL: a causal mask
    output, weights = attention(x, context, context, mask, positions=behind)
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.functions import check_mask, check_shapes, masked_softmax
from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.positions import sinusoidal_encoding


def relative_encoding(first: int, last: int, d_model: int) -> Tensor:
    """Encode the distances first, first - 1, ..., last by sines and cosines.

    Returns (first - last + 1, d_model); the row of distance d >= 0 is row d of
    `sinusoidal_encoding`, and for -d the sines change sign (Dai et al. 2019, section 3.3: R).
    Raises ValueError unless first >= 0 and first >= last.
    """
    if first < max(last, 0):
        raise ValueError(f"{first=} must be 0 or more, and not below {last=}")
    behind = sinusoidal_encoding(max(first, -last) + 1, d_model)  # distances 0, 1, 2, ...
    ahead = behind.clone()
    ahead[:, 0::2] *= -1  # sin(-x) = -sin(x), cos(-x) = cos(x)
    return torch.cat([behind[max(last, 0) : first + 1].flip(0), ahead[1 : 1 - min(last, 0)]])


def relative_shift(scores: Tensor) -> Tensor:
    """Move row i of query_len rows left by query_len - 1 - i places; zeros come in at the right.

    scores (..., query_len, distances): column c holds the scores for the c-th largest distance,
    the same for each row. Returns the same shape: now column j belongs to key j, whose distance
    grows by one from each row to the next (Dai et al. 2019, appendix B).
    """
    query_len, distances = scores.shape[-2:]
    width = distances + query_len
    flat = F.pad(scores, (0, query_len)).flatten(-2)  # (..., query_len * width)
    # Rows read one number too short begin one place further on, each compared with the last.
    flat = flat[..., query_len - 1 : query_len * width - 1]
    return flat.unflatten(-1, (query_len, width - 1))[..., :distances]


def relative_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    position_key: Tensor,
    content_bias: Tensor,
    position_bias: Tensor,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Attention whose scores are content plus distance (Dai et al. 2019, section 3.3, (a) to (d)).

    score[i, j] = ((query_i + content_bias) . key_j + (query_i + position_bias) . position_key_d)
    / sqrt(d_k), where d = key_len - query_len + i - j is the distance from query to key.
    query (batch, num_heads, query_len, d_k), key (batch, num_heads, key_len, d_k), value
    (batch, num_heads, key_len, d_v); mask boolean, True = may attend; position_key
    (1, num_heads, distances, d_k), from distance key_len - 1 downward: to 1 - query_len, or to 0
    where no query may look ahead; both biases (num_heads, 1, d_k). dropout: as in
    `scaled_dot_product_attention`. Returns output (batch, num_heads, query_len, d_v) and weights
    (batch, num_heads, query_len, key_len). Raises ValueError if shapes, mask or distances do not
    fit.
    """
    check_shapes(query, key, value)
    query_len, key_len = query.size(-2), key.size(-2)
    if mask is not None:
        check_mask(mask, (*query.shape[:-1], key_len))
    check_distances(position_key.size(-2), query_len, key_len, mask)
    content = (query + content_bias) @ key.transpose(-2, -1)  # terms (a) and (c)
    position = (query + position_bias) @ position_key.transpose(-2, -1)  # (b) and (d), unshifted
    scores = content + relative_shift(position)[..., :key_len]  # (..., query_len, key_len)
    weights = masked_softmax(scores / math.sqrt(query.size(-1)), mask)
    kept = F.dropout(weights, dropout) if dropout else weights
    return kept @ value, weights


class RelativeMultiHeadAttention(MultiHeadAttention):
    """Multi-head attention that is told distances (Dai et al. 2019, section 3.3).

    query (batch, query_len, d_model): the last query_len of the key_len positions; key and value
    (batch, key_len, d_model); mask boolean, True = may attend, as in `MultiHeadAttention`;
    positions (distances, d_model): `relative_encoding` from key_len - 1 down to 1 - query_len, or
    to 0 where the mask lets no query look ahead. Returns output (batch, query_len, d_model) and
    weights (batch, num_heads, query_len, key_len). `r_proj` is the paper's W_(k,R), `content_bias`
    its u and `position_bias` its v, (num_heads, 1, d_k) each.
    Raises ValueError as `MultiHeadAttention` does, and if the distances do not fit.
    """

    def __init__(self, d_model: int, num_heads: int, *, dropout: float = 0.0) -> None:
        super().__init__(d_model, num_heads, dropout=dropout, attention=relative_attention)
        self.r_proj = nn.Linear(d_model, d_model, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, d_model // num_heads))
        self.position_bias = nn.Parameter(torch.zeros(num_heads, 1, d_model // num_heads))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        return self.attend(query, *self.project(key, value), mask, positions=positions)

    def attend(
        self,
        query: Tensor,
        key_heads: Tensor,
        value_heads: Tensor,
        mask: Tensor | None = None,
        *,
        positions: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend with projected keys and values: (batch, query_len, d_model) and the weights."""
        heads, weights = self.attention(
            self._split(self.q_proj, query),  # (batch, num_heads, query_len, d_k)
            key_heads,
            value_heads,
            mask,
            position_key=self._split(self.r_proj, positions[None]),  # (1, heads, distances, d_k)
            content_bias=self.content_bias,
            position_bias=self.position_bias,
            dropout=self.dropout if self.training else 0.0,
        )
        return self.out_proj(heads.transpose(1, 2).flatten(2)), weights


def check_distances(distances: int, query_len: int, key_len: int, mask: Tensor | None) -> None:
    """Raise ValueError unless there is a row for each distance that the mask lets a query see."""
    if query_len > key_len:
        raise ValueError(f"{query_len=} must not pass {key_len=}: queries are the last positions")
    if distances not in (key_len, key_len + query_len - 1):
        raise ValueError(
            f"{distances} rows of positions for {query_len=} and {key_len=}: need one for each "
            f"distance from {key_len - 1} down to 0 ({key_len} rows) or to {1 - query_len} "
            f"({key_len + query_len - 1} rows)"
        )
    if distances == key_len and query_len > 1:
        behind = causal_mask(key_len, device=None if mask is None else mask.device)[-query_len:]
        # While torch.compile or a CUDA graph records, no value can be read: a mask is believed.
        recorded = torch.compiler.is_compiling() or (
            mask is not None and mask.is_cuda and torch.cuda.is_current_stream_capturing()
        )
        if mask is None or (not recorded and bool((mask & ~behind).any())):
            raise ValueError(
                f"the mask lets a query look ahead: give rows down to distance {1 - query_len}"
            )
