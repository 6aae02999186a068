"""The words of the synthetic parallel corpus: one table for each part of speech.

In the tables a cell is a word without spaces, `-` is an empty cell and commas part the items of a
list. The last cell of a noun lists its classes; verbs and adjectives name the classes they go with,
so that people write letters and cats do not. How words inflect and combine is told in `grammar`.
"""
# ruff: noqa: E501 (a row of a table is one line)

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, eq=False)
class Noun:
    """A noun, a name or a pronoun."""

    en: str
    en_plural: str
    fr: str
    fr_plural: str
    gender: str  # in French, "m" or "f"
    ko: str
    counter: str  # Korean word after a numeral: 책 두 권; "" for nouns that are never counted
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Adjective:
    """An adjective, or another state that one can be in."""

    en: str
    fr: tuple[str, ...]  # m, f, m plural, f plural; a single item never changes
    position: str  # in French: before or after the noun; "never": not used with a noun at all
    ko: str  # stem
    ko_vowel: str  # stem before an ending that begins with a vowel: 아름답다, but 아름다운
    ko_past: str
    tenses: tuple[str, ...]  # in which "be" may stand before it
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Verb:
    """A verb and what it goes with."""

    en: str
    en_third: str
    en_past: str
    fr: tuple[str, ...]  # present with je, il, nous, ils
    fr_participle: str
    fr_future: str  # without the endings -ai, -a, -ons, -ont
    fr_auxiliary: str
    ko: str
    ko_vowel: str
    ko_past: str
    subjects: tuple[str, ...]
    roles: tuple[tuple[str, str], ...]  # (key of ROLES, class of the noun), all filled


def rows(table: str) -> list[list[str]]:
    """Cut a table into lines of cells; an empty cell becomes an empty string."""
    lines = table.strip().splitlines()
    return [["" if cell == "-" else cell for cell in line.split()] for line in lines]


def items(cell: str) -> tuple[str, ...]:
    """Cut a cell into the items of a list."""
    return tuple(filter(None, cell.split(",")))


def nouns(table: str) -> list[Noun]:
    """Read a table of nouns."""
    return [Noun(*cells[:7], items(cells[7])) for cells in rows(table)]


# English, its plural   French, its plural, gender   Korean, counter   classes
NOUNS = nouns("""
boy       boys       garçon     garçons    m 소년   명 person,outdoors
girl      girls      fille      filles     f 소녀   명 person,outdoors
child     children   enfant     enfants    m 아이   명 person,outdoors
man       men        homme      hommes     m 남자   명 person,outdoors
woman     women      femme      femmes     f 여자   명 person,outdoors
king      kings      roi        rois       m 왕     명 person,topic
queen     queens     reine      reines     f 여왕   명 person,topic
prince    princes    prince     princes    m 왕자   명 person,outdoors
princess  princesses princesse  princesses f 공주   명 person,outdoors
doctor    doctors    médecin    médecins   m 의사   명 person
teacher   teachers   professeur professeurs m 교사  명 person
actress   actresses  actrice    actrices   f 여배우 명 person
witch     witches    sorcière   sorcières  f 마녀   명 person,outdoors
dog       dogs       chien      chiens     m 개     마리 animal,outdoors,ours,seen,topic
cat       cats       chat       chats      m 고양이 마리 animal,outdoors,ours,seen
bird      birds      oiseau     oiseaux    m 새     마리 animal,outdoors,seen
horse     horses     cheval     chevaux    m 말     마리 animal,outdoors,ours,seen,lovely
cow       cows       vache      vaches     f 소     마리 animal,outdoors,ours,seen
apple     apples     pomme      pommes     f 사과   개 food,goods,gift,fresh,warm
egg       eggs       œuf        œufs       m 달걀   개 food,goods,fresh,warm
tomato    tomatoes   tomate     tomates    f 토마토 개 food,goods,fresh,warm
cake      cakes      gâteau     gâteaux    m 케이크 개 food,goods,gift,sized,warm,fresh
bread     -          pain       -          m 빵     -  food,goods,fresh,mass,dear,warm
meat      -          viande     -          f 고기   -  food,goods,fresh,mass,dear,warm
soup      -          soupe      -          f 수프   -  food,mass,warm
water     -          eau        -          f 물     -  drink,mass,warm
milk      -          lait       -          m 우유   -  drink,goods,mass,warm,fresh
coffee    -          café       -          m 커피   -  drink,goods,mass,warm
book      books      livre      livres     m 책     권 text,story,goods,gift,ours,aged,dear,topic
newspaper newspapers journal    journaux   m 신문   -  text,goods,ours,aged
letter    letters    lettre     lettres    f 편지   -  text,work,gift,long,ours,story
poem      poems      poème      poèmes     m 시     -  text,work,story,long,lovely,topic
story     stories    histoire   histoires  f 이야기 -  text,work,story,heard,long
song      songs      chanson    chansons   f 노래   -  work,heard,long,lovely,topic
car       cars       voiture    voitures   f 자동차 대 goods,seen,ours,coloured,sized,aged,dear
bike      bikes      vélo       vélos      m 자전거 대 goods,gift,ours,coloured,sized,aged,dear
computer  computers  ordinateur ordinateurs m 컴퓨터 대 goods,gift,ours,sized,dear,indoors
house     houses     maison     maisons    f 집     -  goods,seen,ours,sized,aged,dear,lovely,inside,topic
hat       hats       chapeau    chapeaux   m 모자   개 goods,gift,ours,coloured,sized,aged,dear,indoors
bag       bags       sac        sacs       m 가방   개 goods,gift,ours,coloured,sized,aged,dear,door,indoors
box       boxes      boîte      boîtes     f 상자   개 goods,gift,coloured,sized,aged,door,indoors
flower    flowers    fleur      fleurs     f 꽃     -  goods,gift,seen,outdoors,coloured,sized,lovely,dear
tree      trees      arbre      arbres     m 나무   -  seen,sized,outdoors
door      doors      porte      portes     f 문     -  door,coloured,sized,aged
window    windows    fenêtre    fenêtres   f 창문   -  door,sized,aged
market    -          marché     -          m 시장   -  place,site,sized,topic
school    -          école      -          f 학교   -  place,site,ours,sized,aged,topic
hospital  -          hôpital    -          m 병원   -  place,site,sized
library   -          bibliothèque -        f 도서관 -  place,site,sized,aged
hotel     -          hôtel      -          m 호텔   -  place,site,sized,dear
village   -          village    -          m 마을   -  place,ours,sized,lovely,topic
castle    -          château    -          m 성     -  place,seen,sized,aged,lovely,outside,topic
garden    -          jardin     -          m 정원   -  outside,ours,sized,lovely,topic
forest    -          forêt      -          f 숲     -  outside,sized,lovely,topic
kitchen   -          cuisine    -          f 부엌   -  inside,sized
room      -          chambre    -          f 방     -  inside,ours,sized
""")

NAMES = nouns("""
Anna      -          Anna       -          f 안나   -  person
Julie     -          Julie      -          f 쥘리   -  person
Paul      -          Paul       -          m 폴     -  person
Tom       -          Tom        -          m 톰     -  person
""")

# The corpus is told by a woman ("I" is feminine in French); "we" is masculine as a mixed group is.
PRONOUNS = nouns("""
I         -          je         -          f 나     -  first
we        we         nous       nous       m 우리   -  first
he        -          il         -          m 그     -  third
she       -          elle       -          f 그녀   -  third
who       -          qui        -          m 누     -  question
""")

# English   French: m, f, m plural, f plural; position   Korean: stem,
# stem before a vowel, past   tenses after "be"   classes of nouns
ADJECTIVES = [
    Adjective(cells[0], items(cells[1]), *cells[2:6], items(cells[6]), items(cells[7]))
    for cells in rows("""
big         grand,grande,grands,grandes       before 크      크      컸       past,present sized
small       petit,petite,petits,petites       before 작      작      작|았    past,present sized
beautiful   beau,belle,beaux,belles             before 아름답  아름다우 아름다웠 past,present lovely
long        long,longue,longs,longues          before 길      길      길|었    past,present long
old         vieux,vieille,vieux,vieilles      before 낡      낡      낡|았    -  aged
red         rouge,rouge,rouges,rouges               after  빨갛    빨가    빨갰     past,present coloured
black       noir,noire,noirs,noires                 after  검      검      검|었    past,present coloured,animal
expensive   cher,chère,chers,chères                 after  비싸    비싸    비쌌     past,present,future dear
interesting intéressant,intéressante,intéressants,intéressantes after 재미있 재미있 재미있|었 past,present,future story
fresh       frais,fraîche,frais,fraîches            after  신선하  신선하  신선했   past,present fresh
cold        froid,froide,froids,froides             after  차갑    차가우  차가웠   past,present warm
hot         chaud,chaude,chauds,chaudes             after  뜨겁    뜨거우  뜨거웠   past,present warm
happy       heureux,heureuse,heureux,heureuses      after  행복하  행복하  행복했   past,present,future person
sad         triste,triste,tristes,tristes           after  슬프    슬프    슬펐     past,present,future person
tired       fatigué,fatiguée,fatigués,fatiguées     after  피곤하  피곤하  피곤했   past,present,future person
sick        malade,malade,malades,malades           after  아프    아프    아팠     past,present,future person,animal
hungry      faim                                    never  배고프  배고프  배고팠   past,present person,animal
""")
]


# English: base, with he, past   French: with je, il, nous, ils; participle, future stem, auxiliary
# Korean: stem, stem before a vowel, past   classes of subjects   roles and classes of their nouns
VERBS = [
    Verb(
        *cells[:3],
        items(cells[3]),
        *cells[4:10],
        items(cells[10]),
        tuple((role, noun) for role, noun in (item.split(":") for item in items(cells[11]))),
    )
    for cells in rows("""
eat    eats    ate    mange,mange,mangeons,mangent mangé manger avoir 먹 먹 먹|었 person object:food
drink  drinks  drank  bois,boit,buvons,boivent bu boir avoir 마시 마시 마셨 person object:drink
buy    buys    bought achète,achète,achetons,achètent acheté achèter avoir 사 사 샀 person object:goods
sell   sells   sold   vends,vend,vendons,vendent vendu vendr avoir 팔 팔 팔|았 person object:goods
translate translates translated traduis,traduit,traduisons,traduisent traduit traduir avoir 번역하 번역하 번역했 person object:text
write  writes  wrote  écris,écrit,écrivons,écrivent écrit écrir avoir 쓰 쓰 썼 person object:work
see    sees    saw    vois,voit,voyons,voient vu verr avoir 보 보 보|았 person,animal object:seen
open   opens   opened ouvre,ouvre,ouvrons,ouvrent ouvert ouvrir avoir 열 열 열|었 person object:door
close  closes  closed ferme,ferme,fermons,ferment fermé fermer avoir 닫 닫 닫|았 person object:door
help   helps   helped aide,aide,aidons,aident aidé aider avoir 돕 도우 도왔 person object:person
wait   waits   waited attends,attend,attendons,attendent attendu attendr avoir 기다리 기다리 기다렸 person,animal for:person
listen listens listened écoute,écoute,écoutons,écoutent écouté écouter avoir 듣 들으 들|었 person listen:heard
talk   talks   talked parle,parle,parlons,parlent parlé parler avoir 이야기하 이야기하 이야기했 person about:topic
give   gives   gave   donne,donne,donnons,donnent donné donner avoir 주 주 주|었 person object:gift,recipient:person
go     goes    went   vais,va,allons,vont allé ir être 가 가 갔 person to:place
return returns returned retourne,retourne,retournons,retournent retourné retourner être 돌아가 돌아가 돌아갔 person back:place
come   comes   came   viens,vient,venons,viennent venu viendr être 오 오 왔 person from:place
sleep  sleeps  slept  dors,dort,dormons,dorment dormi dormir avoir 자 자 잤 person,animal in:inside
work   works   worked travaille,travaille,travaillons,travaillent travaillé travailler avoir 일하 일하 일했 person at:site
sing   sings   sang   chante,chante,chantons,chantent chanté chanter avoir 노래하 노래하 노래했 person in:outside
run    runs    ran    cours,court,courons,courent couru courr avoir 달려가 달려가 달려갔 person,animal back:place
cry    cries   cried  pleure,pleure,pleurons,pleurent pleuré pleurer avoir 울 울 울|었 person in:inside
""")
]

# Two verbs that report a clause, used in the present alone, and there is, written in its own way.
SAY, THINK, EXIST = (
    Verb(*cells[:3], items(cells[3]), *cells[4:10], ("person",), ())
    for cells in rows("""
say    says    said    dis,dit,disons,disent     dit   dir   avoir 말하   말하   말했
think  thinks  thought pense,pense,pensons,pensent pensé penser avoir 생각하 생각하 생각했
exist  exists  existed -                         -     -     avoir 있     있     있|었
""")
)

# The verbs of their own kind, by tense; the persons are those of Verb.fr.
BE = {"present": ("am", "is", "are", "are"), "past": ("was", "was", "were", "were")}
AUXILIARIES = {
    ("avoir", "present"): ("ai", "a", "avons", "ont"),
    ("avoir", "past"): ("avais", "avait", "avions", "avaient"),
    ("avoir", "future"): ("aurai", "aura", "aurons", "auront"),
    ("être", "present"): ("suis", "est", "sommes", "sont"),
    ("être", "past"): ("étais", "était", "étions", "étaient"),
    ("être", "future"): ("serai", "sera", "serons", "seront"),
}

# French words that change before a vowel, and pairs that contract.
ELIDED = ("le", "la", "je", "ne", "que", "de")
BEFORE_VOWEL = {"ce": "cet", "ma": "mon"}
CONTRACTIONS = {"de le": "du", "de les": "des", "à le": "au", "à les": "aux"}

# What stands before a noun that fills a role in English and French, and after it in Korean.
ROLES = {
    "object": ("", "", "을/를"),
    "for": ("for", "", "을/를"),
    "listen": ("to", "", "을/를"),
    "about": ("about", "de", "에 대해"),
    "recipient": ("to", "à", "에게"),
    "to": ("to", "à", "에"),
    "back": ("to", "à", "으로/로"),
    "from": ("from", "de", "에서"),
    "at": ("at", "à", "에서"),
    "in": ("in", "dans", "에서"),
}

# English   French: m, f, plural   Korean
DETERMINERS = {
    "the": ("the", ("le", "la", "les"), ""),
    "a": ("a", ("un", "une", ""), "한"),
    "this": ("this", ("ce", "cette", "ces"), "이"),
    "my": ("my", ("mon", "ma", "mes"), "내"),
    "our": ("our", ("notre", "notre", "nos"), "우리"),
    "two": ("two", ("", "", "deux"), "두"),
    "three": ("three", ("", "", "trois"), "세"),
    "bare": ("", ("de le", "de la", "des"), ""),
}

# English   French   Korean, by the tense that they call for
ADVERBS = {
    "past": ("yesterday", "hier", "어제"),
    "present": ("today", "aujourd'hui", "오늘"),
    "future": ("tomorrow", "demain", "내일"),
}

# Why one does something, or does not: verb, states of the doer that lead to it, that prevent it.
MOTIVES = {
    verb: (items(leads), items(prevents))
    for verb, leads, prevents in rows("""
eat       hungry               sick,sad
sleep     tired,sick           hungry,sad
sing      happy                sad,sick,tired,hungry
run       happy                tired,sick,hungry
cry       sad,tired,hungry,sick happy
work      -                    sick,tired,hungry
go        -                    sick,tired,sad
come      -                    sick,tired,sad
translate -                    sick,tired,hungry
write     sad,happy            sick,tired,hungry
""")
}

# Why one does something with a thing, or does not: verb, its qualities that lead to it, prevent it.
QUALITIES = {
    verb: (items(leads), items(prevents))
    for verb, leads, prevents in rows("""
eat       fresh,hot                      cold
drink     fresh,cold,hot                 hot,cold
buy       beautiful,interesting,fresh,big,small,red expensive,big,small
sell      expensive,big,small            beautiful,small,interesting
translate interesting,beautiful          long
listen    interesting,beautiful          long
give      beautiful,interesting,small    expensive,big
""")
}

EVENTS = ("come", "return", "go", "open", "close")  # what "when" may introduce
REACTIONS = ("sing", "run", "cry", "open", "close", "sleep")  # what may happen then
TAKEN = ("eat", "buy", "sell", "translate", "write", "see")  # the letter that the girl writes


@cache
def nouns_of(*classes: str) -> list[Noun]:
    """Return the nouns that belong to one of the classes."""
    return [noun for noun in NOUNS if set(classes) & set(noun.classes)]


@cache
def adjectives_of(*classes: str) -> list[Adjective]:
    """Return the adjectives that go with one of the classes."""
    return [adjective for adjective in ADJECTIVES if set(classes) & set(adjective.classes)]


KINDS = {  # a noun's first class -> its kind; all others are things
    "person": "person",
    "animal": "animal",
    "food": "food",
    "drink": "food",
    "place": "place",
    "outside": "place",
    "inside": "place",
}


def noun_kinds() -> str:
    """The text of nouns.tsv: each form of each English noun or name, and its kind in five classes.

    A form that two nouns share has the kind of the later one.
    """
    kinds: dict[str, str] = {}
    for noun in [*NOUNS, *NAMES]:
        kind = KINDS.get(noun.classes[0], "thing")
        kinds |= dict.fromkeys((noun.en, noun.en_plural), kind)
    kinds.pop("", None)  # of nouns without a plural
    return "form\tkind\n" + "".join(f"{form}\t{kind}\n" for form, kind in kinds.items())
