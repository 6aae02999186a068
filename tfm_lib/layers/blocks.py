"""The blocks and stacks of the Transformer (Vaswani et al. 2017, section 3).

    Encoder              EncoderLayer x num_layers: self-attention, feed-forward
    Decoder              DecoderLayer x num_layers: self-attention, cross-attention, feed-forward

Every sub-layer sits in a `Residual`; the shape (batch, length, d_model) never changes on the way.
Other models build on the same blocks: a decoder without an encoder is an `Encoder` under a causal
mask.
"""

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import ClassVar, Self

from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.functions import AttentionFunction, scaled_dot_product_attention
from tfm_lib.attention.multi_head import MultiHeadAttention

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


class TransformerLayer(nn.Module):
    """What both layers have: attentions by name, then feed-forward, each in a residual.

    A sub-class names its attentions and says in `forward` who looks at whom. Raises ValueError if
    d_model is not divisible by num_heads.
    """

    attentions: ClassVar[tuple[str, ...]]
    self_attention: MultiHeadAttention

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
        for name in self.attentions:
            self.add_module(name, MultiHeadAttention(d_model, num_heads, attention=attention))
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation)
        self.residuals = nn.ModuleList(
            Residual(d_model, dropout=dropout, norm_first=norm_first)
            for _ in (*self.attentions, "feed_forward")
        )

    @classmethod
    def from_torch(
        cls,
        module: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer,
        *,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> Self:
        """Build one with the sizes, weights, precision and mode of PyTorch's layer."""
        mine = cls(
            module.linear1.in_features,
            module.self_attn.num_heads,
            module.linear1.out_features,
            dropout=module.dropout1.p,
            norm_first=module.norm_first,
            activation=module.activation,
        )
        theirs = {"self_attention": "self_attn", "cross_attention": "multihead_attn"}
        for name in cls.attentions:
            copy = MultiHeadAttention.from_torch(getattr(module, theirs[name]), attention=attention)
            mine.add_module(name, copy)
        mine.feed_forward.expand = deepcopy(module.linear1)
        mine.feed_forward.contract = deepcopy(module.linear2)
        for number, residual in enumerate(mine.residuals, start=1):
            residual.norm = deepcopy(getattr(module, f"norm{number}"))
        return mine.train(module.training)


class EncoderLayer(TransformerLayer):
    """Self-attention, then feed-forward, each in a residual (section 3.1).

    forward(x, mask): x (batch, length, d_model) -> the same shape; mask boolean, True = may attend,
    broadcastable to (batch, num_heads, length, length).
    """

    attentions = ("self_attention",)

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        around_attention, around_feed_forward = self.residuals
        x = around_attention(x, lambda x: self.self_attention(x, x, x, mask)[0])
        return around_feed_forward(x, self.feed_forward)


class DecoderLayer(TransformerLayer):
    """Masked self-attention, cross-attention to the encoder, feed-forward (section 3.1).

    forward(x, memory, mask, memory_mask): x (batch, tgt_len, d_model) -> the same shape; memory
    (batch, src_len, d_model) is the topmost encoder layer's output. Masks are boolean, True = may
    attend: mask broadcastable to (batch, num_heads, tgt_len, tgt_len), memory_mask to
    (batch, num_heads, tgt_len, src_len).
    """

    attentions = ("self_attention", "cross_attention")
    cross_attention: MultiHeadAttention

    def forward(
        self, x: Tensor, memory: Tensor, mask: Mask = None, memory_mask: Mask = None
    ) -> Tensor:
        around_self, around_cross, around_feed_forward = self.residuals
        x = around_self(x, lambda x: self.self_attention(x, x, x, mask)[0])
        x = around_cross(x, lambda x: self.cross_attention(x, memory, memory, memory_mask)[0])
        return around_feed_forward(x, self.feed_forward)


class Encoder(nn.Module):
    """Encoder layers one after the other: (batch, src_len, d_model) -> the same shape.

    norm: a last normalisation. Pre-norm needs one, the paper's post-norm none (nn.Identity).
    """

    layers: Sequence[EncoderLayer]

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

    layers: Sequence[DecoderLayer]

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
