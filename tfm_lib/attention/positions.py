"""Positional encodings: vectors that tell attention where a token stands, added to embeddings."""

import torch
from torch import Tensor, nn


def sinusoidal_encoding(length: int, d_model: int) -> Tensor:
    """Encode positions 0..length-1 by sines and cosines (Vaswani et al. 2017, section 3.5).

    Returns (length, d_model): column 2i is sin(position / 10000^(2i/d_model)) and column 2i+1 the
    cosine of the same angle; an odd d_model ends on a sine. Angles are computed in float64.
    Raises ValueError if length or d_model is below 1.
    """
    if length < 1 or d_model < 1:
        raise ValueError(f"length={length} and d_model={d_model} must be 1 or more")
    position = torch.arange(length, dtype=torch.float64)[:, None]  # (length, 1)
    even = torch.arange(0, d_model, 2, dtype=torch.float64)  # the 2i of each sine
    angle = position / 10000 ** (even / d_model)  # (length, ceil(d_model / 2))
    encoding = torch.empty(length, d_model, dtype=torch.float64)
    encoding[:, 0::2] = angle.sin()
    encoding[:, 1::2] = angle[:, : d_model // 2].cos()
    return encoding.to(torch.get_default_dtype())


class SinusoidalPositions(nn.Module):
    """Add sinusoidal encodings: (batch, length, d_model) -> the same shape, for any length.

    forward(x, start=0): `start` is the position of x's first token. Nothing is learned.
    """

    encoding: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.register_buffer("encoding", sinusoidal_encoding(64, d_model), persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        end = start + x.size(1)
        if end > len(self.encoding):  # grow by doubling, so that decoding rarely recomputes
            self.encoding = sinusoidal_encoding(2 * end, x.size(2)).to(self.encoding)
        return x + self.encoding[start:end].to(x.dtype)


class LearnedPositions(nn.Module):
    """Add one trained vector a position: (batch, length, d_model) -> the same shape.

    forward(x, start=0): `start` is the position of x's first token. Raises ValueError past max_len:
    such a position was never trained. Gehring et al. 2017; Vaswani et al. 2017, table 3 row (E).
    """

    def __init__(self, max_len: int, d_model: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(max_len, d_model)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        end = start + x.size(1)
        if end > self.embedding.num_embeddings:
            raise ValueError(
                f"positions {start}..{end - 1} pass max_len={self.embedding.num_embeddings}: "
                "shorten the sequence or build with a larger max_len"
            )
        return x + self.embedding.weight[start:end]
