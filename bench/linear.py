"""Linear probes of one task and encoder: features computed once, or by each run.

    python -m bench.linear

Eleven cells (as many as the paper's row of linear results has) of several repeats each are trained
on one task, with the network of the demo and made-up films. "Each run" computes the features of
the films that the run sees, as a run alone would; "kept" computes those of all films in the first
run and reads them back from disk in all others. Both train the same heads, in turn run by run; time
is CPU time on one thread. The start of a run, which is the imports that each way needs, is measured
separately.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from convirt import feature_cache, image_encoder, labelled, transfer
from convirt.metrics import group
from convirt.recipe import Recipe

SIDE, FILMS = 64, {"train": 200, "val": 50, "test": 50}
CELLS = (1, 10, 100, 1, 10, 100, 10, 100, 1, 10, 100)  # percent of the labels
REPEATS = 3
EPOCHS = 20
STARTS = {
    "each run": "import convirt.transfer, pandas, timm",
    "kept": "import convirt.transfer, pandas",
}


def films() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Noise with a bright band in half of the films: images, labels, rows by split."""
    rng = np.random.default_rng(0)
    n = sum(FILMS.values())
    y = (np.arange(n) % 2).astype(float)[:, None]
    images = rng.integers(0, 160, (n, SIDE, SIDE)).astype(np.uint8)
    images[y[:, 0] == 1, :20] += 20
    ends = np.cumsum(list(FILMS.values()))[:-1]
    return images, y, dict(zip(FILMS, np.split(np.arange(n), ends), strict=True))


def part(array: np.ndarray, rows: np.ndarray, y: np.ndarray, prepare: object) -> labelled.Images:
    names = [f"i{k}" for k in rows]
    target = torch.tensor(y[rows], dtype=torch.float32)
    units = group(names, names, y[rows])
    return labelled.Images(array, rows, target, units, prepare, "cpu")  # type: ignore[arg-type]


def probe(
    train: labelled.Source, val: labelled.Source, test: labelled.Source, recipe: Recipe, width: int
) -> torch.Tensor:
    head = transfer.linear_head(width, 1, recipe)
    transfer.transfer(head, train, val, recipe)
    return transfer.predict(head, test)


def start(code: str) -> float:
    """CPU seconds of a Python process that runs `code`, the best of three."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return min(taken)


def main() -> None:
    """Print seconds and ratios."""
    torch.set_num_threads(1)
    images, y, rows = films()
    seconds = {"each run": 0.0, "kept": 0.0}
    apart = 0.0
    with tempfile.TemporaryDirectory() as name:
        encoder = Path(name) / "encoder"
        encoder.mkdir()
        network, config = image_encoder.create_image_encoder(
            "tf_efficientnet_lite0", "random", SIDE, 0
        )
        image_encoder.save_image_encoder(network, config, encoder)

        def prepare(stored: torch.Tensor) -> torch.Tensor:
            return image_encoder.to_input(stored, config)

        for cell, fraction in enumerate(CELLS):
            few = rows["train"][: max(2, len(rows["train"]) * fraction // 100)]
            splits = (few, rows["val"], rows["test"])
            for repeat in range(REPEATS):
                seed = 100 * cell + repeat
                numbers = (1e-3, 64, 1e-6, 0.2, 3, 0.5, 10, EPOCHS, seed)
                recipe = Recipe("linear", "binary", "auroc", *numbers)
                begin = time.process_time()
                own, _ = image_encoder.load_image_encoder(encoder)
                each = [labelled.features(own, part(images, r, y, prepare)) for r in splits]
                slow = probe(each[0], each[1], each[2], recipe, config.width)
                seconds["each run"] += time.process_time() - begin
                begin = time.process_time()
                h = feature_cache.features(
                    Path(name) / "kept", images, np.arange(len(images)), encoder, "cpu"
                )
                read = [part(h, r, y, labelled.as_they_are) for r in splits]
                fast = probe(read[0], read[1], read[2], recipe, config.width)
                seconds["kept"] += time.process_time() - begin
                apart = max(apart, float((slow - fast).abs().max()))
        size = (Path(name) / "kept" / feature_cache.FILE).stat().st_size
    count = len(CELLS) * REPEATS
    table = Table("features", "CPU s", "ratio", "start, CPU s", title=f"{count} linear probes")
    for way, taken in seconds.items():
        ratio = f"{seconds['each run'] / taken:.1f} x"
        table.add_row(way, f"{taken:.1f}", ratio, f"{start(STARTS[way]):.1f}")
    console = Console(width=110)
    console.print(table)
    console.print(
        f"{len(images)} films, {size / 1e6:.1f} MB kept; logits differ by at most {apart:.1e}, "
        "since blocks of images are split differently"
    )


if __name__ == "__main__":
    typer.run(main)
