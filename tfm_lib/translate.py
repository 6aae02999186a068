"""Translate with a trained run: python -m tfm_lib.translate runs/x "Ein Hund läuft."

Without texts it translates the lines of standard input, one line each, so it also works in a pipe.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from tfm_lib.plotting import attention_map
from tfm_lib.translator import Translator


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tfm_lib.translate", description="Translate with a trained run."
    )
    parser.add_argument("run", type=Path, help="the folder that tfm_lib.train wrote")
    parser.add_argument("texts", nargs="*", metavar="text", help="if none: lines of stdin")
    parser.add_argument("--beam", type=int, default=5, metavar="SIZE", help="1: greedy; default 5")
    parser.add_argument("--length-penalty", type=float, default=1.0, help="default 1.0")
    parser.add_argument("--batch-size", type=int, default=64, help="texts at a time; default 64")
    parser.add_argument("--weights", choices=("best", "last", "average"), default="best")
    parser.add_argument(
        "--with-run",
        type=Path,
        action="append",
        default=[],
        metavar="RUN",
        help="average the predictions with those of another run; may be repeated",
    )
    parser.add_argument("--attention", type=Path, metavar="PNG", help="draw it for the first text")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch-size {options.batch_size} must be 1 or more")
    return options


def portions(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """The lines without their ends, `size` at a time."""
    lines = iter(lines)
    while portion := [line.rstrip("\r\n") for line in islice(lines, size)]:
        yield portion


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    sys.stdout.reconfigure(encoding="utf-8")  # a pipe on Windows has another
    try:
        translator = Translator.load(options.run, options.weights, options.with_run)
        if not options.texts:
            sys.stdin.reconfigure(encoding="utf-8-sig")
        source = options.texts or sys.stdin
        # A person who types waits for each line; a file is faster in batches.
        size = 1 if source is sys.stdin and sys.stdin.isatty() else options.batch_size
        picture = options.attention
        for texts in portions(source, size):
            found = translator.translate(
                texts,
                beam_size=options.beam,
                length_penalty=options.length_penalty,
                batch_size=options.batch_size,
            )
            print(*found, sep="\n", flush=True)
            if picture:
                weights, written, read = translator.attention(texts[0], found[0])
                figure = attention_map(weights, written, read, title="who looks where")
                figure.savefig(picture, dpi=150, facecolor="white")
                picture = None
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
