"""Recorded steps: equal to unrecorded ones, whatever shapes come, also after a kill.

There is no CUDA graph without a GPU. Here a stand-in runs the step again where a graph would be
replayed, on inputs copied to where the recorded step read them; `test_gpu.py` has the real one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from conftest import ROOT
from process_runs import OPTIONS
from tiny_models import CONFIG, assert_same_run, killed_and_resumed
from torch import Tensor

from convirt import devices, processes, recorded
from convirt.errors import InputError
from convirt.frozen_text import FrozenText
from convirt.objectives.base import find
from convirt.params import load, pretraining
from convirt.recorded import Step
from stages import pretrain

LONG = 20  # words, so that lengths are rounded up to 16 and to 32 tokens
GRAPHS = replace(CONFIG, graphs=True, eval_every=10)
RECORDABLE = ["convirt", "simclr", "siglip"]


class Again:
    """A stand-in that runs the step again.

    Attributes:
        takes: How many steps were recorded.
        replays: How many were replayed.
        names: What the objective logs beside its loss.
        device: Where the steps run.
    """

    takes = replays = 0
    names: tuple[str, ...] = ()
    device = "cpu"

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def new_pool(self) -> None:
        pass

    def side_by_side(self, halves: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, ...]:
        return tuple(half() for half in halves)

    def record(self, step: Callable[[], Step]) -> tuple[Step, Callable[[], None]]:
        Again.takes += 1
        made = {name: torch.zeros((), device=self.device) for name in ("", *self.names)}

        def replay() -> None:
            Again.replays += 1
            loss, logs = step()
            for name, value in {"": loss, **logs}.items():
                made[name].copy_(value)

        return (made[""], {name: made[name] for name in self.names}), replay


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorded, "Capture", Again)
    monkeypatch.setattr(Again, "takes", 0)
    monkeypatch.setattr(Again, "replays", 0)


def bucketed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs that record nothing leave the padding in as well."""
    usual: Any = FrozenText.__init__

    def padded(self: FrozenText, *args: Any) -> None:
        usual(self, *args[:3], 16)

    monkeypatch.setattr(FrozenText, "__init__", padded)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", RECORDABLE)
def test_recorded_steps_are_the_usual_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: None, name: str, kept: bool
) -> None:
    monkeypatch.setattr(Again, "names", ("scale", "bias") if name == "siglip" else ())
    bert = tiny_models.write_bert(tmp_path / "bert")
    config = replace(GRAPHS, cache_frozen=kept)
    ours = tiny_models.train(name, bert, config, words=LONG)
    lengths = 1 if name == "simclr" else 2
    # one shape, then the other, at which the first recording is given up, and both once more
    assert Again.takes == 2 * lengths - 1
    assert Again.replays == ours[1].steps - lengths
    bucketed(monkeypatch)
    usual = tiny_models.train(name, bert, replace(config, graphs=False), words=LONG)
    for row, other in zip(ours[1].history, usual[1].history, strict=True):
        for key, value in row.items():  # rates are of single precision
            assert value == (value and pytest.approx(other[key], rel=1e-3)), key

    again = killed_and_resumed(name, bert, config, tmp_path / "state", [13], words=LONG)
    assert_same_run(ours, again[:2])


def test_the_last_step_may_be_the_recorded_one(tmp_path: Path, capture: None) -> None:
    """Nothing is being loaded then that could be waited for."""
    bert = tiny_models.write_bert(tmp_path / "bert")
    config = replace(GRAPHS, eval_every=2, evaluations=1)
    assert tiny_models.train("convirt", bert, config)[1].steps == 2
    assert Again.takes == Again.replays == 1


@pytest.mark.parametrize("name", RECORDABLE)
def test_a_step_asks_nothing_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capture: None, name: str
) -> None:
    """What a recorded step sends to the GPU is sent at each replay, whatever it then holds."""
    monkeypatch.setattr(Again, "names", ("scale", "bias") if name == "siglip" else ())
    bert = tiny_models.write_bert(tmp_path / "bert")
    seen = []
    sent = devices.sent

    def noted(x: Tensor, device: torch.device) -> Tensor:
        seen.append(x)
        return sent(x, device)

    step = recorded.Recorder._step

    def checked(self: recorded.Recorder, inputs: Any) -> Step:
        before = len(seen)
        made = step(self, inputs)
        assert len(seen) == before
        return made

    for module in ("convirt.frozen_text", "convirt.devices"):
        monkeypatch.setattr(f"{module}.sent", noted)
    monkeypatch.setattr(recorded.Recorder, "_step", checked)
    tiny_models.train(name, bert, replace(GRAPHS, cache_frozen=False), words=LONG)
    assert Again.replays and (seen or name == "simclr")


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("binary", {}, "in each step"),
        ("moco_v2", {}, "in each step"),
        ("convirt", {"optimiser": "sgd"}, "sgd"),
        ("convirt", {"chunk": 2}, "train.chunk is 2"),
    ],
)
def test_what_cannot_be_recorded_is_refused(
    tmp_path: Path, name: str, changes: dict[str, Any], found: str
) -> None:
    bert = tiny_models.write_bert(tmp_path / "bert")
    data = tiny_models.corpus()
    config = replace(GRAPHS, **changes)
    model = tiny_models.objective(name, bert, data, config=config, options=OPTIONS[name])
    with pytest.raises(InputError, match=found):
        recorded.require_recordable(model, config)


def test_several_processes_are_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 4)
    assert recorded.obstacle(find("convirt"), GRAPHS) == "there are 4 processes"


@pytest.mark.parametrize(
    "profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_objective_of_a_profile_gets_what_it_can(profile: Path) -> None:
    """The paper's asks for graphs, and half of its objectives cannot be recorded."""
    params = load(profile)
    for name in params.objectives:
        kind = find(name)
        config, reason = pretrain._config(params, pretraining(params, name), kind)
        recorded_here = params.compute.graphs and name in RECORDABLE
        assert config.graphs == recorded_here, name
        assert bool(reason) == (params.compute.graphs and not recorded_here), name
        if config.graphs:
            assert recorded.obstacle(kind, config) is None


def test_the_paper_profile_asks_for_graphs() -> None:
    assert load(ROOT / "profiles/paper.yaml").compute.graphs


def test_objectives_that_can_be_recorded_are_named() -> None:
    names = [path.stem for path in (ROOT / "convirt/objectives").glob("[a-z]*.py")]
    told = [name for name in names if name != "base" and find(name).recordable]
    assert sorted(told) == sorted(RECORDABLE)


def test_the_rate_is_set_in_place() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    plain = torch.optim.Adam([weight], lr=0.1)
    recorded.set_rate(plain, 0.2)
    assert plain.param_groups[0]["lr"] == 0.2
    there = torch.tensor(0.1)
    held = torch.optim.Adam([weight], lr=there, fused=True, capturable=True)
    recorded.set_rate(held, 0.3)
    assert held.param_groups[0]["lr"] is there
    assert np.isclose(float(there), 0.3)


def test_the_corpus_has_the_boxes_and_splits_of_the_store() -> None:
    records = pd.DataFrame({"study": ["a", "b"], "split": ["train", "val"], "top": [1, 5]})
    records = records.assign(left=[2, 6], height=[3, 7], width=[4, 8])
    said = pd.DataFrame({"study": ["a", "b"], "sentence": ["x", "y"]})
    images = np.zeros((2, 9, 9), np.uint8)
    store: Any = SimpleNamespace(records=records, sentences=said, images=images)
    data = pretrain._corpus(store)
    assert data.boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert data.train.images.members.tolist() == [0] and data.val.images.members.tolist() == [1]
