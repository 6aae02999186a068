"""Runs a reader's code so that nothing it does reaches the notebook: no error, no endless loop.

The code runs in a thread of its own. When its time is up, the thread is sent an exception, again
and again, until it ends. That stops every loop written in Python, in a Jupyter kernel and on every
system. It cannot stop one long call into C (a huge matrix product, `sum(itertools.count())`): the
thread is then left behind and said to be; a call that never lets other threads run blocks them all.
"""

import contextlib
import ctypes
import io
import linecache
import random
import sys
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

PATIENCE = 2.0  # seconds for a stopped thread to end
PRINTED = 400  # characters kept of what the code printed
NOT_THEIRS = tuple(
    str(Path(place).resolve())
    for place in {
        str(Path(__file__).resolve().parent.parent),
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    }
)


class OutOfTimeError(BaseException):
    """Raised inside a reader's code when its time is up; no `except Exception` catches it."""


@dataclass
class Outcome:
    """What came of running some code: a value, or an error; where in the reader's own lines."""

    value: Any = None
    error: BaseException | None = None
    line: tuple[int, str] | None = None  # number and text of the reader's line that failed
    out_of_time: bool = False
    left_behind: bool = False  # the thread could not be stopped
    printed: str = ""


class _Scrap(io.StringIO):
    """Keeps the first characters written and drops the rest, however much is printed."""

    def write(self, text: str) -> int:
        if self.tell() < PRINTED:
            super().write(text[:PRINTED])
        return len(text)


def run(code: Callable[[], Any], seconds: float) -> Outcome:
    """Call `code` with a time limit and return what came of it; raises KeyboardInterrupt alone."""
    outcome, scrap, ended = Outcome(), _Scrap(), threading.Event()

    def body() -> None:
        try:
            try:
                outcome.value = code()
            except BaseException as error:
                outcome.error = error
        except BaseException:  # the stop came when the code had just ended
            outcome.error = outcome.error or OutOfTimeError()
        ended.set()

    with _as_before(), contextlib.redirect_stdout(scrap), contextlib.redirect_stderr(scrap):
        thread = threading.Thread(target=body, name="answer", daemon=True)
        try:
            thread.start()
            in_time = _wait(ended, seconds)
        except KeyboardInterrupt:  # the reader did not want to wait
            _stop(thread, ended)
            raise
        if not in_time:
            outcome.out_of_time = True
            outcome.line = _reader_line(_frames(sys._current_frames().get(thread.ident or 0)))
            outcome.left_behind = not _stop(thread, ended)
    outcome.printed = scrap.getvalue()
    if outcome.error is not None and not outcome.out_of_time:
        outcome.line = _reader_line(traceback.walk_tb(outcome.error.__traceback__))
        outcome.error.__traceback__ = None  # frees the frames and what they hold
    return outcome


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Put back what a reader's code may change for everyone: random numbers, dtype, warnings."""
    state, python_state = torch.get_rng_state(), random.getstate()
    dtype, recursion = torch.get_default_dtype(), sys.getrecursionlimit()
    torch.manual_seed(0)
    random.seed(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_rng_state(state)
        random.setstate(python_state)
        torch.set_default_dtype(dtype)
        sys.setrecursionlimit(recursion)


def _wait(ended: threading.Event, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not ended.is_set() and (left := end - time.monotonic()) > 0:
        ended.wait(min(left, 0.2))  # in slices: one long wait cannot be interrupted on Windows
    return ended.is_set()


def _stop(thread: threading.Thread, ended: threading.Event) -> bool:
    end = time.monotonic() + PATIENCE
    while thread.ident and not ended.is_set() and time.monotonic() < end:
        ident = ctypes.c_ulong(thread.ident)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(OutOfTimeError))
        ended.wait(0.05)
    if ended.is_set():
        thread.join(1.0)  # a second stop may still be on its way: let it pass before we go on
    return ended.is_set()


def _frames(frame: FrameType | None) -> list[tuple[FrameType, int]]:
    found = [] if frame is None else list(traceback.walk_stack(frame))
    return found[::-1]  # outermost first, as in a traceback


def _reader_line(frames: Iterable[tuple[FrameType, int]]) -> tuple[int, str] | None:
    """Number and text of the innermost line that is neither Python's, a package's nor ours."""
    found = None
    for frame, number in frames:
        file = frame.f_code.co_filename
        if number and not file.startswith((*NOT_THEIRS, "<frozen", "<string>")):
            found = number, linecache.getline(file, number, frame.f_globals).strip()
    return found
