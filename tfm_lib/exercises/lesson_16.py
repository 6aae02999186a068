"""Exercises of lesson 16: German to English."""

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
        "brevity penalty of 3 words": round(short.bp, 3),
    }


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
        neighbouring pairs? Then the second. The brevity penalty is 1 if the translation is at least
        as long as
        the reference, else exp(1 - reference length / length); three digits are enough.
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
        "Pairs of the first: a dog, dog runs, runs in, in the, the the, the snow.",
        "exp(1 - 6 / 3) = exp(-1)",
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
    steps=parts(parts_by_sacrebleu),
    wrong=(
        Wrong("the second `the` counts no more: clipped", 'right": 5', 'right": 6'),
        Wrong("a, dog, runs, the, snow", 'right": 5', 'right": 4'),
        Wrong("`the the` is no pair of the reference", '"pairs right": 3', '"pairs right": 4'),
        Wrong("`the snow` is a pair of both", '"pairs right": 3', '"pairs right": 2'),
        Wrong("longer than the reference: no penalty", 'words": 1.0', 'words": 0.857'),
        Wrong("all three stand in the reference", 'of 3": 3', 'of 3": 2'),
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
        Step("the longest came first", {"lengths": [5, 2, 2, 1], "budget": 10}, [[5, 2], [2, 1]]),
        Step(
            "one over the budget stays, alone",
            {"lengths": [2, 12, 3], "budget": 10},
            [[2], [12], [3]],
        ),
    ),
    wrong=(
        Wrong("the budget may be reached: <=", "<= budget", "< budget"),
        Wrong(
            "the sum of the lengths leaves the padding out",
            "max(*last, length) * (len(last) + 1)",
            "sum(last) + length",
        ),
        Wrong("the newest length is not always the longest", "max(*last, length)", "length"),
        Wrong("the new sentence costs too", "(len(last) + 1)", "len(last)"),
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


def matches_by_sacrebleu(translation, reference, size):
    """The same share as sacrebleu counts it."""
    return score_of(" ".join(translation), " ".join(reference)).precisions[size - 1] / 100


def sentences(translation, reference, size):
    return {"translation": translation.split(), "reference": reference.split(), "size": size}


CLIP = Exercise(
    id="16.3",
    title="Broken score: the same word again and again",
    kind="mend",
    difficulty=2,
    minutes=12,
    task="""
        The share of a translation's runs of `size` words that stand in the reference, one part of
        BLEU. **Symptom:** `the the the` gets full marks. **Tool:** count the runs of both sides
        with `collections.Counter` and print them side by side. Mend it for every size.
        """,
    stub='''
        def share_of_runs(translation, reference, size):
            """translation, reference: lists of words -> matching runs / runs of the translation."""

            def runs(words):
                return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]

            known = runs(reference)
            return sum(run in known for run in runs(translation)) / len(runs(translation))
        ''',
    hints=(
        "A run of the reference can excuse only one run of the translation.",
        "for each run: the smaller one of its two counts",
        "Counter(a) & Counter(b) holds the smaller counts; .total() adds them up",
    ),
    solution="""
        def share_of_runs(translation, reference, size):
            from collections import Counter

            def runs(words):
                return [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]

            written, known = Counter(runs(translation)), Counter(runs(reference))
            return (written & known).total() / written.total()
        """,
    explanation="""
        This is the clipped, or modified, precision of Papineni et al. 2002. Taking the set of runs
        goes too far the other way: a word that the reference repeats may be repeated.
        """,
    steps=(
        Step("one word, the right one", sentences("snow", "snow", 1), matches_by_sacrebleu),
        Step(
            "the same word three times",
            sentences("the the the man", "the snow falls", 1),
            matches_by_sacrebleu,
        ),
        Step(
            "a word that the reference has twice",
            sentences("a dog and a cat", "a cat and a dog", 1),
            matches_by_sacrebleu,
        ),
        Step(
            "pairs", sentences("a dog and a cat", "a cat and a dog runs", 2), matches_by_sacrebleu
        ),
        Step(
            "a translation shorter than the reference",
            sentences("the man", "the old man walks", 1),
            matches_by_sacrebleu,
        ),
    ),
    wrong=(
        Wrong(
            "still not clipped: each repetition counts",
            "(written & known).total()",
            "sum(n for run, n in written.items() if run in known)",
        ),
        Wrong(
            "the set of runs: what the reference repeats may be repeated",
            "(written & known).total()",
            "len(written & known)",
        ),
        Wrong(
            "different runs over different runs: repetitions are no longer punished",
            "(written & known).total() / written.total()",
            "len(written & known) / len(written)",
        ),
        Wrong("divided by the reference's runs: that is recall", "/ written", "/ known"),
        Wrong(
            "single words, whatever the size",
            "words[i : i + size]) for i in range(len(words) - size + 1)",
            "words[i : i + 1]) for i in range(len(words))",
        ),
    ),
)
