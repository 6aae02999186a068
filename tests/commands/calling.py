"""The command `tfm` in this process."""

import pytest

from tfm_lib.commands.app import main


def tfm(*arguments):
    """Run it; returns its exit status."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return stopped.value.code
