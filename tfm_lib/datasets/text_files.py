"""Parallel text of a reader's own: two files, one sentence a line."""

import codecs
import gzip
import zlib
from pathlib import Path

from tfm_lib.text.pairs import Pairs

GZIP = b"\x1f\x8b"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class ParallelTextError(ValueError):
    """A pair of files is no parallel text; the message names file, line and what to do."""


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, plain or gzip, ends removed.

    ParallelTextError, saying what to do, if it is absent, empty, damaged or not UTF-8.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ParallelTextError(f"{path} cannot be read: {error.strerror}") from None
    if content.startswith(GZIP):
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise ParallelTextError(f"{path} is a damaged gzip file: {error}") from None
    if content.startswith(UTF16):
        raise ParallelTextError(
            f"{path} is UTF-16, must be UTF-8. Convert it: iconv -f utf-16 -t utf-8 {path.name}"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        content = error.object  # without the mark that may stand in front of the text
        line = content.count(b"\n", 0, error.start) + 1
        raise ParallelTextError(
            f"{path}, line {line}: byte 0x{content[error.start]:02X} is not UTF-8. Convert the "
            f"file, for example, if it is Latin-1: iconv -f latin1 -t utf-8 {path.name}"
        ) from None
    # Split at line feeds alone: str.splitlines also splits at form feeds and U+2028 in a sentence.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if lines == [""]:
        raise ParallelTextError(f"{path} is empty")
    return lines


def read_pairs(src_path: str | Path, tgt_path: str | Path) -> tuple[Pairs, int]:
    """Sentences of two files that belong together, and how many pairs were left out as empty.

    A pair of which one side is blank teaches nothing and is skipped. Spaces at the ends of a line
    are removed. ParallelTextError as in `read_lines`, or if the files differ in length.
    """
    src_lines, tgt_lines = read_lines(src_path), read_lines(tgt_path)
    if len(src_lines) != len(tgt_lines):
        raise ParallelTextError(
            f"{src_path} has {len(src_lines)} lines and {tgt_path} has {len(tgt_lines)}: line n of "
            "one must be the translation of line n of the other"
        )
    stripped = [(src.strip(), tgt.strip()) for src, tgt in zip(src_lines, tgt_lines, strict=True)]
    kept = [(source, target) for source, target in stripped if source and target]
    if not kept:
        raise ParallelTextError(f"{src_path} and {tgt_path} hold no pair without a blank side")
    sources, targets = zip(*kept, strict=True)
    return Pairs(sources, targets, ["text"] * len(kept)), len(stripped) - len(kept)
