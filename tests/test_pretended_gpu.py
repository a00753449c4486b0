"""Training on a pretended GPU: nothing that a GPU would refuse, and no step that waits for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_trajectory
import test_transfer_stages as tiny
import tiny_models
import torch
import torch.nn.functional as F
from pretended_gpu import Waits, pretended
from process_runs import OPTIONS
from test_chunks import DIVISIBLE
from test_gpu import curve
from test_transfer import RECIPE, Encoder, split
from tiny_models import CONFIG, PAPER
from torch import Tensor, nn

from convirt import devices, image_encoder, resident, transfer
from convirt.labelled import Source, features
from convirt.objectives.base import Objective, find
from convirt.schedule import TrainConfig
from convirt.training import Result, pretrain, resumed_step
from stages import finetune, retrieve, trajectory, zeroshot

pytestmark = pytest.mark.usefixtures("deterministic")  # torch takes other code paths on a GPU then

repo, pair, along = tiny.repo, tiny.pair, test_trajectory.along  # fixtures


# ------------------------------------------------------------------------------ the pretence
@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: y @ x,
        lambda x, y: torch.where(y > 0, x, y),
        lambda x, y: torch.cat([x, y]),
        lambda x, y: x.index_select(0, torch.arange(2)),
        lambda x, y: nn.Linear(3, 3)(x),
    ],
)
def test_two_devices_are_refused(
    mix: Callable[[Tensor, Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = torch.ones(3, 3), torch.ones(3, 3)
    mix(x, y)
    with pretended(monkeypatch):
        there = x.to("cuda")
        with pytest.raises(RuntimeError, match="two devices"):
            mix(there, y)
        assert mix(x, y).device.type == "cpu"


@pytest.mark.parametrize(
    "read",
    [
        float,
        lambda x: x.cpu(),
        lambda x: x.reshape(1).tolist(),
        lambda x: x.reshape(1)[x.reshape(1) > 0],
        lambda x: x + torch.ones(2).to(x.device),
        lambda x: x + torch.ones(2).to(x.device, non_blocking=True),
        lambda x: x.reshape(1)[torch.zeros(1, dtype=torch.int64)],
        lambda x: x.copy_(torch.zeros(())),
        lambda x: bool(x > 0),
        lambda x: x.reshape(1).nonzero(),
    ],
)
def test_waits_are_noted(read: Callable[[Tensor], object], monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(monkeypatch) as waits:
        x = torch.ones((), device="cuda")
        (x * 2 + torch.arange(3, device=x.device)).sum()
        x + devices.sent(torch.ones(2), "cuda")
        x.copy_(torch.zeros(()), non_blocking=True)
        assert not waits.places
        read(x)
        assert len(waits.places) == 1


def test_undetermined_operations_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(monkeypatch):
        x = torch.zeros(1, 1, 4, 4, device="cuda", requires_grad=True)
        y = F.grid_sample(x, torch.zeros(1, 8, 8, 2, device="cuda"), align_corners=False)
        with pytest.raises(RuntimeError, match="deterministic"):
            y.sum().backward()


def test_gradients_and_views_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(device: str) -> list[Tensor]:
        x = torch.arange(12.0).view(3, 4).to(device)
        x[1:, :2].mul_(3)
        w = x.clone().requires_grad_()
        (w.t().unsqueeze(0) ** 2)[:, 1:].sum().backward()
        assert w.grad is not None and w.grad.device.type == device
        return [x.cpu(), w.grad.cpu()]

    with pretended(monkeypatch):
        found = run("cuda")
    for one, other in zip(found, run("cpu"), strict=True):
        assert torch.equal(one, other)


# ------------------------------------------------------------------------------ pretraining
def fresh(name: str, bert: Path, config: TrainConfig) -> Objective:
    """An objective in its initial state."""
    data = tiny_models.corpus()
    return tiny_models.objective(name, bert, data, config=config, options=OPTIONS[name])


def run(
    model: Objective,
    config: TrainConfig,
    waits: Waits,
    scratch: Path | None = None,
    stop: int = 0,
    store: str = "gpu",
) -> tuple[Result | None, list[int]]:
    """A pretraining there, and how many waits each step but the first had. It dies after `stop`."""
    data = tiny_models.corpus()
    data.images = resident.placed(np.asarray(data.images), store, "cuda")
    seen = []

    def report(status: dict[str, float]) -> None:
        seen.append(len(waits.places))
        if status["step"] == stop:
            raise KeyboardInterrupt

    result = None
    try:
        result = pretrain(model, data, PAPER, config, scratch, report, "cuda")
    except KeyboardInterrupt:
        assert stop
    return result, np.diff(seen).tolist()


SHORT = replace(CONFIG, evaluations=2)  # each operation costs, and steps repeat themselves
# where the films are concerns no objective; two feed from memory, one of them films alone
STORED = [*((name, "gpu") for name in sorted(OPTIONS)), ("convirt", "ram"), ("simclr", "ram")]


@pytest.mark.parametrize(("name", "store"), STORED)
def test_steps_wait_for_nothing_but_their_logs(
    name: str, store: str, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pretended(monkeypatch) as waits:
        result, waited = run(fresh(name, bert, SHORT), SHORT, waits, store=store)
    _, wanted = tiny_models.train(name, bert, SHORT, options=OPTIONS[name])
    assert np.allclose(curve(result), curve(wanted), rtol=1e-3)
    every = (SHORT.eval_every, SHORT.checkpoint_every)
    for step, count in enumerate(waited, 2):
        told = any(step % n == 0 for n in every)
        assert bool(count) == told, (step, waits.places)


@pytest.mark.parametrize("changes", [{"cache_frozen": False}, {"chunk": 2}, {"optimiser": "sgd"}])
@pytest.mark.parametrize("name", DIVISIBLE)
def test_other_ways_of_a_step(
    name: str, changes: dict[str, Any], bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(SHORT, **changes)
    with pretended(monkeypatch) as waits:
        result, waited = run(fresh(name, bert, config), config, waits)
    _, wanted = tiny_models.train(name, bert, config, options=OPTIONS[name])
    assert np.allclose(curve(result), curve(wanted), rtol=1e-3)
    assert not waited[0] and waited[1]  # the second and the third step


@pytest.mark.parametrize("name", ["convirt", "moco_v2"])
def test_killed_there_and_resumed(
    name: str, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, evaluations=3)
    with pretended(monkeypatch) as waits:
        whole, again = (fresh(name, bert, config) for _ in range(2))
        result, _ = run(whole, config, waits)
        run(fresh(name, bert, config), config, waits, tmp_path, stop=8)
        assert resumed_step(tmp_path) == 6
        resumed, _ = run(again, config, waits, tmp_path)
        assert np.array_equal(curve(resumed), curve(result))
        for key, value in whole.state_dict().items():
            assert torch.equal(value.cpu(), again.state_dict()[key].cpu()), key


@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet"])
def test_networks_of_timm(architecture: str, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, config = image_encoder.create_image_encoder(architecture, "random", 32, 0)
    parts = tiny_models.parts(bert, tiny_models.corpus())
    objective = find("convirt")(replace(parts, image=encoder, image_config=config))
    with pretended(monkeypatch) as waits:
        result, waited = run(objective, SHORT, waits)
    assert not waited[0] and waited[1]  # the second and the third step
    assert np.isfinite(curve(result)).all()


# ------------------------------------------------------------------------------ transfer
def transferred(protocol: str, device: str, waits: Waits | None = None) -> np.ndarray:
    """Validation losses of a transfer; no step of the main phase may wait."""
    recipe = replace(RECIPE, protocol=protocol, device=device)
    images = replace(split(48, 0), device=device)
    images = replace(images, pixels=resident.placed(np.asarray(images.pixels), "auto", device))
    classifier = transfer.Classifier(Encoder(), 6, 1, recipe).to(device)
    model: nn.Module = classifier
    data: Source = images
    if protocol == "linear":
        model, data = classifier.head, features(classifier.encoder, images)
    outcome = transfer.transfer(model, data, data, recipe)
    if waits:
        optimiser = torch.optim.Adam(model.parameters(), fused=True)
        before = len(waits.places)
        for _ in range(3):
            transfer.step(model, data, np.arange(16), optimiser, recipe, 0)
        assert len(waits.places) == before, waits.places[before:]
        transfer.predict(model, data)
        assert len(waits.places) == before + 1
    return np.array([score.minus_loss for score in outcome.history])


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
def test_transfer(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended(monkeypatch) as waits:
        found = transferred(protocol, "cuda", waits)
    assert np.allclose(found, transferred(protocol, "cpu"), rtol=1e-4)


def test_exact_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def probed(device: str) -> tuple[transfer.Choice, np.ndarray]:
        recipe = replace(RECIPE, protocol="linear", device=device, dropout=0.0)
        images = replace(split(48, 0), device=device)
        data = features(Encoder().to(device), images)
        head = transfer.linear_head(6, 1, recipe).to(device)
        choice = transfer.probe(head, data, data, recipe, [1e-3, 1e-1])
        return choice, transfer.predict(head, data).numpy()

    with pretended(monkeypatch):
        choice, logits = probed("cuda")
    wanted, others = probed("cpu")
    assert choice.l2 == wanted.l2 and np.allclose(logits, others, atol=1e-4)


def test_encoding_of_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    network, config = image_encoder.create_image_encoder("test_efficientnet", "random", 32, 0)
    images = np.random.default_rng(0).integers(0, 256, (20, 24, 24)).astype(np.uint8)
    rows = np.arange(0, 20, 2)
    wanted = np.concatenate([*image_encoder.encoded(images, rows, network, config, "cpu")])
    with pretended(monkeypatch):
        blocks = image_encoder.encoded(images, rows, network.to("cuda"), config, "cuda")
        found = np.concatenate([*blocks])
    assert np.allclose(found, wanted, atol=1e-5)


# ------------------------------------------------------------------------------ stages
PROBES: list[tuple[Any, tuple[str, ...]]] = [  # which have a solver
    (finetune, ("covidx", "convirt", "50", "linear")),
    (trajectory, test_trajectory.ARGUMENTS),
]
OTHERS: list[tuple[Any, tuple[str, ...]]] = [
    (finetune, ("rsna", "imagenet", "50", "finetune")),
    (retrieve, ("convirt",)),
    (zeroshot, ("rsna", "convirt")),
]


def fractions(value: Any, name: str) -> dict[str, float]:
    """The fractional numbers in a JSON value, by their place in it."""
    if isinstance(value, dict):
        parts = [fractions(part, f"{name} {key}") for key, part in value.items()]
        return {key: number for part in parts for key, number in part.items()}
    return {name: value} if isinstance(value, float) else {}


@pytest.mark.parametrize(
    ("solver", "stages"), [("adam", PROBES + OTHERS), ("lbfgs", PROBES)], ids=["adam", "lbfgs"]
)
def test_stages(
    along: Path,
    solver: str,
    stages: list[tuple[Any, tuple[str, ...]]],
    monkeypatch: pytest.MonkeyPatch,
    write_params: Callable[..., Path],
) -> None:
    def made_on(device: str) -> dict[str, float]:
        tiny.change(along, "compute.device", device, write_params)
        for stage, arguments in stages:
            result = tiny.run(*arguments, stage=stage)
            assert result.exit_code == 0, (result.output, result.exception)
        written = sorted((along / "metrics").rglob("*.json"))
        found = {path.name: json.loads(path.read_text()) for path in written}
        points = pd.read_csv(along / "metrics/trajectory/convirt.csv").to_dict("index")
        return fractions(found | {"trajectory": {str(k): v for k, v in points.items()}}, "")

    tiny.change(along, "finetune.linear.solver", solver, write_params)
    tiny.change(along, "finetune.linear.l2", [1.0, 10.0], write_params)  # soon solved
    with pretended(monkeypatch):
        found = made_on("cuda")
    wanted = made_on("cpu")
    assert found.keys() == wanted.keys() and len(found) > 20
    assert found == pytest.approx(wanted, abs=1e-3)
