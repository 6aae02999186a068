"""Relative attention against a double loop over queries and keys, forward and backward."""

import math

import pytest
import torch
from torch import nn

from tfm_lib.attention.masks import causal_mask, padding_mask
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.positions import sinusoidal_encoding
from tfm_lib.attention.recording import record_attention
from tfm_lib.attention.relative import (
    RelativeMultiHeadAttention,
    relative_attention,
    relative_encoding,
    relative_shift,
)

BATCH, HEADS, D_K, QUERY_LEN, KEY_LEN = 2, 3, 7, 5, 11
D_MODEL = HEADS * D_K
BEHIND = (KEY_LEN - 1, 0)
AROUND = (KEY_LEN - 1, 1 - QUERY_LEN)
CAUSAL = causal_mask(KEY_LEN)[-QUERY_LEN:]  # (query_len, key_len)


def make_attention(dtype=torch.float64):
    """Biases away from zero, and weights large enough for every one of the four terms to matter."""
    torch.manual_seed(0)
    attention = RelativeMultiHeadAttention(D_MODEL, HEADS).to(dtype)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.4)
    return attention


def make_inputs(dtype=torch.float64):
    torch.manual_seed(1)
    shapes = (QUERY_LEN, D_MODEL), (KEY_LEN, D_MODEL), (KEY_LEN, D_MODEL)
    return [torch.randn(BATCH, *shape, dtype=dtype, requires_grad=True) for shape in shapes]


def random_mask():
    """Both signs of distance, another mask for each batch row; one query sees nothing."""
    torch.manual_seed(2)
    mask = torch.rand(BATCH, 1, QUERY_LEN, KEY_LEN) > 0.4
    mask[1, 0, 3] = False
    return mask


def encode(distance):
    """One distance of either sign, one number at a time."""
    angles = [distance / 10000 ** (2 * (c // 2) / D_MODEL) for c in range(D_MODEL)]
    return torch.tensor(
        [math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)], dtype=torch.float64
    )


def by_loops(attention, query, key, value, mask=None):
    """The definition: four terms for each batch row, head, query and key; differentiable."""

    def cut(vector, head):
        return vector[head * D_K : (head + 1) * D_K]

    rows, maps = [], []
    for b in range(BATCH):
        for i in range(QUERY_LEN):
            heads = []
            for h in range(HEADS):
                q = cut(attention.q_proj(query[b, i]), h)
                u, v = attention.content_bias[h, 0], attention.position_bias[h, 0]
                seen = [
                    j
                    for j in range(KEY_LEN)
                    if mask is None or mask.expand(BATCH, 1, QUERY_LEN, KEY_LEN)[b, 0, i, j]
                ]
                scores, values = [], []
                for j in seen:
                    k = cut(attention.k_proj(key[b, j]), h)
                    r = cut(attention.r_proj(encode(KEY_LEN - QUERY_LEN + i - j)), h)
                    scores.append((q @ k + q @ r + u @ k + v @ r) / math.sqrt(D_K))
                    values.append(cut(attention.v_proj(value[b, j]), h))
                row = torch.zeros(KEY_LEN, dtype=torch.float64)
                if not seen:
                    heads.append(torch.zeros(D_K, dtype=torch.float64))
                else:
                    row[seen] = torch.stack(scores).softmax(0).detach()
                    heads.append(torch.stack(scores).softmax(0) @ torch.stack(values))
                maps.append(row)
            rows.append(attention.out_proj(torch.cat(heads)))
    weights = torch.stack(maps).view(BATCH, QUERY_LEN, HEADS, KEY_LEN).transpose(1, 2)
    return torch.stack(rows).view(BATCH, QUERY_LEN, D_MODEL), weights


@pytest.mark.parametrize(
    ("mask", "distances"),
    [(CAUSAL, BEHIND), (CAUSAL, AROUND), (None, AROUND), (random_mask(), AROUND)],
    ids=["causal", "causal, all rows", "free", "any mask"],
)
def test_equals_a_double_loop_forward_and_backward(mask, distances):
    attention, inputs = make_attention(), make_inputs()
    positions = relative_encoding(*distances, D_MODEL).double()
    output, weights = attention(*inputs, mask, positions=positions)
    wanted, wanted_weights = by_loops(attention, *inputs, mask)
    torch.testing.assert_close(output, wanted, atol=1e-6, rtol=0)  # the encodings are float32
    torch.testing.assert_close(weights, wanted_weights, atol=1e-6, rtol=0)
    torch.manual_seed(3)
    direction = torch.randn_like(output)
    leaves = [*inputs, *attention.parameters()]
    got = torch.autograd.grad((output * direction).sum(), leaves)
    right = torch.autograd.grad((wanted * direction).sum(), leaves)
    for ours, theirs in zip(got, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["content_bias", "position_bias", "r_proj.weight"])
def test_each_term_would_be_missed(name):
    """The check above does not pass by accident: without one term the output is another."""
    attention, inputs = make_attention(), make_inputs()
    positions = relative_encoding(*AROUND, D_MODEL).double()
    before, _ = attention(*inputs, positions=positions)
    nn.init.zeros_(attention.get_parameter(name))
    after, _ = attention(*inputs, positions=positions)
    assert (before - after).abs().max() > 0.05


@pytest.mark.parametrize("distances", [KEY_LEN, KEY_LEN + QUERY_LEN - 1, 3])
def test_the_shift_equals_a_double_loop(distances):
    torch.manual_seed(4)
    scores = torch.randn(BATCH, HEADS, QUERY_LEN, distances, requires_grad=True)
    shifted = relative_shift(scores)
    wanted = torch.zeros_like(scores)
    for i in range(QUERY_LEN):
        for j in range(distances):
            source = j + QUERY_LEN - 1 - i
            if source < distances:
                wanted[..., i, j] = scores[..., i, source]
    assert torch.equal(shifted, wanted)
    direction = torch.randn_like(scores)
    ours, theirs = (
        torch.autograd.grad((got * direction).sum(), scores)[0] for got in (shifted, wanted)
    )
    assert torch.equal(ours, theirs)


def test_the_shift_gives_each_entry_its_distance():
    columns = torch.arange(KEY_LEN - 1, -QUERY_LEN, -1.0)  # the distance of each column
    shifted = relative_shift(columns.expand(QUERY_LEN, -1))[:, :KEY_LEN]
    for i in range(QUERY_LEN):
        for j in range(KEY_LEN):
            assert shifted[i, j] == KEY_LEN - QUERY_LEN + i - j


def test_one_query_is_not_shifted():
    scores = torch.randn(2, 3, 1, 7)
    assert torch.equal(relative_shift(scores), scores)


@pytest.mark.parametrize("d_model", [6, 7])
def test_encodings_run_from_far_behind_to_ahead(d_model):
    table = sinusoidal_encoding(6, d_model)
    encoding = relative_encoding(5, -3, d_model)
    assert encoding.shape == (9, d_model)
    assert torch.equal(encoding[:6], table.flip(0))
    torch.testing.assert_close(encoding[6:, 0::2], -table[1:4, 0::2])
    torch.testing.assert_close(encoding[6:, 1::2], table[1:4, 1::2])
    assert torch.equal(relative_encoding(5, 2, d_model), encoding[:4])
    assert torch.equal(relative_encoding(1, -3, d_model), encoding[4:])


def test_moving_query_and_keys_together_changes_nothing():
    """Only the distance counts: two tokens further on, the same scores."""
    attention, (_, key, _) = make_attention(), make_inputs()
    # query 0 stands at place 6; let it see places 2 to 6 of the eleven ...
    mask = CAUSAL.clone()
    mask[:, :2] = False
    positions = relative_encoding(*BEHIND, D_MODEL).double()
    output, weights = attention(key[:, -QUERY_LEN:], key, key, mask, positions=positions)
    # ... or give it these five alone, where it stands at place 4
    five = key[:, 2:7]
    alone, alone_weights = attention(
        five[:, -1:], five, five, positions=relative_encoding(4, 0, D_MODEL).double()
    )
    torch.testing.assert_close(output[:, :1], alone, atol=1e-12, rtol=0)
    torch.testing.assert_close(weights[..., :1, 2:7], alone_weights, atol=1e-12, rtol=0)


def test_two_query_streams_share_the_weights():
    """XLNet: another query with the same keys and values; its own content need not be a key."""
    attention, (stream, content, _) = make_attention(), make_inputs()
    positions = relative_encoding(*AROUND, D_MODEL).double()
    not_self = ~torch.eye(KEY_LEN, dtype=torch.bool)[-QUERY_LEN:]
    first, _ = attention(content[:, -QUERY_LEN:], content, content, positions=positions)
    second, weights = attention(stream, content, content, not_self, positions=positions)
    wanted, _ = by_loops(attention, stream, content, content, not_self)
    torch.testing.assert_close(second, wanted, atol=1e-6, rtol=0)
    assert weights.diagonal(KEY_LEN - QUERY_LEN, dim1=-2, dim2=-1).abs().max() == 0
    grad = torch.autograd.grad(second[:, 2].sum(), content)[0]
    assert grad[:, KEY_LEN - QUERY_LEN + 2].abs().max() == 0
    assert (first - second).abs().max() > 0.1


def test_padding_and_causality_by_gradient():
    attention, (_, context, _) = make_attention(), make_inputs()
    positions = relative_encoding(*BEHIND, D_MODEL).double()
    token_ids = torch.tensor([[0, 0, 0, *[5] * 8], [0, *[5] * 10]])
    mask = CAUSAL & padding_mask(token_ids, pad_id=0)
    output, _ = attention(context[:, -QUERY_LEN:], context, context, mask, positions=positions)
    for i in range(QUERY_LEN):
        grad = torch.autograd.grad(output[:, i].sum(), context, retain_graph=True)[0]
        here = KEY_LEN - QUERY_LEN + i
        assert grad[:, here + 1 :].abs().sum() == 0
        assert grad[0, :3].abs().sum() == grad[1, :1].abs().sum() == 0
        assert (grad[0, 3 : here + 1].abs().sum(-1) > 0).all()


def test_without_positions_it_is_plain_attention():
    attention, inputs = make_attention(), make_inputs()
    for name in ("content_bias", "position_bias", "r_proj.weight"):
        nn.init.zeros_(attention.get_parameter(name))
    plain = MultiHeadAttention(D_MODEL, HEADS).double()
    plain.load_state_dict(attention.state_dict(), strict=False)
    positions = relative_encoding(*BEHIND, D_MODEL).double()
    got, right = attention(*inputs, CAUSAL, positions=positions), plain(*inputs, CAUSAL)
    for ours, theirs in zip(got, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_maps_are_recorded_and_dropout_is_for_training_only():
    torch.manual_seed(5)
    attention, inputs = RelativeMultiHeadAttention(D_MODEL, HEADS, dropout=0.5), make_inputs()
    inputs = [x.float() for x in inputs]
    positions = relative_encoding(*BEHIND, D_MODEL)
    with record_attention(attention) as maps:
        attention.eval()
        first, weights = attention(*inputs, CAUSAL, positions=positions)
        again, _ = attention(*inputs, CAUSAL, positions=positions)
    assert torch.equal(maps[""][0], weights)
    assert torch.equal(first, again)
    attention.train()
    assert not torch.equal(attention(*inputs, CAUSAL, positions=positions)[0], first)


def test_the_function_drops_nothing_unless_asked():
    torch.manual_seed(3)
    query, key, value = (torch.randn(2, 3, 5, 7) for _ in range(3))
    options = {
        "position_key": torch.randn(1, 3, 9, 7),
        "content_bias": torch.randn(3, 1, 7),
        "position_bias": torch.randn(3, 1, 7),
    }
    output, weights = relative_attention(query, key, value, **options)
    torch.testing.assert_close(output, weights @ value)
    dropped, kept = relative_attention(query, key, value, dropout=0.9, **options)
    assert torch.equal(kept, weights)
    assert not torch.allclose(dropped, output)


def test_two_queries_must_not_look_ahead_without_rows_for_it():
    attention, (query, key, value) = make_attention(), make_inputs()
    behind = relative_encoding(*BEHIND, D_MODEL).double()
    everything = torch.ones(2, KEY_LEN, dtype=torch.bool)
    with pytest.raises(ValueError, match="look ahead: give rows down to distance -1"):
        attention(query[:, :2], key, value, everything, positions=behind)
    attention(query[:, :1], key, value, everything[:1], positions=behind)  # it is the last place


def test_errors_name_what_does_not_fit():
    attention, (query, key, value) = make_attention(), make_inputs()
    behind, around = (relative_encoding(*d, D_MODEL).double() for d in (BEHIND, AROUND))
    with pytest.raises(ValueError, match="12 rows of positions"):
        attention(query, key, value, CAUSAL, positions=around[:12])
    for mask in (None, torch.ones(QUERY_LEN, KEY_LEN, dtype=torch.bool)):
        with pytest.raises(ValueError, match="look ahead"):
            attention(query, key, value, mask, positions=behind)
    with pytest.raises(ValueError, match="must not pass key_len=5"):
        attention(key, query, query, positions=around)
    for positions in (behind, around):
        with pytest.raises(ValueError, match="must be boolean"):
            attention(query, key, value, CAUSAL.double(), positions=positions)
        with pytest.raises(ValueError, match="does not fit"):
            attention(query, key, value, CAUSAL[:, 1:], positions=positions)
    with pytest.raises(ValueError, match="must share their leading dimensions"):
        attention(query, key[:1], value[:1], positions=around)
    with pytest.raises(ValueError, match="first=-1 must be 0 or more"):
        relative_encoding(-1, -3, D_MODEL)
    with pytest.raises(ValueError, match="not below last=4"):
        relative_encoding(3, 4, D_MODEL)
    with pytest.raises(ValueError, match="must be divisible by num_heads=4"):
        RelativeMultiHeadAttention(D_MODEL, 4)


def test_the_function_is_an_attention_function_of_heads():
    torch.manual_seed(6)
    query, key, value = (torch.randn(BATCH, HEADS, n, D_K) for n in (QUERY_LEN, KEY_LEN, KEY_LEN))
    zero = torch.zeros(HEADS, 1, D_K)
    position_key = torch.randn(1, HEADS, KEY_LEN, D_K)
    output, weights = relative_attention(
        query,
        key,
        value,
        CAUSAL,
        position_key=position_key,
        content_bias=zero,
        position_bias=zero,
    )
    assert output.shape == (BATCH, HEADS, QUERY_LEN, D_K)
    wanted = torch.stack(
        [
            query[1, 2, 3] @ key[1, 2, j] + query[1, 2, 3] @ position_key[0, 2, j + 1]
            for j in range(KEY_LEN - 1)
        ]
    )  # query 3 stands at place 9: key j is 9 - j away, column 10 - (9 - j) = j + 1
    wanted = (wanted[:10] / math.sqrt(D_K)).softmax(0)
    torch.testing.assert_close(weights[1, 2, 3, :10], wanted, atol=1e-5, rtol=0)
    assert weights[1, 2, 3, 10] == 0
