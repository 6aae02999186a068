"""Measure the course's code against PyTorch's, and the cache against recomputing.

    python -m benchmarks

Each row is a ratio of process CPU times, taken in turn (A B A B ...) in one run, so that a slow
or busy machine slows both; the median of the pairwise ratios is printed with its extremes.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.functions import fused_attention
from tfm_lib.attention.masks import causal_mask
from tfm_lib.decoding import beam_search, greedy
from tfm_lib.layers.recurrent import LSTM
from tfm_lib.models.transformer import CachedStep, RecomputedStep, Transformer

VOCAB_SIZE, PAD_ID = 1000, 0
SIZES = {"d_model": 128, "num_heads": 4, "num_layers": 2, "d_ff": 512}


class TorchTransformer(nn.Module):
    """`torch.nn.Transformer` between the same embeddings and generator as the course's model."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.src_embedding, self.tgt_embedding = model.src_embedding, model.tgt_embedding
        self.generator = model.generator
        self.core = nn.Transformer(
            SIZES["d_model"],
            SIZES["num_heads"],
            SIZES["num_layers"],
            SIZES["num_layers"],
            SIZES["d_ff"],
            dropout=0.0,
            batch_first=True,
        )

    def forward(self, src_ids: torch.Tensor, tgt_ids: torch.Tensor) -> torch.Tensor:
        src_pads = src_ids == PAD_ID
        decoded = self.core(
            self.src_embedding(src_ids),
            self.tgt_embedding(tgt_ids),
            tgt_mask=~causal_mask(tgt_ids.size(1)),
            src_key_padding_mask=src_pads,
            tgt_key_padding_mask=tgt_ids == PAD_ID,
            memory_key_padding_mask=src_pads,
        )
        return self.generator(decoded)


def pairwise_ratios(ours: Callable[[], None], other: Callable[[], None], rounds: int) -> list:
    """CPU time of `ours` over that of `other`, in turn; the first round warms up."""
    ratios = []
    for _ in range(rounds + 1):
        spent = []
        for run in (ours, other):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
        ratios.append(spent[0] / spent[1])
    return ratios[1:]


def training_step(batch: int = 32, length: int = 40) -> list:
    """One training step of `Transformer` with fused attention against `torch.nn.Transformer`."""
    torch.manual_seed(0)
    model = Transformer(VOCAB_SIZE, VOCAB_SIZE, dropout=0.0, attention=fused_attention, **SIZES)
    theirs = TorchTransformer(model)
    src_ids = torch.randint(1, VOCAB_SIZE, (batch, length))
    tgt_ids = torch.randint(1, VOCAB_SIZE, (batch, length))
    for row in range(batch):  # a quarter of the tokens are padding, as in a mixed batch
        src_ids[row, length - row % (length // 2) :] = PAD_ID
        tgt_ids[row, length - row % (length // 2) :] = PAD_ID

    def step(model: nn.Module) -> None:
        for _ in range(4):
            logits = model(src_ids, tgt_ids)
            loss = F.cross_entropy(logits.flatten(0, 1), tgt_ids.flatten(), ignore_index=PAD_ID)
            model.zero_grad()
            loss.backward()

    return pairwise_ratios(lambda: step(model), lambda: step(theirs), rounds=15)


def decoding(tokens: int = 256) -> list:
    """Greedy decoding of 8 rows, 256 tokens each, without the cache against with it."""
    torch.manual_seed(0)
    model = Transformer(VOCAB_SIZE, VOCAB_SIZE, **SIZES).eval()
    src_ids = torch.randint(1, VOCAB_SIZE, (8, 40))
    ids = {"batch_size": 8, "bos_id": 1, "eos_id": VOCAB_SIZE, "pad_id": PAD_ID, "max_len": tokens}
    return pairwise_ratios(
        lambda: greedy(RecomputedStep(model, src_ids), **ids),
        lambda: greedy(CachedStep(model, src_ids), **ids),
        rounds=3,
    )


def marian_decoding(beam_size: int, tokens: int = 64) -> list | None:
    """Decoding 8 rows, cached, against Hugging Face's model of the same size, its cache on.

    Both write so many tokens, none of them eos. None where transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        return None
    from transformers import GenerationConfig, MarianConfig, MarianMTModel

    torch.manual_seed(0)
    eos_id = VOCAB_SIZE - 1
    sides = {
        f"{side}_{name}": SIZES[ours]
        for side in ("encoder", "decoder")
        for name, ours in (
            ("layers", "num_layers"),
            ("attention_heads", "num_heads"),
            ("ffn_dim", "d_ff"),
        )
    }
    ids = {"pad_token_id": PAD_ID, "eos_token_id": eos_id, "decoder_start_token_id": 1}
    config = MarianConfig(
        vocab_size=VOCAB_SIZE,
        d_model=SIZES["d_model"],
        max_position_embeddings=256,
        activation_function="relu",
        forced_eos_token_id=None,
        **sides,
        **ids,
    )
    theirs = MarianMTModel(config).eval()
    theirs.generation_config = GenerationConfig(
        num_beams=beam_size,
        do_sample=False,
        use_cache=True,
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        **ids,
    )
    model = Transformer(VOCAB_SIZE, VOCAB_SIZE, attention=fused_attention, **SIZES).eval()
    src_ids = torch.randint(1, eos_id, (8, 40))
    options = {"batch_size": 8, "bos_id": 1, "eos_id": -1, "pad_id": PAD_ID, "max_len": tokens}
    search = greedy if beam_size == 1 else partial(beam_search, beam_size=beam_size)

    def run_theirs() -> None:
        written = theirs.generate(src_ids, attention_mask=torch.ones_like(src_ids))
        assert written.shape == (8, tokens + 1)  # with the start token

    return pairwise_ratios(
        lambda: search(CachedStep(model, src_ids), **options), run_theirs, rounds=5
    )


def lstm_step() -> list:
    """One training step of the course's LSTM against `torch.nn.LSTM`."""
    torch.manual_seed(0)
    theirs = nn.LSTM(64, 128, batch_first=True)
    ours = LSTM.from_torch(theirs)
    x = torch.randn(32, 50, 64)

    def step(lstm: nn.Module) -> None:
        for _ in range(4):
            lstm.zero_grad()
            lstm(x)[0].square().mean().backward()

    return pairwise_ratios(lambda: step(ours), lambda: step(theirs), rounds=15)


def main() -> None:
    rows = [
        ("training step, Transformer / torch.nn.Transformer", "at most 0.95", training_step),
        ("decoding 256 tokens, recomputed / cached", "at least 8", decoding),
        ("training step, LSTM / torch.nn.LSTM", "at most 3", lstm_step),
        ("64 tokens, greedy, cached / MarianMTModel", "at most 1", partial(marian_decoding, 1)),
        ("64 tokens, beam 5, cached / MarianMTModel", "at most 1", partial(marian_decoding, 5)),
    ]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; ratios of CPU time\n")
    print(f"{'what':<52} {'goal':<13} {'median':>7} {'least':>7} {'most':>7}")
    for what, goal, measure in rows:
        start = time.perf_counter()
        ratios = measure()
        if ratios is None:
            print(f"{what:<52} skipped: transformers is not installed")
            continue
        middle = statistics.median(ratios)
        print(
            f"{what:<52} {goal:<13} {middle:>7.2f} {min(ratios):>7.2f} {max(ratios):>7.2f}"
            f"   ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
