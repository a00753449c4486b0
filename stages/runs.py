"""Reproduce several stages at a time, each on its own GPU: `dvc repro` in parallel.

    python -m stages.runs                              # as `make repro`: two stages, or one per GPU
    python -m stages.runs --jobs 4                     # on the CPU
    python -m stages.runs --gpus 0,1,2,3               # one stage per GPU
    python -m stages.runs --gpus 0,1 finetune retrieve

DVC runs one stage after the other. This walks DVC's own graph: an outdated stage starts as soon as
everything that it reads is up to date. It starts through `dvc repro --single-item`, and DVC still
decides whether it runs or comes from the cache, and records it. So the results are those of
`dvc repro`, and a kill costs what a kill of `dvc repro` costs: stages that ended are recorded and
do not run again.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import typer

from convirt import devices
from convirt.errors import InputError
from convirt.params import parse, read_yaml
from stages import _repro, _scratch
from stages._board import Board
from stages._crew import Crew, alone
from stages._faults import explained
from stages._plan import Schedule
from stages._stage import NOTE
from stages._stopping import IMPATIENT

TARGETS: list[str] = typer.Argument(None, help="As for `dvc repro`; none means everything.")
JOBS: int = typer.Option(0, min=0, help="Stages at a time; 0: one per GPU, or 2 on the CPU.")
GPUS: str = typer.Option(
    "",
    help="Such as 0,1: one stage on each; name one twice to share it. Default: all, if device is "
    "cuda.",
)
FORKS: bool = typer.Option(
    True,
    "--forks/--no-forks",
    help="On Linux: import PyTorch once per job, or in each stage. Results are the same.",
)
FOLDER = Path(_scratch.SCRATCH, "runs")  # logs and the lock
# the report depends on it, and no stage makes it where params.yaml asks for no transfer run
DEPENDENCIES = (Path("models/finetune"),)


def main(
    targets: list[str] = TARGETS, jobs: int = JOBS, gpus: str = GPUS, forks: bool = FORKS
) -> None:
    """Bring TARGETS up to date, several stages at a time.

    If train.launcher is torchrun, pretraining uses all GPUs, and stages run one at a time.

    Writes what the stages write, dvc.lock, and one log per stage in .scratch/runs/. A stage that
    fails stops only those below it. Exit code 1 if one failed or is outdated again.
    """
    board = Board()
    _interruptible()
    try:
        wanted = Wanted.read()
        if not gpus and wanted.device == "cuda":
            gpus = every_gpu()
        chosen = [gpus] if wanted.shared else slots(jobs, gpus)
        check_threads(chosen, wanted.threads, board)
        with alone(FOLDER, board.say) as lock:
            good = work(targets or [], chosen, lock, board, forks)
    except (InputError, OSError) as error:
        told = explained(error, Path.cwd())
        if told is None:
            raise
        board.say(str(told), style="red")
        raise typer.Exit(1) from error
    except KeyboardInterrupt as error:
        board.say("interrupted; ended stages are recorded, run the same command to go on", "yellow")
        raise typer.Exit(130) from error
    if not good:
        raise typer.Exit(1)


def work(targets: list[str], chosen: list[str], lock: int, board: Board, forks: bool) -> bool:
    """Run all that is outdated; return whether all is up to date now."""
    board.say("asking DVC what is outdated ...")
    _scratch.sweep(Path())
    _repro.forget_killed()
    pipeline = _repro.examine(targets)
    if not pipeline.stale:
        board.say(f"Nothing to do: all {pipeline.total} stages are up to date.", "green")
        return True
    for folder in DEPENDENCIES:
        folder.mkdir(parents=True, exist_ok=True)
    schedule = Schedule(pipeline.stale, pipeline.upstream)
    # the first stages of a worker cannot be forks, since the imports take as long as these stages
    crew = Crew(chosen, lock, forks and pipeline.forks > 2 * len(chosen))
    with board.over(schedule, crew):
        try:
            run(schedule, crew, {name for name, sure in pipeline.stale.items() if sure}, board)
        finally:
            crew.close()
    board.summary()
    if board.failures:
        return False
    if again := _repro.examine(targets, ran=pipeline.stale).stale:
        board.say(
            f"{len(again)} stages are outdated again, such as {next(iter(again))}: something that "
            "they read was edited meanwhile. Run the same command.",
            style="yellow",
        )
    return not again


def run(schedule: Schedule, crew: Crew, sure: set[str], board: Board) -> None:
    """Keep the crew busy until nothing is left that could run.

    `sure` are stages that DVC is known to run. Since a worker asks DVC about its stage anyway, the
    others are checked beforehand only if they outnumber the workers, and then all in one call.
    """
    while not schedule.finished:
        unsure = [stage for stage in schedule.ready() if stage not in sure]
        if crew.idle() and len(unsure) > len(crew.workers):
            try:
                found = _repro.changed(unsure)
            except InputError:  # somebody else's `dvc` is working on one of them: leave that
                found = set(unsure)  # to the workers, so that other stages can go on
            sure |= found
            board.up_to_date(settled := [stage for stage in unsure if stage not in found])
            for stage in settled:
                schedule.done(stage)
            continue
        for worker, stage in zip(crew.idle(), schedule.ready(), strict=False):
            schedule.start(stage)
            worker.order(stage, log(stage))
            board.started(stage, worker.slot)
        for ended in crew.wait(timeout=0.5):
            if ended.outcome == "failed":
                board.failed(ended, log(ended.stage), schedule.failed(ended.stage))
            else:
                schedule.done(ended.stage)
                board.done(ended, notes(log(ended.stage)) if ended.outcome == "done" else [])
        board.refresh()


def slots(jobs: int, gpus: str) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each job.

    Raises:
        InputError: There are fewer GPUs than jobs, or a name is empty.
    """
    if not gpus:
        return [""] * (jobs or 2)
    names = [name.strip() for name in gpus.split(",")]
    if not all(names):
        raise InputError("--gpus", "numbers separated by commas", repr(gpus), "--gpus 0,1")
    if jobs > len(names):
        each = ",".join(names[i % len(names)] for i in range(jobs))
        hint = f"--jobs {len(names)}, or name a GPU once for each job: --gpus {each}"
        raise InputError("--jobs", f"at most {len(names)}, one per GPU", str(jobs), hint)
    return names[: jobs or len(names)]


def notes(log: Path) -> list[str]:
    """The notes in the log of a stage that ran."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.removeprefix(NOTE) for line in lines if line.startswith(NOTE)]


def log(stage: str) -> Path:
    """Where a stage's output goes."""
    return FOLDER / f"{stage.replace('/', '_')}.log"


class Wanted(NamedTuple):
    """What params.yaml says about how to run.

    Attributes:
        device: compute.device.
        threads: compute.threads.
        shared: Whether train.launcher lets several GPUs share a stage.
    """

    device: str
    threads: int
    shared: bool

    @classmethod
    def read(cls, path: Path = Path("params.yaml")) -> Wanted:
        """Read a file; a missing file gives the defaults.

        Raises:
            InputError: It is not valid; found before DVC looks for files that it wrongly names. One
                without `matrix` is not a parameter file of this project and passes.
        """
        data: dict[str, Any] = read_yaml(path) if path.is_file() else {}
        if "matrix" in data:
            parse(data, path)
        compute, train = data.get("compute") or {}, data.get("train") or {}
        threads = compute.get("threads")
        launcher = str(train.get("launcher", ""))
        return cls(
            device=str(compute.get("device", "cpu")),
            threads=threads if isinstance(threads, int) else 1,
            shared=launcher.startswith("torchrun"),
        )


def every_gpu() -> str:
    """The numbers of all GPUs, as for --gpus.

    Raises:
        InputError: There is none.
    """
    if named := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return named
    import torch

    if not (count := torch.cuda.device_count()):
        found = "compute.device: cuda in params.yaml, and no GPU that torch can use"
        hint = "check nvidia-smi, or set compute.device: cpu, precision: float32, graphs: false"
        raise InputError("--gpus", "the GPUs to use", found, hint)
    return ",".join(map(str, range(count)))


def check_threads(chosen: list[str], threads: int, board: Board) -> None:
    """Warn of more threads than there are cores, which is slow but not an error."""
    if len(chosen) * threads > (cores := devices.cores()):
        board.say(
            f"{len(chosen)} jobs x {threads} threads (compute.threads) on {cores} cores: stages "
            "that compute on the CPU slow each other down. Another number of threads changes the "
            "last bits.",
            style="yellow",
        )


def _interruptible() -> None:
    """Treat SIGTERM as Ctrl-C: all stages save and end; a second one kills them.

    One request may arrive twice within moments: to the whole group, and from a parent such as make.
    """
    came: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(time.monotonic())
        if len(came) == 1 or came[-1] - came[0] > IMPATIENT:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


if __name__ == "__main__":
    typer.run(main)
