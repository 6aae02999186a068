"""Runs the lessons without a browser and measures them: seconds, peak memory, verdict.

    python -m tools.course          every lesson
    python -m tools.course 06 07    these

Nothing is written. A lesson passes if it runs without an error within the budgets below.
"""

import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from tqdm import tqdm

from tools.lessons import (
    KERNELSPEC,
    code_cells,
    kernel_environment,
    lacks,
    lesson_paths,
    read,
)

CELL_SECONDS = 60
LESSON_SECONDS = 90
PEAK_GB = 3.0


@dataclass
class Measured:
    """What one lesson took; `error` is the first line of what stopped it."""

    name: str
    cell_seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    error: str = ""

    @property
    def seconds(self):
        return sum(self.cell_seconds)

    @property
    def verdict(self):
        slow = [
            f"cell {number} took {seconds:.0f} s of {CELL_SECONDS}"
            for number, seconds in enumerate(self.cell_seconds, start=1)
            if seconds > CELL_SECONDS
        ]
        if self.seconds > LESSON_SECONDS:
            slow.append(f"more than {LESSON_SECONDS} s")
        if self.peak_bytes > PEAK_GB * 1e9:
            slow.append(f"more than {PEAK_GB:g} GB")
        return (
            f"FAILED {self.error}" if self.error else "over: " + "; ".join(slow) if slow else "ok"
        )


class MemoryWatch(threading.Thread):
    """Samples the resident memory of a process and its children and keeps the largest sum."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.process = psutil.Process(pid)
        self.peak_bytes = 0
        self.done = threading.Event()

    def run(self):
        while not self.done.wait(0.1):
            try:
                family = [self.process, *self.process.children(recursive=True)]
                resident = sum(member.memory_info().rss for member in family)
            except psutil.NoSuchProcess:
                continue
            self.peak_bytes = max(self.peak_bytes, resident)


def measure(path, profile_dir, bar):
    notebook = read(path)
    client = NotebookClient(
        notebook,
        timeout=5 * CELL_SECONDS,
        kernel_name=KERNELSPEC["name"],
        resources={"metadata": {"path": str(path.parent)}},
    )
    environment = kernel_environment(profile_dir)
    measured = Measured(path.stem)
    cells = {id(cell) for cell in code_cells(notebook)}
    with client.setup_kernel(env=environment, stderr=subprocess.DEVNULL):
        watch = MemoryWatch(client.km.provisioner.pid)
        watch.start()
        try:
            for index, cell in enumerate(notebook.cells):
                if id(cell) not in cells:
                    continue
                start = time.perf_counter()
                client.execute_cell(cell, index)
                measured.cell_seconds.append(time.perf_counter() - start)
                bar.update()
        except CellExecutionError as error:
            measured.error = f"{error.ename}: {error.evalue[:80].partition(chr(10))[0]}"
        except (CellTimeoutError, DeadKernelError) as error:
            measured.error = str(error).splitlines()[0][:80]
        finally:
            watch.done.set()
            watch.join()
            bar.update(len(cells) - len(measured.cell_seconds))  # what an error left out
    measured.peak_bytes = watch.peak_bytes
    return measured


def main():
    paths, left_out = [], []
    for path in lesson_paths(sys.argv[1:]):
        reason = lacks(path)
        left_out += [f"{path.stem}: left out. {reason}"] if reason else []
        paths += [] if reason else [path]
    if not paths:
        sys.exit("\n".join(["no lessons to run", *left_out]))
    cells = sum(len(code_cells(read(path))) for path in paths)
    results = []
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile_dir,
        tqdm(total=cells, unit="cell") as bar,
    ):
        for path in paths:
            bar.set_description(path.stem)
            results.append(measure(path, profile_dir, bar))
    print(f"\n{'lesson':36}{'seconds':>8}{'slowest cell':>14}{'peak GB':>9}  verdict")
    for result in results:
        slowest = max(result.cell_seconds, default=0.0)
        print(
            f"{result.name:36}{result.seconds:8.1f}{slowest:14.1f}"
            f"{result.peak_bytes / 1e9:9.2f}  {result.verdict}"
        )
    print(f"{'all':36}{sum(result.seconds for result in results):8.1f}")
    print(*left_out, sep="\n")
    failed = [result.name for result in results if result.verdict != "ok"]
    if failed:
        sys.exit(f"\nNot ok: {', '.join(failed)}. Open the lesson (make lab) to see the cell.")


if __name__ == "__main__":
    main()
