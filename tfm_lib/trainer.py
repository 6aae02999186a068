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
import os
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tfm_lib.datasets import Codec, Pairs, pad
from tfm_lib.parallel_text import TokenBatches, in_steps, target_tokens
from tfm_lib.runs import RunError, Settings, epoch_paths, load_checkpoint, save_checkpoint
from tfm_lib.training import label_smoothing_loss, update, warmup_cosine
from tfm_lib.translator import Translator, build_model, corpus_bleu, load_weights, weights_of

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


@dataclass(frozen=True)
class Worker:
    """One of the processes that train together."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this is the one that writes files and prints."""
        return self.rank == 0

    def share(self, batches: list) -> list:
        """This worker's batches of a step: no batch goes to two workers."""
        return batches[self.rank :: self.world_size]


@contextlib.contextmanager
def join_workers() -> Iterator[Worker]:
    """Meet the processes that torchrun started, or be alone; a GPU is used where there is one."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if "RANK" not in os.environ:
        yield Worker(0, 1, device)
        return
    store, rank, world_size = next(distributed.rendezvous("env://"))
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(agree_on_name(store, rank, world_size), store),
        rank=rank,
        world_size=world_size,
    )
    try:
        yield Worker(rank, world_size, device)
    finally:
        distributed.destroy_process_group()


def agree_on_name(store: distributed.Store, rank: int, world_size: int) -> str:
    """A name that only the workers started together know.

    torchrun keeps its store when it starts lost workers again, with the addresses of the dead in
    it. So rank 0 thinks of a name and hands it to whoever asks under a name of their own; a dead
    worker's question gets an answer that nobody reads.
    """
    own_name = uuid.uuid4().hex
    if rank > 0:
        store.set(f"asks/{rank}", own_name)
        name = store.get(f"answer/{own_name}").decode()  # waits for rank 0
        store.set(f"{name}/{rank}", "ready")
        return name
    others = range(1, world_size)
    while not all(store.check([f"{own_name}/{other}"]) for other in others):
        for other in others:
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", own_name)
        time.sleep(0.01)
    return own_name


def wait_for_others(worker: Worker) -> None:
    """Go on when every worker has come here."""
    if worker.world_size > 1:
        distributed.barrier()


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

    def __str__(self) -> str:
        weights = sum(weight.numel() for weight in self.model.parameters())
        return (
            f"{self.settings.model}, {weights:,} weights, on {self.worker.device}, "
            f"{self.worker.world_size} worker(s)\n{len(self.batches.rows)} pairs for training, "
            f"{len(self.text.valid)} for validation; left out: {self.text.blank} half blank, "
            f"{self.batches.skipped} with more than {self.settings.max_tokens} tokens\n"
            f"{self.steps} steps, {self.epoch_steps} an epoch"
        )

    def save(self) -> bool:
        """Write last.safetensors; False if it could not be written."""
        tensors = weights_of(self.model)
        for number, held in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in held.items()}
        return self._write("last", tensors)

    def _write(self, name: str, tensors: dict[str, Tensor]) -> bool:
        if not self.worker.writes:
            return True
        state = {key: getattr(self, key) for key in ("step", "seconds", "history")}
        state["text"] = self.text.fingerprint
        path = self.folder / f"{name}.safetensors"
        try:
            save_checkpoint(path, tensors, state)
        except OSError as error:  # a full disk must not end hours of training
            tqdm.write(
                f"step {self.step}: {path} was not written ({error}). Make room: training "
                "goes on, and the next save tries again"
            )
            return False
        return True

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
        """Train to the end, or until Ctrl-C; saved every `save_every` steps and then.

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
                if self.step % self.epoch_steps == 0:
                    self.validate()
                if stop or self.step % save_every == 0 or self.step == self.steps:
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
        """Translate the validation text, keep the weights, and the best of them as best."""
        if not self.worker.writes:
            return
        translated = Translator(self.model, self.codec).translate(self.text.valid.sources)
        bleu, signature = corpus_bleu(translated, self.text.valid.targets)
        best = max((entry["bleu"] for entry in self.history), default=-1.0)
        epoch = self.step // self.epoch_steps
        self.history.append(
            {"epoch": epoch, "step": self.step, "bleu": bleu, "seconds": self.seconds}
        )
        tqdm.write(f"epoch {epoch}: validation BLEU {bleu:.2f} ({signature})")
        if bleu > best:
            self._write("best", weights_of(self.model))
        if self._write(f"epoch-{epoch:03}", weights_of(self.model)):
            for path in epoch_paths(self.folder)[:-KEPT_EPOCHS]:
                path.unlink()


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
