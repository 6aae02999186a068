"""Attention: score every key against every query, turn scores into weights, average the values.

One signature carries all of it. An *attention function* is

    (query, key, value, mask=None) -> (output, weights)

    query    (..., query_len, d_k)        what each position looks for
    key      (..., key_len, d_k)          what each position offers for comparison
    value    (..., key_len, d_v)          what each position hands over
    mask     boolean, True = may attend; (query_len, key_len) or as many dimensions as the scores
    output   (..., query_len, d_v)
    weights  (..., query_len, key_len), each row a distribution; None where they are never formed

A query that may attend to nothing gets zeros, with finite gradients.

Who divides the scores by sqrt(d_k): `scaled_dot_product_attention` here, `relative`, `blocked` and
`sparse`, each where it makes its scores; PyTorch's kernel, in `fused_attention` and
`fused_causal_attention`; `image` and the window call one of these. `dot_score` does not.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AttentionFunction = Callable[..., tuple[Tensor, Tensor | None]]


def masked_softmax(scores: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over the last dimension among the positions that the mask allows.

    scores: (..., query_len, key_len). mask: boolean, True = may attend, (query_len, key_len) or as
    many dimensions as scores, each equal or 1. Returns weights of the shape of scores; a masked
    position has weight exactly 0, and a row that may attend to nothing is all zeros.
    Raises ValueError for a mask of another dtype or shape.
    """
    if mask is None:
        return scores.softmax(dim=-1)
    check_mask(mask, scores.shape)
    # The lowest finite number stands for minus infinity: exp() of it is 0 all the same, but a row
    # of nothing else gives 1/key_len (zeroed below) and not 0/0 = NaN.
    lowest = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(~mask, lowest).softmax(dim=-1)
    return weights.masked_fill(~mask, 0.0)


def dot_score(query: Tensor, key: Tensor) -> Tensor:
    """Score by dot product (Luong et al. 2015, section 3.1, "dot").

    query (..., query_len, d_k), key (..., key_len, d_k) -> scores (..., query_len, key_len).
    """
    return query @ key.transpose(-2, -1)


class AdditiveScore(nn.Module):
    """Score by a small network, v . tanh(W_q q + W_k k) (Bahdanau et al. 2015, appendix A.1.2).

    query (..., query_len, query_size), key (..., key_len, key_size) -> (..., query_len, key_len).
    """

    def __init__(self, query_size: int, key_size: int, hidden_size: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(query_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(key_size, hidden_size, bias=False)
        self.v = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        # (..., query_len, 1, hidden) + (..., 1, key_len, hidden): every query meets every key
        hidden = torch.tanh(self.q_proj(query).unsqueeze(-2) + self.k_proj(key).unsqueeze(-3))
        return self.v(hidden).squeeze(-1)


class Attention(nn.Module):
    """Soft attention over any score: an attention function that can hold parameters.

    score: (query, key) -> scores (..., query_len, key_len), for example `dot_score` or an
    `AdditiveScore`. Called as an attention function (see the module's docstring).
    """

    def __init__(self, score: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.score = score

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        weights = masked_softmax(self.score(query, key), mask)  # (..., query_len, key_len)
        return weights @ value, weights


def hard_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Hand over the one value whose key scores highest (first one on a tie).

    The weights are one-hot, so no gradient reaches query or key. Xu et al. 2015 (section 4.1)
    sample from the softmax instead and train by reinforcement; this is the greedy form.
    """
    scores = dot_score(query, key)  # (..., query_len, key_len)
    if mask is not None:
        check_mask(mask, scores.shape)
        scores = scores.masked_fill(~mask, -math.inf)
    # Of the scores, not of their softmax, whose rounding makes ties.
    one_hot = F.one_hot(scores.argmax(dim=-1), key.size(-2)).to(value.dtype)
    if mask is not None:
        one_hot = one_hot.masked_fill(~mask, 0.0)  # a row that may attend to nothing gets zeros
    return one_hot @ value, one_hot


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """softmax(query key^T / sqrt(d_k)) value (Vaswani et al. 2017, section 3.2.1).

    query (..., query_len, d_k), key (..., key_len, d_k), value (..., key_len, d_v); mask boolean,
    True = may attend. dropout: the share of weights set to zero before the average; the weights
    returned are those before dropout. Returns output (..., query_len, d_v) and weights
    (..., query_len, key_len). Raises ValueError if the shapes or the mask do not fit.
    """
    check_shapes(query, key, value)
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.size(-1))  # (..., query_len, key_len)
    weights = masked_softmax(scores, mask)
    kept = F.dropout(weights, dropout) if dropout else weights
    return kept @ value, weights


def fused_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """The same result from PyTorch's kernel, which never forms the weights: they are None.

    Arguments, output and errors are those of `scaled_dot_product_attention`. PyTorch's own function
    of that name reads a boolean mask as this course does: True = may attend.
    """
    check_shapes(query, key, value)
    if mask is not None:
        check_mask(mask, (*query.shape[:-1], key.size(-2)))
    output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    return output, None


def check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise ValueError unless query (..., q, d_k), key (..., k, d_k), value (..., k, d_v) fit."""
    same_batch = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    fits = query.size(-1) == key.size(-1) and key.size(-2) == value.size(-2)
    if not (same_batch and fits):
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and value {tuple(value.shape)} "
            "must share their leading dimensions, query and key their last one (d_k), key and "
            "value their length"
        )
    if query.numel() == 0 or key.numel() == 0:
        raise ValueError(f"nothing to attend: query {tuple(query.shape)}, key {tuple(key.shape)}")


def check_mask(mask: Tensor, scores_shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the mask is boolean and broadcasts to scores without guessing."""
    if mask.dtype != torch.bool:
        raise ValueError(f"mask must be boolean (True = may attend), got {mask.dtype}")
    shape = tuple(scores_shape)
    # Three dimensions against four would line up the batch with the heads: refuse to guess.
    if mask.dim() not in (2, len(shape)) or any(
        size not in (1, wanted) for size, wanted in zip(mask.shape[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not fit scores of shape {shape}: it needs 2 "
            f"or {len(shape)} dimensions, each equal to the scores' or 1"
        )
