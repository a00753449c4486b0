"""The stage finetune with a linear head: features shared on disk, what is saved, its parameters."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, set_key
from safetensors.torch import load_file
from test_transfer_stages import change, outputs, repo, run  # noqa: F401, repo is a fixture

from convirt import devices, feature_cache, files, image_encoder, provenance, transfer
from convirt.params import ParamsError, parse
from stages import _protocols as protocols
from stages._stage import Stage

RUN = ["rsna", "imagenet", "50", "linear"]
KEY = "-".join(RUN)


def kept(folder: Path) -> list[Path]:
    """The feature caches."""
    return sorted((folder / ".scratch").glob("features-*"))


@pytest.fixture
def work(repo: Path, write_params: Callable[..., Path]) -> Path:  # noqa: F811
    """The small working folder, with two linear repeats."""
    change(repo, "finetune.linear.repeats", 2, write_params)
    return repo


def solve(work: Path, solver: str, write_params: Callable[..., Path]) -> None:
    change(work, "finetune.linear.solver", solver, write_params)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_same_bytes_with_and_without_kept_features(
    work: Path, write_params: Callable[..., Path], solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    solve(work, solver, write_params)
    assert run(*RUN).exit_code == 0
    first = outputs(work, KEY)
    (cache,) = kept(work)
    features = (cache / feature_cache.FILE).read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(image_encoder, "load_image_encoder", None)  # kept features need no network
        assert run(*RUN).exit_code == 0
    assert outputs(work, KEY) == first
    files.remove(cache)
    assert run(*RUN).exit_code == 0
    assert outputs(work, KEY) == first
    assert (cache / feature_cache.FILE).read_bytes() == features


def test_runs_of_one_task_and_encoder_share_features(
    work: Path, write_params: Callable[..., Path]
) -> None:
    assert run(*RUN).exit_code == 0
    first = kept(work)
    assert run("rsna", "imagenet", "100", "linear").exit_code == 0
    for key, value in {
        "seed": 3,
        "finetune.dropout": 0.0,
        "finetune.linear.solver": "lbfgs",
    }.items():
        change(work, key, value, write_params)
    assert run(*RUN).exit_code == 0
    assert kept(work) == first and len(first) == 1

    assert run("covidx", "imagenet", "100", "linear").exit_code == 0  # another store
    assert len(kept(work)) == 2
    change(work, "compute.threads", 2, write_params)  # sums in another order
    assert run(*RUN).exit_code == 0
    assert len(kept(work)) == 3
    path = work / "models/encoders/imagenet/image_encoder.safetensors"
    tensors = load_file(path)
    tensors["conv_stem.weight"] = tensors["conv_stem.weight"] * 2
    from convirt.checkpoint import save_safetensors

    save_safetensors(path, tensors)
    assert run(*RUN).exit_code == 0
    assert len(kept(work)) == 4


def test_features_of_other_code_libraries_and_chips_are_not_used(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*RUN).exit_code == 0
    (first,) = kept(work)
    changes: list[tuple[Any, str, Callable[..., Any]]] = [
        (devices, "hardware", lambda device: "another chip"),
        (provenance, "versions", lambda: {"torch": "0.0"}),
        (protocols, "digest_of", lambda path: str(path)),
    ]
    for number, (where, name, other) in enumerate(changes):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, other)
            assert run(*RUN).exit_code == 0
        assert len(kept(work)) == number + 2, name
    assert run(*RUN).exit_code == 0
    assert first in kept(work) and len(kept(work)) == 4


def test_images_of_no_split_are_left_out(work: Path) -> None:
    path = work / "data/stores/rsna/records.parquet"
    records = pd.read_parquet(path)
    assert run(*RUN).exit_code == 0
    before = pd.read_parquet(work / f"models/finetune/{KEY}/predictions.parquet")
    n = len(records)
    extra = records.iloc[:3].assign(split="none", image=["a", "b", "c"])
    files.write_parquet(path, pd.concat([extra, records], ignore_index=True))
    images = np.load(work / "data/stores/rsna/images.npy")
    np.save(work / "data/stores/rsna/images.npy", np.concatenate([images[:3], images]))
    meta = json.loads((work / "data/stores/rsna/store.json").read_text())
    files.write_json(
        work / "data/stores/rsna/store.json", meta | {"images": n + 3, "digest": "other"}
    )
    assert run(*RUN).exit_code == 0
    after = pd.read_parquet(work / f"models/finetune/{KEY}/predictions.parquet")
    pd.testing.assert_frame_equal(before, after)


def test_only_the_head_is_saved_and_it_predicts_the_same(work: Path) -> None:
    import timm

    run_ = ["covidx", "imagenet", "100", "linear"]
    assert run(*run_).exit_code == 0
    folder = work / "models/finetune" / "-".join(run_)
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "head.safetensors",
        "predictions.parquet",
    }
    config = json.loads((folder / "config.json").read_text())
    encoder = work / config["encoder"]["folder"]
    weights = encoder / "image_encoder.safetensors"
    assert config["encoder"] == {
        "folder": "models/encoders/imagenet",
        "sha256": files.sha256(weights),
    }
    head = load_file(folder / "head.safetensors")
    assert {name: tuple(t.shape) for name, t in head.items()} == {
        "weight": (3, config["image"]["width"]),
        "bias": (3,),
    }
    about = image_encoder.read_image_config(encoder)
    network = timm.create_model(
        config["image"]["architecture"], num_classes=0, checkpoint_path=str(weights)
    ).eval()
    stored = torch.from_numpy(np.load(work / "data/stores/covidx/images.npy")[32:])
    with torch.no_grad():
        h = network(image_encoder.to_input(stored, about))
    p = (h @ head["weight"].T + head["bias"]).softmax(dim=1)
    table = pd.read_parquet(folder / "predictions.parquet")
    table = table[table["repeat"] == 0]
    columns = [f"p_{label}" for label in config["labels"]]
    assert np.allclose(p.numpy(), table[columns].to_numpy(), atol=1e-5)


def test_numbers_tell_how_far_repeats_lie_apart(
    work: Path, write_params: Callable[..., Path]
) -> None:
    assert run(*RUN).exit_code == 0
    numbers = json.loads((work / f"metrics/finetune/{KEY}.json").read_text())
    spread, repeats = numbers["over_repeats"], numbers["repeats"]
    assert spread["mean"] == pytest.approx(numbers["value"])
    assert spread["sd"] == pytest.approx(np.std(repeats, ddof=1))
    assert "Student's t, 1 degrees of freedom" in spread["how"]
    assert "of the test patients, with Student's t of the 2 repeats" in numbers["how"]
    assert numbers["over_patients"]["low"] <= numbers["value"] <= numbers["over_patients"]["high"]
    assert len(numbers["best_epoch"]) == len(numbers["epochs"]) == 2
    solve(work, "lbfgs", write_params)
    assert run(*RUN).exit_code == 0
    numbers = json.loads((work / f"metrics/finetune/{KEY}.json").read_text())
    assert len(numbers["l2"]) == len(numbers["steps"]) == 2 and "epochs" not in numbers


def test_same_bytes_after_a_kill_in_any_phase(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(image_encoder, "BLOCK", 16)
    monkeypatch.setattr(feature_cache, "KEEP_EVERY", 0.0)
    assert run(*RUN).exit_code == 0
    first = outputs(work, KEY)
    files.remove(kept(work)[0])
    kills = 0
    while kills < 20:
        seen: list[int] = []

        def kill(stage: Stage, seen: list[int] = seen) -> None:
            seen.append(1)
            if len(seen) == 3:
                raise SystemExit(143)

        with monkeypatch.context() as patch:
            patch.setattr(Stage, "poll", kill)
            code = run(*RUN).exit_code
        if code == 0:
            break
        assert code == 143
        kills += 1
    assert 3 <= kills < 20  # among the features, in the first repeat and in the second
    assert outputs(work, KEY) == first


def test_a_run_on_kept_features_does_not_import_timm(work: Path) -> None:
    assert run(*RUN).exit_code == 0
    code = (
        "import sys; from stages.finetune import app\n"
        f"app({RUN!r}, standalone_mode=False)\n"
        "print(sorted({'timm', 'torchvision', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("protocol", "own"), [("finetune", (7, 0.0625, 8)), ("linear", (0, 0.0, 9))]
)
def test_a_recipe_has_the_numbers_of_its_protocol_and_task(
    protocol: str, own: tuple[int, float, int], default_params: dict[str, Any]
) -> None:
    numbers = {"batch_size": 3, "weight_decay": 0.25, "dropout": 0.125}
    numbers |= {"patience": 4, "factor": 0.375, "stop": 6}
    default_params["seed"] = 40
    default_params["finetune"] |= numbers
    default_params["finetune"]["finetune"] |= {"head_steps": 7, "head_lr": 0.0625, "max_epochs": 8}
    default_params["finetune"]["linear"]["max_epochs"] = 9
    default_params["tasks"]["rsna"]["lr"] = 0.03125
    params = parse(default_params)
    task = params.tasks["rsna"]
    found = protocols.recipe(params, task, protocol, 2)
    assert {name: getattr(found, name) for name in numbers} == numbers
    assert (found.head_steps, found.head_lr, found.max_epochs) == own
    assert (found.lr, found.seed, found.protocol) == (0.03125, 40_002, protocol)
    assert (found.kind, found.metric) == (task.kind, task.metric)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("finetune.linear.solver", "sgd", "'adam' or 'lbfgs'"),
        ("finetune.linear.l2", [], "not empty"),
        ("finetune.linear.l2", [1.0, 0.1], "ascending"),
        ("finetune.linear.l2", [0.0, 0.1], "greater than 0"),
        ("finetune.linear.repeats", 0, "greater than or equal to 1"),
        ("finetune.finetune.repeats", 0, "greater than or equal to 1"),
        ("finetune.finetune.repeats_at", {101: 5}, "less than or equal to 100"),
        ("finetune.finetune.repeats_at", {1: 0}, "greater than or equal to 1"),
        ("finetune.finetune.repeats_at", {"1": 5}, "a valid integer"),
        ("finetune.repeats", 1, "a known key"),
    ],
)
def test_parameters_that_are_refused(
    default_params: dict[str, Any], key: str, value: Any, expected: str
) -> None:
    set_key(default_params, key, value)
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    (problem,) = caught.value.problems
    assert problem.key.startswith(key) and expected in problem.expected
