"""BLEU of a whole corpus (Papineni et al. 2002), by sacrebleu (Post 2018)."""

from collections.abc import Sequence

from sacrebleu.metrics import BLEU


def corpus_bleu(translated: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """BLEU of the whole corpus, in percent, and the signature that says which BLEU."""
    metric = BLEU()
    score = metric.corpus_score(list(translated), [list(references)])
    return score.score, str(metric.get_signature())
