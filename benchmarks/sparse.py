"""Measure sparse attention on long inputs, and train it on images and on text by several seeds.

    python -m benchmarks.sparse             # everything, about 7 minutes on two cores
    python -m benchmarks.sparse speed       # one part anew

Writes benchmarks/sparse.json, which lesson 18 reads: it has no time for all of this. Ratios of CPU
time come from one process, in which the functions take turns.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks.dates import circumstances, write
from tfm_lib.attention.functions import (
    AttentionFunction,
    fused_attention,
    scaled_dot_product_attention,
)
from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.sparse import (
    fixed_attention,
    fixed_sets,
    fused_causal_attention,
    set_mask,
    strided_attention,
    strided_sets,
)
from tfm_lib.datasets.python_manual import hold_out, python_topics
from tfm_lib.models.gpt import next_token_loss
from tfm_lib.models.sparse_transformer import SparseTransformer
from tfm_lib.text.blocks import Blocks, cut_blocks
from tfm_lib.training import fit, warmup_cosine

RESULTS = Path(__file__).with_suffix(".json")
HEADS, D_K, LENGTH = 4, 32, 4096
LENGTHS = (1024, 2048, 4096, 8192, 16384)
SEEDS, C = (0, 1, 2, 3, 4), 2  # with c = 2 both patterns score about as many pairs
TASKS = {
    "images": {"max_len": 64, "stride": 8, "batch_size": 16, "steps": 400, "lr": 1e-2},
    "text": {"max_len": 256, "stride": 16, "batch_size": 8, "steps": 400, "lr": 1e-2},
}


def attention_of(name: str, length: int) -> AttentionFunction:
    """One of the causal attention functions under test, with a stride of about sqrt(length)."""
    stride = round(math.sqrt(length))
    if name in ("naive", "fused, masked"):
        attention = scaled_dot_product_attention if name == "naive" else fused_attention
        mask = causal_mask(length)
        return lambda query, key, value: attention(query, key, value, mask)
    return {
        "fused, causal": fused_causal_attention,
        "strided": strided_attention(stride),
        "fixed": fixed_attention(stride, C),
    }[name]


NAMES = ("naive", "fused, masked", "fused, causal", "strided", "fixed")


def heads(length: int) -> list[Tensor]:
    """Random query, key and value: (1, HEADS, length, D_K) each."""
    torch.manual_seed(0)
    return [torch.randn(1, HEADS, length, D_K, requires_grad=True) for _ in range(3)]


def seconds(attention: AttentionFunction, inputs: list[Tensor]) -> float:
    """CPU time of one pass forward and backward."""
    start = time.process_time()
    attention(*inputs)[0].sum().backward()
    return time.process_time() - start


def speed(rounds: int = 5) -> dict:
    """CPU time of each function over that of strided attention, forward and backward."""
    functions, inputs = {name: attention_of(name, LENGTH) for name in NAMES}, heads(LENGTH)
    spent = [
        {name: seconds(attention, inputs) for name, attention in functions.items()}
        for _ in range(rounds + 1)  # the first round warms up
    ][1:]
    ratios = {name: [times[name] / times["strided"] for times in spent] for name in NAMES}
    return {
        "length": LENGTH,
        "rounds": rounds,
        "times_strided": {name: round(statistics.median(r), 2) for name, r in ratios.items()},
        "least": {name: round(min(r), 2) for name, r in ratios.items()},
    }


def growth() -> dict:
    """CPU time by length and the exponent that fits it; for naive attention there is no memory."""
    found = {}
    for name, rounds in (("strided", 8), ("fixed", 8), ("fused, causal", 3)):
        times = []
        for length in LENGTHS:
            attention, inputs = attention_of(name, length), heads(length)
            times.append(min(seconds(attention, inputs) for _ in range(rounds)))
        x, y = torch.tensor([LENGTHS, times], dtype=torch.float64).log()
        slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        found[name] = {"seconds": [round(t, 4) for t in times], "exponent": round(slope.item(), 3)}
    return {"lengths": LENGTHS} | found


def memory() -> dict:
    """Megabytes: what each function keeps for the backward pass, and the most it holds at once."""
    return {"length": LENGTH} | {name: megabytes(name) for name in NAMES}


def megabytes(name: str) -> dict:
    """What `memory` says of one function; the inputs and the mask are there before."""
    attention, inputs, kept = attention_of(name, LENGTH), heads(LENGTH), {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output = attention(*inputs)[0]
        output.sum().backward()
    events = record.profiler.kineto_results.events()
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    peak = max(accumulate(change for _, change in sorted(changes)))
    return {"saved_mb": round(sum(kept.values()) / 1e6, 1), "peak_mb": round(peak / 1e6, 1)}


def image_tokens(levels: int = 8) -> tuple[Tensor, Tensor]:
    """Digits for training and test, (images, 1 + 64): a start token, then rows of grey levels."""
    pixels = torch.tensor(load_digits().data).long() * levels // 17  # 0..16 -> 0..7
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    token_ids = F.pad(pixels[order], (1, 0), value=levels)
    return token_ids[:1500], token_ids[1500:]


def text_tokens(length: int) -> tuple[Tensor, Tensor, int]:
    """Character ids of the training text, test blocks (100, 1 + length), number of characters."""
    texts = hold_out(python_topics())
    ids = {character: number for number, character in enumerate(sorted(set(texts[0])), start=1)}
    train, test = (torch.tensor([ids.get(character, 0) for character in text]) for text in texts)
    return train, cut_blocks(test, length)[:100], 1 + len(ids)


def patterns(task: str) -> dict:
    """Held-out loss of dense, strided and fixed attention by seed, in bits per token."""
    settings = TASKS[task]
    length, stride, steps = (settings[name] for name in ("max_len", "stride", "steps"))
    if task == "images":
        train, test = image_tokens()
        vocab_size = 9
    else:
        train, test, vocab_size = text_tokens(length)
    pairs = {
        "dense": causal_mask(length),
        "strided": set_mask(length, *strided_sets(stride)),
        "fixed": set_mask(length, *fixed_sets(stride, C)),
    }
    attentions = {
        "dense": fused_causal_attention,
        "strided": strided_attention(stride),
        "fixed": fixed_attention(stride, C),
    }
    found = {"settings": settings | {"c": C, "seeds": SEEDS}}
    for name, attention in attentions.items():
        found[name] = {"pairs": int(pairs[name].sum()), "bits": []}
        for seed in SEEDS[:1] if name == "dense" else SEEDS:
            torch.manual_seed(seed)
            model = SparseTransformer(
                vocab_size, max_len=length, stride=stride, attentions=[attention]
            )
            if task == "images":
                batches = DataLoader(train, batch_size=settings["batch_size"], shuffle=True)
            else:
                batches = Blocks(train, length=length, batch_size=settings["batch_size"], seed=seed)
            start = time.process_time()
            fit(
                model,
                batches,
                next_token_loss,
                steps=steps,
                lr=settings["lr"],
                schedule=warmup_cosine(steps // 10, steps),
                progress=False,
            )
            with torch.no_grad():
                bits = next_token_loss(model, test).item() / math.log(2)
            found[name]["bits"].append(round(bits, 3))
            spent = time.process_time() - start
            print(f"  {name}, seed {seed}: {bits:.3f} bits, {spent:.0f} s", flush=True)
    return found


PARTS = {
    "speed": speed,
    "growth": growth,
    "memory": memory,
    "images": lambda: patterns("images"),
    "text": lambda: patterns("text"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {list(PARTS)}; all if none")
    parts = parser.parse_args(arguments).parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; known: {list(PARTS)}")
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results |= circumstances()
    for name in parts:
        print(name, flush=True)
        results[name] = PARTS[name]()
        write(RESULTS, results)


if __name__ == "__main__":
    main()
