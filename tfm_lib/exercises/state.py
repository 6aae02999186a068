"""The reader's record: which exercises are solved or attempted, in one small file.

It lies beside the notebooks, and git ignores it. Whatever happens to the file costs the record and
nothing else, and every function says so in words instead of raising.
"""

import contextlib
import json
import os
import tempfile
from pathlib import Path

VARIABLE = "TFM_LIB_PROGRESS"  # names another file, for tests
NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
ATTEMPTED, SOLVED = "attempted", "solved"


def path() -> Path:
    """Where the record lies: beside the notebooks, or in the working folder without them."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    return (NOTEBOOKS if NOTEBOOKS.is_dir() else Path.cwd()) / ".progress.json"


def load() -> tuple[dict[str, str], str]:
    """Return id -> ATTEMPTED or SOLVED, the latest last; and what is wrong with the file, or ""."""
    file = path()
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        states = record["exercises"]
        good = {id_: state for id_, state in states.items() if state in (ATTEMPTED, SOLVED)}
    except FileNotFoundError:
        return {}, ""
    except OSError as error:
        return {}, f"The progress file {file.name} cannot be read ({error.strerror})."
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}, f"The progress file {file.name} is damaged: the record starts anew."
    return good, ""


def save(id_: str, state: str) -> str:
    """Record one exercise, never from solved back to attempted; return a complaint or ""."""
    states, complaint = load()
    if states.get(id_) == state and list(states)[-1] == id_:
        return complaint
    state = SOLVED if states.pop(id_, state) == SOLVED else state
    states[id_] = state
    try:
        if complaint:  # keep what could not be read
            with contextlib.suppress(FileNotFoundError):
                path().replace(path().with_name(".progress-damaged.json"))
        _write({"exercises": states})
    except OSError as error:
        reason = error.strerror or type(error).__name__
        return f"The progress could not be saved ({reason}). The answer counts all the same."
    return complaint


def _write(record: dict) -> None:
    """Write to a file beside it and put that in its place: never half a record."""
    target = path()
    handle, draft = tempfile.mkstemp(prefix=".progress-", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
        Path(draft).replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise
