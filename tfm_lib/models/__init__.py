"""Whole models, one module each: sizes, forward, a step for decoding; `hugging_face` loads weights.

They use `attention`, `layers`, `decoding` and `training`, never each other.
Begin with `gpt`, whose form a new model copies (see CONTRIBUTING.md).
"""

from tfm_lib.models.bert import Bert, BertForPreTraining, mask_tokens, pretraining_loss
from tfm_lib.models.dalle import DALLE, DiscreteAutoencoder, ImageStep, dalle_loss
from tfm_lib.models.gpt import (
    GPT,
    CachedContinuation,
    check_prompt,
    next_token_loss,
    token_losses,
)
from tfm_lib.models.hugging_face import (
    BERT,
    BERT_FOR_PRE_TRAINING,
    GPT_2,
    XLNET,
    Conversion,
    from_hugging_face,
)
from tfm_lib.models.seq2seq import (
    AttentionDecoder,
    Encoded,
    RecurrentDecoder,
    RecurrentEncoder,
    RecurrentStep,
    Seq2Seq,
)
from tfm_lib.models.sparse_transformer import SparseTransformer
from tfm_lib.models.transformer import CachedStep, InputEmbedding, RecomputedStep, Transformer
from tfm_lib.models.transformer_xl import TransformerXL, cut_segments, stream_losses
from tfm_lib.models.xlnet import XLNet, permutation_masks

__all__ = [
    "BERT",
    "BERT_FOR_PRE_TRAINING",
    "DALLE",
    "GPT",
    "GPT_2",
    "XLNET",
    "AttentionDecoder",
    "Bert",
    "BertForPreTraining",
    "CachedContinuation",
    "CachedStep",
    "Conversion",
    "DiscreteAutoencoder",
    "Encoded",
    "ImageStep",
    "InputEmbedding",
    "RecomputedStep",
    "RecurrentDecoder",
    "RecurrentEncoder",
    "RecurrentStep",
    "Seq2Seq",
    "SparseTransformer",
    "Transformer",
    "TransformerXL",
    "XLNet",
    "check_prompt",
    "cut_segments",
    "dalle_loss",
    "from_hugging_face",
    "mask_tokens",
    "next_token_loss",
    "permutation_masks",
    "pretraining_loss",
    "stream_losses",
    "token_losses",
]
