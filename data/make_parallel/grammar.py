"""A grammar that writes the same sentence in English, French and Korean.

A sentence is first built without any language: a `Clause` has a subject, a verb or an adjective,
and `Phrase`s that fill the verb's roles. `english`, `french` and `korean` each turn it into words,
and see the clause alone, never each other's words. Korean is in the plain style (-다, questions in
-니), with `|` before every particle and ending. Which sentences are made is told in `sampling`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.make_parallel.lexicon import (
    ADVERBS,
    AUXILIARIES,
    BE,
    BEFORE_VOWEL,
    CONTRACTIONS,
    DETERMINERS,
    ELIDED,
    ROLES,
    Adjective,
    Noun,
    Verb,
)

JE, IL, NOUS, ILS = range(4)  # the persons; there is no "you": French and Korean have several


@dataclass(frozen=True)
class Phrase:
    """A noun with its determiner (a key of DETERMINERS, "" for names and pronouns) and the rest."""

    noun: Noun
    determiner: str = ""
    plural: bool = False
    adjective: Adjective | None = None
    partner: Noun | None = None  # the boy and the girl
    relative: "Clause | None" = None  # its subject is the noun itself, or else its object is

    @property
    def person(self) -> int:
        """JE, IL, NOUS or ILS: what the verb agrees with."""
        if self.noun.en in ("I", "we"):
            return JE if self.noun.en == "I" else NOUS
        return ILS if self.plural or self.partner else IL

    @property
    def feminine(self) -> bool:
        """French gender; a mixed pair is masculine."""
        return self.noun.gender == "f" and (not self.partner or self.partner.gender == "f")


@dataclass(frozen=True)
class Clause:
    """Who does what to whom, or is how, and when."""

    subject: Phrase
    head: Verb | Adjective
    arguments: tuple[tuple[str, Phrase], ...] = ()  # (key of ROLES, phrase)
    tense: str = "present"
    negative: bool = False
    adverb: bool = False  # say the day: one of ADVERBS


# English


def english_phrase(phrase: Phrase) -> list[str]:
    """Return the words of a noun phrase."""
    words = [phrase.adjective.en] if phrase.adjective else []
    words += [phrase.noun.en_plural if phrase.plural else phrase.noun.en]
    determiner = DETERMINERS[phrase.determiner][0] if phrase.determiner else ""
    if determiner == "a" and words[0][0] in "aeiou":
        determiner = "an"
    words = [determiner, *words] if determiner else words
    if phrase.partner:
        words += ["and", determiner, phrase.partner.en]
    if (relative := phrase.relative) and relative.subject.noun is phrase.noun:
        who = "who" if "person" in phrase.noun.classes else "that"
        words += [who, *english_predicate(relative)]
    elif relative:
        words += ["that", *english(relative)]
    return words


def english_verb(clause: Clause) -> list[str]:
    """Return the auxiliary, then what follows it: does, eat; is, happy; will, be, happy."""
    verb, tense, person = clause.head, clause.tense, clause.subject.person
    if isinstance(verb, Adjective):
        return ["will", "be", verb.en] if tense == "future" else [BE[tense][person], verb.en]
    present = "does" if person == IL else "do"
    return [{"past": "did", "present": present, "future": "will"}[tense], verb.en]


def english_arguments(clause: Clause) -> list[str]:
    """Return what follows the verb."""
    words = []
    for role, phrase in clause.arguments:
        words += [*ROLES[role][0].split(), *english_phrase(phrase)]
    return words + ([ADVERBS[clause.tense][0]] if clause.adverb else [])


def english_predicate(clause: Clause) -> list[str]:
    """Return a clause's words without its subject."""
    auxiliary, *rest = english_verb(clause)
    if clause.negative:
        words = [auxiliary, "not", *rest]
    elif auxiliary in ("do", "does", "did"):
        verb = clause.head
        words = [{"do": verb.en, "does": verb.en_third, "did": verb.en_past}[auxiliary]]
    else:
        words = [auxiliary, *rest]
    return words + english_arguments(clause)


def english(clause: Clause) -> list[str]:
    """Return the words of a statement."""
    return english_phrase(clause.subject) + english_predicate(clause)


def english_question(clause: Clause) -> list[str]:
    """Return the words of a yes-no question: the auxiliary comes first."""
    auxiliary, *rest = english_verb(clause)
    return [auxiliary, *english_phrase(clause.subject), *rest, *english_arguments(clause)]


# French


def starts_with_vowel(word: str) -> bool:
    """Tell whether French elides before the word; every h of the lexicon is mute."""
    return word[0].lower() in "aeiouyhàâéèêîôœ"


def elide(words: Sequence[str]) -> list[str]:
    """Elide before vowels (le hôtel: l'hôtel), then contract prepositions (de le: du)."""
    words = [
        word[:-1] + "'" if word in ELIDED and starts_with_vowel(following) else word
        for word, following in zip(words, [*words[1:], "."], strict=True)
    ]
    result = []
    for word in words:
        if result and (contracted := CONTRACTIONS.get(f"{result[-1]} {word}")):
            result[-1] = contracted
        else:
            result.append(word)
    return result


def agree(participle: str, phrase: Phrase | None) -> str:
    """Make a participle agree: allé, allée, allés, allées."""
    if not phrase:
        return participle
    return participle + "e" * phrase.feminine + "s" * (phrase.person in (NOUS, ILS))


def french_determiner(phrase: Phrase, following: str, *, negated: bool) -> list[str]:
    """Return the words of a determiner; un, du and des become de after a negation."""
    if not phrase.determiner:
        return []
    beaux = phrase.plural and phrase.adjective and phrase.adjective.position == "before"
    if (phrase.determiner == "bare" and beaux) or (phrase.determiner in ("a", "bare") and negated):
        return ["de"]
    forms = DETERMINERS[phrase.determiner][1]
    word = forms[2 if phrase.plural else phrase.noun.gender == "f"]
    return (BEFORE_VOWEL.get(word, word) if starts_with_vowel(following) else word).split()


def french_phrase(phrase: Phrase, *, negated: bool = False) -> list[str]:
    """Return the words of a noun phrase; `negated` says that it is the object of a negation."""
    noun, adjective = phrase.noun, phrase.adjective
    words = [noun.fr_plural if phrase.plural else noun.fr]
    if adjective:
        form = 2 * phrase.plural + (noun.gender == "f")
        words.insert(0 if adjective.position == "before" else 1, adjective.fr[form])
    words = french_determiner(phrase, words[0], negated=negated) + words
    if phrase.partner:
        words += ["et", *french_phrase(Phrase(phrase.partner, phrase.determiner))]
    if (relative := phrase.relative) and relative.subject.noun is noun:
        words += ["qui", *french_predicate(relative)]
    elif relative:
        words += ["que", *french(relative, moved=phrase)]
    return words


def french_predicate(clause: Clause, *, moved: Phrase | None = None) -> list[str]:
    """Return a clause's words without its subject; a participle agrees with a `moved` object."""
    head, tense, subject, person = clause.head, clause.tense, clause.subject, clause.subject.person
    if isinstance(head, Adjective):
        auxiliary = "avoir" if head.position == "never" else "être"
        form = 2 * (person in (NOUS, ILS)) + subject.feminine
        finite, *rest = AUXILIARIES[auxiliary, tense][person], head.fr[form % len(head.fr)]
    elif tense == "past":
        cause = subject if head.fr_auxiliary == "être" else moved
        finite = AUXILIARIES[head.fr_auxiliary, "present"][person]
        rest = [agree(head.fr_participle, cause)]
    elif tense == "future":
        finite, rest = head.fr_future + ("ai", "a", "ons", "ont")[person], []
    else:
        finite, rest = head.fr[person], []
    words = ["ne", finite, "pas", *rest] if clause.negative else [finite, *rest]
    for role, phrase in clause.arguments:
        preposition = ROLES[role][1]
        negated = clause.negative and not preposition
        words += [*preposition.split(), *french_phrase(phrase, negated=negated)]
    return words + ([ADVERBS[tense][1]] if clause.adverb else [])


def french(clause: Clause, *, moved: Phrase | None = None) -> list[str]:
    """Return the words of a statement."""
    return french_phrase(clause.subject) + french_predicate(clause, moved=moved)


# Korean


def final_consonant(word: str) -> int:
    """Return which of the 27 final consonants a word ends in, 0 for a vowel."""
    return (ord(word[-1]) - 0xAC00) % 28


NIEUN, RIEUL = final_consonant("은"), final_consonant("을")


def close_with(word: str, final: int) -> str:
    """Give a word's last syllable another final consonant: (가, RIEUL) is 갈."""
    return word[:-1] + chr(ord(word[-1]) - final_consonant(word) + final)


def particle(word: str, pair: str) -> str:
    """Append a particle, given as `은/는`: the first form stands after a consonant."""
    after_consonant, _, after_vowel = pair.partition("/")
    vowel = final_consonant(word) in ((0, RIEUL) if pair == "으로/로" else (0,))
    return f"{word}|{after_vowel if vowel and after_vowel else after_consonant}"


def adnominal(stem: str, final: int) -> str:
    """Attach -(으)ㄴ or -(으)ㄹ to a stem: (먹, NIEUN) is 먹|은, (가, NIEUN) 간, (팔, RIEUL) 팔."""
    if final_consonant(stem) in (0, RIEUL):
        return close_with(stem, final)
    return f"{stem}|{'은' if final == NIEUN else '을'}"


def before_nieun(stem: str) -> str:
    """Drop a final ㄹ, as stems do before -는 and -니: 파|는, 우|니."""
    return close_with(stem, 0) if final_consonant(stem) == RIEUL else stem


def inflect(head: Verb | Adjective, tense: str, ending: str) -> str:
    """Inflect a Korean stem; the ending is 다, 다고, 니, 기 때문에, 때 or 는 (before a noun)."""
    future = adnominal(head.ko_vowel, RIEUL)
    if ending == "때":
        return f"{head.ko_past}|을 때" if tense == "past" else f"{future} 때"
    if ending == "는":
        describes = isinstance(head, Adjective) and not head.ko.endswith("있")
        if tense == "past" or describes:
            return adnominal(head.ko_vowel, NIEUN)
        return f"{before_nieun(head.ko)}|는"
    if tense == "past":
        return f"{head.ko_past}|{ending}"
    if tense == "future":
        return future + {"다": " 것이|다", "다고": " 것이|라고", "니": " 거|니"}[ending]
    if ending == "니":
        return f"{before_nieun(head.ko)}|니"
    if isinstance(head, Adjective) or ending == "기 때문에":
        return f"{head.ko}|{ending}"
    if final_consonant(head.ko) in (0, RIEUL):
        return f"{close_with(head.ko, NIEUN)}|{ending}"
    return f"{head.ko}|는|{ending}"


def korean_predicate(clause: Clause, ending: str) -> str:
    """Return the inflected verb or adjective; negated, 않다 inflects in its place."""
    if not clause.negative:
        return inflect(clause.head, clause.tense, ending)
    negation = replace(clause.head, ko="않", ko_vowel="않", ko_past="않|았")
    return f"{clause.head.ko}|지 {inflect(negation, clause.tense, ending)}"


def korean_phrase(phrase: Phrase, pair: str) -> list[str]:
    """Return the words of a noun phrase and its particle, given as `은/는`."""
    noun, animate = phrase.noun, {"person", "animal"} & set(phrase.noun.classes)
    subject, determiner = pair in ("은/는", "이/가"), phrase.determiner
    words = [DETERMINERS[determiner][2]] if determiner in ("this", "my", "our") else []
    if phrase.relative:
        relative = phrase.relative
        words += korean(relative, "는", topic="" if relative.subject.noun is noun else "이/가")
    if phrase.adjective:
        words.append(inflect(phrase.adjective, "present", "는"))
    word = noun.ko
    if phrase.partner:
        words.append(particle(word, "과/와"))
        word = phrase.partner.ko
    if determiner in ("two", "three") or (determiner == "a" and subject and animate):
        words += [word, DETERMINERS[determiner][2]]
        word = noun.counter
    elif phrase.plural and animate:
        word += "|들"
    if pair == "이/가" and word == "나":
        word = "내"
    return [*words, particle(word, pair)]


def korean(
    clause: Clause, ending: str = "다", *, topic: str = "은/는", inserted: Sequence[str] = ()
) -> list[str]:
    """Return a clause's words: subject, `inserted` (another clause), the rest, verb last.

    The subject's particle is `topic`; "" leaves the subject out. Subjects that are new, such as a
    girl or two girls, and the question word take 이/가 even where a topic is wanted.
    """
    words = []
    if topic:
        new = clause.subject.determiner in ("a", "two", "three") or clause.subject.noun.ko == "누"
        words += korean_phrase(clause.subject, "이/가" if new else topic)
    words += inserted
    words += [ADVERBS[clause.tense][2]] if clause.adverb else []
    for role, phrase in reversed(clause.arguments):
        words += korean_phrase(phrase, ROLES[role][2])
    return [*words, korean_predicate(clause, ending)]
