"""The five image transforms: one batched affine map against a chain of torchvision, image by image.

    python -m bench.augmentation

Both get the same stored films and return a float batch. The chain is the usual one:
RandomResizedCrop, flip, RandomAffine, ColorJitter, GaussianBlur, on Pillow images and on tensors.
Each uses one thread, so the ratio compares work and not cores; drawing the random values counts as
work. Runs are interleaved, and the ratio is the median over pairs of neighbouring runs.
"""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from torchvision import transforms

from bench import _measure, _world
from bench._measure import Run
from convirt import augment

BATCH = 32
SECONDS = 9.0  # per setting


def batched(batch: np.ndarray, size: int, spec: augment.Augmentation) -> Run:
    """Ours: draw a batch of values, then one call."""
    kernel, stored = spec.blur_kernel, batch.shape[-1]
    boxes = np.tile([0, 0, stored, stored], (BATCH, 1))
    images = torch.from_numpy(batch)
    rng = np.random.default_rng(0)
    return lambda: augment.apply(images, augment.draw(rng, boxes, stored, spec), size, kernel)


def chained(batch: np.ndarray, size: int, spec: augment.Augmentation, pillow: bool) -> Run:
    """The alternative: torchvision's transforms, one image after the other."""
    chain: list[Any] = [
        transforms.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True),
        transforms.RandomHorizontalFlip(),
        transforms.RandomAffine(
            20,
            translate=(0.1, 0.1),
            scale=(0.95, 1.05),
            interpolation=transforms.InterpolationMode.BILINEAR,
        ),
        transforms.ColorJitter(brightness=0.4, contrast=0.4),
        transforms.GaussianBlur(spec.blur_kernel, spec.blur_sigma),
    ]
    first = [transforms.ToPILImage()] if pillow else [transforms.ConvertImageDtype(torch.float32)]
    run = transforms.Compose([*first, *chain, *([transforms.ToTensor()] if pillow else [])])
    images = torch.from_numpy(batch)[:, None]
    return lambda: torch.stack([run(image) for image in images])


def main() -> None:
    """Print images per second and ratios."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table = Table("setting", "way", "images/s", "batched is faster by", title="image transforms")
    for setting, own in _world.MODELS.items():
        batch, spec = _world.films(BATCH, own.stored), _world.augmentation(own)
        runs = {
            "batched (convirt.augment)": batched(batch, own.size, spec),
            "torchvision, Pillow": chained(batch, own.size, spec, pillow=True),
            "torchvision, tensors": chained(batch, own.size, spec, pillow=False),
        }
        taken = _measure.interleaved(runs, SECONDS, rounds=0)
        ours = next(iter(taken.values()))
        for name, times in taken.items():
            rate = BATCH / statistics.median(times)
            label = f"{setting}: {own.stored} to {own.size} px, kernel {spec.blur_kernel}"
            table.add_row(label, name, f"{rate:,.0f}", f"{_measure.ratio(times, ours):.2f} x")
    Console(width=110).print(table)


if __name__ == "__main__":
    typer.run(main)
