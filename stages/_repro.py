"""All that `stages.runs` asks of DVC: which stages are outdated, and to reproduce a stage.

As a program this is a worker of `stages.runs`, one per job. It reads one JSON object per line from
stdin (`stage`, `log`), does what `dvc --wait-for-lock repro --single-item <stage>` does, and
answers with one on stdout. The worker loads DVC once; one `dvc` per stage would load it each time.
Its stages are forks of a process that has loaded their libraries, if it is told so (`_forks`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from convirt import files
from convirt.errors import InputError
from stages import _forks, _scratch
from stages._plan import outdated

GRACE = 60.0  # seconds between SIGTERM and SIGKILL for a stage that may be saving its state
LINGER = 3600.0  # seconds, from the end of the orders on, for which DVC may go on recording
COMMAND = ("--wait-for-lock", "repro", "--single-item")  # of a worker, and then the stage
RUNS, FAILED = "Running stage '", "failed to run: "  # DVC's words, as are the next
UNCHANGED, CACHED = "didn't change, skipping", "is cached - skipping run"  # DVC's words


@dataclass(frozen=True)
class Pipeline:
    """The parts of DVC's graph that matter to a run.

    Attributes:
        stale: True for a stage that changed, False for one below it; each after its upstream.
        upstream: For each stage, the stages whose outputs it reads.
        total: How many stages the targets need.
        forks: How many of the stale ones a worker could run as forks.
    """

    stale: dict[str, bool]
    upstream: dict[str, tuple[str, ...]]
    total: int
    forks: int


def examine(targets: Sequence[str], ran: Collection[str] = ()) -> Pipeline:
    """Ask DVC once for everything; wait while another `dvc` holds the lock.

    Args:
        targets: As for `dvc repro`; none means all of dvc.yaml.
        ran: Stages that already ran; those among them that DVC always runs do not count as stale.

    Raises:
        InputError: DVC cannot read the pipeline, does not know a target, or is busy.
    """
    from dvc.dvcfile import PROJECT_FILE
    from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

    with _repository() as repo:
        graph = get_active_graph(repo.index.graph)
        stages = plan_repro(graph, collect_stages(repo, targets or [PROJECT_FILE]))
        named = {stage.addressing: stage for stage in stages}
        upstream = {
            name: tuple(above.addressing for above in graph.successors(stage))
            for name, stage in named.items()
        }

        def changed(name: str) -> bool:
            stage = named[name]
            always = stage.always_changed or stage.is_callback
            return not (always and name in ran) and bool(stage.changed())

        stale = outdated(list(named), upstream, changed)
        forks = sum(_forks.can_run(str(named[name].cmd)) for name in stale)
        return Pipeline(stale, upstream, len(named), forks)


def changed(names: Collection[str]) -> set[str]:
    """Those of the stages `names` that DVC would run now; nothing above them may be outdated.

    Raises:
        InputError: As for `examine`.
    """
    with _repository() as repo:
        stages = (stage for stage in repo.index.stages if stage.addressing in names)
        return {stage.addressing for stage in stages if stage.changed()}


def forget_killed() -> None:
    """Remove what killed workers left in DVC's list of paths in use; if it is cut off, all of it.

    Only while no worker can be alive. DVC itself keeps an entry as long as its process number is
    in use, by whatever process, and stops for good at a list that was cut off.

    Raises:
        InputError: As for `examine`.
    """
    from dvc import rwlock

    ours = " ".join(("dvc", *COMMAND))
    with _repository() as repo:
        links = repo.config["core"].get("hardlink_lock", False)
        try:
            with rwlock._edit_rwlock(repo.tmp_dir, repo.fs, links) as used:
                for path, readers in list(used["read"].items()):
                    used["read"][path] = [r for r in readers if not r["cmd"].startswith(ours)]
                used["read"] = {path: readers for path, readers in used["read"].items() if readers}
                used["write"] = {
                    path: writer
                    for path, writer in used["write"].items()
                    if not writer["cmd"].startswith(ours)
                }
        except (rwlock.RWLockFileCorruptedError, rwlock.RWLockFileFormatError):
            Path(repo.tmp_dir, rwlock.RWLOCK_FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def _repository() -> Iterator[Any]:
    """The locked repository; DVC's errors are raised as ours."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo, lock_repo
    from dvc.utils.strictyaml import YAMLSyntaxError

    try:
        with Repo(_wait_for_lock=True) as repo, lock_repo(repo):
            yield repo
    except YAMLSyntaxError as error:
        hint = (
            "correct it; dvc.lock: `git checkout dvc.lock`, then, before anything runs, "
            "`dvc commit -f <stage>` for each stage that has finished since"
        )
        raise InputError(error.path, "YAML", str(error), hint) from error
    except DvcException as error:
        hint = "`dvc stage list --all` names the stages, `dvc status` shows busy ones"
        raise InputError("dvc.yaml", "a pipeline and its stages", str(error), hint) from error


# ------------------------------------------------------------------------------ the worker
def serve() -> None:
    """Reproduce the requested stages until stdin ends; then end the stage that is still running.

    So a runner that is killed takes its stages along. DVC itself may finish: what a stage has
    computed is lost unless DVC records it.
    """
    write_at_once()
    # even if all processes get SIGTERM, this one ends when the runner closes its end of stdin;
    # a handler, since stages would inherit that a signal is ignored
    signal.signal(signal.SIGTERM, lambda *_: None)
    orders = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # a stage inherits descriptors 0, 1 and 2 alone: neither the pipes nor the runner's lock
    _point(os.devnull, 0, os.O_RDONLY)
    lock, *wanted = sys.argv[1:]
    os.set_inheritable(int(lock), False)
    forks = _forks.Forks() if wanted else None
    if forks:
        _forks.instead_of_shells(forks)
    todo: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    stopping = threading.Event()
    # told to end it would only wait, and a stage that it starts meanwhile would hear of nothing
    spared = forks.process.pid if forks else None
    threading.Thread(target=_listen, args=(orders, todo, stopping, spared), daemon=True).start()
    while (order := todo.get()) is not None and not stopping.is_set():
        answer = _reproduce(order["stage"], Path(order["log"]))
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:
            break
    if forks:
        forks.close()
    # DVC waits only for a stage's shell; a shell that ends on SIGTERM leaves a stage that is still
    # saving. The other thread is ending that stage, which would take a second SIGTERM as impatience
    while _below():
        time.sleep(0.05)
    if os.getpgrp() == os.getpid():  # what the stages have left behind, and this very process
        os.killpg(0, signal.SIGKILL)


def write_at_once() -> None:
    """Let DVC write its files under another name and rename them.

    DVC writes them in place, which takes a moment: killed then, it would leave half of dvc.lock,
    often one that can be read but has lost the records of other stages.
    """
    from dvc.utils.serialize import _common, _yaml

    def dump(path: Any, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
        text = io.StringIO()
        dumper(data, text, **options)
        files.write_text(Path(path), text.getvalue())

    _common._dump_data = _yaml._dump_data = dump


def _reproduce(stage: str, log: Path) -> dict[str, Any]:
    from dvc.cli import main

    log.parent.mkdir(parents=True, exist_ok=True)
    for number in (1, 2):
        _point(log, number, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC * (number == 1))
    arguments = [*COMMAND, stage]
    sys.argv = ["dvc", *arguments]  # DVC shows others this as the holder of a lock
    code = main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    told = log.read_text(encoding="utf-8", errors="replace")
    why = ""
    if code:
        outcome = "failed"
        if RUNS in told and FAILED not in told:
            why = (
                "its command succeeded, but DVC could not record that: mend what the log says, "
                f"then `dvc commit -f {stage}` records its outputs without running it again"
            )
    elif UNCHANGED in told:
        outcome = "unchanged"
    else:
        _scratch.recorded(stage, Path.cwd())
        outcome = "cached" if CACHED in told else "done"
    return {"stage": stage, "outcome": outcome, "why": why}


def _point(path: Path | str, number: int, flags: int) -> None:
    """Open a file as the descriptor `number`."""
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, number)
    os.close(opened)


def _listen(
    orders: TextIO,
    todo: queue.SimpleQueue[dict[str, Any] | None],
    stopping: threading.Event,
    spared: int | None,
) -> None:
    """Pass orders on; once there are no more, end child processes until this process ends."""
    for line in orders:
        todo.put(json.loads(line))
    stopping.set()
    todo.put(None)
    deadline = time.monotonic() + LINGER
    while time.monotonic() < deadline:  # the main thread may be about to start one
        _end_below(spared)
        time.sleep(0.05)
    os._exit(1)


def _end_below(spared: int | None) -> None:
    """Send SIGTERM once to each process below this one, and SIGKILL to those that stay.

    Args:
        spared: The process that forks stages, which ends when this one does.
    """
    import psutil

    below = [process for process in _below() if process.pid != spared]
    for process in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    deadline = time.monotonic() + GRACE
    while (left := list(filter(_works, below))) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _below() -> list[Any]:
    """Processes that are running below this one, or in the group that it leads.

    A stage whose shell has ended is no longer below this process, but still in its group.
    """
    import psutil

    own = psutil.Process()
    found = set(own.children(recursive=True))
    if os.getpgrp() == own.pid:
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if os.getpgid(pid) == own.pid:
                    found.add(psutil.Process(pid))
    return list(filter(_works, found - {own}))


def _works(process: Any) -> bool:
    """Whether a process is running; one that has ended and waits for its parent is not.

    No exit status is collected here: DVC would miss it. That of an orphan may stay uncollected for
    long where the first process of a container does not collect it.
    """
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    serve()
