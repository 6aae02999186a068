"""Exercises of lesson 12: the whole model."""

import math

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
        Wrong("the norms were left out", 'layer": 172', 'layer": 156'),
        Wrong("two norms, one around each sub-layer", 'layer": 172', 'layer": 164'),
        Wrong("more heads are narrower heads: same weights", 'heads": 172', 'heads": 252'),
        Wrong("the cross-attention was left out", "260", "172"),
        Wrong("three sub-layers have three norms", "260", "252"),
        Wrong("tied is one matrix: it counts once", ": 40,", ": 80,"),
    ),
)


IDS = tensor([[1, 3], [4, 1]])


def ends_of(answer):
    """A small model of five tokens, width 4, and its matrix as it starts."""
    ends = answer(5, 4)
    return ends, ends.embedding.weight.detach().clone()


def off_at_start(answer, token_ids):
    """How far the logits are from two products with the one matrix."""
    ends, matrix = ends_of(answer)
    wanted = 2 * matrix[token_ids] @ matrix.T  # sqrt(4) = 2
    return (ends(token_ids) - wanted).abs().max().item()


def off_after_a_step(answer, token_ids):
    """The same after a step of training."""
    ends, _ = ends_of(answer)
    optimizer = torch.optim.SGD(ends.parameters(), lr=0.1)
    ends(token_ids).square().sum().backward()
    optimizer.step()
    matrix = ends.embedding.weight.detach()
    return (ends(token_ids) - 2 * matrix[token_ids] @ matrix.T).abs().max().item()


def numbers_trained(answer):
    """How many numbers an optimiser would get."""
    return numbers_in(ends_of(answer)[0])


def off_gradient(answer, token_ids):
    """How far the embedding's gradient is from the one through both uses."""
    ends, matrix = ends_of(answer)
    matrix.requires_grad_()
    both = (2 * matrix[token_ids] @ matrix.T).square().sum()
    ends(token_ids).square().sum().backward()
    return (ends.embedding.weight.grad - torch.autograd.grad(both, matrix)[0]).abs().max().item()


TIE = Exercise(
    id="12.2",
    title="Broken Transformer: one matrix, and yet two",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        Embedding and generator should be one matrix. **Symptom:** the model is as large as without
        tying, and after the first step of training the two matrices are no longer equal. **Tool:**
        count the parameters, and ask `ends.generator.weight is ends.embedding.weight`.
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
        Step("at the start: both ends use one matrix", {"ids": IDS}, 0.0, off_at_start),
        Step("after a step of training: still", {"ids": IDS}, 0.0, off_after_a_step),
        Step("5 tokens, width 4: 20 numbers are trained", {}, 20, numbers_trained),
        Step("the gradient is the sum of both uses", {"ids": IDS}, 0.0, off_gradient),
    ),
    wrong=(
        Wrong(
            "the two matrices start differently: nothing ties them",
            "\n        self.generator.weight = self.embedding.weight",
            "",
        ),
        Wrong("the embedding is no longer scaled by sqrt(d_model)", " * self.scale", ""),
        Wrong(
            "a copy again: equal at the start, and trained apart",
            "= self.embedding.weight",
            "= nn.Parameter(self.embedding.weight.detach().clone())",
        ),
        Wrong(
            "two parameters on the same numbers: the optimiser gets both",
            "= self.embedding.weight",
            "= nn.Parameter(self.embedding.weight)",
        ),
        Wrong("the generator has a bias of its own", "bias=False)", "bias=True)"),
        Wrong(
            "the generator's use is cut off from the gradient",
            "self.generator(self.embedding(token_ids) * self.scale)",
            "self.embedding(token_ids) * self.scale @ self.embedding.weight.detach().T",
        ),
    ),
)


def make_layers():
    """PyTorch's decoder layer with weights that anyone can make again, and ours with the same."""
    theirs = nn.TransformerDecoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    with torch.no_grad():
        for number, parameter in enumerate(theirs.parameters()):
            waves = torch.arange(parameter.numel()).mul(1.7).add(number).sin()
            parameter.copy_(waves.view_as(parameter))
    return theirs, DecoderLayer.from_torch(theirs)


THEIRS, LAYER = make_layers()
TARGET = torch.arange(16.0).reshape(2, 2, 4) % 5
MEMORY = torch.arange(24.0).reshape(2, 3, 4).square() % 7


def inputs(batch, tgt_len, src_len, mask=None, is_token=None):
    """What a step hands in; is_token: boolean (batch, src_len)."""
    memory_mask = None if is_token is None else is_token[:, None, None]
    x, memory = TARGET[:batch, :tgt_len], MEMORY[:batch, :src_len]
    return {"layer": LAYER, "x": x, "memory": memory, "mask": mask, "memory_mask": memory_mask}


def by_torch(layer, x, memory, mask, memory_mask):
    """PyTorch's layer; its masks say True = ignore."""
    hidden = {} if mask is None else {"tgt_mask": ~mask}
    if memory_mask is not None:
        hidden["memory_key_padding_mask"] = ~memory_mask[:, 0, 0]
    return THEIRS(x, memory, **hidden)


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
        Step("one source word, one target word: its value arrives", inputs(1, 1, 1), by_torch),
        Step("two target words, three of the source, no masks", inputs(1, 2, 3), by_torch),
        Step("a causal mask for the target", inputs(1, 2, 3, causal_mask(2)), by_torch),
        Step(
            "a batch of two; the second source has a pad",
            inputs(2, 2, 3, causal_mask(2), tensor([[True] * 3, [True, True, False]])),
            by_torch,
        ),
    ),
    wrong=(
        Wrong(
            "the source still asks: queries are the target's", "x, memory, memory", "memory, x, x"
        ),
        Wrong("keys and values come from the same place", "x, memory, memory", "x, x, memory"),
        Wrong("keys bring their own mask: the source's", ", memory_mask)[0]", ", mask)[0]"),
        Wrong("the self-attention lost its mask: it sees ahead", "x, x, x, mask", "x, x, x, None"),
        Wrong("the source's padding is no longer masked", ", memory_mask)[0]", ", None)[0]"),
        Wrong(
            "the residual around the cross-attention is gone",
            "around_cross(x, lambda x: layer.cross_attention(x, memory, memory, memory_mask)[0])",
            "layer.cross_attention(x, memory, memory, memory_mask)[0]",
        ),
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


WAVES = tensors(encoding=[[0, 1], [1, 0], [0, -1]])

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
        Step(
            "1 and 7 have the typical size 5; 0 and 1 the root of 1/2",
            {**tensors(weight=[[1, 7]], encoding=[[0, 1]]), "scale": 1},
            balance_by_loop,
        ),
        Step(
            "signs do not cancel",
            {**tensors(weight=[[3, -1], [1, -3]]), **WAVES, "scale": 2},
            balance_by_loop,
        ),
        Step(
            "a large matrix",
            {**tensors(weight=[[5, 6], [9, 2]]), **WAVES, "scale": 4},
            balance_by_loop,
        ),
        Step(
            "a tiny matrix",
            {**tensors(weight=[[0.02, 0.01], [0.03, 0]]), **WAVES, "scale": 1},
            balance_by_loop,
        ),
    ),
    wrong=(
        Wrong(
            "the ratio is turned round: embedding over encoding", "large / small", "small / large"
        ),
        Wrong(
            "the largest entries are not the typical ones", "square().mean().sqrt()", "abs().amax()"
        ),
        Wrong(
            "the mean size is not the root of the mean square",
            "square().mean().sqrt()",
            "abs().mean()",
        ),
        Wrong("no root was taken", ".sqrt()", ""),
        Wrong("the scale was forgotten", "weight * scale", "weight"),
        Wrong(
            "the mean was taken away first: that is the spread, not the size",
            "x.square().mean().sqrt()",
            "x.std(correction=0)",
        ),
        Wrong("a token that is too small drowns, too", "ratio < 0.1", "ratio < 0"),
    ),
)
