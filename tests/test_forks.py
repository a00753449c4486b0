"""Stages as forks of one process that has imported the libraries: `stages._forks`."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from stages import _forks
from stages._repro import _works

pytestmark = pytest.mark.skipif(not _forks.POSSIBLE, reason="forks on Linux only")

# tells what a program can see of how it was started, in lines that both ways have to share
TELL = """
import __main__, atexit, multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ProcessPoolExecutor
from stages import helper

def square(x):
    return x * x

def told():
    print(sys.argv, __name__, __main__ is sys.modules["__main__"], __main__.__spec__.name)
    print(os.getcwd(), sys.path[0], os.environ.get("ONLY"), os.environ.get("HOME"))
    print(sys.orig_argv[1:], helper.VALUE, sys.stdin.read(), signal.getsignal(signal.SIGTERM))
    print(sorted(int(n) for n in os.listdir("/proc/self/fd") if int(n) < 3))
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        print(list(pool.map(square, range(4))))
    print("to stderr", file=sys.stderr)
    atexit.register(print, "at exit")
    threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()

if __name__ == "__main__":
    told()
"""
ENDS = """
import os, signal, sys
how = sys.argv[1]
if how == "raises":
    raise ValueError("so it is")
if how == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "interrupted":
    os.kill(os.getpid(), signal.SIGTERM)
sys.exit({"none": None, "three": 3, "text": "a message"}[how])
"""
WAITS = """
import sys, time
from pathlib import Path
Path("started").touch()
time.sleep(60)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small programs beside the module under test."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/__init__.py").touch()
    for name in ("_forks.py", "_parent.py"):
        shutil.copy(ROOT / "stages" / name, tmp_path / "stages")
    (tmp_path / "stages/helper.py").write_text("VALUE = 1\n")
    for name, text in {"tell": TELL, "ends": ENDS, "waits": WAITS}.items():
        (tmp_path / f"stages/{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def forks(project: Path) -> Iterator[_forks.Forks]:
    """A process that is ready to fork, in the project."""
    forks = _forks.Forks(libraries=("json",))
    until(forks.usable)
    yield forks
    forks.close()


def until(done: Callable[[], bool]) -> None:
    """Wait at most half a minute."""
    deadline = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(forks: _forks.Forks, command: str, **environment: str) -> int | None:
    return forks.run(command, str(Path.cwd()), os.environ | environment)


def shell(command: str, **environment: str) -> int:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Path(os.devnull).open() as nothing:  # what a worker of `stages.runs` reads from
        return subprocess.run(
            command.split(), env=os.environ | environment | {"PATH": path}, stdin=nothing
        ).returncode


def test_a_fork_sees_what_a_process_of_its_own_sees(
    forks: _forks.Forks, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = "python -m stages.tell 1e-4 a/b --key=x@y"
    monkeypatch.delenv("HOME", raising=False)  # gone since the process started
    assert run(forks, command, ONLY="here") == 0
    forked = capfd.readouterr()
    assert shell(command, ONLY="here") == 0
    own = capfd.readouterr()
    assert forked == own
    assert forked.err == "to stderr\n"
    assert forked.out.splitlines()[-2:] == ["thread", "at exit"]


@pytest.mark.parametrize("how", ["none", "three", "text", "raises", "killed", "interrupted"])
def test_a_fork_ends_as_a_process_of_its_own(
    forks: _forks.Forks, capfd: pytest.CaptureFixture[str], how: str
) -> None:
    code = run(forks, f"python -m stages.ends {how}")
    forked = capfd.readouterr().err
    assert code == shell(f"python -m stages.ends {how}")
    own = capfd.readouterr().err
    assert forked.splitlines()[-1:] == own.splitlines()[-1:]  # tracebacks begin differently
    assert run(forks, "python -m stages.ends three") == 3  # and the next one runs


def test_a_stage_runs_the_code_of_the_moment(
    forks: _forks.Forks, project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for value in (1, 22):
        (project / "stages/helper.py").write_text(f"VALUE = {value}\n")
        assert run(forks, "python -m stages.tell") == 0
        assert f"'stages.tell'] {value} " in capfd.readouterr().out


OTHERS = pytest.mark.parametrize(
    "command",
    [
        "python stages/ends.py three",
        "python -m stages.ends three | cat",
        "python -m stages.ends $HOW",
        "python -m stages.ends 'three'",
        "python -m stages.ends three\npython -m stages.ends none",
        "torchrun --nproc-per-node 2 -m stages.ends three",
        "python -m convirt.ends three",
        "python -m stages._forks 3",
    ],
)


def test_all_stages_can_be_forks() -> None:
    commands = re.findall(r"cmd: (python .+)", (ROOT / "dvc.yaml").read_text())
    assert len(commands) > 10
    for command in commands:
        assert _forks.can_run(re.sub(r"\$\{[^}]+\}", "rsna-convirt-1-linear", command)), command


@OTHERS
def test_all_else_is_left_to_a_shell(forks: _forks.Forks, command: str) -> None:
    assert run(forks, command) is None
    assert not _forks.can_run(command)


def test_not_before_the_libraries_are_there(project: Path) -> None:
    (project / "slow.py").write_text("import time; time.sleep(60)")
    forks = _forks.Forks(libraries=("slow",))
    assert run(forks, "python -m stages.ends three") is None
    start = time.monotonic()
    forks.close()
    assert time.monotonic() - start < 5


def test_not_after_a_package_was_installed(
    forks: _forks.Forks, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(forks, "python -m stages.ends three") == 3
    monkeypatch.setattr(_forks, "installed", lambda: (0,))
    assert run(forks, "python -m stages.ends three") is None


def test_installing_changes_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    os.utime(tmp_path, ns=(1, 1))
    before = _forks.installed()
    (tmp_path / "package").mkdir()
    assert _forks.installed() != before


def test_an_import_that_fails_costs_nothing_but_time(
    project: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "broken.py").write_text("raise ImportError('a library is missing')")
    forks = _forks.Forks(libraries=("broken",))
    forks.process.wait()
    assert run(forks, "python -m stages.ends three") is None
    assert "a library is missing" in capfd.readouterr().err
    forks.close()


def in_background(forks: _forks.Forks, project: Path) -> tuple[threading.Thread, list[int | None]]:
    """A stage that waits, and where its exit code will be."""
    codes: list[int | None] = []
    thread = threading.Thread(target=lambda: codes.append(run(forks, "python -m stages.waits")))
    thread.start()
    until((project / "started").exists)
    return thread, codes


def children(pid: int) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(pid).children()
    return found


def test_sigterm_ends_the_stage_alone(forks: _forks.Forks, project: Path) -> None:
    thread, codes = in_background(forks, project)
    for process in (forks.process, *children(forks.process.pid)):  # as a worker that ends does
        process.terminate()
    thread.join()
    assert codes == [-signal.SIGTERM]
    assert run(forks, "python -m stages.ends three") == 3


def test_a_stage_that_starts_while_its_worker_ends(project: Path) -> None:
    """What forks it is there all along; if that were waited for, the stage would go on."""
    worker = """
import io, os, queue, sys, threading, time
sys.path[0] = sys.argv[1]
from stages import _forks, _repro
forks = _forks.Forks(libraries=("json",))
while not forks.usable():
    pass
arguments = io.StringIO(""), queue.SimpleQueue(), threading.Event(), forks.process.pid
threading.Thread(target=_repro._listen, args=arguments, daemon=True).start()
assert arguments[2].wait(20)
time.sleep(0.3)
print(forks.run("python -m stages.waits", os.getcwd(), dict(os.environ)), forks.usable())
"""
    done = subprocess.run(
        [sys.executable, "-c", worker, str(ROOT)], capture_output=True, text=True, timeout=50
    )
    assert done.stdout.split() == [str(-signal.SIGTERM), "True"], done.stderr


def test_killed_under_a_stage(forks: _forks.Forks, project: Path) -> None:
    thread, codes = in_background(forks, project)
    (stage,) = children(forks.process.pid)
    forks.process.kill()
    thread.join()
    assert codes == [-signal.SIGKILL]
    until(lambda: not _works(stage))
    assert run(forks, "python -m stages.ends three") is None


def test_a_stage_ends_with_its_worker(project: Path) -> None:
    worker = """
import os
from stages import _forks
forks = _forks.Forks(libraries=("json",))
while not forks.usable():
    pass
forks.run("python -m stages.waits", os.getcwd(), dict(os.environ))
"""
    with subprocess.Popen([sys.executable, "-c", worker]) as process:
        until((project / "started").exists)
        (server,) = children(process.pid)
        (stage,) = children(server.pid)
        process.kill()
    until(lambda: not _works(server) and not _works(stage))


def test_dvc_runs_commands_in_forks(
    forks: _forks.Forks, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.stage import run as dvc_run
    from dvc.stage.exceptions import StageCmdFailedError

    by_shell: list[str] = []
    monkeypatch.setattr(dvc_run, "_run", lambda executable, cmd, **how: by_shell.append(cmd))
    _forks.instead_of_shells(forks)
    how = {"cwd": str(project), "env": dict(os.environ), "close_fds": True, "shell": False}
    dvc_run._run("/bin/sh", "python -m stages.ends none", **how)
    with pytest.raises(StageCmdFailedError, match="exited with 3"):
        dvc_run._run("/bin/sh", "python -m stages.ends three", **how)
    assert by_shell == []
    dvc_run._run("/bin/sh", "echo one two", **how)
    assert by_shell == ["echo one two"]


def test_libraries_start_no_gpu_and_bring_no_code_of_the_project() -> None:
    """A CUDA context does not survive a fork; a module loaded early would be an old one."""
    code = """
import importlib, sys
import torch

def asked(*_):
    raise AssertionError("an import asks for a GPU")

for name in ("_cuda_init", "_cuda_getDeviceCount"):
    if hasattr(torch._C, name):
        setattr(torch._C, name, asked)
from stages._forks import LIBRARIES, OWN
before = {name for name in sys.modules if name.partition(".")[0] in OWN}
for name in LIBRARIES:
    importlib.import_module(name)
assert {name for name in sys.modules if name.partition(".")[0] in OWN} == before
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
