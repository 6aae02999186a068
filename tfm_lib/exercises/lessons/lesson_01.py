"""Exercises of lesson 01: sequences."""

import itertools
import math
from collections import Counter
from fractions import Fraction

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts


def counts_by_hand():
    """What the predictions come to, by counting."""
    after_a = Counter(after for text in ("aab", "aba", "abb") for a, after in pairs_of(text, "a"))
    gap_of_three = [(first + "---", first) for first in "abcd"]
    seen = Counter(past[-3:] for past, _ in gap_of_three)
    return {
        "P(b after a), counted by pairs": Fraction(after_a["b"], after_a.total()) * 1.0,
        "bits of surprise at p = 1/8": -math.log2(1 / 8),
        "best accuracy, gap 3, window 3": len(seen) / len(gap_of_three),
        "values of a state that counts ones modulo 3": len({sum(p) % 3 for p in ALL_PASTS}),
    }


def pairs_of(text, first):
    """The pairs of neighbours in a text that begin with `first`."""
    return [pair for pair in itertools.pairwise(text) if pair[0] == first]


ALL_PASTS = list(itertools.product((0, 1), repeat=4))

PREDICT = Exercise(
    id="01.1",
    title="Counting in your head",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        The texts `aab`, `aba` and `abb` are all there is. How likely is `b` after `a`, counted by
        pairs of letters (no `^`, no `$`)? How many bits of surprise is a symbol that was given 1/8?
        In the recall task (one of four letters, then a gap of 3) how often is a window of 3 right
        at best? And how many values must a state have that counts ones modulo 3? All four are exact
        numbers; a fraction or a decimal number will do.
        """,
    stub="""
        counted = {
            "P(b after a), counted by pairs": ...,  # a number, as 1 / 2
            "bits of surprise at p = 1/8": ...,
            "best accuracy, gap 3, window 3": ...,
            "values of a state that counts ones modulo 3": ...,
        }
        """,
    hints=(
        "Write all pairs down. What does the window of 3 see when the question comes?",
        "Share = (pairs ab) / (pairs that begin with a). Surprise = -log2 p.",
        "aa ab ab ba ab bb: three of four; 8 = 2 to the 3rd; four letters, all look alike; 0, 1, 2",
    ),
    solution="""
        counted = {
            "P(b after a), counted by pairs": 3 / 4,
            "bits of surprise at p = 1/8": 3,
            "best accuracy, gap 3, window 3": 1 / 4,
            "values of a state that counts ones modulo 3": 3,
        }
        """,
    explanation="""
        Four pairs begin with `a`: aa, ab, ab, ab. The window of 3 holds the gap and nothing else:
        every letter looks the same, and the best rule is right once in four. The state needs one
        value for each remainder and not one for each past.
        """,
    steps=parts(counts_by_hand),
    wrong=(
        Wrong("divided by all pairs, not by those that begin with a", "3 / 4", "3 / 6"),
        Wrong("an a at the end of a text has nothing after it", "3 / 4", "3 / 5"),
        Wrong("that is how often b stands anywhere, whatever came before", "3 / 4", "4 / 9"),
        Wrong("that is a after a", "3 / 4", "1 / 4"),
        Wrong("surprise counts the halvings that lead there", 'p = 1/8": 3', 'p = 1/8": 8'),
        Wrong("surprise in bits takes the logarithm to base 2", 'p = 1/8": 3', 'p = 1/8": 2.079'),
        Wrong("surprise is minus the logarithm: never below 0", 'p = 1/8": 3', 'p = 1/8": -3'),
        Wrong("the window ends one symbol short, and that costs all", "1 / 4", "3 / 4"),
        Wrong("a window of 3 does not reach over a gap of 3", "1 / 4", "1"),
        Wrong("it sees nothing of the letter, but a guess is right at times", "1 / 4", "0"),
        Wrong("0 is a remainder, too", 'modulo 3": 3', 'modulo 3": 2'),
        Wrong("3 itself leaves the remainder 0", 'modulo 3": 3', 'modulo 3": 4'),
        Wrong("one value for each remainder, not for each past", 'modulo 3": 3', 'modulo 3": 16'),
    ),
)


MEDIAN = "sorted(bits)[len(bits) // 2] / 2 + sorted(bits)[(len(bits) - 1) // 2] / 2"


def by_geometric_mean(probabilities):
    """One over the geometric mean, by multiplication."""
    return math.prod(probabilities) ** (-1 / len(probabilities))


def given(asks, probabilities, want):
    """A step with these probabilities."""
    return Step(asks, {"probabilities": probabilities}, want, tolerance=1e-3)


PERPLEXITY = Exercise(
    id="01.2",
    title="Perplexity",
    kind="write",
    difficulty=1,
    minutes=10,
    task="""
        Language models are often rated by their **perplexity**: 2 to the power of the cross-entropy
        in bits. It says among how many equally likely symbols the model hesitates, on average. You
        get the probabilities that a model gave to what really came, of a text of any length. It
        must be right to three digits after the point.
        """,
    stub='''
        def perplexity(probabilities):
            """2 to the power of the mean surprise in bits; a list of numbers above 0."""
            return ...
        ''',
    hints=(
        "First the surprise of each symbol, then their mean, then the power.",
        "2 ** (sum of -log2(p) / how many)",
        "bits = [-math.log2(p) for each p]; return 2 ** (sum(bits) / len(bits))",
    ),
    solution="""
        def perplexity(probabilities):
            bits = [-math.log2(p) for p in probabilities]
            return 2 ** (sum(bits) / len(bits))
        """,
    explanation="""
        With natural logarithms and e in place of 2 the result is the same: exp(cross-entropy), the
        way PyTorch's loss gives it. It is one over the geometric mean of the probabilities, so one
        symbol with probability near 0 spoils everything. Multiplied, the probabilities of a long
        text come to 0 in a computer; that is why logarithms are added up.
        """,
    steps=(
        given("always certain and right: 1", [1.0, 1.0], 1.0),
        given("four symbols alike: 4", [0.25, 0.25, 0.25], 4.0),
        given("1/2 and 1/8: 1 and 3 bits, so 2 to the 2nd", [0.5, 0.125], 4.0),
        given("a text of one symbol: one over its probability", [0.2], 5.0),
        given("a mixture, one of them twice", [0.9, 0.5, 0.1, 0.5, 0.3], by_geometric_mean),
        given("one in a million, beside two that are certain", [1.0, 1e-6, 1.0], 100.0),
        given("a text of 2,000 symbols at 1/10", [0.1] * 2000, 10.0),
    ),
    wrong=(
        Wrong(
            "that is the cross-entropy: the power is missing",
            "2 ** (sum(bits) / len(bits))",
            "sum(bits) / len(bits)",
        ),
        Wrong("the sum of the bits in the exponent, not their mean", " / len(bits)", ""),
        Wrong("the logarithm is natural and the power is of 2", "log2", "log"),
        Wrong(
            "the mean of the probabilities; surprise comes first",
            """
            def perplexity(probabilities):
                return len(probabilities) / sum(probabilities)
            """,
        ),
        Wrong(
            "the mean of 1/p; surprise comes first",
            """
            def perplexity(probabilities):
                return sum(1 / p for p in probabilities) / len(probabilities)
            """,
        ),
        Wrong("the sign is missing: surprise is minus the logarithm", "-math", "math"),
        Wrong("bits are a power of 2, not of e", "2 ** (sum", "math.exp(sum"),
        Wrong("divided by one symbol too few", "len(bits)", "max(len(bits) - 1, 1)"),
        Wrong("a mean, not the worst symbol alone", "sum(bits) / len(bits)", "max(bits)"),
        Wrong("the middle one; surprise is averaged", "sum(bits) / len(bits)", MEDIAN),
        Wrong(
            "a probability that came twice counts twice",
            "in probabilities",
            "in set(probabilities)",
        ),
        Wrong("a floor under p hides a large surprise", "log2(p)", "log2(max(p, 1e-3))"),
        Wrong(
            "so many factors below 1 come to 0: add up logarithms",
            """
            def perplexity(probabilities):
                return math.prod(probabilities) ** (-1 / len(probabilities))
            """,
        ),
        Wrong("the input list was used up", "return", "probabilities.clear()\n    return"),
    ),
)


def remainders(texts):
    """How many ones each text has, modulo 3, by counting the character."""
    return [text.count("1") % 3 for text in texts]


AS_NUMBER = (
    """
    def ones_modulo_3(texts):
        return [int(text or "0", 2) % 3 for text in texts]
    """,
)
ONLY_IF_FULL = ("        state = 0\n", "        state = 0 if text else state\n")

STATE = Exercise(
    id="01.3",
    title="Broken model: a state that remembers too much",
    kind="mend",
    difficulty=1,
    minutes=8,
    task="""
        The rule is right: the state counts ones modulo 3. **Symptom:** the first text is right,
        most others are not, and the answers change with the order of the texts. **Tool:** hand in
        one text alone, then the same text behind another, and compare.
        """,
    stub='''
        def ones_modulo_3(texts):
            """For each text of 0 and 1: its number of ones, modulo 3."""
            answers, state = [], 0
            for text in texts:
                for bit in text:
                    state = (state + int(bit)) % 3
                answers.append(state)
            return answers
        ''',
    hints=(
        "What is the state when the second text begins?",
        "A text has a past of its own. Before its first symbol there is none.",
        "set the state to 0 at the start of each text, not at the start of all",
    ),
    solution="""
        def ones_modulo_3(texts):
            answers = []
            for text in texts:
                state = 0
                for bit in text:
                    state = (state + int(bit)) % 3
                answers.append(state)
            return answers
        """,
    explanation="""
        A state that leaks from one sequence into the next is a common bug in recurrent code. It
        crashes nothing; in training it shows as noise. Lesson 20's Transformer-XL keeps a memory
        over segments on purpose, and must take care that it belongs to the same text.
        """,
    steps=(
        Step("a text of a single 1", {"texts": ["1"]}, remainders),
        Step("ones among zeros", {"texts": ["00101", "0110110"]}, remainders),
        Step("the same text twice, behind another", {"texts": ["10011", "100", "100"]}, remainders),
        Step("six texts", {"texts": ["11", "111", "1101011", "0", "1", "10"]}, remainders),
        Step("an empty text among others", {"texts": ["1", "", "11"]}, remainders),
        Step("a long text, then a zero", {"texts": ["1" * 1001, "0"]}, remainders),
        Step("no text at all", {"texts": []}, remainders),
    ),
    wrong=(
        Wrong(
            "the state begins anew at each symbol: only the last one counts",
            "        state = 0\n        for bit in text:\n",
            "        for bit in text:\n            state = 0\n",
        ),
        Wrong("the state starts at 1", "state = 0", "state = 1"),
        Wrong("every symbol counts, zeros too", "state + int(bit)", "state + 1"),
        Wrong("modulo 2 is parity", "% 3", "% 2"),
        Wrong(
            "the answer was taken before the text was read",
            "        for bit in text:",
            "        answers.append(state)\n        for bit in text[:0]:",
        ),
        Wrong("only the last text is answered", "return answers", "return answers[-1:]"),
        Wrong("the same text twice needs two answers", "in texts", "in dict.fromkeys(texts)"),
        Wrong("the answers are out of order: as the texts come", "in texts", "in sorted(texts)"),
        Wrong(
            "the texts were mixed up in place", "answers = []", "answers = []\n    texts.reverse()"
        ),
        Wrong("ones are counted, not read as one binary number", *AS_NUMBER),
        Wrong(
            "an empty text has an answer, too: 0",
            "state = 0\n",
            "state = 0\n        if not text: continue\n",
        ),
        Wrong("an empty text has no past: not even that of the text before", *ONLY_IF_FULL),
        Wrong("a text is read to its end, however long", "bit in text", "bit in text[:99]"),
    ),
)
