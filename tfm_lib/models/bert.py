"""BERT (Devlin et al. 2019): an encoder that reads both sides, trained on words left out.

BertForPreTraining
  Bert               token ids, segment ids -> a hidden state for each token
    BertEmbedding    tokens + segments + positions, normalised
    Encoder          EncoderLayer x num_layers: post-norm, GELU
    pooler           the first token's hidden state -> one vector for the whole input
  masked_head        hidden states -> logits over the vocabulary
  next_head          pooled vector -> logits of (B follows A, B is random)
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.functions import AttentionFunction, scaled_dot_product_attention
from tfm_lib.attention.masks import padding_mask
from tfm_lib.attention.positions import LearnedPositions
from tfm_lib.layers.blocks import Encoder, EncoderLayer
from tfm_lib.layers.checks import check_padding, check_token_ids
from tfm_lib.training import label_smoothing_loss

IGNORED = -100  # the label of a position that the loss leaves out; also PyTorch's ignore_index
EPS = 1e-12  # of every LayerNorm


def start_like_bert(module: nn.Module) -> None:
    """Give a part its start: weights with standard deviation 0.02, no biases, LayerNorm's EPS."""
    if isinstance(module, nn.LayerNorm):
        module.eps = EPS
    elif isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


class BertEmbedding(nn.Module):
    """Token ids and segment ids (batch, length) -> vectors (batch, length, d_model) (section 3).

    Adds three learned vectors, of the token, its segment (0: A, 1: B) and its position, then
    normalises and drops out. Raises ValueError if the shapes differ, for ids outside their range
    and for inputs longer than max_len.
    """

    def __init__(self, vocab_size: int, d_model: int, *, max_len: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.segments = nn.Embedding(2, d_model)
        self.positions = LearnedPositions(max_len, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, token_ids: Tensor, segment_ids: Tensor) -> Tensor:
        if token_ids.shape != segment_ids.shape:
            raise ValueError(
                f"token_ids {tuple(token_ids.shape)} and segment_ids {tuple(segment_ids.shape)} "
                "must both be (batch, length)"
            )
        check_token_ids(token_ids, self.tokens.num_embeddings)
        check_token_ids(segment_ids, self.segments.num_embeddings, "segment_ids")
        x = self.positions(self.tokens(token_ids) + self.segments(segment_ids))
        return self.dropout(self.norm(x))  # (batch, length, d_model)


class Bert(nn.Module):
    """The encoder of BERT (section 3); defaults: its base model.

    forward(token_ids, segment_ids) -> hidden states (batch, length, d_model): ids (batch, length),
    segments 0 for A and 1 for B, all A if left out. No token attends to `pad_id`.
    attention: every layer's attention function. Raises ValueError if d_model is not divisible by
    num_heads and, on a call, as `BertEmbedding`.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        d_ff: int = 3072,
        max_len: int = 512,
        dropout: float = 0.1,
        pad_id: int = 0,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        options: dict[str, Any] = {"dropout": dropout, "activation": F.gelu, "attention": attention}
        layers = (EncoderLayer(d_model, num_heads, d_ff, **options) for _ in range(num_layers))
        self.pad_id = pad_id
        self.embedding = BertEmbedding(vocab_size, d_model, max_len=max_len, dropout=dropout)
        self.encoder = Encoder(layers, nn.Identity())  # post-norm: no last norm
        self.pooler = nn.Linear(d_model, d_model)
        self.apply(start_like_bert)

    def forward(self, token_ids: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        segment_ids = torch.zeros_like(token_ids) if segment_ids is None else segment_ids
        x = self.embedding(token_ids, segment_ids)  # (batch, length, d_model)
        check_padding(token_ids, self.pad_id)
        mask = padding_mask(token_ids, self.pad_id)  # (batch, 1, 1, length): both sides
        return self.encoder(x, mask)

    def pool(self, hidden: Tensor) -> Tensor:
        """One vector for each input, from its first token: (batch, d_model)."""
        return torch.tanh(self.pooler(hidden[:, 0]))


class MaskedHead(nn.Module):
    """Hidden states (batch, length, d_model) -> logits (batch, length, vocab_size).

    A dense layer, GELU and norm, then the token embedding's matrix once more, with a bias.
    """

    def __init__(self, tokens: nn.Embedding) -> None:
        super().__init__()
        vocab_size, d_model = tokens.weight.shape
        self.dense = nn.Linear(d_model, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.decoder = nn.Linear(d_model, vocab_size)
        self.apply(start_like_bert)
        self.decoder.weight = tokens.weight

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.norm(F.gelu(self.dense(hidden))))


class BertForPreTraining(nn.Module):
    """BERT with its two heads (section 3.1); arguments and errors as `Bert`.

    forward(token_ids, segment_ids) -> logits over the vocabulary (batch, length, vocab_size) and
    logits of "B follows A" and "B is random" (batch, 2).
    """

    def __init__(self, vocab_size: int, **options: Any) -> None:
        super().__init__()
        self.bert = Bert(vocab_size, **options)
        self.masked_head = MaskedHead(self.bert.embedding.tokens)
        self.next_head = nn.Linear(self.bert.pooler.out_features, 2)
        self.next_head.apply(start_like_bert)

    def forward(
        self, token_ids: Tensor, segment_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        hidden = self.bert(token_ids, segment_ids)  # (batch, length, d_model)
        return self.masked_head(hidden), self.next_head(self.bert.pool(hidden))


def mask_tokens(
    token_ids: Tensor,
    *,
    mask_id: int,
    special_ids: Collection[int],
    vocab_size: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Choose tokens to predict and hide most of them (section 3.1, appendix A.1).

    token_ids (batch, length). Each token that is not special is chosen with probability `share`;
    of those chosen 80% become `mask_id`, 10% a random token that is not special, and 10% stay.
    Returns the inputs and the labels, (batch, length) each: a label is the token that stood there,
    `IGNORED` where nothing was chosen. Raises ValueError unless 0 < share <= 1, if mask_id is not
    one of special_ids and if all tokens are special.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")
    if mask_id not in special_ids:
        raise ValueError(f"mask_id={mask_id} must be one of special_ids={sorted(special_ids)}")
    ordinary = torch.tensor([i for i in range(vocab_size) if i not in special_ids])  # (words,)
    if len(ordinary) == 0:
        raise ValueError(f"all vocab_size={vocab_size} tokens are special")
    draw, fate = torch.rand(2, *token_ids.shape, generator=generator)  # (batch, length) each
    chosen = (draw < share) & torch.isin(token_ids, ordinary)
    random = ordinary[torch.randint(len(ordinary), token_ids.shape, generator=generator)]
    inputs = torch.where(chosen & (fate < 0.8), mask_id, token_ids)
    inputs = torch.where(chosen & (fate >= 0.9), random, inputs)
    return inputs, token_ids.masked_fill(~chosen, IGNORED)


def pretraining_loss(model: nn.Module, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
    """The mean loss over the chosen tokens plus the mean loss of "does B follow A" (appendix A.2).

    batch: inputs, segment ids and labels (batch, length) each, is_random (batch,) of 0 and 1.
    Raises ValueError if no token was chosen.
    """
    inputs, segment_ids, labels, is_random = batch
    token_logits, next_logits = model(inputs, segment_ids)
    masked = label_smoothing_loss(token_logits, labels, pad_id=IGNORED)
    return masked + F.cross_entropy(next_logits, is_random)
