"""The workers of `stages.runs`: one process per slot, each in its own process group."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from convirt import checkpoint, devices
from convirt.errors import InputError

PATIENCE = 90.0  # seconds that a killed run is given to end; more than _repro.GRACE
COLOURED = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")  # unset: stages write to logs


@dataclass(frozen=True)
class Ended:
    """A stage that a worker has finished with.

    Attributes:
        outcome: done (its command ran), cached (DVC had its outputs), unchanged, or failed.
        seconds: From the order to the answer, including the wait for DVC's lock.
        why: The cause of a failure, where the log does not hold it.
    """

    stage: str
    outcome: str
    seconds: float
    why: str = ""


@dataclass
class Worker:
    """A slot and its process, which is started with the first order."""

    slot: str  # for CUDA_VISIBLE_DEVICES
    cores: int  # that its stages may use
    lock: int
    forks: bool = False  # whether its stages are forks (`_forks`)
    stage: str | None = None
    since: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def order(self, stage: str, log: Path) -> None:
        """Let the worker, which has to be idle, reproduce a stage."""
        if self.process is None:
            # dvc.yaml says `python`: this one, even if its environment is not activated
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stages._repro", str(self.lock), *["forks"] * self.forks],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={key: value for key, value in os.environ.items() if key not in COLOURED}
                | {"CUDA_VISIBLE_DEVICES": self.slot, devices.CORES: str(self.cores), "PATH": path},
                pass_fds=[self.lock],
                start_new_session=True,  # ctrl-C is for the runner alone
            )
        self.stage, self.since = stage, time.monotonic()
        text = json.dumps({"stage": stage, "log": str(log)}) + "\n"
        with contextlib.suppress(BrokenPipeError):  # then `answer` reports that it has died
            _pipe(self.process.stdin).write(text.encode())
            _pipe(self.process.stdin).flush()

    def answer(self) -> Ended:
        """Read the answer; for a worker that has died, report a failure."""
        assert self.process is not None and self.stage is not None
        stage, self.stage = self.stage, None
        seconds = time.monotonic() - self.since
        if line := _pipe(self.process.stdout).readline():
            told = json.loads(line)
            return Ended(stage, told["outcome"], seconds, told["why"])
        self.end(kill=True)
        why = f"its worker exited with {self.process.returncode}"
        self.process = None
        return Ended(stage, "failed", seconds, why)

    def end(self, kill: bool = False) -> None:
        """End the process and what it has started: immediately (`kill`), or when DVC has ended."""
        if self.process is None:
            return
        with contextlib.suppress(BrokenPipeError):
            _pipe(self.process.stdin).close()
        if kill:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        _pipe(self.process.stdout).close()


class Crew:
    """One worker per job."""

    def __init__(self, slots: Sequence[str], lock: int, forks: bool = False) -> None:
        """Plan one worker for each of `slots`, values of CUDA_VISIBLE_DEVICES."""
        cores = max(1, devices.cores() // len(slots))
        self.workers = [Worker(slot, cores, lock, forks) for slot in slots]

    def idle(self) -> list[Worker]:
        """The workers that could take an order."""
        return [worker for worker in self.workers if worker.stage is None]

    def busy(self) -> list[Worker]:
        """The workers that are reproducing a stage."""
        return [worker for worker in self.workers if worker.stage is not None]

    def wait(self, timeout: float) -> list[Ended]:
        """Wait at most `timeout` seconds; return the stages that have ended."""
        with selectors.DefaultSelector() as selector:
            for worker in self.busy():
                assert worker.process is not None
                selector.register(_pipe(worker.process.stdout), selectors.EVENT_READ, worker)
            return [key.data.answer() for key, _ in selector.select(timeout)]

    def close(self) -> None:
        """End all workers; a second interrupt kills them."""
        try:
            for worker in self.workers:
                if worker.process is not None:
                    with contextlib.suppress(BrokenPipeError):
                        _pipe(worker.process.stdin).close()
            for worker in self.workers:
                worker.end()
        except KeyboardInterrupt:
            for worker in self.workers:
                worker.end(kill=True)
            raise


@contextmanager
def alone(folder: Path, tell: Callable[[str], None]) -> Iterator[int]:
    """Hold `folder` for one runner and its workers; yield the lock, which the workers inherit.

    The lock is held as long as a worker lives. A run started right after a kill therefore waits
    until the killed stages have ended.

    `tell` is called if there is something to wait for.

    Raises:
        InputError: Another runner holds the folder for longer than `PATIENCE`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+", encoding="utf-8") as file:
        deadline, told = time.monotonic() + PATIENCE, False

        def check() -> None:
            nonlocal told
            if time.monotonic() > deadline:
                hint = "let it end, or kill it, then run the same command"
                file.seek(0)
                found = f"process {file.read() or 'unknown'}, or what it started, is at work here"
                raise InputError(file.name, "no other `stages.runs`", found, hint)
            if not told:
                tell("waiting for an earlier run to end ...")
                told = True

        checkpoint.wait_for(file.fileno(), check)
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}")
        file.flush()
        yield file.fileno()


def _pipe(stream: IO[Any] | None) -> IO[Any]:
    assert stream is not None
    return stream
