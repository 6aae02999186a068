"""The processes that share a training run: one alone, or those that torchrun started."""

import contextlib
import os
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

# The others wait while the first one validates and writes, which may take long on a large text.
PATIENCE = timedelta(hours=6)


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
        timeout=PATIENCE,
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
