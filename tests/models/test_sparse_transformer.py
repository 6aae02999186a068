"""The Sparse Transformer against the paper's formulas, its causality and its patterns."""

import pytest
import torch
from torch.nn import functional as F

from tfm_lib.attention.sparse import (
    column_attention,
    fixed_attention,
    fused_causal_attention,
    recent_attention,
    strided_attention,
)
from tfm_lib.models.sparse_transformer import SparseTransformer

VOCAB, MAX_LEN, STRIDE, SIZES = 11, 23, 5, {"d_model": 12, "num_heads": 3, "num_layers": 4}


def make_model(*attentions, **sizes):
    torch.manual_seed(0)
    return SparseTransformer(
        VOCAB, max_len=MAX_LEN, stride=STRIDE, attentions=attentions, **(SIZES | sizes)
    ).double()


def test_a_block_is_the_papers():
    """Section 5.2: a(H) = attention(norm(H)), b(H) = ff(norm(H + a(H))), H + a(H) + b(H)."""
    model = make_model(fused_causal_attention, num_layers=2)
    token_ids = torch.randint(VOCAB, (2, 17))
    hidden = model.tokens(token_ids) + torch.stack(
        [model.rows.weight[i // STRIDE] + model.columns.weight[i % STRIDE] for i in range(17)]
    )
    for layer in model.stack.layers:
        attend, feed = layer.self_attention, layer.feed_forward
        first, second = (residual.norm for residual in layer.residuals)
        a = attend(*[first(hidden)] * 3, torch.ones(17, 17).tril().bool())[0]
        b = feed.contract(F.gelu(feed.expand(second(hidden + a))))
        hidden = hidden + a + b
    wanted = model.generator(model.stack.norm(hidden))
    torch.testing.assert_close(model(token_ids), wanted, atol=1e-12, rtol=0)
    for got in torch.autograd.grad(model(token_ids).square().sum(), model.parameters()):
        assert got.abs().max() > 0


def test_attentions_interleave():
    first, second = recent_attention(STRIDE), column_attention(STRIDE)
    layers = make_model(first, second).stack.layers
    assert [layer.self_attention.attention for layer in layers] == [first, second, first, second]


@pytest.mark.parametrize(
    "attentions",
    [
        (strided_attention(5),),
        (fixed_attention(5, 2),),
        (recent_attention(5), column_attention(5)),
    ],
)
def test_the_past_reaches_everywhere_and_the_future_nowhere(attentions):
    model = make_model(*attentions)
    vectors = []
    model.tokens.register_forward_hook(lambda module, args, output: vectors.append(output))
    logits = model(torch.randint(VOCAB, (2, MAX_LEN)))
    vectors[0].retain_grad()
    for i in (0, 9, 22):
        (grad,) = torch.autograd.grad(logits[:, i].sum(), vectors[0], retain_graph=True)
        reached = grad.abs().amax(dim=(0, 2)) > 0  # (length,)
        assert reached.tolist() == [j <= i for j in range(MAX_LEN)]


def test_what_writes_into_the_residual_stream_starts_smaller_with_depth():
    shallow, deep = (
        make_model(fused_causal_attention, num_layers=count, d_model=48).stack.layers[0]
        for count in (1, 4)
    )
    for piece in ("self_attention.out_proj", "feed_forward.contract"):
        ratio = deep.get_submodule(piece).weight.std() / shallow.get_submodule(piece).weight.std()
        assert 0.45 < ratio < 0.55
    same = deep.feed_forward.expand.weight.std() / shallow.feed_forward.expand.weight.std()
    assert 0.95 < same < 1.05


def test_errors():
    with pytest.raises(ValueError, match="attentions must hold 1"):
        make_model()
    with pytest.raises(ValueError, match="24 tokens are more than max_len=23"):
        make_model(fused_causal_attention)(torch.zeros(1, 24, dtype=torch.long))
    with pytest.raises(ValueError, match="d_model=12 must be divisible by num_heads=5"):
        make_model(fused_causal_attention, num_heads=5)


def test_what_writes_into_the_stream_starts_smaller_with_depth():
    """Section 5.2: the last layer of each residual block is scaled by 1 / sqrt(2 * num_layers)."""
    torch.manual_seed(0)
    model = SparseTransformer(
        17, max_len=11, stride=3, attentions=[strided_attention(3)], d_model=48, num_layers=8
    )
    ordinary = 48**-0.5 / 3**0.5  # the spread of nn.Linear(48, ...): uniform up to 48**-0.5
    for layer in model.stack.layers:
        found = layer.self_attention.out_proj.weight.std().item()
        assert found == pytest.approx(ordinary / 16**0.5, rel=0.1)
        assert layer.self_attention.out_proj.bias.abs().max() == 0
        assert layer.feed_forward.contract.bias.abs().max() == 0
