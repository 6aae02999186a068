"""Exercises of lesson 20: Transformer-XL."""

import torch
from torch import tensor

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def earliest_seen(layers, memory, segment):
    """Walk back layer by layer: the earliest position whose input reaches the newest token.

    Segments of `segment` tokens; a layer reads its segment and the `memory` positions before it.
    """
    reached = newest = 100 * segment - 1
    for _ in range(layers):
        reached = max(0, reached // segment * segment - memory)
    return newest - reached


def reach_by_walking():
    """What the predictions come to."""
    return {
        "one layer, no memory": earliest_seen(1, 0, 4),
        "three layers, no memory": earliest_seen(3, 0, 4),
        "one layer, memory of 4": earliest_seen(1, 4, 4),
        "three layers, memory of 4": earliest_seen(3, 4, 4),
        "keys that a query of the segment's end meets, memory of 4": len(range(100 - 8, 100)),
        "distance of the farthest key it meets": 7,
    }


REACH = Exercise(
    id="20.1",
    title="How far back?",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        A long text is read in segments of 4 tokens. Take the **last** token of a segment far inside
        the text. How many positions back is the farthest token that can influence what is said
        there? Each layer reads its own segment and, with memory, the 4 positions before the
        segment. Then two questions about one layer with memory 4: how many keys does that last
        token meet, itself included, and how far away is the farthest? All are whole numbers.
        """,
    stub="""
        reach = {
            "one layer, no memory": ...,
            "three layers, no memory": ...,
            "one layer, memory of 4": ...,
            "three layers, memory of 4": ...,
            "keys that a query of the segment's end meets, memory of 4": ...,
            "distance of the farthest key it meets": ...,
        }
        """,
    hints=(
        "Without memory nothing crosses the segment's border, however many layers there are.",
        "Each layer with memory reaches one more segment back.",
        "Count first to the segment's own start. Then add a whole memory for each layer.",
    ),
    solution="""
        reach = {
            "one layer, no memory": 3,
            "three layers, no memory": 3,
            "one layer, memory of 4": 7,
            "three layers, memory of 4": 15,
            "keys that a query of the segment's end meets, memory of 4": 8,
            "distance of the farthest key it meets": 7,
        }
        """,
    explanation="""
        A memory holds what a layer below made of the last segment, and that was made with the
        memory before it. So the reach grows with the layers, while each layer pays for 8 keys only.
        """,
    steps=parts(reach_by_walking),
    wrong=(
        Wrong(
            "the last of 4 has three before it",
            'one layer, no memory": 3',
            'one layer, no memory": 4',
        ),
        Wrong(
            "without memory layers do not help across the border",
            'three layers, no memory": 3',
            'three layers, no memory": 11',
        ),
        Wrong(
            "the own segment's 3, and 4 more",
            'one layer, memory of 4": 7',
            'one layer, memory of 4": 4',
        ),
        Wrong(
            "the own segment counts without itself",
            'one layer, memory of 4": 7',
            'one layer, memory of 4": 8',
        ),
        Wrong("each layer reaches a segment farther", "15", "7"),
        Wrong("the memory is added each time, the own segment once", "15", "21"),
        Wrong(
            "4 of the memory and 4 of the segment",
            'meets, memory of 4": 8',
            'meets, memory of 4": 4',
        ),
        Wrong("two layers reach 11, three one segment more", "15", "11"),
        Wrong("the own segment counts without itself", "15", "16"),
        Wrong("itself included", 'meets, memory of 4": 8', 'meets, memory of 4": 7'),
        Wrong("8 keys have the distances 0 to 7", 'meets": 7', 'meets": 8'),
    ),
)


def shift_by_loop(scores):
    """Entry by entry: key j of query i belongs to column j + query_len - 1 - i."""
    query_len, distances = scores.shape
    shifted = torch.zeros_like(scores)
    for i in range(query_len):
        for j in range(distances):
            column = j + query_len - 1 - i
            if column < distances:
                shifted[i, j] = scores[i, column]
    return shifted


def gradient_of(answer, scores):
    """What training would send back; zeros if the table hangs on nothing."""
    scores = scores.clone().requires_grad_()
    shifted = answer(scores)
    if not shifted.requires_grad:
        return torch.zeros_like(scores)
    weights = torch.arange(1.0, 1 + shifted.numel()).view_as(shifted)
    return torch.autograd.grad((shifted * weights).sum(), scores)[0]


TALL = tensors(scores=[[1, 2, 3, 4, 5], [6, 7, 8, 9, 10], [11, 12, 13, 14, 15]])


SHIFT = Exercise(
    id="20.2",
    title="The relative shift",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        `scores[i, c]` is query i's score for the c-th largest distance; the columns mean the same
        for each row. Wanted is a table by key. The last query is at the end of the text, so for it
        column c belongs to key c. The row above is one step earlier: each key is one nearer, so its
        row moves left by one place, the row above that by two, and so on. What comes in at the
        right (keys ahead of the query) is 0, whatever the scores hold. Training must reach the
        scores. Loops are welcome; without any it is a stretch.
        """,
    stub='''
        def shift_rows(scores):
            """scores (query_len, distances) -> the same shape, by key."""
            return ...
        ''',
    hints=(
        "By how many places does row i of n rows move?",
        "row i moves left by n - 1 - i: out[i, j] = scores[i, j + n - 1 - i], or 0 beyond the end",
        "without loops: torch.gather with the index j + n - 1 - i, then fill what lies beyond by 0",
    ),
    solution="""
        def shift_rows(scores):
            n, distances = scores.shape
            column = torch.arange(distances) + n - 1 - torch.arange(n)[:, None]
            moved = scores.gather(1, column.clamp(max=distances - 1))
            return moved.masked_fill(column >= distances, 0)
        """,
    explanation="""
        The library does it by reading the padded table with rows one number too short: no index and
        no loop. The zeros are never used, because a causal mask hides the keys ahead.
        """,
    steps=(
        Step("one query: nothing moves", tensors(scores=[[5, 7, 9]]), shift_by_loop),
        Step(
            "two queries: the first moves by one",
            tensors(scores=[[1, 2, 3], [4, 5, 6]]),
            shift_by_loop,
        ),
        Step(
            "three queries, five distances",
            TALL,
            shift_by_loop,
        ),
        Step(
            "as many queries as distances",
            {"scores": torch.arange(1.0, 26).view(5, 5)},
            shift_by_loop,
        ),
        Step(
            "a last score of minus infinity",
            {"scores": tensor([[1.0, 2, 3, -torch.inf], [4, 5, 6, -torch.inf]])},
            shift_by_loop,
        ),
        Step(
            "in float64, 1000 and -1000, not contiguous",
            {"scores": tensor([[1000.0, 2], [-1000, 3], [7, 1000], [4, -5], [6, 8]]).double().T},
            shift_by_loop,
        ),
        Step(
            "the gradient that reaches the scores",
            TALL,
            lambda scores: gradient_of(shift_by_loop, scores),
            gradient_of,
        ),
    ),
    wrong=(
        Wrong(
            "the first row moves most, not the last",
            "n - 1 - torch.arange(n)[:, None]",
            "torch.arange(n)[:, None]",
        ),
        Wrong("one place too far: the last row must stay", "+ n - 1 -", "+ n -"),
        Wrong(
            "moved to the right, not to the left",
            """
            def shift_rows(scores):
                shifted = torch.zeros_like(scores)
                n, distances = scores.shape
                for i in range(n):
                    step = n - 1 - i
                    shifted[i, step:] = scores[i, : distances - step]
                return shifted
            """,
        ),
        Wrong(
            "what leaves on the left comes back on the right: it must be 0",
            "column.clamp(max=distances - 1))",
            "column % distances)\n    column = column * 0",
        ),
        Wrong(
            "beyond the end stands the last score, not 0",
            ".masked_fill(column >= distances, 0)",
            "",
        ),
        Wrong(
            "nothing is moved", "return moved.masked_fill(column >= distances, 0)", "return scores"
        ),
        Wrong(
            "each row moves by one: the farther up, the more",
            "n - 1 - torch.arange(n)[:, None]",
            "(torch.arange(n) < n - 1).int()[:, None]",
        ),
        Wrong(
            "read from the padded table: beyond the end stands the next row, not 0",
            """
            def shift_rows(scores):
                n, distances = scores.shape
                padded = torch.cat([torch.zeros(n, 1).to(scores), scores], dim=1)
                return padded.view(distances + 1, n)[1:].reshape(n, distances)
            """,
        ),
        Wrong(
            "minus infinity times 0 is NaN: fill, do not multiply",
            "moved.masked_fill(column >= distances, 0)",
            "moved * (column < distances)",
        ),
        Wrong(
            "always float32: keep the dtype of the scores", "distances, 0)", "distances, 0).float()"
        ),
        Wrong(
            "training does not reach the scores: detached", "moved.masked", "moved.detach().masked"
        ),
    ),
)


def remembered_by_numbers(memory, segment, memory_len):
    """The newest `memory_len` positions of both together, as plain numbers."""
    both = [*memory.tolist(), *segment.tolist()]
    kept = both[len(both) - memory_len :] if memory_len < len(both) else both
    return tensor(kept, dtype=segment.dtype)


def gradient_of_segment(answer, memory, segment, memory_len):
    """Whether a loss on the memory would reach back into the segment that made it."""
    return answer(memory, segment.requires_grad_(), memory_len).requires_grad


MEMORY = Exercise(
    id="20.3",
    title="Broken Transformer-XL: the second step fails",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        After a segment a layer remembers the newest `memory_len` of what it has read, old memory
        included. **Symptom:** the first training step runs; at the second `backward` complains of a
        graph that is gone. And with a memory longer than a segment the model knows less than it
        should. **Tool:** print the memory's length and `requires_grad` after each of four segments.
        A `memory_len` of 0 remembers nothing. The first memory of a text is empty: old = 0.
        """,
    stub='''
        def remember(memory, segment, memory_len):
            """memory (old, width), segment (length, width) -> (at most memory_len, width)."""
            return segment[-memory_len:]
        ''',
    hints=(
        "Two mistakes: what is kept, and what hangs on it.",
        "keep the newest memory_len of memory and segment together; detach() cuts the graph",
        "join = torch.cat([memory, segment]); start at len(join) - memory_len, not below 0",
    ),
    solution="""
        def remember(memory, segment, memory_len):
            both = torch.cat([memory, segment]).detach()
            return both[max(0, len(both) - memory_len) :]
        """,
    explanation="""
        Without detach each memory holds the graph of the segment before it, and so of all segments:
        that is backpropagation through the whole text. And x[-0:] is everything, an old trap.
        """,
    steps=(
        Step(
            "no old memory",
            {**tensors(memory=[[1, 1]], segment=[[2, 5], [3, 6]]), "memory_len": 2},
            remembered_by_numbers,
        ),
        Step(
            "a memory longer than the segment",
            {
                **tensors(
                    memory=[[1, 4], [7, 8], [9, 9], [5, 0], [6, 2]], segment=[[2, 5], [3, 6]]
                ),
                "memory_len": 5,
            },
            remembered_by_numbers,
        ),
        Step(
            "fewer have been read than it could hold",
            {**tensors(memory=[[7, 8]], segment=[[2, 5], [3, 6]]), "memory_len": 5},
            remembered_by_numbers,
        ),
        Step(
            "less than the segment, in float64",
            {
                "memory": tensor([[7.0, 8, 1]]).double(),
                "segment": tensor([[2.0, 5], [3, 6], [4, 9]]).double().T,
                "memory_len": 1,
            },
            remembered_by_numbers,
        ),
        Step(
            "an empty memory",
            {"memory": torch.zeros(0, 2), **tensors(segment=[[2, 5], [3, 6]]), "memory_len": 3},
            remembered_by_numbers,
        ),
        Step(
            "memory_len = 0: nothing, of shape (0, 2)",
            {**tensors(memory=[[7, 8]], segment=[[2, 5], [3, 6]]), "memory_len": 0},
            torch.zeros(0, 2),
        ),
        Step(
            "no gradient goes back into the segment",
            {**tensors(memory=[[1, 4], [7, 8], [9, 9]], segment=[[2, 5], [3, 6]]), "memory_len": 4},
            False,
            gradient_of_segment,
        ),
    ),
    wrong=(
        Wrong("still tied to the graph: detach", ".detach()", ""),
        Wrong("only the newest segment is kept", "torch.cat([memory, segment])", "segment"),
        Wrong(
            "the oldest were kept, not the newest",
            "[max(0, len(both) - memory_len) :]",
            "[:memory_len]",
        ),
        Wrong(
            "[-0:] is everything, not nothing",
            "[max(0, len(both) - memory_len) :]",
            "[-memory_len:]",
        ),
        Wrong(
            "a negative start counts from the end",
            "max(0, len(both) - memory_len)",
            "len(both) - memory_len",
        ),
        Wrong("a memory of one position too few", "- memory_len)", "- memory_len + 1)"),
        Wrong(
            "a segment longer than memory_len must be cut too",
            "max(0, len(both) - memory_len)",
            "max(0, min(len(memory), len(both) - memory_len))",
        ),
        Wrong("always float32: keep the dtype", ".detach()", ".detach().float()"),
        Wrong(
            "still tied to the graph: detach",
            "[memory, segment]).detach()",
            "[memory.detach(), segment])",
        ),
        Wrong("the segment comes after the memory", "[memory, segment]", "[segment, memory]"),
        Wrong(
            "memory_len old ones and the whole segment",
            "len(both) - memory_len)",
            "len(memory) - memory_len)",
        ),
    ),
)
