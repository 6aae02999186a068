"""Train the models of the date task with their lessons' settings, and record what they reach.

    python -m benchmarks.dates                 # everything by five seeds: 20 minutes on one core
    python -m benchmarks.dates Transformer     # one part anew

Writes benchmarks/dates.json, which lesson 13 reads: there is no time in it to train the RNNs again.
"""

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

import torch
from torch import Tensor, nn, zeros_like

from tfm_lib.attention.functions import Attention, dot_score
from tfm_lib.datasets.dates import load_dates
from tfm_lib.decoding import greedy
from tfm_lib.layers.recurrent import LSTM, Bidirectional
from tfm_lib.models.seq2seq import (
    AttentionDecoder,
    RecurrentDecoder,
    RecurrentEncoder,
    RecurrentStep,
    Seq2Seq,
)
from tfm_lib.models.transformer import CachedStep, Transformer
from tfm_lib.text.batches import Batches
from tfm_lib.text.codec import Codec
from tfm_lib.text.pairs import Pairs, exact_match
from tfm_lib.text.tokenizers import CharTokenizer
from tfm_lib.training import fit, seq2seq_loss, warmup_cosine
from tfm_lib.translation.settings import write_atomically

RESULTS = Path(__file__).with_suffix(".json")
LONGEST = (11, 14, 19, 24, 99)  # the bins of source lengths end here
SPACES = (0, 2, 4, 8, 16, 32)  # written before a date: positions that training never showed
RNN_SIZES = {"embed_size": 32, "hidden_size": 64}
TRANSFORMER_SIZES = {"d_model": 64, "num_heads": 4, "num_layers": 2, "d_ff": 128, "dropout": 0.0}
SETTINGS = {
    "RNN": {"sizes": RNN_SIZES, "steps": 600, "lr": 8e-3, "warmup": 60},
    "RNN with attention": {"sizes": RNN_SIZES, "steps": 600, "lr": 8e-3, "warmup": 60},
    "RNN with attention, LSTM": {"sizes": RNN_SIZES, "steps": 600, "lr": 8e-3, "warmup": 60},
    "Transformer": {"sizes": TRANSFORMER_SIZES, "steps": 700, "lr": 6e-3, "warmup": 70},
}
BATCH_SIZE = 64
SEEDS, HEADS_STEPS = (0, 1, 2, 3, 4), 400  # short of perfect, where differences can be seen


class HandsOnH(LSTM):
    """An LSTM in a GRU's place: h alone goes in and out, the cell starts empty."""

    def forward(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        outputs, (h, _) = super().forward(x, lengths, None if h is None else (h, zeros_like(h)))
        return outputs, h


class WholePrefix:
    """A decoding step that reads all tokens again each time, so no cell need be kept."""

    def __init__(self, model: Seq2Seq, src_ids: Tensor) -> None:
        self.model, self.src_ids = model, src_ids

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        return self.model(self.src_ids, token_ids)[:, -1]


class Dates:
    """The three splits and the codecs built on the first."""

    def __init__(self) -> None:
        self.train, self.test = load_dates("train"), load_dates("test")
        self.src = Codec.build(self.train.sources, CharTokenizer())
        self.tgt = Codec.build(self.train.targets, CharTokenizer())

    def accuracy(self, model: nn.Module, pairs: Pairs) -> float:
        """The share of dates that greedy decoding gets right to the last digit."""
        step = CachedStep if isinstance(model, Transformer) else RecurrentStep
        if any(isinstance(part, LSTM) for part in model.modules()):
            step = WholePrefix
        vocab = self.tgt.vocab
        token_ids = greedy(
            step(model, self.src.batch(pairs.sources)),
            batch_size=len(pairs),
            bos_id=vocab.bos_id,
            eos_id=vocab.eos_id,
            pad_id=vocab.pad_id,
            max_len=12,
        )
        return exact_match([self.tgt.decode(row) for row in token_ids], pairs.targets)


def build(name: str, src_vocab_size: int, tgt_vocab_size: int, sizes: dict) -> nn.Module:
    """One of the models; dot-product attention in the RNN, as lesson 05 ends on it."""
    if name == "Transformer":
        return Transformer(src_vocab_size, tgt_vocab_size, **sizes)
    encoder = RecurrentEncoder(src_vocab_size, **sizes)
    if name == "RNN":
        return Seq2Seq(encoder, RecurrentDecoder(tgt_vocab_size, **sizes))
    decoder = AttentionDecoder(tgt_vocab_size, **sizes, attention=Attention(dot_score))
    if name.endswith("LSTM"):
        embed_size, hidden_size = sizes["embed_size"], sizes["hidden_size"]
        halves = (HandsOnH(embed_size, hidden_size // 2) for _ in range(2))
        encoder.rnn, decoder.rnn = Bidirectional(*halves), HandsOnH(embed_size, hidden_size)
    return Seq2Seq(encoder, decoder)


def train(
    name: str, dates: Dates, *, seed: int = 0, steps: int | None = None, **sizes: int
) -> tuple[nn.Module, dict]:
    """Train a model with its settings, but for `steps` and for the sizes that are given."""
    settings = SETTINGS[name] | ({"steps": steps} if steps else {})
    sizes = settings["sizes"] | sizes
    torch.manual_seed(seed)
    model = build(name, len(dates.src.vocab), len(dates.tgt.vocab), sizes)
    batches = Batches(dates.train, dates.src, dates.tgt, batch_size=BATCH_SIZE, seed=seed)
    start = time.process_time()
    history = fit(
        model,
        batches,
        seq2seq_loss(dates.tgt.vocab.pad_id),
        steps=settings["steps"],
        lr=settings["lr"],
        schedule=warmup_cosine(settings["warmup"], settings["steps"]),
    )
    return model, {
        "settings": settings | {"sizes": sizes, "batch_size": BATCH_SIZE, "seed": seed},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_seconds": round(time.process_time() - start, 1),
        "wall_seconds": round(history.seconds, 1),
        "exact_match": round(dates.accuracy(model, dates.test), 4),
    }


def by_length(dates: Dates, model: nn.Module) -> dict[str, dict]:
    """Accuracy on the test dates whose source is at most so long, and longer than the last bin."""
    found, shortest = {}, 0
    for longest in LONGEST:
        chosen = [i for i, s in enumerate(dates.test.sources) if shortest < len(s) <= longest]
        part = Pairs(
            *([texts[i] for i in chosen] for texts in (dates.test.sources, dates.test.targets)),
            [dates.test.kinds[i] for i in chosen],
        )
        found[str(longest)] = {
            "pairs": len(part),
            "exact_match": round(dates.accuracy(model, part), 4),
        }
        shortest = longest
    return found


def shifted(dates: Dates, model: nn.Module) -> dict[str, float]:
    """Accuracy on the test dates with so many spaces before them."""
    test = dates.test
    return {
        str(spaces): round(
            dates.accuracy(
                model, Pairs([" " * spaces + s for s in test.sources], test.targets, test.kinds)
            ),
            4,
        )
        for spaces in SPACES
    }


def heads(dates: Dates) -> dict:
    """The Transformer's accuracies with one head of full width and with several, by seed."""
    return {
        "seeds": SEEDS,
        "steps": HEADS_STEPS,
        "exact_match": {
            str(count): [
                train("Transformer", dates, seed=seed, steps=HEADS_STEPS, num_heads=count)[1][
                    "exact_match"
                ]
                for seed in SEEDS
            ]
            for count in (1, TRANSFORMER_SIZES["num_heads"])
        },
    }


def measured(name: str, dates: Dates) -> dict:
    """What the file says of one model: the first seed's run in full, and how all of them end."""
    found, right, after_spaces = {}, [], []
    for seed in SEEDS:
        model, run = train(name, dates, seed=seed)
        right.append(run["exact_match"])
        after_spaces.append(shifted(dates, model))
        if not found:
            found = run | {"by_length": by_length(dates, model), "shifted": after_spaces[0]}
    found["by_seed"] = {
        "seeds": SEEDS,
        "exact_match": right,
        "shifted": {spaces: [each[spaces] for each in after_spaces] for spaces in after_spaces[0]},
    }
    return found


def circumstances() -> dict:
    """When and on what a benchmark ran."""
    return {
        "date": str(datetime.date.today()),
        "hardware": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def write(path: Path, results: dict) -> None:
    """Write results as JSON, whole or not at all."""
    write_atomically(path, json.dumps(results, indent=2) + "\n")


def main() -> None:
    known = [*SETTINGS, "heads"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"some of {known}; all if none")
    parts = parser.parse_args().parts or known
    if unknown := set(parts) - set(known):
        parser.error(f"unknown parts {sorted(unknown)}; known: {known}")
    dates = Dates()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    results |= circumstances() | {
        "test_pairs": len(dates.test),
        "longest_training_source": max(map(len, dates.train.sources)),
    }
    for name in parts:
        print(name)
        results[name] = heads(dates) if name == "heads" else measured(name, dates)
        write(RESULTS, results)


if __name__ == "__main__":
    main()
