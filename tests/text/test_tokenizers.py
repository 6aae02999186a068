import json
from pathlib import Path

import pytest

from tfm_lib.text.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer

TEXTS = ["the cat sat on the mat.", "the hat, the bat, the rat", "창문에서 고양이를 보았다."]


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.train(TEXTS, vocab_size=310)


def test_characters():
    assert CharTokenizer().tokenize("l'é 고") == ["l", "'", "é", " ", "고"]
    assert CharTokenizer().detokenize(["l", "'", "é", " ", "고"]) == "l'é 고"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("the cat, the dog.", ["the", "cat", ",", "the", "dog", "."]),
        ("l'ami de l'homme dort!", ["l'", "ami", "de", "l'", "homme", "dort", "!"]),
        ("don't you?", ["don'", "t", "you", "?"]),
        ("고양이|가 창문|에서 잔|다.", ["고양이", "|가", "창문", "|에서", "잔", "|다", "."]),
        ("the long-haired cat", ["the", "long-haired", "cat"]),
        ("wait...", ["wait", ".", ".", "."]),
    ],
)
def test_words(text, tokens):
    assert WordTokenizer().tokenize(text) == tokens
    assert WordTokenizer().detokenize(tokens) == text


def test_pieces_are_learnt_from_frequency(bpe):
    assert bpe.tokenize("the cat") == ["the", "▁", "cat"] or "▁the" in bpe.tokens
    assert len(bpe.tokenize(TEXTS[1])) < len(TEXTS[1])


def test_pieces_never_reach_across_words_or_punctuation(bpe):
    learnt = bpe.tokens[256:]
    assert any(len(piece) > 2 for piece in learnt)
    assert not any("▁" in piece[1:] for piece in learnt)
    assert not any(mark in piece for piece in learnt for mark in ".," if len(piece) > 1)


@pytest.mark.parametrize(
    "text",
    [
        *TEXTS,
        "",
        " ",
        "  two  spaces ",
        "never seen: Ωß 뷁 😀",
        "a\nb\tc",
        "don't!",
        "no\u00a0break",
    ],
)
def test_pieces_restore_every_text(bpe, text):
    assert bpe.detokenize(bpe.tokenize(text)) == text
    assert set(bpe.tokenize(text)) <= set(bpe.tokens)


def test_training_twice_learns_the_same_pieces(bpe):
    assert BPETokenizer.train(TEXTS, vocab_size=310).tokens == bpe.tokens
    assert len(bpe.tokens) == len(set(bpe.tokens)) <= 310


def test_saving_and_loading(bpe, tmp_path):
    path = tmp_path / "pieces.json"
    bpe.save(path)
    loaded = BPETokenizer.load(path)
    assert json.loads(path.read_text(encoding="utf-8"))["model"]["type"] == "BPE"
    assert loaded.tokens == bpe.tokens
    for text in [*TEXTS, "unseen 😀"]:
        assert loaded.tokenize(text) == bpe.tokenize(text)
        assert loaded.detokenize(loaded.tokenize(text)) == text
    assert [file.name for file in tmp_path.iterdir()] == ["pieces.json"]


def test_an_interrupted_save_leaves_the_old_file_whole(bpe, tmp_path, monkeypatch):
    path = tmp_path / "pieces.json"
    bpe.save(path)
    whole = path.read_bytes()

    def write_half_and_fail(self, text, **_):
        self.write_bytes(text.encode()[: len(text) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", write_half_and_fail)
    with pytest.raises(OSError, match="disk full"):
        bpe.save(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_to_learn_from_is_an_error(texts):
    with pytest.raises(ValueError, match=f"empty: {len(texts)} texts"):
        BPETokenizer.train(texts, vocab_size=300)


def test_too_small_a_vocabulary_is_an_error():
    with pytest.raises(ValueError, match=r"vocab_size=258 must be at least 259: .* 3 different"):
        BPETokenizer.train(["ab a"], vocab_size=258)
    assert len(BPETokenizer.train(["ab a"], vocab_size=259).tokens) == 259
