"""Multi-head attention against torch.nn, forward and backward."""

import pytest
import torch
from torch import nn

from tfm_lib.attention.functions import fused_attention, scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.multi_head import MultiHeadAttention

FUNCTIONS = [scaled_dot_product_attention, fused_attention]
NAMES = ["scaled", "fused"]


def gradients(output, inputs):
    torch.manual_seed(2)
    loss = (output * torch.randn(output.shape, dtype=output.dtype)).sum()
    return torch.autograd.grad(loss, inputs, retain_graph=True)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("attention", FUNCTIONS, ids=NAMES)
def test_multi_head_equals_torch(attention, masked, dtype, atol):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(15, 3, batch_first=True, dtype=dtype)
    nn.init.normal_(theirs.in_proj_bias)  # zero by default: a swapped bias would go unseen
    nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention.from_torch(theirs, attention=attention)
    query = torch.randn(2, 5, 15, dtype=dtype, requires_grad=True)
    key = torch.randn(2, 7, 15, dtype=dtype, requires_grad=True)
    value = torch.randn(2, 7, 15, dtype=dtype, requires_grad=True)
    pads = torch.tensor([[0] * 7, [0] * 4 + [1] * 3], dtype=torch.bool)
    mask = ~pads[:, None, None, :] if masked else None
    output, weights = ours(query, key, value, mask)
    wanted, wanted_weights = theirs(
        query, key, value, key_padding_mask=pads if masked else None, average_attn_weights=False
    )
    torch.testing.assert_close(output, wanted, atol=atol, rtol=0)
    if weights is not None:
        torch.testing.assert_close(weights, wanted_weights, atol=atol, rtol=0)
    inputs = (query, key, value)
    for got, right in zip(gradients(output, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(got, right, atol=atol, rtol=0)
    linears = (ours.q_proj, ours.k_proj, ours.v_proj)
    got = gradients(output, [p.weight for p in linears] + [p.bias for p in linears])
    weight, bias = gradients(wanted, [theirs.in_proj_weight, theirs.in_proj_bias])
    torch.testing.assert_close(torch.cat(got[:3]), weight, atol=atol, rtol=0)
    torch.testing.assert_close(torch.cat(got[3:]), bias, atol=atol, rtol=0)


def test_multi_head_is_causal_by_gradient():
    attention, x = MultiHeadAttention(15, 3), torch.randn(2, 7, 15, requires_grad=True)
    output, _ = attention(x, x, x, causal_mask(7))
    (grad,) = torch.autograd.grad(output[:, 3].sum(), x)
    assert (grad[:, 4:] == 0).all()
    assert (grad[:, :4].abs().sum(-1) > 0).all()


def test_multi_head_dropout_is_for_training_only():
    attention, x = MultiHeadAttention(15, 3, dropout=0.5), torch.randn(2, 7, 15)
    torch.manual_seed(0)
    assert not torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])
    attention.eval()
    assert torch.equal(attention(x, x, x)[0], attention(x, x, x)[0])


X = torch.zeros(2, 5, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiHeadAttention(510, 6 + 1), "d_model=510 must be divisible by num_heads=7"),
        (lambda: MultiHeadAttention(6, 0), "num_heads=0"),
        (lambda: MultiHeadAttention(6, 1)(X[0], X[0], X[0]), r"d_model=6\), got \(5, 6\)"),
        (lambda: MultiHeadAttention(6, 2)(X, X[..., :4], X), r"d_model=6\), got \(2, 5, 4\)"),
        (
            lambda: MultiHeadAttention(6, 2)(X, X, X, torch.ones(2, 5, 5, dtype=torch.bool)),
            "needs 2 or 4 dimensions",
        ),
        (
            lambda: MultiHeadAttention.from_torch(nn.MultiheadAttention(6, 2, kdim=5)),
            "kdim = vdim = embed_dim",
        ),
        (
            lambda: MultiHeadAttention.from_torch(nn.MultiheadAttention(6, 2, add_bias_kv=True)),
            "add_bias_kv=False",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
