"""DALL-E: the codes, the stream and the step, against PyTorch's own and by gradient."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.image import column_mask, convolution_mask, pattern_attention, row_mask
from tfm_lib.attention.masks import causal_mask
from tfm_lib.decoding import beam_search, greedy, sample
from tfm_lib.layers.blocks import EncoderLayer
from tfm_lib.models.dalle import DALLE, DiscreteAutoencoder, ImageStep, autoencoder_loss, dalle_loss
from tfm_lib.training import fit

TEXT_VOCAB, CODES = 11, 7
GRID = (3, 2, 5)  # text_len, rows, columns
SIZE = 3 + 2 * 5
PATTERNS = (row_mask(*GRID), column_mask(*GRID), convolution_mask(*GRID))
IDS = {"bos_id": 0, "eos_id": -1, "pad_id": 0}


@pytest.fixture
def autoencoder():
    torch.manual_seed(0)
    return DiscreteAutoencoder(CODES, hidden_size=13)


@pytest.fixture
def images():
    return torch.rand(5, 4, 6, generator=torch.Generator().manual_seed(1))


def make_dalle(patterns=PATTERNS, dropout=0.0):
    torch.manual_seed(0)
    model = DALLE(
        TEXT_VOCAB,
        CODES,
        text_len=3,
        rows=2,
        columns=5,
        attentions=[pattern_attention(pattern) for pattern in patterns],
        d_model=12,
        num_heads=3,
        d_ff=17,
        dropout=dropout,
    )
    with torch.no_grad():  # large enough that nothing is nearly zero, biases and norms included
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def make_stream(batch=2):
    generator = torch.Generator().manual_seed(2)
    text = torch.randint(0, TEXT_VOCAB, (batch, 3), generator=generator)
    return text, torch.randint(0, CODES, (batch, 10), generator=generator)


def test_codes_and_images_have_their_shapes_and_go_round(autoencoder, images):
    codes = autoencoder.encode(images)
    assert codes.shape == (5, 2, 3)
    assert torch.equal(codes, autoencoder.logits(images).argmax(-1))
    decoded = autoencoder.decode(codes)
    assert decoded.shape == images.shape
    one_hot = torch.zeros(5, 2, 3, CODES)
    for place in torch.cartesian_prod(torch.arange(5), torch.arange(2), torch.arange(3)):
        one_hot[(*place, codes[tuple(place)])] = 1
    torch.testing.assert_close(decoded, autoencoder.paint(one_hot))


def test_equal_codes_give_equal_images_and_each_code_reads_its_own_vector(autoencoder):
    codes = torch.arange(CODES)[:, None, None].expand(-1, 2, 3)
    painted = autoencoder.decode(codes)
    distances = torch.cdist(painted.flatten(1), painted.flatten(1))
    assert (distances[~torch.eye(CODES, dtype=torch.bool)] > 1e-4).all()
    grads = torch.autograd.grad(painted[4].sum(), autoencoder.codebook.weight)[0]
    assert grads.abs().sum(1).nonzero().flatten().tolist() == [4]


def test_what_is_painted_is_not_a_sum_of_what_each_code_paints(autoencoder):
    """Between the two convolutions of the decoder stands a ReLU."""
    torch.manual_seed(0)
    one, two, none = torch.randn(1, 2, 3, CODES), torch.randn(1, 2, 3, CODES), 0
    with torch.no_grad():
        first, second, both = (autoencoder.paint(mix) for mix in (one, two, one + two))
        none = autoencoder.paint(torch.zeros_like(one))
    assert (both - first - second + none).abs().max() > 1e-3


def test_training_noise_is_gumbels(autoencoder, images):
    """Relaxed codes from the formula: softmax((logits - log(-log(u))) / temperature)."""
    torch.manual_seed(3)
    painted, logits = autoencoder(images, temperature=0.7)
    torch.manual_seed(3)
    exponential = torch.empty(logits.shape).exponential_()  # -log(u)
    mix = ((logits - exponential.log()) / 0.7).softmax(-1)
    torch.testing.assert_close(painted, autoencoder.paint(mix))
    torch.testing.assert_close(logits, autoencoder.logits(images))


def test_the_likeliest_code_is_drawn_as_often_as_its_probability():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(20_000, 3)
    torch.manual_seed(0)
    drawn = F.gumbel_softmax(logits, tau=0.1).argmax(-1)
    shares = torch.bincount(drawn) / len(drawn)
    torch.testing.assert_close(shares, logits[0].softmax(-1), atol=0.02, rtol=0)


def test_the_gradient_passes_through_the_choice_to_the_encoder(autoencoder, images):
    painted, _ = autoencoder(images, temperature=1.0)
    F.mse_loss(painted, images).backward()
    assert all((p.grad.abs().sum() > 0) for p in autoencoder.encoder.parameters())
    autoencoder.zero_grad()
    F.mse_loss(autoencoder.decode(autoencoder.encode(images)), images).backward()
    assert all(p.grad is None for p in autoencoder.encoder.parameters()), "argmax lets none pass"


def test_a_low_temperature_chooses_and_a_high_one_mixes(autoencoder, images):
    codes = autoencoder.encode(images)
    autoencoder.encoder[-1].weight.data.mul_(1000)  # so sure of itself that the noise is nothing
    autoencoder.encoder[-1].bias.data.mul_(1000)
    chosen, _ = autoencoder(images, temperature=1e-3)
    torch.testing.assert_close(chosen, autoencoder.decode(codes), atol=1e-4, rtol=0)
    mixed, _ = autoencoder(images, temperature=1e6)
    uniform = torch.full((5, 2, 3, CODES), 1 / CODES)
    torch.testing.assert_close(mixed, autoencoder.paint(uniform), atol=1e-2, rtol=0)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_the_loss_is_squared_error_and_divergence(autoencoder, images, beta):
    torch.manual_seed(3)
    loss = autoencoder_loss(beta)(autoencoder, (images, 0.7))
    torch.manual_seed(3)
    painted, logits = autoencoder(images, 0.7)
    uniform = torch.full_like(logits, 1 / CODES)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(uniform)
    ).mean()
    assert divergence > 1e-4
    torch.testing.assert_close(loss, (painted - images).square().mean() + beta * divergence)


def test_the_autoencoder_learns(images):
    torch.manual_seed(0)
    model = DiscreteAutoencoder(CODES, hidden_size=13)
    bars = torch.zeros(2, 4, 6)
    bars[0, :2], bars[1, 2:] = 1, 1
    fit(model, [(bars, 1.0)], autoencoder_loss(0.0), steps=120, lr=1e-2, progress=False)
    error = (model.decode(model.encode(bars)) - bars).square().mean()
    assert error < 0.05 * (bars - bars.mean(0)).square().mean()


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 4, 5), (4, 4), (2, 1, 4, 4)])
def test_images_of_another_shape_are_refused(autoencoder, shape):
    with pytest.raises(ValueError, match="both sides even"):
        autoencoder.encode(torch.zeros(shape))


def test_dense_patterns_give_pytorchs_own_stack():
    """Every pattern replaced by the causal mask: nn.TransformerEncoder with the same weights."""
    model, stream = make_dalle([causal_mask(SIZE)] * 2), make_dalle().join(*make_stream())
    layer = nn.TransformerEncoderLayer(12, 3, 17, dropout=0.0, batch_first=True, norm_first=True)
    theirs = nn.TransformerEncoder(layer, 2, nn.LayerNorm(12), enable_nested_tensor=False).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    causal = pattern_attention(causal_mask(SIZE))
    model.encoder.layers = nn.ModuleList(
        EncoderLayer.from_torch(layer, attention=causal) for layer in theirs.layers
    )
    model.encoder.norm = theirs.norm
    grid = [
        model.row_positions.weight[row] + model.column_positions.weight[column]
        for row in range(2)
        for column in range(5)
    ]
    vectors = model.tokens(stream) + torch.stack([*model.text_positions.weight, *grid])
    wanted = model.generator(theirs(vectors, mask=~causal_mask(SIZE)))
    logits = model(stream)
    torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
    direction = torch.randn_like(logits)
    shared = [model.tokens.weight, model.row_positions.weight, model.column_positions.weight]
    shared += [model.text_positions.weight, model.encoder.norm.weight]
    for ours, reference in zip(
        torch.autograd.grad((logits * direction).sum(), shared),
        torch.autograd.grad((wanted * direction).sum(), shared),
        strict=True,
    ):
        torch.testing.assert_close(ours, reference, atol=1e-4, rtol=1e-4)


def seen_by_gradient(model):
    """Which inputs reach which logits: (SIZE, SIZE) booleans."""
    vectors = model.embed(model.join(*make_stream(batch=1))).detach().requires_grad_()
    logits = model.generator(model.encoder(vectors))
    rows = [
        torch.autograd.grad(logits[0, i].sum(), vectors, retain_graph=True) for i in range(SIZE)
    ]
    return torch.stack([grad[0].abs().sum(-1) > 0 for (grad,) in rows])


@pytest.mark.parametrize("pattern", PATTERNS, ids=["row", "column", "convolution"])
def test_one_layer_sees_its_pattern_by_gradient(pattern):
    assert torch.equal(seen_by_gradient(make_dalle([pattern])), pattern)


def test_the_stack_is_causal_and_sees_everything_before_by_gradient():
    assert torch.equal(seen_by_gradient(make_dalle()), causal_mask(SIZE))


def test_a_shorter_stream_has_the_same_logits():
    model = make_dalle()
    stream = model.join(*make_stream())
    whole = model(stream)
    for length in range(1, SIZE + 1):
        torch.testing.assert_close(model(stream[:, :length]), whole[:, :length])


def test_training_without_dropout_equals_evaluation():
    model = make_dalle()
    stream = model.join(*make_stream())
    with torch.no_grad():
        quiet = model(stream)
    torch.testing.assert_close(model.train()(stream), quiet)
    torch.manual_seed(0)
    assert not torch.allclose(make_dalle(dropout=0.5).train()(stream), quiet)


def test_codes_follow_the_text_vocabulary():
    model, (text, codes) = make_dalle(), make_stream()
    stream = model.join(text, codes)
    assert stream[:, :3].equal(text)
    assert (stream[:, 3:] - TEXT_VOCAB).equal(codes)
    assert model.join(text, codes[:, :0]).equal(text)
    assert model(stream).shape == (2, SIZE, TEXT_VOCAB + CODES)


@pytest.mark.parametrize("text_weight", [1 / 8, 0.0, 1.0])
def test_the_loss_weighs_text_and_image(text_weight):
    model = make_dalle()
    stream = model.join(*make_stream())
    log_probs = model(stream).log_softmax(-1)
    text, image = (
        -sum(log_probs[row, i - 1, stream[row, i]] for row in range(2) for i in places)
        / (2 * len(places))
        for places in (range(1, 3), range(3, SIZE))
    )
    wanted = text_weight * text + (1 - text_weight) * image
    torch.testing.assert_close(dalle_loss(text_weight)(model, stream), wanted)


def test_streams_that_do_not_fit_are_refused():
    model, (text, codes) = make_dalle(), make_stream()
    with pytest.raises(ValueError, match="1 to 13 columns"):
        model(torch.zeros(2, SIZE + 1).long())
    for wrong in (torch.zeros(2, 0).long(), torch.zeros(5).long()):
        with pytest.raises(ValueError, match="with both 1 or more"):
            model(wrong)
    with pytest.raises(ValueError, match="text_len=3"):
        model.join(text[:, :2], codes)
    with pytest.raises(ValueError, match="text_len=3 or more"):
        ImageStep(model, text[:, :2])
    with pytest.raises(ValueError, match="training mode"):
        ImageStep(model.train(), text)
    model.text_len = 1  # one given token: there is no text to predict
    with pytest.raises(ValueError, match="text_len=1 must be 2 or more"):
        dalle_loss()(model, model.join(text[:, :1], codes))


@pytest.mark.parametrize("given", [0, 4])
def test_greedy_drawing_equals_a_loop(given):
    model, (text, codes) = make_dalle(), make_stream(batch=5)
    stream = model.join(text, codes[:, :given])
    drawn = greedy(ImageStep(model, stream), batch_size=5, max_len=10 - given, **IDS)
    for row in range(5):
        ids = stream[row].tolist()
        while len(ids) < SIZE:
            logits = model(torch.tensor([ids]))[0, -1]
            ids.append(max(range(TEXT_VOCAB, TEXT_VOCAB + CODES), key=lambda k: logits[k].item()))
        assert drawn[row].tolist() == [i - TEXT_VOCAB for i in ids[3 + given :]]


def test_only_codes_are_drawn():
    model, (text, _) = make_dalle(), make_stream(batch=5)
    with torch.no_grad():
        model.generator.bias[:TEXT_VOCAB] = 1000.0  # the model would rather write
    drawn = sample(ImageStep(model, text), batch_size=5, max_len=10, **IDS)
    assert drawn.shape == (5, 10)
    assert drawn.min() >= 0
    assert drawn.max() < CODES


def test_beams_carry_their_own_text():
    """With as many beams as there are prefixes, beam search is exact: compare all 7**2 endings."""
    model, (text, codes) = make_dalle(), make_stream(batch=3)
    stream = model.join(text, codes[:, :8])
    best, scores = beam_search(
        ImageStep(model, stream), batch_size=3, beam_size=49, max_len=2, length_penalty=0.0, **IDS
    )
    endings = torch.cartesian_prod(torch.arange(CODES), torch.arange(CODES))
    for row in range(3):
        log_probs = [
            math.fsum(
                model(
                    model.join(text[row : row + 1], torch.cat([codes[row, :8], ending[:n]])[None])
                )[0, -1, TEXT_VOCAB:]
                .log_softmax(-1)[ending[n]]
                .item()
                for n in range(2)
            )
            for ending in endings
        ]
        assert scores[row].item() == pytest.approx(max(log_probs), abs=1e-4)
        assert best[row].tolist() == endings[log_probs.index(max(log_probs))].tolist()


def test_two_text_tokens_are_enough_for_the_loss_and_one_is_not():
    sizes = {"rows": 2, "columns": 2, "d_model": 8, "num_heads": 2, "d_ff": 8}
    for text_len in (1, 2):
        pattern = pattern_attention(causal_mask(text_len + 4))
        model = DALLE(5, 7, text_len=text_len, attentions=[pattern], **sizes)
        stream = torch.ones(3, text_len + 4, dtype=torch.long)
        if text_len == 2:
            assert dalle_loss()(model, stream).isfinite()
        else:
            with pytest.raises(ValueError, match="text_len=1 must be 2 or more"):
                dalle_loss()(model, stream)


def test_embeddings_start_small():
    torch.manual_seed(0)
    model = DALLE(300, 200, text_len=30, rows=9, columns=9, attentions=[None], d_model=40)
    for embedding in (model.tokens, model.text_positions):
        assert embedding.weight.std().item() == pytest.approx(0.1, rel=0.1)
