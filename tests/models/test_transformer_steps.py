"""The key-value cache gives what recomputing gives, token for token."""

import pytest
import torch

from tfm_lib.attention.functions import fused_attention
from tfm_lib.decoding import beam_search, greedy
from tfm_lib.models.transformer import CachedStep, RecomputedStep, Transformer

OPTIONS = [{}, {"norm_first": True}, {"attention": fused_attention}]


def make(**options):
    torch.manual_seed(0)
    sizes = {"d_model": 10, "num_heads": 2, "num_layers": 2, "d_ff": 11, "tie_weights": "none"}
    model = Transformer(19, 23, **sizes, **options).eval()
    src_ids = torch.randint(3, 19, (3, 7))
    src_ids[1, 4:] = 0
    return model, src_ids


@pytest.mark.parametrize("options", OPTIONS)
def test_logits_equal_the_teacher_forced_forward(options):
    model, src_ids = make(**options)
    tgt_ids = torch.randint(3, 23, (3, 11))
    logits = model(src_ids, tgt_ids)
    for step in (CachedStep(model, src_ids), RecomputedStep(model, src_ids)):
        for length in range(1, 12):
            got = step(tgt_ids[:, :length])
            torch.testing.assert_close(got, logits[:, length - 1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", OPTIONS)
def test_reorder_moves_every_row_with_its_past(options):
    model, src_ids = make(**options)
    tgt_ids, rows = torch.randint(3, 23, (3, 6)), torch.tensor([2, 0, 0, 1])
    steps = [CachedStep(model, src_ids), RecomputedStep(model, src_ids)]
    for step in steps:
        for length in range(1, 6):
            step(tgt_ids[:, :length])
        step.reorder(rows)
    wanted = model(src_ids[rows], tgt_ids[rows])[:, -1]
    for step in steps:
        torch.testing.assert_close(step(tgt_ids[rows]), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("options", OPTIONS)
def test_searches_agree_token_for_token(options):
    model, src_ids = make(**options)
    ids = {"batch_size": 3, "bos_id": 1, "eos_id": 2, "pad_id": 0, "max_len": 13}
    steps = [step(model, src_ids) for step in (CachedStep, RecomputedStep)]
    cached, recomputed = (greedy(step, **ids) for step in steps)
    assert torch.equal(cached, recomputed)
    assert len(cached.unique()) > 2
    steps = [step(model, src_ids) for step in (CachedStep, RecomputedStep)]
    (cached, scores), (recomputed, wanted) = (
        beam_search(step, beam_size=3, **ids) for step in steps
    )
    assert torch.equal(cached, recomputed)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=0)


def test_a_prefix_that_does_not_continue_the_cache_is_refused():
    model, src_ids = make()
    step = CachedStep(model, src_ids)
    with pytest.raises(ValueError, match="holds 0 tokens, so the prefix must have 1, got 2"):
        step(torch.ones(3, 2).long())
    with pytest.raises(ValueError, match="3 sources, but 1 targets in one batch"):
        step(torch.ones(1, 1).long())


@pytest.mark.parametrize("step", [CachedStep, RecomputedStep])
def test_training_mode_is_refused(step):
    model, src_ids = make()
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        step(model.train(), src_ids)
