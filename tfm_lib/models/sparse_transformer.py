"""Sparse Transformer (Child et al. 2019): a decoder alone with causal patterns for attention."""

from collections.abc import Sequence
from itertools import cycle, islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.functions import AttentionFunction
from tfm_lib.layers.blocks import Encoder, EncoderLayer
from tfm_lib.layers.checks import check_token_ids


class SparseTransformer(nn.Module):
    """A causal model of sequences that are written in rows of `stride` (sections 5.1 to 5.3).

    forward(token_ids) -> logits: ids (batch, length), length at most max_len; logits
    (batch, length, vocab_size), of which [:, i] predicts the token after token_ids[:, i].
    attentions: causal attention functions; layer number r takes number r mod their count, so two
    of them interleave. The model hands them no mask. d_ff is 4 * d_model.
    A position is the sum of two learned vectors, one for its row and one for its column. What
    writes into the residual stream starts smaller by sqrt(2 * num_layers), with biases of zero.
    Raises ValueError if there is no attention function or d_model is not divisible by num_heads
    and, on a call, for more than max_len tokens and ids outside the vocabulary.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        max_len: int,
        stride: int,
        attentions: Sequence[AttentionFunction],
        d_model: int = 48,
        num_heads: int = 4,
        num_layers: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not attentions:
            raise ValueError("attentions must hold 1 attention function or more, got 0")
        self.max_len, self.stride = max_len, stride
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.rows = nn.Embedding(-(-max_len // stride), d_model)
        self.columns = nn.Embedding(stride, d_model)
        for embedding in (self.tokens, self.rows, self.columns):
            nn.init.normal_(embedding.weight, std=d_model**-0.5)
        layers = [
            EncoderLayer(
                d_model,
                num_heads,
                4 * d_model,
                dropout=dropout,
                norm_first=True,
                activation=F.gelu,
                attention=attention,
            )
            for attention in islice(cycle(attentions), num_layers)
        ]
        self.stack = Encoder(layers, nn.LayerNorm(d_model))
        self.generator = nn.Linear(d_model, vocab_size)
        with torch.no_grad():
            for layer in layers:
                for last in (layer.self_attention.out_proj, layer.feed_forward.contract):
                    last.weight *= (2 * num_layers) ** -0.5
                    last.bias.zero_()

    def forward(self, token_ids: Tensor) -> Tensor:
        check_token_ids(token_ids, self.tokens.num_embeddings)
        length = token_ids.size(1)
        if length > self.max_len:
            raise ValueError(f"{length} tokens are more than max_len={self.max_len}")
        position = torch.arange(length, device=token_ids.device)
        places = self.rows(position // self.stride) + self.columns(position % self.stride)
        return self.generator(self.stack(self.tokens(token_ids) + places))
