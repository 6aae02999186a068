"""Multi-head attention: several attentions side by side, each in a subspace of its own."""

import torch
from torch import Tensor, nn

from tfm_lib.attention.functions import AttentionFunction, scaled_dot_product_attention


class MultiHeadAttention(nn.Module):
    """Attend num_heads times in parallel, each in a subspace (Vaswani et al. 2017, section 3.2.2).

    query (batch, query_len, d_model), key and value (batch, key_len, d_model); mask boolean, True =
    may attend, (query_len, key_len) or broadcastable to (batch, num_heads, query_len, key_len).
    Returns output (batch, query_len, d_model) and weights (batch, num_heads, query_len, key_len).
    dropout: the share of attention weights dropped in training; the paper drops none.
    attention: any attention function; one that takes no `dropout` must be used with dropout=0.
    Raises ValueError if d_model is not divisible by num_heads or if shapes do not fit.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        if num_heads < 1 or d_model % num_heads != 0:
            raise ValueError(f"d_model={d_model} must be divisible by num_heads={num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention = attention
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        return self.attend(query, *self.project(key, value), mask)

    def project(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Project keys and values and split them: (batch, num_heads, key_len, d_k) each."""
        return self._split(self.k_proj, key), self._split(self.v_proj, value)

    def attend(
        self, query: Tensor, key_heads: Tensor, value_heads: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend with projected keys and values: (batch, query_len, d_model) and the weights."""
        query_heads = self._split(self.q_proj, query)  # (batch, num_heads, query_len, d_k)
        drop = {"dropout": self.dropout} if self.training and self.dropout else {}
        heads, weights = self.attention(query_heads, key_heads, value_heads, mask, **drop)
        joined = heads.transpose(1, 2).flatten(2)  # (batch, query_len, num_heads * d_k = d_model)
        return self.out_proj(joined), weights

    def _split(self, projection: nn.Linear, x: Tensor) -> Tensor:
        # (batch, length, d_model) -> (batch, num_heads, length, d_k)
        if x.dim() != 3 or x.size(-1) != projection.in_features:
            raise ValueError(
                f"need (batch, length, d_model={projection.in_features}), got {tuple(x.shape)}"
            )
        return projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    @classmethod
    def from_torch(
        cls,
        module: nn.MultiheadAttention,
        *,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> "MultiHeadAttention":
        """Build one with the weights of PyTorch's class, whose masks mean the opposite.

        Raises ValueError for options that this class leaves out: other key or value widths, no
        biases, bias_k, add_zero_attn.
        """
        if module.in_proj_weight is None or module.in_proj_bias is None:
            raise ValueError(
                f"need kdim = vdim = embed_dim={module.embed_dim} and bias=True, got "
                f"kdim={module.kdim}, vdim={module.vdim}, bias={module.in_proj_bias is not None}"
            )
        if module.bias_k is not None or module.add_zero_attn:
            raise ValueError(
                "need add_bias_kv=False and add_zero_attn=False, got "
                f"{module.bias_k is not None} and {module.add_zero_attn}"
            )
        mine = cls(
            module.embed_dim, module.num_heads, dropout=module.dropout, attention=attention
        ).to(module.in_proj_weight)
        weights, biases = module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3)
        with torch.no_grad():
            for linear, weight, bias in zip(
                (mine.q_proj, mine.k_proj, mine.v_proj), weights, biases, strict=True
            ):
                linear.weight.copy_(weight)
                linear.bias.copy_(bias)
        mine.out_proj.load_state_dict(module.out_proj.state_dict())
        return mine.train(module.training)
