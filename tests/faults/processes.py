"""The other end of `fork_server`: stages as processes that a test watches, disturbs and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conftest import ROOT

from faults.injection import Fault

PATIENCE = 120.0  # seconds that a stage may take before a test gives up on it
NOTHING = Fault()
# No library may start a thread when it is imported: a fork would copy the locks it holds.
ALONE = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
ALONE |= {"JE_ARROW_MALLOC_CONF": "background_thread:false", "MPLBACKEND": "agg"}


class Server:
    """A process that forks stages; `code` is the copy of the code that they run.

    Attributes:
        code: That copy.
        environment: The environment variables with which they run.
    """

    def __init__(self, code: Path) -> None:
        hidden = ("DVC_ROOT", "DVC_STAGE")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        path = os.pathsep.join((str(code), str(ROOT / "tests")))
        self.code = code
        self.environment = environment | ALONE | {"PYTHONPATH": path}
        self._logs = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "faults.fork_server"],
            cwd=code,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C ends pytest, which ends this
        )
        assert "ready" in self._answer()

    def close(self) -> None:
        """End it, and with it all that it has forked."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=PATIENCE)

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request; returns the answer."""
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the fork server has died, see its stderr"
        answer: dict[str, Any] = json.loads(line)
        return answer

    @contextmanager
    def started(
        self, project: Path, command: tuple[str, ...], fault: Fault = NOTHING
    ) -> Iterator[Process]:
        """Start a stage that does not outlive the block; `command` is its name and arguments."""
        self._logs += 1
        process = Process(self, project, command, fault, self._logs)
        try:
            yield process
        finally:
            if process.code is None:
                process.send(signal.SIGKILL)
                process.end()

    def run(self, project: Path, command: tuple[str, ...], fault: Fault = NOTHING) -> Process:
        """Run a stage until it ends, in whatever way."""
        with self.started(project, command, fault) as process:
            process.end()
        return process


class Process:
    """A stage that runs in a project.

    Attributes:
        code: Its exit code; None while it is not known to have ended, negative after a signal.
        seconds: How long it took.
    """

    def __init__(
        self, server: Server, project: Path, command: tuple[str, ...], fault: Fault, number: int
    ) -> None:
        self._server = server
        self._log = project.parent / f"{project.name}-{number}.log"
        self._began = time.monotonic()
        self.code: int | None = None
        self.seconds = 0.0
        stage, *arguments = command
        self.pid = server.ask(
            stage=stage,
            arguments=arguments,
            project=str(project),
            log=str(self._log),
            fault=asdict(fault),
        )["pid"]

    @property
    def said(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(encoding="utf-8") if self._log.exists() else ""

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> int:
        """Wait until it has ended; returns the exit code."""
        found = self._wait()
        assert isinstance(found, int), f"it stands still\n{self.said}"
        return found

    def stand(self) -> bool:
        """Wait until it stands still (True) or has ended (False)."""
        return self._wait() == "stopped"

    def _wait(self) -> int | str:
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self._server.ask(poll=self.pid)["code"]
            if found is not None:
                break
            assert time.monotonic() < deadline, f"it does not end\n{self.said}"
            time.sleep(0.002)
        if isinstance(found, int):
            self.code, self.seconds = found, time.monotonic() - self._began
        return int(found) if isinstance(found, int) else str(found)
