"""What a lesson shows: plots with their text alternative, tables, claims, the environment check.

It uses `datasets`, whose files the check reads. Begin with `plots`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfm_lib.show.claims import Claim, claims_table
    from tfm_lib.show.diagram import flow, flow_text
    from tfm_lib.show.environment import check
    from tfm_lib.show.plots import COLOURS, attention_map, bars, curves, head_maps, show
    from tfm_lib.show.seeds import among_seeds
    from tfm_lib.show.table import Table

__all__ = [
    "COLOURS",
    "Claim",
    "Table",
    "among_seeds",
    "attention_map",
    "bars",
    "check",
    "claims_table",
    "curves",
    "flow",
    "flow_text",
    "head_maps",
    "show",
]

HOMES = {
    **dict.fromkeys(("Claim", "claims_table"), "claims"),
    **dict.fromkeys(("COLOURS", "attention_map", "bars", "curves", "head_maps", "show"), "plots"),
    **dict.fromkeys(("flow", "flow_text"), "diagram"),
    "Table": "table",
    "among_seeds": "seeds",
    "check": "environment",
}


def __getattr__(name: str) -> Any:
    # Only when asked for: tables and the environment check do without matplotlib.
    if name not in HOMES:
        raise AttributeError(f"{__name__} has no {name}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
