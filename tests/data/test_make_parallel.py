"""The synthetic parallel corpus: its file, its splits, and its French and Korean."""

import re
from collections import Counter
from itertools import pairwise

import pytest

from data.make_parallel.grammar import NIEUN, RIEUL, adnominal, elide, final_consonant, particle
from data.make_parallel.lexicon import ADJECTIVES, NAMES, NOUNS, PRONOUNS, VERBS, noun_kinds
from data.make_parallel.sampling import SPLITS, generate_sentences, is_held_out
from tfm_lib.text.tokenizers import WordTokenizer
from tools.lessons import ROOT

FILE = ROOT / "data" / "parallel.tsv"
TOKENIZE = WordTokenizer().tokenize
LANGUAGES = ("en", "fr", "ko")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    header, *lines = FILE.read_text(encoding="utf-8").splitlines()
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


@pytest.fixture(scope="module")
def generated():
    return generate_sentences(seed=0)


def texts(rows, language, split=None) -> list[str]:
    return [row[language] for row in rows if split in (None, row["split"])]


# The file


def test_the_file_is_what_the_grammar_generates(generated):
    lines = ["split\tpattern\ten\tfr\tko"]
    for split, sentences in generated.items():
        lines += ["\t".join([split, s.pattern, s.en, s.fr, s.ko]) for s in sentences]
    assert FILE.read_bytes() == ("\n".join(lines) + "\n").encode("utf-8")


def test_the_kinds_of_nouns_are_what_the_lexicon_says():
    assert (ROOT / "data" / "nouns.tsv").read_bytes() == noun_kinds().encode("utf-8")


def test_another_seed_gives_another_corpus(rows, monkeypatch):
    monkeypatch.setattr("data.make_parallel.sampling.SPLITS", {"train": 20, "val": 2, "test": 3})
    monkeypatch.setattr("data.make_parallel.sampling.RESERVED", 0)
    other = generate_sentences(seed=1)
    assert [len(sentences) for sentences in other.values()] == [20, 2, 3]
    assert [s.en for s in other["train"]] != texts(rows, "en", "train")[:20]


def test_every_split_has_its_size_and_every_english_sentence_comes_once(rows):
    assert Counter(row["split"] for row in rows) == SPLITS
    assert SPLITS == {"train": 16_000, "val": 500, "test": 1_000}
    assert len(set(texts(rows, "en"))) == len(rows)


def test_every_pattern_is_in_every_split(rows):
    patterns = {
        split: Counter(r["pattern"] for r in rows if r["split"] == split) for split in SPLITS
    }
    assert patterns["val"].keys() <= patterns["train"].keys()
    assert patterns["test"].keys() <= patterns["train"].keys()
    assert len(patterns["train"]) == 49
    assert min(patterns["train"].values()) >= 40


# Tokens


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_token_is_frequent_in_training(rows, language):
    counts = Counter(t for text in texts(rows, language, "train") for t in set(TOKENIZE(text)))
    unseen = {t for text in texts(rows, language) for t in TOKENIZE(text)} - counts.keys()
    assert not unseen
    rare = {token: count for token, count in counts.items() if count < 40}
    assert min(counts.values()) >= 10, rare
    assert len(rare) <= 0.02 * len(counts), rare


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_short_and_their_tokens_join_again(rows, language):
    for text in texts(rows, language):
        assert 3 <= len(TOKENIZE(text)) <= 19, text
        assert WordTokenizer().detokenize(TOKENIZE(text)) == text


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_ends_in_its_mark_and_has_no_other(rows, language):
    for row in rows:
        mark = "?" if re.match(r"question|state-question|who", row["pattern"]) else "."
        assert re.fullmatch(rf"[^.?!]+[^ .?!]{re.escape(mark)}", row[language]), row
        assert row[language].count(",") == (row["pattern"].startswith("when") and language != "ko")
        assert "  " not in row[language]


def test_only_names_and_the_english_i_have_capitals(rows):
    names = {name.en for name in NAMES}
    for language in ("en", "fr"):
        capitals = {t for text in texts(rows, language) for t in TOKENIZE(text) if t != t.lower()}
        assert capitals == names | ({"I"} if language == "en" else set())


# Held-out compositions


def test_no_composition_of_the_test_split_s_kind_is_in_training(generated):
    for split, sentences in generated.items():
        for sentence in sentences:
            held_out = set(filter(is_held_out, sentence.compositions))
            assert bool(held_out) == (split == "test"), (split, sentence.en, held_out)
    seen = Counter(c for sentence in generated["train"] for c in sentence.compositions)
    new = {c for sentence in generated["test"] for c in sentence.compositions} - seen.keys()
    words = {word for composition in seen for word in composition.split("+")}
    assert len(new) >= 50
    assert {word for composition in new for word in composition.split("+")} <= words


LEMMAS = dict.fromkeys(["I", "we", "he", "she", "it", "they", "who"], "PRONOUN")
for word in [*NOUNS, *NAMES]:
    LEMMAS |= {word.en: word.en, word.en_plural: word.en}
for verb in VERBS:
    LEMMAS |= dict.fromkeys([verb.en, verb.en_third, verb.en_past], verb.en)
LEMMAS |= {adjective.en: adjective.en for adjective in ADJECTIVES}


def lemmas(text: str) -> list[str]:
    """Return the content words of an English sentence, each in its base form."""
    return [LEMMAS[token] for token in TOKENIZE(text) if token in LEMMAS]


def test_held_out_neighbours_never_meet_in_the_english_of_training(rows):
    """Read compositions off the text, without the grammar: words next to each other.

    Adjective and noun, noun and verb, verb and noun, adjectives between these two left out. With
    adjectives count those of ten nouns or more, and nouns whose French article shows their gender.
    """
    nouns, verbs = {noun.en for noun in NOUNS}, {verb.en for verb in VERBS}
    adjectives = {adjective.en for adjective in ADJECTIVES}
    wide = adjectives - {"beautiful", "long", "red", "interesting", "fresh"}
    hidden = {noun.en for noun in NOUNS if noun.fr[0] in "aehoéœ"}  # whose article is l'
    found = {"train": Counter(), "test": Counter()}
    for row in rows:
        if row["split"] == "val":
            continue
        for part in re.split(r",| because ", row["en"]):
            words = lemmas(part)
            bare = [word for word in words if word not in adjectives]
            pairs = [(a, b) for a, b in pairwise(words) if a in wide and b in nouns - hidden]
            pairs += [(a, b) for a, b in pairwise(bare) if a in nouns and b in verbs]
            pairs += [(a, b) for a, b in pairwise(bare) if a in verbs and b in nouns]
            found[row["split"]].update(f"{a}+{b}" for a, b in pairs)
    held_out = {pair: count for pair, count in found["train"].items() if is_held_out(pair)}
    assert not held_out
    assert sum(count for pair, count in found["test"].items() if is_held_out(pair)) >= 500


def test_no_test_sentence_has_the_content_words_of_a_training_sentence(rows):
    seen = {(row["pattern"], *lemmas(row["en"])) for row in rows if row["split"] == "train"}
    for row in rows:
        assert row["split"] != "test" or (row["pattern"], *lemmas(row["en"])) not in seen, row


# Sentences translated by hand

TRIPLES = """
the princess eats the bread.
la princesse mange le pain.
공주는 빵을 먹는다.

I wait for the witches.
j'attends les sorcières.
나는 마녀들을 기다린다.

we sell coffee.
nous vendons du café.
우리는 커피를 판다.

the doctor will give three books to a princess.
le médecin donnera trois livres à une princesse.
의사는 공주에게 책 세 권을 줄 것이다.

a cat runs to the market today.
un chat court au marché aujourd'hui.
고양이 한 마리가 오늘 시장으로 달려간다.

a witch goes to this castle.
une sorcière va à ce château.
마녀 한 명이 이 성에 간다.

a sad doctor gave a bag to the teacher.
un médecin triste a donné un sac au professeur.
슬픈 의사 한 명이 교사에게 가방을 주었다.

I returned to this small library.
je suis retournée à cette petite bibliothèque.
나는 이 작은 도서관으로 돌아갔다.

the queens went to this small school.
les reines sont allées à cette petite école.
여왕들은 이 작은 학교에 갔다.

the prince and the king came from the old library yesterday.
le prince et le roi sont venus de la vieille bibliothèque hier.
왕자와 왕은 어제 낡은 도서관에서 왔다.

we came from the market.
nous sommes venus du marché.
우리는 시장에서 왔다.

the witches will not go to the small hospital tomorrow.
les sorcières n'iront pas au petit hôpital demain.
마녀들은 내일 작은 병원에 가지 않을 것이다.

we will not go to our village.
nous n'irons pas à notre village.
우리는 우리 마을에 가지 않을 것이다.

I will not sell milk.
je ne vendrai pas de lait.
나는 우유를 팔지 않을 것이다.

I do not see a tree.
je ne vois pas d'arbre.
나는 나무를 보지 않는다.

I do not translate the letters.
je ne traduis pas les lettres.
나는 편지를 번역하지 않는다.

we did not eat bread.
nous n'avons pas mangé de pain.
우리는 빵을 먹지 않았다.

the princess does not talk about a poem.
la princesse ne parle pas d'un poème.
공주는 시에 대해 이야기하지 않는다.

did she give the computers to three boys?
est-ce qu'elle a donné les ordinateurs à trois garçons?
그녀는 소년 세 명에게 컴퓨터를 주었니?

will the queens give three bikes to the children?
est-ce que les reines donneront trois vélos aux enfants?
여왕들은 아이들에게 자전거 세 대를 줄 거니?

does the witch wait for a teacher?
est-ce que la sorcière attend un professeur?
마녀는 교사를 기다리니?

who closed the small windows?
qui a fermé les petites fenêtres?
누가 작은 창문을 닫았니?

the flowers are beautiful.
les fleurs sont belles.
꽃은 아름답다.

Anna was hungry.
Anna avait faim.
안나는 배고팠다.

I am happy.
je suis heureuse.
나는 행복하다.

the actress will not be happy.
l'actrice ne sera pas heureuse.
여배우는 행복하지 않을 것이다.

were my dogs black?
est-ce que mes chiens étaient noirs?
내 개들은 검었니?

there are two bags in the house.
il y a deux sacs dans la maison.
집에 가방 두 개가 있다.

there is no flower in the forest.
il n'y a pas de fleur dans la forêt.
숲에 꽃이 없다.

Anna did not work at the library because she was sick.
Anna n'a pas travaillé à la bibliothèque parce qu'elle était malade.
안나는 아팠기 때문에 도서관에서 일하지 않았다.

the children do not write a letter because they are sick.
les enfants n'écrivent pas de lettre parce qu'ils sont malades.
아이들은 아프기 때문에 편지를 쓰지 않는다.

I do not work at the market because I am hungry.
je ne travaille pas au marché parce que j'ai faim.
나는 배고프기 때문에 시장에서 일하지 않는다.

the queens do not buy the flowers because they are expensive.
les reines n'achètent pas les fleurs parce qu'elles sont chères.
여왕들은 꽃이 비싸기 때문에 사지 않는다.

I did not sell the houses because they were beautiful.
je n'ai pas vendu les maisons parce qu'elles étaient belles.
나는 집이 아름다웠기 때문에 팔지 않았다.

I will not translate the letter because it is long.
je ne traduirai pas la lettre parce qu'elle est longue.
나는 편지가 길기 때문에 번역하지 않을 것이다.

when the kings returned to this library, we sang.
quand les rois sont retournés à cette bibliothèque, nous avons chanté.
왕들이 이 도서관으로 돌아갔을 때 우리는 노래했다.

when the princesses close the bag, I will sing.
quand les princesses fermeront le sac, je chanterai.
공주들이 가방을 닫을 때 나는 노래할 것이다.

the actresses say that I eat tomatoes.
les actrices disent que je mange des tomates.
여배우들은 내가 토마토를 먹는다고 말한다.

the princess thinks that I will go to the hospital.
la princesse pense que j'irai à l'hôpital.
공주는 내가 병원에 갈 것이라고 생각한다.

the queen thinks that I was hungry.
la reine pense que j'avais faim.
여왕은 내가 배고팠다고 생각한다.

the bread that Anna bought is expensive.
le pain qu'Anna a acheté est cher.
안나가 산 빵은 비싸다.

the box that the boy bought is big.
la boîte que le garçon a achetée est grande.
소년이 산 상자는 크다.

the dog that ran to the library is black.
le chien qui a couru à la bibliothèque est noir.
도서관으로 달려간 개는 검다.

we help the women who went to our school.
nous aidons les femmes qui sont allées à notre école.
우리는 우리 학교에 간 여자들을 돕는다.

the witch who sells the bags is sick.
la sorcière qui vend les sacs est malade.
가방을 파는 마녀는 아프다.
"""


@pytest.mark.parametrize("triple", TRIPLES.strip().split("\n\n"))
def test_a_sentence_translated_by_hand(rows, triple):
    en, fr, ko = triple.splitlines()
    (row,) = [row for row in rows if row["en"] == en]
    assert row["fr"] == fr
    assert row["ko"].replace("|", "") == ko


# French, checked by rules that know nothing of the grammar

V = "[aeiouyhâéêèàîôœA]"
ADJECTIVE = "grande?|petite?|beau|belle|vieux|vieille|long|longue"
MASCULINE = (
    "garçon|enfant|homme|roi|prince|médecin|professeur|chien|chat|oiseau|cheval|œuf|gâteau|pain"
    "|lait|café|livre|journal|poème|vélo|ordinateur|chapeau|sac|arbre|marché|hôpital|hôtel|village"
    "|château|jardin"
)
FEMININE = (
    "fille|femme|reine|princesse|actrice|sorcière|vache|pomme|tomate|viande|soupe|eau|lettre"
    "|histoire|chanson|musique|voiture|maison|boîte|fleur|porte|fenêtre|école|bibliothèque|forêt"
    "|cuisine|chambre"
)
FORBIDDEN_FRENCH = {
    "elision": rf"\b(le|la|je|ne|que|de|ce|ma) {V}|'(?!{V})|' ",
    "contraction": r"\b(de|à) les?\b",
    "masculine": rf"\b(la|une|cette|ma) (({ADJECTIVE}) )?({MASCULINE})\b",
    "feminine": rf"\b(le|un|du|au|cet?) (({ADJECTIVE}) )?({FEMININE})\b"
    rf"|\bmon (?!{V})({FEMININE})\b",
    "number": rf"\b(les|des|ces|mes|nos|aux|deux|trois) (\w+s )?({MASCULINE}|{FEMININE})\b",
    "before": rf"\b(grand|petit|beau|vieux|long) ({FEMININE})s?\b"
    rf"|\b(grande|petite|belle|vieille|longue)s? ({MASCULINE})s?\b",
    "after": rf"\b({FEMININE})s? (noir|cher|froid|chaud|frais|heureux|intéressant|fatigué)s?\b"
    rf"|\b({MASCULINE})s? (noire|chère|froide|chaude|fraîche|heureuse|intéressante|fatiguée)",
    "je": r"\b(j'|je (ne |n')?)(a|est|va|ont|sont|\w+ons|\w+ent|\w+ez)\b",
    "nous": r"\bnous (?!(ne |n')?(sommes|\w+ons)\b)",
    "il": r"\b(il|elle) (ne |n')?(ai|suis|vais|ont|sont|vont|\w+ons|\w+[^i]ent)\b",
    "ils": r"\b(ils|elles) (?!(ne |n')?\w+nt\b)",
    "she is": r"\belle (est|était|sera) \w+(?<!e)\."
    r"|\b(ils|elles) (sont|étaient|seront) \w+(?<![sx])\.",
    "they are": r"\belles (sont|étaient|seront) \w+(?<!es)\.|\bils (sont|étaient|seront) \w+ées\.",
    "être": r"\b(nous|ils) sommes? \w+(?<!s) (à|au|de|du)\b"
    r"|\bje suis \w+é (à|au)\b|\bai (allé|venu)",
    "negation": r"\b(ne |n')(?!y )(?!\w+ pas\b)|\bpas (\w+(é|u|it|ert) )?une? ",
}


@pytest.mark.parametrize("rule", FORBIDDEN_FRENCH)
def test_no_french_sentence_breaks_a_rule(rows, rule):
    wrong = [text for text in texts(rows, "fr") if re.search(FORBIDDEN_FRENCH[rule], text)]
    assert not wrong, wrong[:5]


def test_french_questions_begin_as_they_should(rows):
    for row in rows:
        asks = row["fr"].endswith("?")
        assert asks == bool(re.match(r"est-ce (que |qu')|qui ", row["fr"])), row


def test_elision_contraction_and_agreement():
    assert elide(["je", "ai", "vu", "le", "homme", "de", "le", "hôtel"]) == [
        "j'",
        "ai",
        "vu",
        "l'",
        "homme",
        "de",
        "l'",
        "hôtel",
    ]
    assert elide(["à", "le", "roi", "de", "les", "enfants"]) == ["au", "roi", "des", "enfants"]
    assert elide(["est-ce", "que", "elle", "ne", "est", "pas", "à", "la", "école"]) == (
        ["est-ce", "qu'", "elle", "n'", "est", "pas", "à", "l'", "école"]
    )


# Korean, checked by the last syllable's final consonant


def final(word: str) -> int:
    """Return the index of the final consonant, 0 for none and 8 for ㄹ."""
    assert "가" <= word[-1] <= "힣", word
    return (ord(word[-1]) - 0xAC00) % 28


def test_every_korean_particle_fits_the_noun_before_it(rows):
    nouns = {noun.ko for noun in [*NOUNS, *NAMES, *PRONOUNS]} - {"나"}
    nouns |= {noun.counter for noun in NOUNS if noun.counter} | {"|들", "나", "내"}
    counts = Counter()
    for text in texts(rows, "ko"):
        tokens = TOKENIZE(text)
        for word, particle_ in pairwise(tokens):
            if word in nouns and particle_ in ("|은", "|이", "|을", "|과"):
                assert final(word), text
            elif word in nouns and particle_ in ("|는", "|가", "|를", "|와"):
                assert not final(word), text
            elif particle_ in ("|으로", "|로"):
                assert (particle_ == "|로") == (final(word) in (0, 8)), text
            else:
                continue
            counts[particle_] += 1
    assert "".join(sorted(counts)) == "|가|과|는|로|를|와|으로|은|을|이"
    assert min(counts.values()) >= 100


def test_every_korean_ending_fits_its_stem(rows):
    for text in texts(rows, "ko"):
        tokens = TOKENIZE(text)
        for word, ending, following in zip(tokens, tokens[1:], tokens[2:], strict=False):
            if ending == "|는" and following in ("|다", "|다고"):
                assert final(word) not in (0, 8), text  # 먹는다, but 간다 and 판다
            if ending == "|을" and following in ("것이", "거", "때"):
                assert final(word) not in (0, 8), text  # 먹을, but 갈 and 팔
            if ending == "|니":
                assert final(word) != 8, text  # 파니, 우니
            if following == "거" or (following == "것이" and not ending.startswith("|")):
                assert final(ending) == 8, text  # 갈 것이다


FORBIDDEN_KOREAN = {
    "letters": r"[^가-힣| .?]",
    "boundary": r"\|(?![가-힣])|(?<![가-힣])\||\|\|",
    "not last": r"^(?!.*(\|다\.|\|니\?)$)",
    "I and who": r"\b나\|가|누\|는|누\|이",
    "negation": r"(?<!\|지) 않|(하|먹|가|오)\|지(?! 않)",
    "adjectives": r"\b(크|작|행복하|슬프|아프|비싸|낡|길)\|는\b",
    "drop of ㄹ": r"(팔|열|울)\|(는|니|은)\b",
    "ㅂ": r"(아름답|차갑|뜨겁|돕)\|(은|을)\b",
    "plural": r"(사과|책|집|문|꽃|물)\|들",
    "places": r"\|에 (자\||잔|잘|잤|일[하한할했]|노래[하한할했]|[우울운])"
    r"|\|에서 (가\||간|갈|갔|있|없)",
    "double": r"  |\|를\|를|\|는\|는|^ | $",
}


@pytest.mark.parametrize("rule", FORBIDDEN_KOREAN)
def test_no_korean_sentence_breaks_a_rule(rows, rule):
    wrong = [text for text in texts(rows, "ko") if re.search(FORBIDDEN_KOREAN[rule], text)]
    assert not wrong, wrong[:5]


def test_particles_and_endings():
    assert [particle(word, "은/는") for word in ("책", "사과")] == ["책|은", "사과|는"]
    assert [particle(word, "과/와") for word in ("왕", "소녀")] == ["왕|과", "소녀|와"]
    assert [particle(word, "으로/로") for word in ("성", "마을", "학교")] == [
        "성|으로",
        "마을|로",
        "학교|로",
    ]
    assert particle("병원", "에서") == "병원|에서"
    assert [adnominal(stem, NIEUN) for stem in ("먹", "가", "팔", "도우")] == [
        "먹|은",
        "간",
        "판",
        "도운",
    ]
    assert [adnominal(stem, RIEUL) for stem in ("먹", "가", "팔", "들으")] == [
        "먹|을",
        "갈",
        "팔",
        "들을",
    ]
    assert (final_consonant("가"), final_consonant("각"), final_consonant("톰")) == (0, 1, 16)
