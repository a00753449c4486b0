"""The stages that are off by default: DVC finds none of them, and all of them once asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, set_key

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
