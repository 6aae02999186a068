"""The files that ship with the course, checked against their SHA-256 whenever they are read.

In a clone they lie in data/, in an installed package beside this module. A file of the same name
in the folder that the variable TFM_LIB_DATA names is read instead.
"""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

SHA256 = {
    "dates.tsv": "dbcbefaad520f98b1b9de174e7a9874e9b06e561faf4216b3b306aba128d3c89",
    "nouns.tsv": "0daed2edf87521bebe39a528ccef57b4ca6831e7be0ccfa9b6b1c62edfd72ecf",
    "parallel.tsv": "63d52017082bbd6ef43d45b9e18080fca914bd94535a8310aff21a175033a5bf",
}
INSTALLED = Path(__file__).resolve().parent / "shipped"  # a wheel carries them here
CLONE = Path(__file__).resolve().parents[2] / "data"


def read_split(name: str, split: str) -> list[dict[str, str]]:
    """The rows of a file that belong to a split, column -> cell; ValueError if it has none such."""
    rows = read_rows(name)
    require_known(split, dict.fromkeys(row["split"] for row in rows), "split")
    return [row for row in rows if row["split"] == split]


def read_rows(name: str) -> list[dict[str, str]]:
    """The rows of a tab-separated file under its header; ValueError if it is missing or altered."""
    header, *lines = read_checked(name).rstrip("\n").split("\n")
    columns = header.split("\t")
    return [dict(zip(columns, line.split("\t"), strict=True)) for line in lines]


def read_checked(name: str) -> str:
    """The text of a shipped file; ValueError saying how to restore it if it is not what shipped."""
    folder = CLONE if CLONE.is_dir() else INSTALLED
    path = Path(os.environ.get("TFM_LIB_DATA") or folder) / name
    path = path if path.is_file() else folder / name
    content = path.read_bytes() if path.is_file() else None
    actual = "none, the file is missing" if content is None else hashlib.sha256(content).hexdigest()
    if content is None or actual != SHA256[name]:
        raise ValueError(
            f"{path} is not the file this course was written with\n"
            f"  expected SHA-256: {SHA256[name]}\n"
            f"  actual SHA-256:   {actual}\n"
            f"  to restore it:    {how_to_restore(path, folder)}"
        )
    return content.decode("utf-8")


def how_to_restore(path: Path, folder: Path) -> str:
    """What to type, for a file of a clone, of an installed package, or of a reader's own folder."""
    if path.parent != folder:
        return f"delete {path}"
    if folder == CLONE:
        return f"git checkout -- data/{path.name}"
    return "pip install --force-reinstall --no-deps tfm-lib"


def require_known(name: str, known: Collection[str], what: str) -> None:
    """Raise ValueError, naming all that are known, unless the name is one of them."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
