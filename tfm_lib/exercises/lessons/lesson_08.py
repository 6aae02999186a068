"""Exercises of lesson 08: multi-head attention."""

from functools import partial

import torch
from torch import nn, tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def columns_by_torch():
    """What the four predictions come to, from PyTorch's layer."""
    layer = nn.MultiheadAttention(12, 3, batch_first=True)
    query, key = torch.ones(2, 5, 12), torch.ones(2, 7, 12)
    weights = layer(query, key, key, average_attn_weights=False)[1]
    six_heads = nn.MultiheadAttention(12, 6)
    return {
        "width of a head": layer.head_dim,
        "first column of head 2": list(torch.arange(12).chunk(3))[2][0].item(),
        "shape of the weights": tuple(weights.shape),
        "parameters with 6 heads": sum(p.numel() for p in six_heads.parameters()),
    }


def one_head_at_a_time(heads, w_o):
    """Brute force: set all heads but one to zero, join, and multiply by the whole matrix."""
    shares = []
    for number in range(heads.size(1)):
        alone = torch.zeros_like(heads)
        alone[:, number] = heads[:, number]
        shares.append(torch.cat(list(alone.unbind(dim=1)), dim=-1) @ w_o)
    return torch.stack(shares, dim=1)


def heads_by_loop(x, num_heads, mask):
    """Self-attention of raw vectors, a head for each piece of the width."""
    pieces = x.chunk(num_heads, dim=-1)
    done = [F.scaled_dot_product_attention(*[p[:, None]] * 3, attn_mask=mask) for p in pieces]
    return torch.cat(done, dim=-1)[:, 0]


def slopes(answer, *given):
    """The gradients of the first column at all tensors of floats; zeros where they are cut off."""
    floats = [x.requires_grad_() for x in given if getattr(x, "dtype", 0) == torch.float32]
    total = answer(*given)[..., 0].sum() + sum(0 * x.sum() for x in floats)
    return list(torch.autograd.grad(total, floats))


def ask(x, num_heads, mask):
    """What a step of the lab hands in."""
    return {"x": x, "num_heads": num_heads, "mask": mask}


def change_at_position_0(answer, x, num_heads, mask):
    """How far the output at position 0 moves if position 1 changes."""
    changed = x.clone()
    changed[:, 1] += 5
    before, after = (answer(z, num_heads, mask) for z in (x, changed))
    return float((after - before)[:, 0].abs().max())


def shared_by_loop(query, key, value):
    """Each query head with the key head of its group, one after the other."""
    group = query.size(1) // key.size(1)
    return torch.stack(
        [
            F.scaled_dot_product_attention(query[:, h], key[:, h // group], value[:, h // group])
            for h in range(query.size(1))
        ],
        dim=1,
    )


CAUSAL = torch.ones(3, 3, dtype=torch.bool).tril()
STEPS = torch.arange(1.0, 13.0).reshape(1, 3, 4) % 5  # (batch, length, width)
TWO = torch.arange(60.0).reshape(2, 5, 6).square() % 7 - 2
PADS = tensor([[0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]).bool()[:, None, None]  # left, between, right

HEADS = STEPS.reshape(1, 2, 3, 2)
TERMS = {"heads": HEADS, "w_o": torch.arange(20.0).reshape(4, 5) % 7}
MANY = torch.arange(120.0, dtype=torch.float64).square().view(2, 3, 5, 4).mT
ASKED = torch.arange(60.0, dtype=torch.float64).view(2, 6, 1, 5) % 4
SIX = {"query": torch.arange(24.0).reshape(1, 6, 2, 2) % 5, "key": HEADS, "value": HEADS**2}
FLAT = (torch.arange(24.0).reshape(4, 2, 3) ** 2 % 5 - 2).double().permute(2, 1, 0)[:, :, None]

COLUMNS = Exercise(
    id="08.1",
    title="Whose columns are they?",
    kind="predict",
    difficulty=1,
    minutes=5,
    task="""
        A layer of width 12 with biases and 3 heads: 0, 1, 2. The query is (2, 5, 12), the key
        (2, 7, 12). And how many parameters has the layer if it is built with **6** heads?
        """,
    stub="""
        columns = {
            "width of a head": ...,
            "first column of head 2": ...,
            "shape of the weights": ...,
            "parameters with 6 heads": ...,
        }
        """,
    hints=(
        "Heads share the width; each keeps weights of its own. What does the number of heads cost?",
        "d_k = d_model / h. Head i has columns i d_k to (i + 1) d_k - 1. Four linear layers.",
        "12 / 3; 2 * 4; (batch, heads, query_len, key_len); 4 * (12 * 12 + 12)",
    ),
    solution="""
        columns = {
            "width of a head": 4,
            "first column of head 2": 8,
            "shape of the weights": (2, 3, 5, 7),
            "parameters with 6 heads": 624,
        }
        """,
    explanation="""
        Each head owns 12 / 3 = 4 columns, head 2 those from 8 to 11. Every head has a map of 5
        queries by 7 keys in each example. The four layers are 12 by 12 with 12 biases, whatever the
        number of heads: 4 * 156 = 624.
        """,
    steps=parts(columns_by_torch),
    wrong=(
        Wrong("that is the number of heads, not their width", ": 4,", ": 3,"),
        Wrong("the heads share the width", ": 4,", ": 12,"),
        Wrong("heads count from 0: head 2 is the third", ": 8,", ": 4,"),
        Wrong("columns count from 0, too", ": 8,", ": 9,"),
        Wrong("PyTorch averages the heads by default; here they stay", "(2, 3, 5, 7)", "(2, 5, 7)"),
        Wrong("queries before keys: (..., query_len, key_len)", "(2, 3, 5, 7)", "(2, 3, 7, 5)"),
        Wrong("the query looks at the key's 7 positions", "(2, 3, 5, 7)", "(2, 3, 5, 5)"),
        Wrong("each of the four layers has 12 biases", "624", "576"),
        Wrong("four layers: query, key, value and the last", "624", "468"),
        Wrong("more heads do not mean more parameters: they share the width", "624", "1248"),
    ),
)

SHARES = Exercise(
    id="08.2",
    title="What each head says",
    kind="write",
    difficulty=2,
    minutes=15,
    task="""
        The last matrix, $W_o$, is applied to the joined heads. It is linear, so the output is a
        **sum** with one term for each head. Return these terms. They show what a head would take
        away if it were removed.
        """,
    stub='''
        def contributions(heads, w_o):
            """What each head adds to the output.

            heads (batch, num_heads, length, d_k); w_o (num_heads * d_k, d_model), so that
            joined @ w_o is the output. Returns (batch, num_heads, length, d_model).
            """
            return ...
        ''',
    hints=(
        "In the joined vector head i stands in columns i d_k onwards. Which rows of w_o meet them?",
        "term_i = heads[:, i] @ w_o[i d_k : (i + 1) d_k]",
        "w_o cut into (num_heads, d_k, d_model); then heads @ that: `@` pairs the heads",
    ),
    solution="""
        def contributions(heads, w_o):
            blocks = w_o.unflatten(0, (heads.size(1), -1))  # (num_heads, d_k, d_model)
            return heads @ blocks
        """,
    explanation="""
        A product with a joined vector is a sum over its columns, and each head owns a block of
        them. So W_o is a stack of num_heads small matrices, W_i^O, one below the other, and "join,
        then multiply" is the same as "multiply each, then add". Papers that study single heads
        start here.
        """,
    steps=(
        Step("one head", tensors(heads=[[[[1, 2]]]], w_o=[[1, 0, 2], [0, 1, 1]]), torch.matmul),
        Step(
            "two heads of width 1",
            tensors(heads=[[[[1]], [[10]]]], w_o=[[1, 2], [3, 4]]),
            torch.tensor([[[[1.0, 2.0]], [[30.0, 40.0]]]]),
        ),
        Step("two heads of width 2, three positions", TERMS, one_head_at_a_time),
        Step(
            "three sentences, two heads of width 4; float64, memory not contiguous",
            {"heads": FLAT, "w_o": (torch.arange(40.0).reshape(5, 8) ** 2 % 7).double().T},
            one_head_at_a_time,
        ),
        Step(
            "the terms add up to the output",
            TERMS,
            lambda heads, w_o: heads.transpose(1, 2).flatten(2) @ w_o,
            lambda answer, heads, w_o: answer(heads, w_o).sum(dim=1),
        ),
    ),
    wrong=(
        Wrong("all heads were multiplied by the first block", "@ blocks", "@ blocks[0]"),
        Wrong("the terms were added up", "heads @ blocks", "(heads @ blocks).sum(dim=1)"),
        Wrong(
            "w_o was cut in turns: head i owns neighbouring rows",
            "w_o.unflatten(0, (heads.size(1), -1))",
            "w_o.unflatten(0, (-1, heads.size(1))).transpose(0, 1)",
        ),
        Wrong("the blocks are in reverse order", "@ blocks", "@ blocks.flip(0)"),
        Wrong("the sum was divided among the heads", "@ blocks", "@ blocks / heads.size(1)"),
        Wrong("each head has a block of its own, not the mean", "@ blocks", "@ blocks.mean(0)"),
        Wrong(
            "that is the output without the head; its term is what it takes away",
            "return heads @ blocks",
            "return (heads @ blocks).sum(dim=1, keepdim=True) - heads @ blocks",
        ),
        Wrong("a head was added to those before it", "@ blocks", "@ blocks.cumsum(dim=0)"),
        Wrong("only the first sentence was read", "heads @ blocks", "heads[:1] @ blocks"),
        Wrong("float64 came in and float32 went out", "heads @ blocks", "(heads @ blocks).float()"),
    ),
)

JOIN = Exercise(
    id="08.3",
    title="Broken Transformer: the future leaks through the join",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        Three lines of heads, without projections. The mask is causal and it is applied, and yet the
        first word knows the second. **Symptom:** the training loss is too good, and writing word by
        word gives rubbish. **Tool:** change position 1 of `x` and look whether the output at
        position 0 moves; then print the shape after each line and say which axis is which.
        """,
    stub='''
        def heads_attend(x, num_heads, mask):
            """Self-attention in heads: x (batch, length, d_model) -> the same shape.

            mask: True = may attend; broadcastable to (batch, num_heads, length, length).
            """
            heads = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
            done = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
            return done.reshape(x.shape)
        ''',
    hints=(
        "The shape that comes out is right. A reshape reads its numbers in order: in which order?",
        "`done` is (batch, num_heads, length, d_k). Joined is (batch, length, num_heads * d_k).",
        "swap heads and length back first; then make one dimension of the last two",
    ),
    solution="""
        def heads_attend(x, num_heads, mask):
            heads = x.unflatten(-1, (num_heads, -1)).transpose(1, 2)
            done = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
            return done.transpose(1, 2).flatten(2)
        """,
    explanation="""
        Without the transpose, the first row of the output is filled with head 0 at positions 0, 1,
        ..., so later positions land in row 0. The mask was right; the leak is behind it. That is
        why one tests causality on outputs, and not only by looking at the weights.
        """,
    steps=(
        Step("one head: nothing to join", ask(STEPS, 1, CAUSAL), heads_by_loop),
        Step(
            "position 1 does not reach position 0", ask(STEPS, 2, CAUSAL), 0.0, change_at_position_0
        ),
        Step("two heads", ask(STEPS, 2, CAUSAL), heads_by_loop),
        Step("two sentences with pads, three heads", ask(TWO, 3, PADS), heads_by_loop),
        Step(
            "a hidden key takes no share, however large its score",
            ask(tensor([[[200.0], [-200]]]), 1, ~torch.eye(2, dtype=torch.bool)),
            heads_by_loop,
        ),
        Step("a gradient reaches x", ask(STEPS, 2, CAUSAL), partial(slopes, heads_by_loop), slopes),
    ),
    wrong=(
        Wrong(
            "a head's columns stand together", "done.transpose(1, 2)", "done.permute(0, 2, 3, 1)"
        ),
        Wrong(
            "both without the transpose: a head gets some positions whole",
            """
            def heads_attend(x, num_heads, mask):
                heads = x.reshape(x.size(0), num_heads, x.size(1), -1)
                done = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)
                return done.reshape(x.shape)
            """,
        ),
        Wrong(
            "the heads were averaged, not joined",
            "done.transpose(1, 2).flatten(2)",
            "done.mean(dim=1).repeat(1, 1, num_heads)",
        ),
        Wrong("the mask was left out", ", attn_mask=mask", ""),
        Wrong("a head is scaled by its own width", "=mask", "=mask, scale=x.size(-1) ** -0.5"),
        Wrong(
            "a finite stand-in for minus infinity: scores can be lower",
            "F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)",
            "(heads @ heads.mT / heads.size(-1) ** 0.5)"
            ".masked_fill(~mask, -1e4).softmax(-1) @ heads",
        ),
        Wrong("the output is cut off from the gradient", "flatten(2)", "flatten(2).detach()"),
        Wrong("always causal: the mask says who sees whom", "attn_mask=mask", "is_causal=True"),
        Wrong("always two heads: num_heads says how many", "(num_heads, -1)", "(2, -1)"),
        Wrong("the heads come in reverse order", "done.tr", "done.flip(1).tr"),
    ),
)

GROUPS = Exercise(
    id="08.4",
    title="Fewer keys than queries",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        Many models of today save memory by **sharing** keys and values: 4 query heads, but only 2
        heads of keys and values. Query heads 0 and 1 use key head 0, query heads 2 and 3 key head 1
        (Ainslie et al. 2023, "grouped-query attention"). Return the output of all query heads.
        """,
    stub='''
        def grouped_attention(query, key, value):
            """Attention in which neighbouring query heads share a head of keys and values.

            query (batch, num_heads, query_len, d_k); key, value (batch, num_groups, key_len, d_k),
            num_heads a multiple of num_groups. Returns the shape of query.
            """
            return ...
        ''',
    hints=(
        "If each key head stood there as often as it is used, ordinary attention would do.",
        "Query head h uses key head h // (num_heads / num_groups).",
        "key.repeat_interleave(how often, along the heads), value too; then PyTorch's attention",
    ),
    solution="""
        def grouped_attention(query, key, value):
            times = query.size(1) // key.size(1)
            key = key.repeat_interleave(times, 1)  # (batch, num_heads, key_len, d_k)
            value = value.repeat_interleave(times, 1)
            return F.scaled_dot_product_attention(query, key, value)
        """,
    explanation="""
        `repeat_interleave` gives 0, 0, 1, 1; `repeat` would give 0, 1, 0, 1. Both have the right
        shape. What is saved is not work but memory: the cache of lesson 14 holds keys and values of
        2 heads in place of 4. With one group it is called multi-query attention.
        """,
    steps=(
        Step(
            "as many groups as heads: ordinary attention",
            {"query": HEADS, "key": HEADS, "value": HEADS},
            F.scaled_dot_product_attention,
        ),
        Step(
            "four heads, two groups of two keys",
            tensors(
                query=[[[[1]]] * 4],
                key=[[[[2], [0]], [[0], [2]]]],
                value=[[[[5], [6]], [[7], [9]]]],
            ),
            shared_by_loop,
        ),
        Step("six heads, two groups, two queries, three keys", SIX, shared_by_loop),
        Step("a gradient reaches all three", SIX, partial(slopes, shared_by_loop), slopes),
        Step(
            "two sentences, three groups, four keys; float64, memory not contiguous",
            {"query": ASKED, "key": MANY % 7, "value": MANY**2 % 9},
            shared_by_loop,
        ),
    ),
    wrong=(
        Wrong(
            "groups in turns, 0 1 0 1: neighbours share a group, 0 0 1 1",
            "return F",
            "key, value = (x[:, ::times].tile(times, 1, 1) for x in (key, value))\n    return F",
        ),
        Wrong(
            "keys and values belong together",
            "value.repeat_interleave(times, 1)",
            "value.repeat(1, times, 1, 1)",
        ),
        Wrong("all query heads use key head 0", "key.repeat_interleave(times, 1)", "key[:, :1]"),
        Wrong(
            "the query heads of a group were averaged: each keeps its own question",
            "query.size(1) // key.size(1)",
            "1\n    query = query.unflatten(1, (key.size(1), -1)).mean(dim=2)",
        ),
        Wrong(
            "all query heads use value head 0", "value.repeat_interleave(times, 1)", "value[:, :1]"
        ),
        Wrong(
            "the queries are cut off from the gradient",
            "return F",
            "query = query.detach()\n    return F",
        ),
        Wrong("how many heads share is not always 2", "query.size(1) // key.size(1)", "2"),
        Wrong(
            "every query head looks at the keys of all groups: it has one group",
            "return F",
            "key, value = (x.flatten(1, 2)[:, None] for x in (key, value))\n    return F",
        ),
        Wrong(
            "the scores were not divided by sqrt(d_k)",
            "t_attention(query, key, value",
            "t_attention(query, key, value, scale=1.0",
        ),
        Wrong("all sentences look at the first one", "key.repeat_int", "key[:1].repeat_int"),
    ),
)
