"""Transformer-XL against one pass over the whole text, by brute force.

Hugging Face's Transformer-XL left `transformers` with version 5, so there is no model of another
hand to compare with; `XLNetModel`, which still has the relative attention, is lesson 21's oracle.
What the theory says instead is exact: reading segment by segment with memory equals one pass over
the whole text in which each query sees from its segment's start, less memory_len, to itself.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.recording import record_attention
from tfm_lib.attention.relative import relative_encoding
from tfm_lib.models.transformer_xl import SegmentLoss, TransformerXL, cut_segments, stream_losses
from tfm_lib.training import fit

VOCAB, BATCH, D_MODEL, HEADS, D_FF = 13, 3, 14, 2, 17
LENGTH, SEGMENTS = 5, 4
TOTAL = LENGTH * SEGMENTS


def make_model(num_layers=3, memory_len=TOTAL, dtype=torch.float64):
    torch.manual_seed(0)
    model = TransformerXL(
        VOCAB,
        d_model=D_MODEL,
        num_heads=HEADS,
        num_layers=num_layers,
        d_ff=D_FF,
        memory_len=memory_len,
        dropout=0.0,
    ).to(dtype)
    for layer in model.layers:
        nn.init.normal_(layer.attention.content_bias, std=0.4)
        nn.init.normal_(layer.attention.position_bias, std=0.4)
    return model


def make_tokens(length=TOTAL):
    torch.manual_seed(1)
    return torch.randint(VOCAB, (BATCH, length))


def read(model, token_ids, length=LENGTH):
    """Logits of all segments, one after the other with memory, and the last memory."""
    logits, memory = [], None
    for segment in token_ids.split(length, dim=1):
        here, memory = model(segment, memory)
        logits.append(here)
    return torch.cat(logits, dim=1), memory


def band(total, length, memory_len):
    """Query i sees key j <= i from memory_len before the start of i's segment on."""
    mask = torch.zeros(total, total, dtype=torch.bool)
    for i in range(total):
        for j in range(i + 1):
            mask[i, j] = j >= i - i % length - memory_len
    return mask


def one_pass(model, token_ids, mask):
    """The same layers over the whole text at once: no memory, no segments, nothing detached."""
    x = model.embedding(token_ids) * model.scale
    positions = relative_encoding(x.size(1) - 1, 0, D_MODEL).to(x)
    for layer in model.layers:
        x = layer(x, x[:, :0], mask, positions)
    return model.generator(x)


@pytest.mark.parametrize("memory_len", [0, 3, LENGTH, 7, TOTAL])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_segments_with_memory_equal_one_pass_under_a_band(num_layers, memory_len):
    model, tokens = make_model(num_layers, memory_len), make_tokens()
    logits, memory = read(model, tokens)
    wanted = one_pass(model, tokens, band(TOTAL, LENGTH, memory_len))
    torch.testing.assert_close(logits, wanted, atol=1e-10, rtol=0)
    assert [tuple(past.shape) for past in memory] == [(BATCH, memory_len, D_MODEL)] * num_layers


def test_with_room_for_the_whole_past_it_is_plain_causal_attention():
    model, tokens = make_model(), make_tokens()
    logits, _ = read(model, tokens)
    whole, _ = model(tokens)
    torch.testing.assert_close(logits, whole, atol=1e-10, rtol=0)
    other, _ = read(model, tokens, length=3)  # however the text is cut
    torch.testing.assert_close(other, whole, atol=1e-10, rtol=0)
    mask = causal_mask(TOTAL)
    torch.testing.assert_close(whole, one_pass(model, tokens, mask), atol=1e-10, rtol=0)


def test_a_short_memory_is_another_function():
    tokens = make_tokens()
    short, _ = read(make_model(memory_len=3), tokens)
    long, _ = read(make_model(), tokens)
    assert torch.equal(short[:, :LENGTH], long[:, :LENGTH])
    assert (short[:, LENGTH:] - long[:, LENGTH:]).abs().max() > 0.01


def parameter_gradients(model, logits):
    """Of a loss on the last segment alone."""
    torch.manual_seed(2)
    last = logits[:, -LENGTH:]
    model.zero_grad()
    (last * torch.randn_like(last)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_one_layer_has_the_gradients_of_one_pass_but_for_the_embedding():
    """A single layer remembers embeddings: only their gradient is cut off at the segment's edge."""
    model, tokens = make_model(num_layers=1), make_tokens()
    model.generator.weight = nn.Parameter(model.generator.weight.detach().clone())  # untie
    ours = parameter_gradients(model, read(model, tokens)[0])
    whole = parameter_gradients(model, model(tokens)[0])
    for name in ours.keys() - {"embedding.weight"}:
        torch.testing.assert_close(ours[name], whole[name], atol=1e-10, rtol=0)
    assert (ours["embedding.weight"] - whole["embedding.weight"]).abs().max() > 0.01
    absent = [t for t in range(VOCAB) if t not in tokens[:, -LENGTH:]]
    assert absent
    assert ours["embedding.weight"][absent].abs().max() == 0


def test_gradients_equal_one_pass_with_memories_held_fixed():
    """Brute force for any depth: detach every layer's inputs before the last segment, by hand."""
    model, tokens = make_model(), make_tokens()
    ours = parameter_gradients(model, read(model, tokens)[0])
    edge = TOTAL - LENGTH
    x = model.embedding(tokens) * model.scale
    positions = relative_encoding(TOTAL - 1, 0, D_MODEL).to(x)
    for layer in model.layers:
        x = torch.cat([x[:, :edge].detach(), x[:, edge:]], dim=1)
        x = layer(x, x[:, :0], causal_mask(TOTAL), positions)
    wanted = parameter_gradients(model, model.generator(x))
    assert ours.keys() == wanted.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], wanted[name], atol=1e-10, rtol=0)


@pytest.mark.parametrize("memory_len", [3, LENGTH])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_information_reaches_as_far_as_layers_and_memory_allow(num_layers, memory_len):
    """Change one token: exactly the places that a path of `num_layers` hops joins to it change."""
    model, tokens = make_model(num_layers, memory_len), make_tokens()
    before, _ = read(model, tokens)
    hop = band(TOTAL, LENGTH, memory_len).double()
    joined = torch.linalg.matrix_power(hop, num_layers) > 0  # [i, j]: a path from j up to i
    for changed in (0, 6, 13):
        other = tokens.clone()
        other[:, changed] = (other[:, changed] + 1) % VOCAB
        after, _ = read(model, other)
        moved = (after - before).abs().amax(dim=(0, 2)) > 1e-9
        assert torch.equal(moved, joined[:, changed])


def test_the_memory_takes_no_gradient():
    model, tokens = make_model(), make_tokens()
    _, memory = model(tokens[:, :LENGTH])
    assert all(not past.requires_grad for past in memory)
    leaves = [past.clone().requires_grad_() for past in memory]
    logits, after = model(tokens[:, LENGTH : 2 * LENGTH], leaves)
    assert all(not past.requires_grad for past in after)
    grads = torch.autograd.grad(logits.sum(), leaves)  # but information would pass
    assert all(grad.abs().max() > 1e-6 for grad in grads)


def test_memory_holds_the_inputs_of_each_layer_newest_last():
    model, tokens = make_model(memory_len=7), make_tokens()
    inputs = [[] for _ in model.layers]
    for layer, seen in zip(model.layers, inputs, strict=True):
        layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
    _, memory = read(model, tokens)
    for past, seen in zip(memory, inputs, strict=True):
        assert torch.equal(past, torch.cat(seen, dim=1)[:, -7:])


def test_memory_length_may_change_after_training():
    model, tokens = make_model(memory_len=2), make_tokens()
    model.memory_len = TOTAL
    longer, _ = read(model, tokens)
    torch.testing.assert_close(longer, model(tokens)[0], atol=1e-10, rtol=0)
    model.memory_len = 0
    assert [past.size(1) for past in model(tokens)[1]] == [0, 0, 0]


def test_causality_by_gradient_and_position_free_embedding():
    model, tokens = make_model(), make_tokens()
    embedded = {}

    def keep(module, args, result):
        embedded["x"] = result.detach().requires_grad_()
        return embedded["x"]

    handle = model.embedding.register_forward_hook(keep)
    logits, _ = model(tokens)
    handle.remove()
    for i in (0, 4, 11):
        grad = torch.autograd.grad(logits[:, i].sum(), embedded["x"], retain_graph=True)[0]
        assert grad[:, i + 1 :].abs().max() == 0
        assert (grad[:, : i + 1].abs().sum(-1) > 0).all()
    same = model(torch.full((1, LENGTH), 3))[1]
    assert (same[0][0] == same[0][0, 0]).all()  # no position is added to a token


def test_maps_are_recorded_over_memory_and_segment():
    model, tokens = make_model(memory_len=7), make_tokens()
    with record_attention(model) as maps:
        read(model, tokens)
    assert sorted(maps) == [f"layers.{n}.attention" for n in range(3)]
    shapes = [tuple(weights.shape) for weights in maps["layers.1.attention"]]
    assert shapes == [(BATCH, HEADS, LENGTH, past + LENGTH) for past in (0, 5, 7, 7)]


def test_train_without_dropout_equals_eval():
    model, tokens = make_model(), make_tokens()
    trained = model.train()(tokens)[0]
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens)[0], trained)


def test_segments_cover_each_prediction_once():
    streams = torch.arange(2 * 17).view(2, 17)
    pairs = list(cut_segments(streams, 5))
    assert [first for _, first in pairs] == [True, False, False]
    assert all(segment.shape == (2, 6) for segment, _ in pairs)
    labels = torch.cat([segment[:, 1:] for segment, _ in pairs], dim=1)
    assert torch.equal(labels, streams[:, 1:16])
    assert len(list(cut_segments(streams[:, :16], 5))) == 3  # nothing is left over
    assert len(list(cut_segments(streams[:, :15], 5))) == 2
    singles = [segment.tolist() for segment, _ in cut_segments(streams[:1, :4], 1)]
    assert singles == [[[0, 1]], [[1, 2]], [[2, 3]]]


def test_the_loss_carries_memory_and_drops_it_at_a_beginning():
    model, loss = make_model(memory_len=7), SegmentLoss()
    pairs = list(cut_segments(make_tokens(2 * LENGTH + 1), LENGTH))
    first, second = (loss(model, pair).item() for pair in pairs)
    logits, memory = model(pairs[0][0][:, :-1])
    assert first == pytest.approx(cross_entropy(logits, pairs[0][0]))
    logits, _ = model(pairs[1][0][:, :-1], memory)
    assert second == pytest.approx(cross_entropy(logits, pairs[1][0]))
    assert loss(model, pairs[0]).item() == pytest.approx(first)  # a new text
    alone = SegmentLoss()(model, (pairs[1][0], True)).item()
    assert abs(alone - second) > 1e-3


def cross_entropy(logits, segment):
    return F.cross_entropy(logits.flatten(0, 1), segment[:, 1:].flatten()).item()


def test_stream_losses_are_those_of_one_pass():
    model, streams = make_model().train(), make_tokens(TOTAL + 1)
    with pytest.raises(ValueError, match="training mode"):
        stream_losses(model, streams, LENGTH)
    losses = stream_losses(model.eval(), streams, LENGTH)
    logits, _ = model(streams[:, :-1])
    wanted = F.cross_entropy(logits.transpose(1, 2), streams[:, 1:], reduction="none")
    torch.testing.assert_close(losses, wanted, atol=1e-10, rtol=0)
    assert not losses.requires_grad


def test_it_learns_to_look_past_its_segment():
    """Each token repeats the one 9 before it; segments are 5 long. Without memory: chance."""
    torch.manual_seed(3)
    streams = torch.randint(4, (16, 9)).repeat(1, 30)[:, : 5 * 40 + 1]
    model = TransformerXL(
        4, d_model=16, num_heads=2, num_layers=1, d_ff=16, memory_len=10, dropout=0.0
    )
    pairs = list(cut_segments(streams, 5))
    fit(model, pairs, SegmentLoss(), steps=160, lr=1e-2, progress=False)
    fresh = torch.randint(4, (16, 9)).repeat(1, 9)
    with_memory = stream_losses(model, fresh, 5)[:, 15:].mean().item()
    model.memory_len = 0
    without = stream_losses(model, fresh, 5)[:, 15:].mean().item()
    assert with_memory < 0.3 < 1.2 < without  # a guess among four costs 1.39


def test_errors_name_what_does_not_fit():
    model, tokens = make_model(), make_tokens()
    memory = model(tokens)[1]
    with pytest.raises(ValueError, match="memory_len=-1 must be 0 or more"):
        make_model(memory_len=-1)
    with pytest.raises(ValueError, match=r"shape \(20,\), must be torch.int64 and"):
        model(tokens[0])
    with pytest.raises(ValueError, match="a memory of 2 layers"):
        model(tokens, memory[:2])
    with pytest.raises(ValueError, match=r"batch sizes \[3, 3, 3\] does not fit 3 layers and 2"):
        model(tokens[:2], memory)
    with pytest.raises(ValueError, match="hold more than length=21 tokens"):
        list(cut_segments(tokens, 21))
    with pytest.raises(ValueError, match="1 or more"):
        list(cut_segments(tokens, 0))
