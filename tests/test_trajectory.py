"""Kept states put back into encoders, and the stage that scores them."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_transfer_stages as tiny
import tiny_models
import torch
from conftest import set_key
from torch import Tensor, nn

from convirt import (
    checkpoint,
    files,
    kept,
    labelled,
    linear_probe,
    search,
    training,
    transfer,
)
from convirt.errors import InputError
from convirt.image_encoder import load_image_encoder
from convirt.objectives.base import PairObjective
from convirt.pair_encoder import PairEncoder, load_pair_encoder
from convirt.params import ParamsError, load, parse
from convirt.store import Store
from stages import _protocols as protocols
from stages import finetune, retrieve, trajectory

repo, pair = tiny.repo, tiny.pair  # fixtures
ARGUMENTS = ("convirt", "chest", "rsna")


# ------------------------------------------------------------------------------ kept states
def test_a_state_that_training_kept_is_put_back(bert: Path, tmp_path: Path) -> None:
    """Kept states, loaded in any order, make the model what it was at their steps."""
    config = replace(tiny_models.CONFIG, keep_every=1)
    seen: dict[int, dict[str, Tensor]] = {}
    data = tiny_models.corpus()
    model = tiny_models.objective("convirt", bert, data, config=config)

    def watch(status: dict[str, float]) -> None:
        seen[int(status["step"])] = {k: v.clone() for k, v in model.state_dict().items()}

    training.pretrain(model, data, tiny_models.PAPER, config, tmp_path, watch)
    other = tiny_models.pair_encoder(bert)
    for step in (16, 8, 4, 16):  # nothing of the state loaded before is left
        path = tmp_path / training.KEPT.format(step)
        kept.put(path, other.image_encoder, other)
        for name, value in other.state_dict().items():
            assert torch.equal(value, seen[step][f"model.{name}"]), (step, name)
    image = tiny_models.TinyImageEncoder()
    with pytest.raises(InputError, match="missing: norm"):  # no state of an image-only objective
        kept.put(path, image, None)


CASES: dict[str, dict[str, Any]] = {  # pairs, images alone, and objectives that train more
    "convirt": {},
    "binary": {"hidden": 0},
    "siglip": {"scale": 10.0, "bias": -10.0},
    "simclr": {},
    "moco_v2": {"queue": 8, "momentum": 0.9, "groups": 2},
    "report_labels": {"vocabulary": {"tiny": "chexpert"}},
    "caption_lstm": {"width": 8},
}


@pytest.mark.parametrize("name", CASES)
def test_states_of_all_kinds_of_objective_fit(name: str, bert: Path, tmp_path: Path) -> None:
    """Whatever an objective trains beside its encoders."""
    data, path = tiny_models.corpus(), tmp_path / "state.safetensors"
    model = tiny_models.objective(name, bert, data, options=CASES[name])
    pair = model.model if isinstance(model, PairObjective) else None
    trained = pair or model.image_encoder
    final = copy.deepcopy(trained)
    moved(model, 0)
    checkpoint.save_safetensors(path, training._own(model))
    if pair is None:
        kept.put(path, final, None)
    else:
        kept.put(path, model.image_encoder, final)
    wanted = trained.state_dict()
    for key, value in final.state_dict().items():
        assert torch.equal(value, wanted[key]), key


def test_a_state_without_a_trained_tensor_is_refused(bert: Path, tmp_path: Path) -> None:
    model, path = tiny_models.pair_encoder(bert), tmp_path / "state.safetensors"
    whole = state_of(model)
    checkpoint.save_safetensors(path, whole)
    kept.put(path, model.image_encoder, model)
    for name in ("model.image_encoder.norm.running_mean", "model.text_projection.output.weight"):
        checkpoint.save_safetensors(path, {k: v for k, v in whole.items() if k != name})
        with pytest.raises(InputError, match="missing: " + name.removeprefix("model.")):
            kept.put(path, model.image_encoder, model)


def test_lists_that_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "kept/convirt/chest"

    def refused(told: str) -> None:
        with pytest.raises(InputError) as caught:
            kept.states(folder)
        assert told in str(caught.value)

    refused("no such file")
    files.write_text(folder / "kept.json", "[]")
    refused("the list of kept states")
    files.write_json(folder / "kept.json", {"states": []})
    refused("train.keep_every")
    row = {"file": "a.safetensors", "step": 1, "val_loss": 1.0}
    files.write_json(folder / "kept.json", {"states": [row]})
    refused("a.safetensors")


# ------------------------------------------------------------------------------ the stage
def state_of(model: PairEncoder) -> dict[str, Tensor]:
    """What the loop keeps of an objective with the model and one tensor of its own."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    state = {f"model.{k}": v for k, v in model.state_dict().items() if k not in frozen}
    return {**state, "log_scale": torch.zeros(())}


def moved(model: nn.Module, seed: int) -> None:
    """Shift all trained weights."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


@pytest.fixture
def along(pair: Path, write_params: Callable[..., Path]) -> Path:
    """A project with three kept states, of which that of step 20 is the final encoder."""
    final = pair / "models/encoders/convirt/chest"
    folder = pair / "models/kept/convirt/chest"
    rows = []
    for step in (10, 20, 30):
        model = load_pair_encoder(final)
        if step != 20:
            moved(model, step)
        name = f"step-{step:09d}.safetensors"
        checkpoint.save_safetensors(folder / name, state_of(model))
        rows.append({"file": name, "step": step, "val_loss": step / 7})
    files.write_json(folder / "kept.json", {"states": rows})
    for key, value in {
        "train.keep_every": 1,
        "ablation.trajectory": ["convirt"],
        "ablation.fraction": 50,
        "ablation.k": 4,
        "finetune.linear.repeats": 2,
    }.items():
        tiny.change(pair, key, value, write_params)
    return pair


def table(project: Path) -> pd.DataFrame:
    return pd.read_csv(project / "metrics/trajectory/convirt.csv")


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_every_kept_state_is_scored(
    along: Path, solver: str, write_params: Callable[..., Path]
) -> None:
    tiny.change(along, "finetune.linear.solver", solver, write_params)
    result = tiny.run(*ARGUMENTS, stage=trajectory)
    assert result.exit_code == 0, result.output
    found = table(along)
    assert list(found) == ["step", "val_loss", "linear", "image_image", "text_image"]
    assert found["step"].tolist() == [10, 20, 30]
    assert found["val_loss"].tolist() == [10 / 7, 20 / 7, 30 / 7]
    assert found[["linear", "image_image", "text_image"]].notna().all(axis=None)
    assert not found.iloc[0, 2:].equals(found.iloc[1, 2:])
    assert not list((along / ".scratch").iterdir())

    # the final encoder is scored as the other stages score it
    assert tiny.run("rsna", "convirt", "50", "linear", stage=finetune).exit_code == 0
    assert tiny.run("convirt", stage=retrieve).exit_code == 0
    row = found.iloc[1]
    told = json.loads((along / "metrics/finetune/rsna-convirt-50-linear.json").read_text())
    assert row["linear"] == pytest.approx(told["value"], abs=1e-9)
    told = json.loads((along / "metrics/retrieval/convirt.json").read_text())
    for direction in ("image_image", "text_image"):
        assert row[direction] == told[direction]["p_at_4"]


def test_killed_and_run_again_it_goes_on(along: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tiny.run(*ARGUMENTS, stage=trajectory).exit_code == 0
    path = along / "metrics/trajectory/convirt.csv"
    unbroken = path.read_bytes()
    real, calls = linear_probe.test_metric, []

    def dying(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit(143)
        return real(*arguments)

    monkeypatch.setattr(linear_probe, "test_metric", dying)
    path.unlink()
    assert tiny.run(*ARGUMENTS, stage=trajectory).exit_code == 143
    assert not path.exists()
    assert tiny.run(*ARGUMENTS, stage=trajectory).exit_code == 0
    assert len(calls) == 2 + 2  # the first state was not scored again
    assert path.read_bytes() == unbroken


def test_a_file_of_scores_that_a_crash_emptied_is_none(tmp_path: Path) -> None:
    path = tmp_path / "20.json"
    for content in (b"", bytes(20), b'{"linear": '):
        path.write_bytes(content)
        assert trajectory._read(path) is None
    files.write_json(path, {"linear": 0.5})
    assert trajectory._read(path) == {"linear": 0.5}


def test_scores_of_another_state_are_not_taken(
    along: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def dying(*arguments: Any) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise SystemExit(143)
        return 0.25 * len(calls)

    monkeypatch.setattr(linear_probe, "test_metric", dying)
    assert tiny.run(*ARGUMENTS, stage=trajectory).exit_code == 143
    folder = along / "models/kept/convirt/chest"
    (folder / "step-000000010.safetensors").write_bytes(
        (folder / "step-000000030.safetensors").read_bytes()
    )
    assert tiny.run(*ARGUMENTS, stage=trajectory).exit_code == 0
    assert len(calls) == 2 + 3
    assert table(along)["linear"].tolist() == [0.75, 1.0, 1.25]


def test_each_repeat_of_a_probe_draws_its_own_labels(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(repo / "data/stores/rsna")
    encoder, config = load_image_encoder(repo / "models/encoders/imagenet")
    params = load(repo / "params.yaml")
    recipes = [protocols.recipe(params, params.tasks["rsna"], "linear", i) for i in range(3)]
    seen = []
    real = transfer.transfer

    def watch(model: Any, train: Any, val: Any, recipe: Any) -> Any:
        x = train.batch(np.arange(len(train.y)))
        seen.append((x.shape, [h.tolist() for h in x], train.y.tolist(), len(val.y)))
        return real(model, train, val, recipe)

    monkeypatch.setattr(transfer, "transfer", watch)
    linear_probe.test_metric(store, ["pneumonia"], "image", 30, encoder, config, recipes)
    h = search.encode(store.images, encoder, config, "cpu")
    train = store.records[store.records["split"] == "train"]
    for recipe, (shape, x, y, validated) in zip(recipes, seen, strict=True):
        rows = train.index[labelled.label_subset(train, ["pneumonia"], 30, recipe.seed)]
        assert shape == (6, config.width) and validated == 12
        assert np.allclose(x, h[rows], atol=1e-5)
        assert y == store.records.loc[rows, ["pneumonia"]].to_numpy().tolist()
    assert not np.allclose(seen[0][1], seen[1][1])


def test_an_objective_without_text(along: Path, write_params: Callable[..., Path]) -> None:
    for key, value in {"objectives.simclr": {}, "ablation.trajectory": ["simclr"]}.items():
        tiny.change(along, key, value, write_params)
    final = along / "models/encoders/simclr/chest"
    final.mkdir(parents=True)
    for name in ("config.json", "image_encoder.safetensors"):
        source = along / "models/encoders/imagenet" / name
        (final / name).write_bytes(source.read_bytes())
    weights = checkpoint.load_safetensors(final / "image_encoder.safetensors")
    state = {f"image_encoder.{name}": value for name, value in weights.items()}
    folder = along / "models/kept/simclr/chest"
    checkpoint.save_safetensors(folder / "a.safetensors", {**state, "head.x": torch.zeros(2)})
    row = {"file": "a.safetensors", "step": 5, "val_loss": 1.5}
    files.write_json(folder / "kept.json", {"states": [row]})
    result = tiny.run("simclr", "chest", "rsna", stage=trajectory)
    assert result.exit_code == 0, result.output
    text = (along / "metrics/trajectory/simclr.csv").read_text()
    assert text.splitlines()[1].startswith("5,1.5,") and text.endswith(",\n")


def test_what_is_missing_is_named(along: Path) -> None:
    result = tiny.run("siglip", "chest", "rsna", stage=trajectory)
    assert result.exit_code == 1 and "dvc repro pretrain@siglip-chest" in result.output


# ------------------------------------------------------------------------------ the parameters
def test_a_trajectory_needs_kept_states(default_params: dict[str, Any]) -> None:
    set_key(default_params, "ablation.trajectory", ["convirt"])
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    (problem,) = caught.value.problems
    assert problem.key == "train.keep_every"
    set_key(default_params, "objectives.convirt", {"train": {"keep_every": 2}})
    parse(default_params)
