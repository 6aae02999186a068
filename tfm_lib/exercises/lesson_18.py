"""Exercises of lesson 18: the Sparse Transformer."""

import torch
from torch import tensor

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts
from tfm_lib.sparse_attention import fixed_sets, set_mask, strided_sets


def members(of, position, size):
    """The positions in a set, listed by the library's own mask."""
    return set_mask(size, of)[position].nonzero().flatten().tolist()


def sets_by_library():
    """What the predictions come to for position 7 of 9."""
    strided, fixed = strided_sets(3), fixed_sets(3, 1)
    return {
        "strided, A1": members(strided[0], 7, 9),
        "strided, A2": members(strided[1], 7, 9),
        "fixed, A1": members(fixed[0], 7, 9),
        "fixed, A2": members(fixed[1], 7, 9),
        "pairs of full causal attention": int(torch.ones(9, 9).tril().sum()),
    }


WHO = Exercise(
    id="18.1",
    title="Whom does position 7 see?",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Nine positions, 0 to 8, stride 3, and c = 1 for the fixed pattern. List the positions in
        each set of position 7, in rising order, as a list. Then count the pairs of full causal
        attention over all nine positions.
        """,
    stub="""
        seen_by_7 = {
            "strided, A1": ...,
            "strided, A2": ...,
            "fixed, A1": ...,
            "fixed, A2": ...,
            "pairs of full causal attention": ...,
        }
        """,
    hints=(
        "Strided counts back from position 7. Fixed cuts the text into blocks 0-2, 3-5, 6-8.",
        "A1: the last 3 and 7 itself; A2: every third one back from 7. Fixed A2: ends of blocks.",
        "7 - 3 ... 7; 7, 4, 1; the block 6-8 up to 7; 2, 5 (8 lies ahead); 1 + 2 + ... + 9",
    ),
    solution="""
        seen_by_7 = {
            "strided, A1": [4, 5, 6, 7],
            "strided, A2": [1, 4, 7],
            "fixed, A1": [6, 7],
            "fixed, A2": [2, 5],
            "pairs of full causal attention": 45,
        }
        """,
    explanation="""
        Each set holds about sqrt(n) positions, and each pattern's two sets together reach
        everything in two hops. In the fixed pattern only the ends of blocks are seen from afar:
        they must carry the summary of their block.
        """,
    steps=parts(sets_by_library),
    wrong=(
        Wrong("itself and the last three: four positions", "[4, 5, 6, 7]", "[5, 6, 7]"),
        Wrong("a position sees itself too", "[4, 5, 6, 7]", "[4, 5, 6]"),
        Wrong("counted back from 7, not from the start", "[1, 4, 7]", "[0, 3, 6]"),
        Wrong("7 itself is a distance of 0, a multiple of 3", "[1, 4, 7]", "[1, 4]"),
        Wrong("its own block begins at 6", "[6, 7]", "[5, 6, 7]"),
        Wrong("8 lies in the future", "[6, 7]", "[6, 7, 8]"),
        Wrong("8 ends a block, but lies in the future", "[2, 5]", "[2, 5, 8]"),
        Wrong("the last position of each block, not the first", "[2, 5]", "[0, 3, 6]"),
        Wrong("no position sees the future: half of 81, with the diagonal", "45", "81"),
        Wrong("the diagonal counts", "45", "36"),
    ),
)


def two_hops_by_loop(first, second):
    """Position by position, by the definition."""
    size = len(first)
    reached = torch.zeros(size, size, dtype=torch.bool)
    for i in range(size):
        for middle in range(size):
            for j in range(size):
                if first[i, middle] and second[middle, j]:
                    reached[i, j] = True
    return reached


def table(*rows):
    return tensor([[letter == "x" for letter in row] for row in rows])


HOPS = Exercise(
    id="18.2",
    title="What reaches you in two hops",
    kind="write",
    difficulty=2,
    minutes=12,
    task="""
        Layer 1 attends by one mask, layer 2 by another (True = may attend, rows are queries). After
        both, which positions can have reached position i? Say it as one boolean mask: layer 2's
        query i looks at some position, and that position had looked at j in layer 1.
        """,
    stub='''
        def reached_in_two(layer_1, layer_2):
            """Two boolean masks (n, n) -> a boolean mask (n, n), row i for position i."""
            return ...
        ''',
    hints=(
        "Position i asks m in layer 2, and m has asked j in layer 1. Some m is enough.",
        "reached[i, j] = any over m of layer_2[i, m] and layer_1[m, j]",
        "that is a matrix product of numbers, and then: is it more than 0?",
    ),
    solution="""
        def reached_in_two(layer_1, layer_2):
            return layer_2.float() @ layer_1.float() > 0
        """,
    explanation="""
        The product counts the ways from j to i. The strided pattern's two sets leave no zero below
        the diagonal, so two layers of it see all that one dense layer sees, at a fraction of the
        pairs. The order matters: the layer nearer to the output comes first in the product.
        """,
    steps=(
        Step(
            "each sees itself in both layers: nothing else arrives",
            {"layer_1": table("x.", ".x"), "layer_2": table("x.", ".x")},
            table("x.", ".x"),
        ),
        Step(
            "layer 2 looks one back; layer 1 only at itself",
            {"layer_1": table("x..", ".x.", "..x"), "layer_2": table("x..", "xx.", ".x.")},
            table("x..", "xx.", ".x."),
        ),
        Step(
            "layer 1 looks at the start, layer 2 one back",
            {"layer_1": table("x..", "x..", "x.x"), "layer_2": table("x..", "x..", ".xx")},
            lambda layer_1, layer_2: two_hops_by_loop(layer_2, layer_1),
        ),
        Step(
            "several ways are still one: boolean",
            {
                "layer_1": table("x...", "xx..", "xxx.", "x..x"),
                "layer_2": table("x...", "xx..", ".xx.", "x.xx"),
            },
            lambda layer_1, layer_2: two_hops_by_loop(layer_2, layer_1),
        ),
    ),
    wrong=(
        Wrong(
            "the layers the wrong way round",
            "layer_2.float() @ layer_1.float()",
            "layer_1.float() @ layer_2.float()",
        ),
        Wrong(
            "what either layer sees in one hop",
            "layer_2.float() @ layer_1.float() > 0",
            "layer_2 | layer_1",
        ),
        Wrong("what both layers see", "layer_2.float() @ layer_1.float() > 0", "layer_2 & layer_1"),
        Wrong(
            "numbers of ways, not a mask",
            "layer_2.float() @ layer_1.float() > 0",
            "layer_2.float() @ layer_1.float()",
        ),
        Wrong("rows are queries: do not transpose", "layer_1.float()", "layer_1.float().T"),
    ),
)


def strided_by_library(length, stride):
    """Both sets of the pattern, from the library."""
    return set_mask(length, *strided_sets(stride))


COLUMN = Exercise(
    id="18.3",
    title="Broken Transformer: the column that moves",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        The strided pattern as one mask: the last `stride` positions and oneself, and those a
        multiple of `stride` before. **Symptom:** on pictures whose rows are `stride` long, the
        model copies what stands above in the first column and nowhere else. **Tool:** print one row
        of the mask as `stride` columns: `mask[13].view(-1, stride).int()`, with 0 for what is
        missing.
        """,
    stub='''
        def strided_mask(length, stride):
            """Boolean (length, length), True = may attend, rows are queries."""
            i = torch.arange(length)[:, None]
            j = torch.arange(length)[None, :]
            local = i - j <= stride
            column = j % stride == 0
            return (local | column) & (j <= i)
        ''',
    hints=(
        "Which keys does `column` allow to query 13? And to query 14? Should they be the same?",
        "a column is a distance: i - j is 0, stride, 2 * stride, ...",
        "(i - j) % stride == 0",
    ),
    solution="""
        def strided_mask(length, stride):
            i = torch.arange(length)[:, None]
            j = torch.arange(length)[None, :]
            local = i - j <= stride
            column = (i - j) % stride == 0
            return (local | column) & (j <= i)
        """,
    explanation="""
        The bug made half of the fixed pattern: the same few positions for everybody. That is right
        where they are trained to hold a summary, and wrong for a picture, where the pixel above is
        a distance away and not an address.
        """,
    steps=(
        Step(
            "three positions, stride 2: everything behind",
            {"length": 3, "stride": 2},
            strided_by_library,
        ),
        Step("six positions, stride 2", {"length": 6, "stride": 2}, strided_by_library),
        Step("eleven positions, stride 3", {"length": 11, "stride": 3}, strided_by_library),
    ),
    wrong=(
        Wrong("still the same columns for everybody", "(i - j) % stride", "j % stride"),
        Wrong("the future is shown", "(local | column) & (j <= i)", "local | column"),
        Wrong("only what is near and in the column", "local | column", "local & column"),
        Wrong("the last `stride` positions, not the last one", "i - j <= stride", "i - j <= 1"),
        Wrong(
            "rows of a picture in place of columns: i // stride",
            "(i - j) % stride == 0",
            "i // stride == j // stride",
        ),
        Wrong(
            "the query's own place decides, not the distance",
            "(i - j) % stride == 0",
            "i % stride + 0 * j == 0",
        ),
    ),
)
