"""The pretraining stage as a process of its own: told to end, killed, and run again.

Tested elsewhere: started twice at once, and edited while it runs (faults/test_surroundings).
"""

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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import tiny_models
from conftest import ROOT, TINY, TINY_MODELS, set_key
from typer.testing import CliRunner

from convirt import files, training
from convirt.errors import StoppedError
from stages import pretrain, vary
from stages._stopping import RESUMABLE

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


def test_stopped_killed_and_run_again(
    template: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Told to end and then killed, at random moments, in another folder: the same bytes of every
    output.
    """
    project = tmp_path / "disturbed"
    shutil.copytree(template, project)
    told_to_end(project)
    with started(project) as process:
        count, seconds = random.randint(1, 5), random.uniform(0, 0.01)
        print("killed", seconds, "s after another", count, "of 13 checkpoints")  # shown on failure
        process.wait_for_checkpoints(1 + count)  # one is there
        time.sleep(seconds)
        process.popen.kill()
        assert process.end() == -signal.SIGKILL
    assert outputs(project) == {}
    assert STATE in scratch(project)
    run(project)
    assert scratch(project) == []
    assert_same(outputs(project), whole)


def told_to_end(project: Path) -> None:
    """As by a scheduler that takes the machine back: no step is lost; the code says run again."""
    with started(project) as process:
        process.wait_for_checkpoints(random.randint(1, 5))
        process.popen.terminate()
        asked = time.time()
        assert process.end() == 75, process.said
        assert "Traceback" not in process.said
        assert "run the same command" in process.said
    assert outputs(project) == {}
    assert STATE in scratch(project)
    # seconds until the save: how long Python takes to exit on a busy machine does not matter
    assert max(path.stat().st_mtime for path in project.rglob(STATE)) - asked < 5


def assert_same(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name in found if found[name] != wanted[name]] == []


# ------------------------------------------------------------------------------ parameters
def test_a_run_trains_with_values_of_its_own(
    tmp_path: Path, committed_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of an objective, and on top of them those of a variant."""
    own = {"train": {"tau": 0.3}, "augment": {"flip": 0.25}, "projection": {"dim": 7}}
    variants = {"mine": {"train": {"tau": 1.0}}}
    write_params(
        tmp_path, committed_params, **{"objectives.convirt": own, "ablation.variants": variants}
    )
    tiny_models.write_bert(tmp_path / "bert")
    write_store(tmp_path / "data/stores/chest", 32)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    seen = []

    def note(objective: Any, data: Any, spec: Any, config: Any, *rest: Any) -> None:
        seen.append((config.tau, spec.flip, objective.model.projection.dim))
        raise StoppedError

    monkeypatch.setattr(training, "pretrain", note)
    for stage, names in ((pretrain, ["convirt", "chest"]), (vary, ["mine", "convirt", "chest"])):
        result = CliRunner().invoke(stage.app, names)
        assert result.exit_code == RESUMABLE, result.output
    assert seen == [(0.3, 0.25, 7), (1.0, 0.25, 7)]
