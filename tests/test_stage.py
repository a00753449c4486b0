"""A stage reads what it declares, refuses outputs after an edit, and fails with a clear message."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import ROOT

from convirt import checkpoint, provenance
from convirt.errors import InputError
from convirt.params import parse
from stages import _parent, _scratch, _stage
from stages._progress import Progress
from stages._scope import UndeclaredError, scoped
from stages._stage import Stage, StageError

Make = Callable[..., Stage]


@pytest.fixture
def make(
    tmp_path: Path,
    default_params: dict[str, Any],
    write_params: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Make:
    """`make(reads=..., names=...)` is a stage of a small repository in `tmp_path`, also the cwd."""
    for name, text in {
        "stages/toy.py": "from convirt import used\n",
        "convirt/used.py": "x = 1\n",
        "convirt/unused.py": "x = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    write_params(default_params)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)

    def stage(reads: tuple[str, ...] = ("seed", "train.lr"), **options: Any) -> Stage:
        entry = tmp_path / "stages/toy.py"
        return Stage(entry, reads=reads, params=Path("params.yaml"), **options)

    return stage


def replace(path: str, old: str, new: str) -> None:
    text = Path(path).read_text()
    assert old in text
    Path(path).write_text(text.replace(old, new, 1))


# ------------------------------------------------------------------------------ parameters
def test_declared_parameters_can_be_read(make: Make) -> None:
    reads = ("seed", "model.image", "tasks.{task}", "compute.workers")
    with make(reads, names={"task": "rsna"}) as stage:
        p = stage.params
        assert (p.seed, p.model.image.size, p.compute.workers) == (0, 64, 2)
        assert p.tasks["rsna"].labels == ("pneumonia",)
        assert p.get("tasks.rsna.kind") == "binary"
        for read in (
            lambda: p.train.lr,
            lambda: p.train,
            lambda: p.compute.threads,
            lambda: p.model.text,
            lambda: p.tasks["mura"],
            lambda: p.get("tasks"),
            lambda: p.get("matrix.task"),
        ):
            with pytest.raises(UndeclaredError, match="not declared in READS"):
                read()
        with pytest.raises(AttributeError, match="tasks as a whole"):
            p.tasks.items()


def test_whole_part_is_the_plain_object(default_params: dict[str, Any]) -> None:
    params = parse(default_params)
    assert scoped(params, ["train"]).train is params.train
    assert "imagenet" in scoped(params, ["model.baselines"]).model.baselines


def test_unknown_name_on_the_command_line(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught, make(("tasks.{task}",), names={"task": "rnsa"}):
        pass
    assert caught.value.exit_code == 1
    assert "nearest known key: tasks.rsna" in capsys.readouterr().err


# ------------------------------------------------------------------------------ the guard
@pytest.mark.parametrize(
    ("path", "old", "new", "named"),
    [
        ("convirt/used.py", "x = 1", "x = 2", "convirt/used.py"),
        ("stages/toy.py", "used", "used as z", "stages/toy.py"),
        ("params.yaml", "lr: 0.0005", "lr: 0.0006", "params.yaml: train.lr"),
        ("params.yaml", "\nseed: 0", "\nseed: 1", "params.yaml: seed"),
    ],
)
def test_edit_during_a_run_is_refused(
    make: Make,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    old: str,
    new: str,
    named: str,
) -> None:
    monkeypatch.setattr(_stage, "EACH", 0.0)
    with pytest.raises(typer.Exit) as caught, make() as stage:
        stage.poll()
        replace(path, old, new)
        stage.poll()
        stage.poll()
        with stage.scratch():
            stage.confirm()
        pytest.fail("outputs would be written")
    assert caught.value.exit_code == 1
    told = capsys.readouterr().err
    assert told.count(f"changed since the start: {named}.") == 1  # warned, once
    assert f"{named}\n  expected: the code and parameters that this run started with" in told
    assert "resume state in .scratch/toy-" in told
    assert "only seconds are lost" in told


def test_files_are_looked_at_now_and_then(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop asks thousands of times a minute, too often for a network disk."""
    clock = [100.0]
    looks: list[float] = []

    def touched(self: provenance.Guard) -> bool:
        looks.append(clock[0])
        return False

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(provenance.Guard, "touched", touched)
    with make() as stage:
        for _ in range(250):
            stage.poll()
            clock[0] += 0.01
    assert np.allclose(looks, [100.0, 101.0, 102.0], atol=0.02)


def test_a_disk_that_does_not_answer_ends_no_run(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network disk may fail to for a moment; outputs are written only after it has answered."""

    def stale(path: Path, **_: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle", str(path))

    with make() as stage:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "stat", stale)
            patch.setattr(Path, "read_bytes", stale)
            stage.poll()
            with pytest.raises(OSError, match="Stale"):
                stage.confirm()
        stage.poll()
        stage.confirm()


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("convirt/unused.py", "x = 1", "x = 2"),
        ("params.yaml", "tau: 0.1", "tau: 0.2"),
        ("params.yaml", "lr: 0.0005", "lr: 5.0e-4  # the same number"),
        ("params.yaml", "workers: 2", "workers: 1"),
    ],
)
def test_edit_of_what_is_not_read_is_no_matter(
    make: Make, capsys: pytest.CaptureFixture[str], path: str, old: str, new: str
) -> None:
    with make(("seed", "train.lr", "compute.workers")) as stage:
        replace(path, old, new)
        stage.poll()
        stage.confirm()
    assert capsys.readouterr().err == ""


def test_edit_that_is_undone_is_no_matter(make: Make) -> None:
    with make() as stage:
        replace("convirt/used.py", "1", "2")
        with pytest.raises(StageError):
            stage.confirm()
        replace("convirt/used.py", "2", "1")
        stage.confirm()


def test_edit_while_outputs_are_written_is_refused(make: Make) -> None:
    with pytest.raises(typer.Exit), make() as stage:
        stage.confirm()
        replace("convirt/used.py", "1", "2")


def test_real_stage_process_refuses_after_an_edit(tmp_path: Path) -> None:
    """The same with real modules, in a process of its own, as DVC would run it."""
    source = """
        import sys
        import typer
        from pathlib import Path
        from stages._stage import PARAMS, Stage

        def main(params: Path = PARAMS) -> None:
            with Stage(__file__, reads=["train.lr"], params=params) as stage:
                print(repr(stage.params.train.lr), flush=True)
                sys.stdin.readline()
                stage.confirm()
                Path("out").write_text("made")

        if __name__ == "__main__":
            typer.run(main)
    """
    for package in ("convirt", "convirt/objectives", "stages"):
        (tmp_path / package).mkdir()
        for path in (ROOT / package).glob("_*.py" if package == "stages" else "*.py"):
            (tmp_path / package / path.name).write_bytes(path.read_bytes())
    (tmp_path / "stages/toy.py").write_text(textwrap.dedent(source))
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("lr: 0.0005", "lr: 1e-05"))

    def run(edit: str) -> tuple[int, str]:
        with subprocess.Popen(
            [sys.executable, "-m", "stages.toy"],
            cwd=tmp_path,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "1e-05\n"
            if edit:
                with (tmp_path / edit).open("a") as handle:
                    handle.write("# an edit\n" if edit == "params.yaml" else "y = 1\n")
            _, told = process.communicate("\n", timeout=60)
            return process.returncode, told

    code, told = run("convirt/provenance.py")
    assert (code, (tmp_path / "out").exists()) == (1, False)
    assert "convirt/provenance.py" in told
    assert "Traceback" not in told
    assert run("params.yaml")[0] == 0  # a comment is no parameter
    assert (tmp_path / "out").read_text() == "made"


# ------------------------------------------------------------------------------ scratch folder
def scratch_of(stage: Stage, **inputs: str) -> Path:
    with stage.scratch(inputs) as folder:
        return folder


def test_scratch_is_the_same_for_the_same_run_only(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = ("train.lr",)
    with make(reads, names={"task": "a"}) as stage:
        first = scratch_of(stage, store="1")
        assert first.parent == Path.cwd() / ".scratch"
        assert scratch_of(stage, store="1") == first
        assert scratch_of(stage, store="2") != first
    with make(reads, names={"task": "b"}) as stage:
        assert scratch_of(stage, store="1") != first
    replace("params.yaml", "tau: 0.1", "tau: 0.2")
    with make(reads, names={"task": "a"}) as stage:
        assert scratch_of(stage, store="1") == first
    replace("params.yaml", "lr: 0.0005", "lr: 0.0006")
    with make(reads, names={"task": "a"}) as stage:
        assert scratch_of(stage, store="1") != first
    replace("params.yaml", "lr: 0.0006", "lr: 0.0005")
    replace("convirt/used.py", "1", "2")
    with make(reads, names={"task": "a"}) as stage:
        assert scratch_of(stage, store="1") != first
    replace("convirt/used.py", "2", "1")
    monkeypatch.setattr(provenance, "versions", lambda: {"torch": "another"})
    with make(reads, names={"task": "a"}) as stage:
        assert scratch_of(stage, store="1") != first


def test_scratch_lies_in_the_original_repository(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "original"))
    with make() as stage:
        assert scratch_of(stage).parent == tmp_path / "original/.scratch"


def test_scratch_is_kept_until_the_outputs_are_there(make: Make) -> None:
    with pytest.raises(ValueError, match="a bug"), make() as stage, stage.scratch() as folder:
        (folder / "state").touch()
        raise ValueError("a bug")
    with make() as stage, stage.scratch() as again:
        assert again == folder
        assert (folder / "state").exists()
        stage.scratch_done()
    assert list(folder.parent.iterdir()) == []


def test_a_scratch_folder_that_cannot_go_yet(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """On NFS, an open file keeps a name in its folder; the outputs are there all the same."""

    def busy(path: Path) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty", str(path))

    with make() as stage, stage.scratch() as folder:
        (folder / "state").touch()
        monkeypatch.setattr(shutil, "rmtree", busy)
        stage.scratch_done()
    assert not folder.exists()


def test_scratch_of_recorded_outputs_goes_after_an_hour(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `dvc repro` does not say that it has recorded them."""
    monkeypatch.setattr(_parent, "end_with_dvc", lambda: None)
    monkeypatch.setattr(Stage, "_require_digested", lambda stage: None)
    monkeypatch.setenv("DVC_STAGE", "toy")
    folders = []
    for store in ("1", "2", "3"):
        with make() as stage, stage.scratch({"store": store}) as folder:
            (folder / "state").touch()
            stage.scratch_done(keep=store != "3")
            folders.append(folder)
    assert [folder.exists() for folder in folders] == [True, True, False]
    long_ago = time.time() - _scratch.ENOUGH - 60
    for folder in folders[:2]:
        os.utime(folder / _scratch.WRITTEN, (long_ago, long_ago))
    # the first one is used again, the second goes
    with checkpoint.locked(folders[0]), make() as stage, stage.scratch({"store": "4"}):
        assert [folder.exists() for folder in folders] == [True, False, False]
    with make() as stage, stage.scratch({"store": "1"}) as folder:
        assert folder == folders[0] and not (folder / _scratch.WRITTEN).exists()


def test_second_run_on_the_same_scratch_is_refused(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    with make() as one, one.scratch():
        with pytest.raises(typer.Exit), make() as two, two.scratch():
            pytest.fail("two runs at once")
        assert f"held by process {os.getpid()}" in capsys.readouterr().err


# ------------------------------------------------------------------------------ provenance
def test_provenance_holds_no_path_and_no_time(make: Make) -> None:
    with make() as stage:
        made = stage.provenance({"store": "abc"})
    assert set(made) == {"code", "params", "versions", "inputs"}
    assert made["inputs"] == {"store": "abc"}
    with make() as stage:
        assert stage.provenance({"store": "abc"}) == made
    assert str(Path.cwd()) not in str(made)
    with make(("seed", "train.lr", "compute.workers")) as stage:
        assert stage.provenance()["params"] == made["params"]  # workers change no output


# ------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("error", "told", "code"),
    [
        (InputError("a.csv", "a header", "nothing", "add one"), "next:     add one", 1),
        (OSError(errno.ENOSPC, "No space left on device"), "room to write", 1),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "room to write", 1),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "room to write", 1),
        (OSError(errno.ENOSYS, "Function not implemented"), "files can be locked", 1),
        (OSError(errno.ENOLCK, "No locks available"), "files can be locked", 1),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_error_becomes_a_message(
    make: Make,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    told: str,
    code: int,
) -> None:
    with pytest.raises(typer.Exit) as caught, make():
        raise error
    assert caught.value.exit_code == code
    assert told in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_told(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit), make() as stage:
        (stage.root / "models").write_text("in the way")
        (stage.root / "models" / "encoders").mkdir()
    told = capsys.readouterr().err
    assert "models/encoders" in told
    assert "ls -ld" in told


def test_bug_keeps_its_traceback(make: Make) -> None:
    with pytest.raises(OSError, match="denied"), make():
        raise PermissionError(errno.EACCES, "denied")


def test_invalid_parameters_are_told(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    replace("params.yaml", "lr: 0.0005", "lr: fast")
    with pytest.raises(typer.Exit), make():
        pytest.fail("ran")
    assert "train.lr" in capsys.readouterr().err


def test_sigterm_unwinds_the_stack(make: Make) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cleaned = False
    with pytest.raises(SystemExit) as caught, make():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            cleaned = True
    assert (cleaned, caught.value.code) == (True, 143)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG and /proc")
@pytest.mark.parametrize("shell", [False, True])
def test_stage_dies_with_its_parent(shell: bool) -> None:
    """Through a shell as well, which is the parent then and outlives DVC."""
    child = (
        "import os, time; from stages._parent import end_with_dvc as d; d();"
        " print(os.getpid(), flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", child]
    if shell:
        command = ["/bin/sh", "-c", f"{shlex.join(command)}; true"]
    parent = (
        "import subprocess, sys, os\n"
        "p = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE, env={**os.environ, 'DVC_STAGE': 'toy'})\n"
        "print(int(p.stdout.readline()), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent, *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    pid = int(done.stdout)
    for _ in range(100):
        if not running(pid):
            return
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


# ------------------------------------------------------------------------------ progress
def test_plain_progress_tells_a_line_now_and_then(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("stages._progress.time.monotonic", lambda: clock[0])
    with make() as stage, stage.progress("toy", total=100, unit="pairs", done=40) as progress:
        for _ in range(6):
            clock[0] += 5.0
            progress.update(advance=10, loss=1.23456, best="yes")
    lines = capsys.readouterr().err.splitlines()
    line = "toy: 60/100  2 pairs/s  elapsed 0:00:10  left 0:00:20  loss 1.235  best yes"
    assert lines[0] == line  # the rate leaves out what an earlier run did
    assert len(lines) == 4  # at 10, 20, 30 s, and at the end
    assert lines[-1].startswith("toy: 100/100")


def test_what_took_no_time_is_left_out_of_the_rate(
    make: Make, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("stages._progress.time.monotonic", lambda: clock[0])
    with make() as stage, stage.progress("toy", total=100, unit="epochs") as progress:
        progress.skip(60)
        for _ in range(10):
            clock[0] += 1.0
            progress.update()
        progress.skip(30)  # not needed
    line = "toy: 70/100  1 epochs/s  elapsed 0:00:10  left 0:00:30"
    assert capsys.readouterr().err.splitlines()[0] == line


def test_bar_on_a_terminal() -> None:
    import io

    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with Progress(console, "toy", total=2, unit="steps", done=0) as progress:
        progress.update(loss=0.5)
        progress.skip(0)
        progress.update(loss=0.25)
    assert "2/2" in stream.getvalue()
    assert "loss 0.25" in stream.getvalue()
