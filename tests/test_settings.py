"""No parameter is ignored: each one that a stage declares is handed to the code that trains.

What that code does with it is tested where that code is (test_training, test_augment, ...).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from conftest import set_key
from test_pretrain_kill import SIDE, write_params, write_store
from typer.testing import CliRunner

from convirt import params, training
from convirt.errors import StoppedError
from convirt.objectives.base import find
from convirt.params import Params
from stages import _protocols, finetune, pretrain
from stages._protocols import Protocol
from stages._stopping import RESUMABLE

# Another value for each parameter of pretraining.
PRETRAINING: dict[str, Any] = {
    "seed": 7,
    "compute.threads": 2,
    "model.image.architecture": "test_efficientnet",
    "model.image.size": SIDE + 8,
    "model.text.frozen_layers": 2,
    "model.text.max_tokens": 9,
    "model.text.cache_frozen": False,
    "model.projection.dim": 7,
    "model.projection.hidden": 5,
    "model.projection.layers": 1,
    "augment.crop": [0.7, 0.9],
    "augment.flip": 0.3,
    "augment.degrees": 1.0,
    "augment.translate": 0.2,
    "augment.scale": [0.9, 1.1],
    "augment.brightness": 0.1,
    "augment.contrast": 0.1,
    "augment.blur_sigma": [0.2, 0.3],
    "augment.blur_kernel": 5,
    "train.lr": 0.25,
    "train.weight_decay": 0.125,
    "train.batch_size": 3,
    "train.tau": 0.3,
    "train.lam": 0.6,
    "train.eval_every": 11,
    "train.evaluations": 3,
    "train.max_passes": 77,
    "train.warmup": 3,
    "train.schedule": "plateau",
    "train.patience": 2,
    "train.factor": 0.7,
    "train.milestones": [0.3, 0.4],
    "train.optimiser": "sgd",
    "train.keep_every": 3,
    "train.checkpoint_every": 4,
    "train.chunk": 2,
    "objectives.convirt": {"train": {"tau": 0.4}},
}
ELSEWHERE = {
    "compute.device": "test_gpu, test_pretended_gpu",
    "compute.store": "test_resident",
    "compute.precision": "below, since it needs a GPU",
    "compute.graphs": "likewise",
    "compute.compile": "likewise: torch would compile for a minute",
    "model.image.weights": "test_encoders",
    "model.text.weights": "test_encoders",
    "train.launcher": "test_processes: it starts the stage",
}


def leaves(value: Any, key: str) -> Iterator[str]:
    """Dotted names of all values below `key`."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from leaves(inner, f"{key}.{name}")
    else:
        yield key


def declared_by(reads: list[str], values: dict[str, Any], **names: str) -> set[str]:
    """Dotted names of all parameters that a stage declares."""
    found = set()
    for pattern in reads:
        key = pattern.format(**names)
        value: Any = values
        for part in key.split("."):
            value = value[part]
        found |= set(leaves(value, key))
    return found


def test_every_parameter_of_pretraining_is_in_the_list(committed_params: dict[str, Any]) -> None:
    declared = declared_by(pretrain.READS, committed_params, objective="convirt")
    assert declared == PRETRAINING.keys() | ELSEWHERE.keys()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a text encoder; the code is imported from here."""
    root = tmp_path_factory.mktemp("settings")
    tiny_models.write_bert(root / "bert")
    write_store(root / "data/stores/chest", 32)
    return root


@pytest.fixture
def given(
    project: Path, committed_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    """Runs the stage with one parameter changed, up to its first step; returns what it trains."""
    monkeypatch.chdir(project)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    seen: list[str] = []

    def note(objective: Any, data: Any, spec: Any, config: Any, *rest: Any) -> None:
        model = objective.model
        weights = {
            name: (p.requires_grad, list(p.shape), float(p.detach().double().abs().sum()))
            for name, p in model.named_parameters()
        }
        options = {k: v for k, v in vars(model.tokenizer).items() if isinstance(v, int | float)}
        told = [
            dataclasses.asdict(config),
            dataclasses.asdict(spec),
            dataclasses.asdict(model.image_config),
            weights,
            options,
            torch.get_num_threads(),
        ]
        seen.append(json.dumps(told))
        raise StoppedError

    def run(**changes: Any) -> str:
        write_params(project, committed_params, **changes)
        result = CliRunner().invoke(pretrain.app, ["convirt", "chest"])
        assert result.exit_code == RESUMABLE, result.output
        return seen.pop()

    threads = torch.get_num_threads()
    monkeypatch.setattr(training, "pretrain", note)
    yield run
    torch.set_num_threads(threads)


def test_every_parameter_reaches_pretraining(given: Any) -> None:
    usual = given()
    assert usual == given()
    ignored = [key for key, value in PRETRAINING.items() if given(**{key: value}) == usual]
    assert not ignored


def on_a_gpu(values: dict[str, Any], **changes: Any) -> Params:
    """Parameters that ask for a GPU, which need not be there."""
    for key, value in {"compute.device": "cuda", **changes}.items():
        set_key(values, key, value)
    return params.parse(values)


@pytest.mark.parametrize("name", ["precision", "graphs", "compile"])
def test_how_a_gpu_computes_reaches_pretraining(name: str, default_params: dict[str, Any]) -> None:
    value = {"precision": "bfloat16"}.get(name, True)
    p = on_a_gpu(default_params, **{f"compute.{name}": value})
    config, reason = pretrain._config(p, params.pretraining(p, "convirt"), find("convirt"))
    assert getattr(config, name) == value and reason is None


# Another value for each parameter of a transfer run, and what becomes of it.
TRANSFER: dict[str, tuple[Any, str, Any]] = {
    "seed": (7, "seed", 7 * _protocols.APART + 2),
    "compute.device": ("cuda", "device", "cuda"),
    "compute.precision": ("bfloat16", "bfloat16", True),
    "tasks.rsna.kind": ("multilabel", "kind", "multilabel"),
    "tasks.rsna.metric": ("accuracy", "metric", "accuracy"),
    "tasks.rsna.lr": (0.25, "lr", 0.25),
    "finetune.batch_size": (3, "batch_size", 3),
    "finetune.weight_decay": (0.125, "weight_decay", 0.125),
    "finetune.dropout": (0.3, "dropout", 0.3),
    "finetune.patience": (7, "patience", 7),
    "finetune.factor": (0.7, "factor", 0.7),
    "finetune.stop": (99, "stop", 99),
    "finetune.finetune.head_steps": (5, "head_steps", 5),
    "finetune.finetune.head_lr": (0.5, "head_lr", 0.5),
    "finetune.finetune.max_epochs": (6, "max_epochs", 6),
    "finetune.linear.max_epochs": (8, "max_epochs", 8),
}


TRANSFER_ELSEWHERE = {
    "compute.store": "test_resident",
    "compute.threads": "test_linear_stage",
    "model.baselines": "test_transfer_stages: whose folder is read",
    "tasks.rsna.corpus": "likewise",
    "tasks.rsna.labels": "test_transfer_stages",
    "tasks.rsna.unit": "test_transfer_stages",
    "finetune.bootstrap": "test_transfer_stages",
    "finetune.finetune.repeats": "test_transfer_stages",
    "finetune.finetune.repeats_at": "test_transfer_stages",
    "finetune.linear.repeats": "test_linear_stage",
    "finetune.linear.solver": "test_linear_stage",
    "finetune.linear.l2": "test_linear_stage",
}


def test_every_parameter_of_a_transfer_run_is_in_the_list(committed_params: dict[str, Any]) -> None:
    declared: set[str] = set()
    for protocol in Protocol:
        names = {"task": "rsna", "protocol": protocol.value}
        declared |= declared_by(finetune.READS, committed_params, **names)
    assert declared == TRANSFER.keys() | TRANSFER_ELSEWHERE.keys()


@pytest.mark.parametrize("key", TRANSFER)
@pytest.mark.parametrize("protocol", [str(one) for one in Protocol])
def test_every_parameter_reaches_a_transfer_run(
    key: str, protocol: str, default_params: dict[str, Any]
) -> None:
    value, field, wanted = TRANSFER[key]
    before = params.parse(default_params)
    usual = _protocols.recipe(before, before.tasks["rsna"], protocol, 2)
    p = on_a_gpu(default_params, **{key: value})
    found = _protocols.recipe(p, p.tasks["rsna"], protocol, 2)
    others = {str(one) for one in Protocol} - {protocol}
    foreign = any(f".{other}." in key for other in others)
    expected = getattr(usual, field) if foreign else wanted
    assert getattr(found, field) == expected
    assert foreign or getattr(usual, field) != wanted
