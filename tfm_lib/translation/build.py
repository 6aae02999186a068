"""Either model of a run and its codec: training and translating build the same ones here."""

from pathlib import Path

from torch import Tensor

from tfm_lib.attention.functions import Attention, AttentionFunction, dot_score, fused_attention
from tfm_lib.decoding import Step
from tfm_lib.models.seq2seq import AttentionDecoder, RecurrentEncoder, RecurrentStep, Seq2Seq
from tfm_lib.models.transformer import CachedStep, Transformer
from tfm_lib.text.codec import Codec
from tfm_lib.text.tokenizers import BPETokenizer
from tfm_lib.text.vocab import Vocab
from tfm_lib.translation.settings import RunError, Settings

Model = Transformer | Seq2Seq


def build_model(
    settings: Settings, vocab_size: int, *, attention: AttentionFunction = fused_attention
) -> Model:
    """The model that the settings describe, with new weights: (src_ids, tgt_ids) -> logits.

    Both languages share one vocabulary, so the Transformer has one embedding matrix (section 3.4).
    attention: the Transformer's; the RNN's is the dot product of lesson 05.
    """
    if settings.model == "rnn":
        sizes = (vocab_size, settings.d_model, settings.d_ff)
        across = Attention(dot_score)
        return Seq2Seq(
            RecurrentEncoder(*sizes, dropout=settings.dropout),
            AttentionDecoder(*sizes, dropout=settings.dropout, attention=across),
        )
    return Transformer(
        vocab_size,
        vocab_size,
        d_model=settings.d_model,
        num_heads=settings.num_heads,
        num_layers=settings.num_layers,
        d_ff=settings.d_ff,
        dropout=settings.dropout,
        norm_first=settings.norm_first,
        tie_weights="all",
        attention=attention,
    )


def decoding_step(model: Model, src_ids: Tensor) -> Step:
    """What `tfm_lib.decoding` asks of either model."""
    if isinstance(model, Seq2Seq):
        return RecurrentStep(model, src_ids)
    return CachedStep(model, src_ids)


def load_codec(folder: Path) -> Codec:
    """The run's sub-words, one vocabulary for both languages; RunError if it is damaged."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = BPETokenizer.load(path)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: {folder} is not a whole run") from None
    except Exception as error:  # the tokenizers library raises bare Exception
        raise RunError(f"{path} is damaged ({error}). Restore it, or train anew") from None
    return Codec(tokenizer, Vocab(tokenizer.tokens))
