"""Attention in blocks against dense attention: outputs, gradients, masks, and what it costs."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tfm_lib.attention.blocked import chunked_attention, windowed_attention
from tfm_lib.attention.functions import scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask, padding_mask, window_mask
from tfm_lib.attention.multi_head import MultiHeadAttention

BATCH, HEADS, QUERY_LEN, KEY_LEN, D_K, D_V = 2, 3, 11, 17, 5, 7


def make_inputs(query_len=QUERY_LEN, key_len=KEY_LEN, leading=(BATCH, HEADS), seed=0):
    torch.manual_seed(seed)
    shapes = (query_len, D_K), (key_len, D_K), (key_len, D_V)
    options = {"dtype": torch.float64, "requires_grad": True}
    return [torch.randn(*leading, *shape, **options) for shape in shapes]


def assert_same(ours, inputs, mask=None, dense_mask=None, atol=1e-12):
    """Output and gradients of ours with mask are those of dense attention with dense_mask."""
    results = []
    for attention, its_mask in ((ours, mask), (scaled_dot_product_attention, dense_mask)):
        output, weights = attention(*inputs, its_mask)
        torch.manual_seed(2)
        loss = (output * torch.randn(output.shape, dtype=output.dtype)).sum()
        results.append((output, *torch.autograd.grad(loss, inputs)))
        assert (weights is None) == (attention is ours)
    for got, wanted in zip(*results, strict=True):
        torch.testing.assert_close(got, wanted, atol=atol, rtol=0)


def random_mask(*shape):
    torch.manual_seed(1)
    mask = torch.rand(shape) > 0.5
    mask[..., 0, :] = False  # the first query may attend to nothing
    return mask


CHUNKED_MASKS = {
    "free": None,
    "of queries and keys": random_mask(QUERY_LEN, KEY_LEN),
    "full": random_mask(BATCH, HEADS, QUERY_LEN, KEY_LEN),
    "heads alike": random_mask(BATCH, 1, QUERY_LEN, KEY_LEN),
    "of queries": random_mask(BATCH, HEADS, QUERY_LEN, 1),
    "of keys": padding_mask(torch.tensor([[1] * 17, [1] * 3 + [0] * 14]), pad_id=0),
    "nothing": torch.zeros(1, 1, dtype=torch.bool),
}


@pytest.mark.parametrize("chunk_len", [1, 2, 5, 11, 17, 97])
@pytest.mark.parametrize("mask", CHUNKED_MASKS.values(), ids=CHUNKED_MASKS)
def test_chunked_equals_dense(mask, chunk_len):
    assert_same(chunked_attention(chunk_len), make_inputs(), mask, mask)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3, 5)])
def test_any_leading_dimensions(leading):
    inputs = make_inputs(13, 13, leading)
    assert_same(chunked_attention(5), inputs)
    assert_same(windowed_attention(3), inputs, None, window_mask(13, 3))


def test_chunked_survives_scores_that_overflow_exp():
    query, key, value = (100 * part for part in make_inputs())
    assert (query @ key.transpose(-2, -1)).max() > 1e4
    inputs = [part.detach().requires_grad_() for part in (query, key, value)]
    assert_same(chunked_attention(3), inputs, atol=1e-9)


def test_chunked_in_float32():
    inputs = [part.detach().float() for part in make_inputs()]
    mask = CHUNKED_MASKS["full"]
    got, wanted = chunked_attention(3)(*inputs, mask), scaled_dot_product_attention(*inputs, mask)
    torch.testing.assert_close(got[0], wanted[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_chunked_sums_in_single_precision(dtype):
    """8192 equal keys: a sum in bfloat16 stops at 4096, and the second half counts for nothing."""
    query, key = torch.ones(1, 3, dtype=dtype), torch.ones(8192, 3, dtype=dtype)
    value = torch.arange(2, dtype=dtype).repeat_interleave(4096)[:, None]  # zeros, then ones
    output, _ = chunked_attention(16)(query, key, value)
    assert output.dtype == dtype
    assert output.item() == 0.5


def test_chunked_gradients_against_differences():
    inputs = make_inputs(3, 5, (2,))
    mask = random_mask(2, 3, 5)
    assert torch.autograd.gradcheck(lambda *parts: chunked_attention(2)(*parts, mask)[0], inputs)


@pytest.mark.parametrize("window", [0, 1, 2, 3, 5, 7, 30])
@pytest.mark.parametrize("length", [1, 2, 7, 13, 29])
def test_windowed_equals_dense(length, window):
    assert_same(
        windowed_attention(window), make_inputs(length, length), None, window_mask(length, window)
    )


@pytest.mark.parametrize("window", [0, 1, 3, 11, 30])
def test_windowed_with_padding(window):
    """Padding at either end and in the middle; for small windows some rows see nothing at all."""
    token_ids = torch.tensor([[1] * 7 + [0] * 16, [0] * 9 + [1] * 6 + [0] * 7 + [1]])
    mask = padding_mask(token_ids, pad_id=0)
    dense_mask = window_mask(23, window) & mask
    assert window > 7 or not dense_mask.any(dim=-1).all()
    assert_same(windowed_attention(window), make_inputs(23, 23), mask, dense_mask)


@pytest.mark.parametrize("shape", [(1, 13), (1, 1), (2, 3, 1, 13), (1, 3, 1, 1)])
def test_windowed_takes_any_mask_of_one_row(shape):
    torch.manual_seed(3)
    mask = torch.rand(shape) > 0.4
    assert_same(windowed_attention(2), make_inputs(13, 13), mask, window_mask(13, 2) & mask)


@pytest.mark.parametrize("make", [chunked_attention, windowed_attention])
def test_a_row_that_sees_nothing_gets_zeros_and_finite_gradients(make):
    inputs = make_inputs(13, 13)
    mask = padding_mask(torch.tensor([[0] * 13, [1] * 13]), pad_id=0)
    output, _ = make(3)(*inputs, mask)
    assert output[0].abs().max() == 0
    assert output[1].abs().min() > 0
    for grad in torch.autograd.grad(output.square().sum() + output.sum(), inputs):
        assert grad.isfinite().all()
        assert grad[0].abs().max() == 0


@pytest.mark.parametrize("make", [chunked_attention, windowed_attention])
def test_serves_multi_head_attention(make):
    """Same weights, with and without gradients recorded."""
    torch.manual_seed(0)
    dense = MultiHeadAttention(15, 3)
    ours = MultiHeadAttention(15, 3, attention=make(2))
    ours.load_state_dict(dense.state_dict())
    x = torch.randn(2, 11, 15)
    mask = padding_mask(torch.tensor([[1] * 11, [1] * 7 + [0] * 4]), pad_id=0)
    dense_mask = mask & window_mask(11, 2) if make is windowed_attention else mask
    wanted, _ = dense(x, x, x, dense_mask)
    torch.testing.assert_close(ours(x, x, x, mask)[0], wanted, atol=1e-6, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(ours(x, x, x, mask)[0], wanted, atol=1e-6, rtol=0)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, torch.Tensor):
                self.numel = max(self.numel, part.numel())
        return result


def cost(attention, length):
    """(numbers kept for backward, largest tensor on the way, operations), forward and backward."""
    inputs, kept = make_inputs(length, length, ()), {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with Largest() as largest, FlopCounterMode(display=False) as flops:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            output, _ = attention(*inputs)
        numbers = sum(tensor.untyped_storage().nbytes() // 8 for tensor in kept.values())
        kept.clear()
        output.sum().backward()
    return numbers, largest.numel, flops.get_total_flops()


def growth(attention):
    """By how much each cost grows from length 128 to 256."""
    return [b / a for a, b in zip(cost(attention, 128), cost(attention, 256), strict=True)]


def test_chunked_memory_is_linear_and_its_work_is_quadratic():
    kept, largest, flops = growth(chunked_attention(16))
    assert kept == pytest.approx(2, abs=0.1)
    assert largest <= 2
    assert flops == 4


def test_windowed_memory_and_work_are_linear():
    assert growth(windowed_attention(8)) == pytest.approx([2, 2, 2], abs=0.1)


def test_dense_attention_is_quadratic_in_both():
    """The measure above would notice a table of all pairs."""
    kept, largest, flops = growth(scaled_dot_product_attention)
    assert kept > 3.5
    assert largest == 4
    assert flops == 4


def test_windowed_work_grows_with_the_window_alone():
    flops = [cost(windowed_attention(window), 512)[2] for window in (8, 16, 32)]
    assert flops[2] == 2 * flops[1] == 4 * flops[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chunked_attention(0), "chunk_len=0 must be 1 or more"),
        (lambda: windowed_attention(-1), "window=-1 must be 0 or more"),
        (lambda: windowed_attention(2)(*make_inputs()), "query_len=11 must equal key_len=17"),
        (
            lambda: windowed_attention(2)(*make_inputs(13, 13), causal_mask(13)),
            r"\(13, 13\) has a row for each query",
        ),
        (lambda: chunked_attention(2)(*make_inputs(), torch.ones(11, 17)), "must be boolean"),
        (lambda: chunked_attention(2)(*make_inputs(), causal_mask(11)), "does not fit scores"),
        (
            lambda: windowed_attention(2)(*make_inputs(13, 13), torch.ones(1, 11).bool()),
            "does not fit scores",
        ),
        (lambda: chunked_attention(2)(*make_inputs()[::-1]), "must share"),
    ],
)
def test_errors_name_the_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()
