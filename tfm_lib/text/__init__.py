"""From text to tensors: vocabulary, tokenizers, pairs of texts, padded batches, long blocks.

It uses nothing else of the library. Begin with `vocab`, the two-way table of tokens and ids.
"""

from tfm_lib.text.batches import Batches, TokenBatches
from tfm_lib.text.blocks import Blocks, cut_blocks
from tfm_lib.text.codec import Codec, pad
from tfm_lib.text.pairs import Pairs, exact_match
from tfm_lib.text.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer
from tfm_lib.text.vocab import Vocab

__all__ = [
    "BPETokenizer",
    "Batches",
    "Blocks",
    "CharTokenizer",
    "Codec",
    "Pairs",
    "TokenBatches",
    "Vocab",
    "WordTokenizer",
    "cut_blocks",
    "exact_match",
    "pad",
]
