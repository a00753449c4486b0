"""Packing films into a store: the rate against a plain Pillow loop, and the memory it takes.

    python -m bench.preprocess
    python -m bench.preprocess --films 200 --many 0    # a minute, without measuring memory

The large films have the size of MIMIC-CXR-JPG's (2544 x 3056 pixels, about 1.5 MB); a few are
drawn and linked under many names. The plain loop opens each film, converts it to grey, resizes its
larger side to 256 and pads it, in as many processes as the store uses. The store does the same and
also checks, counts and writes its tables. "Compute only" does nothing but decode, at the scale at
which the store decodes, in as many processes. Runs are interleaved, and rates are medians. The peak
of memory beside them is that of the parent process after its first store.

Memory is the largest resident size (VmHWM) that the processes reached, over the large films, and
over 2,000 and 20,000 films of a quarter of that side, so that the last takes minutes and not an
hour.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import statistics
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import pandas as pd
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from convirt import packing
from convirt.datasets import phantom
from convirt.datasets.tables import Funnel, Tables

FILMS: int = typer.Option(2_000, min=12, help="Large films.")
MANY: int = typer.Option(20_000, help="Small films for comparing memory; 0: skip this.")
ROUNDS: int = typer.Option(2, min=1, help="Rounds.")
DISTINCT = 12
WIDTH, HEIGHT, SIDE, WORKERS = 2544, 3056, 256, 2
SPAWN = multiprocessing.get_context("spawn")


def write_films(folder: Path, count: int, shrink: int = 1) -> list[Path]:
    """Made-up films, drawn small, enlarged, and given the grain of a detector."""
    folder.mkdir()
    size = WIDTH // shrink, HEIGHT // shrink
    for i in range(DISTINCT):
        rng = np.random.default_rng(i)
        small = phantom.draw_chest(rng, phantom.chest_case(rng), 512)
        film = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
        grain = rng.integers(-6, 7, film.shape, dtype=np.int16)
        picture = Image.fromarray((film + grain).clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{i:05d}.jpg", quality=90)
    paths = [folder / f"{i:05d}.jpg" for i in range(count)]
    for i, path in enumerate(paths[DISTINCT:], DISTINCT):
        path.hardlink_to(paths[i % DISTINCT])
    return paths


def plain(paths: list[Path], out: Path) -> None:
    """What a script would do, with a pool of processes."""
    with ProcessPoolExecutor(WORKERS, SPAWN) as pool:
        np.save(out, np.stack(list(pool.map(plain_one, paths, chunksize=64))))


def plain_one(path: Path) -> np.ndarray:
    image = Image.open(path).convert("L")
    scale = SIDE / max(image.size)
    width, height = round(image.width * scale), round(image.height * scale)
    small = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    top, left = (SIDE - height) // 2, (SIDE - width) // 2
    square = np.zeros((SIDE, SIDE), np.uint8)
    square[top : top + height, left : left + width] = small
    return square


def decode(paths: list[Path], out: Path) -> None:
    """Decoding alone; nothing is written."""
    with ProcessPoolExecutor(WORKERS, SPAWN) as pool:
        for _ in pool.map(decode_one, paths, chunksize=64):
            pass


def decode_one(path: Path) -> None:
    image = Image.open(path)
    scale = 1.25 * SIDE / max(image.size)
    image.draft("L", (round(image.width * scale), round(image.height * scale)))
    image.load()


def store(paths: list[Path], out: Path) -> None:
    """The store, with as many processes as the other ways."""
    names = [path.name for path in paths]
    table = pd.DataFrame({"image": names, "path": [str(path) for path in paths]})
    table = table.assign(study=names, patient=names, split="train", view="", finding=0.0)
    funnel = Funnel()
    funnel.images.found = funnel.studies.found = len(table)
    tables = Tables(table, None, None, ("finding",), funnel)
    packing.build(tables, out, SIDE, workers=WORKERS)


def resident(process: int | str) -> int:
    """The largest resident size that a process ever had, bytes; 0 once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) << 10 if found else 0


def measured(paths: list[Path], out: Path, answer: Queue[tuple[int, int]]) -> None:
    """Run `store` in a fresh process; answer with its own peak and that of a worker."""
    peak = 0

    def watch() -> None:
        nonlocal peak
        while True:
            peak = max([peak, *(resident(p.pid or 0) for p in multiprocessing.active_children())])
            time.sleep(0.05)

    threading.Thread(target=watch, daemon=True).start()
    store(paths, out)
    answer.put((resident(os.getpid()), peak))


def rates(folder: Path, count: int, rounds: int) -> None:
    from bench import _measure  # not above, or each spawned process would load it

    paths = write_films(folder / "large", count)
    ways = {"ours": store, "plain": plain, "compute": decode}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    peak = 0.0
    for _ in range(rounds):
        for name, run in ways.items():
            start = time.perf_counter()
            run(paths, folder / f"out-{run.__name__}{'.npy' * (run is plain)}")
            taken[name].append(time.perf_counter() - start)
            if not peak:  # ours comes first; the plain way holds all films in memory
                peak = resident("self") / 2**30
    mean = statistics.mean(path.stat().st_size for path in paths) / 1e6
    facts = {"films": count, "processes": WORKERS, "megabytes_a_film": mean}
    what = f"{WIDTH} x {HEIGHT} to {SIDE} px", count, "images/s"
    row = _measure.row(what, dict.fromkeys(ways, count), taken, peak)
    _measure.tell("preprocess", "cpu", [row], facts)


def memory(folder: Path, count: int, many: int) -> None:
    table = Table("films", "side", "parent, MiB", "worker, MiB", title="largest resident size")
    small = write_films(folder / "small", many, 4)
    large = [folder / "large" / f"{i:05d}.jpg" for i in range(count)]
    for paths, side in ((large, HEIGHT), (small[:count], HEIGHT // 4), (small, HEIGHT // 4)):
        answer: Queue[tuple[int, int]] = SPAWN.Queue()
        process = SPAWN.Process(target=partial(measured, paths, folder / "out-memory", answer))
        process.start()
        parent, worker = answer.get()
        process.join()
        table.add_row(f"{len(paths):,}", f"{side:,}", f"{parent >> 20}", f"{worker >> 20}")
    Console(width=110).print(table)


def main(films: int = FILMS, many: int = MANY, rounds: int = ROUNDS) -> None:
    """Print and save images per second, and print memory."""
    with tempfile.TemporaryDirectory() as temporary:
        rates(Path(temporary), films, rounds)
        if many:
            memory(Path(temporary), films, many)


if __name__ == "__main__":
    typer.run(main)
