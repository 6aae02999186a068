"""What models are built of: recurrent layers, the Transformer's blocks and stacks, the cache.

It uses `attention`. Begin with `blocks`: a sub-layer in its residual, a layer, a stack.
"""

from tfm_lib.layers.blocks import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    FeedForward,
    Mask,
    Residual,
)
from tfm_lib.layers.cache import LayerCache
from tfm_lib.layers.checks import check_padding, check_token_ids, check_tokens_left, is_traced
from tfm_lib.layers.recurrent import GRU, LSTM, RNN, Bidirectional

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Bidirectional",
    "Decoder",
    "DecoderLayer",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "LayerCache",
    "Mask",
    "Residual",
    "check_padding",
    "check_token_ids",
    "check_tokens_left",
    "is_traced",
]
