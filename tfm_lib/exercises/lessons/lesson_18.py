"""Exercises of lesson 18: the Sparse Transformer."""

import torch
from torch import tensor

from tfm_lib.attention import fixed_sets, set_mask, strided_sets
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts


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
        attention over all nine positions, each with itself too. All numbers are exact.
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
        Wrong("every block before has an end, not only the last", "[2, 5]", "[5]"),
        Wrong("the last one of each block is its end", "[2, 5]", "[1, 4]"),
        Wrong("no position sees the future: half of 81, with the diagonal", "45", "81"),
        Wrong("the diagonal counts", "45", "36"),
    ),
)


def layers_by_search(mask):
    """From each position outwards, one layer at a time: a breadth-first search."""
    size = len(mask)
    needed = torch.full((size, size), -1)
    for start in range(size):
        front, layers = {start}, 0
        while front:
            for place in front:
                needed[start, place] = layers
            seen = {j for place in front for j in range(size) if mask[place, j]}
            front = {j for j in seen if needed[start, j] < 0}
            layers += 1
    return needed


def table(*rows):
    return tensor([[letter == "x" for letter in row] for row in rows])


HOPS = Exercise(
    id="18.2",
    title="How many layers until it arrives?",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        Every layer of a model attends by the same mask (True = may attend, rows are queries). Find
        for each pair the fewest layers after which something from position j can have reached
        position i: 0 for i itself, 1 where the mask allows it, and so on; -1 where it never
        arrives.
        """,
    stub='''
        def layers_needed(mask):
            """mask: boolean (n, n), each position sees itself -> whole numbers (n, n)."""
            return ...
        ''',
    hints=(
        "Know who is reached after l layers. Who is reached after one more?",
        "reached[i, j] after l + 1 = any over m of mask[i, m] and reached[m, j] after l",
        "start from torch.eye; mask.float() @ reached.float() > 0; note l where it is new",
    ),
    solution="""
        def layers_needed(mask):
            reached = torch.eye(len(mask), dtype=torch.bool)
            needed = torch.where(reached, 0, -1)
            for layer in range(1, len(mask)):
                reached = mask.float() @ reached.float() > 0
                needed[reached & (needed < 0)] = layer
            return needed
        """,
    explanation="""
        Dense causal attention needs one layer for all, a window of w about n / w, and either
        pattern of this lesson two. More than n - 1 layers are never needed: a way that visits a
        position twice can be cut short.
        """,
    steps=(
        Step("one position", {"mask": table("x")}, tensor([[0]])),
        Step("the second sees the first", {"mask": table("x.", "xx")}, tensor([[0, -1], [1, 0]])),
        Step(
            "each sees the one before: four in a row",
            {"mask": table("x...", "xx..", ".xx.", "..xx")},
            layers_by_search,
        ),
        Step(
            "every second one: the others never arrive",
            {"mask": table("x....", ".x...", "x.x..", ".x.x.", "x.x.x")},
            layers_by_search,
        ),
        Step(
            "the strided pattern, seven positions, stride 3",
            {"mask": set_mask(7, *strided_sets(3))},
            layers_by_search,
        ),
        Step(
            "the future is seen: two positions forwards, one backwards",
            {"mask": table("xxx..", "xxxx.", ".xxxx", "..xxx", "...xx")},
            layers_by_search,
        ),
        Step(
            "a circle of 40, each sees the one before: up to 39 layers",
            {"mask": torch.eye(40).bool() | torch.eye(40).bool().roll(-1, dims=1)},
            lambda mask: (torch.arange(40)[:, None] - torch.arange(40)) % 40,
        ),
    ),
    wrong=(
        Wrong("one layer too few: the mask itself is 1", "= layer", "= layer - 1"),
        Wrong(
            "the last layer at which it arrives, not the first",
            "reached & (needed < 0)",
            "reached",
        ),
        Wrong("it ends too early: n positions need up to n - 1", "len(mask)):", "len(mask) - 1):"),
        Wrong("it ends after four layers: n positions need up to n - 1", "len(mask))", "5)"),
        Wrong("it ends after eleven layers: n positions need up to n - 1", "len(mask))", "12)"),
        Wrong("only keys before the query: a mask may show the future", "mask.f", "mask.tril().f"),
        Wrong(
            "the reach was doubled at each layer: one more layer is one more hop",
            """
            def layers_needed(mask):
                reached, needed = mask, torch.where(mask, 1, -1)
                needed.fill_diagonal_(0)
                for layer in range(2, len(mask)):
                    reached = reached.float() @ reached.float() > 0
                    needed[reached & (needed < 0)] = layer
                return needed
            """,
        ),
        Wrong("what never arrives is -1", "return needed", "return needed.clamp(min=0)"),
        Wrong("rows are queries: do not transpose", "mask.float()", "mask.T.float()"),
        Wrong(
            "one layer alone: nothing comes over a second hop",
            """
            def layers_needed(mask):
                return torch.where(mask, 1, -1).masked_fill(torch.eye(len(mask)).bool(), 0)
            """,
        ),
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
        model copies what stands above in the first column and nowhere else. **Tool:** look at two
        rows as pictures: `mask[13, :12].view(4, 3).int()` for a stride of 3, then `mask[14, :12]`.
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
        Step("six positions, stride 2", {"length": 6, "stride": 2}, strided_by_library),
        Step("eleven positions, stride 3", {"length": 11, "stride": 3}, strided_by_library),
        Step("ten positions, stride 4", {"length": 10, "stride": 4}, strided_by_library),
        Step(
            "four positions, stride 5: everything", {"length": 4, "stride": 5}, strided_by_library
        ),
        Step(
            "five positions, stride 1: everything", {"length": 5, "stride": 1}, strided_by_library
        ),
    ),
    wrong=(
        Wrong("still the same columns for everybody", "(i - j) % stride", "j % stride"),
        Wrong("the stride is given: not always 3", "(i - j) % stride", "(i - j) % 3"),
        Wrong("only the column: what is near is lost", "local | column", "column"),
        Wrong(
            "transposed: rows are queries",
            "(local | column) & (j <= i)",
            "((local | column) & (j <= i)).T",
        ),
        Wrong("the future is shown", "(local | column) & (j <= i)", "local | column"),
        Wrong("only what is near and in the column", "local | column", "local & column"),
        Wrong("the last `stride` positions, not the last one", "i - j <= stride", "i - j <= 1"),
        Wrong(
            "a row of the picture in place of a column: only what is near is seen",
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
