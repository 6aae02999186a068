"""Sparse attention against dense attention under its masks, the masks against the paper's sets."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from tfm_lib.attention.functions import scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask, padding_mask
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.sparse import (
    block_attention,
    column_attention,
    fixed_attention,
    fixed_sets,
    fused_causal_attention,
    recent_attention,
    recomputed,
    set_mask,
    split_heads,
    strided_attention,
    strided_sets,
    summary_attention,
)

BATCH, HEADS, D_K, D_V = 2, 3, 5, 7

# What to test: the attention function of a pattern, and the sets whose union is its mask.
PATTERNS = {
    "strided": lambda stride, c: (strided_attention(stride), strided_sets(stride)),
    "recent": lambda stride, c: (recent_attention(stride), strided_sets(stride)[:1]),
    "column": lambda stride, c: (column_attention(stride), strided_sets(stride)[1:]),
    "fixed": lambda stride, c: (fixed_attention(stride, c), fixed_sets(stride, c)),
    "block": lambda stride, c: (block_attention(stride), fixed_sets(stride, c)[:1]),
    "summary": lambda stride, c: (summary_attention(stride, c), fixed_sets(stride, c)[1:]),
}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS)


def make_inputs(length, leading=(BATCH, HEADS), seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return [
        torch.randn(*leading, length, width, dtype=dtype, requires_grad=True)
        for width in (D_K, D_K, D_V)
    ]


def assert_same(ours, inputs, mask, dense_mask):
    """Output and gradients of ours with mask are those of dense attention with dense_mask."""
    results = []
    for attention, its_mask in ((ours, mask), (scaled_dot_product_attention, dense_mask)):
        output, weights = attention(*inputs, its_mask)
        torch.manual_seed(2)
        loss = (output * torch.randn(output.shape, dtype=output.dtype)).sum()
        results.append((output, *torch.autograd.grad(loss, inputs)))
        assert (weights is None) == (attention is ours)
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)


# --- the sets


@pytest.mark.parametrize("length", [1, 2, 7, 13, 29])
@pytest.mark.parametrize(("stride", "c"), [(1, 1), (3, 1), (3, 3), (5, 2), (31, 11)])
def test_sets_are_the_papers(length, stride, c):
    """Section 4.3, word for word, as lists; the paper's "t, ..., l" of mod l ends at l - 1."""
    first, second = strided_sets(stride)
    own, summary = fixed_sets(stride, c)
    for i in range(length):
        wanted = {
            first: set(range(max(0, i - stride), i + 1)),
            second: {j for j in range(i + 1) if (i - j) % stride == 0},
            own: {j for j in range(i + 1) if j // stride == i // stride},
            summary: {j for j in range(i + 1) if j % stride in range(stride - c, stride)},
        }
        for member, places in wanted.items():
            row = set_mask(length, member)[i]
            assert set(row.nonzero().flatten().tolist()) == places


def test_a_mask_is_the_union_of_its_sets():
    masks = [set_mask(23, member) for member in fixed_sets(5, 2)]
    both = set_mask(23, *fixed_sets(5, 2))
    assert torch.equal(both, masks[0] | masks[1])
    assert both.dtype == torch.bool
    assert not (both & ~causal_mask(23)).any()


@pytest.mark.parametrize("length", [1, 7, 29, 101])
@pytest.mark.parametrize(("stride", "c"), [(1, 1), (3, 1), (5, 2), (7, 7), (11, 3), (103, 5)])
def test_every_past_position_is_reached_in_two_hops(length, stride, c):
    """First set, then second, each beside a residual connection: every j <= i reaches i."""
    for sets in (strided_sets(stride), fixed_sets(stride, c)):
        first, second = (set_mask(length, member).float() for member in sets)
        stay = torch.eye(length)
        reached = (second + stay) @ (first + stay) > 0  # j -> a by the first, a -> i by the second
        assert torch.equal(reached, causal_mask(length))


@pytest.mark.parametrize("bad", [0, -3])
def test_bad_sizes(bad):
    for make in (strided_sets, strided_attention, recent_attention, block_attention):
        with pytest.raises(ValueError, match=f"stride={bad}"):
            make(bad)
    with pytest.raises(ValueError, match=f"c={bad}"):
        fixed_attention(5, bad)
    with pytest.raises(ValueError, match="c=6 must be at least 1 and at most stride=5"):
        fixed_sets(5, 6)
    with pytest.raises(ValueError, match=f"size={bad}"):
        set_mask(bad, *strided_sets(3))
    with pytest.raises(ValueError, match="number of sets, 0"):
        set_mask(5)


# --- the patterns, computed in blocks


@every_pattern
@pytest.mark.parametrize("length", [1, 2, 7, 13, 29])
@pytest.mark.parametrize(("stride", "c"), [(1, 1), (3, 2), (5, 5), (11, 1), (31, 7)])
def test_equals_dense_attention_under_its_mask(pattern, length, stride, c):
    attention, sets = PATTERNS[pattern](stride, c)
    assert_same(attention, make_inputs(length), None, set_mask(length, *sets))


@every_pattern
@pytest.mark.parametrize("shape", [(17, 17), (1, 17), (2, 1, 1, 17), (2, 3, 17, 17), (1, 1)])
def test_takes_any_mask_beside_its_own(pattern, shape):
    """For some rows nothing is left to see: zeros, and finite gradients, as in dense attention."""
    torch.manual_seed(1)
    mask = torch.rand(shape) > 0.4
    mask[..., 0] = False
    attention, sets = PATTERNS[pattern](5, 2)
    dense_mask = set_mask(17, *sets) & mask
    assert not dense_mask.any(dim=-1).all()
    assert_same(attention, make_inputs(17), mask, dense_mask)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3, 5)])
def test_any_leading_dimensions(leading):
    for pattern in ("strided", "fixed"):
        attention, sets = PATTERNS[pattern](3, 2)
        assert_same(attention, make_inputs(13, leading), None, set_mask(13, *sets))


@every_pattern
def test_no_gradient_comes_from_the_future_nor_from_outside_the_set(pattern):
    attention, sets = PATTERNS[pattern](5, 2)
    inputs, mask = make_inputs(23), set_mask(23, *sets)
    output, _ = attention(*inputs)
    for i in (0, 4, 11, 22):
        _, _, from_value = torch.autograd.grad(output[:, :, i].sum(), inputs, retain_graph=True)
        touched = from_value.abs().amax(dim=(0, 1, 3)) > 0  # (length,)
        assert torch.equal(touched, mask[i])


def test_padding_changes_nothing():
    query, key, value = make_inputs(19)
    padded = padding_mask(torch.tensor([[1] * 19, [1] * 12 + [0] * 7]), pad_id=0)
    other = key.detach().clone(), value.detach().clone()
    for part in other:
        part[1, :, 12:] = 99.0
    for pattern in ("strided", "fixed"):
        attention, _ = PATTERNS[pattern](5, 2)
        ours, changed = attention(query, key, value, padded), attention(query, *other, padded)
        torch.testing.assert_close(ours[0], changed[0], atol=0, rtol=0)


def test_large_scores_in_float32():
    inputs = [(100 * part).float() for part in make_inputs(29)]
    mask = set_mask(29, *strided_sets(5))
    got, _ = strided_attention(5)(*inputs)
    torch.testing.assert_close(got, scaled_dot_product_attention(*inputs, mask)[0])
    assert got.isfinite().all()


def test_in_multi_head_attention():
    torch.manual_seed(0)
    sparse = MultiHeadAttention(12, 3, attention=fixed_attention(5, 2))
    dense = MultiHeadAttention(12, 3)
    dense.load_state_dict(sparse.state_dict())
    x = torch.randn(2, 17, 12)
    wanted, _ = dense(x, x, x, set_mask(17, *fixed_sets(5, 2)))
    torch.testing.assert_close(sparse(x, x, x)[0], wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "attention", [PATTERNS[name](5, 2)[0] for name in PATTERNS] + [fused_causal_attention]
)
def test_refuses_cross_attention_and_wrong_masks(attention):
    query, key, value = make_inputs(17)
    with pytest.raises(ValueError, match="query_len=7 must equal key_len=17"):
        attention(query[..., :7, :], key, value)
    with pytest.raises(ValueError, match="does not fit"):
        attention(query, key, value, torch.ones(17, 16, dtype=torch.bool))
    with pytest.raises(ValueError, match="boolean"):
        attention(query, key, value, torch.ones(17, 17))


# --- what it costs


def saved_bytes(attention, inputs):
    storages = {}

    def keep(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output, _ = attention(*inputs)
    assert output.requires_grad  # keeps what was saved alive, so that no address serves twice
    return sum(storages.values())


def operations(attention, inputs):
    with FlopCounterMode(display=False) as counter:
        attention(*inputs)[0].sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("make", [strided_attention, lambda stride: fixed_attention(stride, 1)])
def test_four_times_the_length_costs_eight_times_as_much(make):
    """n sqrt(n) at stride sqrt(n); dense attention costs sixteen times as much."""
    for measure in (operations, saved_bytes):
        small, large = (
            measure(make(stride), make_inputs(stride**2, (1,), dtype=torch.float32))
            for stride in (16, 32)
        )
        assert 4 < large / small < 8.01


@every_pattern
def test_a_text_shorter_than_the_stride_pays_for_its_own_length(pattern):
    inputs = make_inputs(13)
    short, long = (operations(PATTERNS[pattern](stride, 2)[0], inputs) for stride in (13, 101))
    assert short == long


def test_saves_a_tenth_of_what_dense_attention_saves():
    inputs, mask = make_inputs(1024, (1,), dtype=torch.float32), causal_mask(1024)
    dense = saved_bytes(lambda *qkv: scaled_dot_product_attention(*qkv, mask), inputs)
    for attention in (strided_attention(32), fixed_attention(32, 1)):
        assert saved_bytes(attention, inputs) < dense / 7


# --- heads, recomputation and the fused kernel


def test_split_heads_gives_each_function_its_heads():
    inputs = make_inputs(17, (2, 6))
    masks = torch.stack([set_mask(17, member) for member in strided_sets(5)])  # (2, 17, 17)
    dense_mask = masks.repeat_interleave(3, dim=0).expand(2, 6, 17, 17)
    attention = split_heads(recent_attention(5), column_attention(5))
    assert_same(attention, inputs, None, dense_mask)
    torch.manual_seed(1)
    for shape in ((17, 17), (2, 1, 1, 17), (2, 6, 17, 17)):
        mask = torch.rand(shape) > 0.4
        assert_same(attention, inputs, mask, dense_mask & mask)


def test_split_heads_with_a_head_each_and_without_a_batch():
    attention = split_heads(recent_attention(5), column_attention(5))
    masks = torch.stack([set_mask(17, member) for member in strided_sets(5)])  # (2, 17, 17)
    torch.manual_seed(1)
    mask = torch.rand(2, 17, 17) > 0.4
    inputs = make_inputs(17, (2,))
    assert_same(attention, inputs, None, masks)
    assert_same(attention, inputs, mask, masks & mask)


def test_split_heads_needs_equal_shares():
    with pytest.raises(ValueError, match="3 heads cannot be shared among 2"):
        split_heads(recent_attention(5), column_attention(5))(*make_inputs(17))
    with pytest.raises(ValueError, match="0 heads"):
        split_heads(recent_attention(5))(*make_inputs(17, ()))
    with pytest.raises(ValueError, match="among 0"):
        split_heads()(*make_inputs(17))
    attention, six = split_heads(recent_attention(5), column_attention(5)), make_inputs(17, (2, 6))
    with pytest.raises(ValueError, match="does not fit"):
        attention(*six, torch.ones(2, 5, 17, 17, dtype=torch.bool))
    with pytest.raises(ValueError, match="does not fit"):
        attention(*six, torch.ones(17, dtype=torch.bool))


@pytest.mark.parametrize("attention", [scaled_dot_product_attention, strided_attention(5)])
def test_recomputed_changes_nothing_but_memory(attention):
    inputs, mask = make_inputs(29), causal_mask(29)
    dense_mask = mask
    if attention is not scaled_dot_product_attention:
        dense_mask = set_mask(29, *strided_sets(5))
    assert_same(recomputed(attention), inputs, mask, dense_mask)
    own = sum(part.untyped_storage().nbytes() for part in inputs)
    kept = saved_bytes(recomputed(attention), inputs)
    assert kept == own < saved_bytes(attention, inputs)


@pytest.mark.parametrize("length", [1, 13, 29])
def test_fused_causal_equals_dense(length):
    inputs, causal = make_inputs(length), causal_mask(length)
    assert_same(fused_causal_attention, inputs, None, causal)
    mask = padding_mask(torch.tensor([[0] * length, [1] * length]), pad_id=0)
    assert_same(fused_causal_attention, inputs, mask, causal & mask)


def test_fused_causal_refuses_queries_that_do_not_start_with_the_keys():
    query, key, value = make_inputs(13)
    with pytest.raises(ValueError, match="query_len=1 must equal key_len=13"):
        fused_causal_attention(query[..., -1:, :], key, value)
