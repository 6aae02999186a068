"""A trained model with its sub-words, from text to text: what `tfm_lib.translate` runs.

Either model of a run is built here, so that training and translating build the same one.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from sacrebleu.metrics import BLEU
from torch import Tensor, nn

from tfm_lib.attention import (
    Attention,
    AttentionFunction,
    MultiHeadAttention,
    dot_score,
    fused_attention,
    record_attention,
    scaled_dot_product_attention,
)
from tfm_lib.cache import CachedStep
from tfm_lib.datasets import Codec, pad
from tfm_lib.decoding import EnsembleStep, Step, beam_search, greedy
from tfm_lib.runs import RunError, Settings, epoch_paths, load_checkpoint
from tfm_lib.seq2seq import AttentionDecoder, Encoder, RecurrentStep, Seq2Seq
from tfm_lib.tokenizers import BPETokenizer
from tfm_lib.transformer import Transformer
from tfm_lib.vocab import Vocab


def build_model(
    settings: Settings, vocab_size: int, *, attention: AttentionFunction = fused_attention
) -> nn.Module:
    """The model that the settings describe, with new weights: (src_ids, tgt_ids) -> logits.

    Both languages share one vocabulary, so the Transformer has one embedding matrix (section 3.4).
    attention: the Transformer's; the RNN's is the dot product of lesson 05.
    """
    if settings.model == "rnn":
        sizes = (vocab_size, settings.d_model, settings.d_ff)
        across = Attention(dot_score)
        return Seq2Seq(
            Encoder(*sizes, dropout=settings.dropout),
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


class Translator:
    """Translate texts with a model and the codec it was trained with.

    others: models with the same codec, whose predictions are averaged with the first one's.
    """

    def __init__(self, model: nn.Module, codec: Codec, others: Sequence[nn.Module] = ()) -> None:
        self.model = model.eval()
        self.codec = codec
        self.others = [other.eval() for other in others]

    @classmethod
    def load(
        cls, folder: str | Path, weights: str = "best", others: Sequence[str | Path] = ()
    ) -> "Translator":
        """Read a run's settings, sub-words and weights: of `best`, of `last`, or their `average`.

        The average is that of the run's newest epochs (Vaswani et al. 2017, section 6.1).
        others: the folders of more runs, to translate together. RunError if something is missing,
        damaged or does not fit.
        """
        settings, codec, model = load_run(Path(folder), weights)
        models = []
        for other in map(Path, others):
            theirs, their_codec, their_model = load_run(other, weights)
            if (theirs.src, theirs.tgt) != (settings.src, settings.tgt):
                raise RunError(
                    f"{other} translates {theirs.src} to {theirs.tgt}, {folder} {settings.src} to "
                    f"{settings.tgt}: they cannot translate together"
                )
            if their_codec.vocab.tokens != codec.vocab.tokens:
                raise RunError(
                    f"{other} has other sub-words than {folder}: only runs on the same text with "
                    "the same vocab_size can translate together"
                )
            models.append(their_model)
        return cls(model, codec, models)

    def translate(
        self,
        texts: Sequence[str],
        *,
        beam_size: int = 1,
        length_penalty: float = 1.0,
        batch_size: int = 64,
    ) -> list[str]:
        """The translations, in the texts' order; beam_size=1 is greedy. A blank text stays blank.

        Texts of like length are translated together, `batch_size` at a time. A translation ends at
        the latest after 10 tokens and 1.5 times those of the longest text beside it.
        """
        order = sorted(  # by length, so that little is padded
            (i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(texts[i])
        )
        found = [""] * len(texts)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            rows = self._decode([texts[i].strip() for i in chosen], beam_size, length_penalty)
            for i, row in zip(chosen, rows, strict=True):
                found[i] = self.codec.decode(row)
        return found

    def _decode(self, texts: list[str], beam_size: int, length_penalty: float) -> Tensor:
        device, vocab = next(self.model.parameters()).device, self.codec.vocab
        src_ids = self.codec.batch(texts).to(device)
        options = {
            "batch_size": len(src_ids),
            "bos_id": vocab.bos_id,
            "eos_id": vocab.eos_id,
            "pad_id": vocab.pad_id,
            "max_len": src_ids.size(1) * 3 // 2 + 10,
        }
        with torch.device(device):
            step = decoding_step(self.model, src_ids)
            if self.others:
                step = EnsembleStep([step, *(decoding_step(m, src_ids) for m in self.others)])
            if beam_size == 1:
                return greedy(step, **options).cpu()
            return beam_search(step, beam_size=beam_size, length_penalty=length_penalty, **options)[
                0
            ]

    def attention(self, source: str, target: str) -> tuple[Tensor, list[str], list[str]]:
        """Where each target token looks: weights (tgt_len, src_len), the last layer's mean head.

        Of the first model. Also the target's and the source's tokens, end included, as names for a
        picture. From now on this translator forms its weights, which is slower.
        """
        tokenize = self.codec.tokenizer.tokenize
        src_ids = self.codec.batch([source])  # (1, src_len)
        tgt_ids = pad([[Vocab.bos_id, *self.codec.encode(target)[:-1]]])  # (1, tgt_len)
        for module in self.model.modules():
            if isinstance(module, MultiHeadAttention):  # the fused kernel never forms its weights
                module.attention = scaled_dot_product_attention
        with record_attention(self.model) as maps, torch.no_grad():
            self.model(src_ids, tgt_ids)
        *_, last = (name for name in maps if "decoder" in name and "self_attention" not in name)
        weights = maps[last][0][0]  # (num_heads, tgt_len, src_len) or (tgt_len, src_len)
        weights = weights.mean(dim=0) if weights.dim() == 3 else weights
        return weights, [*tokenize(target), "end"], [*tokenize(source), "end"]


def load_run(folder: Path, weights: str) -> tuple[Settings, Codec, nn.Module]:
    """A run's settings, sub-words and model, with its `best`, `last` or `average` weights."""
    settings, codec = Settings.load(folder), load_codec(folder)
    paths = epoch_paths(folder) if weights == "average" else [folder / f"{weights}.safetensors"]
    checkpoints = [load_checkpoint(path)[0] for path in paths]
    model = build_model(settings, len(codec.vocab))
    load_weights(model, mean_weights(checkpoints))
    return settings, codec, model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights under the names they have in a checkpoint; a tied one comes once."""
    return {f"model.{name}": weight for name, weight in model.named_parameters()}


def mean_weights(checkpoints: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each weight over checkpoints of one run; RunError if there are none."""
    if not checkpoints:
        raise RunError("no epoch-*.safetensors to average: the run has not finished an epoch")
    return {
        name: torch.stack([tensors[name] for tensors in checkpoints]).mean(dim=0)
        for name in checkpoints[0]
    }


@torch.no_grad()
def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy a checkpoint's weights into the model; RunError naming the first that does not fit."""
    for name, weight in weights_of(model).items():
        if name not in tensors or tensors[name].shape != weight.shape:
            found = tuple(tensors[name].shape) if name in tensors else "missing"
            raise RunError(
                f"{name} is {found} in the checkpoint and {tuple(weight.shape)} by settings.json: "
                "they belong to different runs"
            )
        weight.copy_(tensors[name])


def decoding_step(model: nn.Module, src_ids: Tensor) -> Step:
    """What `tfm_lib.decoding` asks of either model."""
    return (RecurrentStep if isinstance(model, Seq2Seq) else CachedStep)(model, src_ids)


def load_codec(folder: Path) -> Codec:
    """The run's sub-words, one vocabulary for both languages."""
    path = folder / "tokenizer.json"
    try:
        tokenizer = BPETokenizer.load(path)
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: {folder} is not a whole run") from None
    except Exception as error:  # the tokenizers library raises bare Exception
        raise RunError(f"{path} is damaged ({error}). Restore it, or train anew") from None
    return Codec(tokenizer, Vocab(tokenizer.tokens))


def corpus_bleu(translated: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """BLEU of the whole corpus by sacrebleu, in percent, and the signature that says which BLEU."""
    metric = BLEU()
    score = metric.corpus_score(list(translated), [list(references)])
    return score.score, str(metric.get_signature())
