import pytest

from tfm_lib.datasets import Codec, Pairs
from tfm_lib.parallel_text import ParallelTextError, TokenBatches, read_lines, read_pairs
from tfm_lib.tokenizers import WordTokenizer


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb", ["a", "b"]),
        ("\ufeffa\n\nb\n", ["a", "", "b"]),
        ("one\u2028line\x0cstill\n", ["one\u2028line\x0cstill"]),
    ],
)
def test_lines_end_at_line_feeds_alone(tmp_path, content, lines):
    assert read_lines(written(tmp_path / "a", content)) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"gut\nsch\xf6n\n", r"a, line 2: byte 0xF6 is not UTF-8.*iconv"),
        (b"\xef\xbb\xbfgut\nsch\xf6n\n", "a, line 2: byte 0xF6 is not UTF-8"),
        (b"", "is empty"),
        (None, "cannot be read: No such file"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    if content is not None:
        written(tmp_path / "a", content)
    with pytest.raises(ParallelTextError, match=message):
        read_lines(tmp_path / "a")


def test_pairs_with_a_blank_side_are_left_out_and_counted(tmp_path):
    src = written(tmp_path / "a.de", "eins\n\nzwei \n  \n")
    tgt = written(tmp_path / "a.en", "one\nx\n two\ny\n")
    pairs, blank = read_pairs(src, tgt)
    assert (pairs.sources, pairs.targets, blank) == (("eins", "zwei"), ("one", "two"), 2)


def test_files_of_different_length_are_refused_with_both_counts(tmp_path):
    src, tgt = written(tmp_path / "a.de", "a\nb\nc\n"), written(tmp_path / "a.en", "a\nb\n")
    with pytest.raises(ParallelTextError, match=r"a\.de has 3 lines and .*a\.en has 2"):
        read_pairs(src, tgt)


def test_nothing_but_blanks_is_refused(tmp_path):
    src, tgt = written(tmp_path / "a.de", "a\n\n"), written(tmp_path / "a.en", "\nb\n")
    with pytest.raises(ParallelTextError, match="no pair"):
        read_pairs(src, tgt)


def batches(count=101, **changes):
    texts = [" ".join(["w", str(i), *"x" * (i % 13)]) for i in range(count)]
    pairs = Pairs(texts, texts[::-1], ["text"] * count)
    codec = Codec.build(texts, WordTokenizer())
    return TokenBatches(pairs, codec, **({"batch_tokens": 90, "max_tokens": 14} | changes))


def test_every_pair_comes_once_in_batches_within_the_limit():
    found = batches(max_tokens=99)
    epoch = found.epoch(3)
    rows = [row for batch in epoch for row in batch]
    assert sorted(rows) == sorted(found.rows)
    assert len(rows) == 101
    assert all(len(b) * max(max(map(len, row)) for row in b) <= 90 for b in epoch)
    assert len(epoch) < 2 * sum(len(row[1]) for row in rows) / 90  # and the batches are full


def test_batches_are_of_like_length_by_the_longer_side():
    texts = (
        [" ".join("x" * (i % 7)) for i in range(91)],
        [" ".join("x" * (i % 13)) for i in range(91)],
    )
    codec = Codec.build(["x"], WordTokenizer())
    found = TokenBatches(Pairs(*texts, ["text"] * 91), codec, batch_tokens=60, max_tokens=99)
    lengths = [[max(map(len, row)) for row in batch] for batch in found.epoch(1)]
    assert sum(len(batch) * max(batch) for batch in lengths) < 1.05 * sum(map(sum, lengths))


def test_an_epoch_depends_on_seed_and_number_alone():
    found = batches()
    assert found.epoch(2) == batches().epoch(2)
    assert found.epoch(2) != found.epoch(1)
    assert found.epoch(2) != batches(seed=1).epoch(2)
    assert len({len(found.epoch(number)) for number in range(1, 9)}) == 1


def test_long_pairs_are_left_out_and_counted():
    found = batches(max_tokens=9)
    assert found.skipped + len(found.rows) == 101
    assert found.skipped > 0
    assert all(max(map(len, row)) <= 9 for row in found.rows)
    with pytest.raises(ParallelTextError, match="each of the 101 pairs"):
        batches(max_tokens=2)


def test_a_pair_longer_than_a_batch_has_one_of_its_own():
    assert max(map(len, batches(batch_tokens=1).epoch(1))) == 1
