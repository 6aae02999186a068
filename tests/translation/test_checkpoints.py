import errno
import json
import os

import pytest
import torch

from tfm_lib.translation.checkpoints import (
    epoch_paths,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from tfm_lib.translation.settings import RunError, Settings

STATE = {"step": 7, "history": [{"bleu": 1.5}]}


def tensors():
    return {"model.a": torch.arange(6.0).view(2, 3), "optimizer.0.step": torch.tensor(7.0)}


def test_settings_survive_the_file(tmp_path):
    settings = Settings(data="files", train=("a.de", "a.en"), d_model=64, lr=1e-3, norm_first=False)
    settings.save(tmp_path)
    assert Settings.load(tmp_path) == settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 130}, "d_model=130 must be divisible by num_heads=4"),
        ({"model": "cnn"}, "'cnn' must be one of transformer, rnn"),
        ({"epochs": 0}, "epochs=0 must be 1 or more"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"seed": 2**24}, "seed=16777216 must be at least 0 and below 16777216"),
        ({"data": "files", "train": ("a.de",)}, "two files"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(RunError, match=message):
        Settings(**changes)


def test_the_rnn_has_no_heads_to_divide():
    assert Settings(model="rnn", d_model=130).d_model == 130


def test_a_folder_that_is_no_run_says_so(tmp_path):
    with pytest.raises(RunError, match=r"holds no settings\.json"):
        Settings.load(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps({"width": 3}), encoding="utf-8")
    with pytest.raises(RunError, match=r"cannot be read: .*width"):
        Settings.load(tmp_path)
    (tmp_path / "settings.json").write_text("[]", encoding="utf-8")
    with pytest.raises(RunError, match=r"it holds \[\], no settings"):
        Settings.load(tmp_path)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, tensors(), STATE)
    found, state = load_checkpoint(path)
    assert state == STATE
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors().items())


@pytest.mark.parametrize("kept", [0, 5, 60, -1])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, kept):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, tensors(), STATE)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RunError, match=r"last\.safetensors is damaged"):
        load_checkpoint(path)


def test_an_absent_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match="nothing was saved"):
        load_checkpoint(tmp_path / "best.safetensors")


def test_epochs_come_in_their_order(tmp_path):
    for epoch in (1000, 998, 999):
        (tmp_path / f"epoch-{epoch:03}.safetensors").touch()
    names = [path.stem for path in epoch_paths(tmp_path)]
    assert names == ["epoch-998", "epoch-999", "epoch-1000"]


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, tensors(), STATE)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tfm_lib.translation.settings.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert load_checkpoint(path)[1] == STATE
    assert [file.name for file in tmp_path.iterdir()] == ["last.safetensors"]
