"""The whole pipeline in miniature: the committed dvc.yaml and code, run by DVC in two clones.

In one of them, one stage of each kind is run by `dvc repro`, in a process of its own. On Linux most
others are forks of a process that has imported the libraries (`stages._forks`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
import tiny_models
from conftest import ROOT, TINY_PIPELINE, set_key
from ruamel.yaml import YAML

from convirt.results.summary import ENOUGH

TASKS, INITS, FRACTIONS = ["rsna", "mura"], ["imagenet", "convirt"], [10, 100]
SETS: dict[str, dict[str, int]] = {
    "mimic-cxr": {"studies": 24},
    "bone": {"studies": 24},
    "rsna": {"train": 24, "val": 8, "test": 16},
    "mura": {"train": 24, "val": 12, "test": 16},
    "chexpert": {"train": 4, "val": 4, "test": 4, "per_class": 2, "queries": 1, "texts": 1},
}
CHANGES: dict[str, Any] = {
    **TINY_PIPELINE,
    "demo.sets": SETS,
    "datasets.sources.mura.val": 12,
    "matrix.task": TASKS,
    "matrix.init": INITS,
    "matrix.fraction": FRACTIONS,
}
RUNS = [f"{t}-{i}-{f}-finetune" for t in TASKS for i in INITS for f in FRACTIONS]
FIRST = ["pretrain@convirt-bone", "finetune@mura-imagenet-10-finetune"]  # and what they need
KINDS = {"code", "demo", "preprocess", "encoder", "pretrain", "finetune", "retrieve", "report"}
UP_TO_DATE = "Data and pipelines are up to date."


@dataclass
class Repository:
    """A git and DVC repository, and what runs in it."""

    path: Path
    environment: dict[str, str] = field(repr=False)

    def run(self, *command: str) -> str:
        """Run a command and expect success; returns both its streams."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}"
        return done.stdout

    def clone(self, name: str) -> Repository:
        """A clone of the latest commit, with an empty cache."""
        path = self.path.with_name(name)
        self.run("git", "clone", "--quiet", str(self.path), str(path))
        return Repository(path, self.environment)

    def commit(self) -> None:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "Change")

    def stages(self, told: str) -> set[str]:
        """The stages that DVC says it runs."""
        return set(re.findall(r"Running stage '([^']+)'", told))

    def change(self, **values: Any) -> None:
        """Change parameters in params.yaml."""
        yaml = YAML()
        data = yaml.load(self.path / "params.yaml")
        for key, value in values.items():
            set_key(data, key, value)
        yaml.dump(data, self.path / "params.yaml")


def write_project(path: Path, params: Any) -> None:
    """The committed code and pipeline, small parameters, and a text encoder on disk."""
    for package in ("convirt", "stages"):
        shutil.copytree(ROOT / package, path / package, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, path / name)
    (path / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        shutil.copy(ROOT / ".dvc" / name, path / ".dvc" / name)
    tiny_models.write_bert(path / "bert")
    for key, value in CHANGES.items():
        set_key(params, key, value)
    for name in ("chexpert", "covidx"):  # no task of this pipeline
        del params["datasets"]["sources"][name]
    with (path / "params.yaml").open("w", encoding="utf-8") as handle:
        YAML().dump(params, handle)


@pytest.fixture(scope="module")
def clones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, Repository]:
    """Two clones of one commit in which all stages have run."""
    home = tmp_path_factory.mktemp("dag")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "GIT_"))} | {
        # as make does: the cmd in dvc.yaml is a plain `python`
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(home / "site"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@t",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@t",
    }
    origin = Repository(home / "origin", environment)
    origin.path.mkdir()
    write_project(origin.path, YAML().load(ROOT / "params.yaml"))
    origin.run("git", "init", "--quiet")
    origin.commit()
    one, two = origin.clone("one"), origin.clone("another place")
    with ThreadPoolExecutor(2) as pool:
        parallel = pool.submit(two.run, "python", "-m", "stages.runs", "--jobs", "2")
        first = one.stages(one.run("dvc", "repro", *FIRST))
        rest = one.run("python", "-m", "stages.runs", "--jobs", "1", "finetune", "pretrain")
        last = one.stages(one.run("dvc", "repro"))
    # code; sets drawn, packed; encoders without and with pretraining; runs; the end
    stages = 1 + 5 + 5 + 1 + 2 + 8 + 2 + 1
    assert f"{stages} ran, 0 from the cache, 0 up to date, 0 failed" in parallel.result()
    assert not first & last
    assert {name.partition("@")[0] for name in first | last} == KINDS
    assert f"{stages - len(first | last)} ran, 0 from the cache," in rest
    return one, two


@pytest.fixture(scope="module")
def done(clones: tuple[Repository, Repository]) -> Repository:
    """A repository in which everything ran, committed."""
    clones[0].commit()
    return clones[0]


def test_two_clones_end_alike(clones: tuple[Repository, Repository]) -> None:
    one, two = (clone.path for clone in clones)
    locks = [
        sorted(re.split(r"\n(?=  \S)", (path / "dvc.lock").read_text())) for path in (one, two)
    ]
    assert [line.rstrip() for line in locks[0]] == [line.rstrip() for line in locks[1]]
    names = [p.relative_to(one) for p in (one / "metrics").rglob("*") if p.is_file()]
    assert len(names) > 20
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name


def test_second_run_has_nothing_to_do(done: Repository) -> None:
    assert UP_TO_DATE in done.run("dvc", "repro")
    assert done.run("git", "status", "--porcelain") == ""


def test_fresh_clone_needs_nothing(done: Repository) -> None:
    """What CI checks, without any data."""
    clone = done.clone("fresh")
    assert not (clone.path / "models").exists()
    assert UP_TO_DATE in clone.run("dvc", "repro", "--allow-missing", "--dry")


def test_summary_has_every_number(done: Repository) -> None:
    summary = json.loads((done.path / "metrics/summary.json").read_text())
    for task in TASKS:
        for init in INITS:
            for fraction in FRACTIONS:
                cell = summary["finetune"][task][init][str(fraction)]
                assert 0 <= cell["low"] <= cell["value"] <= cell["high"] <= 1
        run = done.path / f"metrics/finetune/{task}-convirt-10-finetune.json"
        enough = json.loads(run.read_text())["patients_fewest"] >= ENOUGH
        for claim in (summary["claim"][task], summary["claim"]["equal_fraction"][task]):
            assert set(claim) == {"difference", *(("low", "high") if enough else ())}
            assert -1 <= claim["difference"] <= 1
            assert -1 <= claim.get("low", -1) <= claim.get("high", 1) <= 1
        few, rest = (
            summary["finetune"][task][i][f] for i, f in (("convirt", "10"), ("imagenet", "100"))
        )
        difference = few["value"] - rest["value"]
        assert summary["claim"][task]["difference"] == pytest.approx(difference, abs=1e-9)
    for direction in ("image_image", "text_image"):
        assert {"p_at_1", "p_at_2"} <= set(summary["retrieval"]["convirt"][direction])
    for corpus in ("chest", "bone"):
        cell = summary["pretrain"]["convirt"][corpus]
        assert cell["chance"] == pytest.approx(1.3862943611198906)
        assert cell["pairs"] > 0
        assert cell["val_loss"] > 0


def test_nothing_of_a_patient_is_in_git(done: Repository) -> None:
    """No film, no sentence of a report, no field of a DICOM file, in what git keeps of a run."""
    tracked = [Path(name) for name in done.run("git", "ls-files", "metrics", "dvc.lock").split()]
    assert len(tracked) > 30
    pictures = [path for path in tracked if path.suffix == ".png"]
    assert {path.suffix for path in tracked} == {".json", ".csv", ".md", ".png", ".lock"}
    assert {path.parent.as_posix() for path in pictures} == {"metrics/figures"}
    words: set[str] = set()
    for store in (done.path / "data/stores").glob("*/sentences.parquet"):
        words |= set(pd.read_parquet(store)["sentence"])
    films = sorted((done.path / "data/demo/rsna").rglob("*.dcm"))
    for film in films:
        header = pydicom.dcmread(film, stop_before_pixels=True)
        words |= {str(header.get(key, "")) for key in ("PatientName", "PatientBirthDate")}
    words = {word for word in words if len(word) > 8}
    assert len(words) > 40, "sentences of reports"
    for path in tracked:
        text = (done.path / path).read_bytes().decode(errors="replace")
        assert [word for word in words if word in text] == [], path


def test_every_output_of_a_run_is_there(done: Repository) -> None:
    for run in RUNS:
        told = json.loads((done.path / f"metrics/finetune/{run}.json").read_text())
        assert told["corpus"] == (
            None if told["init"] == "imagenet" else {"rsna": "chest", "mura": "bone"}[told["task"]]
        )
        assert (done.path / f"models/finetune/{run}/predictions.parquet").is_file()
    table = done.run("dvc", "metrics", "show")
    assert "finetune.rsna.convirt.10.value" in table


def test_rate_of_pretraining_reruns_what_depends_on_it(
    clones: tuple[Repository, Repository],
) -> None:
    other = clones[1]
    other.change(**{"train.lr": 1e-5})
    told = other.run("dvc", "repro", "--dry", "--force-downstream")
    expected = {"pretrain@convirt-chest", "pretrain@convirt-bone", "retrieve@convirt", "report"}
    assert other.stages(told) == expected | {f"finetune@{run}" for run in RUNS if "convirt" in run}
