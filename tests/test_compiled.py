"""Compiled encoders: the same losses as uncompiled ones, and the same bits after a kill."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import process_runs
import pytest
import tiny_models
import torch
from tiny_models import CONFIG, KilledError, assert_same_run, killed_at

from convirt.frozen_text import FrozenText
from convirt.text_encoder import Packing

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU"
)


LONG = 20  # words, so that lengths are rounded up to 16 and to 32 tokens


@pytest.mark.parametrize(
    ("name", "entries"), [("caption_lstm", 1), ("caption_transformer", 1), ("moco_v2", 2)]
)
def test_other_ways_into_an_encoder_are_compiled(
    name: str, entries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captioning calls the encoder up to its pooling, and MoCo has a second encoder."""
    bert = tiny_models.write_bert(tmp_path / "bert", dropout=0.0)
    compiled: set[int] = set()
    called: set[int] = set()

    def compile(function: Any, **_: Any) -> Any:
        compiled.add(number := len(compiled))

        def counted(*arguments: Any, **named: Any) -> Any:
            called.add(number)
            return function(*arguments, **named)

        return counted

    monkeypatch.setattr(torch, "compile", compile)
    config = replace(CONFIG, compile=True)
    tiny_models.train(name, bert, config, options=process_runs.OPTIONS[name])
    assert len(compiled) == len(called) == entries


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where compiled kernels are kept; at first none."""
    return tmp_path_factory.mktemp("kernels")


@pytest.mark.parametrize("kept", [True, False])
def test_compiled_encoders_learn_the_same(
    kernels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """One graph is compiled for each shape in each mode: films have two modes and one shape;
    sentences have two lengths, validation one of them; the text encoder's frozen half has no modes.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kernels))
    lengths = set()
    computed = FrozenText.__call__

    def noted(self: FrozenText, rows: np.ndarray) -> tuple[torch.Tensor, Packing]:
        hidden, packing = computed(self, rows)
        lengths.add(packing.mask.shape[1])
        return hidden, packing

    monkeypatch.setattr(FrozenText, "__call__", noted)
    bert = tiny_models.write_bert(tmp_path / "bert", layers=2, dropout=0.0)  # one in each half
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    usual = replace(CONFIG, cache_frozen=kept)
    config = replace(usual, compile=True)
    compiled = tiny_models.train("convirt", bert, config, words=LONG)
    model: Any = compiled[0]
    halves = model.image_encoder._compiled_call_impl, model.model.text_encoder.upper
    model.compile_encoders(config)  # a second time, which must change nothing
    assert halves == (model.image_encoder._compiled_call_impl, model.model.text_encoder.upper)
    counters = torch._dynamo.utils.counters
    assert lengths == {16, 32}
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == (2 + 3 if kept else 2 + 3 + 2)
    plain = tiny_models.train("convirt", bert, usual, words=LONG)
    for ours, theirs in zip(compiled[1].history, plain[1].history, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-4)
    with contextlib.suppress(KilledError):
        tiny_models.train("convirt", bert, config, tmp_path / "state", killed_at(6), words=LONG)
        raise AssertionError("no step 6")
    torch._dynamo.reset()  # as another process, which has seen no shape yet
    again = tiny_models.train("convirt", bert, config, tmp_path / "state", words=LONG)
    assert_same_run(compiled, again)
