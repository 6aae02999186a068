"""Run lessons with other seeds, and record which asserts hold and what the numbers in them become.

    python -m benchmarks.seeds             # every lesson, ten seeds: about 70 minutes on one core
    python -m benchmarks.seeds 02 05 --jobs 2

A lesson's seeds are moved by 1000 a run; run 0 is the lesson as it stands. Where it trains, each
run is one more experiment. Writes benchmarks/seeds.json, lesson by lesson, and says which asserts
failed. The lessons show their numbers among these; tests hold that every assert held every time.
"""

import argparse
import hashlib
import json
import multiprocessing
import re
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.dates import circumstances
from tfm_lib.translation.settings import write_atomically
from tools.lessons import lacks, lesson_paths
from tools.trial import Note, Trial

RESULTS = Path(__file__).with_suffix(".json")
SEEDS = 10


def run(number: str, seed: int) -> tuple[list[Note], str]:
    """The asserts of one run of a lesson, and what ended it early ("" if nothing did)."""
    (path,) = lesson_paths([number])
    trial = Trial(path, seed)
    notes = trial.run()
    return notes, "" if trial.broken is None else " ".join(trial.broken)


def digest(notes: Iterable[Note]) -> str:
    """What the record belongs to: the lesson's asserts, cell by cell."""
    text = "\n".join(f"{note.cell} {note.source}" for note in notes)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def compared(runs: list[Note]) -> dict[str, list[float]]:
    """The numbers of one assert, in each run; two entries for one that was asked several times."""
    found = {}
    for label in runs[0].numbers:
        values = [note.numbers.get(label, []) for note in runs]
        if not all(values):
            continue
        lowest, highest = ([pick(each) for each in values] for pick in (min, max))
        if lowest == highest:
            found[label] = lowest
        else:
            found[f"lowest {label}"], found[f"highest {label}"] = lowest, highest
    return {label: [float(f"{v:.4g}") for v in values] for label, values in found.items()}


def record(runs: list[list[Note]]) -> dict:
    """What the file says of a lesson: the asserts whose numbers or answers differ between runs."""
    varying = []
    for notes in zip(*runs, strict=True):
        numbers = {k: v for k, v in compared(list(notes)).items() if len(set(v)) > 1}
        held = sum(all(note.held) for note in notes)
        if numbers or held < len(runs):
            first = notes[0]
            varying.append(
                {
                    "cell": first.cell,
                    "assert": first.source,
                    "claim": first.claim,
                    "held": held,
                    "numbers": numbers,
                }
            )
    return {"digest": digest(runs[0]), "asserts": len(runs[0]), "varying": varying}


def save(results: dict) -> None:
    """Write the record, the numbers of a list on one line."""
    text = json.dumps(results, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([-\d.e,+\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    write_atomically(RESULTS, text + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run lessons with other seeds.")
    parser.add_argument("lessons", nargs="*", help="numbers of lessons; none: all")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="runs of each lesson")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    options = parser.parse_args()
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    lessons = known.get("lessons", {})
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, spawn, max_tasks_per_child=1) as pool:
        for path in lesson_paths(options.lessons):
            number = path.name[:2]
            if reason := lacks(path):
                print(f"{number}: {reason}")
                continue
            seeds = range(options.seeds)
            runs, endings = zip(*pool.map(run, [number] * len(seeds), seeds), strict=True)
            for seed, ending in zip(seeds, endings, strict=True):
                if ending:
                    print(f"{number}: run {seed} ended in cell {ending}")
            if any(endings):
                continue
            lessons[number] = {"seeds": options.seeds, **record(list(runs))}
            for each in lessons[number]["varying"]:
                if each["held"] < options.seeds:
                    print(f"{number}: {each['held']} of {options.seeds}: {each['assert']}")
                    print(f"    {each['numbers']}")
            print(f"{number}: {lessons[number]['asserts']} asserts", flush=True)
            save({**circumstances(), "lessons": dict(sorted(lessons.items()))})


if __name__ == "__main__":
    main()
