"""Fetch a file whose SHA-256 is known: resumed, retried, checked, only then put in its place."""

import hashlib
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError

from filelock import FileLock
from tqdm import tqdm

CHUNK = 1 << 16  # bytes


class DownloadError(OSError):
    """A file was not fetched; the message says what failed where and what to do by hand."""


class _MirrorError(Exception):
    """One address failed; ``again`` says whether it may be worth another try."""

    def __init__(self, reason: object, *, again: bool) -> None:
        super().__init__(reason)
        self.again = again


def fetch(
    urls: Sequence[str],
    path: str | Path,
    *,
    sha256: str,
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
    progress: bool = True,
) -> Path:
    """Put the file with this SHA-256 at ``path``, from the first of the ``urls`` that has it.

    Nothing is downloaded if it is there already. What has arrived waits in ``<name>.part``, where
    the next call goes on; it takes the file's place, in one step, once its SHA-256 is right. Each
    address gets ``attempts`` tries, ``pause`` seconds apart, then twice that, and so on; silence of
    ``timeout`` seconds ends a try. Processes that fetch into one folder take turns.
    Raises DownloadError if no address has the file or the disk does not take it.
    """
    path = Path(path).absolute()
    part = path.with_name(f"{path.name}.part")
    failures = []
    try:
        if _is_whole(path, sha256):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tqdm(desc=path.name, unit="B", unit_scale=True, disable=not progress) as bar,
            FileLock(path.with_name(".lock")),
        ):
            if _is_whole(path, sha256):  # another process has fetched it while this one waited
                return path
            for url in urls:
                try:
                    _try_mirror(url, part, sha256, bar, timeout, attempts, pause)
                except _MirrorError as error:
                    failures.append(f"{url}: {error}")
                else:
                    return part.replace(path)
    except OSError as error:  # the disk's: no other address can help
        failures.append(f"the disk: {error}")
    raise DownloadError(
        "\n  ".join([f"{path.name} was not downloaded:", *failures])
        + "\nOnce the cause is mended, the same command goes on from what has arrived."
        + "\n  ".join(["\nBy hand: save, as it is, not unpacked, one of", *urls])
        + f"\nas {path}\nIts SHA-256 is {sha256}"
    )


def _try_mirror(
    url: str, part: Path, sha256: str, bar: tqdm, timeout: float, attempts: int, pause: float
) -> None:
    """Complete the part file from one address; _MirrorError if it cannot be done."""
    for attempt in range(1, attempts + 1):
        try:
            resumed = _receive(url, part, bar, timeout)
            if _is_whole(part, sha256):
                return
            part.unlink()
            # Wrong bytes may have come from an earlier address: then this one sends them all.
            raise _MirrorError("wrong bytes, their SHA-256 differs", again=resumed)
        except _MirrorError as error:
            if not error.again or attempt == attempts:
                raise
        time.sleep(pause * 2 ** (attempt - 1))


def _receive(url: str, part: Path, bar: tqdm, timeout: float) -> bool:
    """Write what is missing to the part file; True if bytes that were there before are kept."""
    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with _blaming_the_mirror():
        try:
            response: HTTPResponse = urllib.request.urlopen(request, timeout=timeout)
        except HTTPError as error:
            if error.code != 416 or not start:  # 416: there is nothing after `start`
                raise
            error.close()
            return True
    with response:
        kept = start if response.status == 206 else 0  # 200: the server sends the whole file
        length = response.headers["Content-Length"]  # None where the server does not know
        size = length and kept + int(length)
        bar.reset(total=size)
        bar.n = bar.initial = kept
        with part.open("ab" if kept else "wb") as file:
            while chunk := _read(response):
                file.write(chunk)
                bar.update(len(chunk))
    arrived = part.stat().st_size
    if size and arrived < size:
        raise _MirrorError(f"cut off after {arrived} of {size} bytes", again=True)
    return kept > 0


def _read(response: HTTPResponse) -> bytes:
    with _blaming_the_mirror():
        return response.read1(CHUNK)


@contextmanager
def _blaming_the_mirror() -> Iterator[None]:
    """Tell the network's errors from the disk's: both are OSErrors."""
    try:
        yield
    except HTTPError as error:
        error.close()
        again = error.code in (408, 429) or error.code >= 500  # what may pass
        raise _MirrorError(f"HTTP {error.code} {error.reason}", again=again) from None
    except (OSError, HTTPException) as error:
        raise _MirrorError(getattr(error, "reason", error), again=True) from None


def _is_whole(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
