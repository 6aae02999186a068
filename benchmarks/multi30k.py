"""Train the translators of lesson 16 on Multi30k, judge them on the test split, and record both.

    python -m benchmarks.multi30k                # everything: hours on two cores
    python -m benchmarks.multi30k small rnn      # some parts
    python -m benchmarks.multi30k details        # the switches of the lesson's table, in minutes
    python -m benchmarks.multi30k seeds          # small against rnn, five short runs each: an hour

Writes benchmarks/multi30k.json, which lesson 16 reads, and from it the table in README.md; other
parts' entries stay. A run is kept under runs/: what was stopped goes on, what is finished is only
judged again. A switch that is in the file is not measured again.
"""

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.dates import circumstances, write
from tfm_lib.attention.functions import fused_attention
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.datasets.multi30k import load_multi30k
from tfm_lib.layers.blocks import FeedForward
from tfm_lib.models.transformer import Transformer
from tfm_lib.text.batches import TokenBatches, in_steps
from tfm_lib.text.codec import Codec
from tfm_lib.text.pairs import Pairs
from tfm_lib.text.tokenizers import BPETokenizer
from tfm_lib.text.vocab import Vocab
from tfm_lib.training import update, warmup_cosine
from tfm_lib.translation.bleu import corpus_bleu
from tfm_lib.translation.loss import share_loss
from tfm_lib.translation.run import begin, go_on
from tfm_lib.translation.settings import RunError, Settings, write_atomically
from tfm_lib.translation.trainer import Training
from tfm_lib.translation.translator import Translator
from tfm_lib.translation.workers import Worker, join_workers

RESULTS = Path(__file__).with_suffix(".json")
README = Path(__file__).resolve().parent.parent / "README.md"
RUNS = README.with_name("runs")

SMALL = Settings(vocab_size=4000, num_layers=2, dropout=0.15, epochs=8, lr=4e-3)
FULL = Settings(vocab_size=4000, num_layers=3, dropout=0.25, epochs=24, lr=4e-3, warmup=600)
EN_DE = replace(FULL, src="en", tgt="de", num_layers=4, d_ff=256, dropout=0.3, epochs=52)
SETTINGS = {
    "small": SMALL,
    "rnn": replace(SMALL, model="rnn", d_ff=256, dropout=0.2, lr=3e-3),
    "full": FULL,
    "full en-de": EN_DE,
    "second en-de": replace(EN_DE, seed=1),
}
TOGETHER = {"both en-de": ("full en-de", "second en-de")}  # runs whose predictions are averaged
WAYS = {"greedy": 1, "beam 5": 5}  # beam sizes
PENALTIES = (0.5, 1.0, 1.5, 2.0)  # for length: the best one on the validation split is used
HEADER = (
    "| run | model | translates | weights | minutes of training | test BLEU, greedy | beam 5 |\n"
    "|---|---|---|---|---|---|---|\n"
)
KINDS = {"transformer": "Transformer", "rnn": "RNN with attention"}
TABLE = re.compile(re.escape(HEADER) + r"(?:\|.*\n)*")
LONGEST = (8, 12, 16, 99)  # the bins of source lengths, in words, end here
RARE = 5  # a word seen fewer times in training is rare
SENTENCES = {
    "de": ("Ein kleiner Hund läuft durch den Schnee.", "Die Frau zieht ihren roten Mantel an."),
    "en": ("A small dog runs through the snow.", "The woman puts on her red coat."),
}


def trained(name: str, settings: Settings, worker: Worker) -> Training:
    """The finished run of that name: begun, gone on with, or found as it is."""
    folder = RUNS / name.replace(" ", "-")
    if not (folder / "settings.json").exists():
        training = begin(settings, folder, worker)
    elif Settings.load(folder) != settings:
        raise RunError(f"{folder} holds a run with other settings: move it away")
    else:
        training = go_on(folder, worker)
    if training.step < training.steps:
        if worker.writes:
            print(training)
        training.run(save_every=200)
    if training.step < training.steps:
        sys.exit(f"{name} stopped at step {training.step}; the same command goes on")
    return training


def measured(training: Training, others: Sequence[Training] = ()) -> dict:
    """What the file says of a finished run, or of it and others that translate together."""
    settings, folder = training.settings, training.folder
    runs, folders = [training, *others], [other.folder for other in others]
    languages = {"src": settings.src, "tgt": settings.tgt}
    test = load_multi30k("test", **languages)
    valid = load_multi30k("val", **languages)
    penalties = by_penalty(Translator.load(folder, others=folders), valid)
    penalty = max(penalties, key=penalties.get)
    scores: dict[str, dict] = {"best": {}, "average": {}}
    for weights, found in scores.items():
        translator = Translator.load(folder, weights, folders)
        for way, beam_size in WAYS.items():
            written = translator.translate(
                test.sources, beam_size=beam_size, length_penalty=penalty
            )
            bleu, signature = corpus_bleu(written, test.targets)
            lower, _ = corpus_bleu([t.lower() for t in written], [t.lower() for t in test.targets])
            found[way] = {"bleu": round(bleu, 2), "lower": round(lower, 2)}
    # The last ones written: average weights, beam 5.
    return circumstances() | {
        "settings": asdict(settings),
        "parameters": sum(w.numel() for run in runs for w in run.model.parameters()),
        "steps": sum(run.steps for run in runs),
        "seconds": round(sum(run.seconds for run in runs)),
        "validation": [
            {"epoch": e["epoch"], "bleu": round(e["bleu"], 2), "seconds": round(e["seconds"])}
            for e in ([] if others else training.history)
        ],
        "validation_by_length_penalty": penalties,
        "length_penalty": penalty,
        "test": scores,
        "signature": signature.rsplit("|", 1)[0],  # its last part is sacrebleu's version
        "by_length": by_length(test, written),
        "by_rare_words": by_rare_words(test, written, load_multi30k("train", **languages)),
        "attention": [read_by(translator, sentence) for sentence in SENTENCES[settings.src]],
    }


def by_penalty(translator: Translator, valid: Pairs) -> dict[float, float]:
    """Length penalty -> validation BLEU of the widest beam."""
    beam_size = max(WAYS.values())
    found = {}
    for penalty in PENALTIES:
        written = translator.translate(valid.sources, beam_size=beam_size, length_penalty=penalty)
        found[penalty] = round(corpus_bleu(written, valid.targets)[0], 2)
    return found


def words_of(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def grouped(test: Pairs, written: list[str], group_of: Callable[[str], str], order: list) -> dict:
    """BLEU of the captions of each group, in the groups' order."""
    groups = [group_of(source) for source in test.sources]
    found = {}
    for group in order:
        chosen = [i for i, other in enumerate(groups) if other == group]
        bleu, _ = corpus_bleu([written[i] for i in chosen], [test.targets[i] for i in chosen])
        found[group] = {"pairs": len(chosen), "bleu": round(bleu, 2)}
    return found


def by_length(test: Pairs, written: list[str]) -> dict:
    """BLEU by the number of words in the source."""
    starts = [1, *(longest + 1 for longest in LONGEST)]
    names = {n: f"{a} to {n}" for a, n in zip(starts, LONGEST, strict=False)}
    names[LONGEST[-1]] = f"{starts[-2]} or more"

    def group_of(source: str) -> str:
        return names[next(longest for longest in LONGEST if len(words_of(source)) <= longest)]

    return grouped(test, written, group_of, list(names.values()))


def by_rare_words(test: Pairs, written: list[str], train: Pairs) -> dict:
    """BLEU by how many of the source's words training showed fewer than `RARE` times."""
    seen = Counter(word for source in train.sources for word in words_of(source))
    names = ["none", "one", "two or more"]

    def group_of(source: str) -> str:
        return names[min(2, sum(seen[word] < RARE for word in words_of(source)))]

    return grouped(test, written, group_of, names)


def read_by(translator: Translator, sentence: str) -> dict:
    """Where the translator looks while it writes one sentence."""
    (target,) = translator.translate([sentence], beam_size=5)
    weights, written, read = translator.attention(sentence, target)
    rounded = [[round(weight, 2) for weight in row] for row in weights.tolist()]
    return {"source": sentence, "written": written, "read": read, "weights": rounded}


# The details: short, equal trainings, each with one thing changed from outside.

SIZES = {"d_model": 64, "num_heads": 4, "num_layers": 2, "d_ff": 256, "dropout": 0.1}
SHORT = {
    "sizes": SIZES,
    "vocab_size": 2000,
    "max_tokens": 20,
    "batch_tokens": 250,
    "batches_per_step": 4,
    "steps": 200,
    "lr": 6e-3,
    "warmup": 25,
    "smoothing": 0.1,
}
SEEDS = (0, 1)
ALONE = Worker(0, 1, torch.device("cpu"))
COMPARED, SEED_RUNS, SEED_EPOCHS = ("rnn", "small"), 5, 3
AVERAGED = 5  # checkpoints, the last ones, 10 steps apart


def default_initialisation(model: Transformer) -> None:
    """PyTorch's own for the layers' matrices, where this code uses Xavier's uniform one."""
    for stack in (model.encoder, model.decoder):
        for module in stack.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()


def large_embeddings(model: Transformer) -> None:
    """Standard deviation 1, PyTorch's own, where this code uses d_model**-0.5."""
    nn.init.normal_(model.tgt_embedding.tokens.weight)  # the one matrix of all three


def attention_dropout(model: Transformer) -> None:
    for module in model.modules():
        if isinstance(module, MultiHeadAttention):
            module.dropout = SIZES["dropout"]


def relu_dropout(model: Transformer) -> None:
    def activation(x: Tensor) -> Tensor:
        return F.dropout(F.relu(x), SIZES["dropout"], training=model.training)

    for module in model.modules():
        if isinstance(module, FeedForward):
            module.activation = activation


def concatenated_sinusoids(model: Transformer) -> None:
    for embedding in (model.src_embedding, model.tgt_embedding):
        rows = embedding.positions.encoding  # (64, d_model), longer than any sequence here
        embedding.positions.encoding = torch.cat([rows[:, 0::2], rows[:, 1::2]], dim=1)


def unscaled_embeddings(model: Transformer) -> None:
    for embedding in (model.src_embedding, model.tgt_embedding):
        embedding.scale = 1.0


class ShortText:
    """The captions of the short trainings, and ways to make the batches of each step from them."""

    def __init__(self) -> None:
        train = load_multi30k("train")
        tokenizer = BPETokenizer.train([*train.sources, *train.targets], SHORT["vocab_size"])
        self.codec = Codec(tokenizer, Vocab(tokenizer.tokens))
        limits = {"max_tokens": SHORT["max_tokens"]}
        small, per_step = SHORT["batch_tokens"], SHORT["batches_per_step"]
        self.small = TokenBatches(train, self.codec, batch_tokens=small, **limits)
        self.large = TokenBatches(train, self.codec, batch_tokens=small * per_step, **limits)
        self.valid = TokenBatches(load_multi30k("val"), self.codec, batch_tokens=1000, **limits)

    def several_batches(self, epoch: int) -> list[list]:
        """Several batches a step, each of like lengths: what the training command does."""
        return in_steps(self.small.epoch(epoch), SHORT["batches_per_step"])

    def one_batch(self, epoch: int) -> list[list]:
        """One batch a step, of like lengths and as many tokens."""
        return [[rows] for rows in self.large.epoch(epoch)]

    def as_they_come(self, epoch: int) -> list[list]:
        """One batch a step, of as many captions as `one_batch` has on average, of any length."""
        rows, size = self.large.rows, len(self.large.rows) // len(self.large.epoch(epoch))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch)).tolist()
        starts = range(0, len(order) - size + 1, size)
        return [[[rows[i] for i in order[first : first + size]]] for first in starts]


@dataclass(frozen=True)
class Switch:
    """One detail changed; letter: its row in the lesson's table."""

    letter: str
    change: Callable[[Transformer], None] = lambda model: None
    norm_first: bool = True
    steps_of: Callable[[ShortText, int], list] = ShortText.several_batches
    warmup: int = SHORT["warmup"]


SWITCHES = {
    "as here": Switch(""),
    "post-norm": Switch("A", norm_first=False),
    "PyTorch's initial weights": Switch("B", default_initialisation),
    "embeddings with standard deviation 1": Switch("B", large_embeddings),
    "dropout on attention weights": Switch("C", attention_dropout),
    "dropout after the ReLU": Switch("C", relu_dropout),
    "sinusoids concatenated": Switch("D", concatenated_sinusoids),
    "embeddings not scaled": Switch("E", unscaled_embeddings),
    "one batch a step": Switch("F", steps_of=ShortText.one_batch),
    "one batch of so many captions": Switch("F", steps_of=ShortText.as_they_come),
    "warm-up twice as long": Switch("H", warmup=2 * SHORT["warmup"]),
}
AVERAGE = "average of the last checkpoints"  # of the training "as here", so it costs none


@torch.no_grad()
def validation_loss(model: nn.Module, text: ShortText) -> float:
    """The mean loss a token, without smoothing."""
    batches = text.valid.epoch(0)
    loss = share_loss(model.eval(), batches, ALONE, smoothing=0.0, precision="float32")
    return round(loss.item(), 3)


def short_training(switch: Switch, text: ShortText, seed: int) -> tuple[float, float]:
    """Validation loss of the last weights, and of the last checkpoints' average."""
    torch.manual_seed(seed)
    size, steps = len(text.codec.vocab), SHORT["steps"]
    options = {"norm_first": switch.norm_first, "tie_weights": "all", "attention": fused_attention}
    model = Transformer(size, size, **SIZES, **options)
    switch.change(model)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule, kept = warmup_cosine(switch.warmup, steps), []
    batches = chain.from_iterable(switch.steps_of(text, 1000 * seed + n) for n in count(1))
    for step, of_step in zip(range(1, steps + 1), batches, strict=False):
        optimizer.param_groups[0]["lr"] = SHORT["lr"] * schedule(step)
        smoothing = SHORT["smoothing"]
        loss = share_loss(model, of_step, ALONE, smoothing=smoothing, precision="float32")
        update(optimizer, loss, step=step, clip=1.0)
        if (steps - step) % 10 == 0 and (steps - step) < 10 * AVERAGED:
            kept.append([parameter.detach().clone() for parameter in model.parameters()])
    last = validation_loss(model, text)
    with torch.no_grad():
        for parameter, *held in zip(model.parameters(), *kept, strict=True):
            parameter.copy_(torch.stack(held).mean(dim=0))
    return last, validation_loss(model, text)


def recorded() -> dict:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def record(name: str, entry: dict) -> None:
    """Put an entry into the file as it is now: another process may have written meanwhile."""
    results = recorded() | {name: entry}
    write(RESULTS, results)
    text = README.read_text(encoding="utf-8")
    write_atomically(README, TABLE.sub(results_table(results), text))


def results_table(results: dict) -> str:
    """README's table of the runs that have been recorded."""
    rows = []
    for name in (*SETTINGS, *TOGETHER):
        if name not in results:
            continue
        run, found = results[name], results[name]["test"]["best"]
        settings = run["settings"]
        cells = (
            name,
            KINDS[settings["model"]],
            f"{settings['src']} to {settings['tgt']}",
            f"{run['parameters'] / 1e6:.1f} million",
            f"{run['seconds'] / 60:.0f}",
            *(f"{found[way]['bleu']:.1f}" for way in WAYS),
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return HEADER + "".join(rows)


def measure_details() -> None:
    """Measure each switch that the file does not have yet, with one seed after the other."""
    text = ShortText()
    details = recorded().get("details", {"switches": {}})
    details |= circumstances() | {"settings": SHORT, "seeds": SEEDS}
    found = details["switches"]
    for seed in map(str, SEEDS):
        for name, switch in SWITCHES.items():
            losses = found.setdefault(name, {"letter": switch.letter, "loss": {}})["loss"]
            if seed in losses:
                continue
            started = time.process_time()
            losses[seed], average = short_training(switch, text, int(seed))
            if name == "as here":
                found.setdefault(AVERAGE, {"letter": "G", "loss": {}})["loss"][seed] = average
            print(f"{name}, seed {seed}: {losses[seed]} in {time.process_time() - started:.0f} s")
            record("details", details)


def measure_seeds() -> None:
    """Train small and rnn several times and short, and judge what they write, greedily."""
    test, found = load_multi30k("test"), recorded().get("seeds", {"bleu": {}})
    found |= circumstances() | {"epochs": SEED_EPOCHS}
    for seed, name in product(range(SEED_RUNS), COMPARED):
        scores = found["bleu"].setdefault(name, {})
        if str(seed) in scores:
            continue
        settings = replace(SETTINGS[name], epochs=SEED_EPOCHS, seed=seed)
        training = trained(f"{name} seed {seed}", settings, ALONE)
        written = Translator.load(training.folder).translate(test.sources, beam_size=1)
        scores[str(seed)] = round(corpus_bleu(written, test.targets)[0], 2)
        print(f"{name}, seed {seed}: {scores[str(seed)]} in {training.seconds:.0f} s", flush=True)
        record("seeds", found)


PARTS = {"details": measure_details, "seeds": measure_seeds}


def main() -> None:
    known = [*SETTINGS, *TOGETHER, *PARTS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="name", help=f"some of {known}; all if none")
    parts = parser.parse_args().parts or known
    if unknown := set(parts) - set(known):
        parser.error(f"unknown names {sorted(unknown)}; known: {known}")
    for name in parts:
        print(name, flush=True)
        if name in PARTS:
            PARTS[name]()
            continue
        try:
            with join_workers() as worker:
                runs = [trained(run, SETTINGS[run], worker) for run in TOGETHER.get(name, (name,))]
            if worker.writes:
                record(name, measured(runs[0], runs[1:]))
        except ValueError as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
