"""Exercises of lesson 09: masking."""

from functools import partial
from math import inf, nan

import torch
from torch import tensor

from tfm_lib.attention import causal_mask, padding_mask, window_mask
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors

SOURCE = tensor([[7, 4, 8, 2], [9, 2, 0, 0]])
TARGET = tensor([[1, 5, 0, 0], [1, 5, 6, 2]])


def counts_by_masks():
    """What the predictions come to, counted on the lesson's masks."""
    ids = tensor([[1, 5, 2, 0, 0]])
    both = causal_mask(5) & padding_mask(ids, 0)
    hidden = tensor([3.0, 3.0, -torch.inf]).softmax(dim=-1)
    return {
        "pairs allowed by causal_mask(5)": int(causal_mask(5).sum()),
        "pairs left with the padding": int(both.sum()),
        "keys that position 6 sees": int((causal_mask(7) & window_mask(7, 2))[6].sum()),
        "weights of scores 3, 3, hidden": hidden.tolist(),
    }


def prefix_by_loop(size, prefix):
    """Who may see whom, pair by pair."""
    rows = [
        [key <= query or (key < prefix and query < prefix) for key in range(size)]
        for query in range(size)
    ]
    return tensor(rows)


def mean_by_loop(x, is_token):
    """The mean of each row's tokens, one row after the other."""
    rows = []
    for vectors, keep in zip(x, is_token, strict=True):
        chosen = [v for v, k in zip(vectors, keep, strict=True) if k]
        rows.append(sum(chosen) / len(chosen) if chosen else torch.zeros(x.size(-1)))
    return torch.stack(rows)


def masks_by_loop(src_ids, tgt_ids, pad_id):
    """Both masks, pair by pair."""
    batch, src_len, tgt_len = len(src_ids), src_ids.size(1), tgt_ids.size(1)
    own = torch.zeros(batch, 1, tgt_len, tgt_len, dtype=torch.bool)
    across = torch.zeros(batch, 1, 1, src_len, dtype=torch.bool)
    for row in range(batch):
        for key in range(src_len):
            across[row, 0, 0, key] = bool(src_ids[row, key] != pad_id)
        for query in range(tgt_len):
            for key in range(query + 1):
                own[row, 0, query, key] = bool(tgt_ids[row, key] != pad_id)
    return own, across


def slope(answer, x, is_token):
    """The gradient of the first column at x; zeros if it is cut off."""
    total = answer(x.requires_grad_(), is_token)[:, 0].sum() + 0 * x.sum()
    return torch.autograd.grad(total, x)[0]


def rows(x, is_token):
    """What a step of the mean hands in."""
    return {**tensors(x=x), "is_token": tensor(is_token).bool()}


PADDED = rows(  # pads at both ends, no token, a pad between
    [[[5, 1], [2, 4], [6, 0], [9, 7]], [[1, 8]] * 4, [[3, 5], [7, 2], [4, 4], [6, 9]]],
    [[0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 1]],
)
TURNED = {**PADDED, "x": PADDED["x"].mT.contiguous().mT.double()}
FRONT = tensor([[0, 5, 0, 1], [2, 0, 5, 1]])


def ids(src_ids, tgt_ids, pad_id=0):
    """What a step of the lab hands in."""
    return {"src_ids": src_ids, "tgt_ids": tgt_ids, "pad_id": pad_id}


COUNTS = Exercise(
    id="09.1",
    title="Count the pairs",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Predict four things: how many pairs `causal_mask(5)` allows; how many of them are left for
        the ids `1 5 2 0 0`, pad 0; how many keys position 6 sees with
        `causal_mask(7) & window_mask(7, 2)`; and the weights of three scores 3, 3 and 3 of which
        the last is masked.
        """,
    stub="""
        pairs = {
            "pairs allowed by causal_mask(5)": ...,
            "pairs left with the padding": ...,
            "keys that position 6 sees": ...,
            "weights of scores 3, 3, hidden": [..., ..., ...],
        }
        """,
    hints=(
        "Draw the 5 by 5 table. Padding takes away columns, not rows.",
        "Causal: row i has i + 1 keys. A pad is no key. Window 2: at most 2 away. e^-inf is 0.",
        "15; then 1 + 2 + 3 + 3 + 3; positions 4, 5 and 6; e^3 / (2 e^3), twice, and exactly 0",
    ),
    solution="""
        pairs = {
            "pairs allowed by causal_mask(5)": 15,
            "pairs left with the padding": 12,
            "keys that position 6 sees": 3,
            "weights of scores 3, 3, hidden": [0.5, 0.5, 0.0],
        }
        """,
    explanation="""
        The triangle with its diagonal has 15 places. The two pads are columns 3 and 4; they lose 2
        and 1 places. A pad as a query keeps its row, since nobody reads its output. Position 6
        looks back on 5 and 4, not ahead. And a masked score takes no share.
        """,
    steps=parts(counts_by_masks),
    wrong=(
        Wrong("the diagonal counts: each position sees itself", ": 15,", ": 10,"),
        Wrong("the whole table is 25; the future is not allowed", ": 15,", ": 25,"),
        Wrong("the rows of the pads stay: the mask belongs to the keys", ": 12,", ": 6,"),
        Wrong("the columns of the pads are taken away", ": 12,", ": 15,"),
        Wrong("the window's other half lies in the future", ": 3,", ": 5,"),
        Wrong("the window counts as well: the past is cut", ": 3,", ": 7,"),
        Wrong("weights add up to 1", "[0.5, 0.5, 0.0]", "[1.0, 1.0, 0.0]"),
        Wrong("window 2 is two neighbours and the position itself", ": 3,", ": 2,"),
        Wrong("the masked key took a share: mask before the softmax", "0.5, 0.5", "1 / 3, 1 / 3"),
    ),
)

PREFIX = Exercise(
    id="09.2",
    title="The mask of a prefix",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        Some models read a **prefix** freely, in both directions, and write the rest word by word:
        the first `prefix` positions see each other, and everything else is causal. Write the mask;
        True = may attend.
        """,
    stub='''
        def prefix_mask(size, prefix):
            """Boolean (size, size), True where the query (row) may attend to the key (column)."""
            return ...
        ''',
    hints=(
        "Two reasons allow a pair. Either of them is enough.",
        "allowed = (key <= query) or (query < prefix and key < prefix); draw size 4, prefix 2.",
        "the lower triangle | (position < prefix as a column & position < prefix as a row)",
    ),
    solution="""
        def prefix_mask(size, prefix):
            position = torch.arange(size)
            query, key = position[:, None], position[None, :]
            return (key <= query) | (key < prefix)
        """,
    explanation="""
        The shorter rule `(key <= query) | (key < prefix)` is enough: a query behind the prefix sees
        all of it anyway, because it is the past. With prefix 0 or 1 the mask is causal, with prefix
        = size everything is allowed: an encoder and a decoder are its two ends.
        """,
    steps=(
        Step("all prefix: everything", {"size": 3, "prefix": 3}, prefix_by_loop),
        Step("no prefix: causal", {"size": 3, "prefix": 0}, prefix_by_loop),
        Step("size 4, prefix 2", {"size": 4, "prefix": 2}, prefix_by_loop),
        Step("size 9, prefix 3", {"size": 9, "prefix": 3}, prefix_by_loop),
    ),
    wrong=(
        Wrong("turned round: True must mean may attend", "return (", "return ~("),
        Wrong("a position must see itself", "key <= query", "key < query"),
        Wrong(
            "triangle turned: rows are queries, columns are keys", "key <= query", "key >= query"
        ),
        Wrong("the prefix is one position too long", "key < prefix", "key <= prefix"),
        Wrong(
            "the prefix sees the future: its rows are all allowed", "key < prefix", "query < prefix"
        ),
        Wrong("the past has no end", "(key <= query)", "((key <= query) & (key > query - 4))"),
        Wrong("both reasons are asked for; one is enough", ") | (", ") & ("),
        Wrong(
            "the prefix alone was allowed: the rest is causal",
            "(key <= query) | (key < prefix)",
            "(query < prefix) & (key < prefix) & (prefix > 0)",
        ),
        Wrong(
            "all see as far ahead as the prefix is long: only the prefix may",
            "key <= query",
            "key < query + max(prefix, 1)",
        ),
        Wrong(
            "the rest no longer sees the prefix: it is the past",
            "(key <= query) | (key < prefix)",
            "((key <= query) | (key < prefix)) & ((key >= prefix) | (query < prefix))",
        ),
        Wrong(
            "numbers came, and a mask is boolean",
            "(key <= query) | (key < prefix)",
            "((key <= query) | (key < prefix)).float()",
        ),
    ),
)

POOL = Exercise(
    id="09.3",
    title="A mean without the pads",
    kind="write",
    difficulty=2,
    minutes=10,
    task="""
        One vector for a whole sentence: the mean of its tokens' vectors. The pads must count
        neither in the sum nor in the number, **wherever they stand and whatever stands there**, NaN
        included. A NaN of a token must be seen. A sentence without a token gives zeros. The dtype
        stays, and a gradient reaches the tokens.
        """,
    stub='''
        def mean_of_tokens(x, is_token):
            """x (batch, length, width), is_token boolean (batch, length) -> (batch, width)."""
            return ...
        ''',
    hints=(
        "How many tokens has each row? And what is 0 times NaN?",
        "sum over the tokens / number of tokens, where the number is at least 1",
        """
        keep = is_token with a last dimension of size 1
        total = (x with 0 where keep is False).sum(over the length)
        divide by the number of tokens of each row, clamped at 1 from below
        """,
    ),
    solution="""
        def mean_of_tokens(x, is_token):
            keep = is_token[..., None]  # (batch, length, 1)
            total = x.masked_fill(~keep, 0.0).sum(dim=1)  # (batch, width)
            return total / keep.sum(dim=1).clamp(min=1)
        """,
    explanation="""
        `masked_fill` and not a product: 0 times NaN is NaN, and 0 times infinity too. The count is
        clamped, so that an empty row is 0 / 1. BERT's users make sentence vectors in this way.
        """,
    steps=(
        Step("no pads: the plain mean", rows([[[2, 4], [4, 8]]], [[1, 1]]), mean_by_loop),
        Step("one token and two pads", rows([[[6], [5], [5]]], [[1, 0, 0]]), mean_by_loop),
        Step(
            "two rows of different length",
            rows([[[1, 2], [3, 4], [5, 9]], [[4, 4], [2, 6], [7, 7]]], [[1, 1, 1], [1, 1, 0]]),
            mean_by_loop,
        ),
        Step(
            "a pad in front, and one between",
            rows([[[9], [2], [4]], [[1], [8], [5]]], [[0, 1, 1], [1, 0, 1]]),
            mean_by_loop,
        ),
        Step(
            "NaN and infinity at pads change nothing",
            rows([[[3], [nan], [5], [inf]]], [[1, 0, 1, 0]]),
            mean_by_loop,
        ),
        Step("a token's NaN is seen", rows([[[nan, 2], [4, 6]]], [[1, 1]]), mean_by_loop),
        Step("a row of pads alone gives zeros", PADDED, mean_by_loop),
        Step(
            "a gradient reaches the tokens, and no pad", PADDED, partial(slope, mean_by_loop), slope
        ),
        Step("float64, memory not contiguous", TURNED, mean_by_loop),
    ),
    wrong=(
        Wrong(
            "the sum was divided by the length, pads included",
            "keep.sum(dim=1).clamp(min=1)",
            "x.size(1)",
        ),
        Wrong("the sum came, not the mean", " / keep.sum(dim=1).clamp(min=1)", ""),
        Wrong("the pads were averaged, not the tokens", "~keep", "keep"),
        Wrong("the pads are still in the sum", ".masked_fill(~keep, 0.0)", ""),
        Wrong(
            "0 times NaN is NaN: fill, do not multiply", "x.masked_fill(~keep, 0.0)", "(x * keep)"
        ),
        Wrong("a token's NaN was hidden", "total = x", "total = x.nan_to_num()"),
        Wrong(
            "the last places were averaged, as many as there are tokens: a pad may stand behind",
            "keep = is_token[..., None]",
            "keep = (torch.arange(-x.size(1), 0) >= -is_token.sum(dim=1)[:, None])[..., None]",
        ),
        Wrong("the output is cut off from the gradient", "total = x", "total = x.detach()"),
        Wrong("float64 came in and float32 went out", "return total", "return total.float()"),
        Wrong("a row without tokens is 0 / 0", ".clamp(min=1)", ""),
        Wrong("all rows were divided by one number", "keep.sum(dim=1)", "keep.sum()"),
        Wrong(
            "the first places were averaged, as many as there are tokens: a pad may stand in front",
            "keep = is_token[..., None]",
            "keep = (torch.arange(x.size(1)) < is_token.sum(dim=1)[:, None])[..., None]",
        ),
    ),
)

MASKS = Exercise(
    id="09.4",
    title="Broken Transformer: words of the source go unheard",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        The two masks of a decoder, for its own positions and for the source. Nothing crashes, since
        source and target are equally long here. **Symptom:** long sources are read as if they ended
        early, and short ones are better without padding than with it. **Tool:** print the mask of
        the cross-attention beside `src_ids`, row by row; and change the ids of the **target** to
        see whether it moves.
        """,
    stub='''
        def decoder_masks(src_ids, tgt_ids, pad_id):
            """Masks of self-attention and of cross-attention, True = may attend.

            src_ids (batch, src_len), tgt_ids (batch, tgt_len); returns booleans
            (batch, 1, tgt_len, tgt_len) and (batch, 1, 1, src_len).
            """
            is_token = (tgt_ids != pad_id)[:, None, None, :]
            causal = torch.ones(tgt_ids.size(1), tgt_ids.size(1), dtype=torch.bool).tril()
            return causal & is_token, is_token
        ''',
    hints=(
        "To whom does a mask belong, the one who asks or the one who is looked at?",
        "Cross-attention: the keys are the source's, so the mask is made of the source's padding.",
        "self: causal & (tgt_ids != pad_id) as keys; cross: (src_ids != pad_id) as keys",
    ),
    solution="""
        def decoder_masks(src_ids, tgt_ids, pad_id):
            own = (tgt_ids != pad_id)[:, None, None, :]  # (batch, 1, 1, tgt_len)
            across = (src_ids != pad_id)[:, None, None, :]  # (batch, 1, 1, src_len)
            causal = torch.ones(tgt_ids.size(1), tgt_ids.size(1), dtype=torch.bool).tril()
            return causal & own, across
        """,
    explanation="""
        The mask belongs to the keys. With lengths that differ the wrong mask would crash, and a
        crash is better: that is why the sizes in this course's demonstrations all differ. Yours
        should, too.
        """,
    steps=(
        Step("no padding at all", ids(SOURCE[:1], TARGET[1:]), masks_by_loop),
        Step("a short source, a long target", ids(SOURCE[1:], TARGET[1:]), masks_by_loop),
        Step("source and target of other lengths", ids(SOURCE[:, :3], TARGET), masks_by_loop),
        Step("another id for padding", ids(SOURCE, TARGET, 2), masks_by_loop),
        Step("pads at the left and between", ids(SOURCE[:, 1:], FRONT), masks_by_loop),
    ),
    wrong=(
        Wrong(
            "cross-attention is causal here; the whole source may be seen",
            "& own, across",
            "& own, causal & across",
        ),
        Wrong(
            "the source's padding is not masked",
            "causal & own, across",
            "causal & own, across | True",
        ),
        Wrong("the target's padding is not masked", "causal & own", "causal & (own | True)"),
        Wrong(
            "pads were kept from asking; a mask belongs to the keys, to those who are looked at",
            "causal & own",
            "causal & own & own.transpose(-2, -1)",
        ),
        Wrong("True must mean may attend", "causal & own, across", "~(causal & own), ~across"),
        Wrong(
            "the source's padding masks the target, and the other way round",
            "causal & own, across",
            "causal & across, own",
        ),
        Wrong("pad_id is an argument: it need not be 0", "(src_ids != pad_id)", "(src_ids != 0)"),
        Wrong("the target's pad_id need not be 0 either", "(tgt_ids != pad_id)", "(tgt_ids != 0)"),
        Wrong("a position must see itself", ".tril()", ".tril(-1)"),
        Wrong("the triangle is turned: it sees the future alone", ".tril()", ".triu()"),
        Wrong(
            "the two masks changed places",
            "return causal & own, across",
            "return across, causal & own",
        ),
        Wrong(
            "the triangle is as long as the source",
            "tgt_ids.size(1), tgt_ids.size(1)",
            "src_ids.size(1), src_ids.size(1)",
        ),
        Wrong(
            "the tokens were counted, and so many first places allowed: pads may stand in front",
            "(tgt_ids != pad_id)[:, None, None, :]",
            "(torch.arange(tgt_ids.size(1)) < (tgt_ids != pad_id).sum(1)[:, None])[:, None, None]",
        ),
        Wrong(
            "a row that sees nothing was opened: the mask says what is allowed",
            "causal & own, across",
            "causal & own | ~(causal & own).any(-1, keepdim=True), across",
        ),
    ),
)
