"""`tfm translate`: translate with a trained run."""

import re
import sys
from collections.abc import Iterable, Iterator
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

from cyclopts import Parameter
from cyclopts.validators import Number

if TYPE_CHECKING:
    from tfm_lib.translation.translator import Translator

LINE_END = re.compile(r"[\r\n]+")


def portions(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    """The lines without their ends, `size` at a time."""
    lines = iter(lines)
    while portion := [line.rstrip("\r\n") for line in islice(lines, size)]:
        yield portion


def translate(
    run: Annotated[Path, Parameter(help="the folder that `tfm train` wrote")],
    /,
    *texts: Annotated[str, Parameter(help="what to translate; if none: lines of standard input")],
    beam: Annotated[
        int,
        Parameter(help="hypotheses kept at a step; 1: greedy", validator=Number(gte=1, lte=100)),
    ] = 5,
    length_penalty: Annotated[
        float, Parameter(help="0 favours short translations", validator=Number(gte=0, lte=10))
    ] = 1.0,
    batch_size: Annotated[int, Parameter(help="texts at a time", validator=Number(gte=1))] = 64,
    weights: Annotated[
        Literal["best", "last", "average"], Parameter(help="which of the run's weights")
    ] = "best",
    with_run: Annotated[
        tuple[Path, ...],
        Parameter(help="average the predictions with another run's; may be repeated"),
    ] = (),
    attention: Annotated[
        Path | None, Parameter(help="draw where the first text's translation looks, as a PNG")
    ] = None,
) -> None:
    """Translate texts, or the lines of standard input, with a trained run.

    Examples: `tfm translate runs/de-en "Ein Hund läuft."` and
    `tfm translate runs/de-en --beam 1 < lines.de > lines.en`
    """
    from tfm_lib.translation.translator import Translator

    use_encoding(sys.stdout, "utf-8")  # a pipe on Windows has another
    translator = Translator.load(run, weights, with_run)
    if not texts:
        use_encoding(sys.stdin, "utf-8-sig")
    # A person who types waits for each line; a file is faster in batches.
    size = 1 if not texts and sys.stdin.isatty() else batch_size
    for part in portions(texts or sys.stdin, size):
        found = translator.translate(
            part, beam_size=beam, length_penalty=length_penalty, batch_size=batch_size
        )
        # One line each, even if a model that has learnt little writes the byte of a line's end.
        print(*(LINE_END.sub(" ", text) for text in found), sep="\n", flush=True)
        if attention:
            draw(translator, part[0], found[0], attention)
            attention = None


def use_encoding(stream: TextIO, encoding: str) -> None:
    """Let a file or a pipe have this encoding; what stands in for one has none."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(encoding=encoding)


def draw(translator: "Translator", source: str, target: str, path: Path) -> None:
    """Write the picture of where each token of the translation looks."""
    try:
        from tfm_lib.show.plots import attention_map
    except ImportError as error:
        raise ImportError(f'pictures need more ({error}): pip install "tfm-lib[learn]"') from None
    weights, written, read = translator.attention(source, target)
    figure = attention_map(weights, written, read, title="who looks where")
    figure.savefig(path, dpi=150, facecolor="white")
