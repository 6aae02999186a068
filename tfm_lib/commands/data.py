"""`tfm data`: the data sets that are fetched on request."""

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

Language = Literal["de", "en", "fr"]


def data(
    name: Literal["multi30k"],
    /,
    *,
    src: Annotated[Language, Parameter(help="language to translate from")] = "de",
    tgt: Annotated[Language, Parameter(help="language to translate into")] = "en",
    folder: Annotated[
        Path | None, Parameter(help="where to; data/cache/multi30k by default")
    ] = None,
) -> None:
    """Show a data set's terms of use, then download it. Multi30k: 1.3 MB for a pair of languages.

    Example: `tfm data multi30k --src de --tgt en`

    Parameters
    ----------
    name
        the data set
    """
    from tfm_lib.datasets.multi30k import download_multi30k

    try:
        found = download_multi30k(src=src, tgt=tgt, folder=folder)
    except KeyboardInterrupt:
        print("\nwhat has arrived is kept: the same command goes on from there", file=sys.stderr)
        raise
    print(f"Multi30k {src}-{tgt} is in {found}")
