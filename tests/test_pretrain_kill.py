"""The pretraining stage as a process: killed and rerun, run twice at once, edited while it runs."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import tiny_models
from conftest import ROOT, TINY, TINY_MODELS, set_key

from convirt import files

SIDE = 24
STATE = "state.safetensors"
CHANGES: dict[str, Any] = {
    **TINY,
    **TINY_MODELS,
    "model.image.size": SIDE,
    "train.eval_every": 10,
    "train.evaluations": 10,
    "train.max_passes": 1000,
    "train.checkpoint_every": 7,
    "train.keep_every": 5,
}


def write_store(folder: Path, size: int, train: int = 12, val: int = 5) -> None:
    """A store of noise films and random sentences, in the format of convirt/store.py."""
    records, sentences = tiny_models.tables(train, val)
    n, rng = len(records), np.random.default_rng(0)
    records = records.assign(image=[f"{i}.png" for i in range(n)], patient=records["study"])
    records = records.assign(view="PA", top=0, left=2, height=size, width=size - 4)
    images = rng.integers(0, 256, (n, size, size)).astype(np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    files.write_parquet(folder / "records.parquet", records)
    files.write_parquet(folder / "sentences.parquet", sentences)
    digest = files.sha256(*sorted(folder.iterdir()))
    meta = {"format": 1, "images": n, "size": size, "labels": [], "kind": "pairs", "digest": digest}
    files.write_json(folder / "store.json", meta | {"reader": "by hand"})


def write_params(project: Path, params: dict[str, Any], **changes: Any) -> None:
    """JSON is YAML, too."""
    params = copy.deepcopy(params)
    for key, value in (CHANGES | changes).items():
        set_key(params, key, value)
    (project / "params.yaml").write_text(json.dumps(params, indent=1), encoding="utf-8")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, committed_params: dict[str, Any]) -> Path:
    """A project with the real code, small parameters, and inputs made by hand."""
    project = tmp_path_factory.mktemp("template") / "project"
    for package in ("convirt", "stages"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, project / package, ignore=ignore)
    write_params(project, committed_params)
    tiny_models.write_bert(project / "bert")
    write_store(project / "data/stores/chest", 32)
    return project


class Process:
    """The stage, started in a project, with its output."""

    def __init__(self, project: Path, launcher: tuple[str, ...] = ()) -> None:
        self.project = project
        self.log = project.parent / f"{project.name}-{time.monotonic_ns()}.log"
        hidden = ("DVC_ROOT", "DVC_STAGE")
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        self.popen = subprocess.Popen(
            [sys.executable, *launcher, "-m", "stages.pretrain", "convirt", "chest"],
            cwd=project,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=self.log.open("w"),
        )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def end(self) -> int:
        """Wait for it; returns its exit code."""
        return self.popen.wait(timeout=300)  # imports from a cold disk are slow

    def wait_for_checkpoints(self, count: int = 1) -> None:
        """Wait until so many checkpoints have been written."""
        seen: set[int] = set()
        deadline = time.monotonic() + 300
        while len(seen) < count:
            with suppress(FileNotFoundError):  # replaced between the two calls
                seen |= {p.stat().st_mtime_ns for p in self.project.glob(f".scratch/*/{STATE}")}
            assert self.popen.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.002)

    def hold(self) -> None:
        """Pause it, so that what follows happens during the run."""
        self.popen.send_signal(signal.SIGSTOP)

    def release(self) -> None:
        """Let it go on."""
        self.popen.send_signal(signal.SIGCONT)


@contextmanager
def started(project: Path, launcher: tuple[str, ...] = ()) -> Iterator[Process]:
    """A process that does not outlive the block, nor does what it has started."""
    process = Process(project, launcher)
    children: list[psutil.Process] = []
    try:
        yield process
    finally:
        with suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.popen.pid).children(recursive=True)
        for one in (process.popen, *children):
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.popen.wait()


def run(project: Path) -> str:
    """Run to the end and expect success; returns its output."""
    with started(project) as process:
        assert process.end() == 0, process.said
        return process.said


def outputs(project: Path) -> dict[str, bytes]:
    """Every file that a stage has left, by name."""
    found = [*project.glob("models/**/*"), *project.glob("metrics/**/*")]
    return {
        path.relative_to(project).as_posix(): path.read_bytes() for path in found if path.is_file()
    }


def scratch(project: Path) -> list[str]:
    return [path.name for path in project.glob(".scratch/*/*")]


@pytest.fixture(scope="module")
def whole(template: Path) -> dict[str, bytes]:
    """The outputs of a run that nothing disturbed."""
    project = template.with_name("whole")
    shutil.copytree(template, project)
    run(project)
    assert scratch(project) == []
    return outputs(project)


def test_outputs(whole: dict[str, bytes], template: Path) -> None:
    folder = "models/encoders/convirt/chest"
    assert set(whole) == {
        f"{folder}/config.json",
        f"{folder}/image_encoder.safetensors",
        f"{folder}/projections.safetensors",
        f"{folder}/text_encoder/config.json",
        f"{folder}/text_encoder/model.safetensors",
        f"{folder}/text_encoder/tokenizer.json",
        f"{folder}/text_encoder/tokenizer_config.json",
        "metrics/pretrain/convirt-chest.json",
        "metrics/pretrain/convirt-chest.csv",
        "models/kept/convirt/chest/kept.json",
        *(f"models/kept/convirt/chest/step-{i:09d}.safetensors" for i in (50, 100)),
    }
    told = json.loads(whole["metrics/pretrain/convirt-chest.json"])
    assert (told["corpus"], told["pairs"], told["pairs_val"]) == ("chest", 12, 5)
    assert told["steps"] == 100
    assert told["chance"] == pytest.approx(np.log(4))
    assert set(told["provenance"]) == {"code", "params", "versions", "inputs"}
    curve = pd.read_csv(template.with_name("whole") / "metrics/pretrain/convirt-chest.csv")
    assert list(curve.columns) == ["step", "train_loss", "val_loss", "lr", "chance"]
    assert curve["step"].tolist() == list(range(0, 101, 10))
    assert told["val_loss"] == pytest.approx(curve["val_loss"].min())
    kept = json.loads(whole["models/kept/convirt/chest/kept.json"])["states"]
    assert [row["step"] for row in kept] == [50, 100]
    assert not any(str(template.parent).encode() in data for data in whole.values())


def test_killed_and_run_again(template: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    """Killed at a random moment, in another folder: the same bytes of every output."""
    project = tmp_path / "killed"
    shutil.copytree(template, project)
    with started(project) as process:
        process.wait_for_checkpoints()
        process.hold()
        with started(project) as second:  # the same run twice at once
            assert second.end() == 1
            assert f"held by process {process.popen.pid}" in second.said
            assert "Traceback" not in second.said
        process.release()
        count, seconds = random.randint(1, 10), random.uniform(0, 0.01)
        print("killed", seconds, "s after another", count, "of 13 checkpoints")  # shown on failure
        process.wait_for_checkpoints(count)
        time.sleep(seconds)
        process.popen.kill()
        assert process.end() == -signal.SIGKILL
    assert outputs(project) == {}
    assert STATE in scratch(project)
    run(project)
    assert scratch(project) == []
    assert_same(outputs(project), whole)


def test_sigterm_saves_and_ends_soon(
    template: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """As by a scheduler that takes the machine back: no step is lost; the code says run again."""
    project = tmp_path / "stopped"
    shutil.copytree(template, project)
    with started(project) as process:
        process.wait_for_checkpoints(random.randint(1, 8))
        process.popen.terminate()
        asked = time.time()
        assert process.end() == 75, process.said
        assert "Traceback" not in process.said
        assert "run the same command" in process.said
    assert outputs(project) == {}
    assert STATE in scratch(project)
    # seconds until the save: how long Python takes to exit on a busy machine does not matter
    assert max(path.stat().st_mtime for path in project.rglob(STATE)) - asked < 5
    run(project)
    assert_same(outputs(project), whole)


def test_edit_during_the_run_is_refused(
    template: Path, whole: dict[str, bytes], committed_params: dict[str, Any], tmp_path: Path
) -> None:
    """Of an imported module, and of a parameter that is read; once undone, the run resumes."""
    named = {"convirt/augment.py": "convirt/augment.py", "params.yaml": "params.yaml: train"}
    projects = {edited: tmp_path / Path(edited).stem for edited in named}
    for project in projects.values():
        shutil.copytree(template, project)
    before = {edited: (project / edited).read_bytes() for edited, project in projects.items()}
    with ExitStack() as stack:  # both at once: most of the time goes into imports
        running = {e: stack.enter_context(started(project)) for e, project in projects.items()}
        with ThreadPoolExecutor(len(running)) as pool:
            list(pool.map(hold_at_checkpoint, running.values()))
        for edited, process in running.items():
            if edited == "params.yaml":
                write_params(projects[edited], committed_params, **{"train.lr": 0.1})
            else:
                (projects[edited] / edited).write_bytes(before[edited] + b"edited = 1\n")
            process.release()
        for edited, process in running.items():
            assert process.end() == 1
            assert f"changed since the start: {named[edited]}." in process.said  # as soon as seen
            assert "edited meanwhile, so the outputs are refused" in process.said
            assert "Traceback" not in process.said
    for edited, project in projects.items():
        assert outputs(project) == {}
        assert STATE in scratch(project)
        (project / edited).write_bytes(before[edited])
    with ExitStack() as stack:
        running = {e: stack.enter_context(started(project)) for e, project in projects.items()}
        for edited, process in running.items():
            assert process.end() == 0, process.said
            assert_same(outputs(projects[edited]), whole)
            assert scratch(projects[edited]) == []


def hold_at_checkpoint(process: Process) -> None:
    process.wait_for_checkpoints()
    process.hold()


def assert_same(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []
