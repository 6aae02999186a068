"""The folder of a training run: its settings, and checkpoints that survive being killed.

    settings.json      what was asked for, written once
    tokenizer.json     the sub-words
    last.safetensors   everything needed to go on: weights, optimizer, where it stood
    best.safetensors   the weights with the best validation BLEU
    epoch-007.safetensors ...  the weights after each of the newest epochs, to average

Files hold tensors and JSON only, so that reading one runs no code. Each is written under another
name, then moved into place: after a crash the old file or the new one is there, whole.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

DATA = ("multi30k", "files")
MODELS = ("transformer", "rnn")
PRECISIONS = ("float32", "bfloat16")
COUNTS = (
    *("vocab_size", "d_model", "num_heads", "num_layers", "d_ff"),
    *("batch_tokens", "batches_per_step", "max_tokens", "epochs", "warmup"),
)


class RunError(ValueError):
    """A run's folder, file or settings cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Settings:
    """All that decides a run's result, but for the text itself.

    RunError for numbers out of range. The RNN reads d_model as the width of its embeddings and
    d_ff as that of its state; num_heads, num_layers and norm_first do not concern it.
    """

    src: str = "de"
    tgt: str = "en"
    data: str = "multi30k"
    train: tuple[str, ...] = ()  # for data="files": the source's lines, the target's lines
    valid: tuple[str, ...] = ()  # the same; if not given, some pairs of train are held out
    model: str = "transformer"
    vocab_size: int = 6000  # sub-words, shared by both languages
    d_model: int = 128
    num_heads: int = 4
    num_layers: int = 3
    d_ff: int = 512
    dropout: float = 0.2
    norm_first: bool = True
    batch_tokens: int = 500  # padded tokens a side in a batch, at most
    batches_per_step: int = 4  # each of another length
    max_tokens: int = 100  # longer sentences are left out
    epochs: int = 12
    lr: float = 3e-3
    warmup: int = 400  # steps
    smoothing: float = 0.1
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name, known in (("data", DATA), ("model", MODELS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise RunError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise RunError(f"{name}={getattr(self, name)} must be 1 or more")
        if not 0 <= self.seed < 2**24:  # it is shifted by 40 bits to seed each batch's dropout
            raise RunError(f"seed={self.seed} must be at least 0 and below {2**24}")
        if not 0 < self.lr < math.inf:
            raise RunError(f"lr={self.lr} must be positive and finite")
        for name in ("dropout", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise RunError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        if self.model == "transformer" and self.d_model % self.num_heads != 0:
            raise RunError(
                f"d_model={self.d_model} must be divisible by num_heads={self.num_heads}"
            )
        if self.data == "multi30k" and (self.train or self.valid):
            raise RunError(
                "train and valid name files of your own: leave --data multi30k out, or them"
            )
        if self.data == "files" and (len(self.train) != 2 or len(self.valid) not in (0, 2)):
            raise RunError(
                f"train={self.train} and valid={self.valid} must name two files each, the source's "
                "and the target's; valid may be left out"
            )

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
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()})
        except FileNotFoundError:
            raise RunError(f"{folder} is not a run: it holds no settings.json") from None
        except (TypeError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}. Restore it, or train anew") from None


def epoch_paths(folder: Path) -> list[Path]:
    """The checkpoints of the newest epochs, oldest first."""
    return sorted(folder.glob("epoch-*.safetensors"), key=lambda path: (len(path.name), path.name))


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


def save_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict) -> None:
    """Write named tensors and a JSON-able state as one safetensors file."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(kept, metadata={"state": json.dumps(state)}))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_checkpoint` wrote, onto the CPU; RunError if it is absent or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            # Copies: what stays mapped cannot be replaced by the next save on Windows.
            names = file.keys()
            return {name: file.get_tensor(name).clone() for name in names}, state
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: nothing was saved there yet") from None
    except (SafetensorError, OSError, TypeError, KeyError, ValueError) as error:
        raise RunError(
            f"{path} is damaged ({error}). Delete it; what is left in {path.parent} is whole, and "
            "training can go on from another checkpoint renamed to last.safetensors, or anew"
        ) from None
