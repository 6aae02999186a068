import gzip

import pytest

from tfm_lib.datasets.text_files import ParallelTextError, read_lines, read_pairs


def packed(content):
    """Gzipped without the time: the bytes name a test, which must be the same in every worker."""
    return gzip.compress(content, mtime=0)


def written(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return path


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb", ["a", "b"]),
        ("\ufeffa\n\nb\n", ["a", "", "b"]),
        (packed("ä\nb\n".encode()), ["ä", "b"]),
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
        ("a".encode("utf-16"), r"is UTF-16, must be UTF-8.*iconv -f utf-16 -t utf-8 a$"),
        ("\ufeffa".encode("utf-16-be"), "is UTF-16"),
        (packed("ä".encode("latin1")), "a, line 1: byte 0xE4 is not UTF-8"),
        (packed("a".encode("utf-16")), "is UTF-16"),
        (packed(b"a")[:-3], "is a damaged gzip file"),
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
