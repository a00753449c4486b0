"""Where the time of `make repro` goes: starting and importing, DVC, and each kind of stage.

    python -m bench.repro            # the committed default, in a fresh clone: eight minutes
    python -m bench.repro --serial   # and again by `dvc repro`, one stage after the other

Every Python process of the run is timed: how long it lived and how long its imports took. A stage
is a process of its own, or a fork of one that has imported its libraries (`stages._forks`); its
time outside imports is its work. The rest of the jobs' time is DVC (hashing outputs, the cache,
dvc.lock), starting processes, and jobs that have nothing left to do at the end of a run. Seconds
are summed over jobs, so with two jobs they add up to twice the wall-clock time. Drawing the demo's
sets is included; the packages are those that are installed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import typer

from bench import _measure
from bench._measure import Row

ROOT = Path(__file__).resolve().parents[1]
JOBS: int = typer.Option(2, min=1, help="Stages at a time.")
KEEP: Path = typer.Option(None, help="New folder in which to keep the clone and its outputs.")
SERIAL: bool = typer.Option(False, "--serial", help="Also time `dvc repro`.")

# loaded by every Python that finds it: times its outermost imports, writes the sum at exit
WATCH = """
import atexit, builtins, json, os, sys, time
began, depth, spent, usual = time.time(), 0, 0.0, builtins.__import__

def watched(*arguments, **more):
    global depth, spent
    depth += 1
    start = time.perf_counter()
    try:
        return usual(*arguments, **more)
    finally:
        depth -= 1
        if depth == 0:
            spent += time.perf_counter() - start

def forked():
    global began, depth, spent
    began, depth, spent = time.time(), 0, 0.0

def note():
    told = {"argv": sys.orig_argv, "seconds": time.time() - began, "imports": spent}
    with open(os.path.join(os.environ["BENCH_NOTES"], f"{os.getpid()}.json"), "w") as file:
        json.dump(told, file)

builtins.__import__ = watched
os.register_at_fork(after_in_child=forked)
atexit.register(note)
"""


def main(jobs: int = JOBS, serial: bool = SERIAL, keep: Path = KEEP) -> None:
    """Print and save the seconds by kind of stage, and of the whole."""
    clock, notes = run(["-m", "stages.runs", "--jobs", str(jobs)], keep)
    plain = run(["-m", "dvc", "repro"])[0] if serial else None
    memory = _measure.peak_memory("cpu", resource.RUSAGE_CHILDREN)
    # two rows in place of ours and plain, since a ratio of seconds would read as one of rates
    rows = [Row("make repro, by the clock", jobs, "s", clock, None, None, memory)]
    if plain is not None:
        rows.append(Row("dvc repro, by the clock", 1, "s", plain, None, None, memory))
    for name, count, seconds in parts(notes, clock, jobs):
        rows.append(Row(name, count, "s", seconds, None, None, memory))
    facts = {"columns": {"batch": "stages, or jobs"}, "jobs": jobs}
    _measure.tell("repro", "cpu", rows, facts)


def run(command: list[str], keep: Path | None = None) -> tuple[float, list[dict[str, object]]]:
    """Seconds of a command in a fresh clone with an empty cache, and what its processes noted."""
    with tempfile.TemporaryDirectory() as name:
        clone, watch, notes = (Path(name) / part for part in ("clone", "watch", "notes"))
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        watch.mkdir()
        notes.mkdir()
        (watch / "sitecustomize.py").write_text(WATCH, encoding="utf-8")
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(watch),
            "BENCH_NOTES": str(notes),
        }
        start = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=clone, env=environment, check=True)
        clock = time.perf_counter() - start
        if keep:
            shutil.copytree(clone, keep, symlinks=True)
        return clock, [json.loads(path.read_text()) for path in notes.iterdir()]


def parts(notes: list[dict[str, object]], clock: float, jobs: int) -> list[tuple[str, int, float]]:
    """Name, number of stages and seconds of each part, the longest first.

    Args:
        notes: What the processes noted.
        clock: Seconds from start to end.
        jobs: Stages at a time.
    """
    work: dict[str, list[float]] = defaultdict(list)
    imports: list[float] = []
    beside: list[float] = []  # of the processes that fork, while the first stages run
    for note in notes:
        words = [str(word) for word in note["argv"]]  # type: ignore[attr-defined]
        module = next((word for word in words if word.startswith("stages.")), "")
        if module in ("", "stages.runs", "stages._repro"):
            continue
        seconds, importing = float(str(note["seconds"])), float(str(note["imports"]))
        if module == "stages._forks":
            beside.append(importing)
            continue
        imports.append(importing)
        work[module.removeprefix("stages.")].append(seconds - importing)
    found = [(f"{name}: work", len(times), sum(times)) for name, times in work.items()]
    found.append(("imports of all stages", len(imports), sum(imports)))
    rest = jobs * clock - sum(seconds for _, _, seconds in found)
    found.append(("DVC, starting processes, and waiting for the last stages", len(imports), rest))
    found.append(("imports for forks, beside the first stages", len(beside), sum(beside)))
    return sorted(found, key=lambda part: -part[2])


if __name__ == "__main__":
    typer.run(main)
