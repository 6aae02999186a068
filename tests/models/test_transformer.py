"""Blocks, stacks and the whole model against torch.nn; sizes are prime where they may be."""

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.functions import fused_attention, scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.layers.blocks import DecoderLayer, EncoderLayer, FeedForward, Residual
from tfm_lib.models.transformer import InputEmbedding, Transformer

D_MODEL, HEADS, D_FF, SRC_LEN, TGT_LEN = 15, 3, 17, 7, 5
SRC_PADS = torch.tensor([[0] * 7, [0] * 4 + [1] * 3], dtype=torch.bool)
BOTH_DTYPES = pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=["f32", "f64"]
)
BOTH_ORDERS = pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
MASKED = pytest.mark.parametrize("masked", [False, True], ids=["free", "masked"])
BOTH_FUNCTIONS = pytest.mark.parametrize(
    "attention", [scaled_dot_product_attention, fused_attention], ids=["scaled", "fused"]
)


def scramble(module):
    """Give every parameter a value that a wrong copy would betray (norms start as 1 and 0)."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, mean=0.1, std=0.3)
    return module


def make(torch_class, dtype, norm_first, **options):
    layer = torch_class(
        D_MODEL, HEADS, D_FF, 0.1, norm_first=norm_first, batch_first=True, dtype=dtype, **options
    )
    return scramble(layer).eval()


def make_inputs(dtype):
    torch.manual_seed(1)
    memory = torch.randn(2, SRC_LEN, D_MODEL, dtype=dtype, requires_grad=True)
    x = torch.randn(2, TGT_LEN, D_MODEL, dtype=dtype, requires_grad=True)
    return x, memory


def assert_equal_with_gradients(got, wanted, inputs, ours, theirs, atol):
    """Outputs, gradients of the inputs and of every norm and linear map of the feed-forward."""
    torch.testing.assert_close(got, wanted, atol=atol, rtol=0)
    torch.manual_seed(2)
    cotangent = torch.randn(got.shape, dtype=got.dtype)
    pairs = [(x, x) for x in inputs] + list(zip(ours, theirs, strict=True))
    got_grads = torch.autograd.grad((got * cotangent).sum(), [pair[0] for pair in pairs])
    wanted_grads = torch.autograd.grad((wanted * cotangent).sum(), [pair[1] for pair in pairs])
    for got_grad, wanted_grad in zip(got_grads, wanted_grads, strict=True):
        scale = max(1.0, wanted_grad.abs().max().item())  # a sum over many positions
        torch.testing.assert_close(got_grad / scale, wanted_grad / scale, atol=atol, rtol=0)


def paired_parameters(ours, theirs):
    """The parameters that correspond one to one: feed-forward, norms, output projections."""
    mine = [*ours.feed_forward.parameters(), *ours.residuals.parameters()]
    mine += [*ours.self_attention.out_proj.parameters()]
    norms = [m for name, m in theirs.named_children() if name.startswith("norm")]
    other = [*theirs.linear1.parameters(), *theirs.linear2.parameters()]
    for norm in norms:
        other += [*norm.parameters()]
    other += [*theirs.self_attn.out_proj.parameters()]
    return mine, other


@BOTH_DTYPES
@BOTH_ORDERS
@MASKED
@BOTH_FUNCTIONS
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_equals_torch(dtype, atol, norm_first, masked, attention, activation):
    theirs = make(nn.TransformerEncoderLayer, dtype, norm_first, activation=activation)
    ours = EncoderLayer.from_torch(theirs, attention=attention)
    _, x = make_inputs(dtype)
    pads = SRC_PADS if masked else None
    mask = ~SRC_PADS[:, None, None, :] if masked else None
    got, wanted = ours(x, mask), theirs(x, src_key_padding_mask=pads)
    assert got.dtype == dtype
    assert not ours.training
    assert_equal_with_gradients(got, wanted, [x], *paired_parameters(ours, theirs), atol)


@BOTH_DTYPES
@BOTH_ORDERS
@MASKED
@BOTH_FUNCTIONS
def test_decoder_layer_equals_torch(dtype, atol, norm_first, masked, attention):
    theirs = make(nn.TransformerDecoderLayer, dtype, norm_first)
    ours = DecoderLayer.from_torch(theirs, attention=attention)
    x, memory = make_inputs(dtype)
    causal = causal_mask(TGT_LEN)
    if masked:
        got = ours(x, memory, causal, ~SRC_PADS[:, None, None, :])
        wanted = theirs(x, memory, tgt_mask=~causal, memory_key_padding_mask=SRC_PADS)
    else:
        got, wanted = ours(x, memory), theirs(x, memory)
    assert_equal_with_gradients(got, wanted, [x, memory], *paired_parameters(ours, theirs), atol)


@BOTH_DTYPES
@BOTH_ORDERS
@MASKED
def test_whole_model_equals_torch(dtype, atol, norm_first, masked):
    stack = nn.TransformerEncoder(  # the default stack warns that it cannot take its fast path
        make(nn.TransformerEncoderLayer, dtype, norm_first),
        2,
        nn.LayerNorm(D_MODEL, dtype=dtype),
        enable_nested_tensor=False,
    )
    theirs = nn.Transformer(
        D_MODEL,
        HEADS,
        num_decoder_layers=2,
        dim_feedforward=D_FF,
        batch_first=True,
        norm_first=norm_first,
        dtype=dtype,
        custom_encoder=stack,
    )
    scramble(theirs).eval()
    ours = Transformer.from_torch(theirs, 19, 23)
    tgt_ids = torch.tensor([[1, 4, 5, 6, 7], [1, 9, 8, 0, 0]])
    src_ids = torch.randint(1, 19, (2, SRC_LEN))
    if masked:
        src_ids = src_ids.masked_fill(SRC_PADS, 0)
    else:
        tgt_ids[1, 3:] = 11
    got = ours(src_ids, tgt_ids)
    src, tgt = ours.src_embedding(src_ids), ours.tgt_embedding(tgt_ids)
    wanted = ours.generator(
        theirs(
            src,
            tgt,
            tgt_mask=~causal_mask(TGT_LEN),
            src_key_padding_mask=src_ids == 0,
            tgt_key_padding_mask=tgt_ids == 0,
            memory_key_padding_mask=src_ids == 0,
        )
    )
    scale = max(1.0, wanted.abs().max().item())
    torch.testing.assert_close(got / scale, wanted / scale, atol=atol, rtol=0)
    embedding = ours.src_embedding.tokens.weight
    grads = [torch.autograd.grad((y / scale).square().sum(), embedding)[0] for y in (got, wanted)]
    size = max(1.0, grads[1].abs().max().item())
    torch.testing.assert_close(grads[0] / size, grads[1] / size, atol=atol, rtol=0)


def test_from_torch_keeps_epsilon_dropout_and_mode():
    theirs = nn.TransformerEncoderLayer(6, 2, 8, 0.3, layer_norm_eps=1e-3)
    ours = EncoderLayer.from_torch(theirs)
    assert [residual.norm.eps for residual in ours.residuals] == [1e-3, 1e-3]
    assert [residual.dropout.p for residual in ours.residuals] == [0.3, 0.3]
    assert ours.training
    assert not EncoderLayer.from_torch(theirs.eval()).training


def test_from_torch_hands_its_options_on():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's about its own fast path
        theirs = nn.Transformer(6, 2, 1, 1, 8, 0.3, batch_first=True)
    ours = Transformer.from_torch(
        theirs, 9, 9, tie_weights="all", pad_id=4, attention=fused_attention
    )
    assert ours.pad_id == 4
    assert ours.src_embedding.tokens.weight is ours.generator.weight
    assert ours.src_embedding.dropout.p == ours.tgt_embedding.dropout.p == 0.3
    attentions = [m.attention for m in ours.modules() if isinstance(m, MultiHeadAttention)]
    assert len(attentions) == 3
    assert all(attention is fused_attention for attention in attentions)
    assert len(ours.encoder.layers) == len(ours.decoder.layers) == 1


@BOTH_ORDERS
def test_residual_follows_its_formula(norm_first):
    residual = scramble(Residual(6, dropout=0.0, norm_first=norm_first))
    x, norm = torch.randn(2, 3, 6), residual.norm

    def sublayer(x):
        return 3 * x + 1

    wanted = x + sublayer(norm(x)) if norm_first else norm(x + sublayer(x))
    torch.testing.assert_close(residual(x, sublayer), wanted)


def test_feed_forward_treats_each_position_alone():
    feed_forward, x = FeedForward(5, 11), torch.randn(2, 7, 5, requires_grad=True)
    (grad,) = torch.autograd.grad(feed_forward(x)[:, 3].sum(), x)
    assert (grad[:, [0, 1, 2, 4, 5, 6]] == 0).all()
    assert grad[:, 3].abs().sum() > 0
    by_position = torch.stack([feed_forward(x[:, i]) for i in range(7)], dim=1)
    torch.testing.assert_close(feed_forward(x), by_position)


def small_model(**options):
    torch.manual_seed(0)
    sizes = {"d_model": 6, "num_heads": 2, "num_layers": 2, "d_ff": 11} | options
    return Transformer(19, 23, **sizes).eval()


@BOTH_ORDERS
@BOTH_FUNCTIONS
def test_future_tokens_change_no_earlier_logit(norm_first, attention):
    model = small_model(norm_first=norm_first, attention=attention)
    src_ids, tgt_ids = torch.randint(1, 19, (2, 7)), torch.randint(1, 23, (2, 5))
    changed = tgt_ids.clone()
    changed[:, 3:] = 1 + changed[:, 3:] % 22
    before, after = model(src_ids, tgt_ids), model(src_ids, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3], atol=1e-6, rtol=0)
    assert (before[:, 3:] - after[:, 3:]).abs().max() > 1e-3


@BOTH_FUNCTIONS
def test_more_padding_changes_no_logit_and_no_gradient(attention):
    model = small_model(attention=attention)
    src_ids, tgt_ids = torch.randint(1, 19, (2, 7)), torch.randint(1, 23, (2, 5))
    src_ids[1, 4:], tgt_ids[1, 3:] = 0, 0
    real = tgt_ids != 0
    results = []
    for extra in (0, 3):
        logits = model(F.pad(src_ids, (0, extra)), F.pad(tgt_ids, (0, extra)))[:, :5]
        loss = logits[real].square().sum()
        results.append((logits[real], *torch.autograd.grad(loss, list(model.parameters()))))
    for short, padded in zip(*results, strict=True):
        torch.testing.assert_close(short, padded, atol=1e-4, rtol=1e-4)


def test_what_the_pad_embedding_holds_changes_nothing():
    model = small_model(tie_weights="none")
    src_ids, tgt_ids = torch.tensor([[3, 4, 0, 0]]), torch.tensor([[1, 5, 0]])
    before = model(src_ids, tgt_ids)
    with torch.no_grad():
        model.src_embedding.tokens.weight[0] = 50.0
        model.tgt_embedding.tokens.weight[0] = -50.0
    torch.testing.assert_close(model(src_ids, tgt_ids)[:, :2], before[:, :2], atol=1e-6, rtol=0)


def test_a_source_of_pads_alone_gives_finite_logits_and_gradients():
    model = small_model()
    logits = model(torch.tensor([[0, 0, 0], [4, 5, 0]]), torch.tensor([[1, 5], [1, 6]]))
    assert logits.isfinite().all()
    grads = torch.autograd.grad(logits.sum(), list(model.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


def test_training_without_dropout_equals_eval():
    model = small_model(dropout=0.0)
    src_ids, tgt_ids = torch.randint(1, 19, (2, 7)), torch.randint(1, 23, (2, 5))
    logits = model(src_ids, tgt_ids)
    assert torch.equal(model.train()(src_ids, tgt_ids), logits)
    with torch.no_grad():
        assert torch.equal(model(src_ids, tgt_ids), logits)


def test_dropout_is_on_in_training():
    model = small_model(dropout=0.5).train()
    src_ids, tgt_ids = torch.randint(1, 19, (2, 7)), torch.randint(1, 23, (2, 5))
    assert not torch.equal(model(src_ids, tgt_ids), model(src_ids, tgt_ids))


@pytest.mark.parametrize(("tie", "matrices"), [("none", 3), ("target", 2), ("all", 1)])
def test_tying_makes_one_matrix_of_several(tie, matrices):
    model = Transformer(19, 19, d_model=6, num_heads=2, num_layers=1, d_ff=11, tie_weights=tie)
    weights = {
        id(w)
        for w in (
            model.src_embedding.tokens.weight,
            model.tgt_embedding.tokens.weight,
            model.generator.weight,
        )
    }
    assert len(weights) == matrices


def test_embeddings_start_as_large_as_the_encodings():
    embedding = InputEmbedding(997, 64, dropout=0.0)
    vectors = embedding.tokens.weight * embedding.scale
    assert vectors.std().item() == pytest.approx(1.0, rel=0.02)
    x = embedding(torch.tensor([[5, 7]]), start=3)
    wanted = vectors[7] + embedding.positions.encoding[4]
    torch.testing.assert_close(x[0, 1], wanted)


@pytest.mark.parametrize(
    ("sizes", "stated", "within"),
    [
        ({"d_model": 512, "num_heads": 8, "d_ff": 2048}, 65e6, 0.035),
        ({"d_model": 1024, "num_heads": 16, "d_ff": 4096}, 213e6, 0.015),
    ],
    ids=["base", "big"],
)
def test_parameter_counts_of_table_3(sizes, stated, within):
    with torch.device("meta"):
        model = Transformer(37000, 37000, tie_weights="all", **sizes)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert math.isclose(count, stated, rel_tol=within)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small_model(d_model=7), "d_model=7 must be divisible by num_heads=2"),
        (lambda: small_model(tie_weights="both"), "tie_weights='both'"),
        (lambda: small_model(tie_weights="all"), "src_vocab_size=19 and tgt_vocab_size=23"),
        (
            lambda: small_model()(torch.tensor([[3, 19]]), torch.tensor([[1]])),
            "from 3 to 19, but the vocabulary has ids 0..18",
        ),
        (lambda: small_model()(torch.tensor([[3]]), torch.tensor([[-1]])), "from -1 to -1"),
        (
            lambda: small_model()(torch.ones(2, 3).long(), torch.ones(1, 3).long()),
            "2 sources, but 1 targets",
        ),
        (lambda: small_model()(torch.ones(0, 3).long(), torch.ones(0, 3).long()), r"\(0, 3\)"),
        (lambda: small_model()(torch.ones(2, 3), torch.ones(2, 3).long()), "float32"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
