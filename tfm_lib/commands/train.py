"""`tfm train`: train a translator."""

from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from tfm_lib.translation.settings import DATA, MODELS, PRECISIONS, Settings

CHOICES = {"data": DATA, "model": MODELS, "precision": PRECISIONS}
KINDS: dict[str, Any] = {"tuple[str, ...]": tuple[str, str], "int | None": int}


def option(field: Field) -> Any:
    """The command line's form of a setting: its type, group, meaning and default."""
    name = str(field.type)
    simple = {"str": str, "int": int, "float": float, "bool": bool} | KINDS
    kind: Any = simple[
        getattr(field.type, "__name__", name) if isinstance(field.type, type) else name
    ]
    if field.name in CHOICES:
        kind = Literal[CHOICES[field.name]]
    default = "" if field.default in ((), None) else f" [default: {field.default}]"
    words = field.metadata["help"] + default
    return Annotated[kind, Parameter(group=Group(field.metadata["group"]), help=words)]


# Only what was given: a run that is resumed refuses what differs from its own.
Given = TypedDict(  # type: ignore[misc] # a checker cannot see the fields of Settings here
    "Given", {field.name: option(field) for field in fields(Settings)}, total=False
)


def train(
    *,
    out: Annotated[Path, Parameter(help="the run's folder")],
    resume: Annotated[
        bool, Parameter(help="go on where the run in --out was saved last", negative=())
    ] = False,
    save_every: Annotated[
        int, Parameter(help="steps between two checkpoints", validator=Number(gte=1))
    ] = 200,
    settings: Annotated[Given | None, Parameter(name="*")] = None,
) -> int:
    """Train a translator on Multi30k, or on two files of your own, one sentence a line.

    Examples: `tfm train --data multi30k --src de --tgt en --out runs/de-en`,
    `tfm train --train a.de a.en --out runs/own`, `tfm train --resume --out runs/own`;
    on two processes: `torchrun --nproc_per_node=2 -m tfm_lib train --out runs/de-en`
    """
    given = dict(settings or {})
    Settings.of(given)  # refuse what no run can have before PyTorch is loaded

    from tfm_lib.translation.run import prepare
    from tfm_lib.translation.workers import join_workers

    with join_workers() as worker:
        training = prepare(given, out, worker, resume=resume)
        if worker.writes:
            print(training)
        training.run(save_every=save_every)
        if worker.writes:
            at = f"step {training.step} of {training.steps}"
            print(f"{out}: {at}, {training.seconds:.0f} s of training")
    return 0 if training.step == training.steps else 130  # Ctrl-C, and the run was saved
