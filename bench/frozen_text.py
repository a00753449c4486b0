"""A pretraining step with the frozen text layers' output kept in memory, or recomputed.

    python -m bench.frozen_text

Models and image size are the demo's, the batch is the paper's, reports are made up. It uses one
thread. Runs are interleaved, and the ratio is the median over pairs of neighbouring runs. Both ways
see the same batches and the same dropout, so their losses are compared as well: they may differ by
rounding alone.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from bench import _world
from convirt.frozen_text import FrozenText
from convirt.image_encoder import create_image_encoder, normalise
from convirt.objectives.convirt import convirt_loss
from convirt.pair_encoder import PairEncoder, ProjectionConfig
from convirt.pairs import Sentences, tokenize
from convirt.text_encoder import create_text_encoder

DEMO = _world.MODELS["demo"]
BATCH, REPORTS, PAIRS = 32, 1500, 8


def build() -> tuple[PairEncoder, Sentences]:
    """The model of the demo, and the distinct sentences of some made-up reports."""
    image, config = create_image_encoder(DEMO.architecture, DEMO.weights, DEMO.size, seed=0)
    weights = _world.text_weights("demo", Path())
    text, tokenizer = create_text_encoder(weights, DEMO.frozen, max_tokens=64)
    model = PairEncoder(
        image.to(memory_format=torch.channels_last), config, text, tokenizer, ProjectionConfig(512)
    )
    said = {sentence for report in _world.reports(REPORTS) for sentence in report}
    return model.train(), tokenize(sorted(said), tokenizer)


def step(
    model: PairEncoder, optimiser: torch.optim.Optimizer, text: FrozenText, number: int
) -> tuple[float, float, float]:
    """Make one update; return its seconds, those of the text's forward pass, and its loss."""
    rng = np.random.default_rng(number)
    rows = rng.integers(len(text.sentences.starts) - 1, size=BATCH)
    torch.manual_seed(number)
    images = torch.rand(BATCH, 1, DEMO.size, DEMO.size)
    start = time.perf_counter()
    u = model.project_text(model.text_encoder.upper(*text(rows)))
    read = time.perf_counter()
    x = normalise(images, model.image_config)
    v = model.project_image(model.image_encoder(x))
    loss = convirt_loss(v, u, tau=0.1, lam=0.75)
    loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    return time.perf_counter() - start, read - start, float(loss.detach())


def main() -> None:
    """Print pairs per second and ratios."""
    torch.set_num_threads(1)
    model, told = build()
    trained = [p for p in model.parameters() if p.requires_grad]
    # the rate is 0, so that every step of both ways sees the same weights
    optimiser = torch.optim.Adam(trained, lr=0.0, fused=True)
    ways = {
        "kept in memory": FrozenText(model.text_encoder, told, True),
        "recomputed": FrozenText(model.text_encoder, told, False),
    }
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    for number in range(PAIRS + 1):
        for name, text in ways.items():
            result = step(model, optimiser, text, number)
            if number > 0:  # the first pair warms up
                taken[name].append(result)
    table = Table("frozen half", "pairs/s", "whole step", "text alone", title="pretraining step")
    base = taken["recomputed"]
    for name, times in taken.items():
        pairs = list(zip(base, times, strict=True))
        whole = statistics.median(b[0] / a[0] for b, a in pairs)
        alone = statistics.median(b[1] / a[1] for b, a in pairs)
        rate = BATCH / statistics.median(t[0] for t in times)
        table.add_row(name, f"{rate:.1f}", f"{whole:.2f} x", f"{alone:.2f} x")
    console = Console(width=110)
    console.print(table)
    kept = ways["kept in memory"].kept
    assert kept is not None
    away = max(
        abs(a[2] - b[2]) for a, b in zip(taken["kept in memory"], taken["recomputed"], strict=True)
    )
    console.print(
        f"{len(told.starts) - 1} distinct sentences, {len(told.tokens)} tokens: "
        f"{kept.nbytes / 2**20:.1f} MiB kept; the losses differ by at most {away:.1e}"
    )


if __name__ == "__main__":
    typer.run(main)
