"""The loss of a step whose batches several workers share."""

import torch
from torch import Tensor, nn

from tfm_lib.text.batches import target_tokens
from tfm_lib.text.codec import pad
from tfm_lib.training import label_smoothing_loss
from tfm_lib.translation.workers import Worker


def share_loss(
    model: nn.Module,
    batches: list,
    worker: Worker,
    *,
    smoothing: float,
    precision: str,
    seed: int | None = None,
) -> Tensor:
    """This worker's part of the mean loss a token of a step's batches.

    The workers' gradients are averaged, so each batch is weighted by its share of the step's target
    tokens times the number of workers: together that is the gradient of one process with them all.
    seed: batch n draws its dropout from seed + n, whoever takes it; None draws on.
    """
    own, parts = worker.share([*enumerate(batches)]), []
    tokens = sum(map(target_tokens, batches))
    for number, rows in own or [(0, batches[0][:1])]:  # none: join with weight 0
        if seed is not None:
            torch.manual_seed(seed + number)
        sources, targets = zip(*rows, strict=True)
        src_ids, tgt_ids = pad(sources).to(worker.device), pad(targets).to(worker.device)
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(src_ids, tgt_ids[:, :-1])  # (batch, tgt_len - 1, vocab)
        labels = tgt_ids[:, 1:]
        loss = label_smoothing_loss(logits.float(), labels, pad_id=0, smoothing=smoothing)
        weight = worker.world_size * target_tokens(rows) / tokens
        parts.append(loss * (weight if own else 0))
    return torch.stack(parts).sum()
