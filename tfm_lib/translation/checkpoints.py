"""The folder of a training run, and checkpoints in it that survive being killed.

    settings.json      what was asked for, written once
    tokenizer.json     the sub-words
    last.safetensors   everything needed to go on: weights, optimizer, where it stood
    best.safetensors   the weights with the best validation BLEU
    epoch-007.safetensors ...  the weights after each of the newest epochs, to average

`trainer.Training.save` writes the last three, through `CheckpointWriter`; `run` the first two.
Files hold tensors and JSON only, so that reading one runs no code. Each is written under another
name, then moved into place: after a crash the old file or the new one is there, whole.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from tfm_lib.translation.settings import RunError, write_atomically

Tensors = dict[str, Tensor]

KEPT_EPOCHS = 5  # the paper averages its base models' last 5 checkpoints (section 6.1)
WRAPPERS = ("_orig_mod", "module")  # what torch.compile and DistributedDataParallel prepend


def save_checkpoint(path: Path, tensors: Tensors, state: dict[str, Any]) -> None:
    """Write named tensors and a JSON-able state as one safetensors file."""
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, save(kept, metadata={"state": json.dumps(state)}))


def load_checkpoint(path: Path) -> tuple[Tensors, dict[str, Any]]:
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


def epoch_paths(folder: Path) -> list[Path]:
    """The checkpoints of the newest epochs, oldest first."""
    return sorted(folder.glob("epoch-*.safetensors"), key=lambda path: (len(path.name), path.name))


class CheckpointWriter:
    """Writes a run's checkpoints; what the disk refused is held until a later write takes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.held: dict[str, tuple[Tensors, dict[str, Any]]] = {}

    def hold_epoch(
        self, epoch: int, tensors: Tensors, state: dict[str, Any], *, best: bool
    ) -> None:
        """Keep an epoch's weights for the next write, as the best ones too if they are that."""
        # An older epoch that a full disk refused is let go; the best weights are not.
        self.held = {name: checkpoint for name, checkpoint in self.held.items() if name == "best"}
        kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        if best:
            self.held["best"] = kept, state
        self.held[f"epoch-{epoch:03}"] = kept, state

    def write(self, tensors: Tensors, state: dict[str, Any]) -> None:
        """Write what is held, then last.safetensors; the OSError of the first file refused.

        In this order: a run is never resumed behind weights that were lost.
        """
        for name, checkpoint in (self.held | {"last": (tensors, state)}).items():
            save_checkpoint(self.folder / f"{name}.safetensors", *checkpoint)
            self.held.pop(name, None)
        for path in epoch_paths(self.folder)[:-KEPT_EPOCHS]:
            path.unlink()


def weights_of(model: nn.Module) -> Tensors:
    """The model's weights under their names in a checkpoint; a tied one comes once.

    What torch.compile and DistributedDataParallel prepend to names is left out: a wrapped model's
    checkpoint is the model's own.
    """
    return {f"model.{unwrapped(name)}": weight for name, weight in model.named_parameters()}


def unwrapped(name: str) -> str:
    """A weight's name without the wrappers around its model: ``module._orig_mod.a`` -> ``a``."""
    parts = name.split(".")
    while parts[0] in WRAPPERS:
        parts.pop(0)
    return ".".join(part for part in parts if part != "_orig_mod")  # of a compiled part inside


@torch.no_grad()
def load_weights(model: nn.Module, tensors: Tensors) -> None:
    """Copy a checkpoint's weights into the model; RunError naming the first that does not fit."""
    for name, weight in weights_of(model).items():
        if name not in tensors or tensors[name].shape != weight.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise RunError(
                f"{name} is {found} in the checkpoint and {tuple(weight.shape)} by settings.json: "
                "they belong to different runs"
            )
        weight.copy_(tensors[name])


def mean_weights(checkpoints: Sequence[Tensors]) -> Tensors:
    """The mean of each weight over checkpoints of one run; RunError if there are none."""
    if not checkpoints:
        raise RunError("no epoch-*.safetensors to average: the run has not finished an epoch")
    return {
        name: torch.stack([tensors[name] for tensors in checkpoints]).mean(dim=0)
        for name in checkpoints[0]
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """An optimizer's state under the names it has in a checkpoint: ``optimizer.0.exp_avg``."""
    return {
        f"optimizer.{number}.{name}": tensor
        for number, held in optimizer.state_dict()["state"].items()
        for name, tensor in held.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `optimizer_tensors` took out of an optimizer."""
    held: dict[int, Tensors] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            held.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": held})
