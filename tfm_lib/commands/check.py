"""`tfm check`: the environment check."""


def check() -> int:
    """Check Python, each package and each data file: OK or FAIL, and the command that mends it.

    Example: `tfm check`
    """
    from tfm_lib.show.environment import check as check_environment

    return 0 if check_environment() else 1
