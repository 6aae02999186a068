import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.training import (
    History,
    NonFiniteLossError,
    fit,
    label_smoothing_loss,
    paper_rate,
    seq2seq_loss,
    warmup_cosine,
    warmup_inverse_sqrt,
)

# Schedules


def test_paper_rate_is_the_formula_of_section_5_3():
    rate = paper_rate(512, 4000)
    for step, expected in [(1, 1.746928e-7), (4000, 6.987713e-4), (100_000, 1.397543e-4)]:
        assert rate(step) == pytest.approx(expected, rel=1e-6)
    assert max(range(1, 9000), key=rate) == 4000


def test_warmup_inverse_sqrt_is_the_papers_shape_with_peak_one():
    multiplier, rate = warmup_inverse_sqrt(37), paper_rate(17, 37)
    assert multiplier(37) == 1.0
    for step in (1, 2, 36, 37, 38, 1000):
        assert multiplier(step) == pytest.approx(rate(step) / rate(37))


def test_warmup_cosine_rises_then_falls_to_final():
    multiplier = warmup_cosine(10, 110, final=0.2)
    assert [multiplier(step) for step in (1, 5, 10)] == pytest.approx([0.1, 0.5, 1.0])
    assert [multiplier(step) for step in (60, 110, 500)] == pytest.approx([0.6, 0.2, 0.2])
    falling = [multiplier(step) for step in range(10, 111)]
    assert falling == sorted(falling, reverse=True)
    assert warmup_cosine(10, 110)(110) == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: paper_rate(0, 5), "d_model=0 must be positive"),
        (lambda: paper_rate(5, 0), "warmup=0 must be positive"),
        (lambda: warmup_inverse_sqrt(-1), "warmup=-1 must be positive"),
        (lambda: warmup_cosine(0, 5), "warmup=0 must be at least 1 and below steps=5"),
        (lambda: warmup_cosine(5, 5), "warmup=5 must be at least 1 and below steps=5"),
        (lambda: warmup_cosine(2, 5, final=1.5), "final=1.5 must be between 0 and 1"),
    ],
)
def test_schedules_check_their_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Losses


def make_scores(pad_id=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 5, 7, generator=generator, dtype=dtype)
    labels = torch.randint(1, 7, (3, 5), generator=generator)
    labels[0, 3:] = labels[2, 1:] = pad_id
    return logits.requires_grad_(), labels


@pytest.mark.parametrize("pad_id", [0, 6, -100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_label_smoothing_equals_pytorchs(pad_id, smoothing, dtype, atol):
    logits, labels = make_scores(pad_id, dtype)
    loss = label_smoothing_loss(logits, labels, pad_id=pad_id, smoothing=smoothing)
    expected = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id, label_smoothing=smoothing
    )
    torch.testing.assert_close(loss, expected, atol=atol, rtol=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, expected_gradient, atol=atol, rtol=1e-6)


def test_label_smoothing_is_cross_entropy_against_the_mixture():
    logits, labels = make_scores()
    losses = []
    for row, column in (labels != 0).nonzero().tolist():
        target = torch.full((7,), 0.1 / 7, dtype=torch.float64)
        target[labels[row, column]] += 0.9
        probs = logits[row, column].exp() / logits[row, column].exp().sum()
        losses.append(-(target * probs.log()).sum())
    loss = label_smoothing_loss(logits, labels, pad_id=0, smoothing=0.1)
    torch.testing.assert_close(loss, sum(losses) / len(losses))


def test_padding_has_no_influence():
    logits, labels = make_scores()
    loss = label_smoothing_loss(logits, labels, pad_id=0, smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[labels == 0].abs().max() == 0
    assert gradient[labels != 0].abs().sum(-1).min() > 0

    changed = logits.detach().clone()
    changed[labels == 0] = math.nan
    wider = F.pad(changed, (0, 0, 0, 2), value=math.inf)
    for other, its_labels in [(changed, labels), (wider, F.pad(labels, (0, 2)))]:
        torch.testing.assert_close(
            label_smoothing_loss(other, its_labels, pad_id=0, smoothing=0.1), loss.detach()
        )


def test_a_forbidden_token_costs_nothing_without_smoothing():
    logits = torch.tensor([[0.0, -math.inf, 0.0]])
    assert label_smoothing_loss(logits, torch.tensor([2]), pad_id=1).item() == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([[0, 0, 0]], {}, "all 3 labels are pad_id=0: nothing to score"),
        ([[0, 1, 7]], {}, "labels from 1 to 7 must be at least 0 and below vocab_size=7"),
        ([[0, -1, 6]], {}, "labels from -1 to 6 must be"),
        ([[1, 2]], {}, r"logits have shape \(1, 3, 7\) and labels \(1, 2\)"),
        ([[1, 2, 3]], {"smoothing": -0.1}, "smoothing=-0.1 must be at least 0 and below 1"),
        ([[1, 2, 3]], {"smoothing": 1.0}, "smoothing=1.0 must be"),
        ([[1, 2, 3]], {"smoothing": math.nan}, "smoothing=nan must be"),
    ],
)
def test_label_smoothing_checks_its_arguments(labels, options, message):
    with pytest.raises(ValueError, match=message):
        label_smoothing_loss(torch.zeros(1, 3, 7), torch.tensor(labels), pad_id=0, **options)


def test_seq2seq_loss_shifts_by_one():
    src_ids = torch.tensor([[5, 6, 2], [4, 2, 0]])
    tgt_ids = torch.tensor([[1, 3, 4, 5, 2], [1, 6, 2, 0, 0]])
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    calls = []

    def model(*args):
        calls.append(args)
        return logits

    loss = seq2seq_loss(0, 0.1)(model, (src_ids, tgt_ids))
    ((seen, decoder_input),) = calls
    assert torch.equal(seen, src_ids)
    assert decoder_input.tolist() == [[1, 3, 4, 5], [1, 6, 2, 0]]
    labels = torch.tensor([[3, 4, 5, 2], [6, 2, 0, 0]])
    assert torch.equal(decoder_input[:, 1:], labels[:, :-1])
    expected = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=0, label_smoothing=0.1
    )
    torch.testing.assert_close(loss, expected)


# The loop


def make_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def make_batches(count=3):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 7, 3, generator=generator)
    return [(x, x[:, :2].sin()) for x in inputs]


def squared_error(model, batch):
    inputs, targets = batch
    return F.mse_loss(model(inputs), targets)


def weights_of(model):
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


class FailingLoss:
    """The squared error, but `fail()` from one step on; remembers the weights before each step."""

    def __init__(self, fail_at, fail):
        self.fail_at, self.fail, self.weights = fail_at, fail, []

    def __call__(self, model, batch):
        self.weights.append(weights_of(model))
        if len(self.weights) == self.fail_at:
            return self.fail(model)
        return squared_error(model, batch)


def raise_interrupt(model):
    raise KeyboardInterrupt


def test_fit_equals_a_loop_written_out():
    model, reference = make_model(), make_model()
    schedule = warmup_inverse_sqrt(4)
    history = fit(
        model,
        make_batches(),
        squared_error,
        steps=11,
        lr=0.1,
        schedule=schedule,
        clip=0.3,
        weight_decay=0.2,
        betas=(0.8, 0.95),
        progress=False,
    )
    optimizer = torch.optim.AdamW(reference.parameters(), betas=(0.8, 0.95), weight_decay=0.2)
    losses, norms = [], []
    for step in range(1, 12):
        optimizer.param_groups[0]["lr"] = 0.1 * min(step / 4, 2 / step**0.5)
        loss = squared_error(reference, make_batches()[(step - 1) % 3])
        optimizer.zero_grad()
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(reference.parameters(), 0.3).item())
        optimizer.step()
        losses.append(loss.item())
    assert min(norms) < 0.3 < max(norms), "the test must see steps with and without clipping"
    torch.testing.assert_close(weights_of(model), weights_of(reference), atol=1e-5, rtol=1e-5)
    assert history.losses == pytest.approx(losses, rel=1e-4)
    assert history.lrs == pytest.approx([0.1 * schedule(step) for step in range(1, 12)])
    assert history.steps == 11
    assert history.seconds > 0
    assert not history.interrupted
    assert history.scores == []


def test_without_options_fit_is_adamw_with_the_papers_second_beta_clipped_to_one():
    model, reference = make_model(), make_model()
    history = fit(model, make_batches(), squared_error, steps=7, progress=False)
    optimizer = torch.optim.AdamW(
        reference.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.01
    )
    for step in range(7):
        optimizer.zero_grad()
        squared_error(reference, make_batches()[step % 3]).backward()
        nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(weights_of(model), weights_of(reference), atol=1e-7, rtol=0)
    assert history.lrs == [1e-3] * 7


def test_an_empty_history_has_taken_no_time():
    assert (History().seconds, History().steps, History().interrupted) == (0.0, 0, False)


def test_fit_learns():
    history = fit(make_model(), make_batches(), squared_error, steps=200, lr=0.02, progress=False)
    assert sum(history.losses[-3:]) < 0.1 * sum(history.losses[:3])
    assert history.lrs == [0.02] * 200


def test_infinite_clip_never_clips():
    results = []
    for clip in (math.inf, 1e9):
        model = make_model()
        fit(model, make_batches(), squared_error, steps=5, clip=clip, progress=False)
        results.append(weights_of(model))
    assert torch.equal(*results)


def test_best_weights_are_kept_and_restored():
    model, scores, weights = make_model(), iter([1.0, 5.0, math.nan, 5.0, 2.0]), []

    def evaluate(model):
        weights.append(weights_of(model))
        return torch.tensor(next(scores))

    history = fit(
        model,
        make_batches(),
        squared_error,
        steps=9,
        evaluate=evaluate,
        evaluate_every=2,
        progress=False,
    )
    steps, values = zip(*history.scores, strict=True)
    assert steps == (2, 4, 6, 8, 9), "every second step and the last"
    assert values == pytest.approx([1.0, 5.0, math.nan, 5.0, 2.0], nan_ok=True)
    assert torch.equal(weights_of(model), weights[1])
    assert not torch.equal(weights[1], weights[4])


def test_without_evaluate_every_the_score_is_taken_once():
    history = fit(
        make_model(), make_batches(), squared_error, steps=4, evaluate=lambda _: 3, progress=False
    )
    assert history.scores == [(4, 3.0)]


def test_modes_and_gradients():
    model, seen = make_model(), []

    def loss(model, batch):
        seen.append(("loss", model.training, torch.is_grad_enabled()))
        return squared_error(model, batch)

    def evaluate(model):
        seen.append(("evaluate", model.training, torch.is_grad_enabled()))
        return 0.0

    fit(
        model.eval(),
        make_batches(),
        loss,
        steps=2,
        evaluate=evaluate,
        evaluate_every=1,
        progress=False,
    )
    assert seen == [("loss", True, True), ("evaluate", False, False)] * 2
    assert not model.training


def test_frozen_parameters_stay():
    model = make_model()
    model[0].requires_grad_(False)
    before = [parameter.clone() for parameter in model.parameters()]
    fit(model, make_batches(), squared_error, steps=3, progress=False)
    changed = [not torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)]
    assert changed == [False, False, True, True]


FAILURES = {
    "nan loss": (lambda model: model[0].weight.sum() * math.nan, "loss=nan"),
    "infinite loss": (lambda model: model[0].weight.sum() + math.inf, "loss=inf"),
    "nan gradient": (
        lambda model: (0 * model[0].weight).sqrt().sum(),
        "loss=0.0, gradient norm=nan",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_not_finite_stops_with_the_last_finite_weights(name):
    fail, message = FAILURES[name]
    model, loss = make_model(), FailingLoss(4, fail)
    with pytest.raises(NonFiniteLossError, match=rf"step 4: {message}.*lr=0\.01.*smaller lr"):
        fit(model, make_batches(), loss, steps=9, lr=0.01, progress=False)
    assert torch.equal(weights_of(model), loss.weights[3])
    assert not torch.equal(loss.weights[3], loss.weights[2])
    assert not model.training


def test_a_rate_that_is_not_finite_stops_before_the_weights_change():
    model = make_model()
    before = weights_of(model)
    with pytest.raises(NonFiniteLossError, match=r"step 1: .* lr=nan must be finite"):
        fit(
            model,
            make_batches(),
            squared_error,
            steps=2,
            schedule=lambda step: math.nan,
            progress=False,
        )
    assert torch.equal(weights_of(model), before)


@pytest.mark.parametrize("fail", [raise_interrupt, lambda model: model[0].weight.sum() * math.nan])
def test_an_early_end_restores_the_best_weights(fail):
    model, loss, scores = make_model(), FailingLoss(6, fail), iter([1.0, 3.0, 2.0, 1.0, 0.0])
    options = {"evaluate": lambda model: next(scores), "evaluate_every": 1, "progress": False}
    if fail is raise_interrupt:
        history = fit(model, make_batches(), loss, steps=9, **options)
        assert history.scores[1] == (2, 3.0)
    else:
        with pytest.raises(NonFiniteLossError):
            fit(model, make_batches(), loss, steps=9, **options)
    assert torch.equal(weights_of(model), loss.weights[2])  # before step 3: after step 2


def test_interrupt_returns_the_history_so_far():
    model, loss = make_model(), FailingLoss(4, raise_interrupt)
    history = fit(model, make_batches(), loss, steps=9, progress=False)
    assert history.interrupted
    assert history.steps == len(history.lrs) == 3
    assert history.seconds > 0
    assert torch.equal(weights_of(model), loss.weights[3])
    assert not model.training


def test_batches_that_end_too_early():
    with pytest.raises(ValueError, match="batches is empty"):
        fit(make_model(), [], squared_error, steps=2, progress=False)
    with pytest.raises(ValueError, match=r"batches ended after 3 and gave no more: .*a list"):
        fit(make_model(), iter(make_batches()), squared_error, steps=4, progress=False)


def test_no_batch_is_drawn_in_vain():
    batches = iter(make_batches())
    assert fit(make_model(), batches, squared_error, steps=2, progress=False).steps == 2
    assert len(list(batches)) == 1


@pytest.mark.parametrize("name", ["steps", "lr", "clip", "evaluate_every"])
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_numbers_must_be_positive(name, value):
    with pytest.raises(ValueError, match=f"{name}={value} must be positive"):
        fit(make_model(), make_batches(), squared_error, **{"steps": 2, name: value})


def test_progress_is_one_line_on_stderr_or_nothing(capsys):
    fit(make_model(), make_batches(), squared_error, steps=3)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3/3" in captured.err
    assert "loss=" in captured.err
    assert captured.err.count("\n") == 1
    fit(make_model(), make_batches(), squared_error, steps=3, progress=False)
    assert capsys.readouterr() == ("", "")
