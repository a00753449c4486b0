"""The loss against loops over the paper's equations, closed forms, and its gradients."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from objective_runs import embeddings
from torch import Tensor
from torch.nn.functional import normalize

from convirt import objectives
from convirt.errors import InputError
from convirt.objectives import base
from convirt.objectives.base import options_of
from convirt.objectives.convirt import convirt_loss


def slow_loss(v: Tensor, u: Tensor, tau: float, lam: float) -> float:
    """Equations 2, 3 and 4 of the paper, term by term."""

    def cosine(a: Tensor, b: Tensor) -> float:
        dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))

    n = len(v)
    total = 0.0
    for i in range(n):
        true = math.exp(cosine(v[i], u[i]) / tau)
        image_to_text = -math.log(true / sum(math.exp(cosine(v[i], u[k]) / tau) for k in range(n)))
        text_to_image = -math.log(true / sum(math.exp(cosine(u[i], v[k]) / tau) for k in range(n)))
        total += lam * image_to_text + (1 - lam) * text_to_image
    return total / n


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("lam", [0.0, 0.25, 0.75, 1.0])
def test_loss_is_that_of_the_equations(n: int, dim: int, tau: float, lam: float) -> None:
    v, u = embeddings(n, dim, seed=n)
    assert float(convirt_loss(v, u, tau, lam)) == pytest.approx(slow_loss(v, u, tau, lam), abs=1e-9)
    low = convirt_loss(v.float(), u.float(), tau, lam)
    assert float(low) == pytest.approx(slow_loss(v, u, tau, lam), abs=1e-5)


def test_directions_are_told_apart() -> None:
    """Every image points at text 0: its softmax over texts is sharp, that over images is flat."""
    v = torch.eye(3, dtype=torch.float64)[[0, 0, 0]]
    u = torch.eye(3, dtype=torch.float64)
    tau = 1 / math.log(7)  # exp(1 / tau) = 7
    image_to_text = (math.log(9 / 7) + 2 * math.log(9 / 1)) / 3
    assert float(convirt_loss(v, u, tau, 1.0)) == pytest.approx(image_to_text)
    assert float(convirt_loss(v, u, tau, 0.0)) == pytest.approx(math.log(3))
    mixed = 0.75 * image_to_text + 0.25 * math.log(3)
    assert float(convirt_loss(v, u, tau, 0.75)) == pytest.approx(mixed)


@pytest.mark.parametrize("n", [2, 7, 32])
@pytest.mark.parametrize("tau", [0.1, 1.0])
def test_equal_embeddings_are_at_chance(n: int, tau: float) -> None:
    one = normalize(torch.ones(1, 4, dtype=torch.float64), dim=-1).expand(n, 4)
    assert float(convirt_loss(one, one, tau, 0.75)) == pytest.approx(math.log(n))


def test_one_pair_costs_nothing() -> None:
    v, u = embeddings(1, 5)
    assert float(convirt_loss(v, u, 0.1, 0.75)) == 0.0


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.75])
def test_swapping_the_sides_swaps_the_weight(lam: float) -> None:
    v, u = embeddings(6, 4)
    forth, back = convirt_loss(v, u, 0.1, lam), convirt_loss(u, v, 0.1, 1 - lam)
    assert float(forth) == pytest.approx(float(back), abs=1e-12)
    assert float(forth) != pytest.approx(float(convirt_loss(u, v, 0.1, lam)), abs=1e-6)


def test_order_of_pairs_does_not_matter() -> None:
    v, u = embeddings(6, 4)
    order = torch.tensor([3, 1, 5, 0, 4, 2])
    expected = float(convirt_loss(v, u, 0.1, 0.75))
    assert float(convirt_loss(v[order], u[order], 0.1, 0.75)) == pytest.approx(expected)
    assert float(convirt_loss(v, u[order], 0.1, 0.75)) != pytest.approx(expected)


def test_gradient_is_that_of_the_definition() -> None:
    v, u = (x.requires_grad_() for x in embeddings(4, 3))
    assert torch.autograd.gradcheck(lambda a, b: convirt_loss(a, b, 0.1, 0.75), (v, u))


@pytest.mark.parametrize("lam", [0.0, 0.75, 1.0])
def test_gradient_reaches_every_embedding(lam: float) -> None:
    v, u = (x.requires_grad_() for x in embeddings(5, 4))
    convirt_loss(v, u, 0.1, lam).backward()
    for x in (v, u):
        assert x.grad is not None
        assert bool((x.grad.abs().sum(dim=1) > 0).all())


def test_loss_falls_under_plain_gradient_steps() -> None:
    raw = torch.nn.ParameterList(x.float() for x in embeddings(8, 6, seed=3))
    losses = []
    for _ in range(20):
        v, u = (normalize(x, dim=-1) for x in raw)
        loss = convirt_loss(v, u, 0.1, 0.75)
        losses.append(float(loss.detach()))
        raw.zero_grad()
        loss.backward()
        with torch.no_grad():
            for x in raw:
                assert x.grad is not None
                x -= 0.05 * x.grad
    assert all(later < before for before, later in pairwise(losses))
    assert losses[-1] < 0.5 * losses[0]


# ------------------------------------------------------------------------------ options
@dataclass(frozen=True)
class Settings:
    size: int
    share: float


def settings(**options: Any) -> Settings:
    return options_of(Settings, options)


def test_options_are_read() -> None:
    assert settings(size=3, share=0.5) == Settings(3, 0.5)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 3, "share": 0.5, "unheard": 1}, "unheard"),
        ({"size": 3}, "share"),
        ({"size": "3", "share": 0.5}, "size"),
        ({"size": 3.5, "share": 0.5}, "size"),
        ({"size": True, "share": 0.5}, "size"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=rf"options\.{named}\n"):
        settings(**options)


def test_faults_of_options_say_what_to_do() -> None:
    with pytest.raises(InputError) as caught:
        settings(size="3", shape=0.5)
    told = str(caught.value)
    assert "'3' (str)" in told and "write size as a number" in told
    assert "rename or remove shape" in told and "add share" in told
    assert told.count("see Options in convirt/objectives/test_objective.py") == 3


def own(name: str, text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Add an objective file; returns what is wrong with it."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(folder)])
    monkeypatch.setattr(objectives, "available", lambda: [name])
    try:
        base.find(name)
    except InputError as error:
        assert error.path == f"convirt/objectives/{name}.py" and "docs/objectives.md" in error.hint
        return error.found
    finally:
        sys.modules.pop(f"convirt.objectives.{name}")
    return ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no class of this name"),
        ("class Objective:\n    pass", "not derived from `base.Objective`"),
        ("class Objective(base.PairObjective):\n    pass", "neither `compare` nor `forward`"),
        ("class Objective(base.PairObjective):\n    def compare(self): ...", ""),
        ("class Objective(base.Objective):\n    def forward(self): ...", ""),
    ],
)
def test_files_that_define_no_objective(
    text: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = own("mine", f"from convirt.objectives import base\n{text}\n", tmp_path, monkeypatch)
    assert found in told and bool(found) == bool(told)
