"""A translator of one's own: settings, checkpoints, a run on one or more processes, translating.

It uses all packages above but `show`. Begin with `trainer`, the run; `translator` uses its result.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfm_lib.translation.bleu import corpus_bleu
    from tfm_lib.translation.settings import Settings
    from tfm_lib.translation.translator import Translator

__all__ = ["Settings", "Translator", "corpus_bleu"]

HOMES = {"Settings": "settings", "Translator": "translator", "corpus_bleu": "bleu"}


def __getattr__(name: str) -> Any:
    # Only when asked for: the command line reads the settings without PyTorch.
    if name not in HOMES:
        raise AttributeError(f"{__name__} has no {name}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
