"""Transformer-XL (Dai et al. 2019): a causal language model that remembers the segments before.

    TransformerXL
      embedding            token ids -> vectors, scaled; no positions are added
      TransformerXLLayer   x num_layers: attention to memory + segment, feed-forward
      generator            vectors -> logits, one matrix with the embedding

A long text is read in segments. Every layer keeps the vectors that it was given, detached, and its
next segment may attend to them (section 3.2). Distances take the place of positions (section 3.3).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.relative import RelativeMultiHeadAttention, relative_encoding
from tfm_lib.decoding import require_eval
from tfm_lib.layers.blocks import FeedForward, Residual
from tfm_lib.layers.checks import check_token_ids

Memory = list[Tensor]  # for each layer its last inputs: (batch, up to memory_len, d_model)


class TransformerXLLayer(nn.Module):
    """Relative attention to memory and segment, then feed-forward, post-norm (section 3.3).

    forward(x, memory, mask, positions): x (batch, length, d_model) -> the same shape; memory
    (batch, past, d_model), the layer's inputs in earlier segments; mask boolean, True = may attend,
    (length, past + length); positions (past + length, d_model), the distances from far to near.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = RelativeMultiHeadAttention(d_model, num_heads)
        self.feed_forward = FeedForward(d_model, d_ff)
        self.residuals = nn.ModuleList(Residual(d_model, dropout=dropout) for _ in range(2))

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        around_attention, around_feed_forward = self.residuals
        context = torch.cat([memory, x], dim=1)  # (batch, past + length, d_model)
        x = around_attention(
            x, lambda x: self.attention(x, context, context, mask, positions=positions)[0]
        )
        return around_feed_forward(x, self.feed_forward)


class TransformerXL(nn.Module):
    """A language model with memory (Dai et al. 2019, section 3).

    forward(token_ids, memory=None) -> (logits, memory): ids (batch, length), the segment that
    follows the one which gave `memory`, or a text's first segment without one; logits
    (batch, length, vocab_size) for the token after each. The memory returned holds the last
    `memory_len` inputs of each layer, detached: a later loss sends no gradient into it.
    `memory_len` may be changed on the trained model, in either direction; 0 remembers nothing.
    Raises ValueError if memory_len < 0, for ids that are not (batch, length), and for a memory of
    another batch size or number of layers.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int,
        num_heads: int,
        num_layers: int,
        d_ff: int,
        memory_len: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if memory_len < 0:
            raise ValueError(f"{memory_len=} must be 0 or more")
        self.memory_len = memory_len
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.scale = math.sqrt(d_model)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            TransformerXLLayer(d_model, num_heads, d_ff, dropout=dropout) for _ in range(num_layers)
        )
        self.generator = nn.Linear(d_model, vocab_size, bias=False)
        for parameter in self.layers.parameters():
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        self.generator.weight = self.embedding.weight

    def forward(self, token_ids: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory]:
        check_token_ids(token_ids, self.embedding.num_embeddings)
        x = self.dropout(self.embedding(token_ids) * self.scale)  # (batch, length, d_model)
        if memory is None:
            memory = [x[:, :0]] * len(self.layers)
        if len(memory) != len(self.layers) or any(len(past) != len(x) for past in memory):
            raise ValueError(
                f"a memory of {len(memory)} layers and batch sizes {[len(past) for past in memory]}"
                f" does not fit {len(self.layers)} layers and {len(x)} texts"
            )
        length, key_len = x.size(1), memory[0].size(1) + x.size(1)
        mask = causal_mask(key_len, device=x.device)[-length:]  # (length, key_len)
        positions = relative_encoding(key_len - 1, 0, x.size(2)).to(x)
        remembered = []
        for layer, past in zip(self.layers, memory, strict=True):
            kept = torch.cat([past, x], dim=1).detach()  # what the next segment may see here
            remembered.append(kept[:, max(0, key_len - self.memory_len) :])
            x = layer(x, past, mask, positions)
        return self.generator(x), remembered


def cut_segments(streams: Tensor, length: int) -> Iterator[tuple[Tensor, bool]]:
    """Cut token ids (batch, stream_len) into segments in order: pairs (segment, is_first).

    A segment is (batch, length + 1): a model reads ``[:, :-1]`` and predicts ``[:, 1:]``. Row b of
    each segment goes on where row b of the one before ended; a rest shorter than a segment is left
    out. Raises ValueError if there is no segment.
    """
    if length < 1 or streams.dim() != 2 or streams.size(1) <= length:
        raise ValueError(
            f"streams {tuple(streams.shape)} must be (batch, stream_len) and hold more than "
            f"{length=} tokens, which must be 1 or more"
        )
    for start in range(0, streams.size(1) - length, length):
        yield streams[:, start : start + length + 1], start == 0


class SegmentLoss:
    """loss(model, (segment, is_first)) for `fit`: it hands each segment's memory to the next.

    Pairs as in `cut_segments`, in order. Returns the mean cross-entropy, a scalar. The memory was
    made by the weights of the step before; it is dropped where a text begins.
    """

    def __init__(self) -> None:
        self.memory: Memory | None = None

    def __call__(self, model: nn.Module, batch: tuple[Tensor, bool]) -> Tensor:
        segment, is_first = batch
        logits, self.memory = model(segment[:, :-1], None if is_first else self.memory)
        return F.cross_entropy(logits.flatten(0, 1), segment[:, 1:].flatten())


@torch.no_grad()
def stream_losses(model: nn.Module, streams: Tensor, length: int) -> Tensor:
    """Read streams (batch, stream_len) with memory, `length` tokens at a time: each token's loss.

    Returns the cross-entropy in nats, (batch, segments * length); column t is the loss of token
    t + 1. Raises ValueError if the model is in training mode, and as `cut_segments` does.
    """
    require_eval(model)
    losses, memory = [], None
    for segment, _ in cut_segments(streams, length):
        logits, memory = model(segment[:, :-1], memory)  # (batch, length, vocab_size)
        losses.append(F.cross_entropy(logits.mT, segment[:, 1:], reduction="none"))
    return torch.cat(losses, dim=1)
