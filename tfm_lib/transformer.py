"""The Transformer (Vaswani et al. 2017): embeddings, blocks, stacks and the whole model.

    Transformer
      InputEmbedding       token ids -> vectors, scaled, plus positions
      Encoder              EncoderLayer x num_layers: self-attention, feed-forward
      Decoder              DecoderLayer x num_layers: self-attention, cross-attention, feed-forward
      generator            vectors -> logits over the target vocabulary

Every sub-layer sits in a `Residual`; the shape (batch, length, d_model) never changes on the way.
"""

import math
from collections.abc import Callable, Iterable
from copy import deepcopy

from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention import AttentionFunction, MultiHeadAttention, scaled_dot_product_attention
from tfm_lib.masks import causal_mask, padding_mask
from tfm_lib.positions import SinusoidalPositions

Mask = Tensor | None  # boolean, True = may attend
Map = Callable[[Tensor], Tensor]  # (batch, length, width) -> the same shape


class FeedForward(nn.Module):
    """Two linear maps with an activation between, at each position alone (section 3.3).

    (batch, length, d_model) -> the same shape, through d_ff. The paper's activation is ReLU.
    """

    def __init__(self, d_model: int, d_ff: int, *, activation: Map = F.relu) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff)
        self.contract = nn.Linear(d_ff, d_model)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(self.activation(self.expand(x)))


class Residual(nn.Module):
    """Add a sub-layer's output to its input and normalise (section 3.1; dropout: section 5.4).

    norm_first=False is the paper's post-norm, norm(x + sublayer(x)); norm_first=True is pre-norm,
    x + sublayer(norm(x)), which the published code used later. (batch, length, d_model) throughout.
    """

    def __init__(self, d_model: int, *, dropout: float = 0.1, norm_first: bool = False) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(self, x: Tensor, sublayer: Map) -> Tensor:
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


def layer_from_torch(
    cls: type[nn.Module],
    module: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer,
    *,
    attention: AttentionFunction = scaled_dot_product_attention,
) -> nn.Module:
    """Build a layer of `cls` with the sizes, weights, precision and mode of PyTorch's layer."""
    sizes = module.linear1.in_features, module.self_attn.num_heads, module.linear1.out_features
    options = {"dropout": module.dropout1.p, "norm_first": module.norm_first}
    mine = cls(*sizes, **options, activation=module.activation)
    mine.self_attention = MultiHeadAttention.from_torch(module.self_attn, attention=attention)
    if isinstance(module, nn.TransformerDecoderLayer):
        across = MultiHeadAttention.from_torch(module.multihead_attn, attention=attention)
        mine.cross_attention = across
    mine.feed_forward.expand = deepcopy(module.linear1)
    mine.feed_forward.contract = deepcopy(module.linear2)
    for number, residual in enumerate(mine.residuals, start=1):
        residual.norm = deepcopy(getattr(module, f"norm{number}"))
    return mine.train(module.training)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each in a residual (section 3.1).

    forward(x, mask): x (batch, length, d_model) -> the same shape; mask boolean, True = may attend,
    broadcastable to (batch, num_heads, length, length).
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.1,
        norm_first: bool = False,
        activation: Map = F.relu,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, num_heads, attention=attention)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation)
        self.residuals = nn.ModuleList(
            Residual(d_model, dropout=dropout, norm_first=norm_first) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        around_attention, around_feed_forward = self.residuals
        x = around_attention(x, lambda x: self.self_attention(x, x, x, mask)[0])
        return around_feed_forward(x, self.feed_forward)

    from_torch = classmethod(layer_from_torch)


class DecoderLayer(nn.Module):
    """Masked self-attention, cross-attention to the encoder, feed-forward (section 3.1).

    forward(x, memory, mask, memory_mask): x (batch, tgt_len, d_model) -> the same shape; memory
    (batch, src_len, d_model) is the topmost encoder layer's output. Masks are boolean, True = may
    attend: mask broadcastable to (batch, num_heads, tgt_len, tgt_len), memory_mask to
    (batch, num_heads, tgt_len, src_len).
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.1,
        norm_first: bool = False,
        activation: Map = F.relu,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, num_heads, attention=attention)
        self.cross_attention = MultiHeadAttention(d_model, num_heads, attention=attention)
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation)
        self.residuals = nn.ModuleList(
            Residual(d_model, dropout=dropout, norm_first=norm_first) for _ in range(3)
        )

    def forward(
        self, x: Tensor, memory: Tensor, mask: Mask = None, memory_mask: Mask = None
    ) -> Tensor:
        around_self, around_cross, around_feed_forward = self.residuals
        x = around_self(x, lambda x: self.self_attention(x, x, x, mask)[0])
        x = around_cross(x, lambda x: self.cross_attention(x, memory, memory, memory_mask)[0])
        return around_feed_forward(x, self.feed_forward)

    from_torch = classmethod(layer_from_torch)


class Encoder(nn.Module):
    """Encoder layers one after the other: (batch, src_len, d_model) -> the same shape.

    norm: a last normalisation. Pre-norm needs one, the paper's post-norm none (nn.Identity).
    """

    def __init__(self, layers: Iterable[EncoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """Decoder layers one after the other: (batch, tgt_len, d_model) -> the same shape.

    norm: a last normalisation, as in `Encoder`. Every layer reads the same memory.
    """

    def __init__(self, layers: Iterable[DecoderLayer], norm: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = norm

    def forward(
        self, x: Tensor, memory: Tensor, mask: Mask = None, memory_mask: Mask = None
    ) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.norm(x)


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
        if token_ids.dim() != 2 or token_ids.numel() == 0:
            raise ValueError(f"empty or not (batch, length): token_ids {tuple(token_ids.shape)}")
        lowest, highest = (int(bound) for bound in token_ids.aminmax())
        if lowest < 0 or highest >= self.tokens.num_embeddings:
            raise ValueError(
                f"token ids reach from {lowest} to {highest}, but the vocabulary has ids "
                f"0..{self.tokens.num_embeddings - 1}"
            )
        return self.dropout(self.positions(self.tokens(token_ids) * self.scale, start))


class Transformer(nn.Module):
    """The encoder-decoder Transformer (Vaswani et al. 2017, figure 1); defaults: its base model.

    forward(src_ids, tgt_ids) -> logits: ids (batch, src_len) and (batch, tgt_len), logits
    (batch, tgt_len, tgt_vocab_size); logits[:, i] predicts the token after tgt_ids[:, i].
    tie_weights: "none"; "target" makes the target embedding and the generator one matrix; "all"
    adds the source embedding, as the paper does (section 3.4), and needs one shared vocabulary.
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
        options = {"dropout": dropout, "norm_first": norm_first, "attention": attention}
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
        tied = {"none": [], "target": [self.generator], "all": [self.generator, source]}
        if tie_weights not in tied:
            raise ValueError(f"{tie_weights=} must be one of {', '.join(tied)}")
        if tie_weights == "all" and src_vocab_size != tgt_vocab_size:
            raise ValueError(
                f"{tie_weights=} needs one vocabulary, got {src_vocab_size=} and {tgt_vocab_size=}"
            )
        for holder in tied[tie_weights]:
            holder.weight = target.weight

    def forward(self, src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        return self.decode(tgt_ids, *self.encode(src_ids))

    def encode(self, src_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Read the source once: memory (batch, src_len, d_model) and its mask, True = a token."""
        memory_mask = padding_mask(src_ids, self.pad_id)  # (batch, 1, 1, src_len)
        return self.encoder(self.src_embedding(src_ids), memory_mask), memory_mask

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
