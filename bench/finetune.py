"""Fine-tuning: our loop, the plain way, and a batch that is already on the device.

    python -m bench.finetune                                        # the demo's network on the CPU
    python -m bench.finetune --device cuda --models paper --images 8192

- **ours** is `convirt.transfer.transfer` as the stage runs it, deterministic, from a store in
  memory (with a GPU, in the GPU's memory), on all cores of a CPU. It leaves out the head-only
  steps, which use features that are computed once. It validates before and after the epoch, in
  float32.
- **plain** is the usual script: JPEG files, a `DataLoader` with workers, `Resize` and `ToTensor`
  image by image, eager autocast, default `torch.optim.Adam`, and as many validations (TF32 on a
  GPU, as torch has it).
- **compute only** repeats our step on one batch that is on the device, and as many validations.

Only training images count as an epoch's images; each way trains one epoch in turn.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
import typer
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench import _measure, _world
from convirt import devices, labelled, resident, transfer
from convirt.image_encoder import ImageConfig, create_image_encoder, to_input
from convirt.metrics import group
from convirt.recipe import Recipe, batches

MODELS: str = typer.Option("demo", help="demo or paper.")
DEVICE: str = typer.Option("cpu", help="cpu or cuda.")
IMAGES: int = typer.Option(
    0, help="Training images per epoch; 0: 768, on a GPU eight batches per worker."
)
ROUNDS: int = typer.Option(3, min=1, help="Rounds.")
WORKERS: int = typer.Option(0, help="Workers of the plain way's DataLoader; 0: one per core.")
BATCH = 64


class Plain(Dataset[tuple[Tensor, Tensor]]):
    """Films from files, resized one by one."""

    def __init__(self, paths: list[Path], y: Tensor, size: int) -> None:
        self.paths, self.y = paths, y
        self.transform = transforms.Compose(
            [
                transforms.Resize((size, size)),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return cast(Tensor, self.transform(Image.open(self.paths[i]).convert("RGB"))), self.y[i]


def recipe(device: str, epochs: int) -> Recipe:
    """The paper's protocol, all weights from the first step."""
    return Recipe(
        protocol="finetune",
        kind="binary",
        metric="auroc",
        lr=1e-4,
        batch_size=BATCH,
        weight_decay=1e-6,
        dropout=0.2,
        patience=3,
        factor=0.5,
        stop=10,
        max_epochs=epochs,
        seed=0,
        head_steps=0,
        head_lr=1e-3,
        device=device,
        bfloat16=device == "cuda",
    )


def source(
    images: np.ndarray | Tensor, y: Tensor, rows: np.ndarray, config: ImageConfig, device: str
) -> Any:
    """A split as `transfer` takes it."""
    names = [f"i{k}" for k in rows]
    units = group(names, names, y[rows].numpy())
    return labelled.Images(images, rows, y[rows], units, partial(to_input, config=config), device)


def plain_epoch(
    model: nn.Module, train: DataLoader[Any], val: DataLoader[Any], device: str, validations: int
) -> None:
    """One epoch and its validations."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4, weight_decay=1e-6)
    bfloat16 = device == "cuda"
    model.train()
    for x, y in train:
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            logits = model(x.to(device))
        loss = F.binary_cross_entropy_with_logits(logits.float(), y.to(device))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()  # as scripts do, for their progress bar
    model.eval()
    with torch.no_grad():
        for _ in range(validations):
            for x, _ in val:
                model(x.to(device)).cpu()


def main(
    models: str = MODELS,
    device: str = DEVICE,
    images: int = IMAGES,
    rounds: int = ROUNDS,
    workers: int = WORKERS,
) -> None:
    """Print and save images per second of the three ways."""
    devices.require(device)
    own, workers = _world.MODELS[models], workers or devices.cores()
    images = images or (768 if device == "cpu" else 8 * BATCH * workers)
    total = images + BATCH * workers  # a validation batch per worker, or some would idle
    stored = _world.films(total, own.stored)
    held = resident.placed(stored, "auto", device)
    y = (torch.arange(total) % 2).float()[:, None]
    rows = np.arange(total)

    def network() -> tuple[nn.Module, ImageConfig]:
        return create_image_encoder(own.architecture, own.weights, own.size, 0)

    encoder, config = network()
    one = recipe(device, 1)
    model = transfer.Classifier(encoder, config.width, 1, one).to(device)
    train = source(held, y, rows[:images], config, device)
    val = source(held, y, rows[images:], config, device)
    # ours also validates before the first epoch, which a stage does once a run: so do the others
    validations, held_out = 2, (total - images) // BATCH
    other = transfer.Classifier(_world.usual_encoder(models), config.width, 1, one).to(device)
    third = transfer.Classifier(network()[0], config.width, 1, one).to(device)
    optimiser = torch.optim.Adam(third.parameters(), lr=1e-4, weight_decay=1e-6, fused=True)
    x, target = train.batch(np.arange(BATCH)), y[:BATCH].to(device)
    steps = len(batches(images, BATCH, 0, transfer.MAIN, 1))

    def compute() -> None:
        third.train()
        for _ in range(steps):
            with torch.autocast(device, torch.bfloat16, enabled=one.bfloat16):
                logits = third(x)
            loss = F.binary_cross_entropy_with_logits(logits.float(), target)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        float(loss.detach())
        third.eval()
        with torch.inference_mode():
            for _ in range(validations * held_out):
                logits = third(x)
        logits.cpu()  # waits for the device, as the others do

    with tempfile.TemporaryDirectory() as name:
        paths = _world.write_jpegs(stored, Path(name))
        films = Plain(paths, y, own.size)
        options: dict[str, Any] = {
            "num_workers": workers,
            "persistent_workers": True,
            "pin_memory": device == "cuda",
        }
        some = torch.utils.data.Subset(films, range(images))
        rest = torch.utils.data.Subset(films, range(images, total))
        loaders = (
            DataLoader(some, BATCH, shuffle=True, drop_last=True, **options),
            DataLoader(rest, BATCH, **options),
        )
        threads, peaks = torch.get_num_threads(), list[float]()
        the_loop = _measure.as_stages(lambda: transfer.transfer(model, train, val, one), threads)
        ways: dict[str, Any] = {
            "ours": _measure.watched(the_loop, device, peaks),
            "plain": _measure.as_usual(lambda: plain_epoch(other, *loaders, device, validations)),
            "compute": _measure.as_stages(compute, threads),
        }
        taken = _measure.interleaved(ways, rounds=rounds)
    counts = {"ours": images, "plain": images // BATCH * BATCH, "compute": steps * BATCH}
    what = f"fine-tune, {models}'s network", BATCH, "images/s"
    row = _measure.row(what, counts, taken, max(peaks))
    facts = {"models": models, "images": images, "threads": threads}
    _measure.tell(f"finetune-{models}", device, [row], facts)


if __name__ == "__main__":
    typer.run(main)
