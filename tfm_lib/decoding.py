"""Turning next-token logits into sequences: greedy search, sampling and beam search.

Every function takes a *step*: a callable that reads all tokens so far, bos included, (rows, length)
and returns the logits of the next one, (rows, vocab). A step that keeps state for each row, such as
an RNN's hidden state or a key-value cache, also has `reorder(rows)`: afterwards its row i continues
what was row rows[i]. Nothing else is asked of a model, so RNNs and Transformers decode alike.

Tensors are made on the default device: decode on another one inside `with torch.device(...)`.
Results leave out bos, contain eos, and hold pad after it. An `eos_id` outside the vocabulary, such
as -1, never ends a row.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]


def require_eval(model: nn.Module) -> None:
    """Raise ValueError if the model is in training mode: dropout would spoil what it writes."""
    if model.training:
        raise ValueError("the model is in training mode (dropout is on): call model.eval() first")


class EnsembleStep:
    """Several models write one text: the mean of the probabilities they give the next token.

    Models of one vocabulary that began with other weights err in other places, and a mean keeps
    what they agree on (Sutskever et al. 2014, section 3.6). It takes as long as all of them.
    Returns log-probabilities. ValueError if there is no step or their vocabularies differ in size.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        if not steps:
            raise ValueError("an ensemble needs at least one step; got none")
        self.steps = steps

    def __call__(self, token_ids: Tensor) -> Tensor:
        found = [step(token_ids).log_softmax(-1, dtype=torch.float32) for step in self.steps]
        sizes = [log_probs.size(-1) for log_probs in found]  # (rows, vocab) each
        if len(set(sizes)) > 1:
            raise ValueError(f"the steps have vocabularies of {sizes} tokens, must have one")
        return torch.stack(found).logsumexp(0) - math.log(len(found))

    def reorder(self, rows: Tensor) -> None:
        for step in self.steps:
            getattr(step, "reorder", lambda rows: None)(rows)


def next_logits(step: Step, token_ids: Tensor) -> Tensor:
    """Return the step's logits (rows, vocab) for the token after `token_ids` (rows, length).

    A logit of -inf forbids its token. ValueError if the shape is wrong, or if a row holds NaN or
    +inf or forbids every token; it names the row and the position (0 is the first after bos).
    """
    logits = step(token_ids)
    rows, length = token_ids.shape
    if logits.ndim != 2 or len(logits) != rows:
        raise ValueError(f"step returned shape {tuple(logits.shape)}, must be ({rows}, vocab)")
    peaks = logits.amax(-1)  # (rows,): NaN where any logit is
    if not peaks.isfinite().all():
        row = int((~peaks.isfinite()).nonzero()[0])
        raise ValueError(
            f"the largest logit is {peaks[row].item()} in row {row} at position {length - 1}, "
            "must be finite: no logit may be NaN or +inf, and one must be above -inf"
        )
    return logits


def generate(
    step: Step,
    choose: Callable[[Tensor], Tensor],
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    max_len: int,
) -> Tensor:
    """Append `choose(logits (batch, vocab)) -> (batch,)` to every row until all rows have ended.

    Returns token ids (batch, length), length <= max_len. ValueError unless batch_size and max_len
    are positive, and as in `next_logits`.
    """
    _require_positive(batch_size=batch_size, max_len=max_len)
    token_ids = torch.full((batch_size, 1), bos_id)  # (batch, 1)
    finished = torch.zeros(batch_size, dtype=torch.bool)  # (batch,)
    while token_ids.size(1) <= max_len and not finished.all():
        chosen = choose(next_logits(step, token_ids)).masked_fill(finished, pad_id)  # (batch,)
        token_ids = torch.cat([token_ids, chosen[:, None]], dim=1)  # (batch, length + 1)
        finished = finished | (chosen == eos_id)
    return token_ids[:, 1:]


@torch.no_grad()
def greedy(
    step: Step, *, batch_size: int, bos_id: int, eos_id: int, pad_id: int, max_len: int
) -> Tensor:
    """Take the likeliest token at every step: token ids (batch, length); errors of `generate`."""
    return generate(
        step,
        lambda logits: logits.argmax(-1),
        batch_size=batch_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        max_len=max_len,
    )


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Set all but the `top_k` largest logits of each row (rows, vocab) to -inf."""
    kept = logits.topk(min(top_k, logits.size(1)))  # (rows, top_k) each: values, indices
    return torch.full_like(logits, -math.inf).scatter(-1, kept.indices, kept.values)


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Set all to -inf but each row's smallest set of tokens with probability `top_p` or more.

    logits: (rows, vocab). At least one token stays (Holtzman et al. 2020, section 3.1).
    """
    ranked, order = logits.sort(descending=True)  # (rows, vocab) each
    # The mass of each token and all after it, added from the small end so that rounding is small.
    tail = ranked.softmax(-1).flip(-1).cumsum(-1).flip(-1)  # (rows, vocab)
    dropped = tail <= 1 - top_p
    dropped[:, 0] = False
    return logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)


@torch.no_grad()
def sample(
    step: Step,
    *,
    batch_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    max_len: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw every token from softmax(logits / temperature): token ids (batch, length).

    `top_k` first keeps the k likeliest tokens, then `top_p` the smallest set with that share of
    what is left. ValueError unless 0 < temperature < inf, top_k is positive and 0 < top_p <= 1,
    and the errors of `generate`.
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} must be above 0 and finite (near 0: greedy)")
    if top_k is not None:
        _require_positive(top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")

    def draw(logits: Tensor) -> Tensor:
        # With the largest logit moved to 0, a small temperature cannot overflow.
        logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # (batch, vocab)
        if top_k is not None:
            logits = keep_top_k(logits, top_k)
        if top_p is not None:
            logits = keep_top_p(logits, top_p)
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    return generate(
        step,
        draw,
        batch_size=batch_size,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        max_len=max_len,
    )


@torch.no_grad()
def beam_search(
    step: Step,
    *,
    batch_size: int,
    beam_size: int,
    bos_id: int,
    eos_id: int,
    pad_id: int,
    max_len: int,
    length_penalty: float = 0.6,
) -> tuple[Tensor, Tensor]:
    """Search for the tokens with the highest log P(tokens) / ((5 + length) / 6)**length_penalty.

    Returns the best token ids (batch, length) and that score (batch,) of each row (Wu et al. 2016,
    section 7, without the coverage term); length counts eos but not bos. Every step keeps the
    beam_size likeliest continuations; one that ends takes its place once, is remembered if it is
    the best so far, and leaves. What is cut off at max_len has ended too. The search stops when no
    open hypothesis could win even if it grew to max_len at no cost: an exact bound, searching on
    would change nothing.

    The step sees batch_size * beam_size rows, the beams of a batch row side by side. ValueError
    unless sizes are positive and 0 <= length_penalty < inf, and as in `next_logits`.
    """
    _require_positive(batch_size=batch_size, beam_size=beam_size, max_len=max_len)
    if not 0 <= length_penalty < math.inf:
        raise ValueError(f"length_penalty={length_penalty} must be at least 0 and finite")
    penalties = [((5 + length) / 6) ** length_penalty for length in range(max_len + 1)]
    reorder = getattr(step, "reorder", lambda rows: None)
    first_row = torch.arange(batch_size) * beam_size  # (batch,)
    reorder(torch.arange(batch_size).repeat_interleave(beam_size))

    token_ids = torch.full((batch_size * beam_size, 1), bos_id)  # (rows, 1), rows = batch * beam
    log_probs = torch.full((len(token_ids),), -math.inf)  # (rows,), -inf: not in the beam
    log_probs[first_row] = 0.0  # all begin alike, so one goes on
    best_ids = torch.full((batch_size, max_len), pad_id)
    best_scores = torch.full((batch_size,), -math.inf)

    for length in range(1, max_len + 1):
        logits = next_logits(step, token_ids)  # (rows, vocab)
        totals = log_probs[:, None] + logits.log_softmax(-1, dtype=torch.float32)
        beams = totals.view(batch_size, -1).topk(beam_size)  # (batch, beam) each: values, indices
        parents = (first_row[:, None] + beams.indices // logits.size(1)).flatten()  # (rows,)
        chosen = (beams.indices % logits.size(1)).flatten()  # (rows,)
        token_ids = torch.cat([token_ids[parents], chosen[:, None]], dim=1)  # (rows, 1 + length)
        reorder(parents)

        ended = (chosen == eos_id).view_as(beams.values) | (length == max_len)  # (batch, beam)
        scores, leaders = (beams.values / penalties[length]).masked_fill(~ended, -math.inf).max(1)
        better = scores > best_scores  # (batch,)
        best_scores = torch.where(better, scores, best_scores)
        best_ids[better, :length] = token_ids[first_row + leaders, 1:][better]
        if better.any():
            width = length

        log_probs = beams.values.masked_fill(ended, -math.inf)  # (batch, beam)
        if (best_scores >= log_probs.amax(1) / penalties[max_len]).all():
            break
        log_probs = log_probs.flatten()  # (rows,)
    return best_ids[:, :width], best_scores


def _require_positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size} must be positive")
