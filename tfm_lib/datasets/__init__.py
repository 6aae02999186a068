"""What there is to learn from: the files that ship, Multi30k, Python's manual, a reader's own.

It uses `text`. Begin with `dates`; CONTRIBUTING.md lists the steps to add a data set.
"""

from tfm_lib.datasets.dates import DATE_FORMATS, load_dates, write_date
from tfm_lib.datasets.multi30k import load_multi30k
from tfm_lib.datasets.parallel import load_noun_kinds, load_parallel
from tfm_lib.datasets.python_manual import hold_out, python_topics
from tfm_lib.datasets.text_files import read_pairs

__all__ = [
    "DATE_FORMATS",
    "hold_out",
    "load_dates",
    "load_multi30k",
    "load_noun_kinds",
    "load_parallel",
    "python_topics",
    "read_pairs",
    "write_date",
]
