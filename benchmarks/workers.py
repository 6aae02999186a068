"""Measure what a second process brings: the same training on one process and on two.

    python -m benchmarks.workers

Both run the command that README names, one thread each, in turn (1 2 1 2 ...), on sentences that
the course makes itself. Seconds of training alone are compared, by the clock, so the machine must
have two cores and nothing else to do.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tfm_lib.datasets.parallel import load_parallel
from tfm_lib.translation.checkpoints import load_checkpoint

ROUNDS, PAIRS = 3, 6000
OPTIONS = (
    *("--vocab-size", "700", "--num-layers", "2", "--epochs", "1", "--warmup", "5"),
    *("--save-every", "1000"),
)


def seconds(texts: list[str], folder: Path, workers: int) -> float:
    """The seconds of training of one run; RuntimeError with its last lines if it fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={workers}", "-m", "tfm_lib", "train"]
    finished = subprocess.run(
        [*command, "--train", *texts, "--out", str(folder), *OPTIONS],
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    if finished.returncode:
        raise RuntimeError(f"{workers} worker(s): {finished.stderr[-500:]}")
    return load_checkpoint(folder / "last.safetensors")[1]["seconds"]


def main() -> None:
    pairs = load_parallel("train", target="fr")[:PAIRS]
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = []
        for language, lines in (("en", pairs.sources), ("fr", pairs.targets)):
            path = folder / f"text.{language}"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            texts.append(str(path))
        for number in range(ROUNDS):
            alone, together = (seconds(texts, folder / f"{number}-{n}", n) for n in (1, 2))
            ratios.append(alone / together)
            print(f"one process {alone:.1f} s, two {together:.1f} s: {ratios[-1]:.2f} times")
    print(f"median {statistics.median(ratios):.2f} times (goal on two idle cores: at least 1.2)")


if __name__ == "__main__":
    main()
