"""The parallel runner, over DVC itself in a small repository."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from convirt import devices
from stages import _scratch
from stages._repro import examine

# a stage's work: notes when it begins and ends, fails or waits if a file says so, writes its output
WORK = """
import os, signal, sys, time
from pathlib import Path

name, *reads = sys.argv[1:]
gpu = os.environ.get("CUDA_VISIBLE_DEVICES")
text = "".join(Path(read).read_text() for read in reads)


def note(what):
    with open("notes", "a") as file:
        file.write(f"{what} {name} {time.monotonic()} {os.getpid()} gpu={gpu}\\n")


def save(*_):
    time.sleep(1.5)
    Path(f"saved-{name}").touch()
    sys.exit(75)


if Path(f"slow-end-{name}").exists():
    signal.signal(signal.SIGTERM, save)
note("begin")
while Path(f"hold-{name}").exists():
    time.sleep(0.01)
time.sleep(0.05)
if name == "train-a":
    colour = "\\x1b[?25h\\x1b[33m" if "FORCE_COLOR" in os.environ else ""
    print(f"{colour}note: a word to the wise", file=sys.stderr)
if Path(f"fail-{name}").exists():
    print("out of luck")
    sys.exit(3)
Path("out").mkdir(exist_ok=True)
Path("cores").write_text(os.environ.get("CONVIRT_CORES", "none"))
Path(f"out/{name}").write_text(f"{name} {text}")
note("end")
"""
PIPELINE = """
stages:
  prepare:
    cmd: python work.py prepare && true
    deps: [source]
    outs: [out/prepare]
  train:
    foreach: [a, b]
    do:
      cmd: python work.py train-${item} out/prepare
      deps: [out/prepare]
      outs: ["out/train-${item}"]
  probe:
    matrix:
      from: [a, b]
      share: [1, 10]
    cmd: python work.py probe-${key} out/train-${item.from}
    deps: ["out/train-${item.from}"]
    params: ["probe.${item.from}"]
    outs: ["out/probe-${key}"]
  report:
    cmd: python work.py report out/probe-a-1 out/probe-b-10
    deps: [out/probe-a-1, out/probe-a-10, out/probe-b-1, out/probe-b-10]
    outs: [out/report]
"""
PROBES = ["probe-a-1", "probe-a-10", "probe-b-1", "probe-b-10"]
ALL = ["prepare", "train-a", "train-b", *PROBES, "report"]


class Project:
    """A scratch repository, and the runner in it."""

    process: subprocess.Popen[str] | None = None

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self) -> None:
        """Create a new repository in which nothing has run."""
        self.folder.mkdir()
        (self.folder / "work.py").write_text(WORK)
        (self.folder / "dvc.yaml").write_text(PIPELINE)
        self.set(a=1, b=1)
        (self.folder / "source").write_text("1")
        self.dvc("init", "--no-scm", "--quiet")
        self.dvc("config", "core.analytics", "false")

    def set(self, a: int, b: int, threads: int = 1) -> None:
        text = f"probe: {{a: {a}, b: {b}}}\ncompute: {{threads: {threads}}}\n"
        (self.folder / "params.yaml").write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        own = {"PYTHONPATH": str(ROOT), "PATH": path, "COLUMNS": "200", "FORCE_COLOR": "1"}
        return os.environ | own

    def dvc(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stages.runs", *arguments],
            cwd=self.folder,
            env=self.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self.process

    def run(self, *arguments: str, code: int = 0) -> str:
        """Run to the end; returns its output."""
        process = self.start(*arguments)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == code, said
        return said

    def notes(self) -> list[list[str]]:
        path = self.folder / "notes"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def ended(self) -> list[str]:
        """Names of the stages whose work has ended, once for each time."""
        return [name for what, name, *_ in self.notes() if what == "end"]

    def forget(self) -> None:
        (self.folder / "notes").unlink()

    def touch(self, name: str) -> None:
        (self.folder / name).touch()

    def remove(self, *names: str) -> None:
        for name in names:
            (self.folder / name).unlink()

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.notes()
            time.sleep(0.02)

    def wait_for(self, *names: str) -> None:
        """Wait until each of these has begun."""
        begun = lambda: {name for what, name, *_ in self.notes() if what == "begin"}  # noqa: E731
        process = self.process
        assert process is not None
        self.wait(lambda: process.poll() is not None or set(names) <= begun())
        assert process.poll() is None, process.communicate()[1]

    def up_to_date(self) -> bool:
        return "Data and pipelines are up to date." in self.dvc("status")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "project"
    Project(folder).write()
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(template, tmp_path / "project")
    project = Project(tmp_path / "project")
    yield project
    if project.process is not None:
        project.process.kill()
        project.process.wait()


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_all_runs_once_in_order_and_side_by_side(project: Project) -> None:
    project.touch("hold-train-a")
    process = project.start("--jobs", "2")
    project.wait_for("train-a", "train-b", "probe-b-1")  # level two and beyond, beside train-a
    project.remove("hold-train-a")
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 0, said
    ended = project.ended()
    assert sorted(ended) == sorted(ALL)
    assert ended[0] == "prepare"
    assert ended[-1] == "report"
    for one in "ab":
        assert all(ended.index(f"train-{one}") < ended.index(f"probe-{one}-{n}") for n in (1, 10))
    assert "8 stages to check, 2 at a time" in said
    assert "8 ran, 0 from the cache, 0 up to date, 0 failed" in said
    assert said.count("train@a: a word to the wise") == said.count("a word to the wise") == 1
    assert project.up_to_date()
    # nothing is outdated: it reports that, and nothing runs
    project.forget()
    assert "Nothing to do: all 8 stages are up to date." in project.run("--jobs", "2")
    assert project.notes() == []
    # one parameter: its runs and what reads them, no more
    project.set(a=2, b=1)
    project.run("--jobs", "2")
    assert sorted(project.ended()) == ["probe-a-1", "probe-a-10"]  # same outputs, so no report
    # back again: from DVC's cache
    project.forget()
    project.set(a=1, b=1)
    assert "0 ran, 2 from the cache, 1 up to date, 0 failed" in project.run("--jobs", "2")
    assert project.notes() == []
    assert project.up_to_date()


def test_output_that_stays_the_same_stops_there(project: Project) -> None:
    project.run("--jobs", "3", "train", "probe@a-1")
    lock = (project.folder / "dvc.lock").read_text()
    # what DVC itself records is the same, up to the order
    again = Project(project.folder)
    again.remove("dvc.lock")
    again.dvc("repro", "--force", "train", "probe@a-1")
    entries = lambda text: sorted(re.split(r"\n(?=  \w)", text.rstrip()))  # noqa: E731
    assert entries(lock) == entries((project.folder / "dvc.lock").read_text())
    # the first stage runs again and writes what it wrote before
    project.forget()
    (project.folder / "source").write_text("2")
    said = project.run("--jobs", "1", "train", "probe@a-1")
    assert project.ended() == ["prepare"]
    assert "2 stages are up to date after all" in said  # both looked at together
    assert "1 ran, 0 from the cache, 3 up to date, 0 failed" in said


def test_failure_stops_what_is_below_and_no_more(project: Project) -> None:
    project.touch("fail-train-a")
    project.touch("fail-probe-b-10")
    said = project.run("--jobs", "2", code=1)
    assert sorted(project.ended()) == ["prepare", "probe-b-1", "train-b"]
    assert "3 ran, 0 from the cache, 0 up to date, 2 failed, 3 not run" in said
    for name in ("train@a", "probe@b-10"):
        log = project.folder / f".scratch/runs/{name}.log"
        assert f"{name}: {log.relative_to(project.folder)}" in said
        assert "out of luck" in log.read_text()
    # again: what failed and what was not run, and nothing else
    project.remove("fail-train-a", "fail-probe-b-10")
    project.forget()
    project.run("--jobs", "2")
    assert sorted(project.ended()) == sorted(set(ALL) - {"prepare", "probe-b-1", "train-b"})
    assert project.up_to_date()


def test_outputs_that_dvc_could_not_record_can_still_be_recorded(project: Project) -> None:
    """A full disk, for one: the stage itself has succeeded, perhaps after days."""
    cache = project.folder / ".dvc/cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.touch()  # a file, so that nothing can be written below
    state, other = (project.folder / f".scratch/{name}" for name in ("prepare-0", "train-0"))
    _scratch.mark(state, "prepare", project.folder)
    _scratch.mark(other, "train@a", project.folder)
    said = project.run("prepare", "--jobs", "1", code=1)
    assert "its command succeeded, but DVC could not record that" in said
    assert project.ended() == ["prepare"] and state.exists()
    cache.unlink()
    assert "dvc commit -f prepare" in said
    project.dvc("commit", "-f", "prepare")
    assert "up to date" in project.run("prepare", "--jobs", "1")
    assert project.ended() == ["prepare"]
    # recorded, a stage needs its resume state no longer
    (project.folder / "source").write_text("2")
    project.run("prepare", "--jobs", "1")
    assert not state.exists() and other.exists()


@pytest.mark.parametrize("cut", [False, True])
def test_what_killed_workers_left_in_dvcs_lists_is_removed(project: Project, cut: bool) -> None:
    """Their process number may be in use again; a list that is cut off stops DVC for good."""
    path = str(project.folder / "out/prepare")
    told = {"pid": os.getpid(), "cmd": "dvc --wait-for-lock repro --single-item prepare"}
    used = json.dumps({"write": {path: told}, "read": {str(project.folder / "source"): [told]}})
    rwlock = project.folder / ".dvc/tmp/rwlock"
    rwlock.parent.mkdir(exist_ok=True)
    rwlock.write_text(used[: len(used) // 2] if cut else used)
    doomed = project.folder / f".scratch/.prepare-0a.{2**22 + 1}.tmp"  # larger than any number
    doomed.mkdir(parents=True)
    project.run("prepare", "--jobs", "1")
    assert project.ended() == ["prepare"] and not doomed.exists()
    # the entry of somebody else's `dvc` stays
    told["cmd"] = "dvc repro"
    rwlock.write_text(json.dumps({"write": {path: told}, "read": {}}))
    (project.folder / "source").write_text("2")
    assert "is busy" in project.run("prepare", "--jobs", "1", code=1)


WRITE_HALF = """
import sys
from dvc.utils.serialize import dump_yaml
from stages._repro import write_at_once

write_at_once()
dump_yaml("new.yaml", {"stages": {"a": {"cmd": "b"}}})
try:
    dump_yaml("old.yaml", {"stages": object()})
except Exception as error:
    print(type(error).__name__)
"""


def test_dvcs_files_are_written_at_once(project: Project) -> None:
    """Killed while it writes in place, DVC would leave half of dvc.lock."""
    (project.folder / "old.yaml").write_text("stages: {}\n")
    done = subprocess.run(
        [sys.executable, "-c", WRITE_HALF],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip(), "the second write was to fail"
    assert (project.folder / "old.yaml").read_text() == "stages: {}\n"
    assert (project.folder / "new.yaml").read_text() == "stages:\n  a:\n    cmd: b\n"


def test_a_full_disk_is_explained(project: Project) -> None:
    (project.folder / ".scratch").touch()  # stands for whatever keeps the runner from writing
    said = project.run("--jobs", "1", code=1)
    assert "Traceback" not in said and "ls -ld" in said


def test_targets_are_those_of_dvc(project: Project) -> None:
    said = project.run("--jobs", "2", "probe@a-1", "train")
    assert sorted(project.ended()) == ["prepare", "probe-a-1", "train-a", "train-b"]
    assert "4 ran" in said
    assert {line[-1] for line in project.notes()} == {"gpu="}  # without --gpus none is seen
    told = int((project.folder / "cores").read_text())
    assert told == max(1, devices.cores() // 2)  # stages side by side share them
    said = project.run("nonsense", code=1)
    assert "nonsense" in said and "dvc stage list" in said and "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_leaves_no_orphan_and_goes_on(project: Project, number: signal.Signals) -> None:
    held = ["train-b", "probe-a-1"]
    for name in held:
        project.touch(f"hold-{name}")
    process = project.start("--jobs", "2")
    project.wait_for(*held)
    pids = [int(pid) for what, name, _, pid, _ in project.notes() if name in held]
    group = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    )
    workers = [int(pid) for pid in group.stdout.split()]
    assert len(pids) == len(workers) == 2
    process.send_signal(number)
    process.wait(timeout=60)
    if number != signal.SIGKILL:
        assert process.returncode == 130
    project.wait(lambda: not any(alive(pid) for pid in pids + workers), seconds=20)
    assert sorted(project.ended()) == ["prepare", "train-a"]
    project.remove(*(f"hold-{name}" for name in held))
    said = project.run("--jobs", "2")
    assert sorted(project.ended()) == sorted(ALL)  # once each, over both runs
    assert "6 ran" in said
    assert project.up_to_date()


def test_told_to_end_all_at_once_stages_are_waited_for(project: Project) -> None:
    """As systemd and some batch systems do: SIGTERM for each process, and the stage has to save."""
    project.touch("hold-prepare")
    project.touch("slow-end-prepare")
    process = project.start("--jobs", "1")
    project.wait_for("prepare")
    stage = int(next(pid for _, name, _, pid, _ in project.notes() if name == "prepare"))
    above = stage
    every = [stage]
    while (above := parent_of(above)) != process.pid:
        every.append(above)
    for pid in (process.pid, *reversed(every)):
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.1)
    process.terminate()  # `make` gets SIGTERM as well and passes it on
    assert process.wait(timeout=60) == 130
    assert not alive(stage)
    assert (project.folder / "saved-prepare").exists()


def test_runs_of_a_killed_runner_are_waited_for(project: Project) -> None:
    """The runner is started again while the killed stages are still ending."""
    project.touch("hold-prepare")
    process = project.start("--jobs", "2")
    project.wait_for("prepare")
    process.kill()
    project.remove("hold-prepare")
    project.run("--jobs", "2")
    process.wait()
    assert sorted(project.ended()) in (sorted(ALL), sorted(["prepare", *ALL]))
    assert project.up_to_date()


def test_worker_that_dies_fails_its_stage_alone(project: Project) -> None:
    project.touch("hold-train-b")
    process = project.start("--jobs", "2")
    project.wait_for("train-b")
    parent = {int(pid) for _, name, _, pid, _ in project.notes() if name == "train-b"}.pop()
    # the stage's process, its shell where there is one, the worker
    while (above := parent_of(parent)) != process.pid:
        parent = above
    os.kill(parent, signal.SIGKILL)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "its worker exited with -9" in said
    assert "train@b" in said
    assert {"prepare", "train-a", "probe-a-1", "probe-a-10"} == set(project.ended())
    stage = [int(pid) for _, name, _, pid, _ in project.notes() if name == "train-b"]
    project.wait(lambda: not alive(stage[0]), seconds=10)
    project.remove("hold-train-b")
    project.run("--jobs", "2")
    assert sorted(project.ended()) == sorted(ALL)


def parent_of(pid: int) -> int:
    return int(psutil.Process(pid).ppid())


def test_a_gpu_serves_one_stage_at_a_time(project: Project) -> None:
    said = project.run("--gpus", "0,3")
    assert "2 at a time" in said and "on GPU 3" in said
    spans: dict[str, list[tuple[float, float]]] = {}
    begun: dict[str, float] = {}
    for what, name, when, _, gpu in project.notes():
        if what == "begin":
            begun[name] = float(when)
        else:
            spans.setdefault(gpu, []).append((begun[name], float(when)))
    assert set(spans) == {"gpu=0", "gpu=3"}
    assert sum(map(len, spans.values())) == len(ALL)
    for times in spans.values():
        times.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(times))


def test_slots_are_held_against_the_parameters(project: Project) -> None:
    project.set(a=1, b=1, threads=4096)
    assert "2 jobs x 4096 threads" in project.run("--jobs", "2", "prepare")
    (project.folder / "params.yaml").write_text("compute: {device: cuda}\n")
    assert "check nvidia-smi" in project.run("--jobs", "2", "prepare", code=1)


@pytest.mark.filterwarnings("ignore:.*_NoneStep:DeprecationWarning")  # DVC's own
def test_the_pipeline_of_this_repository_can_be_walked(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder where nothing has run: every stage comes after what it reads."""
    shutil.copytree(template / ".dvc", tmp_path / ".dvc")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    pipeline = examine(["report"])
    order = list(pipeline.upstream)
    assert len(order) == len(pipeline.stale) == pipeline.total > 20
    assert order[-1] == "report"
    for name, above in pipeline.upstream.items():
        assert all(order.index(other) < order.index(name) for other in above)
