"""What every model asks of the token ids that it is given."""

import torch
from torch import Tensor


def is_traced(tensor: Tensor) -> bool:
    """Whether `torch.compile`, `torch.export` or a CUDA graph records this call.

    Then no value may be read back: a check of values would break the graph, so it is left out.
    """
    capturing = tensor.is_cuda and torch.cuda.is_current_stream_capturing()
    return torch.compiler.is_compiling() or capturing


def check_token_ids(token_ids: Tensor, vocab_size: int, name: str = "token_ids") -> None:
    """Raise ValueError unless the ids are integers (batch, length) inside the vocabulary.

    Ids outside it are found in eager mode only (`is_traced`).
    """
    if token_ids.dim() != 2 or token_ids.numel() == 0 or token_ids.dtype != torch.int64:
        raise ValueError(
            f"{name} has {token_ids.dtype} and shape {tuple(token_ids.shape)}, must be torch.int64 "
            "and (batch, length) with both 1 or more"
        )
    if is_traced(token_ids):
        return
    lowest, highest = (int(bound) for bound in token_ids.aminmax())
    if lowest < 0 or highest >= vocab_size:
        raise ValueError(
            f"{name} reach from {lowest} to {highest}, but the vocabulary has ids "
            f"0..{vocab_size - 1}"
        )


def check_padding(token_ids: Tensor, pad_id: int, name: str = "token_ids") -> None:
    """Raise ValueError if a pad stands before a token: positions count from the first column.

    token_ids: (batch, length). Found in eager mode only (`is_traced`).
    """
    if is_traced(token_ids):
        return
    pads = token_ids == pad_id  # (batch, length)
    wrong = (pads[..., :-1] & ~pads[..., 1:]).any(dim=-1)  # (batch,)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{name} row {row} is {token_ids[row].tolist()}: pad_id={pad_id} may stand only behind "
            "the last token. Pad on the right"
        )


def check_tokens_left(token_ids: Tensor, pad_id: int, name: str = "token_ids") -> None:
    """Raise ValueError if a row (batch, length) holds pads alone; in eager mode (`is_traced`)."""
    if is_traced(token_ids):
        return
    lengths = (token_ids != pad_id).sum(dim=1)  # (batch,)
    if not lengths.all():
        raise ValueError(f"{name} row {int(lengths.argmin())} must hold a token, not pads alone")
