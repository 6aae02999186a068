"""What is made on the way lies where the input lies, whatever the default device is.

The default becomes PyTorch's "meta" device, whose tensors hold no numbers: what was made without
naming a device cannot be combined with the input.
"""

import pytest
import torch

from tests.models.test_every_model import built, every_model, ids, output
from tfm_lib.attention import (
    AdditiveScore,
    Attention,
    chunked_attention,
    column_mask,
    dot_score,
    fixed_attention,
    fused_attention,
    fused_causal_attention,
    hard_attention,
    pattern_attention,
    recomputed,
    relative_encoding,
    scaled_dot_product_attention,
    split_heads,
    strided_attention,
    windowed_attention,
)
from tfm_lib.models import transformer_xl, xlnet

FUNCTIONS = {
    "scaled": scaled_dot_product_attention,
    "fused": fused_attention,
    "fused causal": fused_causal_attention,
    "hard": hard_attention,
    "dot": Attention(dot_score),
    "additive": Attention(AdditiveScore(6, 6, 4)),
    "chunked": chunked_attention(3),
    "windowed": windowed_attention(2),
    "strided": strided_attention(3),
    "fixed": fixed_attention(3, 1),
    "split heads": split_heads(fused_attention, strided_attention(3)),
    "recomputed": recomputed(scaled_dot_product_attention),
    "pattern": pattern_attention(column_mask(2, 3, 3)),
}


def made_on_the_cpu(*distances):
    """Distances are made in float64, which not every device has, and moved by who asked."""
    with torch.device("cpu"):
        return relative_encoding(*distances)


def results(function, inputs, mask):
    attended, _ = function(*inputs, mask)
    used = [each for each in inputs if function is not hard_attention or each is inputs[2]]
    return attended, *torch.autograd.grad(attended.square().sum(), used)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("masked", [False, True])
def test_attention_functions_stay_on_their_inputs_device(name, masked):
    torch.manual_seed(0)
    inputs = [torch.randn(2, 4, 11, 6, requires_grad=True) for _ in range(3)]
    mask = (torch.rand(2, 1, 1, 11) > 0.3) if masked else None
    expected = results(FUNCTIONS[name], inputs, mask)
    with torch.device("meta"):
        found = results(FUNCTIONS[name], inputs, mask)
    for got, wanted in zip(found, expected, strict=True):
        assert torch.equal(got, wanted)


@every_model
def test_models_stay_on_their_inputs_device(name, monkeypatch):
    for module in (transformer_xl, xlnet):
        monkeypatch.setattr(module, "relative_encoding", made_on_the_cpu)
    model, token_ids = built(name), ids()
    expected = output(model, token_ids)
    with torch.device("meta"):
        found = output(model, token_ids)
        found.square().mean().backward()
    assert torch.equal(found, expected)
