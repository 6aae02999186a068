"""Runs on a tiny text: training, stopping, killing, resuming, sharing, translating."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.commands.calling import tfm
from tfm_lib.datasets.parallel import load_parallel
from tfm_lib.translation import checkpoints, trainer
from tfm_lib.translation.build import build_model
from tfm_lib.translation.checkpoints import load_checkpoint
from tfm_lib.translation.corpus import load_corpus
from tfm_lib.translation.loss import share_loss
from tfm_lib.translation.run import prepare
from tfm_lib.translation.settings import RunError, Settings
from tfm_lib.translation.trainer import Training
from tfm_lib.translation.translator import Translator
from tfm_lib.translation.workers import Worker

TINY = (
    *("--vocab-size", "420", "--d-model", "12", "--num-heads", "2", "--num-layers", "1"),
    *("--d-ff", "14", "--batch-tokens", "62", "--warmup", "5", "--epochs", "2", "--lr", "0.01"),
)


def options_of(arguments):
    """Option -> its values; of an option given twice the last, so that tests can change TINY."""
    found = {}
    for word in map(str, arguments):
        if word.startswith("--"):
            found.pop(word, None)
            values = found.setdefault(word, [])
        else:
            values.append(word)
    return found


def train(*arguments):
    words = [word for option, values in options_of(arguments).items() for word in [option, *values]]
    return tfm("train", *words)


def prepared(*arguments, worker=None):
    """The run that the same options of `tfm train` would begin or resume."""
    options = options_of(arguments)
    (out,), resume = options.pop("--out"), options.pop("--resume", None) is not None
    defaults, given = asdict(Settings()), {}
    for option, values in options.items():
        name = option.removeprefix("--").replace("-", "_")
        kind = {"warmup": int}.get(name, type(defaults[name]))
        given[name] = tuple(values) if kind is tuple else kind(values[0])
    return prepare(given, Path(out), worker or alone(), resume=resume)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The options that name a small parallel text."""
    folder = tmp_path_factory.mktemp("text")
    pairs = load_parallel("train", target="fr")[:300]
    for name, lines in (("a.en", pairs.sources), ("a.fr", pairs.targets)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return "--train", str(folder / "a.en"), str(folder / "a.fr")


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("runs") / "x"
    assert train(*text, *TINY, "--out", str(folder)) == 0
    return folder


def alone():
    return Worker(0, 1, torch.device("cpu"))


def spawn(*arguments, module="tfm_lib", **environment):
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def refused(message, status, capsys):
    """The command ended with 1 or 2 and one line that says what was wrong."""
    printed = capsys.readouterr().err
    assert status in (1, 2)
    line = next(line for line in printed.splitlines() if line.startswith("tfm: "))
    assert re.search(message, line), printed
    assert "Traceback" not in printed


def assert_alike(folder, other):
    """Equal but for rounding: the key's bias has no gradient, so Adam magnifies its noise."""
    both = [prepared("--resume", "--out", str(path)) for path in (folder, other)]
    assert both[0].step == both[1].step > 0
    rows = both[0].batches.rows[:80]
    losses = [
        share_loss(run.model.eval(), [rows], alone(), smoothing=0.0, precision="float32")
        for run in both
    ]
    torch.testing.assert_close(*losses, rtol=1e-3, atol=0)


def assert_same_run(folder, other):
    (ours, state), (theirs, expected) = (
        load_checkpoint(path / "last.safetensors") for path in (folder, other)
    )
    assert state["step"] == expected["step"]
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=0)


def test_a_run_leaves_what_it_promises(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        *("settings.json", "tokenizer.json", "last.safetensors", "best.safetensors"),
        *("epoch-001.safetensors", "epoch-002.safetensors"),
    }
    _, state = load_checkpoint(finished / "last.safetensors")
    assert [entry["epoch"] for entry in state["history"]] == [1, 2]
    assert all(0 <= entry["bleu"] <= 100 for entry in state["history"])
    assert state["step"] == state["history"][-1]["step"] > 40
    best = max(state["history"], key=lambda entry: entry["bleu"])
    assert load_checkpoint(finished / "best.safetensors")[1]["step"] == best["step"]


def test_training_lowers_the_loss(finished):
    trained = prepared("--resume", "--out", str(finished))
    torch.manual_seed(0)
    untrained = build_model(trained.settings, len(trained.codec.vocab))
    rows = trained.batches.rows[:50]
    losses = [
        share_loss(model.eval(), [rows], alone(), smoothing=0.0, precision="float32")
        for model in (trained.model, untrained)
    ]
    assert losses[0] < 0.8 * losses[1]


def test_the_rnn_trains_and_translates_too(text, tmp_path):
    folder = tmp_path / "rnn"
    assert train(*text, *TINY, "--model", "rnn", "--epochs", "1", "--out", str(folder)) == 0
    assert len(Translator.load(folder).translate(["the cat sleeps.", "  "])) == 2


def test_a_stopped_run_goes_on_to_the_same_weights(text, finished, tmp_path, monkeypatch, capsys):
    update, folder, seen = Training.train_on, tmp_path / "x", []

    def stop_at_30(self, model, batches):
        seen.append(batches)
        if len(seen) == 30:
            signal.raise_signal(signal.SIGINT)
        return update(self, model, batches)

    monkeypatch.setattr(Training, "train_on", stop_at_30)
    assert train(*text, *TINY, "--out", str(folder)) == 130
    assert load_checkpoint(folder / "last.safetensors")[1]["step"] == 30
    monkeypatch.undo()
    assert train("--resume", "--out", str(folder)) == 0
    assert_same_run(folder, finished)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_killed_run_goes_on_to_the_same_weights(text, finished, tmp_path):
    folder, chance = tmp_path / "x", random.Random(0)
    arguments = [*text, *TINY, "--save-every", "3", "--out", folder]
    killed = 0
    for _ in range(2):
        process = spawn("train", *arguments)
        while not (folder / "last.safetensors").exists():  # importing takes most of the time
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.01)
        before = (folder / "last.safetensors").stat().st_mtime_ns
        while process.poll() is None and (
            (folder / "last.safetensors").stat().st_mtime_ns == before
        ):
            time.sleep(0.01)
        time.sleep(chance.random() * 0.3)
        process.kill()
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        arguments = ["--resume", "--save-every", "3", "--out", folder]
    assert killed > 0
    assert train("--resume", "--out", str(folder)) == 0
    assert_same_run(folder, finished)


@pytest.mark.parametrize("workers", [2, 3])
def test_the_workers_shares_add_up_to_the_whole_step(finished, workers):
    training = prepared("--resume", "--out", str(finished))
    model, device = training.model.double().train(), torch.device("cpu")  # dropout and all
    rows = training.batches.rows
    for batches in ([rows[:3], rows[3:4], rows[4:9], rows[9:11]], [rows[:7]]):

        def gradients(worker, batches=batches):
            options = {"smoothing": 0.1, "precision": "float32", "seed": 7}
            loss = share_loss(model, batches, worker, **options)
            return torch.autograd.grad(loss, list(model.parameters()))

        parts = [gradients(Worker(rank, workers, device)) for rank in range(workers)]
        mean = [torch.stack(part).mean(dim=0) for part in zip(*parts, strict=True)]
        torch.testing.assert_close(mean, list(gradients(alone())), rtol=1e-5, atol=1e-7)


def test_the_batches_of_a_step_weigh_as_their_tokens_do(finished):
    training = prepared("--resume", "--out", str(finished))
    model, rows = training.model.double().eval(), training.batches.rows[:9]
    losses = [
        share_loss(model, batches, alone(), smoothing=0.1, precision="float32")
        for batches in ([rows], [rows[:2], rows[2:]], [[row] for row in rows])
    ]
    torch.testing.assert_close(losses, losses[:1] * 3, rtol=1e-5, atol=0)


def test_an_epoch_takes_every_batch_once(text, tmp_path):
    training = prepared(*text, *TINY, "--batches-per-step", "3", "--out", str(tmp_path / "x"))
    per_epoch, seen = len(training.batches.epoch(1)), []
    assert training.epoch_steps == -(-per_epoch // 3)
    for batches in training.remaining():
        seen += batches
        training.step += 1
    assert training.step == training.steps
    assert seen == training.batches.epoch(1) + training.batches.epoch(2)
    training.step = training.epoch_steps + 2
    assert next(training.remaining()) == training.batches.epoch(2)[6:9]


def test_no_batch_goes_to_two_workers():
    batches = list(range(11))
    shares = [Worker(rank, 3, torch.device("cpu")).share(batches) for rank in range(3)]
    assert sorted(batch for share in shares for batch in share) == batches


def test_more_workers_than_batches_are_refused(finished):
    many = Worker(0, 5, torch.device("cpu"))
    with pytest.raises(RunError, match="5 workers cannot share 4 batches a step: ask for --batc"):
        prepared("--resume", "--out", finished, worker=many)


def torchrun(*arguments):
    options = ("--standalone", "--nproc_per_node=2", "--max-restarts=1", "-m", "tfm_lib", "train")
    return spawn(*options, *arguments, module="torch.distributed.run")


def with_long_lines(text, folder):
    """The same text and five pairs so long that the encodings grow at whoever reads one first."""
    paths = []
    for path in map(Path, text[1:]):
        lines = path.read_text(encoding="utf-8").splitlines()
        long = [" ".join(lines[start : start + 3]) for start in range(5)]
        paths.append(folder / path.name)
        paths[-1].write_text("\n".join([*lines, *long]) + "\n", encoding="utf-8")
    return "--train", *map(str, paths)


def test_two_processes_train_as_one_does(text, tmp_path):
    text = with_long_lines(text, tmp_path)
    options = [*text, *TINY, "--dropout", "0.3"]
    output, _ = (process := torchrun(*options, "--out", tmp_path / "two")).communicate(timeout=120)
    assert process.returncode == 0, output
    assert train(*options, "--out", str(tmp_path / "one")) == 0
    assert_alike(tmp_path / "two", tmp_path / "one")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_a_lost_worker_is_started_again_where_the_run_was_saved(text, tmp_path):
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "x"
    process = torchrun(*text, *TINY, "--save-every", "5", "--out", folder)
    while not (folder / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    psutil.Process(process.pid).children()[-1].kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert train(*text, *TINY, "--out", str(tmp_path / "one")) == 0
    assert_alike(folder, tmp_path / "one")


def test_a_folder_that_holds_a_run_is_not_overwritten(text, finished, capsys):
    before = (finished / "last.safetensors").read_bytes()
    status = train(*text, *TINY, "--out", str(finished))
    refused("holds a run: go on with --resume", status, capsys)
    status = train("--resume", "--d-model", "16", "--out", str(finished))
    refused(r"begun with \{'d_model': 12\}, not \{'d_model': 16\}", status, capsys)
    assert (finished / "last.safetensors").read_bytes() == before


def test_what_was_refused_leaves_no_run_behind(text, tmp_path, capsys):
    folder = tmp_path / "x"
    options = [*text, *TINY, "--epochs", "1", "--out", str(folder)]
    status = train(*options, "--warmup", "900")
    refused("warmup=900 must be below", status, capsys)
    assert train(*options) == 0
    (folder / "last.safetensors").unlink()
    best = (folder / "best.safetensors").read_bytes()
    status = train("--resume", "--out", str(folder))
    refused("holds checkpoints, but no last", status, capsys)
    assert (folder / "best.safetensors").read_bytes() == best


def test_options_that_make_no_sense_are_refused(text, finished, tmp_path, capsys):
    status = train(*text, "--save-every", "0", "--out", str(tmp_path / "x"))
    refused('"0" for --save-every. Must be >= 1', status, capsys)
    status = tfm("translate", finished, "a", "--batch-size", "0")
    refused('"0" for --batch-size. Must be >= 1', status, capsys)
    status = train(*text, "--data", "multi30k", "--out", str(tmp_path / "x"))
    refused("files of your own", status, capsys)
    assert not (tmp_path / "x").exists()


def test_another_text_is_refused(text, tmp_path, capsys):
    own = [tmp_path / name for name in ("a.en", "a.fr")]
    for source, path in zip(text[1:], own, strict=True):
        path.write_bytes(Path(source).read_bytes())
    options = ["--train", *map(str, own), *TINY, "--epochs", "1", "--out", str(tmp_path / "x")]
    assert train(*options) == 0
    own[0].write_text(own[0].read_text(encoding="utf-8").replace("the", "a"), encoding="utf-8")
    status = train("--resume", "--out", str(tmp_path / "x"))
    refused("the text has changed", status, capsys)


def test_a_full_disk_does_not_end_the_training(text, finished, tmp_path, monkeypatch, capsys):
    fsync, calls, folder = os.fsync, [], tmp_path / "x"

    def full_for_a_while(descriptor):
        calls.append(descriptor)
        if 4 < len(calls) <= 7:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr("tfm_lib.translation.settings.os.fsync", full_for_a_while)
    assert train(*text, *TINY, "--save-every", "6", "--out", str(folder)) == 0
    assert "No space left on device). Make room" in capsys.readouterr().out
    assert_same_run(folder, finished)


def test_the_best_weights_outlast_a_full_disk(text, finished, tmp_path, monkeypatch):
    folder, save, refused = tmp_path / "x", checkpoints.save_checkpoint, []

    def full_at_first(path, *checkpoint):
        if path.name == "best.safetensors" and len(refused) < 5:
            refused.append(path)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(path, *checkpoint)

    scores = iter([(9.0, "BLEU"), (5.0, "BLEU")])
    monkeypatch.setattr(trainer, "corpus_bleu", lambda translated, references: next(scores))
    monkeypatch.setattr(checkpoints, "save_checkpoint", full_at_first)
    assert train(*text, *TINY, "--save-every", "10", "--out", str(folder)) == 0
    assert len(refused) == 5  # at steps 38, 40, 50, 60, 70: until after the next validation
    best, state = load_checkpoint(folder / "best.safetensors")
    assert [entry["bleu"] for entry in state["history"]] == [9.0]
    _, last = load_checkpoint(folder / "last.safetensors")
    assert [entry["bleu"] for entry in last["history"]] == [9.0, 5.0]
    expected, _ = load_checkpoint(finished / "epoch-001.safetensors")
    assert best.keys() == expected.keys()
    assert all(torch.equal(best[name], weight) for name, weight in expected.items())


def test_long_pairs_are_not_validated_on_and_are_counted(text, tmp_path):
    lines = {"en": ["the cat sleeps.", "the cat sleeps. " * 90], "fr": ["le chat dort."] * 2}
    for name, column in lines.items():
        (tmp_path / f"v.{name}").write_text("\n".join(column) + "\n", encoding="utf-8")
    valid = ["--valid", str(tmp_path / "v.en"), str(tmp_path / "v.fr")]
    training = prepared(*text, *valid, *TINY, "--out", str(tmp_path / "x"))
    assert training.valid.sources == ["the cat sleeps."]
    assert "1 for validation; left out: 0 half blank, 1 with more than 100" in str(training)
    (tmp_path / "v.en").write_text("\n".join(lines["en"][1:] * 2) + "\n", encoding="utf-8")
    with pytest.raises(RunError, match="each of the 2 pairs for validation has a side of more"):
        prepared(*text, *valid, *TINY, "--out", str(tmp_path / "y"))


def test_a_disk_that_stays_full_is_an_error_and_keeps_the_last_good_file(
    text, finished, tmp_path, monkeypatch, capsys
):
    folder, save = tmp_path / "x", Training.save

    def full(self):
        if self.step < 30:
            return save(self)
        monkeypatch.setattr("tfm_lib.translation.settings.os.fsync", raise_full)
        return save(self)

    def raise_full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Training, "save", full)
    status = train(*text, *TINY, "--save-every", "10", "--out", str(folder))
    refused(r"was not saved\. Make room, then --resume", status, capsys)
    monkeypatch.undo()
    assert load_checkpoint(folder / "last.safetensors")[1]["step"] == 20
    assert train("--resume", "--out", str(folder)) == 0
    assert_same_run(folder, finished)


def test_too_few_pairs_to_hold_some_out(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("x\n" * 9, encoding="utf-8")
    files = tuple(str(tmp_path / name) for name in ("a", "b"))
    with pytest.raises(RunError, match="9 pairs are too few"):
        load_corpus(Settings(data="files", train=files))


def test_translate_answers_arguments_and_standard_input_alike(finished, capsys):
    lines = ["the cat sleeps.", "", "the children read a book."]
    assert tfm("translate", str(finished), *lines, "--beam", "2") == 0
    answered = capsys.readouterr().out
    assert answered.count("\n") == 3
    assert answered.splitlines()[1] == ""
    process = subprocess.run(
        [sys.executable, "-m", "tfm_lib", "translate", "--beam", "2", finished],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    assert process.stdout == answered


def test_translations_do_not_depend_on_the_batch(finished):
    texts = list(load_parallel("val").sources[:9])
    translator = Translator.load(finished)
    assert translator.translate(texts, batch_size=4) == [
        translator.translate([t])[0] for t in texts
    ]


def test_the_average_is_that_of_the_newest_epochs(finished):
    averaged = Translator.load(finished, "average").model
    paths = sorted(finished.glob("epoch-*.safetensors"))
    first, second = (load_checkpoint(path)[0] for path in paths)
    for name, weight in averaged.named_parameters():
        torch.testing.assert_close(weight, (first[f"model.{name}"] + second[f"model.{name}"]) / 2)


def test_runs_translate_together(text, finished, tmp_path, capsys):
    second = tmp_path / "second"
    assert train(*text, *TINY, "--seed", "1", "--epochs", "1", "--out", str(second)) == 0
    texts = list(load_parallel("val").sources[:20])
    together = Translator.load(finished, others=[second]).translate(texts)
    for alone in (finished, second):
        assert Translator.load(alone).translate(texts) != together
        assert Translator.load(alone, others=[alone]).translate(texts) == Translator.load(
            alone
        ).translate(texts)
    capsys.readouterr()
    assert tfm("translate", str(finished), *texts, "--with-run", str(second), "--beam", "1") == 0
    assert capsys.readouterr().out.splitlines() == together


def test_runs_that_do_not_fit_cannot_translate_together(text, finished, tmp_path):
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = (finished / "settings.json").read_text(encoding="utf-8")
    (tmp_path / "settings.json").write_text(settings.replace('"src": "de"', '"src": "en"'), "utf-8")
    with pytest.raises(RunError, match=r"translates en to en, .* de to en"):
        Translator.load(finished, others=[tmp_path])
    other = ["--vocab-size", "400", "--epochs", "1", "--warmup", "4", "--out", str(tmp_path / "x")]
    assert train(*text, *TINY, *other) == 0
    with pytest.raises(RunError, match="has other sub-words than"):
        Translator.load(finished, others=[tmp_path / "x"])


def test_attention_is_drawn(finished, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    assert tfm("translate", str(finished), "the cat sleeps.", "--attention", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    weights, written, read = Translator.load(finished).attention("the cat", "le chat")
    assert weights.shape == (len(written), len(read))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(len(written)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("settings.json", "is not a run"),
        ("tokenizer.json", r"tokenizer\.json does not exist"),
        ("best.safetensors", "nothing was saved there yet"),
    ],
)
def test_a_run_with_a_missing_file_says_which(finished, tmp_path, broken, message, capsys):
    for path in finished.iterdir():
        if path.name != broken:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    refused(message, tfm("translate", str(tmp_path), "the cat."), capsys)


def test_weights_of_another_model_are_refused(finished, tmp_path):
    for path in finished.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    settings = (finished / "settings.json").read_text(encoding="utf-8")
    (tmp_path / "settings.json").write_text(settings.replace('"d_ff": 14', '"d_ff": 15'), "utf-8")
    with pytest.raises(RunError, match=r"is \(14, 12\) in the checkpoint and \(15, 12\)"):
        Translator.load(tmp_path)
