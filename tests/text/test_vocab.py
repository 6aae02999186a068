import pytest
import torch

from tfm_lib.text.vocab import SPECIALS, Vocab

TEXTS = [list("banana"), list("cab")]


def test_specials_come_first_then_tokens_by_frequency_then_alphabet():
    vocab = Vocab.build(TEXTS)
    assert vocab.tokens == ["<pad>", "<bos>", "<eos>", "<unk>", "a", "b", "n", "c"]
    assert (vocab.pad_id, vocab.bos_id, vocab.eos_id, vocab.unk_id) == (0, 1, 2, 3)
    assert len(vocab) == 8


def test_min_count_leaves_rare_tokens_out():
    assert Vocab.build(TEXTS, min_count=2).tokens[4:] == ["a", "b", "n"]


def test_decode_inverts_encode():
    vocab = Vocab.build(TEXTS)
    for tokens in [*TEXTS, []]:
        assert vocab.decode(vocab.encode(tokens)) == tokens


def test_unknown_tokens_stay_visible():
    vocab = Vocab.build(TEXTS)
    assert vocab.encode(["b", "x"]) == [5, 3]
    assert vocab.decode([5, 3]) == ["b", "<unk>"]


def test_decode_stops_at_the_first_end_and_leaves_out_padding_and_begin():
    vocab = Vocab.build(TEXTS)
    assert vocab.decode([1, 4, 0, 5, 2, 6, 2, 0]) == ["a", "b"]
    assert vocab.decode(torch.tensor([1, 4, 5, 2, 0])) == ["a", "b"]


@pytest.mark.parametrize("outside", [8, -1])
def test_ids_outside_the_vocabulary_are_named(outside):
    with pytest.raises(ValueError, match=rf"0\.\.7; got \[{outside}\]"):
        Vocab.build(TEXTS).decode([4, outside])


def test_an_id_outside_is_an_error_even_after_the_end():
    with pytest.raises(ValueError, match=r"got \[99\]"):
        Vocab.build(TEXTS).decode([4, 2, 99])


@pytest.mark.parametrize("tokens", [["x", "y", "x"], ["x", "<pad>"]])
def test_repeated_tokens_are_named(tokens):
    repeated = "x" if tokens.count("x") > 1 else SPECIALS[0]
    with pytest.raises(ValueError, match=rf"repeated: \['{repeated}'\]"):
        Vocab(tokens)


@pytest.mark.parametrize(("texts", "min_count"), [([], 1), ([[]], 1), (TEXTS, 9)])
def test_a_vocabulary_of_nothing_is_an_error(texts, min_count):
    with pytest.raises(ValueError, match=f"min_count={min_count}"):
        Vocab.build(texts, min_count=min_count)
