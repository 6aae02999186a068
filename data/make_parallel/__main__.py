"""python -m data.make_parallel writes parallel.tsv and nouns.tsv anew, byte for byte."""

from pathlib import Path

from data.make_parallel.lexicon import noun_kinds
from data.make_parallel.sampling import generate_corpus

FOLDER = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    FOLDER.joinpath("parallel.tsv").write_bytes(generate_corpus().encode("utf-8"))
    FOLDER.joinpath("nouns.tsv").write_bytes(noun_kinds().encode("utf-8"))
