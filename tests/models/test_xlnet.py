"""XLNet: who sees what by brute force over all orders, and Hugging Face's XLNet as the oracle."""

import math
from itertools import permutations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.recording import record_attention
from tfm_lib.attention.relative import relative_encoding
from tfm_lib.models.hugging_face import XLNET, from_hugging_face
from tfm_lib.models.xlnet import (
    XLNet,
    fill_in,
    last_turns,
    permutation_masks,
    random_orders,
    turn_log_probs,
)

VOCAB, BATCH, LENGTH, TARGETS = 23, 5, 11, 3
HEADS, D_K, LAYERS, D_FF = 2, 7, 3, 17
D_MODEL = HEADS * D_K


def make_model(num_layers=LAYERS, vocab_size=VOCAB, dtype=torch.float64):
    torch.manual_seed(0)
    model = XLNet(
        vocab_size, d_model=D_MODEL, num_heads=HEADS, num_layers=num_layers, d_ff=D_FF, dropout=0.0
    ).to(dtype)
    return randomised(model).eval()


def randomised(model):
    """Weights large enough that nothing is nearly zero, biases and norms included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def make_inputs(batch=BATCH, length=LENGTH, vocab_size=VOCAB):
    generator = torch.Generator().manual_seed(1)
    token_ids = torch.randint(vocab_size, (batch, length), generator=generator)
    return token_ids, random_orders(batch, length, generator=generator)


def every_order(length):
    return torch.tensor(list(permutations(range(length))))  # (length!, length)


def with_embedded(model, call):
    """call()'s result, and the embedded tokens (batch, length, d_model) that it depends on."""
    kept = []

    def keep(module, args, result):
        kept.append(result.detach().requires_grad_())
        return kept[0]

    handle = model.embedding.register_forward_hook(keep)
    result = call()
    handle.remove()
    return result, kept[0]


def tokens_seen(output, embedded):
    """Which tokens of its own row an output (batch, width) depends on: boolean (batch, length)."""
    direction = torch.randn(output.size(1), dtype=output.dtype)
    (grad,) = torch.autograd.grad((output @ direction).sum(), embedded, retain_graph=True)
    return grad.abs().sum(-1) > 0  # exactly zero where nothing passes


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_masks_of_every_order_equal_a_loop(length):
    orders = every_order(length)
    content_mask, query_mask = permutation_masks(orders)
    for mask in (content_mask, query_mask):
        assert mask.dtype == torch.bool
        assert mask.shape == (len(orders), 1, length, length)
    for row, order in enumerate(orders.tolist()):
        for turn, position in enumerate(order):
            before = set(order[:turn])
            assert set(content_mask[row, 0, position].nonzero()[:, 0].tolist()) == {
                *before,
                position,
            }
            assert set(query_mask[row, 0, position].nonzero()[:, 0].tolist()) == before


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_what_each_turn_sees_in_every_order(length):
    """All length! orders in one batch, through two layers: the gradient is the witness."""
    model, orders = make_model(num_layers=2), every_order(length)
    token_ids, _ = make_inputs(len(orders), length)
    logits, embedded = with_embedded(model, lambda: model(token_ids, orders, length))
    turn_of = orders.argsort()  # (orders, length): the turn of each position
    for turn in range(length):
        assert torch.equal(tokens_seen(logits[:, turn], embedded), turn_of < turn)


@pytest.mark.parametrize("length", [3, 5])
def test_what_the_content_stream_sees_in_every_order(length):
    model, orders = make_model(num_layers=2), every_order(length)
    token_ids, _ = make_inputs(len(orders), length)
    (content, _), embedded = with_embedded(model, lambda: model.streams(token_ids, orders, 1))
    turn_of = orders.argsort()
    for position in range(length):
        seen = tokens_seen(content[:, position], embedded)
        assert torch.equal(seen, turn_of <= turn_of[:, position, None])


def test_no_gradient_from_the_query_stream_to_its_own_content():
    model, (token_ids, orders) = make_model(), make_inputs()
    logits, embedded = with_embedded(model, lambda: model(token_ids, orders, TARGETS))
    for turn in range(TARGETS):
        (grad,) = torch.autograd.grad(logits[:, turn].sum(), embedded, retain_graph=True)
        own = orders[:, LENGTH - TARGETS + turn]
        assert grad[range(BATCH), own].abs().max() == 0  # not small: zero
        assert grad.abs().max() > 1e-3


def test_another_token_at_a_target_changes_later_turns_only():
    model, (token_ids, orders) = make_model(), make_inputs()
    before = model(token_ids, orders, TARGETS)
    for turn in range(TARGETS):
        other, place = token_ids.clone(), orders[:, [LENGTH - TARGETS + turn]]
        other.scatter_(1, place, (other.gather(1, place) + 1) % VOCAB)
        after = model(other, orders, TARGETS)
        assert torch.equal(after[:, : turn + 1], before[:, : turn + 1])
        assert ((after - before)[:, turn + 1 :].abs().amax(-1) > 1e-6).all()


def test_what_comes_later_may_come_in_any_order():
    """Nor do a target's logits tell in which order the tokens after it are predicted."""
    model, (token_ids, orders) = make_model(), make_inputs()
    swapped = torch.cat([orders[:, :-2], orders[:, -2:].flip(1)], dim=1)
    first = model(token_ids, orders, TARGETS)
    second = model(token_ids, swapped, TARGETS)
    torch.testing.assert_close(first[:, 0], second[:, 0], atol=1e-12, rtol=0)
    assert (first[:, 1] - second[:, 1]).abs().max() > 0.01


def test_logits_know_where_the_target_stands():
    """Same context, another target: a representation that did not know would give the same."""
    model, token_ids = make_model(), torch.tensor([[3, 1, 4, 1]] * 2)
    orders = torch.tensor([[0, 1, 2, 3], [0, 1, 3, 2]])  # the context is 0, 1 in both
    first, second = model(token_ids, orders, 2)[:, 0]
    assert (first - second).abs().max() > 0.02


@pytest.mark.parametrize("num_targets", [1, 2, TARGETS, LENGTH])
def test_partial_prediction_is_the_end_of_full_prediction(num_targets):
    model, (token_ids, orders) = make_model(), make_inputs()
    logits = model(token_ids, orders, num_targets)
    assert logits.shape == (BATCH, num_targets, VOCAB)
    whole = model(token_ids, orders, LENGTH)
    torch.testing.assert_close(logits, whole[:, -num_targets:], atol=1e-12, rtol=0)


def by_loops(model, tokens, order):
    """Logits (length, vocab) of one row, turn by turn: no masks, no shift, no batch."""

    def encode(distance):
        angles = [distance / 10000 ** (2 * (c // 2) / D_MODEL) for c in range(D_MODEL)]
        waves = [math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)]
        return torch.tensor(waves, dtype=torch.float64)

    def advance(layer, x, place, contents):
        """Attend from x, at `place`, to contents {position: vector}; then the rest of the layer."""
        attention, heads = layer.attention, []
        for h in range(HEADS):
            own = slice(h * D_K, (h + 1) * D_K)
            q = attention.q_proj(x)[own]
            u, v = attention.content_bias[h, 0], attention.position_bias[h, 0]
            scores, values = [], []
            for position, content in contents.items():
                k = attention.k_proj(content)[own]
                r = attention.r_proj(encode(place - position))[own]
                scores.append(((q + u) @ k + (q + v) @ r) / math.sqrt(D_K))
                values.append(attention.v_proj(content)[own])
            blank = torch.zeros(D_K, dtype=torch.float64)
            heads.append(torch.stack(scores).softmax(0) @ torch.stack(values) if scores else blank)
        norms = [residual.norm for residual in layer.residuals]
        y = norms[0](x + attention.out_proj(torch.cat(heads)))
        hidden = F.gelu(layer.feed_forward.expand(y))
        return norms[1](y + layer.feed_forward.contract(hidden))

    known = [{} for _ in model.layers]  # by layer: position -> content vector, of the turns so far
    logits = []
    for position in order.tolist():
        guess = model.query_start[0]
        for layer, contents in zip(model.layers, known, strict=True):
            guess = advance(layer, guess, position, contents)
        logits.append(model.generator(guess))
        content = model.embedding(tokens[position])
        for layer, contents in zip(model.layers, known, strict=True):
            contents[position] = content
            content = advance(layer, content, position, contents)
    return torch.stack(logits)


@pytest.mark.parametrize("identity", [True, False], ids=["left to right", "any order"])
def test_equals_a_model_that_reads_one_token_at_a_time(identity):
    model, (token_ids, orders) = make_model(), make_inputs(2, 7)
    if identity:
        orders = torch.arange(7).expand(2, -1)
    logits = model(token_ids, orders, 7)
    wanted = torch.stack([by_loops(model, *row) for row in zip(token_ids, orders, strict=True)])
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=0)  # the encodings are float32
    direction = torch.randn_like(logits)
    parameters = list(model.parameters())
    got, right = (
        torch.autograd.grad((each * direction).sum(), parameters) for each in (logits, wanted)
    )
    for ours, theirs in zip(got, right, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_identity_order_is_a_causal_model_of_relative_attention():
    """One stream, a causal mask and distances behind alone, as in Transformer-XL."""
    model, (token_ids, _) = make_model(), make_inputs()
    orders = torch.arange(LENGTH).expand(BATCH, -1)
    content, _ = model.streams(token_ids, orders, 1)
    x, mask = model.embedding(token_ids), causal_mask(LENGTH)
    positions = relative_encoding(LENGTH - 1, 0, D_MODEL).double()
    for layer in model.layers:
        around_attention, around_feed_forward = layer.residuals
        x = around_attention(
            x, lambda x, a=layer.attention: a(x, x, x, mask, positions=positions)[0]
        )
        x = around_feed_forward(x, layer.feed_forward)
    torch.testing.assert_close(content, x, atol=1e-12, rtol=0)


@pytest.fixture
def theirs():
    """Hugging Face's XLNet, tiny, with random weights; `options` change its configuration."""
    transformers = pytest.importorskip("transformers")

    def build(**options):
        torch.manual_seed(0)
        sizes = {"d_model": D_MODEL, "n_head": HEADS, "n_layer": LAYERS, "d_inner": D_FF}
        config = transformers.XLNetConfig(vocab_size=VOCAB, **sizes, **options)
        return randomised(transformers.XLNetLMHeadModel(config)).eval()

    return build


def in_their_words(orders, num_targets):
    """Their masks mean the opposite: 1 = may not attend. A target is a one-hot row."""
    turn_of, places = orders.argsort(), last_turns(orders, num_targets)
    return {
        "perm_mask": (turn_of[:, :, None] <= turn_of[:, None, :]).float(),  # [b, i, j]: i, not j
        "target_mapping": F.one_hot(places, orders.size(1)).float(),  # (batch, targets, length)
    }


def taken_over(reference):
    return from_hugging_face(XLNET, reference.config.to_dict(), reference.state_dict())


def test_both_streams_equal_hugging_faces_in_each_layer(theirs):
    reference, (token_ids, orders) = theirs(), make_inputs()
    mine = taken_over(reference)
    words = in_their_words(orders, TARGETS)
    with torch.no_grad():
        wanted = reference(token_ids, **words, output_hidden_states=True)
        ours = []
        for layer in mine.layers:
            layer.register_forward_hook(lambda module, args, result: ours.extend(result))
        logits = mine(token_ids, orders, TARGETS)
    assert len(ours) == len(wanted.hidden_states) - 2 == 2 * LAYERS  # theirs begin with the inputs
    for got, right in zip(ours, wanted.hidden_states[2:], strict=True):
        torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, wanted.logits, atol=1e-5, rtol=1e-5)
    assert logits.std() > 0.5


def test_the_bare_model_reads_both_sides_in_its_content_stream(theirs):
    """Fine-tuning drops the query stream: their XLNetModel without perm_mask sees everything.

    In ours, what stands last in the order sees everything in the first layer; one layer suffices
    to compare all positions, one order for each of them.
    """
    reference, (token_ids, _) = theirs(), make_inputs()
    mine = taken_over(reference)
    mine.layers = mine.layers[:1]
    with torch.no_grad():
        wanted = reference.transformer(token_ids, output_hidden_states=True).hidden_states[1]
        for position in range(LENGTH):
            others = [p for p in range(LENGTH) if p != position]
            orders = torch.tensor([*others, position]).expand(BATCH, -1)
            content, _ = mine.streams(token_ids, orders, 1)
            got, right = content[:, position], wanted[:, position]
            torch.testing.assert_close(got, right, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_equal_hugging_faces(theirs):
    reference, (token_ids, orders) = theirs(), make_inputs()
    mine = taken_over(reference)
    labels = token_ids.gather(1, last_turns(orders, TARGETS))
    loss = -turn_log_probs(mine, token_ids, orders, TARGETS).mean()
    wanted = reference(token_ids, **in_their_words(orders, TARGETS), labels=labels).loss
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    # Put the gradients where the weights were, and let the table of names carry them over.
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            assert (parameter.grad is None) == name.endswith(XLNET.left_out)
            if parameter.grad is not None:
                parameter.copy_(parameter.grad)
    carried = dict(taken_over(reference).named_parameters())
    compared = 0
    for name, parameter in mine.named_parameters():
        if not name.endswith("_proj.bias"):  # theirs have none
            assert parameter.grad.abs().max() > 0
            torch.testing.assert_close(parameter.grad, carried[name].detach(), atol=1e-5, rtol=1e-4)
            compared += 1
    theirs_alone = sum(name.endswith(XLNET.left_out) for name, _ in reference.named_parameters())
    assert compared == len(list(reference.parameters())) - theirs_alone


def test_a_row_that_sees_nothing_theirs_lets_see_all(theirs):
    """Minus 1e30 swallows every score, and the softmax of a constant is uniform: ours gives zeros.

    So only their first of all turns differs, and it leaks its own answer.
    """
    reference, (token_ids, orders) = theirs(), make_inputs()
    mine, words = taken_over(reference), in_their_words(orders, LENGTH)
    ours, embedded = with_embedded(mine, lambda: mine(token_ids, orders, LENGTH))
    assert not tokens_seen(ours[:, 0], embedded).any()
    inputs = mine.embedding(token_ids).detach().requires_grad_()
    wanted = reference(inputs_embeds=inputs, **words).logits
    torch.testing.assert_close(ours[:, 1:], wanted[:, 1:], atol=1e-5, rtol=1e-5)
    assert tokens_seen(wanted[:, 0], inputs).all()


def test_likelihoods_of_all_fillings_add_up_to_one():
    """The targets' joint distribution is normalised, in any order of the targets."""
    model = make_model(vocab_size=3)
    context, places = [2, 0, 1, 1, 0], [1, 3]
    fillings = torch.tensor([[a, b] for a in range(3) for b in range(3)])  # (9, 2)
    token_ids = torch.tensor(context).repeat(9, 1)
    token_ids[:, places] = fillings
    for order in ([0, 2, 4, 1, 3], [4, 0, 2, 3, 1]):
        log_probs = turn_log_probs(model, token_ids, torch.tensor(order).expand(9, -1), 2)
        assert log_probs.shape == (9, 2)
        assert log_probs.sum(1).exp().sum().item() == pytest.approx(1.0)


def test_filled_in_tokens_have_the_models_distribution():
    model, rows = make_model(vocab_size=3), 4000
    token_ids, order = torch.tensor([[2, 0, 1, 1, 0]]), torch.tensor([[4, 0, 2, 3, 1]])
    filled = fill_in(
        model,
        token_ids.expand(rows, -1),
        order.expand(rows, -1),
        2,
        generator=torch.Generator().manual_seed(3),
    )
    assert torch.equal(filled[:, [0, 2, 4]], token_ids[:, [0, 2, 4]].expand(rows, -1))
    for a in range(3):
        for b in range(3):
            one = token_ids.clone()
            one[0, [3, 1]] = torch.tensor([a, b])
            wanted = turn_log_probs(model, one, order, 2).sum().exp().item()
            share = ((filled[:, 3] == a) & (filled[:, 1] == b)).double().mean().item()
            assert abs(share - wanted) < 4 * math.sqrt(wanted * (1 - wanted) / rows) + 1e-3


def test_what_stood_at_the_targets_has_no_influence_on_what_is_filled_in():
    model, (token_ids, orders) = make_model(), make_inputs()
    emptied = token_ids.scatter(1, last_turns(orders, TARGETS), 0)
    first, second = (
        fill_in(model, ids, orders, TARGETS, generator=torch.Generator().manual_seed(4))
        for ids in (token_ids, emptied)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, emptied)


def test_orders_are_drawn_fairly():
    orders = random_orders(6000, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(orders.sort().values, torch.arange(3).expand(6000, -1))
    counts = [(orders == order).all(1).sum().item() for order in every_order(3)]
    assert sum(counts) == 6000
    assert all(abs(count - 1000) < 4 * math.sqrt(1000 * 5 / 6) for count in counts)
    again = random_orders(6000, 3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(orders, again)


def test_maps_of_both_streams_are_recorded():
    model, (token_ids, orders) = make_model(), make_inputs()
    with record_attention(model) as maps:
        model(token_ids, orders, TARGETS)
    content_map, query_map = maps["layers.1.attention"]
    content_mask, query_mask = permutation_masks(orders)
    assert torch.equal(content_map > 0, content_mask.expand_as(content_map))
    assert torch.equal(query_map > 0, query_mask.expand_as(query_map))


def test_dropout_is_for_training_only():
    model, (token_ids, orders) = make_model(), make_inputs()
    trained = model.train()(token_ids, orders, TARGETS)
    with torch.no_grad():
        assert torch.equal(model.eval()(token_ids, orders, TARGETS), trained)
    noisy = XLNet(VOCAB, d_model=D_MODEL, num_heads=HEADS, num_layers=1, d_ff=D_FF, dropout=0.4)
    assert not torch.equal(noisy(token_ids, orders, 2), noisy(token_ids, orders, 2))
    noisy.eval()
    assert torch.equal(noisy(token_ids, orders, 2), noisy(token_ids, orders, 2))


def test_weights_are_shared_and_start_small():
    torch.manual_seed(0)
    model = XLNet(VOCAB, d_model=70, num_heads=5, num_layers=2, d_ff=110)
    assert model.generator.weight is model.embedding.weight
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            assert 0.014 < parameter.std() < 0.026, name
    assert all(
        module.eps == 1e-12 for module in model.modules() if isinstance(module, nn.LayerNorm)
    )


def test_errors_name_what_does_not_fit():
    model, (token_ids, orders) = make_model(), make_inputs()
    with pytest.raises(ValueError, match=r"positions 0\.\.2 once, got \[0, 1, 1\]"):
        permutation_masks(torch.tensor([[0, 1, 2], [0, 1, 1]]))
    with pytest.raises(ValueError, match=r"order must be \(batch, length\), got \(3,\)"):
        permutation_masks(torch.arange(3))
    with pytest.raises(ValueError, match=r"token_ids \(5, 11\) and order \(4, 11\)"):
        model(token_ids, orders[:4], TARGETS)
    for num_targets in (0, LENGTH + 1):
        with pytest.raises(ValueError, match=f"num_targets={num_targets} must be from 1 to 11"):
            model(token_ids, orders, num_targets)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        fill_in(make_model().train(), token_ids, orders, TARGETS)
    with pytest.raises(ValueError, match="must be divisible by num_heads=2"):
        XLNet(VOCAB, d_model=7, num_heads=2, num_layers=1, d_ff=5)
