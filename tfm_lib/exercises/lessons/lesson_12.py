"""Exercises of lesson 12: the whole model."""

import math
from functools import partial

import torch
from torch import nn, tensor

from tfm_lib.attention import causal_mask
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors
from tfm_lib.layers import DecoderLayer


def numbers_in(*modules):
    """How many trained numbers PyTorch's modules hold."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def counts_by_torch():
    """What the predictions come to, counted on PyTorch's layers."""
    encoder, decoder = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
    layer = encoder(4, 2, 8, batch_first=True)
    return {
        "attention": numbers_in(layer.self_attn),
        "feed-forward": numbers_in(layer.linear1, layer.linear2),
        "encoder layer": numbers_in(layer),
        "encoder layer with 4 heads": numbers_in(encoder(4, 4, 8, batch_first=True)),
        "decoder layer": numbers_in(decoder(4, 2, 8)),
        "target embedding and generator, tied": numbers_in(nn.Embedding(10, 4)),
    }


COUNT = Exercise(
    id="12.1",
    title="Count the weights",
    kind="predict",
    difficulty=1,
    minutes=10,
    task="""
        Width 4, 2 heads, feed-forward 8, a target vocabulary of 10. Every linear map has a bias,
        only the generator has none. How many numbers are trained in each part? (A decoder layer has
        two attentions and three norms.)
        """,
    stub="""
        counts = {
            "attention": ...,
            "feed-forward": ...,
            "encoder layer": ...,
            "encoder layer with 4 heads": ...,
            "decoder layer": ...,
            "target embedding and generator, tied": ...,
        }
        """,
    hints=(
        "Start with one linear map: how many numbers has its matrix, how many its bias?",
        "Attention: four maps 4 x 4. Feed-forward: 4 x 8 and 8 x 4. A norm: weight and bias.",
        "4 * (16 + 4); (32 + 8) + (32 + 4); their sum + 2 * 8; a tied matrix counts once",
    ),
    solution="""
        counts = {
            "attention": 80,
            "feed-forward": 76,
            "encoder layer": 172,
            "encoder layer with 4 heads": 172,
            "decoder layer": 260,
            "target embedding and generator, tied": 40,
        }
        """,
    explanation="""
        172 = 80 + 76 + 2 * 8, and 260 = 2 * 80 + 76 + 3 * 8. Heads cut the same matrices into other
        pieces and cost nothing. Real models have a feed-forward four times as wide as the model;
        there it holds two thirds of a layer. Here, with twice the width, it holds less than half.
        """,
    steps=parts(counts_by_torch),
    wrong=(
        Wrong("each of the four maps has a bias of 4", '"attention": 80', '"attention": 64'),
        Wrong("the output map was left out: q, k, v, out", '"attention": 80', '"attention": 60'),
        Wrong("two maps, there and back", '"feed-forward": 76', '"feed-forward": 40'),
        Wrong("both maps have a bias, of 8 and of 4", '"feed-forward": 76', '"feed-forward": 64'),
        Wrong("the norms were left out", 'layer": 172', 'layer": 156'),
        Wrong("two norms, one around each sub-layer", 'layer": 172', 'layer": 164'),
        Wrong("more heads are narrower heads: same weights", 'heads": 172', 'heads": 252'),
        Wrong("the cross-attention was left out", "260", "172"),
        Wrong("three sub-layers have three norms", "260", "252"),
        Wrong("tied is one matrix: it counts once", ": 40,", ": 80,"),
        Wrong("the generator has no bias", ": 40,", ": 50,"),
    ),
)


def shared(ends):
    """The first matrix of a small model of 5 tokens, whatever its name and way round."""
    matrix = next(p for p in ends.parameters() if p.dim() == 2)
    return matrix if len(matrix) == 5 else matrix.T


def off_at_start(answer, token_ids, ends=None):
    """How far the logits are from two products with the one matrix."""
    ends = ends or answer(5, 9)
    matrix = shared(ends)
    wanted = matrix.size(1) ** 0.5 * matrix[token_ids] @ matrix.T
    return (ends(token_ids) - wanted).abs().max().item()


def off_after_a_step(answer, token_ids):
    """The same after a step of training."""
    ends = answer(5, 4)
    optimizer = torch.optim.SGD(ends.parameters(), lr=0.1)
    ends(token_ids).square().sum().backward()
    optimizer.step()
    return off_at_start(answer, token_ids, ends)


def off_gradient(answer, token_ids):
    """How far the matrix's gradient is from the one through both uses."""
    ends = answer(5, 4)
    parameter, matrix = next(ends.parameters()), shared(ends)
    both = (2 * matrix[token_ids] @ matrix.T).square().mean()
    wanted = torch.autograd.grad(both, parameter)[0]
    got = torch.autograd.grad(ends(token_ids).square().mean(), parameter)[0]
    return (got - wanted).abs().max().item()


IDS = {"ids": tensor([[1, 3, 1], [4, 1, 0]])}

TIE = Exercise(
    id="12.2",
    title="Broken Transformer: one matrix, and yet two",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        Embedding and generator should be one matrix. **Symptom:** the model is as large as without
        tying, and after the first step of training the two matrices are no longer equal. **Tool:**
        count the parameters, and ask `ends.generator.weight is ends.embedding.weight`. Names inside
        are free.
        """,
    stub='''
        class TiedEnds(nn.Module):
            """Token ids (batch, length) -> logits (batch, length, vocab_size), nothing between."""

            def __init__(self, vocab_size, d_model):
                super().__init__()
                self.scale = d_model**0.5
                self.embedding = nn.Embedding(vocab_size, d_model)
                self.generator = nn.Linear(d_model, vocab_size, bias=False)
                self.generator.weight.data.copy_(self.embedding.weight.data)

            def forward(self, token_ids):
                return self.generator(self.embedding(token_ids) * self.scale)
        ''',
    hints=(
        "Equal numbers are not the same object. Which does an optimiser see?",
        "The two modules must hold one nn.Parameter: assign it, do not copy its numbers.",
        "self.generator.weight = (the embedding's weight itself)",
    ),
    solution="""
        class TiedEnds(nn.Module):
            def __init__(self, vocab_size, d_model):
                super().__init__()
                self.scale = d_model**0.5
                self.embedding = nn.Embedding(vocab_size, d_model)
                self.generator = nn.Linear(d_model, vocab_size, bias=False)
                self.generator.weight = self.embedding.weight

            def forward(self, token_ids):
                return self.generator(self.embedding(token_ids) * self.scale)
        """,
    explanation="""
        `parameters()` lists each object once, so the tied matrix is counted and updated once, and
        its gradient is the sum of both uses. `nn.Parameter(weight)` shares the numbers, but is a
        second object: an optimiser with a memory, such as Adam, would then move it twice a step.
        """,
    steps=(
        Step("at the start: both ends use one matrix", IDS, 0.0, off_at_start),
        Step("after a step of training: still", IDS, 0.0, off_after_a_step),
        Step("5 x 4 numbers are trained", {}, 20, lambda answer: numbers_in(answer(5, 4))),
        Step("the gradient is the sum of both uses", IDS, 0.0, off_gradient),
    ),
    wrong=(
        Wrong("nothing ties the two matrices", "self.generator.weight", "weight"),
        Wrong("the embedding is no longer scaled by sqrt(d_model)", " * self.scale", ""),
        Wrong("scaled by d_model, not by its root", "d_model**0.5", "d_model"),
        Wrong("the root of the width is not always 2", "d_model**0.5", "2"),
        Wrong("divided by the scale: it makes the embedding larger", " * self.sc", " / self.sc"),
        Wrong("the embedding's use is cut off", "(token_ids) *", "(token_ids).detach() *"),
        Wrong(
            "a copy again: equal at the start, and trained apart",
            "= self.embedding.weight",
            "= nn.Parameter(self.embedding.weight.detach().clone())",
        ),
        Wrong("two parameters on the same numbers", "r.weight = self", "r.weight.data = self"),
        Wrong("the generator has a bias of its own", "bias=False)", "bias=True)"),
        Wrong(
            "the generator's use is cut off",
            "self.generator(self.embedding(token_ids) * self.scale)",
            "self.embedding(token_ids) * self.scale @ self.embedding.weight.detach().T",
        ),
    ),
)


def make_layer(norm_first):
    """PyTorch's decoder layer with weights that anyone can make again."""
    layer = nn.TransformerDecoderLayer(4, 2, 6, 0.0, batch_first=True, norm_first=norm_first)
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            waves = torch.arange(parameter.numel()).mul(1.7).add(number).sin()
            parameter.copy_(waves.view_as(parameter))
    return layer


THEIRS = {norm_first: make_layer(norm_first) for norm_first in (False, True)}
OURS = {norm_first: DecoderLayer.from_torch(layer) for norm_first, layer in THEIRS.items()}
TARGET = torch.arange(24.0).reshape(2, 3, 4) % 5
MEMORY = torch.arange(40.0).reshape(2, 5, 4).square() % 7
PADS = tensor([[0, 1, 1, 1, 1], [1, 1, 0, 1, 0]]).bool()[:, None, None]


def inputs(batch, tgt_len, src_len, mask=None, memory_mask=None, norm_first=False):
    """What a step hands in."""
    x, memory = TARGET[:batch, :tgt_len], MEMORY[:batch, :src_len]
    masks = {"mask": mask, "memory_mask": memory_mask}
    return {"layer": OURS[norm_first], "x": x, "memory": memory, **masks}


def by_torch(layer, x, memory, mask, memory_mask):
    """PyTorch's layer; its masks say True = ignore."""
    hidden = {} if mask is None else {"tgt_mask": ~mask}
    if memory_mask is not None:
        hidden["memory_key_padding_mask"] = ~memory_mask[:, 0, 0]
    return THEIRS[layer.residuals[0].norm_first](x, memory, **hidden)


def slope(answer, layer, x, memory, *masks):
    """The gradients of the first column at x and memory; zeros where they are cut off."""
    total = answer(layer, x.requires_grad_(), memory.requires_grad_(), *masks)[..., 0].sum()
    return list(torch.autograd.grad(total + 0 * (x.sum() + memory.sum()), [x, memory]))


WHOLE = inputs(2, 3, 5, causal_mask(3), PADS)

CROSS = Exercise(
    id="12.3",
    title="Broken Transformer: a decoder as long as the source",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        The three sub-layers of a decoder layer, with the parts of lesson 11's `DecoderLayer`. In a
        test with source and target of equal length all seemed well. **Symptom:** with other lengths
        it crashes; with equal ones the loss stays high. **Tool:** sizes that all differ; and a hook
        on `layer.cross_attention` that prints the shapes of query, key and value.
        """,
    stub='''
        def decoder_step(layer, x, memory, mask, memory_mask):
            """x (batch, tgt_len, d_model), memory (batch, src_len, d_model) -> the shape of x.

            mask: for the target, memory_mask: for the source; boolean, True = may attend, or None.
            """
            around_self, around_cross, around_feed_forward = layer.residuals
            x = around_self(x, lambda x: layer.self_attention(x, x, x, mask)[0])
            x = around_cross(x, lambda x: layer.cross_attention(memory, x, x, mask)[0])
            return around_feed_forward(x, layer.feed_forward)
        ''',
    hints=(
        "Who asks in cross-attention, and who is looked at?",
        "One output for each query: queries from the target. Keys, values, mask: the source's.",
        "layer.cross_attention(x, memory, memory, and the mask that belongs to memory)",
    ),
    solution="""
        def decoder_step(layer, x, memory, mask, memory_mask):
            around_self, around_cross, around_feed_forward = layer.residuals
            x = around_self(x, lambda x: layer.self_attention(x, x, x, mask)[0])
            x = around_cross(x, lambda x: layer.cross_attention(x, memory, memory, memory_mask)[0])
            return around_feed_forward(x, layer.feed_forward)
        """,
    explanation="""
        Attention's output is as long as its queries, so they must be the target's. The mask goes
        with the keys: the source's padding, and no causal mask, since the whole source is known.
        With lengths that differ, most mix-ups crash at once.
        """,
    steps=(
        Step("one source word, one target word", inputs(1, 1, 1), by_torch),
        Step("two target words, three of the source, no masks", inputs(1, 2, 3), by_torch),
        Step("a causal mask for the target", inputs(1, 2, 3, causal_mask(2)), by_torch),
        Step("two sentences whose sources have pads", WHOLE, by_torch),
        Step("pre-norm", inputs(2, 3, 5, causal_mask(3), PADS, True), by_torch),
        Step("a gradient reaches x and the encoder", WHOLE, partial(slope, by_torch), slope),
    ),
    wrong=(
        Wrong("queries come from the target", "x, memory, memory", "memory, x, x"),
        Wrong("keys and values come from the same place", "x, memory, memory", "x, x, memory"),
        Wrong("keys bring their own mask: the source's", ", memory_mask)[0]", ", mask)[0]"),
        Wrong("the self-attention lost its mask: it sees ahead", "x, x, x, mask", "x, x, x, None"),
        Wrong("the source's padding is no longer masked", ", memory_mask)[0]", ", None)[0]"),
        Wrong(
            "the residual around the cross-attention is gone",
            "around_cross(x, lambda x: layer.cross_attention(x, memory, memory, memory_mask)[0])",
            "layer.cross_attention(x, memory, memory, memory_mask)[0]",
        ),
        Wrong(
            "cross-attention reads the outer x, not the normed one",
            "s(x, lambda x",
            "s(x, lambda _",
        ),
        Wrong("self-attention reads the outer x", "f(x, lambda x", "f(x, lambda _, x=x"),
        Wrong("the feed-forward network is gone", ", layer.feed_forward", ", torch.zeros_like"),
        Wrong(
            "each residual has its own norm",
            "around_self, around_cross,",
            "around_cross, around_self,",
        ),
        Wrong("the queries are cut off", "x, memory, mem", "x.detach(), memory, mem"),
        Wrong("the encoder is cut off", "memory, memory,", "*[memory.detach()] * 2,"),
    ),
)


def balance_by_loop(weight, encoding, scale):
    """The two sizes in plain numbers, entry by entry."""

    def typical(rows):
        squares = [float(number) ** 2 for row in rows for number in row]
        return math.sqrt(sum(squares) / len(squares))

    ratio = scale * typical(weight) / typical(encoding)
    verdict = "the token drowns" if ratio < 0.1 else "both are heard"
    return {"ratio": ratio, "verdict": "the position drowns" if ratio > 10 else verdict}


def ask(weight, encoding, scale):
    """What a step of the test hands in."""
    return {**tensors(weight=weight, encoding=encoding), "scale": scale}


WAVES = [[0, 1], [1, 0], [0, -1]]

BALANCE = Exercise(
    id="12.4",
    title="Judge: token and position are both heard",
    kind="judge",
    difficulty=2,
    minutes=10,
    task="""
        Write the test that the lesson makes of an embedding: its typical entry (root of the mean
        square) after scaling, divided by the encoding's. The verdict: "the position drowns" if that
        is above 10, "the token drowns" if it is below 0.1, else "both are heard".
        """,
    stub='''
        def judge_balance(weight, encoding, scale):
            """weight (vocab, d_model), encoding (length, d_model); scale: multiplies weight.

            Returns {"ratio": a number, "verdict": one of the three}.
            """
            return {"ratio": ..., "verdict": ...}
        ''',
    hints=(
        "Signs must not cancel: what is the mean of sines and cosines?",
        "typical(x) = root of the mean of x squared; divide that of weight * scale by the other",
        "x.square().mean().sqrt().item() for both, then two comparisons",
    ),
    solution="""
        def judge_balance(weight, encoding, scale):
            large, small = (x.square().mean().sqrt().item() for x in (weight * scale, encoding))
            ratio = large / small
            if ratio > 10:
                return {"ratio": ratio, "verdict": "the position drowns"}
            verdict = "the token drowns" if ratio < 0.1 else "both are heard"
            return {"ratio": ratio, "verdict": verdict}
        """,
    explanation="""
        The encoding's typical entry is about 0.7 at any width, the embedding's depends on how it
        starts and on the scale. With PyTorch's standard deviation of 1 the scale sqrt(512) makes 32
        to 1. Right are small starts with the scale, or starts of 1 without it.
        """,
    steps=(
        Step("1 and 7 have size 5; 0 and 1 root 1/2", ask([[1, 7]], [[0, 1]], 1), balance_by_loop),
        Step("signs do not cancel", ask([[3, -1], [1, -3]], WAVES, 2), balance_by_loop),
        Step("a large matrix", ask([[5, 6], [9, 2]], WAVES, 1.25), balance_by_loop),
        Step("exactly 10", ask([[2, -2], [2, 2], [-2, 2]], [[1, -1]], 5), balance_by_loop),
        Step("a tiny matrix", ask([[0.06, 0.05], [0.08, 0]], WAVES, 1), balance_by_loop),
    ),
    wrong=(
        Wrong("it is embedding over encoding", "large / small", "small / large"),
        Wrong("the largest entries are not typical", "square().mean().sqrt()", "abs().amax()"),
        Wrong("the mean size is another mean", "square().mean().sqrt()", "abs().mean()"),
        Wrong("no root was taken", ".sqrt()", ""),
        Wrong("a longer table is not a larger one: take the mean", "mean().sqrt", "sum().sqrt"),
        Wrong("exactly 10 is not above 10", "> 10", ">= 10"),
        Wrong("the scale was put under the root", "weight * scale", "weight * scale**0.5"),
        Wrong("the scale was forgotten", "weight * scale", "weight"),
        Wrong(
            "that is the spread, not the size", "x.square().mean().sqrt()", "x.std(correction=0)"
        ),
        Wrong("a token that is too small drowns, too", "ratio < 0.1", "ratio < 0"),
    ),
)
