"""Three ways to cut a text into tokens: characters, words, and pieces learnt from a corpus.

A tokenizer has two verbs, ``tokenize(text) -> list[str]`` and its inverse ``detokenize(tokens)``.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


class CharTokenizer:
    """Every character is a token."""

    def tokenize(self, text: str) -> list[str]:
        return list(text)

    def detokenize(self, tokens: Iterable[str]) -> str:
        return "".join(tokens)


class WordTokenizer:
    """Every word is a token, and so is each of the marks ``. , ? !``

    A word that ends in an apostrophe stands alone but touches the next (``l'`` + ``ami``);
    a piece that begins with ``|`` touches the word before it (Korean particles and endings,
    ``고양이|가`` -> ``고양이`` + ``|가``). ``detokenize`` restores the text exactly
    if its words are one space apart, its marks touch the word before them, its apostrophes
    touch both neighbours and its ``|`` the piece behind them.
    """

    TOKEN = re.compile(r"[.,?!]|\|?[^ |.,?!']*'|\|?[^ |.,?!']+")

    def tokenize(self, text: str) -> list[str]:
        return self.TOKEN.findall(text)

    def detokenize(self, tokens: Iterable[str]) -> str:
        text = ""
        for token in tokens:
            touches = not text or text.endswith("'") or token.startswith((".", ",", "?", "!", "|"))
            text += token if touches else " " + token
        return text


class BPETokenizer:
    """Byte-pair encoding (Sennrich et al., 2016): frequent pieces, merged from characters.

    A piece that begins a word carries the space before it as ``▁``. A character never seen in
    training falls back to its bytes (``<0xE2>`` ...), so that any text without a ``▁`` or such
    a byte name of its own is restored exactly.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    @classmethod
    def train(cls, texts: Sequence[str], vocab_size: int) -> "BPETokenizer":
        """Learn at most ``vocab_size`` pieces (the 256 bytes among them) from the texts.

        Raises ValueError for an empty corpus, or a size below the bytes and characters it needs.
        """
        if not any(texts):
            raise ValueError(f"the corpus to learn pieces from is empty: {len(texts)} texts")
        smallest = len(BYTES) + len({c for text in texts for c in text.replace(" ", "▁")})
        if vocab_size < smallest:
            raise ValueError(
                f"vocab_size={vocab_size} must be at least {smallest}: "
                f"256 bytes and {smallest - 256} different characters"
            )
        tokenizer = Tokenizer(models.BPE(byte_fallback=True))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Metaspace("▁", prepend_scheme="never"), pre_tokenizers.Punctuation()]
        )
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=BYTES, show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @property
    def tokens(self) -> list[str]:
        """All pieces in the order they were learnt, as ``Vocab`` takes them."""
        ids = self._tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    def tokenize(self, text: str) -> list[str]:
        return self._tokenizer.encode(text).tokens

    def detokenize(self, tokens: Iterable[str]) -> str:
        return self._tokenizer.decoder.decode(list(tokens))

    def save(self, path: str | Path) -> None:
        """Write the pieces and merges as JSON, whole or not at all."""
        unfinished = Path(f"{path}.unfinished")
        unfinished.write_text(self._tokenizer.to_str(pretty=True), encoding="utf-8")
        unfinished.replace(path)

    @classmethod
    def load(cls, path: str | Path) -> "BPETokenizer":
        """Read what ``save`` wrote."""
        return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")))
