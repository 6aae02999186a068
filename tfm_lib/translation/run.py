"""A run's beginning: in a new folder, or where it was saved last."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tfm_lib.text.tokenizers import BPETokenizer
from tfm_lib.translation.build import load_codec
from tfm_lib.translation.checkpoints import epoch_paths
from tfm_lib.translation.corpus import load_corpus
from tfm_lib.translation.settings import RunError, Settings, SettingsError
from tfm_lib.translation.trainer import Training
from tfm_lib.translation.workers import Worker, wait_for_others


def begin(settings: Settings, folder: Path, worker: Worker) -> Training:
    """Begin a run in a new folder: learn the sub-words, then write what it is made from."""
    corpus = load_corpus(settings)
    if worker.writes:
        tokenizer = BPETokenizer.train(
            [*corpus.train.sources, *corpus.train.targets], settings.vocab_size
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            tokenizer.save(folder / "tokenizer.json")
        except OSError as error:
            raise RunError(
                f"{folder} cannot be written ({error.strerror}): choose another --out"
            ) from None
    wait_for_others(worker)
    training = Training(settings, folder, worker, load_codec(folder), corpus)
    if worker.writes:
        settings.save(folder)  # last: what was refused leaves no run behind
    return training


def go_on(folder: Path, worker: Worker) -> Training:
    """The run in a folder, where it was saved last; RunError if that cannot be told."""
    settings = Settings.load(folder)
    training = Training(settings, folder, worker, load_codec(folder), load_corpus(settings))
    if (folder / "last.safetensors").exists():
        training.resume()
    elif epoch_paths(folder):
        raise RunError(
            f"{folder} holds checkpoints, but no last.safetensors: rename the newest to it, or "
            "train anew in another folder"
        )
    return training


def prepare(given: Mapping[str, Any], folder: Path, worker: Worker, *, resume: bool) -> Training:
    """A new run with the settings given, or the one to resume.

    SettingsError if the folder holds another run than was asked for, or none to resume.
    """
    # A worker that was lost and started again by torchrun comes with the first command line.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    exists = (folder / "settings.json").exists()
    if resume or (restarted and exists):
        known = asdict(Settings.load(folder))
        if changed := {key: value for key, value in given.items() if known[key] != value}:
            before = {key: known[key] for key in changed}
            raise SettingsError(f"{folder} was begun with {before}, not {changed}: leave them out")
        return go_on(folder, worker)
    wait_for_others(worker)  # all have looked before the first one writes
    if exists:
        raise SettingsError(f"{folder} holds a run: go on with --resume, or choose another --out")
    fitting = {"precision": "bfloat16"} if torch.cuda.is_available() else {}
    return begin(Settings.of(fitting | dict(given)), folder, worker)
