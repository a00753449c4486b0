"""Penalised logistic regression against scikit-learn, and the penalty that is chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from test_transfer import RECIPE, Encoder, split
from torch import Tensor

from convirt import logistic, transfer
from convirt.errors import InputError
from convirt.labelled import features
from convirt.logistic import solutions
from convirt.recipe import Score

LINEAR = replace(RECIPE, protocol="linear")
GRID = (0.001, 0.01, 0.1, 1.0, 10.0)


def made_up(kind: str, n: int = 60, d: int = 7) -> tuple[Tensor, Tensor]:
    """Features of very different scales, and noisy labels: (n, d) and (n, 1 or 3)."""
    rng = np.random.default_rng(0)
    h = rng.normal(size=(n, d)) * np.logspace(-2, 1, d) + 5
    score = (h - 5) @ rng.normal(size=(d, 3)) / 5 + rng.gumbel(size=(n, 3))
    if kind == "multiclass":
        y = np.eye(3)[score.argmax(axis=1)]
    else:
        y = (score > np.median(score, axis=0)).astype(float)[:, : 1 if kind == "binary" else 3]
    return torch.tensor(h, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


def reference(h: Tensor, y: Tensor, kind: str, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias that scikit-learn finds."""
    x = h.double().numpy()
    mean = x.mean(axis=0)
    scale = np.sqrt(np.square(x - mean).mean())
    x = (x - mean) / scale
    model: Any = LogisticRegression(C=1 / (len(x) * l2), tol=1e-10, max_iter=100_000)
    targets = [y.numpy().argmax(axis=1)] if kind == "multiclass" else list(y.numpy().T)
    fits = [model.fit(x, target) and (model.coef_, model.intercept_) for target in targets]
    weight, bias = (np.concatenate(parts) for parts in zip(*fits, strict=True))
    return weight / scale, bias - weight @ mean / scale


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass"])
def test_the_minimum_is_that_of_scikit_learn(kind: str) -> None:
    h, y = made_up(kind)
    found = list(solutions(h, y, kind, GRID))
    assert [s.l2 for s in found] == sorted(GRID, reverse=True)  # whatever the order asked for
    for solution in found:
        weight, bias = reference(h, y, kind, solution.l2)
        logits = h.double().numpy() @ weight.T + bias
        mine = (h @ solution.weight.T + solution.bias).numpy()
        if kind == "multiclass":  # a number added to all classes changes nothing
            logits, mine = (x - x.mean(axis=1, keepdims=True) for x in (logits, mine))
        assert np.allclose(mine, logits, atol=2e-3), solution.l2


def test_size_and_origin_of_the_features_do_not_matter() -> None:
    h, y = made_up("binary")
    (one,) = solutions(h, y, "binary", [0.1])
    (other,) = solutions(h * 1000 - 7, y, "binary", [0.1])
    plain, moved = (x @ s.weight.T + s.bias for x, s in ((h, one), (h * 1000 - 7, other)))
    assert torch.allclose(plain, moved, atol=1e-2)


def test_features_that_never_vary_leave_the_bias_alone() -> None:
    _, y = made_up("multilabel")
    (solution,) = solutions(torch.full((len(y), 4), 3.0), y, "multilabel", [0.1])
    share = torch.sigmoid(solution.bias)
    assert not solution.weight.any()
    assert torch.allclose(share, y.mean(dim=0), atol=1e-4)


def test_same_bytes_every_time() -> None:
    h, y = made_up("multiclass")
    one, two = (list(solutions(h, y, "multiclass", GRID)) for _ in range(2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)


def test_a_minimum_that_is_not_reached_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "MOST_STEPS", 2)
    h, y = made_up("binary")
    with pytest.raises(InputError, match=r"finetune\.linear\.l2"):
        list(solutions(h, y, "binary", [1e-6]))


def test_the_penalty_that_validates_best_is_chosen() -> None:
    encoder = Encoder()
    train, val = (features(encoder, split(n, seed)) for n, seed in ((24, 0), (40, 1)))
    head = transfer.linear_head(6, 1, LINEAR)
    choice = transfer.probe(head, train, val, LINEAR, GRID)
    scores = {}
    for l2 in GRID:
        alone = transfer.linear_head(6, 1, replace(LINEAR, seed=9))  # its draws have no effect
        transfer.probe(alone, train, val, LINEAR, [l2])
        scores[l2] = transfer.score(alone, val, LINEAR)
    assert scores[choice.l2] == max(scores.values())
    assert transfer.score(head, val, LINEAR).value == max(scores.values()).value
    assert choice.steps > 0


def test_of_equal_penalties_the_strongest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "score", lambda *rest: Score(0.5, -1.0))
    source = features(Encoder(), split(24, 0))
    head = transfer.linear_head(6, 1, LINEAR)
    assert transfer.probe(head, source, source, LINEAR, GRID).l2 == max(GRID)
