"""Blocks of token ids, cut from one long text for language models."""

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def cut_blocks(token_ids: Sequence[int] | Tensor, length: int, start: int = 0) -> Tensor:
    """Cut token ids into consecutive blocks: a LongTensor (blocks, length + 1).

    The last token of a block is the first of the next, so that each token from ``start`` + 1 on is
    predicted exactly once, except a rest shorter than a block. ValueError if there is no block.
    """
    token_ids = torch.as_tensor(token_ids)[start:]  # (tokens,)
    if length < 1 or len(token_ids) <= length:
        raise ValueError(
            f"a block of {length=} must be 1 or more and needs a token more, from {start=} on; "
            f"there are {len(token_ids)}"
        )
    return token_ids.unfold(0, length + 1, length)  # (blocks, length + 1), a view


class Blocks:
    """Batches of blocks from one long text, cut and shuffled anew each time they are iterated.

    Yields LongTensors (batch, length + 1): a language model reads ``[:, :-1]`` and predicts
    ``[:, 1:]``. Every epoch starts to cut at another token, so that each token is met at every
    position of a block; the last batch may be smaller. The order depends on the seed and the number
    of the epoch alone. ValueError if the text is shorter than two blocks or batch_size below 1.
    """

    def __init__(
        self, token_ids: Sequence[int] | Tensor, *, length: int, batch_size: int, seed: int = 0
    ) -> None:
        self.token_ids = torch.as_tensor(token_ids)  # (tokens,)
        if batch_size < 1 or length < 1 or len(self.token_ids) < 2 * length:
            raise ValueError(
                f"{batch_size=} and {length=} must be 1 or more, and {len(self.token_ids)} tokens "
                "at least 2 * length"
            )
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def __iter__(self) -> Iterator[Tensor]:
        self.epoch += 1
        draw = random.Random(f"{self.seed}, {self.epoch}")
        blocks = cut_blocks(self.token_ids, self.length, start=draw.randrange(self.length))
        order = draw.sample(range(len(blocks)), len(blocks))
        for first in range(0, len(order), self.batch_size):
            yield blocks[order[first : first + self.batch_size]]  # (batch, length + 1)
