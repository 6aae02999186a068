"""Train a translator: python -m tfm_lib.train --data multi30k --src de --tgt en --out runs/x

--train a.de a.en         your own parallel text instead of Multi30k
--resume --out runs/x     go on where a stopped or killed run was saved last
torchrun --nproc_per_node=2 -m tfm_lib.train ...    the same run on two processes
"""

import argparse
import os
import sys
from dataclasses import asdict, fields
from pathlib import Path

import torch

from tfm_lib.datasets import Pairs
from tfm_lib.multi30k import load_multi30k
from tfm_lib.parallel_text import read_pairs
from tfm_lib.runs import RunError, Settings, epoch_paths
from tfm_lib.tokenizers import BPETokenizer
from tfm_lib.trainer import Text, Training
from tfm_lib.translator import load_codec
from tfm_lib.workers import Worker, join_workers, wait_for_others

HELD_OUT = 50  # without validation files, one pair in so many


def load_text(settings: Settings) -> Text:
    """The text that the settings name; RunError, or what `read_pairs` raises, if it is no use."""
    if settings.data == "multi30k":
        languages = {"src": settings.src, "tgt": settings.tgt}
        return Text(load_multi30k("train", **languages), load_multi30k("val", **languages), 0)
    pairs, blank = read_pairs(*settings.train)
    if settings.valid:
        valid, more = read_pairs(*settings.valid)
        return Text(pairs, valid, blank + more)
    if len(pairs) < 2 * HELD_OUT:
        raise RunError(
            f"{len(pairs)} pairs are too few to hold some out for validation: need {2 * HELD_OUT}, "
            "or give --valid"
        )
    held_out = slice(None, None, HELD_OUT)
    valid = pairs[held_out]
    columns = [list(column) for column in (pairs.sources, pairs.targets, pairs.kinds)]
    for column in columns:
        del column[held_out]
    return Text(Pairs(*columns), valid, blank)


def start(settings: Settings, folder: Path, worker: Worker) -> Training:
    """Begin a run in a new folder: learn the sub-words, then write what it is made from."""
    text = load_text(settings)
    if worker.writes:
        tokenizer = BPETokenizer.train(
            [*text.train.sources, *text.train.targets], settings.vocab_size
        )
        folder.mkdir(parents=True, exist_ok=True)
        tokenizer.save(folder / "tokenizer.json")
    wait_for_others(worker)
    training = Training(settings, folder, worker, load_codec(folder), text)
    if worker.writes:
        settings.save(folder)  # last: what was refused leaves no run behind
    return training


def go_on(folder: Path, worker: Worker) -> Training:
    """The run in a folder, where it was saved last; RunError if that cannot be told."""
    settings = Settings.load(folder)
    training = Training(settings, folder, worker, load_codec(folder), load_text(settings))
    if (folder / "last.safetensors").exists():
        training.resume()
    elif epoch_paths(folder):
        raise RunError(
            f"{folder} holds checkpoints, but no last.safetensors: rename the newest to it, or "
            "train anew in another folder"
        )
    return training


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line: an option for every setting, and --out, --resume, --save-every."""
    parser = argparse.ArgumentParser(
        prog="python -m tfm_lib.train",
        description="Train a translator.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--out", type=Path, required=True, help="the run's folder")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--save-every", type=int, default=200, metavar="STEPS")
    for field in fields(Settings):
        option, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        if kind is tuple:
            parser.add_argument(option, nargs=2, metavar=("SRC", "TGT"))
        elif kind is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction)
        else:
            with_gpu = "; bfloat16 on a GPU" if field.name == "precision" else ""
            parser.add_argument(option, type=kind, help=f"default {field.default}{with_gpu}")
    options = parser.parse_args(arguments)
    if options.save_every < 1:
        parser.error(f"--save-every {options.save_every} must be 1 or more")
    return options


def prepare(options: argparse.Namespace, worker: Worker) -> Training:
    """A new run, or the one to resume; RunError if the folder holds another one."""
    given = {f.name: getattr(options, f.name) for f in fields(Settings) if f.name in options}
    given = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
    }
    if "train" in given:
        given.setdefault("data", "files")
    folder = options.out
    # A worker that was lost and started again by torchrun comes with the first command line.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    exists = (folder / "settings.json").exists()
    if "resume" in options or (restarted and exists):
        known = asdict(Settings.load(folder))
        if changed := {key: value for key, value in given.items() if known[key] != value}:
            before = {key: known[key] for key in changed}
            raise RunError(f"{folder} was begun with {before}, not {changed}: leave them out")
        return go_on(folder, worker)
    wait_for_others(worker)  # all have looked before the first one writes
    if exists:
        raise RunError(f"{folder} holds a run: go on with --resume, or choose another --out")
    if torch.cuda.is_available():
        given.setdefault("precision", "bfloat16")
    return start(Settings(**given), folder, worker)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    with join_workers() as worker:
        try:
            training = prepare(options, worker)
            if worker.writes:
                print(training)
            training.run(save_every=options.save_every)
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        if worker.writes:
            at = f"step {training.step} of {training.steps}"
            print(f"{options.out}: {at}, {training.seconds:.0f} s of training")


if __name__ == "__main__":
    main()
