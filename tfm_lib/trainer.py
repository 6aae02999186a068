"""A training run on one process or several, saved so that it can be killed and resumed.

A step takes several batches. Each is of like lengths, so that little is padded; together they are
of many, so that no step learns from short sentences alone. Workers, one or more, share a step's
batches out and add up their gradients: the run stays the same but for rounding.

The sentences of a step depend on the seed and the step alone, and what dropout draws for a batch on
these and on its place in the step. So a run that was killed and resumed ends with the weights of
one that never stopped, and one on several workers with those of one alone, but for rounding.
"""

import contextlib
import hashlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tfm_lib.datasets import Codec, Pairs, pad
from tfm_lib.parallel_text import TokenBatches, encode_pairs, in_steps, target_tokens
from tfm_lib.runs import RunError, Settings, epoch_paths, load_checkpoint, save_checkpoint
from tfm_lib.training import label_smoothing_loss, update, warmup_cosine
from tfm_lib.translator import Translator, build_model, corpus_bleu, load_weights, weights_of
from tfm_lib.workers import Worker

KEPT_EPOCHS = 5  # the paper averages its base models' last 5 checkpoints (section 6.1)


@dataclass(frozen=True)
class Text:
    """What a run learns from and is judged by."""

    train: Pairs
    valid: Pairs
    blank: int  # pairs left out, since a side was blank

    @property
    def fingerprint(self) -> str:
        """A hash of the text: going on with another text would be another run."""
        sides = (side for text in (self.train, self.valid) for side in (text.sources, text.targets))
        return hashlib.sha256("\0".join(map("\n".join, sides)).encode("utf-8")).hexdigest()


def share_loss(
    model: nn.Module,
    batches: list,
    worker: Worker,
    *,
    smoothing: float,
    precision: str,
    seed: int | None = None,
) -> Tensor:
    """This worker's part of the mean loss a token of a step's batches.

    The workers' gradients are averaged, so each batch is weighted by its share of the step's target
    tokens times the number of workers: together that is the gradient of one process with them all.
    seed: batch n draws its dropout from seed + n, whoever takes it; None draws on.
    """
    own, parts = worker.share([*enumerate(batches)]), []
    tokens = sum(map(target_tokens, batches))
    for number, rows in own or [(0, batches[0][:1])]:  # none: join with weight 0
        if seed is not None:
            torch.manual_seed(seed + number)
        sources, targets = zip(*rows, strict=True)
        src_ids, tgt_ids = pad(sources).to(worker.device), pad(targets).to(worker.device)
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(src_ids, tgt_ids[:, :-1])  # (batch, tgt_len - 1, vocab)
        labels = tgt_ids[:, 1:]
        loss = label_smoothing_loss(logits.float(), labels, pad_id=0, smoothing=smoothing)
        weight = worker.world_size * target_tokens(rows) / tokens
        parts.append(loss * (weight if own else 0))
    return torch.stack(parts).sum()


class Training:
    """A run in progress: the model, its optimizer, and where in the text they stand."""

    def __init__(
        self, settings: Settings, folder: Path, worker: Worker, codec: Codec, text: Text
    ) -> None:
        if worker.world_size > settings.batches_per_step:
            raise RunError(
                f"{worker.world_size} workers cannot share {settings.batches_per_step} batches a "
                f"step: ask for --batches-per-step {worker.world_size}"
            )
        self.settings, self.folder, self.worker = settings, folder, worker
        self.codec, self.text = codec, text
        self.batches = TokenBatches(
            text.train,
            codec,
            batch_tokens=settings.batch_tokens,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )
        self.valid = not_over(settings.max_tokens, text.valid, codec)
        # Lengths decide the cuts, so each epoch has as many batches.
        self.epoch_steps = len(in_steps(self.batches.epoch(1), settings.batches_per_step))
        self.steps = settings.epochs * self.epoch_steps
        if settings.warmup >= self.steps:
            raise RunError(f"warmup={settings.warmup} must be below the run's {self.steps} steps")
        self.schedule = warmup_cosine(settings.warmup, self.steps)
        torch.manual_seed(settings.seed)
        self.model = build_model(settings, len(codec.vocab)).to(worker.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.step, self.seconds, self.history = 0, 0.0, []
        self.unwritten = {}  # name of a file -> its tensors and state, until a save writes it

    def __str__(self) -> str:
        weights = sum(weight.numel() for weight in self.model.parameters())
        too_long = self.batches.skipped + len(self.text.valid) - len(self.valid)
        return (
            f"{self.settings.model}, {weights:,} weights, on {self.worker.device}, "
            f"{self.worker.world_size} worker(s)\n{len(self.batches.rows)} pairs for training, "
            f"{len(self.valid)} for validation; left out: {self.text.blank} half blank, "
            f"{too_long} with more than {self.settings.max_tokens} tokens\n"
            f"{self.steps} steps, {self.epoch_steps} an epoch"
        )

    def save(self) -> bool:
        """Write what validation kept, then last.safetensors; False if a file was not written.

        In this order: a run is never resumed behind weights that were lost.
        """
        if not self.worker.writes:
            return True
        tensors = weights_of(self.model)
        for number, held in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in held.items()}
        for name, checkpoint in (self.unwritten | {"last": (tensors, self.state())}).items():
            path = self.folder / f"{name}.safetensors"
            try:
                save_checkpoint(path, *checkpoint)
            except OSError as error:  # a full disk must not end hours of training
                tqdm.write(
                    f"step {self.step}: {path} was not written ({error}). Make room: training "
                    "goes on, and the next save tries again"
                )
                return False
            self.unwritten.pop(name, None)
        for path in epoch_paths(self.folder)[:-KEPT_EPOCHS]:
            path.unlink()
        return True

    def state(self) -> dict:
        """Where the run stands, as every checkpoint says."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": [*self.history],
            "text": self.text.fingerprint,
        }

    def resume(self) -> None:
        """Go on from last.safetensors; RunError if it is damaged or belongs to another text."""
        tensors, state = load_checkpoint(self.folder / "last.safetensors")
        if state["text"] != self.text.fingerprint:
            raise RunError(
                f"the text has changed since {self.folder} was trained on it: train anew"
            )
        load_weights(self.model, tensors)
        held = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, number, key = name.split(".")
                held.setdefault(int(number), {})[key] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": held})
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]

    def run(self, *, save_every: int) -> None:
        """Train to the end, or until Ctrl-C; saved then, and after epochs and `save_every` steps.

        RunError if the last save failed.
        """
        model, alone = self.model, self.worker.world_size == 1
        if not alone:
            # The only buffers, encodings of positions, are as long as each worker needs them.
            model = DistributedDataParallel(model, broadcast_buffers=False)
        saved = True
        with (
            stop_requests() if alone else contextlib.nullcontext([]) as stop,
            tqdm(total=self.steps, initial=self.step, disable=not self.worker.writes) as bar,
        ):
            for batches in self.remaining():
                bar.set_postfix(loss=f"{self.train_on(model, batches):.2f}", refresh=False)
                bar.update()
                if epoch_ends := self.step % self.epoch_steps == 0:
                    self.validate()
                if stop or epoch_ends or self.step % save_every == 0:
                    saved = self.save()
                if stop:
                    break
        if not saved:
            raise RunError(
                f"step {self.step} was not saved. Make room, then --resume repeats the steps since "
                "the last checkpoint"
            )

    def remaining(self) -> Iterator[list]:
        """The batches of each step from where the run stands to its end."""
        for epoch in range(self.step // self.epoch_steps, self.settings.epochs):
            steps = in_steps(self.batches.epoch(epoch + 1), self.settings.batches_per_step)
            yield from steps[self.step - epoch * self.epoch_steps :]

    def train_on(self, model: nn.Module, batches: list) -> float:
        """Take one step on its batches; return this worker's part of the loss."""
        start = time.perf_counter()
        self.step += 1
        model.train()
        self.optimizer.param_groups[0]["lr"] = self.settings.lr * self.schedule(self.step)
        loss = share_loss(
            model,
            batches,
            self.worker,
            smoothing=self.settings.smoothing,
            precision=self.settings.precision,
            seed=(self.settings.seed << 40) + (self.step << 10),
        )
        value = update(self.optimizer, loss, step=self.step, clip=1.0)
        self.seconds += time.perf_counter() - start
        return value

    def validate(self) -> None:
        """Translate the validation text; keep the weights for the next save, the best as best."""
        if not self.worker.writes:
            return
        translated = Translator(self.model, self.codec).translate(self.valid.sources)
        bleu, signature = corpus_bleu(translated, self.valid.targets)
        best = max((entry["bleu"] for entry in self.history), default=-1.0)
        epoch = self.step // self.epoch_steps
        self.history.append(
            {"epoch": epoch, "step": self.step, "bleu": bleu, "seconds": self.seconds}
        )
        tqdm.write(f"epoch {epoch}: validation BLEU {bleu:.2f} ({signature})")
        state = self.state()
        kept = {name: weight.detach().clone() for name, weight in weights_of(self.model).items()}
        # An older epoch that a full disk refused is let go; the best weights are not.
        self.unwritten = {name: file for name, file in self.unwritten.items() if name == "best"}
        if bleu > best:
            self.unwritten["best"] = kept, state
        self.unwritten[f"epoch-{epoch:03}"] = kept, state


def not_over(max_tokens: int, pairs: Pairs, codec: Codec) -> Pairs:
    """The pairs without those with a longer side; RunError if that is all of them."""
    fits = [max(map(len, row)) <= max_tokens for row in encode_pairs(pairs, codec)]
    if not any(fits):
        raise RunError(
            f"each of the {len(pairs)} pairs for validation has a side of more than {max_tokens=}"
        )
    columns = (pairs.sources, pairs.targets, pairs.kinds)
    return Pairs(*(list(compress(column, fits)) for column in columns))


@contextlib.contextmanager
def stop_requests() -> Iterator[list]:
    """Turn the first Ctrl-C into an entry of the list; the second one interrupts as ever."""
    asked = []

    def note(number: int, frame: object) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, before)
        tqdm.write("stopping after this step; once more to stop at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
