"""The stages that are off by default: DVC finds none of them, and all of them once asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, set_key
from faults.steps import CHANGES, KEPT, STEPS

from convirt.params import parse

OFF = ("supervised@", "trajectory@", "zeroshot@")


def index(folder: Path) -> tuple[set[str], set[str]]:
    """Names of the stages that DVC finds, and the parameters that it tracks."""
    from dvc.repo import Repo

    shutil.copy(ROOT / "dvc.yaml", folder)
    with Repo.init(str(folder), no_scm=True) as repo:
        stages = repo.index.stages
        repo.index.check_graph()
        keys = {key for stage in stages for dep in stage.params for key in dep.params}
        return {stage.name for stage in stages}, keys


@pytest.fixture
def full(default_params: dict[str, Any]) -> dict[str, Any]:
    """Parameters that ask for all of these stages."""
    for key, value in {
        "zeroshot.task": ["rsna", "mura"],
        "zeroshot.system": ["convirt"],
        "finetuned": {"convirt_supervised": "chexpert-convirt-100-finetune"},
        "retrieval.systems": ["convirt", "convirt_supervised"],
        "train.keep_every": 1,
        "ablation.trajectory": ["convirt"],
    }.items():
        set_key(default_params, key, value)
    return default_params


def test_nothing_of_it_by_default(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    names, _ = index(tmp_path)
    assert not [name for name in names if name.startswith(OFF)]


def test_lists_switch_it_on(
    full: dict[str, Any], tmp_path: Path, write_params: Callable[..., Path]
) -> None:
    write_params(full, tmp_path)
    names, keys = index(tmp_path)
    assert {name for name in names if name.startswith(OFF)} == {
        "supervised@convirt_supervised",
        "trajectory@convirt",
        "zeroshot@rsna-convirt",
        "zeroshot@mura-convirt",
    }
    assert "retrieve@convirt_supervised" in names
    params = parse(full)
    for key in keys:
        params.get(key)
    assert {"zeroshot.prompts.mura", "finetuned.convirt_supervised"} <= keys


def test_a_circle_is_refused_by_dvc_as_well(
    full: dict[str, Any], tmp_path: Path, write_params: Callable[..., Path]
) -> None:
    """DVC reads dvc.yaml before any stage can read its parameters."""
    from dvc.exceptions import CyclicGraphError

    full["finetuned"] = {"one": "chexpert-one-100-finetune"}
    full["matrix"]["init"] = ["convirt", "one"]
    full["retrieval"]["systems"] = ["convirt"]
    write_params(full, tmp_path)
    with pytest.raises(CyclicGraphError, match="supervised@one"):
        index(tmp_path)


# ------------------------------------------------------------------------------ what stages read
def test_dvc_depends_on_all_that_a_stage_reads(
    default_params: dict[str, Any], tmp_path: Path, write_params: Callable[..., Path]
) -> None:
    """The fault tests run each step with nothing but its `reads`, so these are complete."""
    from dvc.repo import Repo

    for key, value in CHANGES.items():
        set_key(default_params, key, value)
    for key, kept in KEPT.items():
        values = default_params
        for part in key.split("."):
            values = values[part]
        for name in set(values) - set(kept):
            del values[name]
    write_params(default_params, tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    known = {}
    with Repo.init(str(tmp_path), no_scm=True) as repo:
        for stage in repo.index.stages:
            command = str(stage.cmd).partition("-m stages.")[2]
            known[command] = [{str(x.def_path) for x in part} for part in (stage.deps, stage.outs)]
    for step in STEPS:
        deps, outs = known[" ".join(step.command)]
        reads = [name for name in step.reads if name != "bert"]  # weights that a parameter names
        assert [name for name in reads if not covered(name, deps)] == [], step.command
        assert [name for name in step.writes if not covered(name, outs)] == [], step.command


def covered(path: str, by: set[str]) -> bool:
    """Whether a path is one of `by`, or in a folder among them."""
    return any(path == other or path.startswith(f"{other}/") for other in by)
