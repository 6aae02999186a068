"""The Transformer (Vaswani et al. 2017), and its steps for decoding.

Transformer
  InputEmbedding     token ids -> vectors, scaled, plus positions
  Encoder            the source, once
  Decoder            the target so far, looking at the source
  generator          vectors -> logits over the target vocabulary
RecomputedStep       reads the whole target at every step
CachedStep           reads the newest token alone, against cached keys and values
"""

import math
from copy import deepcopy
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from tfm_lib.attention.functions import AttentionFunction, scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask, padding_mask
from tfm_lib.attention.positions import SinusoidalPositions
from tfm_lib.decoding import require_eval
from tfm_lib.layers.blocks import Decoder, DecoderLayer, Encoder, EncoderLayer, Mask
from tfm_lib.layers.cache import LayerCache
from tfm_lib.layers.checks import check_padding, check_token_ids


class InputEmbedding(nn.Module):
    """Token ids (batch, length) -> vectors (batch, length, d_model) (sections 3.4, 3.5 and 5.4).

    Looks each token up, multiplies by sqrt(d_model), adds positions, drops out. Weights start with
    standard deviation d_model**-0.5: after the scaling they are as large as the encodings, not
    larger. forward(token_ids, start=0): `start` is the position of the first token.
    Raises ValueError for an empty batch and for ids outside the vocabulary.
    """

    def __init__(self, vocab_size: int, d_model: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = SinusoidalPositions(d_model)
        self.dropout = nn.Dropout(dropout)
        self.scale = math.sqrt(d_model)
        nn.init.normal_(self.tokens.weight, std=d_model**-0.5)

    def forward(self, token_ids: Tensor, start: int = 0) -> Tensor:
        check_token_ids(token_ids, self.tokens.num_embeddings)
        return self.dropout(self.positions(self.tokens(token_ids) * self.scale, start))


class Transformer(nn.Module):
    """The encoder-decoder Transformer (Vaswani et al. 2017, figure 1); defaults: its base model.

    forward(src_ids, tgt_ids) -> logits: ids (batch, src_len) and (batch, tgt_len), logits
    (batch, tgt_len, tgt_vocab_size); logits[:, i] predicts the token after tgt_ids[:, i].
    tie_weights: "none"; "target" makes the target embedding and the generator one matrix; "all"
    adds the source embedding, as the paper does (section 3.4), and needs one shared vocabulary.
    norm_first: pre-norm, with a last normalisation of each stack; False is the paper's post-norm.
    pad_id: the id that no query may attend to; attention: every layer's attention function.
    Raises ValueError if d_model is not divisible by num_heads, if "all" meets two vocabulary sizes,
    and, on a call, for ids outside the vocabulary or batches that do not fit.
    """

    def __init__(
        self,
        src_vocab_size: int,
        tgt_vocab_size: int,
        *,
        d_model: int = 512,
        num_heads: int = 8,
        num_layers: int = 6,
        d_ff: int = 2048,
        dropout: float = 0.1,
        norm_first: bool = False,
        tie_weights: str = "target",
        pad_id: int = 0,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        sizes = (d_model, num_heads, d_ff)
        options: dict[str, Any] = {
            "dropout": dropout,
            "norm_first": norm_first,
            "attention": attention,
        }
        norms = [nn.LayerNorm(d_model) if norm_first else nn.Identity() for _ in range(2)]
        layers = range(num_layers)
        self.pad_id = pad_id
        self.src_embedding = InputEmbedding(src_vocab_size, d_model, dropout=dropout)
        self.tgt_embedding = InputEmbedding(tgt_vocab_size, d_model, dropout=dropout)
        self.encoder = Encoder((EncoderLayer(*sizes, **options) for _ in layers), norms[0])
        self.decoder = Decoder((DecoderLayer(*sizes, **options) for _ in layers), norms[1])
        self.generator = nn.Linear(d_model, tgt_vocab_size, bias=False)
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.generator.weight, std=d_model**-0.5)
        source, target = self.src_embedding.tokens, self.tgt_embedding.tokens
        tied: dict[str, list[nn.Module]] = {
            "none": [],
            "target": [self.generator],
            "all": [self.generator, source],
        }
        if tie_weights not in tied:
            raise ValueError(f"{tie_weights=} must be one of {', '.join(tied)}")
        if tie_weights == "all" and src_vocab_size != tgt_vocab_size:
            raise ValueError(
                f"{tie_weights=} needs one vocabulary, got {src_vocab_size=} and {tgt_vocab_size=}"
            )
        for holder in tied[tie_weights]:
            holder.weight = target.weight

    def forward(self, src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        # Here and not in decode: a model that draws its own text may draw a pad in it.
        check_padding(tgt_ids, self.pad_id, "tgt_ids")
        return self.decode(tgt_ids, *self.encode(src_ids))

    def encode(self, src_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read the source once: memory (batch, src_len, d_model) and its mask, True = a token."""
        x = self.src_embedding(src_ids)  # (batch, src_len, d_model)
        check_padding(src_ids, self.pad_id, "src_ids")
        memory_mask = padding_mask(src_ids, self.pad_id)  # (batch, 1, 1, src_len)
        return self.encoder(x, memory_mask), memory_mask

    def decode(self, tgt_ids: Tensor, memory: Tensor, memory_mask: Mask = None) -> Tensor:
        """Logits (batch, tgt_len, tgt_vocab_size) for the token after each of tgt_ids."""
        if len(tgt_ids) != len(memory):
            raise ValueError(f"{len(memory)} sources, but {len(tgt_ids)} targets in one batch")
        x = self.tgt_embedding(tgt_ids)  # (batch, tgt_len, d_model)
        mask = causal_mask(tgt_ids.size(1), device=tgt_ids.device)
        mask = mask & padding_mask(tgt_ids, self.pad_id)  # (batch, 1, tgt_len, tgt_len)
        return self.generator(self.decoder(x, memory, mask, memory_mask))

    @classmethod
    def from_torch(
        cls,
        module: nn.Transformer,
        src_vocab_size: int,
        tgt_vocab_size: int,
        *,
        tie_weights: str = "target",
        pad_id: int = 0,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> "Transformer":
        """Take the stacks, with their last norms, from PyTorch's class; embeddings start anew."""
        first, options = module.encoder.layers[0], {"attention": attention}
        mine = cls(
            src_vocab_size,
            tgt_vocab_size,
            d_model=module.d_model,
            num_layers=0,
            dropout=first.dropout1.p,
            tie_weights=tie_weights,
            pad_id=pad_id,
        ).to(first.linear1.weight)
        mine.encoder = Encoder(
            (EncoderLayer.from_torch(layer, **options) for layer in module.encoder.layers),
            deepcopy(module.encoder.norm),
        )
        mine.decoder = Decoder(
            (DecoderLayer.from_torch(layer, **options) for layer in module.decoder.layers),
            deepcopy(module.decoder.norm),
        )
        return mine.train(module.training)


class RecomputedStep:
    """Run the decoder over the whole prefix at every step: simple, and the cache's reference.

    src_ids: (rows, src_len). Raises ValueError if the model is in training mode.
    """

    def __init__(self, model: Transformer, src_ids: Tensor) -> None:
        require_eval(model)
        self.model = model
        with torch.no_grad():
            self.memory, self.memory_mask = model.encode(src_ids)

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.model.decode(token_ids, self.memory, self.memory_mask)[:, -1]

    def reorder(self, rows: Tensor) -> None:
        self.memory, self.memory_mask = self.memory[rows], self.memory_mask[rows]


class CachedStep:
    """Run the decoder over the newest token alone, against cached keys and values.

    Causal masking makes this exact: an earlier position never sees a later one, so its keys and
    values do not change. Same arguments, result and errors as `RecomputedStep`; each call must
    bring exactly one token more than the last.
    """

    def __init__(self, model: Transformer, src_ids: Tensor) -> None:
        require_eval(model)
        self.model = model
        self.length = 0  # target tokens in the cache
        with torch.no_grad():
            memory, self.memory_mask = model.encode(src_ids)
            # Two caches a layer: of the source, which does not change, and of the target so far.
            self.caches = [self._start(layer, memory) for layer in model.decoder.layers]

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        if token_ids.size(1) != self.length + 1:
            raise ValueError(
                f"the cache holds {self.length} tokens, so the prefix must have {self.length + 1}, "
                f"got {token_ids.size(1)}"
            )
        if len(token_ids) != len(self.memory_mask):
            raise ValueError(
                f"{len(self.memory_mask)} sources, but {len(token_ids)} targets in one batch"
            )
        x = self.model.tgt_embedding(token_ids[:, -1:], start=self.length)  # (rows, 1, d_model)
        mask = padding_mask(token_ids, self.model.pad_id)  # (rows, 1, 1, length)
        for layer, caches in zip(self.model.decoder.layers, self.caches, strict=True):
            x = self._run(layer, *caches, x, mask)
        self.length += 1
        return self.model.generator(self.model.decoder.norm(x))[:, -1]  # (rows, vocab_size)

    def reorder(self, rows: Tensor) -> None:
        self.memory_mask = self.memory_mask[rows]
        for cache in chain.from_iterable(self.caches):
            cache.reorder(rows)

    def _start(self, layer: DecoderLayer, memory: Tensor) -> tuple[LayerCache, LayerCache]:
        key, value = layer.cross_attention.project(memory, memory)
        empty = key[:, :, :0]  # (rows, num_heads, 0, d_k)
        return LayerCache(key, value), LayerCache(empty, empty)

    def _run(
        self, layer: DecoderLayer, source: LayerCache, target: LayerCache, x: Tensor, mask: Tensor
    ) -> Tensor:
        """The three sub-layers of `DecoderLayer.forward`, for one new position."""
        attend, attend_across = layer.self_attention.attend, layer.cross_attention.attend

        def attend_to_target(x: Tensor) -> Tensor:
            keys, values = target.extend(*layer.self_attention.project(x, x))
            return attend(x, keys, values, mask)[0]  # every key is earlier: nothing causal to hide

        def attend_to_memory(x: Tensor) -> Tensor:
            return attend_across(x, source.key, source.value, self.memory_mask)[0]

        around_self, around_cross, around_feed_forward = layer.residuals
        x = around_self(x, attend_to_target)
        x = around_cross(x, attend_to_memory)
        return around_feed_forward(x, layer.feed_forward)
