"""The synthetic parallel sentences: English, French and Korean, and the kinds of their nouns."""

from tfm_lib.datasets.shipped import read_rows, read_split, require_known
from tfm_lib.text.pairs import Pairs


def load_parallel(split: str, *, target: str = "fr") -> Pairs:
    """English sentences and their French (``target="fr"``) or Korean (``"ko"``) translations.

    ``kinds`` are the sentence patterns. In Korean ``|`` marks particles and endings, which
    `WordTokenizer` cuts off there.
    Raises ValueError for an unknown split or target, and for a missing or altered file.
    """
    require_known(target, ("fr", "ko"), "target")
    rows = read_split("parallel.tsv", split)
    return Pairs(
        sources=[row["en"] for row in rows],
        targets=[row[target] for row in rows],
        kinds=[row["pattern"] for row in rows],
    )


def load_noun_kinds() -> dict[str, str]:
    """Each form of each English noun in the sentences -> person, animal, food, place or thing."""
    return {row["form"]: row["kind"] for row in read_rows("nouns.tsv")}
