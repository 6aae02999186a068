"""The seam that carries all of attention, the functions and heads that fit it, masks, positions.

It uses nothing else of the library. Begin with `functions`, where the seam is described.
"""

from tfm_lib.attention.blocked import chunked_attention, split_blocks, windowed_attention
from tfm_lib.attention.functions import (
    AdditiveScore,
    Attention,
    AttentionFunction,
    check_mask,
    check_shapes,
    dot_score,
    fused_attention,
    hard_attention,
    masked_softmax,
    scaled_dot_product_attention,
)
from tfm_lib.attention.image import column_mask, convolution_mask, pattern_attention, row_mask
from tfm_lib.attention.masks import causal_mask, padding_mask, window_mask
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.positions import LearnedPositions, SinusoidalPositions, sinusoidal_encoding
from tfm_lib.attention.recording import record_attention, recordable
from tfm_lib.attention.relative import (
    RelativeMultiHeadAttention,
    check_distances,
    relative_attention,
    relative_encoding,
    relative_shift,
)
from tfm_lib.attention.sparse import (
    fixed_attention,
    fixed_sets,
    fused_causal_attention,
    recomputed,
    set_mask,
    split_heads,
    strided_attention,
    strided_sets,
)

__all__ = [
    "AdditiveScore",
    "Attention",
    "AttentionFunction",
    "LearnedPositions",
    "MultiHeadAttention",
    "RelativeMultiHeadAttention",
    "SinusoidalPositions",
    "causal_mask",
    "check_distances",
    "check_mask",
    "check_shapes",
    "chunked_attention",
    "column_mask",
    "convolution_mask",
    "dot_score",
    "fixed_attention",
    "fixed_sets",
    "fused_attention",
    "fused_causal_attention",
    "hard_attention",
    "masked_softmax",
    "padding_mask",
    "pattern_attention",
    "recomputed",
    "record_attention",
    "recordable",
    "relative_attention",
    "relative_encoding",
    "relative_shift",
    "row_mask",
    "scaled_dot_product_attention",
    "set_mask",
    "sinusoidal_encoding",
    "split_blocks",
    "split_heads",
    "strided_attention",
    "strided_sets",
    "window_mask",
    "windowed_attention",
]
