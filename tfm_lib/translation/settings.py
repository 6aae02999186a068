"""The settings of a training run: all that decides its result, but for the text itself.

The command line is made from them, so this module does without PyTorch.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

DATA = ("multi30k", "files")
MODELS = ("transformer", "rnn")
PRECISIONS = ("float32", "bfloat16")
COUNTS = (
    *("vocab_size", "d_model", "num_heads", "num_layers", "d_ff"),
    *("batch_tokens", "batches_per_step", "max_tokens", "epochs"),
)
MOST_WARMUP = 400  # steps


class RunError(ValueError):
    """A run's folder, file or settings cannot be used; the message says what to do."""


class SettingsError(RunError):
    """Settings that no run can have: the command line ends as after any wrong option."""


def setting(group: str, default: Any, help: str) -> Any:  # noqa: A002 (what a field calls it)
    """A field of `Settings`, with the group it belongs to and what it means."""
    return field(default=default, metadata={"group": group, "help": help})


@dataclass(frozen=True)
class Settings:
    """All that decides a run's result, but for the text itself.

    SettingsError for numbers out of range. The RNN reads d_model as the width of its embeddings and
    d_ff as that of its state; num_heads, num_layers and norm_first do not concern it.
    """

    src: str = setting("Text", "de", "language to translate from; a name, with files of your own")
    tgt: str = setting("Text", "en", "language to translate into")
    data: str = setting("Text", "multi30k", "which text: multi30k, or files (see --train)")
    train: tuple[str, ...] = setting("Text", (), "two files of your own, one sentence a line each")
    valid: tuple[str, ...] = setting(
        "Text", (), "the same, to be judged by; without them one pair in 50 of --train is held out"
    )
    max_tokens: int = setting("Text", 100, "longer sentences are left out (tokens a side)")
    vocab_size: int = setting("Text", 6000, "sub-words, shared by both languages")

    model: str = setting("Model", "transformer", "transformer, or rnn: the RNN with attention")
    d_model: int = setting("Model", 128, "width of embeddings and blocks")
    num_heads: int = setting("Model", 4, "heads of attention; they must divide d_model")
    num_layers: int = setting("Model", 3, "layers of the encoder, and of the decoder")
    d_ff: int = setting("Model", 512, "width inside feed-forward; of the RNN's state")
    dropout: float = setting("Model", 0.2, "share of activations dropped in training")
    norm_first: bool = setting("Model", True, "normalise before a sub-layer, not after it")

    epochs: int = setting("Training", 12, "passes over the text")
    batch_tokens: int = setting("Training", 500, "padded tokens a side in a batch, at most")
    batches_per_step: int = setting("Training", 4, "batches of a step, each of another length")
    lr: float = setting("Training", 3e-3, "highest learning rate, reached after the warm-up")
    warmup: int | None = setting(
        "Training", None, f"steps of warm-up; a fifth of the run's, at most {MOST_WARMUP}"
    )
    smoothing: float = setting("Training", 0.1, "label smoothing")
    seed: int = setting("Training", 0, "of weights, order and dropout; below 2**24")
    precision: str = setting("Training", "float32", "float32, or bfloat16, which suits a GPU")

    def __post_init__(self) -> None:
        for name, known in (("data", DATA), ("model", MODELS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise SettingsError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}"
                )
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be 1 or more")
        if self.warmup is not None and self.warmup < 1:
            raise SettingsError(f"warmup={self.warmup} must be 1 or more")
        if not 0 <= self.seed < 2**24:  # it is shifted by 40 bits to seed each batch's dropout
            raise SettingsError(f"seed={self.seed} must be at least 0 and below {2**24}")
        if not 0 < self.lr < math.inf:
            raise SettingsError(f"lr={self.lr} must be positive and finite")
        for name in ("dropout", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if self.model == "transformer" and self.d_model % self.num_heads != 0:
            raise SettingsError(
                f"d_model={self.d_model} must be divisible by num_heads={self.num_heads}"
            )
        if self.data == "multi30k" and (self.train or self.valid):
            raise SettingsError(
                "train and valid name files of your own: leave --data multi30k out, or them"
            )
        if self.data == "files" and (len(self.train) != 2 or len(self.valid) not in (0, 2)):
            raise SettingsError(
                f"train={self.train} and valid={self.valid} must name two files each, the source's "
                "and the target's; valid may be left out"
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "Settings":
        """Settings from what was given; files of one's own are the text if they are named."""
        implied = {"data": "files"} if "train" in given else {}
        return cls(**{**implied, **given})

    def warmup_of(self, steps: int) -> int:
        """The steps of warm-up in a run of so many; RunError if they leave none after them."""
        warmup = min(MOST_WARMUP, steps // 5) if self.warmup is None else self.warmup
        if self.warmup is not None and warmup >= steps:
            raise SettingsError(f"warmup={warmup} must be below the run's {steps} steps")
        return max(warmup, 1)

    def save(self, folder: Path) -> None:
        """Write settings.json."""
        write_atomically(folder / "settings.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Settings":
        """Read settings.json; RunError if there is none or it is not one of this version's."""
        path = folder / "settings.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError(f"it holds {found!r}, no settings")
            given: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in found.items()
            }
            return cls(**given)
        except FileNotFoundError:
            raise RunError(f"{folder} is not a run: it holds no settings.json") from None
        except (TypeError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}. Restore it, or train anew") from None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; the OSError of a full disk leaves the old file in place."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    try:
        with unfinished.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # a power cut may not reorder the move before the content
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
