"""Train the Transformer to translate the synthetic corpus, and record what it reaches.

    python -m benchmarks.parallel       # about 2 minutes on two cores

Writes benchmarks/parallel.json, which lesson 13 reads: it has the time to train one language only.
"""

import time
from pathlib import Path

import torch

from benchmarks.dates import circumstances, write
from tfm_lib.datasets.parallel import load_parallel
from tfm_lib.decoding import greedy
from tfm_lib.models.transformer import CachedStep, Transformer
from tfm_lib.text.batches import Batches
from tfm_lib.text.codec import Codec
from tfm_lib.text.pairs import Pairs, exact_match
from tfm_lib.text.tokenizers import WordTokenizer
from tfm_lib.training import fit, seq2seq_loss, warmup_cosine

RESULTS = Path(__file__).with_suffix(".json")
SIZES = {"d_model": 64, "num_heads": 4, "num_layers": 2, "d_ff": 128, "dropout": 0.0}
SETTINGS = {"batch_size": 32, "steps": 2000, "lr": 6e-3, "warmup": 200, "seed": 0}


def accuracy(model: Transformer, pairs: Pairs, src: Codec, tgt: Codec) -> float:
    """The share of sentences that greedy decoding translates exactly."""
    vocab = tgt.vocab
    token_ids = greedy(
        CachedStep(model, src.batch(pairs.sources)),
        batch_size=len(pairs),
        bos_id=vocab.bos_id,
        eos_id=vocab.eos_id,
        pad_id=vocab.pad_id,
        max_len=30,
    )
    return exact_match([tgt.decode(row) for row in token_ids], pairs.targets)


def measured(language: str) -> dict:
    """What the file says of one target language, "fr" or "ko"."""
    train = load_parallel("train", target=language)
    src = Codec.build(train.sources, WordTokenizer())
    tgt = Codec.build(train.targets, WordTokenizer())
    torch.manual_seed(SETTINGS["seed"])
    model = Transformer(len(src.vocab), len(tgt.vocab), norm_first=True, **SIZES)
    start = time.process_time()
    history = fit(
        model,
        Batches(train, src, tgt, batch_size=SETTINGS["batch_size"]),
        seq2seq_loss(tgt.vocab.pad_id),
        steps=SETTINGS["steps"],
        lr=SETTINGS["lr"],
        schedule=warmup_cosine(SETTINGS["warmup"], SETTINGS["steps"]),
    )
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "cpu_seconds": round(time.process_time() - start, 1),
        "wall_seconds": round(history.seconds, 1),
        "exact_match": {
            split: round(accuracy(model, load_parallel(split, target=language), src, tgt), 4)
            for split in ("val", "test")
        },
    }


def main() -> None:
    results = circumstances() | {"settings": SETTINGS | {"sizes": SIZES | {"norm_first": True}}}
    for language in ("fr", "ko"):
        print(language)
        results[language] = measured(language)
        write(RESULTS, results)


if __name__ == "__main__":
    main()
