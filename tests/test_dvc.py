"""dvc.yaml says what the stages run and read; overrides of DVC arrive as numbers."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from convirt.objectives import available
from convirt.params import load, read_yaml
from convirt.provenance import Guard, import_closure, lookup
from stages import code
from stages._stage import FREE

PIPELINE = read_yaml(ROOT / "dvc.yaml")
STAGES = list(PIPELINE["stages"])


def body(stage: str) -> Any:
    found = PIPELINE["stages"][stage]
    return found.get("do", found)


def entry_name(stage: str) -> str:
    """The <name> in a stage's `python -m stages.<name>`."""
    match = re.search(r"-m stages\.(\w+)", body(stage)["cmd"])
    assert match is not None
    return match[1]


def declared_reads(stage: str) -> list[str]:
    """The literal READS of a stage's module, without running it."""
    path = ROOT / "stages" / f"{entry_name(stage)}.py"
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "READS" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return list(ast.literal_eval(node.value))
    return []


def holes(key: str) -> str:
    """A key with `{task}` (READS) and `${item.task}` (dvc.yaml) alike."""
    return re.sub(r"\$?\{[^}]*\}", "{}", key)


def test_stages_are_those_of_the_design() -> None:
    names = ["demo", "preprocess", "encoder", "pretrain", "finetune", "retrieve", "report"]
    assert [name for name in STAGES if name in names] == names
    assert STAGES[0] == "code"


@pytest.mark.parametrize("stage", STAGES[1:])
def test_every_stage_depends_on_the_digest_of_its_code(stage: str) -> None:
    digests = [d for d in body(stage)["deps"] if str(d).startswith("metrics/code/")]
    plain = [re.sub(r"\$\{[^}]*\}", "convirt", d) for d in digests]
    assert len(plain) == 1
    assert Path(plain[0]).stem in code.targets(ROOT)
    assert Path(plain[0]).stem.split("-")[0] == entry_name(stage)


def test_digest_is_that_of_the_provenance(tmp_path: Path) -> None:
    """The digest of its code that a stage records is the one that DVC sees."""
    for name, entries in code.targets(ROOT).items():
        files = sorted({path for entry in entries for path in import_closure(entry, ROOT)})
        guard = Guard(ROOT, files, ROOT / "params.yaml", [])
        assert code.describe(entries, ROOT)["code"] == guard.code, name


def test_objectives_do_not_depend_on_each_other() -> None:
    for name in available():
        modules = code.describe(code.targets(ROOT)[f"pretrain-{name}"], ROOT)["modules"]
        assert isinstance(modules, dict)
        others = {f"convirt/objectives/{other}.py" for other in available()} - {
            f"convirt/objectives/{name}.py"
        }
        assert not others & modules.keys(), name


@pytest.mark.parametrize(
    ("stage", "unused"),
    [
        ("demo", "image_encoder text_encoder pair_encoder objectives/base training transfer"),
        ("preprocess", "image_encoder text_encoder pair_encoder objectives/base training transfer"),
        ("report", "image_encoder text_encoder pair_encoder objectives/base training transfer"),
        ("finetune", "text_encoder pair_encoder objectives/base training"),
        ("retrieve", "objectives/base training transfer"),
    ],
)
def test_no_stage_depends_on_the_code_of_others(stage: str, unused: str) -> None:
    modules = code.describe(code.targets(ROOT)[stage], ROOT)["modules"]
    assert isinstance(modules, dict)
    files = [f"convirt/{name}.py" for name in unused.split()]
    assert all((ROOT / file).is_file() for file in files)
    assert not set(files) & modules.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_what_the_stage_declares(stage: str) -> None:
    tracked = {holes(key) for key in body(stage).get("params", [])}
    assert tracked == {holes(key) for key in declared_reads(stage) if key not in FREE}


@pytest.mark.parametrize("stage", STAGES[1:])
def test_no_parameter_is_passed_over_by_the_cache_of_runs(stage: str) -> None:
    """DVC leaves keys called `size` and `nfiles` out when it looks for an earlier run.

    A stage with an output that is not cached is never taken from the cache of runs.
    """
    named = [next(iter(out.values())) for out in body(stage)["outs"] if isinstance(out, dict)]
    if not all(how.get("cache", True) for how in named):
        return
    for path in (ROOT / "params.yaml", *(ROOT / "profiles").glob("*.yaml")):
        data = read_yaml(path)
        for key in declared_reads(stage):
            root = re.split(r"\.?\{", key)[0]  # for demo.sets.{name}, all of demo.sets
            assert not {"size", "nfiles"} & inner_keys(lookup(data, root)), f"{stage}: {key}"


def inner_keys(value: Any) -> set[str]:
    if not isinstance(value, dict):
        return set()
    return set(value) | {name for inner in value.values() for name in inner_keys(inner)}


def test_every_output_is_written_by_one_stage() -> None:
    outs: list[str] = []
    for stage in STAGES:
        for out in [*body(stage).get("outs", []), *body(stage).get("metrics", [])]:
            outs.append(out if isinstance(out, str) else next(iter(out)))
    assert len(outs) == len(set(outs)) >= len(STAGES)
    assert [next(iter(m)) for m in body("report")["metrics"]] == ["metrics/summary.json"]


# ------------------------------------------------------------------------------ DVC itself
def dvc(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_default_matrix_is_sixteen_runs(tmp_path: Path) -> None:
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    names = dvc(tmp_path, "stage", "list", "--all", "--name-only").split()
    runs = [name for name in names if name.startswith("finetune@")]
    assert len(set(runs)) == len(runs) == 16
    assert {
        "finetune@rsna-convirt-10-finetune",
        "pretrain@convirt-bone",
        "encoder@imagenet",
    } <= set(names)
    # every tracked key exists, under the very names that DVC fills in
    params = load(tmp_path / "params.yaml")
    from dvc.repo import Repo

    with Repo(str(tmp_path)) as repo:
        keys = {key for s in repo.index.stages for dep in s.params for key in dep.params}
    assert len(keys) > 20
    for key in keys:
        params.get(key)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("train.lr=1e-5", "train.lr", 1e-5),
        ("train.lr=1e-4", "train.lr", 1e-4),
        ("train.lr=3e-06", "train.lr", 3e-6),
        ("train.weight_decay=0", "train.weight_decay", 0.0),
        ("matrix.fraction=[1,10,100]", "matrix.fraction", [1, 10, 100]),
        ("augment.blur_sigma=[1e-5,0.5]", "augment.blur_sigma", [1e-5, 0.5]),
    ],
)
def test_override_of_dvc_arrives_as_a_number(
    override: str, key: str, value: Any, tmp_path: Path
) -> None:
    from dvc.utils.hydra import apply_overrides

    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    apply_overrides(str(path), [override])
    if override == "train.lr=1e-5":
        assert re.search(r"lr: 1e-05\b", path.read_text())  # what PyYAML would read as text
    params = load(path)
    assert params.get(key) == value
    assert isinstance(params.train.lr, float)
    changed = {
        k
        for k in ("seed", "train", "matrix", "augment", "tasks", "demo", "datasets")
        if params.get(k) != load(ROOT / "params.yaml").get(k)
    }
    assert changed <= {key.split(".")[0]}
    assert lookup(params.model_dump(), "train.tau") == 0.1
