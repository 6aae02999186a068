"""The application: its sub-commands, and how every wrong use ends."""

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from rich.console import Console

from tfm_lib import __version__
from tfm_lib.commands.check import check
from tfm_lib.commands.data import data
from tfm_lib.commands.exercises import exercises
from tfm_lib.commands.train import train
from tfm_lib.commands.translate import translate
from tfm_lib.translation.settings import SettingsError


def explain(error: CycloptsError) -> str:
    """One line: what was wrong, and what to type."""
    words = " ".join(str(error).split()).rstrip(".")
    return f"tfm: {words}. See: {' '.join(['tfm', *(error.command_chain or ()), '--help'])}"


app = App(
    name="tfm",
    help="The course at the command line: check the environment, train, translate, solve.",
    help_format="markdown",
    version=__version__,
    error_formatter=explain,
    error_console=Console(stderr=True, soft_wrap=True, markup=False, highlight=False),
    default_parameter=Parameter(negative_iterable=()),
)
for command in (check, data, exercises, train, translate):
    app.command(command)
app.register_install_completion_command()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, 2 for a wrong use, 1 for what failed, 130 for Ctrl-C."""
    try:
        result = app(arguments, result_action="return_value")
    except KeyboardInterrupt:
        print("tfm: stopped", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError, ImportError) as error:
        print(f"tfm: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, SettingsError) else 1)
    sys.exit(result or 0)
