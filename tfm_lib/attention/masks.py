"""Boolean masks that say who may attend to whom: True = may attend.

A mask is broadcast to the scores, whose shape is (batch, num_heads, query_len, key_len). Masks are
combined with `&`. `torch.nn.MultiheadAttention` and `torch.nn.Transformer` mean the opposite by
True: hand them `~mask`.

Models make masks and hand them down: `Encoder` or `Decoder`, layer, `MultiHeadAttention`, attention
function; there `masked_softmax` or PyTorch's kernel applies them. Other makers: `image` (rows,
columns, neighbourhoods), `sparse` (sets), `models.xlnet` (orders), `models.seq2seq` (the RNN's).
"""

import torch
from torch import Tensor


def causal_mask(size: int, *, device: torch.device | None = None) -> Tensor:
    """Let each position see itself and what lies before it (Vaswani et al. 2017, section 3.2.3).

    Returns a boolean (size, size): entry [i, j] is True where j <= i.
    Raises ValueError if size < 1.
    """
    if size < 1:
        raise ValueError(f"size={size} must be 1 or more")
    return torch.ones(size, size, dtype=torch.bool, device=device).tril()


def padding_mask(token_ids: Tensor, pad_id: int) -> Tensor:
    """Let every query see the keys that are tokens, and no key that is padding.

    token_ids: integers (batch, key_len). Returns a boolean (batch, 1, 1, key_len), True where the
    key is not `pad_id`; the two ones stand for all heads and all queries.
    Raises ValueError if token_ids is not an integer tensor of two dimensions.
    """
    if token_ids.dim() != 2 or token_ids.is_floating_point() or token_ids.dtype == torch.bool:
        raise ValueError(
            f"token_ids must hold integers of shape (batch, key_len), "
            f"got {token_ids.dtype} of shape {tuple(token_ids.shape)}"
        )
    return (token_ids != pad_id)[:, None, None, :]


def window_mask(size: int, window: int) -> Tensor:
    """Let each position see its neighbours at a distance of at most `window`, itself included.

    Returns a boolean (size, size): entry [i, j] is True where |i - j| <= window. This is local
    attention with a fixed centre (Luong et al. 2015, section 3.2, "local-m").
    Raises ValueError if size < 1 or window < 0.
    """
    if size < 1:
        raise ValueError(f"size={size} must be 1 or more")
    if window < 0:
        raise ValueError(f"window={window} must be 0 or more")
    position = torch.arange(size)
    return (position[:, None] - position[None, :]).abs() <= window
