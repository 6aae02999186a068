"""Sets up every test run: kernels for notebooks that cannot hang, no network, one thread each."""

import os
import runpy
import subprocess
import tempfile
import time
from pathlib import Path
from queue import Empty

import nbval.kernel
import nbval.plugin
import pytest

from tools.lessons import OFFLINE, kernel_environment, lacks

ROOT = Path(__file__).resolve().parent

os.environ.setdefault("MPLBACKEND", "Agg")  # in this process; kernels draw inline
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several workers share the cores
PROFILE = tempfile.TemporaryDirectory(prefix="ipython-", ignore_cleanup_errors=True)


class RunningKernel(nbval.kernel.RunningKernel):
    """nbval's kernel, made to behave as a notebook does and to notice its own death.

    - It starts in the lessons' environment: no network, an IPython profile of its own.
    - Cells run with history, so that a trailing `;` silences a cell here as it does in JupyterLab.
    - A dead kernel fails the cell within seconds, not after the cell's whole timeout.
    """

    def __init__(self, kernel_name, cwd=None, startup_timeout=60):
        self.km, self.kc = nbval.kernel.start_new_kernel(
            startup_timeout=startup_timeout,
            kernel_name=kernel_name,
            stderr=subprocess.DEVNULL,
            cwd=cwd,
            env=kernel_environment(PROFILE.name),
        )
        self._ensure_iopub_up()

    def execute_cell_input(self, cell_input, allow_stdin=None):
        return self.kc.execute(
            cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False
        )

    def await_reply(self, msg_id, timeout=None):
        deadline = time.monotonic() + (timeout or float("inf"))
        while True:
            try:
                return super().await_reply(msg_id, timeout=1)
            except Empty:
                if not self.is_alive():
                    raise RuntimeError("the kernel died while it ran this cell") from None
                if time.monotonic() > deadline:
                    raise


def pytest_configure(config):
    runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # unit tests have no network either
    nbval.plugin.RunningKernel = RunningKernel
    config.option.nbval_sanitize_with = str(ROOT / "tests" / "nbval_sanitize.cfg")


def pytest_unconfigure():
    PROFILE.cleanup()


def pytest_collection_modifyitems(items):
    """Skip, by name, what lacks its data. Notebooks first: what takes longest starts first."""
    for path in {item.path for item in items if item.path.suffix == ".ipynb"}:
        if reason := lacks(path):
            for item in items:
                if item.path == path:
                    item.add_marker(pytest.mark.skip(reason=f"{path.stem}: {reason}"))
    items.sort(key=lambda item: (item.path.suffix != ".ipynb", -lesson_number(item.path)))


def lesson_number(path):
    return int(path.name[:2]) if path.suffix == ".ipynb" and path.name[:2].isdigit() else 0
