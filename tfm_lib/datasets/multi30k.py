"""Multi30k, 31,014 captions of photographs in English, German and French: read and downloaded."""

import gzip
import hashlib
import os
from pathlib import Path

from tfm_lib.datasets.download import fetch
from tfm_lib.text.pairs import Pairs

LANGUAGES = ("de", "en", "fr")
SPLITS = {  # name of the file, lines
    "train": ("train", 29_000),
    "val": ("val", 1_014),
    "test": ("test_2016_flickr", 1_000),
}
SHA256 = {
    "train.de.gz": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en.gz": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr.gz": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.de.gz": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en.gz": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr.gz": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.de.gz": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en.gz": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr.gz": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}

COMMIT = "a3d2e0d26b56f3846f66a952536ffed4e401d05a"
MIRRORS = (
    f"https://raw.githubusercontent.com/multi30k/dataset/{COMMIT}/data/task1/raw/",
    f"https://cdn.jsdelivr.net/gh/multi30k/dataset@{COMMIT}/data/task1/raw/",
    f"https://github.com/multi30k/dataset/raw/{COMMIT}/data/task1/raw/",
)
CLONE = Path(__file__).resolve().parents[2]
# A clone keeps downloads in its data/; an installed package in the user's cache.
CACHE = (
    CLONE / "data" / "cache" / "multi30k"
    if (CLONE / "data").is_dir()
    else Path.home() / ".cache" / "tfm_lib" / "multi30k"
)

TERMS = """\
Multi30k (Elliott et al., 2016, https://arxiv.org/abs/1605.00459) extends Flickr30k and is shared
under its terms: the captions are for non-commercial research and education only, and what comes
from Flickr abides by the Flickr terms of use, https://www.flickr.com/help/terms
Whoever downloads the files agrees to this. Source: https://github.com/multi30k/dataset
"""


class MissingDataError(ValueError):
    """The data is not on this computer; the message says how to get it."""


def load_multi30k(
    split: str, *, src: str = "de", tgt: str = "en", folder: str | Path | None = None
) -> Pairs:
    """Captions and their translations, src and tgt two of de, en, fr; split: train, val or test.

    The lines are as published, without their ends: some begin or end with a space, some hold a
    no-break space. ``test`` is test_2016_flickr; every one of ``kinds`` is ``caption``.
    The files are looked for in ``folder`` or its subfolder ``multi30k``; without ``folder``, in the
    one that the variable TFM_LIB_DATA names, then in data/cache/multi30k. Nothing is downloaded.
    Raises MissingDataError, a ValueError, where a file is absent, and ValueError for one that is
    altered, an unknown split or an unknown pair of languages.
    """
    advice = _how_to_get(src, tgt, folder)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    stem, lines = SPLITS[split]
    sources, targets = (
        _read_lines(_find(f"{stem}.{language}.gz", folder, advice), lines, advice)
        for language in (src, tgt)
    )
    return Pairs(sources, targets, ["caption"] * lines)


def download_multi30k(
    *, src: str = "de", tgt: str = "en", folder: str | Path | None = None, progress: bool = True
) -> Path:
    """Show the terms of use, then fetch a pair's six files into ``folder`` or data/cache/multi30k.

    Returns the folder. Raises ValueError for an unknown pair of languages and DownloadError as
    `fetch` does; what has arrived until then is kept.
    """
    names = _file_names(src, tgt)
    folder = Path(folder or CACHE)
    print(TERMS, flush=True)
    for name in names:
        urls = [mirror + name for mirror in MIRRORS]
        fetch(urls, folder / name, sha256=SHA256[name], progress=progress)
    return folder


def _file_names(src: str, tgt: str) -> list[str]:
    if src == tgt or not {src, tgt} <= {*LANGUAGES}:
        raise ValueError(
            f"unknown pair of languages {src}-{tgt}; it must be two of {', '.join(LANGUAGES)}"
        )
    return [f"{stem}.{language}.gz" for stem, _ in SPLITS.values() for language in (src, tgt)]


def _find(name: str, folder: str | Path | None, advice: str) -> Path:
    named = folder or os.environ.get("TFM_LIB_DATA")
    folders = [Path(named), Path(named, "multi30k")] if named else []
    folders += [] if folder else [CACHE]
    for candidate in folders:
        if (candidate / name).is_file():
            return candidate / name
    searched = "\n  ".join([f"Multi30k is not here yet. {name} is in none of", *map(str, folders)])
    raise MissingDataError(f"{searched}\n{advice}")


def _read_lines(path: Path, lines: int, advice: str) -> list[str]:
    content = path.read_bytes()
    actual = hashlib.sha256(content).hexdigest()
    if actual != SHA256[path.name]:
        raise ValueError(
            f"{path} is not the published file; delete it\n"
            f"  expected SHA-256: {SHA256[path.name]}\n  actual SHA-256:   {actual}\n{advice}"
        )
    text = gzip.decompress(content).decode("utf-8")
    rows = text.removesuffix("\n").split("\n")  # splitlines would also cut at rarer characters
    if len(rows) != lines:
        raise ValueError(f"{path} has {len(rows)} lines; it must have {lines}")
    return rows


def _how_to_get(src: str, tgt: str, folder: str | Path | None) -> str:
    names = _file_names(src, tgt)
    option = f' --folder "{folder}"' if folder else ""
    by_hand = f"By hand: save these, as they are, not unpacked, in {folder or CACHE}"
    return (
        f"To download it: tfm data multi30k --src {src} --tgt {tgt}{option}\n"
        + "\n  ".join([by_hand, *(MIRRORS[0] + name for name in names)])
        + "\nIf you have the files: name their folder in the variable TFM_LIB_DATA."
    )
