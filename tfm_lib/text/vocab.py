"""A vocabulary: the two-way table between tokens and the integers a model reads and writes."""

from collections import Counter
from collections.abc import Iterable

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")


class Vocab:
    """Tokens and their ids, with padding, begin, end and unknown always at ids 0, 1, 2 and 3.

    ``Vocab(tokens)`` gives ids 4, 5, ... to the tokens in the order they come.
    Raises ValueError for a token that comes twice.
    """

    pad_id, bos_id, eos_id, unk_id = range(len(SPECIALS))

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = [*SPECIALS, *tokens]
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self._ids) < len(self.tokens):
            repeated = [token for token, count in Counter(self.tokens).items() if count > 1]
            raise ValueError(
                f"each token must be listed once (specials {SPECIALS} come by themselves); "
                f"repeated: {repeated[:10]}"
            )

    @classmethod
    def build(cls, texts: Iterable[list[str]], *, min_count: int = 1) -> "Vocab":
        """Collect the tokens seen at least ``min_count`` times, the most frequent first.

        ``texts`` holds one list of tokens per text; ties are broken by alphabet.
        Raises ValueError if no token remains.
        """
        counts = Counter(token for tokens in texts for token in tokens)
        kept = [token for token, count in counts.items() if count >= min_count]
        if not kept:
            raise ValueError(
                f"no token occurs min_count={min_count} times or more; "
                f"the texts hold {len(counts)} different tokens"
            )
        return cls(sorted(kept, key=lambda token: (-counts[token], token)))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """Turn tokens into ids; a token never listed becomes ``unk_id``."""
        return [self._ids.get(token, self.unk_id) for token in tokens]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Turn ids (a list or a 1-D tensor) into tokens, up to the first ``eos_id``.

        Padding and begin are left out; ``<unk>`` stays visible: it stands for a token of the text.
        Raises ValueError for an id outside the vocabulary.
        """
        ids = [int(token_id) for token_id in ids]
        if outside := sorted({i for i in ids if not 0 <= i < len(self)}):
            raise ValueError(f"ids must lie in 0..{len(self) - 1}; got {outside[:10]}")
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return [self.tokens[i] for i in ids if i not in (self.pad_id, self.bos_id)]
