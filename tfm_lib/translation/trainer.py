"""A training run on one process or several, saved so that it can be killed and resumed.

A step takes several batches. Each is of like lengths, so that little is padded; together they are
of many, so that no step learns from short sentences alone. Workers, one or more, share a step's
batches out and add up their gradients: the run stays the same but for rounding.

The sentences of a step depend on the seed and the step alone, and what dropout draws for a batch on
these and on its place in the step. So a run that was killed and resumed ends with the weights of
one that never stopped, and one on several workers with those of one alone, but for rounding.
"""

import contextlib
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tfm_lib.text.batches import TokenBatches, in_steps
from tfm_lib.text.codec import Codec
from tfm_lib.training import update, warmup_cosine
from tfm_lib.translation.bleu import corpus_bleu
from tfm_lib.translation.build import build_model
from tfm_lib.translation.checkpoints import (
    CheckpointWriter,
    load_checkpoint,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    weights_of,
)
from tfm_lib.translation.corpus import Corpus, without_long
from tfm_lib.translation.loss import share_loss
from tfm_lib.translation.settings import RunError, Settings
from tfm_lib.translation.translator import Translator
from tfm_lib.translation.workers import Worker


class Training:
    """A run in progress: the model, its optimizer, and where in the text they stand."""

    def __init__(
        self, settings: Settings, folder: Path, worker: Worker, codec: Codec, corpus: Corpus
    ) -> None:
        if worker.world_size > settings.batches_per_step:
            raise RunError(
                f"{worker.world_size} workers cannot share {settings.batches_per_step} batches a "
                f"step: ask for --batches-per-step {worker.world_size}"
            )
        self.settings, self.folder, self.worker = settings, folder, worker
        self.codec, self.corpus = codec, corpus
        self.batches = TokenBatches(
            corpus.train,
            codec,
            batch_tokens=settings.batch_tokens,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
        )
        self.valid = without_long(corpus.valid, codec, max_tokens=settings.max_tokens)
        # Lengths decide the cuts, so each epoch has as many batches.
        self.epoch_steps = len(in_steps(self.batches.epoch(1), settings.batches_per_step))
        self.steps = settings.epochs * self.epoch_steps
        if self.steps < 2:
            raise RunError("the whole run is one step: ask for more --epochs, or give more text")
        self.schedule = warmup_cosine(settings.warmup_of(self.steps), self.steps)
        torch.manual_seed(settings.seed)
        self.model = build_model(settings, len(codec.vocab)).to(worker.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.checkpoints = CheckpointWriter(folder)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, Any]] = []  # of each epoch: step, validation BLEU, seconds

    def __str__(self) -> str:
        weights = sum(weight.numel() for weight in self.model.parameters())
        too_long = self.batches.skipped + len(self.corpus.valid) - len(self.valid)
        return (
            f"{self.settings.model}, {weights:,} weights, on {self.worker.device}, "
            f"{self.worker.world_size} worker(s)\n{len(self.batches.rows)} pairs for training, "
            f"{len(self.valid)} for validation; left out: {self.corpus.blank} half blank, "
            f"{too_long} with more than {self.settings.max_tokens} tokens\n"
            f"{self.steps} steps, {self.epoch_steps} an epoch"
        )

    def state(self) -> dict[str, Any]:
        """Where the run stands, as every checkpoint says."""
        return {
            "step": self.step,
            "seconds": self.seconds,
            "history": [*self.history],
            "text": self.corpus.fingerprint,
        }

    def save(self) -> bool:
        """Write what validation kept, then last.safetensors; False if a file was not written."""
        if not self.worker.writes:
            return True
        try:
            tensors = weights_of(self.model) | optimizer_tensors(self.optimizer)
            self.checkpoints.write(tensors, self.state())
        except OSError as error:  # a full disk must not end hours of training
            tqdm.write(
                f"step {self.step}: a checkpoint was not written ({error}). Make room in "
                f"{self.folder}: training goes on, and the next save tries again"
            )
            return False
        return True

    def resume(self) -> None:
        """Go on from last.safetensors; RunError if it is damaged or belongs to another text."""
        tensors, state = load_checkpoint(self.folder / "last.safetensors")
        if state["text"] != self.corpus.fingerprint:
            raise RunError(
                f"the text has changed since {self.folder} was trained on it: train anew"
            )
        load_weights(self.model, tensors)
        load_optimizer(self.optimizer, tensors)
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]

    def run(self, *, save_every: int) -> None:
        """Train to the end, or until Ctrl-C; saved then, and after epochs and `save_every` steps.

        RunError if the last save failed.
        """
        alone = self.worker.world_size == 1
        # The only buffers, encodings of positions, are as long as each worker needs them.
        model = (
            self.model if alone else DistributedDataParallel(self.model, broadcast_buffers=False)
        )
        saved = True
        stopping: AbstractContextManager[list[int]] = (
            stop_requests() if alone else contextlib.nullcontext([])
        )
        with (
            stopping as stop,
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
        best = all(bleu > entry["bleu"] for entry in self.history)
        epoch = self.step // self.epoch_steps
        self.history.append(
            {"epoch": epoch, "step": self.step, "bleu": bleu, "seconds": self.seconds}
        )
        tqdm.write(f"epoch {epoch}: validation BLEU {bleu:.2f} ({signature})")
        self.checkpoints.hold_epoch(epoch, weights_of(self.model), self.state(), best=best)


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
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
