"""The key-value cache of one attention layer."""

from dataclasses import dataclass

import torch
from torch import Tensor


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
