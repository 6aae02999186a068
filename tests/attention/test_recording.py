"""Recorded attention: every call's weights, in order."""

import pytest
import torch
from torch import nn

from tfm_lib.attention.functions import Attention, dot_score, fused_attention
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.recording import record_attention


def test_record_attention_keeps_every_call_in_order_and_leaves_no_hook():
    model = nn.ModuleDict({"a": MultiHeadAttention(6, 2), "b": Attention(dot_score)})
    x, y = torch.randn(2, 5, 6), torch.randn(2, 3, 6)
    with record_attention(model) as maps:
        first = model["a"](x, x, x)[1]
        second = model["a"](x, y, y)[1]
        third = model["b"](x, y, y)[1]
    model["a"](x, x, x)
    assert [len(maps["a"]), len(maps["b"])] == [2, 1]
    for kept, real in zip([*maps["a"], *maps["b"]], [first, second, third], strict=True):
        assert torch.equal(kept, real)
        assert not kept.requires_grad


def test_record_attention_says_when_there_is_nothing_to_record():
    with (
        pytest.raises(ValueError, match="Linear holds no Attention"),
        record_attention(nn.Linear(2, 2)),
    ):
        pass
    fused = MultiHeadAttention(6, 2, attention=fused_attention)
    x = torch.randn(2, 5, 6)
    with pytest.raises(ValueError, match="never forms its weights"), record_attention(fused):
        fused(x, x, x)
