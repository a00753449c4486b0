"""Does a batch cost more out of a million films than out of a thousand?

    python -m bench.growth                 # to a million films of 64 pixels, 4 GB of scratch disk
    python -m bench.growth --most 100000

Pretraining and fine-tuning read batches in the same way: rows drawn by (seed, step), gathered from
the store's memory map.

- **ours** is a batch of pretraining as the loop's thread makes it: drawn (`Pairs.draw`), gathered
  (`resident.take`), and the values of its transforms drawn. A new pass over the films begins within
  the measured batches, so the cost of drawing a new order is included.
- **plain** is torch's usual way, `DataLoader` with `shuffle=True` in the same process, which reads
  the same memory map film by film; no transforms are drawn.

The films are in the page cache, as far as memory allows: this measures the work, not the disk.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
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
BATCHES: int = typer.Option(200, min=10, help="Batches over which a rate is measured.")
SIDE, BATCH = 64, 32


def store(folder: Path, count: int) -> np.ndarray:
    """A memory map of `count` films; all but the first thousand are holes in the file."""
    path = folder / f"{count}.npy"
    films = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIDE, SIDE))
    films[:1000] = np.random.default_rng(0).integers(0, 256, (1000, SIDE, SIDE))
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


def ours(films: np.ndarray, pairs: Pairs, batches: int) -> Iterator[None]:
    """Batch after batch, ending half a measurement after a new pass has begun."""
    spec, device = _world.augmentation(_world.MODELS["demo"]), torch.device("cpu")
    boxes = np.tile([0, 0, SIDE, SIDE], (BATCH, 1))
    first = max(0, len(films) // BATCH - batches // 2)
    for step in range(first, first + batches):
        batch = pairs.draw(0, step, BATCH)
        take(films, batch.images, device)
        augment.draw(generator(0, AUGMENT, step), boxes, SIDE, spec)
        yield


def plain(films: np.ndarray, batches: int) -> Iterator[None]:
    """The same films, one by one."""

    class Films(Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return len(films)

        def __getitem__(self, i: int) -> torch.Tensor:
            return torch.from_numpy(films[i].copy())

    done = 0
    while True:
        for _ in DataLoader(Films(), BATCH, shuffle=True):
            yield
            done += 1
            if done == batches:
                return


def rate(batches: Iterator[None], count: int) -> float:
    """Batches per second."""
    start = time.perf_counter()
    for _ in batches:
        pass
    return count / (time.perf_counter() - start)


def main(most: int = MOST, batches: int = BATCHES) -> None:
    """Print, save and plot batches per second over the number of films."""
    counts = [n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= most]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for count in counts:
            films, pairs = store(Path(name), count), pairs_of(count)
            for _ in ours(films, pairs, 10):  # not counted
                pass
            pairs.draw(0, 0, BATCH)  # draw the order of the ending pass, as a run has done by then
            found = rate(ours(films, pairs, batches), batches)
            other = rate(plain(films, batches), batches)
            memory = _measure.peak_memory("cpu")
            what = f"{count:,} films"
            rows.append(_measure.Row(what, BATCH, "batches/s", found, other, None, memory))
    path = _measure.tell("growth", "cpu", rows, {"side": SIDE})
    lines: dict[str, list[float | None]] = {
        "ours": [row.ours for row in rows],
        "plain": [row.plain for row in rows],
    }
    figure = _measure.growth(counts, lines, "films", "batches of 32 per second")
    plots.save(figure, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
