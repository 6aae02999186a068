"""`python -m tfm_lib` prints the environment check and exits with status 1 if something fails."""

import sys

from tfm_lib.environment import check

sys.exit(0 if check() else 1)
