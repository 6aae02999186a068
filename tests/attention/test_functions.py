"""The functions against loops and against PyTorch's, both ways; every dimension is prime."""

import math

import pytest
import torch
from torch.nn import functional as F

from tfm_lib.attention.functions import (
    AdditiveScore,
    Attention,
    dot_score,
    fused_attention,
    hard_attention,
    masked_softmax,
    scaled_dot_product_attention,
)
from tfm_lib.attention.masks import causal_mask, padding_mask

BATCH, HEADS, QUERY_LEN, KEY_LEN, D_K, D_V = 2, 3, 5, 7, 11, 13
FUNCTIONS = [
    scaled_dot_product_attention,
    fused_attention,
    hard_attention,
    Attention(dot_score),
    Attention(AdditiveScore(D_K, D_K, 17)),
]
NAMES = ["scaled", "fused", "hard", "dot", "additive"]


def make_inputs(dtype=torch.float32, requires_grad=True):
    torch.manual_seed(0)
    shapes = (QUERY_LEN, D_K), (KEY_LEN, D_K), (KEY_LEN, D_V)
    return [
        torch.randn(BATCH, HEADS, *shape, dtype=dtype, requires_grad=requires_grad)
        for shape in shapes
    ]


def make_mask():
    torch.manual_seed(1)
    mask = torch.rand(BATCH, HEADS, QUERY_LEN, KEY_LEN) > 0.4
    mask[0, 1, 2] = False  # a query that may attend to nothing
    return mask


def attention_by_loops(query, key, value, mask=None):
    """The definition, one number at a time."""
    output = torch.zeros(BATCH, HEADS, QUERY_LEN, D_V, dtype=query.dtype)
    weights = torch.zeros(BATCH, HEADS, QUERY_LEN, KEY_LEN, dtype=query.dtype)
    for b in range(BATCH):
        for h in range(HEADS):
            for i in range(QUERY_LEN):
                seen = [j for j in range(KEY_LEN) if mask is None or mask[b, h, i, j]]
                scores = [float(query[b, h, i] @ key[b, h, j]) / math.sqrt(D_K) for j in seen]
                total = sum(math.exp(score) for score in scores)
                for j, score in zip(seen, scores, strict=True):
                    weights[b, h, i, j] = math.exp(score) / total
                    output[b, h, i] += weights[b, h, i, j] * value[b, h, j]
    return output, weights


def gradients(output, inputs):
    torch.manual_seed(2)
    loss = (output * torch.randn(output.shape, dtype=output.dtype)).sum()
    return torch.autograd.grad(loss, inputs, retain_graph=True)


@pytest.mark.parametrize("mask", [None, make_mask()], ids=["free", "masked"])
def test_scaled_equals_loops(mask):
    inputs = make_inputs(torch.float64, requires_grad=False)
    output, weights = scaled_dot_product_attention(*inputs, mask)
    wanted_output, wanted_weights = attention_by_loops(*inputs, mask)
    torch.testing.assert_close(output, wanted_output, atol=1e-12, rtol=0)
    torch.testing.assert_close(weights, wanted_weights, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("mask", [None, make_mask(), make_mask()[0, 0]], ids=["free", "4d", "2d"])
@pytest.mark.parametrize("ours", FUNCTIONS[:2], ids=NAMES[:2])
def test_equals_torch_forward_and_backward(ours, mask, dtype, atol):
    inputs = make_inputs(dtype)
    output, _ = ours(*inputs, mask)
    wanted = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    torch.testing.assert_close(output, wanted, atol=atol, rtol=0)
    for got, right in zip(gradients(output, inputs), gradients(wanted, inputs), strict=True):
        torch.testing.assert_close(got, right, atol=atol, rtol=0)


def test_no_scale_would_be_noticed():
    """The inputs above do not saturate the softmax: leaving out sqrt(d_k) changes the result."""
    query, key, value = make_inputs(requires_grad=False)
    right, _ = scaled_dot_product_attention(query, key, value)
    wrong, _ = Attention(dot_score)(query, key, value)
    assert (right - wrong).abs().max() > 0.1


@pytest.mark.parametrize("attention", FUNCTIONS, ids=NAMES)
def test_a_row_that_sees_nothing_gets_zeros_and_finite_gradients(attention):
    query, key, value = inputs = make_inputs()
    output, weights = attention(query, key, value, make_mask())
    assert output[0, 1, 2].abs().max() == 0
    assert weights is None or weights[0, 1, 2].abs().max() == 0
    # hard attention passes no gradient to query and key: let them through with + 0
    total = output.sum() + 0 * query.sum() + 0 * key.sum()
    for grad in torch.autograd.grad(total, inputs):
        assert grad.isfinite().all()


@pytest.mark.parametrize("attention", FUNCTIONS, ids=NAMES)
def test_masked_keys_and_values_change_nothing(attention):
    query, key, value = make_inputs(requires_grad=False)
    mask = padding_mask(torch.tensor([[1] * 5 + [0] * 2, [1] * 3 + [0] * 4]), pad_id=0)
    output, _ = attention(query, key, value, mask)
    hidden = ~mask.transpose(-2, -1)  # (batch, 1, key_len, 1)
    other, _ = attention(
        query, key.masked_fill(hidden, 97.0), value.masked_fill(hidden, -1e4), mask
    )
    torch.testing.assert_close(output, other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("attention", [a for a in FUNCTIONS if a is not fused_attention])
def test_weights_are_distributions(attention):
    _, weights = attention(*make_inputs(), make_mask())
    seen = make_mask().any(dim=-1)
    torch.testing.assert_close(weights.sum(-1), seen.float(), atol=1e-6, rtol=0)
    assert (weights[~make_mask()] == 0).all()
    assert (weights >= 0).all()


def test_masked_softmax_survives_extreme_scores():
    scores = torch.tensor([[-1e30, -2e30, 3e30], [-1e30, -1e30, 0.0]])
    mask = torch.tensor([[True, True, False], [True, True, False]])
    assert masked_softmax(scores, mask).tolist() == [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]


def test_additive_score_equals_its_formula():
    score = AdditiveScore(3, 5, 7)
    query, key = torch.randn(2, 4, 3), torch.randn(2, 6, 5)
    scores = score(query, key)
    assert scores.shape == (2, 4, 6)
    for i in range(4):
        for j in range(6):
            hidden = score.q_proj.weight @ query[1, i] + score.k_proj.weight @ key[1, j]
            wanted = score.v.weight[0] @ hidden.tanh()
            torch.testing.assert_close(scores[1, i, j], wanted, atol=1e-5, rtol=0)


def test_hard_attention_picks_one_value_and_stops_the_gradient():
    query, key, value = make_inputs()
    output, weights = hard_attention(query, key, value)
    best = (query @ key.transpose(-2, -1)).argmax(-1)
    assert (weights.max(-1).values == 1).all()
    assert (weights.argmax(-1) == best).all()
    torch.testing.assert_close(output[1, 2, 3], value[1, 2, best[1, 2, 3]])
    assert not weights.requires_grad


def test_hard_attention_tells_scores_apart_that_softmax_does_not():
    key = torch.tensor([[0.0], [1e-8], [-1.0], [1.0]])  # exp(-1e-8) rounds to 1
    mask = torch.tensor([[True, True, True, False]])
    output, weights = hard_attention(torch.ones(1, 1), key, key, mask)
    assert torch.equal(weights, torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    assert torch.equal(output, key[1:2])


def test_dropout_keeps_the_mean_and_returns_undropped_weights():
    query, key, value = (x[:1, :1] for x in make_inputs(torch.float64, requires_grad=False))
    output, weights = scaled_dot_product_attention(query, key, value)
    torch.manual_seed(0)
    samples = []
    for _ in range(4000):
        dropped, kept_weights = scaled_dot_product_attention(query, key, value, dropout=0.3)
        samples.append(dropped)
        torch.testing.assert_close(kept_weights, weights, atol=0, rtol=0)
    samples = torch.stack(samples)
    standard_error = samples.std(0) / math.sqrt(len(samples))
    assert samples.std(0).min() > 0.01  # something is dropped
    assert ((samples.mean(0) - output).abs() < 5 * standard_error).all()


def test_one_number_attends_to_itself():
    one = torch.tensor([[3.0]])
    output, weights = scaled_dot_product_attention(one, one, one)
    assert output.item() == 3
    assert weights.item() == 1


X = torch.zeros(2, 5, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scaled_dot_product_attention(X, X[..., :5], X), r"key \(2, 5, 5\)"),
        (lambda: scaled_dot_product_attention(X, X, X[:, :4]), r"value \(2, 4, 6\)"),
        (lambda: fused_attention(X, X[:1], X[:1]), r"key \(1, 5, 6\)"),
        (lambda: scaled_dot_product_attention(X[:0], X[:0], X[:0]), "nothing to attend"),
        (lambda: scaled_dot_product_attention(X, X, X, torch.ones(5, 5)), "boolean.*float32"),
        (lambda: fused_attention(X, X, X, torch.ones(5, 5)), "boolean.*float32"),
        (lambda: scaled_dot_product_attention(X, X, X, causal_mask(4)), r"mask of shape \(4, 4\)"),
        (lambda: fused_attention(X, X, X, causal_mask(4)), r"mask of shape \(4, 4\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
