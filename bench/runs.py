"""Independent stages of a DVC pipeline side by side, against `dvc repro`, which runs one at a time.

    python -m bench.runs --stages 8 --seconds 6 --jobs 2

A scratch repository has one stage above, several single-threaded stages that compute for some
seconds, and one stage below. Each way starts from the same repository, in which nothing has run;
ways are interleaved, and the ratio is the median over pairs of neighbouring runs. "A dvc a stage"
is the recipe with xargs. "The commands alone" run the same scripts without DVC: no way can be
faster. The load of the machine is printed, since other work slows the parallel ways first.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
STAGES: int = typer.Option(8, min=1, help="Stages that could run side by side.")
SECONDS: float = typer.Option(6.0, help="Seconds that one takes, alone on the machine.")
JOBS: int = typer.Option(2, min=1, help="Stages at a time.")
ROUNDS: int = typer.Option(2, min=1, help="Runs of each way.")

BURN = """
import sys
from pathlib import Path

total = 0
for i in range(int(sys.argv[1])):
    total += i * i % 7
Path("out").mkdir(exist_ok=True)
Path("out", sys.argv[2]).write_text(str(total))
"""
PIPELINE = """
stages:
  above:
    cmd: python burn.py 1 above
    outs: [out/above]
  run:
    foreach: [{members}]
    do:
      cmd: python burn.py {loops} run-${{item}}
      deps: [out/above]
      outs: ["out/run-${{item}}"]
  below:
    cmd: python burn.py 1 below
    deps: [{outs}]
    outs: [out/below]
"""


def main(
    stages: int = STAGES, seconds: float = SECONDS, jobs: int = JOBS, rounds: int = ROUNDS
) -> None:
    """Print the wall-clock time of each way and its ratio to `dvc repro`."""
    ways: dict[str, Callable[[Path], None]] = {
        "dvc repro": lambda folder: call(folder, "-m", "dvc", "repro", "--quiet"),
        f"stages.runs, {jobs} jobs": lambda folder: call(
            folder, "-m", "stages.runs", "--jobs", str(jobs)
        ),
        f"one dvc per stage, {jobs} at a time": partial(one_dvc_each, stages=stages, jobs=jobs),
        f"the commands alone, {jobs} at a time": partial(alone, stages=stages, jobs=jobs),
    }
    console = Console(width=110)
    console.print(f"load before: {os.getloadavg()[0]:.2f} on {os.cpu_count()} cores")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as temporary:
        template = Path(temporary) / "template"
        write(template, stages, loops_in(seconds))
        for number in range(rounds):
            for name, run in ways.items():
                folder = Path(temporary) / f"{number}-{len(name)}"
                shutil.copytree(template, folder)
                start = time.perf_counter()
                run(folder)
                taken[name].append(time.perf_counter() - start)
                assert len(list((folder / "out").iterdir())) == stages + 2
    title = f"{stages} stages of {seconds:g} s, single-threaded, on {os.cpu_count()} cores"
    table = Table("way", "seconds", "faster than dvc repro by", title=title)
    base = taken["dvc repro"]
    for name, times in taken.items():
        ratio = statistics.median(b / a for b, a in zip(base, times, strict=True))
        table.add_row(name, f"{statistics.median(times):.1f}", f"{ratio:.2f} x")
    console.print(table)
    console.print(f"load after: {os.getloadavg()[0]:.2f}")


def write(folder: Path, stages: int, loops: int) -> None:
    """A repository in which nothing has run."""
    folder.mkdir()
    names = [str(i) for i in range(stages)]
    outs = ", ".join(f"out/run-{name}" for name in names)
    text = PIPELINE.format(members=", ".join(names), loops=loops, outs=outs)
    (folder / "dvc.yaml").write_text(text)
    (folder / "burn.py").write_text(BURN)
    (folder / "loops").write_text(str(loops))
    call(folder, "-m", "dvc", "init", "--no-scm", "--quiet")
    for option in ("core.analytics", "core.check_update"):
        call(folder, "-m", "dvc", "config", option, "false")


def loops_in(seconds: float) -> int:
    """How many loops of the script take `seconds`."""
    start = time.process_time()
    exec(compile(BURN.split("Path(")[0].replace("int(sys.argv[1])", "2_000_000"), "", "exec"), {})
    return round(2_000_000 * seconds / (time.process_time() - start))


def one_dvc_each(folder: Path, stages: int, jobs: int) -> None:
    """`dvc repro` of the stage above, one `dvc` per stage, and `dvc repro` for the rest."""
    call(folder, "-m", "dvc", "repro", "--quiet", "above")
    single = ["-m", "dvc", "--wait-for-lock", "repro", "--quiet", "--single-item"]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda i: call(folder, *single, f"run@{i}"), range(stages)))
    call(folder, "-m", "dvc", "repro", "--quiet")


def alone(folder: Path, stages: int, jobs: int) -> None:
    """The same scripts, without DVC."""
    loops = (folder / "loops").read_text()
    call(folder, "burn.py", "1", "above")
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda i: call(folder, "burn.py", loops, f"run-{i}"), range(stages)))
    call(folder, "burn.py", "1", "below")


def call(folder: Path, *arguments: str) -> None:
    """Run this Python with `arguments` in `folder`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": path}
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    typer.run(main)
