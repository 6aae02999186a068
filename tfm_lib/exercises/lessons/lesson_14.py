"""Exercises of lesson 14: decoding."""

from dataclasses import replace
from itertools import product

import torch
from torch import tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors

FIRST = {"the": 0.40, "she": 0.32, "we": 0.28}
SECOND = {
    "the": {"cat": 0.45, "dog": 0.30, "bird": 0.25},
    "she": {"sleeps": 0.70, "runs": 0.30},
    "we": {"go": 1.0},
}


def best_of(width):
    """The likeliest sentence that begins with one of the `width` likeliest words: (chance, it)."""
    kept = sorted(FIRST, key=FIRST.get, reverse=True)[:width]
    return max((FIRST[a] * chance, f"{a} {b}") for a in kept for b, chance in SECOND[a].items())


def searches_by_listing():
    """What the predictions come to, with all six sentences listed."""
    return {
        "greedy writes": best_of(1)[1],
        "a beam of 2 writes": best_of(2)[1],
        "its probability": best_of(2)[0],
        "a beam of 3 writes": best_of(3)[1],
        "alpha 1 prefers": "long" if -2.4 / (13 / 6) > -1.8 / (8 / 6) else "short",
    }


def rounded(step):
    """A probability may be rounded to two digits."""
    return replace(step, tolerance=0.0042) if step.asks == "its probability" else step


SEARCH = Exercise(
    id="14.1",
    title="Three beams on one tree",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        First words: the 0.40, she 0.32, we 0.28. After "the": cat 0.45, dog 0.30, bird 0.25. After
        "she": sleeps 0.70, runs 0.30. After "we": go 1. Two words, then the end. What do greedy
        search and beams of 2 and 3 write? Two digits of the probability are enough. And of two
        finished texts, 3 tokens with log P = -1.8 and 8 tokens with log P = -2.4: does a length
        penalty with alpha 1 prefer the short or the long?
        """,
    stub="""
        searches = {
            "greedy writes": ...,  # two words, as "the dog"
            "a beam of 2 writes": ...,
            "its probability": ...,
            "a beam of 3 writes": ...,
            "alpha 1 prefers": ...,  # "short" or "long"
        }
        """,
    hints=(
        "Greedy never looks back. Which beginnings does a beam of 2 still have after one word?",
        "Chances multiply along a text. The penalty divides log P by ((5 + length) / 6) ** alpha.",
        "0.40 * 0.45, 0.32 * 0.70 and 0.28 * 1; -1.8 / (8 / 6) against -2.4 / (13 / 6)",
    ),
    solution="""
        searches = {
            "greedy writes": "the cat",
            "a beam of 2 writes": "she sleeps",
            "its probability": 0.224,
            "a beam of 3 writes": "we go",
            "alpha 1 prefers": "long",
        }
        """,
    explanation="""
        The third best beginning has the best end, so a beam of 2 never sees it: each width finds
        another sentence. -1.8 / 1.33 is -1.35, and -2.4 / 2.17 is -1.11. Both are negative, so
        dividing by more makes more of it, and the long text is ahead.
        """,
    steps=tuple(map(rounded, parts(searches_by_listing))),
    wrong=(
        Wrong("greedy takes the likeliest first word, whatever follows", "the cat", "we go"),
        Wrong('greedy begins with "the" and cannot go back', "the cat", "she sleeps"),
        Wrong('"we" is third: a beam of 2 has dropped it', "she sleeps", "we go"),
        Wrong("a beam compares whole beginnings: 0.224 is above 0.18", "she sleeps", "the cat"),
        Wrong("that is the last word's chance alone: multiply", "0.224", "0.70"),
        Wrong("chances multiply, and only their logarithms add", "0.224", "1.02"),
        Wrong('that is the chance of "the cat"', "0.224", "0.18"),
        Wrong('that is the chance of "we go": a beam of 2 has dropped it', "0.224", "0.28"),
        Wrong("now nothing is dropped: 0.28 is the best of all", "we go", "she sleeps"),
        Wrong("log P is divided, and both are negative", '"long"', '"short"'),
    ),
)


def listed(probabilities, p):
    """Of all sets whose share reaches p, the smallest; of those, the likeliest."""
    rows = []
    for row in probabilities.tolist():
        shares = {
            mask: sum(x for x, m in zip(row, mask, strict=True) if m)
            for mask in product((False, True), repeat=len(row))
        }
        enough = [mask for mask in shares if shares[mask] >= p]
        rows.append(min(enough, key=lambda mask: (sum(mask), -shares[mask])))
    return tensor(rows)


def ask(asks, p, *rows):
    return Step(asks, {**tensors(probabilities=rows), "p": p}, listed)


TAKEN = "ranked.cumsum(dim=-1) - ranked < p"
BACK = "torch.zeros_like(kept).scatter(1, order, kept)"

TOP_P = Exercise(
    id="14.2",
    title="The smallest set that reaches p",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Top-p sampling draws from the smallest set of tokens that together have probability p **or
        more**. Mark the set, row by row. Each row has its own, in the order of the vocabulary. Of
        equally likely tokens no more are taken than are needed; which of them does not matter.
        """,
    stub='''
        def top_p_set(probabilities, p):
            """probabilities (rows, vocab), 0 < p <= 1 -> boolean (rows, vocab), True = in it."""
            return ...
        ''',
    hints=(
        "Walk from the likeliest down. When do you stop?",
        "A token is in the set if what was taken **before** it is still below p.",
        """
        ranked, order = probabilities.sort(descending)
        kept = (running sum of ranked) - ranked < p
        back into the vocabulary's order: zeros.scatter(1, order, kept)
        """,
    ),
    solution="""
        def top_p_set(probabilities, p):
            ranked, order = probabilities.sort(dim=-1, descending=True)  # (rows, vocab) each
            kept = ranked.cumsum(dim=-1) - ranked < p
            return torch.zeros_like(kept).scatter(1, order, kept)
        """,
    explanation="""
        "Before it" does two things at once: the token that crosses p is kept, and the first token
        always is (nothing was taken before it), so the set is never empty. The number of tokens
        adapts: one where the model is certain, many where it is not.
        """,
    steps=(
        ask("p reached by the first token: one stays", 0.4, [0.5, 0.25, 0.25]),
        ask("exactly p is enough: 0.5 + 0.25", 0.75, [0.5, 0.25, 0.125, 0.125]),
        ask("the likeliest need not stand in front", 0.7, [0.125, 0.0625, 0.5, 0.3125]),
        ask("two rows", 0.8, [0.03, 0.9, 0.02, 0.04, 0.01], [0.3, 0.1, 0.2, 0.15, 0.25]),
        ask("0.5 + 0.295 is not yet 0.8", 0.8, [0.05, 0.5, 0.155, 0.295]),
        Step(
            "equally likely ones: 2 of four quarters reach 0.5",
            {**tensors(probabilities=[[0.25] * 4, [0.125, 0.5, 0.125, 0.25]]), "p": 0.5},
            tensor([2, 1]),
            lambda answer, probabilities, p: answer(probabilities, p).sum(dim=1),
        ),
        Step(
            "p = 1, in float64: all but those that never come",
            {
                "probabilities": tensor([[0.5, 0.875], [0.0, 0.125], [0.5, 0.0]]).double().T,
                "p": 1.0,
            },
            listed,
        ),
    ),
    wrong=(
        Wrong(
            "more than are needed of the equally likely",
            BACK,
            "probabilities >= ranked.masked_fill(~kept, 2).amin(-1)[:, None]",
        ),
        Wrong("the order was applied once more, not undone", BACK, "kept.gather(1, order)"),
        Wrong("each row takes as many as the first", ", kept)", ", kept[:1].expand_as(kept))"),
        Wrong("the token that crosses p is left out", TAKEN, "ranked.cumsum(dim=-1) <= p"),
        Wrong("exactly p is enough: one token too many", "- ranked < p", "- ranked <= p"),
        Wrong("a little less than p is not enough", "- ranked < p", "- ranked < p - 0.02"),
        Wrong("compare what is taken so far, not each token", TAKEN, "ranked >= p"),
        Wrong("walked from the unlikeliest up", "descending=True", "descending=False"),
        Wrong(
            "not sorted: taken as they stand",
            BACK,
            "probabilities.cumsum(dim=-1) - probabilities < p",
        ),
        Wrong("still in sorted order: put them back", BACK, "kept"),
    ),
)


def numbers(length, seed, width):
    """Made-up queries, keys or values (2, 3 heads, length, width)."""
    many = torch.arange(6.0 * length * width) * seed % 5
    return many.view(2, length, 3, width).transpose(1, 2)


def last_rows(query, key, value, cache):
    """Attention over everything, causal, by PyTorch; of it the new positions, and the caches."""
    key, value = torch.cat([cache[0], key], dim=2), torch.cat([cache[1], value], dim=2)
    query = torch.cat([cache[0], query], dim=2)  # queries of old positions: any
    whole = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    return whole[:, :, cache[0].size(2) :], (key, value)


def tokens(old, new):
    """What a step hands in: `new` tokens behind `old` ones in the cache."""
    given = {"query": numbers(new, 2, 4), "key": numbers(new, 3, 4), "value": numbers(new, 4, 3)}
    return {**given, "cache": (numbers(old, 7, 4), numbers(old, 8, 3))}


def far(old, new):
    """The same, but all that is seen scores near -30,000, and the last token 30,000."""
    given = tokens(old, new)
    given["query"][..., 0], given["key"][..., 0], given["cache"][0][..., 0] = 100, -600, -600
    given["key"][:, :, -1, 0] = 600
    return given


CACHE = Exercise(
    id="14.3",
    title="Broken Transformer: with the cache it only sees the first word",
    kind="mend",
    difficulty=3,
    minutes=15,
    task="""
        **Symptom:** without the cache all is well; with it the first token is right, and from the
        second on each output is the first token's value. **Tool:** feed the same text three times:
        all at once, token by token, and in pieces of three. Compare. Mend it so that any number of
        new tokens may come behind any number of old ones.
        """,
    stub='''
        def attend_with_cache(query, key, value, cache):
            """Causal attention of new tokens to all tokens so far.

            query, key, value (batch, heads, new, d_k) of the new tokens; cache: (keys, values) of
            the old ones, (batch, heads, old, d_k) each. Returns the output and the longer cache.
            """
            key = torch.cat([cache[0], key], dim=2)
            value = torch.cat([cache[1], value], dim=2)
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, key, value, is_causal=True), (key, value)
        ''',
    hints=(
        "Draw the mask for one query and five keys. Which corner does is_causal start from?",
        "It starts top left: query 0 sees key 0. New query i stands at position old + i.",
        "allowed = torch.ones(new, old + new, dtype=torch.bool).tril(diagonal=old); attn_mask=it",
    ),
    solution="""
        def attend_with_cache(query, key, value, cache):
            old, new = cache[0].size(2), query.size(2)
            key = torch.cat([cache[0], key], dim=2)  # (batch, heads, old + new, d_k)
            value = torch.cat([cache[1], value], dim=2)
            allowed = torch.ones(new, old + new, dtype=torch.bool).tril(old)
            attend = torch.nn.functional.scaled_dot_product_attention
            return attend(query, key, value, attn_mask=allowed), (key, value)
        """,
    explanation="""
        `is_causal=True` aligns the triangle at the top left; with a cache it belongs at the bottom
        right. One new token needs no mask at all, and `CachedStep` uses none. But several at once,
        as when a prompt is read, must not see each other's future.
        """,
    steps=(
        Step("one token, empty cache: its own value", tokens(0, 1), last_rows),
        Step("three tokens, empty cache: plain causal", tokens(0, 3), last_rows),
        Step("one token behind four: it sees all five", tokens(4, 1), last_rows),
        Step("three tokens behind two", tokens(2, 3), last_rows),
        Step("what is hidden scores 30,000, what is seen -30,000", far(2, 3), last_rows),
    ),
    wrong=(
        Wrong("no mask: new tokens that come together see the future", ", attn_mask=allowed", ""),
        Wrong("causal only when the cache is empty", "attn_mask=allowed", "is_causal=old == 0"),
        Wrong("several tokens still start top left", "attn_mask=allowed", "is_causal=new > 1"),
        Wrong("-10,000 is not minus infinity", "=allowed", "=(~allowed) * -1e4"),
        Wrong("a token must see itself", ".tril(old)", ".tril(old - 1)"),
        Wrong("each new token sees one too far", ".tril(old)", ".tril(old + 1)"),
        Wrong("the triangle still starts top left", ".tril(old)", ".tril()"),
        Wrong("old tokens are hidden", ".tril(old)", ".tril(old)\n    allowed[:, :old] = False"),
        Wrong("the old cache came back: it must grow", "(key, value)", "cache"),
        Wrong("the cache holds values, then keys", "(key, value)", "(value, key)"),
        Wrong("new values stand before the old ones", "[cache[1], value]", "[value, cache[1]]"),
        Wrong("new keys stand before the old ones", "[cache[0], key]", "[key, cache[0]]"),
    ),
)


def extended(tokens, log_probs, logits):
    """All continuations in a list, and the best as many as there were."""
    every = [
        (float(log_probs[row] + logits[row].log_softmax(0)[token]), [*tokens[row].tolist(), token])
        for row, token in product(range(len(tokens)), range(logits.size(1)))
    ]
    best = sorted(every, reverse=True)[: len(tokens)]
    return tensor([ids for _, ids in best]), tensor([total for total, _ in best])


def beam(asks, ids, chances, next_chances, move=1):
    """A step; logits need not be log-probabilities, so each row is moved."""
    moved = tensor(next_chances).log() + move * torch.arange(1.0, len(ids) + 1)[:, None]
    given = {"tokens": tensor(ids), "log_probs": tensor(chances).log(), "logits": moved}
    return Step(asks, given, extended)


LOG = "logits.log_softmax(dim=-1)"
BEAM = Exercise(
    id="14.4",
    title="Broken Transformer: the beams exchange their pasts",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        One step of beam search for one sentence. **Symptom:** the sentences found begin like one
        hypothesis and end like another, and their scores are better than they deserve. **Tool:**
        score the finished tokens anew, from the start, and compare with the search's own score.
        """,
    stub='''
        def extend_beam(tokens, log_probs, logits):
            """Keep the `beam` likeliest continuations, the likeliest first.

            tokens (beam, length); log_probs (beam,) of them so far; logits (beam, vocab) for the
            next token. Returns tokens (beam, length + 1) and log_probs (beam,).
            """
            totals = log_probs[:, None] + logits.log_softmax(dim=-1)  # (beam, vocab)
            best = totals.flatten().topk(len(tokens))
            chosen = best.indices % logits.size(1)
            return torch.cat([tokens, chosen[:, None]], dim=1), best.values
        ''',
    hints=(
        "The winners may all be children of one hypothesis. Whose past does each get here?",
        "In the flattened table, entry i belongs to row i // vocab and token i % vocab.",
        "parents = best.indices // logits.size(1); then tokens[parents] in place of tokens",
    ),
    solution="""
        def extend_beam(tokens, log_probs, logits):
            totals = log_probs[:, None] + logits.log_softmax(dim=-1)  # (beam, vocab)
            best = totals.flatten().topk(len(tokens))
            parents, chosen = best.indices // logits.size(1), best.indices % logits.size(1)
            return torch.cat([tokens[parents], chosen[:, None]], dim=1), best.values
        """,
    explanation="""
        Every winner brings its parent's past along: tokens, and whatever a step remembers for each
        row. That is what `reorder` is for, and a key-value cache that is not reordered has the same
        bug one floor deeper, where nobody can read it.
        """,
    steps=(
        beam(
            "each hypothesis has one child that wins",
            [[1, 4], [1, 5]],
            [0.6, 0.4],
            [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]],
        ),
        beam(
            "both winners are children of the second",
            [[1, 4], [1, 5]],
            [0.001, 0.9],
            [[0.3, 0.35, 0.35], [0.996, 0.0, 0.004]],
        ),
        beam(
            "a beam of three, four tokens",
            [[1, 4], [5, 1], [6, 2]],
            [0.5, 0.3, 0.2],
            [[0.3, 0.25, 0.25, 0.2], [0.1, 0.4, 0.05, 0.45], [0.9, 0.05, 0.02, 0.03]],
        ),
        beam(
            "logits around 1000, 2000 and 3000: all winners are children of the last",
            [[4], [6], [5]],
            [0.1, 0.1, 0.8],
            [[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.1, 0.4, 0.2, 0.3]],
            1000,
        ),
    ),
    wrong=(
        Wrong("divided by the beam, not by the vocabulary", "// logits.size(1)", "// len(tokens)"),
        Wrong("row and token are exchanged", "parents, chosen =", "chosen, parents ="),
        Wrong(
            "exp(1000) is infinite",
            LOG,
            "(logits.exp() / logits.exp().sum(-1, keepdim=True)).log()",
        ),
        Wrong("the parents' scores: add the new tokens'", "best.values", "log_probs[parents]"),
        Wrong("add the parents' scores", "best.values", "best.values - log_probs[parents]"),
        Wrong("the likeliest first", "dim=1), best.values", "dim=1).flip(0), best.values.flip(0)"),
        Wrong("logits are no log-probabilities", LOG, "logits"),
        Wrong("the softmax runs over the vocabulary", "log_softmax(dim=-1)", "log_softmax(dim=0)"),
        Wrong("what came before is forgotten: add log_probs", "log_probs[:, None] + ", ""),
        Wrong("probabilities were added to logarithms", ".log_softmax(", ".softmax("),
        Wrong(
            "one child for each hypothesis: all compete with all",
            "totals.flatten()",
            "totals.where(totals == totals.amax(1, keepdim=True), -torch.inf).flatten()",
        ),
    ),
)
