"""The synthetic parallel corpus: sentences drawn at random, and those that training never shows.

A composition (see `patterns`) is *held out* if the CRC-32 of its text, such as `write+letter`, is
divisible by `HELD_OUT`. A sentence that contains one belongs to the test split, any other to train
or val: a test sentence holds no unknown word, but words that never met in this way before.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from data.make_parallel import lexicon, patterns
from data.make_parallel.grammar import IL, ILS, JE, NOUS, Clause, Phrase
from data.make_parallel.lexicon import (
    ADJECTIVES,
    NAMES,
    PRONOUNS,
    VERBS,
    Noun,
    Verb,
    adjectives_of,
    nouns_of,
)
from data.make_parallel.patterns import PERSONS, Sentence, cells, not_later, nouns_in

SPLITS = {"train": 16_000, "val": 500, "test": 1_000}
HELD_OUT = 12
RESERVED = 3_000  # places in the training split for sentences with a word that is still rare:
RARE = 40  # one that fewer training sentences than this contain

Item = TypeVar("Item")
I, WE, HE, SHE, WHO = PRONOUNS  # noqa: E741
VERB = {verb.en: verb for verb in VERBS}
ADJECTIVE = {adjective.en: adjective for adjective in ADJECTIVES}


@dataclass
class Writer:
    """A source of random sentences, each pattern a method.

    It uses nothing but `random.Random.random`, whose numbers Python promises not to change.
    """

    seed: int = 0
    source: random.Random = field(init=False)
    decks: dict[tuple, list] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.source = random.Random(self.seed)

    # Parts

    def pick(self, options: Sequence[Item]) -> Item:
        """Choose one of the options."""
        return options[int(self.source.random() * len(options))]

    def deal(self, options: tuple[Item, ...]) -> Item:
        """Choose one of the options, each of them once before any comes again."""
        deck = self.decks.setdefault(options, [])
        deck += options if not deck else ()
        return deck.pop(int(self.source.random() * len(deck)))

    def chance(self, probability: float) -> bool:
        """Say yes with the probability."""
        return self.source.random() < probability

    def noun(self, classes: Sequence[str], *others: Noun | None) -> Noun:
        """Choose a noun of one of the classes that is none of the others."""
        while (noun := self.pick(nouns_of(*classes))) in others:
            pass
        return noun

    def decorate(self, phrase: Phrase, probability: float) -> Phrase:
        """Add a fitting adjective with the probability, if there is one."""
        fitting = [a for a in adjectives_of(*phrase.noun.classes) if a.position != "never"]
        fitting += [a for a in fitting if not a.tenses] * 2  # they occur nowhere else
        chosen = self.chance(probability) and fitting
        return replace(phrase, adjective=self.pick(fitting)) if chosen else phrase

    def number(self, noun: Noun) -> bool:
        """Choose whether a noun is plural."""
        return bool(noun.en_plural) and self.chance(0.4)

    def definite(self, noun: Noun, *, plural: bool = False) -> Phrase:
        """Make a phrase with the, this, my or our."""
        options = ["the", "the", "the"] + ["this"] * (not plural)
        options += ["my", "our"] * ("ours" in noun.classes)
        return Phrase(noun, self.pick(options), plural)

    def indefinite(self, noun: Noun, *, plural: bool = False, counted: bool = True) -> Phrase:
        """Make a phrase with a, a numeral or no determiner at all."""
        if not plural:
            return Phrase(noun, "a" if noun.en_plural else "bare")
        counted = counted and noun.counter and self.chance(0.5)
        return Phrase(noun, self.pick(["two", "three"]) if counted else "bare", plural)

    def object(self, noun: Noun, *, negative: bool = False) -> Phrase:
        """Make a phrase with any determiner that the noun and a negation allow."""
        plural, divisible = self.number(noun), noun.en_plural or "mass" in noun.classes
        if divisible and self.chance(0.5):
            phrase = self.indefinite(noun, plural=plural, counted=not negative)
        else:
            phrase = self.definite(noun, plural=plural)
        return self.decorate(phrase, 0.4)

    def subject(
        self, classes: Sequence[str], person: int | None = None, *, indefinite: bool = False
    ) -> Phrase:
        """Make a subject in a person, any by default."""
        person = self.pick(PERSONS) if person is None else person
        noun = self.noun(classes)
        if person in (JE, NOUS):
            return Phrase(I if person == JE else WE)
        if person == ILS and "person" in noun.classes and self.chance(0.2):
            return Phrase(noun, "the", partner=self.noun(["person"], noun))
        if person == IL and "person" in noun.classes and self.chance(0.4):
            return Phrase(self.pick([HE, SHE, *NAMES]))
        phrase = self.definite(noun, plural=person == ILS)
        if indefinite and self.chance(0.2):
            determiner = self.pick(["two", "three"]) if phrase.plural else "a"
            phrase = replace(phrase, determiner=determiner)
        return self.decorate(phrase, 0.2)

    def clause(
        self,
        verbs: Sequence[Verb] = VERBS,
        *,
        subject: Phrase | None = None,
        indefinite: bool = False,
        negative: bool = False,
        plain: bool = False,
    ) -> Clause:
        """Make a clause with one of the verbs; `plain` omits adjectives and places."""
        verb, tense, person = self.deal(cells(*verbs))
        if not subject:
            subject = self.subject(verb.subjects, person, indefinite=indefinite and not negative)
        if plain:
            subject = replace(subject, adjective=None)
        arguments = []
        for role, noun_class in verb.roles:
            if role == "in" and (plain or self.chance(0.4)):
                continue
            noun = self.noun([noun_class], subject.noun, subject.partner)
            phrase = self.definite(noun) if role == "in" else self.object(noun, negative=negative)
            if role == "about" and phrase.determiner == "bare":
                phrase = replace(phrase, determiner="the")
            if plain or len(verb.roles) > 1:
                phrase = replace(phrase, adjective=None)
            arguments.append((role, phrase))
        return Clause(subject, verb, tuple(arguments), tense, negative)

    def state(self) -> Clause:
        """Make a clause that says how someone or something is."""
        personal = self.chance(0.65)
        adjective = self.pick(
            [a for a in ADJECTIVES if a.tenses and personal == ("person" in a.classes)]
        )
        if personal:
            subject = self.subject(adjective.classes)
        else:
            noun = self.noun(adjective.classes)
            subject = self.definite(noun, plural=self.number(noun))
        return Clause(replace(subject, adjective=None), adjective, (), self.pick(adjective.tenses))

    # Patterns, named as in `patterns`

    def statement(self) -> Sentence:
        clause = self.clause(indefinite=True, negative=self.chance(0.35))
        return patterns.statement("statement", replace(clause, adverb=self.chance(0.25)))

    def question(self) -> Sentence:
        clause = self.clause()
        if clause.subject.noun in (I, WE):
            return self.question()
        return patterns.question("question", clause)

    def who(self) -> Sentence:
        return patterns.who(self.clause(subject=Phrase(WHO)))

    def state_statement(self) -> Sentence:
        return patterns.statement("state", replace(self.state(), negative=self.chance(0.35)))

    def state_question(self) -> Sentence:
        clause = self.state()
        if clause.subject.noun in (I, WE) or clause.tense == "future":
            return self.state_question()
        return patterns.question("state-question", clause)

    def existence(self) -> Sentence:
        side, inhabitants = self.pick([("outside", "outdoors"), ("inside", "indoors")])
        noun, negative = self.noun([inhabitants]), self.chance(0.3)
        phrase = self.indefinite(noun, plural=self.number(noun), counted=not negative)
        place = "in", Phrase(self.noun([side]), "the")
        tense = self.pick(["past", "present"])
        return patterns.existence(Clause(phrase, lexicon.EXIST, (place,), tense, negative))

    def because_of_oneself(self) -> Sentence:
        verb, (leads, prevents) = self.pick(list(lexicon.MOTIVES.items()))
        negative = not leads or self.chance(0.5)
        main = self.clause([VERB[verb]], negative=negative, plain=True)
        adjective = ADJECTIVE[self.pick(prevents if negative else leads)]
        return patterns.because(main, Clause(main.subject, adjective, (), not_later(main.tense)))

    def because_of_it(self) -> Sentence:
        verb, (leads, prevents) = self.pick(list(lexicon.QUALITIES.items()))
        negative = self.chance(0.5)
        adjective = ADJECTIVE[self.pick(prevents if negative else leads)]
        main = self.clause([VERB[verb]], negative=negative, plain=True)
        (role, first), *others = main.arguments
        if adjective not in adjectives_of(*first.noun.classes):
            return self.because_of_it()
        thing = self.definite(first.noun, plural=self.number(first.noun))
        main = replace(main, arguments=((role, thing), *others))
        return patterns.because(main, Clause(thing, adjective, (), not_later(main.tense)))

    def when(self) -> Sentence:
        event = self.clause([VERB[verb] for verb in lexicon.EVENTS], plain=True)
        main = self.clause([VERB[verb] for verb in lexicon.REACTIONS], plain=True)
        same = event.subject.noun is main.subject.noun
        if same or event.subject.partner or main.subject.partner:  # a pair would make it too long
            return self.when()
        return patterns.when(event, replace(main, tense=event.tense))

    def report(self) -> Sentence:
        verb, speaker = self.pick([lexicon.SAY, lexicon.THINK]), self.subject(["person"])
        said = self.clause(plain=True) if self.chance(0.5) else self.state()
        if nouns_in(speaker) & nouns_in(said.subject) or (
            verb is lexicon.SAY and speaker.noun in (I, WE)
        ):
            return self.report()
        return patterns.report(Clause(replace(speaker, adjective=None), verb), said)

    def relative_subject(self) -> Sentence:
        """The girl who writes the letter is happy; I wait for the girl who wrote it."""
        noun = self.noun(["person", "animal"])
        kind = "person" if "person" in noun.classes else "animal"
        head = Phrase(noun, "the", self.chance(0.4))
        verbs = [verb for verb in VERBS if kind in verb.subjects]
        relative = self.clause(verbs, subject=head, plain=True)
        head = replace(head, relative=replace(relative, tense=not_later(relative.tense)))
        if kind == "animal" or self.chance(0.5):
            states = [adjective for adjective in adjectives_of(kind) if adjective.tenses]
            return patterns.statement("relative-subject", Clause(head, self.pick(states)))
        main = self.clause([VERB[self.pick(["help", "wait"])]])
        if nouns_in(head) & nouns_in(main.subject):
            return self.relative_subject()
        ((role, _),) = main.arguments
        return patterns.statement("relative-subject", replace(main, arguments=((role, head),)))

    def relative_object(self) -> Sentence:
        """The letter that the girl wrote is long; in the past no plural, and so few participles."""
        relative = self.clause([VERB[verb] for verb in lexicon.TAKEN], plain=True)
        ((_, first),) = relative.arguments
        states = [adjective for adjective in adjectives_of(*first.noun.classes) if adjective.tenses]
        if not states or "animal" in first.noun.classes or relative.tense == "future":
            return self.relative_object()
        plural = relative.tense == "present" and self.number(first.noun)
        head = Phrase(first.noun, "the", plural, relative=replace(relative, arguments=()))
        return patterns.statement("relative-object", Clause(head, self.pick(states)))

    def sentence(self) -> Sentence:
        """Make a sentence of any pattern."""
        simple = [self.statement] * 8 + [self.question] * 2 + [self.who]
        states = [self.state_statement] * 3 + [self.state_question, self.existence]
        causes = [self.because_of_oneself, self.because_of_it] * 2
        others = [self.when, self.report, self.relative_subject, self.relative_object] * 2
        return self.pick(simple + states + causes + others)()


def is_held_out(composition: str) -> bool:
    """Tell whether no training sentence may contain the composition."""
    return zlib.crc32(composition.encode("utf-8")) % HELD_OUT == 0


def words_of(sentence: Sentence) -> set[str]:
    """Return the words, particles and endings of a sentence in its three languages."""
    return set(re.findall(r"\|?[^ |.,?']+'?", f"{sentence.en} {sentence.fr} {sentence.ko}"))


def generate_sentences(*, seed: int = 0) -> dict[str, list[Sentence]]:
    """Return the sentences of each split; no English sentence comes twice."""
    writer, seen, counts = Writer(seed), set(), Counter()
    splits: dict[str, list[Sentence]] = {split: [] for split in SPLITS}
    while any(len(splits[split]) < size for split, size in SPLITS.items()):
        sentence = writer.sentence()
        free = SPLITS["train"] - len(splits["train"])
        rare = any(counts[word] < RARE for word in words_of(sentence))
        if any(map(is_held_out, sentence.compositions)):
            split = "test"
        elif free > RESERVED or (free and (rare or writer.chance(0.1))):
            split = "train"
        else:
            split = "val"
        if sentence.en in seen or len(splits[split]) == SPLITS[split]:
            continue
        seen.add(sentence.en)
        splits[split].append(sentence)
        if split == "train":
            counts.update(words_of(sentence))
    return splits


def generate_corpus(*, seed: int = 0) -> str:
    """Return the text of parallel.tsv: split, pattern and the sentence in three languages.

    The same seed gives the same text on every Python: nothing is drawn but `Random.random`.
    """
    lines = ["split\tpattern\ten\tfr\tko"]
    for split, rows in generate_sentences(seed=seed).items():
        lines += ["\t".join([split, row.pattern, row.en, row.fr, row.ko]) for row in rows]
    return "\n".join(lines) + "\n"
