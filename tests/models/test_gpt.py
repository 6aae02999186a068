"""GPT against Hugging Face's GPT-2, and its cache against doing everything again."""

import pytest
import torch

from tfm_lib.attention.functions import fused_attention
from tfm_lib.decoding import beam_search, greedy, sample
from tfm_lib.models.gpt import (
    GPT,
    CachedContinuation,
    RecomputedContinuation,
    next_token_loss,
    token_losses,
)
from tfm_lib.models.hugging_face import GPT_2, from_hugging_face

SIZES = {"max_len": 19, "d_model": 12, "num_heads": 3, "num_layers": 2}
VOCAB_SIZE = 29
IDS = {"bos_id": 1, "eos_id": -1, "pad_id": 0}


def make(**options):
    torch.manual_seed(0)
    return randomised(GPT(VOCAB_SIZE, **SIZES, **options)).eval()


def randomised(model):
    """Weights large enough that nothing is nearly zero, biases and norms included."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def token_ids():
    return torch.randint(0, VOCAB_SIZE, (5, 17), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def theirs():
    """Hugging Face's GPT-2, tiny, with random weights; `options` change its configuration."""
    transformers = pytest.importorskip("transformers")

    def build(**options):
        torch.manual_seed(0)
        sizes = {"n_positions": 19, "n_embd": 12, "n_head": 3, "n_layer": 2}
        ids = {"bos_token_id": 1, "eos_token_id": 2}
        config = transformers.GPT2Config(vocab_size=VOCAB_SIZE, **sizes, **ids, **options)
        return randomised(transformers.GPT2LMHeadModel(config)).eval()

    return build


def taken_over(reference, **options):
    return from_hugging_face(GPT_2, reference.config.to_dict(), reference.state_dict(), **options)


@pytest.mark.parametrize("options", [{}, {"attention": fused_attention}])
def test_logits_equal_hugging_faces(theirs, token_ids, options):
    reference = theirs()
    wanted = reference(token_ids).logits
    assert wanted.std() > 0.5
    mine = taken_over(reference, **options)
    torch.testing.assert_close(mine(token_ids), wanted, atol=1e-5, rtol=1e-5)


def test_loss_and_gradients_equal_hugging_faces(theirs, token_ids):
    reference = theirs()
    mine = taken_over(reference)
    loss, wanted = next_token_loss(mine, token_ids), reference(token_ids, labels=token_ids).loss
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    # Put the gradients where the weights were, and let the table of names carry them over.
    gradients = {name: parameter.grad for name, parameter in mine.named_parameters()}
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(parameter.grad)
    carried = dict(taken_over(reference).named_parameters())
    assert gradients.keys() == carried.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, carried[name].detach(), atol=1e-5, rtol=1e-4)


def test_greedy_continuation_equals_hugging_faces(theirs, token_ids):
    reference, prompt_ids = theirs(), token_ids[:, :4]
    options = {"max_new_tokens": 13, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = reference.generate(prompt_ids, attention_mask=torch.ones_like(prompt_ids), **options)
    step = CachedContinuation(taken_over(reference), prompt_ids)
    mine = greedy(step, batch_size=5, max_len=13, **IDS)
    assert torch.equal(mine, written[:, 4:])
    assert len(mine.unique()) > 5


def test_no_logit_depends_on_a_later_token(token_ids):
    model = make()
    vectors = model.embed(token_ids).detach().requires_grad_()
    model.embed = lambda token_ids: vectors
    model(token_ids)[:, 6].square().sum().backward()
    reached = vectors.grad.abs().sum(dim=(0, 2)) > 0
    assert reached.tolist() == [True] * 7 + [False] * 10


def test_training_starts_near_chance():
    torch.manual_seed(0)
    model = GPT(101, max_len=19, d_model=60, num_heads=5, num_layers=8).eval()
    loss = next_token_loss(model, torch.randint(0, 101, (23, 18)))
    torch.testing.assert_close(loss, torch.tensor(101.0).log(), atol=0.4, rtol=0)
    layer, std = model.stack.layers[3], 180**-0.5
    for linear in (layer.feed_forward.expand, layer.self_attention.q_proj, model.tokens):
        assert linear.weight.std().item() == pytest.approx(std, rel=0.05)
    for writer in (layer.feed_forward.contract, layer.self_attention.out_proj):
        assert writer.weight.std().item() == pytest.approx(std / 4, rel=0.05)
        assert not writer.bias.any()
    assert model.generator.weight is model.tokens.weight


def test_without_dropout_training_equals_evaluation(token_ids):
    model = make(dropout=0.0)
    assert torch.equal(model.train()(token_ids), model.eval()(token_ids))
    model = make(dropout=0.5)
    assert not torch.equal(model.train()(token_ids), model.eval()(token_ids))


def test_losses_of_single_tokens_average_to_the_loss(token_ids):
    model = make()
    losses = token_losses(model, token_ids, batch_size=2)
    assert losses.shape == (5, 16)
    torch.testing.assert_close(losses.mean(), next_token_loss(model, token_ids).detach())
    log_probs = model(token_ids).log_softmax(-1)
    one = -log_probs[3, 6, token_ids[3, 7]]
    torch.testing.assert_close(losses[3, 6], one.detach())


@pytest.mark.parametrize("options", [{}, {"attention": fused_attention}])
@pytest.mark.parametrize("step_class", [CachedContinuation, RecomputedContinuation])
def test_steps_equal_the_forward_pass(options, step_class, token_ids):
    model = make(**options)
    logits = model(token_ids).detach()
    step = step_class(model, token_ids[:, :4])
    written = torch.ones(5, 1).long()  # bos, in whose place the prompt stands
    for length in range(4, 18):
        torch.testing.assert_close(step(written), logits[:, length - 1], atol=1e-5, rtol=1e-5)
        written = torch.cat([written, token_ids[:, length : length + 1]], dim=1)


def test_cached_and_recomputed_texts_are_the_same(token_ids):
    model, prompt_ids = make(), token_ids[:3, :2]
    texts = []
    for step_class in (CachedContinuation, RecomputedContinuation):
        steps = (step_class(model, prompt_ids) for _ in range(3))
        options = {"batch_size": 3, "max_len": 17, **IDS}
        generator = torch.Generator().manual_seed(2)
        texts.append(
            [
                greedy(next(steps), **options),
                sample(next(steps), temperature=0.9, generator=generator, **options),
                beam_search(next(steps), beam_size=4, **options)[0],
            ]
        )
    for cached, recomputed in zip(*texts, strict=True):
        assert torch.equal(cached, recomputed)
        assert len(cached.unique()) > 2


@pytest.mark.parametrize("step_class", [CachedContinuation, RecomputedContinuation])
def test_reorder_moves_every_row_with_its_past(step_class, token_ids):
    model, rows = make(), torch.tensor([2, 0, 0, 1, 4, 3])
    step = step_class(model, token_ids[:, :4])
    written = torch.cat([token_ids[:, :1], token_ids[:, 4:9]], dim=1)
    step(written[:, :-1])
    step.reorder(rows)
    wanted = model(token_ids[rows, :9])[:, -1]
    torch.testing.assert_close(step(written[rows]), wanted.detach(), atol=1e-5, rtol=1e-5)


def test_a_call_without_new_tokens_is_refused(token_ids):
    step = CachedContinuation(make(), token_ids)
    step(token_ids[:, :1])
    with pytest.raises(ValueError, match="the cache holds 17 tokens, the text only 17"):
        step(token_ids[:, :1])


def test_a_refused_call_changes_nothing(token_ids):
    step = CachedContinuation(make(), token_ids)
    step(token_ids[:, :1])
    with pytest.raises(ValueError, match="pass max_len=19"):
        step(token_ids[:, :4])
    wanted = make()(torch.cat([token_ids, token_ids[:, 1:2]], dim=1))[:, -1]
    torch.testing.assert_close(step(token_ids[:, :2]), wanted.detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("step_class", [CachedContinuation, RecomputedContinuation])
def test_a_text_past_max_len_is_refused(step_class, token_ids):
    step = step_class(make(), token_ids)
    with pytest.raises(ValueError, match="pass max_len=19"):
        greedy(step, batch_size=5, max_len=4, **IDS)


@pytest.mark.parametrize("step_class", [CachedContinuation, RecomputedContinuation])
def test_training_mode_is_refused(step_class, token_ids):
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        step_class(make().train(), token_ids)
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        token_losses(make().train(), token_ids)
