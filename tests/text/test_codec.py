"""Texts to ids and back, and the padding of rows."""

import pytest
import torch

from data.make_dates import DATE_SPLITS
from tfm_lib.datasets.dates import load_dates
from tfm_lib.datasets.parallel import load_parallel
from tfm_lib.text.codec import Codec, pad
from tfm_lib.text.pairs import Pairs
from tfm_lib.text.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from tfm_lib.text.vocab import Vocab


@pytest.fixture(scope="module")
def dates() -> dict[str, Pairs]:
    return {split: load_dates(split) for split in DATE_SPLITS}


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), WordTokenizer(), "pieces"])
@pytest.mark.parametrize("target", ["fr", "ko"])
def test_tokenizers_restore_the_parallel_corpus(tokenizer, target):
    pairs = load_parallel("train", target=target)
    texts = [*pairs.sources, *pairs.targets]
    if tokenizer == "pieces":
        tokenizer = BPETokenizer.train(texts, vocab_size=800)
    assert_restored(Codec.build(texts, tokenizer), texts)


@pytest.mark.parametrize("tokenizer", [CharTokenizer(), "pieces"])
def test_tokenizers_restore_the_dates(tokenizer, dates):
    train = [*dates["train"].sources, *dates["train"].targets]
    if tokenizer == "pieces":
        tokenizer = BPETokenizer.train(train, vocab_size=800)
    codec = (
        Codec(tokenizer, Vocab(tokenizer.tokens))
        if isinstance(tokenizer, BPETokenizer)
        else (Codec.build(train, tokenizer))
    )
    for pairs in dates.values():
        assert_restored(codec, [*pairs.sources, *pairs.targets])


def assert_restored(codec: Codec, texts: list[str]):
    for text in texts:
        ids = codec.encode(text)
        assert ids[-1] == codec.vocab.eos_id
        assert codec.vocab.unk_id not in ids
        assert codec.decode(ids) == text


def test_words_of_dates_are_cut_and_joined_in_western_locales(dates):
    """Korean dates such as 2026. 11. 21. too: their marks touch the word before them."""
    words = WordTokenizer()
    for text in dates["test"].sources:
        assert words.detokenize(words.tokenize(text)) == text


def test_a_batch_of_sources_is_tokens_end_padding():
    codec = Codec(CharTokenizer(), Vocab("abc"))
    assert codec.batch(["ab", "c", ""]).tolist() == [[4, 5, 2], [6, 2, 0], [2, 0, 0]]
    assert codec.decode(codec.batch(["ab", "c"])[1]) == "c"


def test_padding():
    rows = pad([[5], [6, 7, 8]], pad_id=9)
    assert rows.dtype == torch.long
    assert rows.tolist() == [[5, 9, 9], [6, 7, 8]]
    assert pad([[], []]).dtype == torch.long
    with pytest.raises(ValueError, match="at least one row; got none"):
        pad([])
