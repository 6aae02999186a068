"""Training: learning-rate schedules, a loss that counts no padding, and one loop for every model.

A schedule is a function of the step, which counts from 1; a loss is loss(model, batch) -> scalar.
Nothing is saved here: checkpoints are `translation.checkpoints`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

Schedule = Callable[[int], float]
Batch = Any


def paper_rate(d_model: int, warmup: int) -> Schedule:
    """Section 5.3 of the paper: d_model**-0.5 * min(step**-0.5, step * warmup**-1.5).

    This is the rate itself, so it goes with fit(..., lr=1.0). Its peak, at step == warmup, is
    (d_model * warmup)**-0.5. ValueError unless both numbers are positive.
    """
    _require_positive(d_model=d_model, warmup=warmup)
    return lambda step: d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)


def warmup_inverse_sqrt(warmup: int) -> Schedule:
    """The paper's shape with peak 1: up linearly to step == warmup, then down as 1 / sqrt(step).

    ValueError unless warmup is positive.
    """
    _require_positive(warmup=warmup)
    return lambda step: min(step / warmup, math.sqrt(warmup / step))


def warmup_cosine(warmup: int, steps: int, final: float = 0.0) -> Schedule:
    """Up linearly to 1 at step == warmup, then half a cosine down to `final` at step == steps.

    ValueError unless 1 <= warmup < steps and 0 <= final <= 1.
    """
    if not 1 <= warmup < steps:
        raise ValueError(f"warmup={warmup} must be at least 1 and below steps={steps}")
    if not 0 <= final <= 1:
        raise ValueError(f"final={final} must be between 0 and 1")

    def multiplier(step: int) -> float:
        if step <= warmup:
            return step / warmup
        share = min(1.0, (step - warmup) / (steps - warmup))
        return final + (1 - final) * (1 + math.cos(math.pi * share)) / 2

    return multiplier


def label_smoothing_loss(
    logits: Tensor, labels: Tensor, *, pad_id: int, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy against (1 - smoothing) * one-hot + smoothing * uniform over all tokens.

    logits (..., vocab), labels (...) of token ids; returns a scalar. Positions labelled `pad_id`
    are neither added nor counted. Section 5.4 of the paper, where smoothing is 0.1. ValueError if
    the shapes disagree, smoothing is outside [0, 1), a label is outside the vocabulary, or all
    labels are padding.
    """
    vocab_size = logits.size(-1)
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and labels {tuple(labels.shape)}, "
            "must be (..., vocab) and (...)"
        )
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing={smoothing} must be at least 0 and below 1")
    scored = labels != pad_id  # (...)
    labels = labels[scored]  # (tokens,)
    if len(labels) == 0:
        raise ValueError(f"all {scored.numel()} labels are pad_id={pad_id}: nothing to score")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"labels from {low} to {high} must be at least 0 and below vocab_size={vocab_size}"
        )

    log_probs = logits[scored].log_softmax(-1)  # (tokens, vocab)
    loss = -log_probs.gather(1, labels[:, None]).mean()
    if smoothing > 0:
        loss = (1 - smoothing) * loss - smoothing * log_probs.mean()
    return loss


def seq2seq_loss(pad_id: int, smoothing: float = 0.0) -> Callable[[nn.Module, tuple], Tensor]:
    """Return loss(model, (src_ids, tgt_ids)) for a model(src_ids, decoder_input) -> logits.

    It shifts by one: the decoder reads tgt_ids (batch, tgt_len) without the last column, and must
    tell the next token at each of these tgt_len - 1 positions. Errors as in `label_smoothing_loss`.
    """

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        src_ids, tgt_ids = batch
        decoder_input, labels = tgt_ids[:, :-1], tgt_ids[:, 1:]  # (batch, tgt_len - 1) each
        logits = model(src_ids, decoder_input)  # (batch, tgt_len - 1, vocab)
        return label_smoothing_loss(logits, labels, pad_id=pad_id, smoothing=smoothing)

    return loss


class NonFiniteLossError(ValueError):
    """The loss, its gradient or the learning rate became NaN or infinite."""


@dataclass
class History:
    """What `fit` did: a loss and a learning rate for each step, and scores as (step, score)."""

    losses: list[float] = field(default_factory=list)
    lrs: list[float] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0  # wall time, evaluations included
    interrupted: bool = False

    @property
    def steps(self) -> int:
        """The number of completed steps."""
        return len(self.losses)


def repeat(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches over and over; ValueError if there are none, or none the second time."""
    count = 0
    while True:
        before = count
        for batch in batches:
            count += 1
            yield batch
        if count == 0:
            raise ValueError("batches is empty: there is nothing to train on")
        if count == before:
            raise ValueError(
                f"batches ended after {count} and gave no more: pass something that can be "
                "iterated again, such as a list, not a generator"
            )


def update(optimizer: torch.optim.Optimizer, loss: Tensor, *, step: int, clip: float) -> float:
    """Step against the gradient of `loss`, its global norm clipped to `clip`; return the loss.

    NonFiniteLossError, before any weight changes, if loss, gradient or learning rate is not finite.
    """
    (group,) = optimizer.param_groups
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(group["params"], clip).item()
    value, lr = loss.item(), group["lr"]
    if not all(math.isfinite(number) for number in (value, norm, lr)):
        raise NonFiniteLossError(
            f"step {step}: loss={value}, gradient norm={norm} and lr={lr} must be finite. Try a "
            "smaller lr or a longer warm-up; look for NaN in the batch, logarithms of 0, and a "
            "softmax over nothing but masked scores"
        )
    optimizer.step()
    return value


def score_of(model: nn.Module, evaluate: Callable[[nn.Module], float]) -> float:
    """Return evaluate(model), called in evaluation mode and without gradients."""
    model.eval()
    with torch.no_grad():
        score = float(evaluate(model))
    model.train()
    return score


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[nn.Module, Batch], Tensor],
    *,
    steps: int,
    lr: float = 1e-3,
    schedule: Schedule | None = None,
    clip: float = 1.0,
    weight_decay: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.98),
    evaluate: Callable[[nn.Module], float] | None = None,
    evaluate_every: int | None = None,
    progress: bool = True,
) -> History:
    """Train `model` in place with AdamW for `steps` batches, minimising loss(model, batch).

    `batches` is iterated again whenever it ends. Step s uses the rate lr * schedule(s), and clips
    the gradient to the global norm `clip` (math.inf: never); weight_decay falls on all parameters,
    biases and norms too; betas are AdamW's; progress shows a bar. evaluate(model), higher is
    better, is called every `evaluate_every` steps and after the last.

    Interrupted (Ctrl-C, the stop button) it returns the history so far. However it ends, the model
    is left in evaluation mode, with the weights of its best score, or its last ones if there is no
    score. ValueError unless numbers are positive, or if batches end too early (`repeat`);
    NonFiniteLossError as in `update`.
    """
    evaluate_every = steps if evaluate_every is None else evaluate_every
    _require_positive(steps=steps, lr=lr, clip=clip, evaluate_every=evaluate_every)
    # On a CPU the fused update takes a fifth of the default's time, or less.
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=betas, weight_decay=weight_decay, fused=True
    )
    history, best_score, best_weights = History(), -math.inf, None
    start = time.perf_counter()
    model.train()
    try:
        with tqdm(total=steps, disable=not progress) as bar:
            for step, batch in enumerate(islice(repeat(batches), steps), start=1):
                rate = lr if schedule is None else lr * schedule(step)
                optimizer.param_groups[0]["lr"] = rate
                value = update(optimizer, loss(model, batch), step=step, clip=clip)
                history.losses.append(value)
                history.lrs.append(rate)
                if evaluate is not None and (step % evaluate_every == 0 or step == steps):
                    score = score_of(model, evaluate)
                    history.scores.append((step, score))
                    if score > best_score:
                        state = model.state_dict()
                        best_score, best_weights = score, {k: state[k].clone() for k in state}
                bar.set_postfix(loss=f"{value:.3f}", refresh=False)
                bar.update()
    except KeyboardInterrupt:
        history.interrupted = True
    finally:
        if best_weights is not None:
            model.load_state_dict(best_weights)
        model.eval()
        history.seconds = time.perf_counter() - start
    return history


def _require_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name}={number} must be positive")
