"""Does a batch cost more out of a million films than out of a thousand?

    python -m bench.growth                 # to a million films of 64 pixels; 7 GB of page cache
    python -m bench.growth --most 100000

Pretraining and fine-tuning read batches in the same way: rows drawn by (seed, step), gathered from
the store's memory map.

- **ours** is a batch of pretraining as the loop's thread makes it: drawn (`Pairs.draw`), gathered
  (`resident.take`), and the values of its transforms drawn. A new pass over the films begins amid
  the measured batches, so the cost of drawing a new order is included.
- **plain** is torch's usual way, `DataLoader` with `shuffle=True` in the same process, which reads
  the same memory map film by film; no transforms are drawn.

The two run in turn; rates are medians. The last row has films of the paper's size. All are in the
page cache, as far as memory allows: this measures the work, not the disk.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import typer
from torch.utils.data import DataLoader, Dataset

from bench import _measure, _world
from convirt import augment
from convirt.pairs import AUGMENT, Pairs, generator
from convirt.resident import take
from convirt.results import plots

MOST: int = typer.Option(1_000_000, min=1_000, help="Films in the largest store.")
BATCHES: int = typer.Option(2000, min=10, help="Batches of one run.")
ROUNDS: int = typer.Option(5, min=1, help="Runs of each way that count.")
BATCH = 32


def store(folder: Path, count: int, side: int) -> np.ndarray:
    """A memory map of `count` films; all but the first thousand are holes in the file."""
    path = folder / f"{count}-{side}.npy"
    films = np.lib.format.open_memmap(path, "w+", np.uint8, (count, side, side))
    films[:1000] = np.random.default_rng(0).integers(0, 256, (1000, side, side))
    films.flush()
    found: np.ndarray = np.load(path, mmap_mode="r")
    for first in range(0, count, 1 << 14):  # into the page cache
        found[first : first + (1 << 14)].max()
    return found


def pairs_of(count: int) -> Pairs:
    """One study per film, with two sentences each."""
    studies = np.array([f"s{number}" for number in range(count)], dtype=object)
    records = pd.DataFrame({"study": studies, "split": "train"})
    said = pd.DataFrame({"study": np.tile(studies, 2), "row": np.arange(2 * count)})
    return Pairs(records, said, "train")


def ours(films: np.ndarray, pairs: Pairs, batches: int) -> None:
    """Batch after batch, ending half a measurement after a new pass has begun."""
    spec, device = _world.augmentation(_world.MODELS["demo"]), torch.device("cpu")
    side = films.shape[1]
    boxes = np.tile([0, 0, side, side], (BATCH, 1))
    first = max(0, len(films) // BATCH - batches // 2)
    for step in range(first, first + batches):
        batch = pairs.draw(0, step, BATCH)
        take(films, batch.images, device)
        augment.draw(generator(0, AUGMENT, step), boxes, side, spec)


def plain(films: np.ndarray, batches: int) -> None:
    """The same films, one by one."""

    class Films(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(films)

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.from_numpy(films[i].copy())

    done = 0
    while True:
        for _ in DataLoader(Films(), BATCH, shuffle=True):
            done += 1
            if done == batches:
                return


def main(most: int = MOST, batches: int = BATCHES, rounds: int = ROUNDS) -> None:
    """Print, save and plot batches per second over the number of films."""
    sizes = [(n, 64) for n in (1_000, 10_000, 100_000, 1_000_000) if n <= most]
    sizes += [(100_000, 256)] if most >= 100_000 else []
    rows = []
    for count, side in sizes:
        with tempfile.TemporaryDirectory() as name:
            films, pairs = store(Path(name), count, side), pairs_of(count)
            pairs.draw(0, 0, BATCH)  # draw the order of the ending pass, as a run has done by then
            ways: dict[str, _measure.Run] = {
                "ours": partial(ours, films, pairs, batches),
                "plain": partial(plain, films, batches),
            }
            taken = _measure.interleaved(ways, rounds=rounds)
        what = f"{count:,} films of {side} pixels", BATCH, "batches/s"
        memory = _measure.peak_memory("cpu")
        rows.append(_measure.row(what, dict.fromkeys(ways, batches), taken, memory))
        path = _measure.tell("growth", "cpu", rows, {"batches": batches})
    alike = [row for row, (_, side) in zip(rows, sizes, strict=True) if side == 64]
    lines: dict[str, list[float | None]] = {
        "ours": [row.ours for row in alike],
        "plain": [row.plain for row in alike],
    }
    counts = [count for count, side in sizes if side == 64]
    figure = _measure.growth(counts, lines, "films of 64 pixels", "batches of 32 per second")
    plots.save(figure, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
