"""The objective that docs/objectives.md writes: short, and it trains, resumes and learns."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from conftest import ROOT
from tiny_models import CONFIG

from convirt import objectives

PAGE = (ROOT / "docs/objectives.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def vse(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The page's file, as if it were among the other objectives."""
    found = re.search(r"## Write one.*?```python\n(.*?)```", PAGE, re.S)
    assert found is not None
    source = found[1]
    assert len(source.splitlines()) < 60
    module = types.ModuleType("convirt.objectives.vse")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "vse.py", "exec"), module.__dict__)
    known = objectives.available()
    monkeypatch.setattr(objectives, "available", lambda: [*known, "vse"])
    yield module


def test_it_trains_and_resumes(bert: Path, tmp_path: Path) -> None:
    whole = tiny_models.train("vse", bert)
    assert set(whole[1].history[1]) >= {"train_loss", "val_loss", "first", "chance"}
    model, result, _ = tiny_models.killed_and_resumed("vse", bert, CONFIG, tmp_path, [7])
    tiny_models.assert_same_run(whole, (model, result))


def test_its_loss_falls(bert: Path) -> None:
    config = replace(CONFIG, lr=3e-3, eval_every=20, evaluations=3)
    _, result = tiny_models.train("vse", bert, config, options={"margin": 0.5})
    losses = [row["train_loss"] or 0.0 for row in result.history[1:]]
    assert losses[-1] < losses[0]


def test_its_loss_at_a_closed_form(vse: types.ModuleType) -> None:
    v = torch.eye(3)
    assert float(vse.vse_loss(v, v, 0.2)) == 0.0
    assert float(vse.vse_loss(v, v[[1, 2, 0]], 0.2)) == pytest.approx(2 * 1.2)
