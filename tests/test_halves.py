"""Image and text halves computed side by side: the same bits as one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import process_runs
import pytest
import tiny_models
import torch
from conftest import ROOT
from process_runs import with_batches
from tiny_models import CONFIG, assert_same_run, gradients
from torch import Tensor, nn

from convirt import devices, halves
from convirt.halves import Halves, side_by_side
from convirt.objectives.base import Inputs, Objective

CPU = torch.device("cpu")
SEPARABLE = ("convirt", "convirt_soft", "siglip", "binary")
OTHERS = sorted(process_runs.OPTIONS.keys() - set(SEPARABLE))


@pytest.fixture(autouse=True)
def several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cores", lambda: 2 * torch.get_num_threads())


def state(objective: Objective) -> dict[str, Tensor]:
    """Gradients, buffers, and the state of torch's generator."""
    buffers = {n: b.clone() for n, b in objective.named_buffers()}
    return {**gradients(objective), **buffers, "generator": torch.get_rng_state()}


def assert_same_steps(one: Objective, batches: list[Inputs], found: Halves) -> None:
    """Each batch adds the same bits to the gradients as one graph of both halves does."""
    for number, inputs in enumerate(batches):
        torch.manual_seed(number)
        loss, logs = one(inputs)
        loss.backward()
        wanted = state(one)
        torch.manual_seed(number)
        other_loss, other_logs = found.backward(inputs)
        assert other_loss.item() == loss.item() and not other_loss.requires_grad
        assert {n: float(x) for n, x in other_logs.items()} == {
            n: float(x) for n, x in logs.items()
        }
        mine = state(found.objective)
        assert mine.keys() == wanted.keys() and len(mine) > 6
        for key, value in wanted.items():
            assert torch.equal(mine[key], value), key


WIDTHS = r"""
import ctypes, re, torch
from convirt.halves import Halves
from convirt.provenance import make_deterministic

with open("/proc/self/maps") as maps:
    loaded = {line.split()[-1] for line in maps if re.search(r"/libg?omp[-.\w]*\.so", line)}

def widths():
    return [ctypes.CDLL(name).omp_get_max_threads() for name in sorted(loaded)]

make_deterministic(1, 0)
print(widths(), Halves(None)._pool.submit(widths).result())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_both_halves_have_the_threads_asked_for() -> None:
    """And not as many as the machine has cores, which the environment of these tests forbids."""
    done = subprocess.run(
        [sys.executable, "-c", WIDTHS],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[1] [1]", done.stderr


@pytest.mark.parametrize("name", SEPARABLE)
def test_same_bits(name: str, bert: Path) -> None:
    (one, batches), (other, _) = with_batches(name, bert, 3), with_batches(name, bert, 3)
    found = side_by_side(other, CPU, CONFIG)
    assert found is not None
    assert_same_steps(one, batches, found)
    assert found.apart


def test_an_image_half_that_draws_goes_first(bert: Path) -> None:
    (one, batches), (other, _) = with_batches("convirt", bert, 3), with_batches("convirt", bert, 3)
    for objective in (one, other):
        model: Any = objective.model
        model.image_encoder = nn.Sequential(model.image_encoder, nn.Dropout(0.5))
    found = side_by_side(other, CPU, CONFIG)
    assert found is not None
    assert_same_steps(one, batches, found)
    assert found.apart is False


def test_a_run_is_the_same_on_any_number_of_cores(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[bool | None] = []
    usual = Halves.backward

    def noted(self: Halves, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        result = usual(self, *args, **kwargs)
        steps.append(self.apart)
        return result

    monkeypatch.setattr(Halves, "backward", noted)
    several = tiny_models.train("convirt", bert, CONFIG)
    assert steps and all(steps)
    again = tiny_models.killed_and_resumed("convirt", bert, CONFIG, tmp_path, [3, 10])
    monkeypatch.setattr(devices, "cores", lambda: torch.get_num_threads())
    count = len(steps)
    alone = tiny_models.train("convirt", bert, CONFIG)
    assert len(steps) == count
    assert_same_run(several, alone)
    assert_same_run(several, again[:2])


def test_a_thread_that_is_idle_is_used(bert: Path) -> None:
    objective, batches = with_batches("convirt", bert, 3)
    found = Halves(objective)
    done: list[int] = []
    for number, inputs in enumerate(batches):
        found.backward(inputs, partial(done.append, number))
    assert done == [1, 2]  # the first batch shows whether the halves can be separated


@pytest.mark.parametrize("name", OTHERS)
def test_objectives_without_halves(name: str, bert: Path) -> None:
    assert side_by_side(with_batches(name, bert)[0], CPU, CONFIG) is None


def test_where_it_does_not_pay(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, _ = with_batches("convirt", bert, 3)
    for other in ({"compile": True}, {"chunk": 2}, {"precision": "bfloat16"}):
        assert side_by_side(objective, CPU, replace(CONFIG, **other)) is None
    assert side_by_side(objective, torch.device("cuda"), CONFIG) is None
    monkeypatch.setattr(devices, "cores", lambda: 2 * torch.get_num_threads() - 1)
    assert side_by_side(objective, CPU, CONFIG) is None


def test_an_objective_that_embeds_otherwise(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, _ = with_batches("convirt", bert, 3)
    other = type("Other", (type(objective),), {"embed": lambda self, inputs: self.v(inputs)})
    objective.__class__ = other
    assert side_by_side(objective, CPU, CONFIG) is None


def test_an_error_of_either_half_is_told(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, batches = with_batches("convirt", bert, 3)
    found = halves.Halves(objective)
    found.backward(batches[0])

    def broken(inputs: Inputs) -> Tensor:
        raise ValueError("broken half")

    for half in ("v", "u"):
        with monkeypatch.context() as patch:
            patch.setattr(objective, half, broken)
            with pytest.raises(ValueError, match="broken half"):
                found.backward(batches[1])
