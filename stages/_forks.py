"""Stages as forks of a process that has imported their libraries, so that a start costs nothing.

PyTorch, timm and what they need take 3 to 9 s of a core to import, for each of some 40 stages. A
worker of `stages.runs` therefore starts this module as a program. It imports the libraries once,
but no module of this project: a stage runs the code as it is when that stage starts. For each stage
it forks, and the fork does what `python -m stages.<stage>` would do, with the same outputs, exit
code, handlers and traceback.

Only on Linux: on macOS, libraries that are loaded do not survive a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from stages._parent import end_with_parent

POSSIBLE = sys.platform == "linux"
# what takes long to import; a stage imports whatever else it needs
LIBRARIES = (
    "numpy",
    "pandas",
    "pyarrow.parquet",
    "scipy.stats",
    "sklearn.metrics",
    "torch",
    "torch._dynamo",
    "timm",
    "transformers.models.bert.modeling_bert",
    "transformers.models.auto.tokenization_auto",
    "pydicom",
    "rich.progress",
)
OWN = ("convirt", "stages")  # never loaded before a stage starts
# a command of dvc.yaml for which a shell has nothing to do
COMMAND = re.compile(r"python -m (stages\.[a-z]\w*)((?: [\w@%+=:,./-]+)*)")
LARGEST = 1 << 20  # bytes of a request


# ------------------------------------------------------------------------------ of a worker
class Forks:
    """The other end: asks the process for a fork that runs a stage, and waits for it.

    Attributes:
        process: The one that forks.
    """

    def __init__(self, libraries: Sequence[str] = LIBRARIES) -> None:
        """Start the process, which imports `libraries` for some seconds."""
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._installed = installed()
        self._ready = False
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "stages._forks", str(theirs.fileno()), *libraries],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def run(self, command: str, folder: str, environment: Mapping[str, str]) -> int | None:
        """Run a command with this process's stdin, stdout and stderr.

        Args:
            command: As in dvc.yaml.
            folder: Where it runs.
            environment: All of its environment variables.

        Returns:
            Its exit code, negative after a signal; None if a shell has to run it: it is no stage,
            the libraries are not imported yet, or others have been installed since.
        """
        found = COMMAND.fullmatch(command)
        if found is None or not self.usable():
            return None
        module, arguments = found[1], found[2].split()
        request = json.dumps([module, arguments, folder, dict(environment)]).encode()
        try:
            socket.send_fds(self._channel, [request], [0, 1, 2])
        except OSError:  # it has died, or the environment is too large
            return None
        told = self._channel.recv(64)
        return int(told) if told else -signal.SIGKILL

    def usable(self) -> bool:
        """Whether a stage could be forked now."""
        if not self._ready and select.select([self._channel], [], [], 0)[0]:
            self._ready = self._channel.recv(64) == b"ready"
        return self._ready and installed() == self._installed

    def close(self) -> None:
        """Let the process end; one that is importing ends at once."""
        self._channel.close()
        if not self._ready:
            self.process.kill()
        self.process.wait()


def can_run(command: str) -> bool:
    """Whether a fork could run a command of dvc.yaml."""
    return POSSIBLE and COMMAND.fullmatch(command) is not None


def instead_of_shells(forks: Forks) -> None:
    """Let DVC, in this process, run commands by `forks` where it can."""
    from dvc.stage import run
    from dvc.stage.exceptions import StageCmdFailedError

    by_shell: Callable[..., None] = run._run

    def by_fork(executable: str, cmd: str, **how: Any) -> None:
        code = forks.run(cmd, str(how["cwd"]), how["env"])
        if code is None:
            by_shell(executable, cmd, **how)
        elif code != 0:
            raise StageCmdFailedError(cmd, code)

    run._run = by_fork


def installed() -> tuple[int, ...]:
    """Changes when a package is installed or removed."""
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return tuple(Path(folder).stat().st_mtime_ns for folder in sorted(folders))


# ------------------------------------------------------------------------------ the process itself
def serve(channel: socket.socket, libraries: Sequence[str]) -> None:
    """Import, then run one stage per request until the worker closes its end."""
    end_with_parent(signal.SIGKILL)  # and then the stage, which saves its state
    # a worker that ends sends this to all below it: it is for the stage
    signal.signal(signal.SIGTERM, lambda *_: None)
    for name in libraries:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector leaves all of it alone, so that forks share its memory
    with contextlib.suppress(BrokenPipeError):
        channel.send(b"ready")
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, LARGEST, 3)
            if not request:
                return
            # a signal for the stage waits until the stage can be ended by it
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            with warnings.catch_warnings():  # of threads; those of OpenBLAS and Arrow are prepared
                warnings.simplefilter("ignore", DeprecationWarning)
                pid = os.fork()
            if pid == 0:
                channel.close()
                module, arguments, folder, environment = json.loads(request)
                _become(module, arguments, folder, environment, descriptors)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            for descriptor in descriptors:
                os.close(descriptor)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            channel.send(str(code).encode())


def _become(
    module: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    descriptors: list[int],
) -> NoReturn:
    """Turn this fork into `python -m <module> <arguments>`."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    end_with_parent(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = [module, *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    for name in list(sys.modules):
        if name.partition(".")[0] in OWN:
            del sys.modules[name]
    os._exit(end_of(lambda: runpy.run_module(module, run_name="__main__", alter_sys=True)))


def end_of(program: Callable[[], object]) -> int:
    """Run a program to its end; returns its exit code, after what Python does at exit.

    Only tidying up memory is left out, which takes long after training.
    """
    code: object = 0
    try:
        program()
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if not isinstance(code, int | None):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return code or 0


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
