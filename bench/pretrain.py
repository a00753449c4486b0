"""Pretraining: our loop, the plain way, and a batch that is already on the device.

    python -m bench.pretrain                                        # the demo's models on the CPU
    python -m bench.pretrain --device cuda --models paper --batch 32 --batch 128
    python -m bench.pretrain --device cuda --models paper --batch 512 --steps 20 --rounds 1

- **ours** is `convirt.training.pretrain` as the stage runs it, deterministic, from a store in
  memory, with the demo's `compute.threads`. On a GPU the store is in the GPU's memory, and steps
  are recorded as CUDA graphs (`compute.graphs`) unless `--no-graphs` is given. With `--compile` the
  encoders are compiled.
- **plain** is the usual way: JPEG files of the stored size, a `DataLoader` with workers, the
  paper's transforms by torchvision and image by image, sentences tokenized batch by batch,
  encoders as timm and transformers build them, the whole text encoder in each step, eager autocast,
  default `torch.optim.Adam`, all cores. With `--full-size` there is a second row, for which the
  files have MIMIC-CXR-JPG's size (2544 x 3056), as they are downloaded.
- **compute only** repeats our step on one batch that is on the device: no data path can beat it.

The three ways run in turn, and after each round the rows are saved. Rates are medians; `× plain`
and `share` of the printed table are computed from them. A plain way that does not fit in the GPU's
memory is left out. Our rate leaves out the first steps and the validations. The plain way's rate
leaves out the steps whose batches its workers had prefetched before the first step. It is taken
over whole turns of all workers, at least three, within one epoch: workers that are in step hand
over many batches together, which a shorter count mistakes for speed.

The share of the matrix peak is (operations of products and convolutions, forward and backward) x
(steps per second), divided by the rate that a product of large square matrices reaches on the same
device in the same precision. On a GPU the peak of memory is the most that was held while ours ran,
including the weights of the other ways. Preparing takes longer than measuring: calls that name the
same file with `--turn` prepare side by side and measure one after the other.
"""

from __future__ import annotations

import gc
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count
from torchvision import transforms

from bench import _measure, _world
from convirt import devices, provenance, resident, training
from convirt.feed import Corpus, Feed
from convirt.halves import side_by_side
from convirt.objectives import base
from convirt.objectives.convirt import convirt_loss
from convirt.recorded import Recorder
from convirt.schedule import TrainConfig

MODELS: str = typer.Option("demo", help="demo or paper.")
DEVICE: str = typer.Option("cpu", help="cpu or cuda.")
BATCH: list[int] = typer.Option([32], help="Pairs per step; may be repeated.")
STEPS: int = typer.Option(40, min=4, help="Measured steps per way and round.")
ROUNDS: int = typer.Option(3, min=1, help="Rounds.")
WORKERS: int = typer.Option(0, help="Workers of the plain way's DataLoader; 0: one per core.")
PAIRS: int = typer.Option(4096, help="Studies in the corpus.")
COMPILE: bool = typer.Option(False, "--compile", help="compute.compile; saved to a separate file.")
GRAPHS: bool | None = typer.Option(
    None, "--graphs/--no-graphs", help="compute.graphs; default: on a GPU only."
)
PLAIN: bool = typer.Option(True, "--plain/--no-plain", help="The plain way too, the slowest.")
FULL_SIZE: bool = typer.Option(False, "--full-size", help="Add a row for full-size files.")
TURN: Path = typer.Option(None, help="A file; calls that name the same one take turns.")
THREADS: int = typer.Option(1, min=1, help="compute.threads of ours; the plain way uses all cores.")
WARM_UP, LENGTHS = 4, 40  # uncounted steps of ours; LENGTHS until each length came twice
FULL = 2544, 3056  # pixels of a film of MIMIC-CXR-JPG


class Plain(Dataset[tuple[torch.Tensor, str]]):
    """Films from files, transformed one by one, each with a newly drawn sentence; `length` long."""

    def __init__(self, data: Corpus, paths: list[Path], models: _world.Models, length: int) -> None:
        self.data, self.paths, self.length = data, paths, length
        sigma, kernel = models.blur
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(models.size, scale=(0.6, 1.0)),
                transforms.RandomHorizontalFlip(),
                transforms.RandomAffine(20, translate=(0.1, 0.1), scale=(0.95, 1.05)),
                transforms.ColorJitter(brightness=0.4, contrast=0.4),
                transforms.GaussianBlur(kernel, (0.1, sigma)),
                transforms.ToTensor(),
                transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ]
        )

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[torch.Tensor, str]:
        i %= len(self.paths)
        said = self.data.train.sentences
        rows = said.members[said.starts[i] : said.starts[i + 1]]
        image = Image.open(self.paths[i]).convert("RGB")
        film: torch.Tensor = self.transform(image)
        return film, self.data.texts[random.choice(rows)]


def plain_steps(
    objective: Any, models: str, films: Plain, device: str, setting: TrainConfig, workers: int
) -> Generator[None, None, None]:
    """The plain way, one step per `next`; `objective` lends it text encoder and projections."""
    objective.model.image_encoder = _world.usual_encoder(models)
    model = objective.model.to(device).train()
    bert = model.text_encoder.bert  # as transformers runs it, padding included
    bert.set_attn_implementation("sdpa")
    loader: DataLoader[Any] = DataLoader(
        films,
        setting.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device == "cuda",
    )
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    while True:
        for images, texts in loader:
            tokens, mask = (t.to(device) for t in model.tokenizer(list(texts)))
            with torch.autocast(device, torch.bfloat16, enabled=setting.precision == "bfloat16"):
                v = model.project_image(model.image_encoder(images.to(device)))
                hidden = bert(input_ids=tokens, attention_mask=mask).last_hidden_state
                hidden = hidden.masked_fill(~mask.unsqueeze(-1), float("-inf"))
                u = model.project_text(hidden.amax(dim=1))
            loss = convirt_loss(v, u, setting.tau, setting.lam)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()  # as scripts do, for their progress bar
            yield


class Fixed:
    """Our step on one batch: what computing alone allows."""

    def __init__(
        self, objective: base.Objective, data: Corpus, spec: Any, setting: TrainConfig, device: str
    ) -> None:
        self.objective, where = objective.to(device).train(), torch.device(device)
        feed = Feed(data, spec, setting, objective, where)
        self.inputs = next(feed.steps(0, 1))[1]
        parameters = [p for p in objective.parameters() if p.requires_grad]
        self.optimiser = training.optimiser_of(parameters, setting)
        self.autocast = training.autocast_of(where, setting.precision)
        self.halves = side_by_side(objective, where, setting)
        self.graphs = setting.graphs
        self.recorder: Recorder | None = None

    def seconds(self, steps: int, device: str, before: int) -> float:
        """Seconds per step; graphs are recorded per call, so they hold no memory in between."""
        if self.graphs:
            self.recorder = Recorder(self.objective, self.optimiser, self.autocast, lambda: None)
        taken = measure(self.step, steps, device, before)
        self.recorder = None
        gc.collect()
        return taken

    def step(self) -> None:
        """Forward, backward, update."""
        if self.recorder:
            self.recorder.step(self.inputs)
            return
        if self.halves:
            self.halves.backward(self.inputs)
        else:
            self._backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def operations(self) -> int:
        """Operations of a step, where a multiplication and an addition are two."""
        self._backward()  # the first call fills the cache of the frozen half
        counted = {torch.ops.aten.convolution_backward: convolution_backward}
        with FlopCounterMode(display=False, custom_mapping=counted) as counter:
            self._backward()
        self.optimiser.zero_grad(set_to_none=True)
        gc.collect()  # autograd nodes that the counter leaves, on another stream than a graph's
        return int(counter.get_total_flops())

    def _backward(self) -> None:
        with self.autocast():
            loss, _ = self.objective(self.inputs)
        loss.backward()


def convolution_backward(dy: Any, x: Any, w: Any, *how: Any, out_shape: Any) -> int:
    """Operations: each wanted gradient takes those of the forward pass; torch omits the groups."""
    transposed, wanted = how[4], how[7]
    count: int = sum(wanted[:2]) * conv_flop_count(x, w, dy, transposed)
    return count


def ours(
    objective: base.Objective, data: Corpus, spec: Any, setting: TrainConfig, device: str
) -> float:
    """Seconds per step of the real loop."""
    times: list[float] = []

    def report(status: dict[str, float]) -> None:
        if status["step"] in (warm_up(setting), setting.eval_every - 1):
            synchronise(device)
            times.append(time.perf_counter())

    training.pretrain(objective, data, spec, setting, None, report, device)
    return (times[1] - times[0]) / (setting.eval_every - 1 - warm_up(setting))


def warm_up(setting: TrainConfig) -> int:
    """Steps that do not count."""
    return LENGTHS if setting.compile or setting.graphs else WARM_UP


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_peak(device: str, precision: str) -> float:
    """Operations per second of a product of large square matrices."""
    side, kind = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    if precision == "float32":
        kind = torch.float32
    a = torch.randn(side, side, device=device, dtype=kind)
    best = float("inf")
    for _ in range(5):
        synchronise(device)
        start = time.perf_counter()
        a @ a
        synchronise(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def measure(step: Callable[[], None], steps: int, device: str, before: int = 1) -> float:
    """Seconds per step, after `before` steps that do not count."""
    for _ in range(before):
        step()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return (time.perf_counter() - start) / steps


@dataclass
class Bench:
    """The three ways, at one batch size.

    Attributes:
        models: demo or paper.
        data: What ours reads.
        read: Files that the plain way reads, one per study, by name of the way: plain, full.
        setting: Settings of ours.
        device: cpu or cuda.
        steps: Measured steps of each way.
        threads: Threads of ours.
        workers: Workers of the plain way, at least one.
        operations: Operations of a step, counted by `ways`.
        peaks: Peak GiB while ours ran, one entry per round.
    """

    models: str
    data: Corpus
    read: dict[str, list[Path]]
    setting: TrainConfig
    device: str
    steps: int
    threads: int
    workers: int
    operations: int = 0
    peaks: list[float] = field(default_factory=list)

    def ways(self) -> dict[str, Callable[[], float]]:
        """Build what ours and computing alone need; return a call for seconds per step, by way."""
        setting, device = self.setting, self.device
        spec = _world.augmentation(_world.MODELS[self.models])
        objective, other = (_world.convirt(self.models, self.data, setting) for _ in range(2))
        fixed = Fixed(other, self.data, spec, setting, device)
        self.operations = fixed.operations()
        if setting.compile:
            fixed.objective.compile_encoders(setting)
        loop = partial(ours, objective, self.data, spec, setting, device)
        again = partial(fixed.seconds, self.steps, device, warm_up(setting))
        if device == "cuda":
            torch.cuda.empty_cache()  # others may measure first
        return {
            "ours": _measure.watched(_measure.as_stages(loop, self.threads), device, self.peaks),
            "compute": _measure.as_stages(again, self.threads),
            **{way: _measure.as_usual(partial(self.plain, way)) for way in self.read},
        }

    def plain(self, way: str) -> float:
        """Seconds per step of the plain way; its workers end with it, and disturb no other way."""
        objective = _world.convirt(self.models, self.data, self.setting)
        prefetched = 1 + 2 * self.workers  # batches, as a DataLoader does
        counted = self.workers * max(3, math.ceil(self.steps / self.workers))
        length = (counted + 2 * prefetched) * self.setting.batch_size  # an epoch's end drains it
        films = Plain(self.data, self.read[way], _world.MODELS[self.models], length)
        steps = plain_steps(objective, self.models, films, self.device, self.setting, self.workers)
        try:
            return measure(partial(next, steps), counted, self.device, prefetched)
        finally:
            steps.close()

    def rows(self, taken: dict[str, list[float]]) -> list[_measure.Row]:
        """Rows from the seconds of all rounds; the way `full` is plain in a row of its own."""
        size, peak = self.setting.batch_size, max(self.peaks)
        name, items = f"pretrain, {self.models}'s models", dict.fromkeys((*taken, "plain"), size)
        found = [_measure.row((name, size, "pairs/s"), items, taken, peak)]
        if "full" in taken:
            what = f"{name}, full-size files", size, "pairs/s"
            found.append(_measure.row(what, items, {**taken, "plain": taken["full"]}, peak))
        return found


def one_round(ways: dict[str, Callable[[], float]], taken: dict[str, list[float]]) -> None:
    """Add the seconds of each way; one but ours that needs too much memory is dropped."""
    for way, run in list(ways.items()):
        try:
            taken[way].append(run())
        except torch.OutOfMemoryError:
            if way in ("ours", "compute"):
                raise
            typer.echo(f"{way}: out of the GPU's memory")
            del ways[way], taken[way]


def main(
    models: str = MODELS,
    device: str = DEVICE,
    batch: list[int] = BATCH,
    steps: int = STEPS,
    rounds: int = ROUNDS,
    workers: int = WORKERS,
    pairs: int = PAIRS,
    compiled: bool = COMPILE,
    graphs: bool | None = GRAPHS,
    usual: bool = PLAIN,
    full_size: bool = FULL_SIZE,
    turn: Path = TURN,
    threads: int = THREADS,
) -> None:
    """Print and save pairs per second of the three ways."""
    devices.require(device)
    own = _world.MODELS[models]
    precision = "bfloat16" if device == "cuda" else "float32"
    graphs = device == "cuda" if graphs is None else graphs
    workers = workers or devices.cores()
    with tempfile.TemporaryDirectory() as name:
        data = _world.corpus(pairs, max(batch), own.stored)
        films = np.asarray(data.images)
        read: dict[str, list[Path]] = {}
        if usual:
            read["plain"] = _world.write_jpegs(films[: data.train.count], Path(name))
        if full_size:
            large = _world.write_jpegs(films[:8], Path(name) / "full", FULL)
            read["full"] = [large[i % len(large)] for i in range(data.train.count)]
        data.images = resident.placed(films, "auto", device)
        for size in batch:
            provenance.make_deterministic(threads, 0)  # `side_by_side` reads the number of threads
            torch._dynamo.reset()  # or this size would get code for any size, which no stage runs
            setting = _world.train_config(size, 0, precision, device == "cpu")
            setting = replace(setting, compile=compiled, graphs=graphs)
            setting = replace(setting, eval_every=steps + 1 + warm_up(setting))
            bench = Bench(models, data, read, setting, device, steps, threads, workers)
            with _measure.turn(turn):
                ways = bench.ways()
                peak = _measure.as_usual(partial(matrix_peak, device, precision))()
                taken: dict[str, list[float]] = {way: [] for way in ways}
                for _ in range(rounds):
                    one_round(ways, taken)
                    share = bench.operations / statistics.median(taken["compute"]) / peak
                    facts = {
                        "models": models,
                        "precision": precision,
                        "compiled": compiled,
                        "graphs": graphs,
                        "threads": threads,
                        "workers": workers,
                        "matrix_peak_tflops": peak / 1e12,
                        "share_of_matrix_peak": {str(size): share},
                    }
                    bench_name = f"pretrain-{models}" + "-compiled" * compiled
                    _measure.tell(bench_name, device, bench.rows(taken), facts, beside=True)


if __name__ == "__main__":
    typer.run(main)
