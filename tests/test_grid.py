"""The grid of profiles/tables.yaml beside a checkout, and the check of one committed number."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from typer.testing import CliRunner

from convirt.errors import InputError
from convirt.results.summary import DIRECTIONS
from stages import grid


def git(folder: Path, *arguments: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with what the grid touches."""
    root = tmp_path / "checkout"
    for name in ("params.yaml", "profiles/tables.yaml", "dvc.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    (root / "dvc.lock").write_text("of the demo\n")
    (root / "metrics").mkdir()
    (root / "metrics/summary.json").write_text("{}")
    (root / "code.py").write_text("1\n")
    (root / "gone.py").write_text("1\n")
    (root / ".gitignore").write_text("models\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all")
    return root


def test_copy_has_the_present_files_and_the_parameters_of_the_profile(checkout: Path) -> None:
    (checkout / "code.py").write_text("2\n")  # not committed
    copy = grid.beside(checkout, checkout.parent / "copy")
    assert (copy / "code.py").read_text() == "2\n"
    assert (copy / "params.yaml").read_bytes() == (ROOT / "profiles/tables.yaml").read_bytes()
    assert (checkout / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_copy_keeps_what_it_computed(checkout: Path) -> None:
    copy = grid.beside(checkout, checkout.parent / "copy")
    (copy / "dvc.lock").write_text("of the grid\n")
    (copy / "metrics/summary.json").write_text("[]")
    (copy / "models").mkdir()
    (copy / "models/weights").write_text("heavy")
    (checkout / "code.py").write_text("3\n")
    (checkout / "gone.py").unlink()
    (checkout / "new.py").write_text("1\n")
    git(checkout, "add", "-A")
    grid.beside(checkout, copy)
    assert (copy / "code.py").read_text() == "3\n"
    assert (copy / "new.py").is_file()
    assert not (copy / "gone.py").exists()
    assert (copy / "dvc.lock").read_text() == "of the grid\n"
    assert (copy / "metrics/summary.json").read_text() == "[]"
    assert (copy / "models/weights").read_text() == "heavy"


def test_copy_needs_a_repository(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    with pytest.raises(InputError, match="git repository"):
        grid.beside(tmp_path / "plain", tmp_path / "copy")


@pytest.mark.parametrize(
    ("source", "stage"),
    [
        ("metrics/finetune/rsna-convirt-1-linear.json", "finetune@rsna-convirt-1-linear"),
        ("metrics/finetune/rsna-tau-0-01-1-linear.json", "vary-probe@tau-0-01"),
        ("metrics/retrieval/caption_lstm.json", "retrieve@caption_lstm"),
        ("metrics/retrieval/batch-16.json", "vary-retrieve@batch-16"),
        ("metrics/zeroshot/rsna-convirt.json", "zeroshot@rsna-convirt"),
    ],
)
def test_stage_of_a_result(tmp_path: Path, source: str, stage: str) -> None:
    shutil.copyfile(ROOT / "profiles/tables.yaml", tmp_path / "params.yaml")
    assert grid.stage_of(tmp_path, source) == stage


def committed(root: Path, *cells: dict[str, Any]) -> None:
    (root / "metrics/tables").mkdir(parents=True)
    (root / "metrics/tables/cells.json").write_text(json.dumps({"cells": cells}))


def cell(source: str, **column: Any) -> dict[str, Any]:
    about = {"table": "table1", "source": f"metrics/{source}.json", "column": column}
    return {**about, "value": 0.5, "low": 0.4, "high": 0.6, "code": "c", "params": "p"}


def test_cells_of_a_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make tables"):
        grid.cells_of(tmp_path, "rsna-convirt-1-linear")
    committed(tmp_path, cell("finetune/rsna-convirt-1-linear"), cell("retrieval/convirt"))
    assert len(grid.cells_of(tmp_path, "rsna-convirt-1-linear")) == 1
    assert len(grid.cells_of(tmp_path, "retrieval/convirt")) == 1
    with pytest.raises(InputError, match="finetune/rsna-convirt-1-linear"):
        grid.cells_of(tmp_path, "rsna-convirt-2-linear")


def test_values_of_a_search() -> None:
    result = {d: {f"p_at_{k}": i + k / 100 for k in (5, 10)} for i, d in enumerate(DIRECTIONS)}
    second = cell("retrieval/convirt", direction="text_image", k=5)
    fourth = cell("retrieval/tau-1", column="image_image_p_at_10")
    assert grid.values(result, second) == {"value": 1.05}
    assert grid.values(result, fourth) == {"value": 0.10}


@pytest.mark.parametrize(("value", "code"), [(0.5, 0), (0.5 + 1e-9, 1)])
def test_check_tells_equal_from_different(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, value: float, code: int
) -> None:
    name = "rsna-convirt-1-linear"
    committed(checkout, cell(f"finetune/{name}", protocol="linear", task="rsna", fraction=1))

    def reproduce(copy: Path, targets: list[str], _: int) -> None:
        assert targets == [f"finetune@{name}"]
        path = copy / f"metrics/finetune/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        made = {"value": value, "low": 0.4, "high": 0.6, "provenance": {"code": "d", "params": "p"}}
        path.write_text(json.dumps(made))

    monkeypatch.setattr(grid, "_reproduce", reproduce)
    monkeypatch.chdir(checkout)
    told = CliRunner().invoke(grid.app, ["check", name])
    assert told.exit_code == code, told.output
    assert ("NOT 0.5" in told.output) == bool(code)
    assert "different code" in told.output
    assert "different params" not in told.output


RUNNER = """
import signal, sys, time
from pathlib import Path

def told(number, frame):
    time.sleep(1)
    Path("told").touch()
    sys.exit(3)

signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGINT, told)
Path("ready").touch()
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_runner_and_waits_for_it(tmp_path: Path, number: int) -> None:
    """Otherwise the stages would go on, unseen. Ctrl-C goes to the whole process group."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/runs.py").write_text(RUNNER)
    program = "import sys; from stages import grid; grid._reproduce(grid.Path(sys.argv[1]), [], 1)"
    command = [sys.executable, "-c", program, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.terminate()
        assert process.wait(timeout=60) != 0
        assert (tmp_path / "told").exists()
    finally:
        process.kill()
