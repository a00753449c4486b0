"""Packing large JPEG films into a store against a plain Pillow loop, one process each.

    python -m bench.decode

The films have the size of MIMIC-CXR-JPG's (2544 x 3056 pixels). The plain loop opens, turns to
grey, resizes the larger side to 256 and pads; the store does the same and also checks, counts and
writes its tables. Runs are interleaved, and the ratio is the median over pairs of neighbouring
runs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from convirt import packing
from convirt.datasets import phantom
from convirt.datasets.tables import Funnel, Tables

FILMS, WIDTH, HEIGHT, SIDE, ROUNDS = 24, 2544, 3056, 256, 5


def write_films(folder: Path) -> list[Path]:
    """Made-up films, drawn small, enlarged, and given the grain of a detector."""
    paths = []
    for i in range(FILMS):
        rng = np.random.default_rng(i)
        small = phantom.draw_chest(rng, phantom.chest_case(rng), 512)
        film = np.asarray(Image.fromarray(small).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
        grain = rng.integers(-6, 7, film.shape, dtype=np.int16)
        path = folder / f"{i:03d}.jpg"
        Image.fromarray((film + grain).clip(0, 255).astype(np.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def plain(paths: list[Path], out: Path) -> None:
    """What a script would do."""
    packed = np.zeros((len(paths), SIDE, SIDE), np.uint8)
    for row, path in zip(packed, paths, strict=True):
        image = Image.open(path).convert("L")
        scale = SIDE / max(image.size)
        width, height = round(image.width * scale), round(image.height * scale)
        small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
        top, left = (SIDE - height) // 2, (SIDE - width) // 2
        row[top : top + height, left : left + width] = small
    np.save(out, packed)


def store(paths: list[Path], out: Path) -> None:
    """The store, with one process."""
    names = [path.name for path in paths]
    table = pd.DataFrame({"image": names, "path": [str(path) for path in paths]})
    table = table.assign(study=names, patient=names, split="train", view="", finding=0.0)
    funnel = Funnel()
    funnel.images.found = funnel.studies.found = len(table)
    tables = Tables(table, None, None, ("finding",), funnel)
    packing.build(tables, out, SIDE, workers=1)


def main() -> None:
    """Print images a second and the ratio."""
    taken: dict[str, list[float]] = {"store (convirt.packing)": [], "plain Pillow loop": []}
    ways = dict(zip(taken, (store, plain), strict=True))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_films(folder)
        for number in range(ROUNDS + 1):
            for name, run in ways.items():
                start = time.perf_counter()
                run(paths, folder / f"out-{run.__name__}{'.npy' * (run is plain)}")
                if number > 0:  # the first pair warms up
                    taken[name].append(time.perf_counter() - start)
    table = Table("way", "images/s", "store is faster by", title="2544 x 3056 JPEG to 256 px")
    ours = next(iter(taken.values()))
    for name, times in taken.items():
        ratio = statistics.median(b / a for a, b in zip(ours, times, strict=True))
        table.add_row(name, f"{FILMS / statistics.median(times):.1f}", f"{ratio:.2f} x")
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
