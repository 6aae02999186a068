"""A trained model with its sub-words, from text to text."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from tfm_lib.attention.functions import scaled_dot_product_attention
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.recording import record_attention
from tfm_lib.decoding import EnsembleStep, beam_search, greedy
from tfm_lib.text.codec import Codec, pad
from tfm_lib.text.vocab import Vocab
from tfm_lib.translation.build import Model, build_model, decoding_step, load_codec
from tfm_lib.translation.checkpoints import (
    epoch_paths,
    load_checkpoint,
    load_weights,
    mean_weights,
)
from tfm_lib.translation.settings import RunError, Settings


class Translator:
    """Translate texts with a model and the codec it was trained with.

    others: models with the same codec, whose predictions are averaged with the first one's.
    """

    def __init__(self, model: Model, codec: Codec, others: Sequence[Model] = ()) -> None:
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


def load_run(folder: Path, weights: str) -> tuple[Settings, Codec, Model]:
    """A run's settings, sub-words and model, with its `best`, `last` or `average` weights."""
    settings, codec = Settings.load(folder), load_codec(folder)
    paths = epoch_paths(folder) if weights == "average" else [folder / f"{weights}.safetensors"]
    checkpoints = [load_checkpoint(path)[0] for path in paths]
    model = build_model(settings, len(codec.vocab))
    load_weights(model, mean_weights(checkpoints))
    return settings, codec, model
