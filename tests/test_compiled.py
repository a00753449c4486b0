"""Encoders that torch has compiled: the losses of the others, and a killed run's last bits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_models import CONFIG, assert_same_run

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"
)


def test_compiled_encoders_learn_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few shapes: of sentences of up to 24 words two lengths are compiled, in two modes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    bert = tiny_models.write_bert(tmp_path / "bert", dropout=0.0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    config = replace(CONFIG, compile=True)
    compiled = tiny_models.train("convirt", bert, config)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert 4 <= counters["stats"]["unique_graphs"] <= 8
    plain = tiny_models.train("convirt", bert, CONFIG)
    for ours, theirs in zip(compiled[1].history, plain[1].history, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
    killed = tiny_models.killed_and_resumed("convirt", bert, config, tmp_path / "state", [6])
    assert_same_run(compiled, killed[:2])
