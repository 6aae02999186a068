"""Exercises of lesson 16: German to English."""

from dataclasses import replace

from sacrebleu.metrics import BLEU

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts

REFERENCE = "a dog runs through the snow"
LONG, SHORT = "a dog runs in the the snow", "a dog runs"


def score_of(translation, reference):
    """sacrebleu's own parts: precisions in percent, brevity penalty."""
    return BLEU(tokenize="none", force=True).corpus_score([translation], [[reference]])


def parts_by_sacrebleu():
    """What the predictions come to."""
    long, short = score_of(LONG, REFERENCE), score_of(SHORT, REFERENCE)
    return {
        "single words right": round(long.precisions[0] * 7 / 100),
        "pairs right": round(long.precisions[1] * 6 / 100),
        "brevity penalty of 7 words": long.bp,
        "single words right, of 3": round(short.precisions[0] * 3 / 100),
        "brevity penalty of 3 words": short.bp,
    }


def rounded(step):
    """A penalty may be rounded to two digits; a count is exact."""
    return replace(step, tolerance=0.005) if "penalty" in step.asks else step


BY_HAND = Exercise(
    id="16.1",
    title="BLEU with a pencil",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        The reference is `a dog runs through the snow`. One system writes
        `a dog runs in the the snow` (7 words), another `a dog runs` (3 words). How many single
        words of the first are right, when each word of the reference counts once? How many
        neighbouring pairs? Give counts, not shares. Then the second. The brevity penalty is 1 if
        the translation is at least as long as the reference, else
        exp(1 - reference length / length); two digits are enough.
        """,
    stub="""
        bleu_parts = {
            "single words right": ...,
            "pairs right": ...,
            "brevity penalty of 7 words": ...,
            "single words right, of 3": ...,
            "brevity penalty of 3 words": ...,
        }
        """,
    hints=(
        "`the` stands twice in the translation and once in the reference.",
        "Write both texts one above the other, then their pairs. Strike out what matches, once.",
        "The pairs a dog, dog runs and the snow match; exp(1 - 6 / 3) = exp(-1)",
    ),
    solution="""
        bleu_parts = {
            "single words right": 5,
            "pairs right": 3,
            "brevity penalty of 7 words": 1.0,
            "single words right, of 3": 3,
            "brevity penalty of 3 words": 0.368,
        }
        """,
    explanation="""
        Clipping stops a system from repeating a safe word, and the brevity penalty stops it from
        saying only what it is sure of: three words of three are right, and the score is cut to a
        third. BLEU multiplies the penalty with the geometric mean of four such precisions.
        """,
    steps=tuple(map(rounded, parts(parts_by_sacrebleu))),
    wrong=(
        Wrong("the second `the` counts no more: clipped", 'right": 5', 'right": 6'),
        Wrong("a, dog, runs, the, snow", 'right": 5', 'right": 4'),
        Wrong("`the the` is no pair of the reference", '"pairs right": 3', '"pairs right": 4'),
        Wrong("`the snow` is a pair of both", '"pairs right": 3', '"pairs right": 2'),
        Wrong("the count, not the share of the 7 words", 'right": 5', 'right": 0.714'),
        Wrong("longer than the reference: no penalty", 'words": 1.0', 'words": 0.857'),
        Wrong("longer than the reference: 1, not more", 'words": 1.0', 'words": 1.154'),
        Wrong("all three stand in the reference", 'of 3": 3', 'of 3": 2'),
        Wrong("the count, not the share of the 3 words", 'of 3": 3', 'of 3": 1'),
        Wrong("1 - 6 / 3 is -1, not -2", "0.368", "0.135"),
        Wrong("exp(-1), not the ratio of the lengths", "0.368", "0.5"),
        Wrong("reference length / length, not the other way round", "0.368", "0.607"),
    ),
)

CUT = Exercise(
    id="16.2",
    title="Batches by tokens",
    kind="write",
    difficulty=2,
    minutes=12,
    task="""
        Sentences come with their lengths, in the order in which they are to be used. Cut them into
        batches, each as large as possible. What a batch costs is what is padded: its longest
        sentence times how many it has. That may reach `budget` and not go beyond. A sentence longer
        than the budget gets a batch of its own. Nothing is lost and nothing changes places.
        """,
    stub='''
        def cut_by_tokens(lengths, budget):
            """lengths: whole numbers in order -> a list of lists of them."""
            return ...
        ''',
    hints=(
        "Before you put a sentence into the batch: how long would the longest be, and how many?",
        "new cost = max(longest so far, length) * (number so far + 1)",
        "if the batch is not empty and the new cost is over budget: start a new batch; then add",
    ),
    solution="""
        def cut_by_tokens(lengths, budget):
            batches = []
            for length in lengths:
                last = batches[-1] if batches else []
                if last and max(*last, length) * (len(last) + 1) <= budget:
                    last.append(length)
                else:
                    batches.append([length])
            return batches
        """,
    explanation="""
        Counting sentences gives batches of very different cost; counting tokens keeps memory and
        time even. If sentences of like length stand together, little of the budget is padding.
        """,
    steps=(
        Step("one sentence", {"lengths": [4], "budget": 10}, [[4]]),
        Step(
            "three of 3 fill a budget of 9 exactly",
            {"lengths": [3, 3, 3, 3], "budget": 9},
            [[3, 3, 3], [3]],
        ),
        Step("padded, 2, 2 and 5 cost 15", {"lengths": [2, 2, 5], "budget": 10}, [[2, 2], [5]]),
        Step(
            "the longest came first",
            {"lengths": [5, 2, 2, 1, 2], "budget": 10},
            [[5, 2], [2, 1, 2]],
        ),
        Step(
            "the longest stands in the middle, then five short ones",
            {"lengths": [2, 4, 1, 1, 1, 2, 1, 2], "budget": 10},
            [[2, 4], [1, 1, 1, 2, 1], [2]],
        ),
        Step(
            "one over the budget stays, alone",
            {"lengths": [2, 12, 3], "budget": 10},
            [[2], [12], [3]],
        ),
        Step(
            "two over the budget come first",
            {"lengths": [9, 12, 3, 3, 3], "budget": 8},
            [[9], [12], [3, 3], [3]],
        ),
        Step("no sentences, no batches", {"lengths": [], "budget": 8}, []),
    ),
    wrong=(
        Wrong("the budget may be reached: <=", "<= budget", "< budget"),
        Wrong(
            "the sum of the lengths leaves the padding out",
            "max(*last, length) * (len(last) + 1)",
            "sum(last) + length",
        ),
        Wrong("the newest length is not always the longest", "max(*last, length)", "length"),
        Wrong("the first and the newest are not all", "max(*last, length)", "max(last[0], length)"),
        Wrong("the new sentence costs too", "(len(last) + 1)", "len(last)"),
        Wrong(
            "sorted: nothing may change places", "length in lengths", "length in sorted(lengths)"
        ),
        Wrong(
            "a budget of 10, whatever is given",
            "last = batches[-1]",
            "budget = 10\n        last = batches[-1]",
        ),
        Wrong(
            "put into an earlier batch with room: nothing may change places",
            """
            def cut_by_tokens(lengths, budget):
                batches = []
                for length in lengths:
                    for batch in batches:
                        if max(*batch, length) * (len(batch) + 1) <= budget:
                            batch.append(length)
                            break
                    else:
                        batches.append([length])
                return batches
            """,
        ),
        Wrong(
            "the longest sentence of the batch before still counts",
            """
            def cut_by_tokens(lengths, budget):
                batches, longest = [], 0
                for length in lengths:
                    longest = max(longest, length)
                    if batches and longest * (len(batches[-1]) + 1) <= budget:
                        batches[-1].append(length)
                    else:
                        batches.append([length])
                return batches
            """,
        ),
        Wrong(
            "an empty batch stands before a sentence over the budget",
            """
            def cut_by_tokens(lengths, budget):
                batches = [[]] if lengths else []
                for length in lengths:
                    if max([*batches[-1], length]) * (len(batches[-1]) + 1) > budget:
                        batches.append([])
                    batches[-1].append(length)
                return batches
            """,
        ),
        Wrong(
            "no sentences give no batch, not an empty one",
            "return batches",
            "return batches or [[]]",
        ),
        Wrong(
            "the last batch is lost",
            """
            def cut_by_tokens(lengths, budget):
                batches, batch = [], []
                for length in lengths:
                    if batch and max(*batch, length) * (len(batch) + 1) > budget:
                        batches.append(batch)
                        batch = []
                    batch.append(length)
                return batches
            """,
        ),
        Wrong(
            "a sentence over the budget is dropped: it gets a batch of its own",
            """
            def cut_by_tokens(lengths, budget):
                batches = []
                for length in lengths:
                    last = batches[-1] if batches else []
                    if last and max(*last, length) * (len(last) + 1) <= budget:
                        last.append(length)
                    elif length <= budget:
                        batches.append([length])
                return batches
            """,
        ),
    ),
)


def shout(batch):
    """A translator whose work can be told from every other one's."""
    return [text.upper() for text in batch]


def count_longest(batch):
    """How many characters the batch's longest text has: what all of it is padded to."""
    return [f"{text} {max(map(len, batch))}" for text in batch]


def one_by_one(texts, translate, batch_size):
    """Each text alone: nothing can be mixed up."""
    return [translate([text])[0] for text in texts]


RESTORE = Exercise(
    id="16.3",
    title="Broken order: right for two lines, wrong for three",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        To pad little, a translator sorts the texts by length, translates batch after batch, and
        puts the results back into the order in which the texts came. **Symptom:** each translation
        is good, but from three lines on it may stand beside another line's source. **Tool:** a
        `translate` that only writes its text in capitals, and `order` printed for `["ccc", "a",
        "bb"]`. Batches must still hold texts of like length.
        """,
    stub='''
        def translate_all(texts, translate, batch_size):
            """translate: at most batch_size texts -> their translations, in that order."""
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            written = []
            for start in range(0, len(order), batch_size):
                written += translate([texts[i] for i in order[start : start + batch_size]])
            return [written[i] for i in order]
        ''',
    hints=(
        "order[0] is the place of the shortest text. Where does written[0] belong?",
        "written[k] is the translation of texts[order[k]]",
        "found[order[k]] = written[k] for every k",
    ),
    solution="""
        def translate_all(texts, translate, batch_size):
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            written = []
            for start in range(0, len(order), batch_size):
                written += translate([texts[i] for i in order[start : start + batch_size]])
            found = [""] * len(texts)
            for place, text in zip(order, written, strict=True):
                found[place] = text
            return found
        """,
    explanation="""
        Sorting is a permutation, and going back needs its inverse. Of two lines each order is its
        own inverse, so the bug hides; `["ccc", "a", "bb"]` is the smallest case that shows it.
        BLEU over the whole test split would only be very low, and would not say why.
        """,
    steps=(
        Step("one text", {"texts": ["a"], "translate": shout, "batch_size": 4}, ["A"]),
        Step(
            "two texts, the longer one first",
            {"texts": ["bb", "a"], "translate": shout, "batch_size": 4},
            one_by_one,
        ),
        Step(
            "three texts, the longest one first",
            {"texts": ["ccc", "a", "bb"], "translate": shout, "batch_size": 4},
            one_by_one,
        ),
        Step(
            "five texts in batches of two",
            {
                "texts": ["dddd", "a", "eeeee", "bb", "ccc"],
                "translate": shout,
                "batch_size": 2,
            },
            one_by_one,
        ),
        Step(
            "texts of like length share a batch",
            {"texts": ["aaaa", "dd", "b", "ccc"], "translate": count_longest, "batch_size": 2},
            ["aaaa 4", "dd 2", "b 2", "ccc 4"],
        ),
        Step(
            "six texts in batches of three",
            {
                "texts": ["ffffff", "a", "dddd", "bb", "eeeee", "ccc"],
                "translate": count_longest,
                "batch_size": 3,
            },
            ["ffffff 6", "a 3", "dddd 6", "bb 3", "eeeee 6", "ccc 3"],
        ),
        Step(
            "the same text three times",
            {"texts": ["bb", "a", "bb", "bb"], "translate": shout, "batch_size": 3},
            one_by_one,
        ),
        Step("no text", {"texts": [], "translate": shout, "batch_size": 3}, []),
    ),
    wrong=(
        Wrong("left in the sorted order", "found[place] = text", "found = written"),
        Wrong(
            "the permutation once more instead of its inverse",
            "return found",
            "return [written[place] for place in order]",
        ),
        Wrong("not sorted any more: a lot is padded", "len(texts[i]))", "0)"),
        Wrong(
            "sorted by the alphabet, not by length",
            "key=lambda i: len(texts[i])",
            "key=texts.__getitem__",
        ),
        Wrong(
            "batch_size is given: not always 2",
            "range(0, len(order), batch_size)",
            "range(0, len(order), batch_size := 2)",
        ),
        Wrong(
            "one text at a time: up to batch_size belong together",
            "range(0, len(order), batch_size)",
            "range(0, len(order), batch_size := 1)",
        ),
        Wrong(
            "of equal texts only the first is found: look for places, not for texts",
            "zip(order, written, strict=True):\n        found[place]",
            "zip(order, written, strict=True):\n        found[texts.index(texts[place])]",
        ),
        Wrong("no text gives no translation", "return found", 'return found or [""]'),
        Wrong(
            "all texts in one batch: batch_size is not kept",
            "range(0, len(order), batch_size)",
            "range(0, len(order), batch_size := len(order) or 1)",
        ),
        Wrong(
            "the last batch, not full, is lost",
            "len(order), batch_size):",
            "len(order) - batch_size + 1, batch_size):",
        ),
    ),
)
