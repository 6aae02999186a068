"""Decoding steps for the Transformer: with a key-value cache, and by doing everything again.

A step is `step(token_ids) -> logits`: all tokens so far (rows, length), first to last, in; logits
(rows, vocab_size) for the next one out. `reorder(rows)` makes row i continue what was row rows[i].
"""

from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from tfm_lib.decoding import require_eval
from tfm_lib.masks import padding_mask
from tfm_lib.transformer import DecoderLayer, Transformer


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


@dataclass
class LayerCache:
    """What attention in one layer never needs to compute again.

    key and value: (rows, num_heads, length, d_k), of all tokens so far.
    """

    key: Tensor
    value: Tensor

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; return those of all tokens so far."""
        self.key = torch.cat([self.key, key], dim=2)
        self.value = torch.cat([self.value, value], dim=2)
        return self.key, self.value

    def reorder(self, rows: Tensor) -> None:
        self.key, self.value = self.key[rows], self.value[rows]


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
