"""Pretraining by several processes, each objective in turn; the first saves what it ends with."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import tiny_models
import torch
from torch import Tensor, nn

from convirt import checkpoint, devices, processes
from convirt.feed import Feed
from convirt.objectives.base import Inputs, Objective
from convirt.training import pretrain

# no dropout (each process draws its own) and no BatchNorm (on a CPU it covers one process's part)
CAPTIONS = {"max_tokens": 12, "dropout": 0.0, "width": 8}
TRANSFORMER = {"layers": 1, "heads": 2, "feed_forward": 8, "memory": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "convirt": {},
    "convirt_soft": {},
    "siglip": {"scale": 10.0, "bias": -1.0},
    "binary": {"hidden": 0},
    "simclr": {},
    "moco_v2": {"queue": 12, "momentum": 0.9, "groups": 1},
    "report_labels": {"vocabulary": {"tiny": "chexpert"}, "uncertain": "ignore"},
    "caption_lstm": {**CAPTIONS, "doubly_stochastic": 1.0},
    "caption_transformer": {**CAPTIONS, **TRANSFORMER},
}
# plain steps: Adam would magnify gradients that are zero but for rounding
CONFIG = replace(tiny_models.CONFIG, optimiser="sgd", lr=0.02, weight_decay=0.0)
BATCH = CONFIG.batch_size
KILLED = 7  # between two saved states


def fresh(name: str, bert: Path) -> Objective:
    """An objective in its initial state."""
    data = tiny_models.corpus()
    objective = tiny_models.objective(name, bert, data, config=CONFIG, options=OPTIONS[name])
    for module in list(objective.modules()):
        if isinstance(module, tiny_models.TinyImageEncoder):
            module.norm = nn.Identity()  # type: ignore[assignment]
    return objective


def with_batches(name: str, bert: Path, count: int = 1) -> tuple[Objective, list[Inputs]]:
    """An objective in training mode, with BatchNorm and dropout, and batches of 8 pairs."""
    data, config = tiny_models.corpus(), replace(tiny_models.CONFIG, batch_size=8)
    objective = tiny_models.objective(name, bert, data, config=config, options=OPTIONS[name])
    feed = Feed(data, tiny_models.PAPER, config, objective.train(), torch.device("cpu"))
    return objective, [inputs for _, inputs, _ in feed.steps(0, count)]


def run(
    name: str,
    bert: Path,
    scratch: Path | None = None,
    chunk: int = 0,
    killed: int | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state after the last step, even if another was the best, and the facts of the result.

    With `killed`, it raises a `KilledError` after that step.
    """
    objective = fresh(name, bert)
    last: dict[str, Tensor] = {}

    def report(status: dict[str, float]) -> None:
        if status["step"] == killed:
            raise tiny_models.KilledError
        if status["step"] == status["steps"]:
            last.update({k: v.detach().clone() for k, v in objective.state_dict().items()})

    data = tiny_models.corpus()
    config = replace(CONFIG, chunk=chunk)
    result = pretrain(objective, data, tiny_models.PAPER, config, scratch, report)
    return last, {k: v for k, v in asdict(result).items() if k not in ("waiting", "rate")}


def work(number: int, count: int, port: int, bert: Path, out: Path) -> None:
    """The work of one of `count` processes."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(count),
    }
    seeds: set[int] = set()
    seed = devices.seed

    def note(name: str, value: int) -> None:
        seeds.add(value)
        seed(name, value)

    devices.seed = note
    with processes.joined("cpu"):
        for name, chunk in [*((name, 0) for name in OPTIONS), ("convirt", 1)]:
            last, told = run(name, bert, chunk=chunk)
            if number == 0:
                file = f"{name}-{chunk}"
                checkpoint.save_safetensors(out / f"{file}.safetensors", last)
                (out / f"{file}.json").write_text(json.dumps(told))
        with suppress(tiny_models.KilledError):
            run("convirt", bert, out / "scratch", killed=KILLED)
            raise AssertionError
        last, told = run("convirt", bert, out / "scratch")
        if number == 0:
            checkpoint.save_safetensors(out / "resumed.safetensors", last)
            (out / "resumed.json").write_text(json.dumps(told))
    (out / f"seeds-{number}.json").write_text(json.dumps(sorted(seeds)))
