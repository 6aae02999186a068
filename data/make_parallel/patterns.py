"""Sentences of the synthetic parallel corpus: clauses, put together in three languages.

A sentence is made of *compositions*, pairs of words that belong together in it: subject+verb
(girl+write), verb+noun (write+letter) and adjective+noun (big+house: a big house, or the house is
big) where the agreement can be inferred. `sampling` keeps some of them out of the training split.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from data.make_parallel.grammar import (
    IL,
    ILS,
    JE,
    NOUS,
    Clause,
    Phrase,
    elide,
    english,
    english_phrase,
    english_question,
    french,
    french_phrase,
    korean,
    korean_phrase,
    korean_predicate,
    starts_with_vowel,
)
from data.make_parallel.lexicon import BE, NAMES, NOUNS, PRONOUNS, Adjective, Noun, Verb, nouns_of

TENSES = ("past", "present", "future")
PERSONS = (JE, IL, NOUS, ILS)


@cache
def cells(*verbs: Verb) -> tuple[tuple[Verb, str, int], ...]:
    """Return all forms of the verbs; those whose participle agrees with the subject come twice."""
    return tuple(
        (verb, tense, person)
        for verb in verbs
        for tense in TENSES
        for person in PERSONS
        for _ in range(2 if verb.fr_auxiliary == "être" and tense == "past" else 1)
    )


def not_later(tense: str) -> str:
    """Return the tense of a cause or a relative clause: the present for what is still to come."""
    return "past" if tense == "past" else "present"


@dataclass(frozen=True)
class Sentence:
    """A sentence in three languages, the pattern it follows and the compositions it contains."""

    pattern: str
    en: str
    fr: str
    ko: str
    compositions: frozenset[str]


@cache
def is_inferable(adjective: Adjective | None, noun: Noun) -> bool:
    """Tell whether the French agreement of a pair can be known to those who never met the pair.

    That takes an adjective known from many nouns, and a noun whose article shows its gender.
    """
    if adjective is None or starts_with_vowel(noun.fr):
        return False
    return len(nouns_of(*adjective.classes)) >= 10


def nouns_in(phrase: Phrase) -> set[Noun]:
    """Return the one or two nouns that a phrase names."""
    return {phrase.noun, phrase.partner or phrase.noun}


def compositions(*clauses: Clause) -> Iterator[str]:
    """Yield the compositions of clauses, those of their relative clauses included."""
    for clause in clauses:
        head = clause.head.en
        for noun in nouns_in(clause.subject) & set(NOUNS):
            if isinstance(clause.head, Verb):
                yield f"{noun.en}+{head}"
            elif is_inferable(clause.head, noun):
                yield f"{head}+{noun.en}"
        for _, phrase in clause.arguments:
            yield f"{head}+{phrase.noun.en}"
        for phrase in [clause.subject, *(phrase for _, phrase in clause.arguments)]:
            if is_inferable(phrase.adjective, phrase.noun):
                yield f"{phrase.adjective.en}+{phrase.noun.en}"
            if phrase.relative:
                yield from compositions(phrase.relative)
                if phrase.relative.subject.noun is not phrase.noun:
                    yield f"{phrase.relative.head.en}+{phrase.noun.en}"


def pattern(name: str, tense: str, negative: bool) -> str:
    """Name a pattern: statement.past, statement.past.not, ..."""
    return ".".join([name, tense, *["not"] * negative])


def write(words: Sequence[str], mark: str) -> str:
    """Join words to a text that ends in a mark; a word after an apostrophe follows at once."""
    return " ".join(words).replace("' ", "'").replace(" ,", ",") + mark


def assemble(
    name: str,
    clause: Clause,
    words: tuple[Sequence[str], Sequence[str], Sequence[str]],
    found: Iterable[str],
    mark: str = ".",
) -> Sentence:
    """Make a sentence of its words in three languages; `clause` gives tense and negation."""
    en, fr, ko = words
    texts = write(en, mark), write(elide(fr), mark), write(ko, mark)
    return Sentence(pattern(name, clause.tense, clause.negative), *texts, frozenset(found))


def statement(name: str, clause: Clause) -> Sentence:
    """The girl writes the letter."""
    words = english(clause), french(clause), korean(clause)
    return assemble(name, clause, words, compositions(clause))


def question(name: str, clause: Clause) -> Sentence:
    """Does the girl write the letter?"""
    words = english_question(clause), ["est-ce", "que", *french(clause)], korean(clause, "니")
    return assemble(name, clause, words, compositions(clause), "?")


def who(clause: Clause) -> Sentence:
    """Who writes the letter?"""
    words = english(clause), french(clause), korean(clause, "니")
    return assemble("who", clause, words, compositions(clause), "?")


def existence(clause: Clause) -> Sentence:
    """There are two cats in the garden; `clause` says the same as "two cats ... in the garden"."""
    phrase, ((_, place),) = clause.subject, clause.arguments
    past, negative = clause.tense == "past", clause.negative
    counted = replace(phrase, determiner="") if negative else phrase
    en = ["there", BE[clause.tense][phrase.person], *["no"] * negative, *english_phrase(counted)]
    fr = ["il", *["ne"] * negative, "y", "avait" if past else "a", *["pas"] * negative]
    ko = [("없" if negative else "있") + "|었" * past + "|다"]
    words = (
        [*en, "in", *english_phrase(place)],
        [*fr, *french_phrase(phrase, negated=negative), "dans", *french_phrase(place)],
        [*korean_phrase(place, "에"), *korean_phrase(counted, "이/가"), *ko],
    )
    return assemble("existence", clause, words, [])


def pronoun(phrase: Phrase) -> Phrase:
    """Make the pronoun that takes up a phrase: she, it, they, ..."""
    if phrase.noun in PRONOUNS:
        return phrase
    many, feminine = phrase.person == ILS, phrase.feminine
    human = phrase.noun in NAMES or "person" in phrase.noun.classes
    en = "they" if many else ("she" if feminine else "he") if human else "it"
    fr = ("elle" if feminine else "il") + "s" * many
    return Phrase(Noun(en, en, fr, fr, "f" if feminine else "m", "", "", ()), plural=many)


def because(main: Clause, cause: Clause) -> Sentence:
    """The girl sleeps because she is tired; she does not buy the car because it is expensive.

    The subject of the cause is the subject of the main clause, or its first argument: that thing
    is named in the Korean cause, which comes first, and not again after it.
    """
    told = replace(cause, subject=pronoun(cause.subject))
    ko = [korean_predicate(cause, "기 때문에")]
    if cause.subject is main.subject:
        name, rest = "because-doer", main
    else:
        name, rest = "because-thing", replace(main, arguments=main.arguments[1:])
        ko = korean_phrase(cause.subject, "이/가") + ko
    words = (
        [*english(main), "because", *english(told)],
        [*french(main), "parce", "que", *french(told)],
        korean(rest, inserted=ko),
    )
    return assemble(name, main, words, compositions(main, cause))


def when(event: Clause, main: Clause) -> Sentence:
    """When the king comes, the children will sing; both clauses are in the same tense."""
    told = replace(event, tense="present") if event.tense == "future" else event
    words = (
        ["when", *english(told), ",", *english(main)],
        ["quand", *french(event), ",", *french(main)],
        korean(event, "때", topic="이/가") + korean(main),
    )
    return assemble("when", main, words, compositions(event, main))


def report(main: Clause, said: Clause) -> Sentence:
    """The teacher thinks that the girl will go to the school."""
    words = (
        [*english(main), "that", *english(said)],
        [*french(main), "que", *french(said)],
        korean(main, inserted=korean(said, "다고", topic="이/가")),
    )
    return assemble(main.head.en, said, words, compositions(main, said))
