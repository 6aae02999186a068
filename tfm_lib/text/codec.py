"""A tokenizer and a vocabulary together: texts to padded tensors of ids, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tfm_lib.text.vocab import Vocab


class TextTokenizer(Protocol):
    """What cuts a text into tokens and joins them again (see `tfm_lib.tokenizers`)."""

    def tokenize(self, text: str) -> list[str]: ...
    def detokenize(self, tokens: Iterable[str]) -> str: ...


@dataclass(frozen=True)
class Codec:
    """A tokenizer and a vocabulary: together they turn texts into ids and back."""

    tokenizer: TextTokenizer
    vocab: Vocab

    @classmethod
    def build(
        cls, texts: Iterable[str], tokenizer: TextTokenizer, *, min_count: int = 1
    ) -> "Codec":
        """Take the vocabulary from the texts: every token seen ``min_count`` times or more."""
        return cls(tokenizer, Vocab.build(map(tokenizer.tokenize, texts), min_count=min_count))

    def encode(self, text: str) -> list[int]:
        """The text's token ids, ended by ``eos_id``."""
        return [*self.vocab.encode(self.tokenizer.tokenize(text)), self.vocab.eos_id]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids (a list or a 1-D tensor) up to the first ``eos_id``."""
        return self.tokenizer.detokenize(self.vocab.decode(ids))

    def batch(self, texts: Iterable[str]) -> Tensor:
        """The texts as a model's source: (batch, longest) ids, each row tokens, eos, padding."""
        return pad([self.encode(text) for text in texts], self.vocab.pad_id)


def pad(rows: Sequence[Sequence[int]], pad_id: int = Vocab.pad_id) -> Tensor:
    """Stack rows of ids as a LongTensor (batch, longest), filled with ``pad_id`` on the right."""
    if not rows:
        raise ValueError("a batch needs at least one row; got none")
    longest = max(map(len, rows))
    padded = [[*row, *[pad_id] * (longest - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long)
