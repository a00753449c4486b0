"""Pretraining: the one visible loop (section 3 and appendix A of the paper).

Randomness is a pure function of (seed, step), so a state of weights, optimiser and counters is
all that a resumed run needs to end with the same bits as an unbroken one (on the CPU).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convirt import augment, checkpoint
from convirt.errors import InputError
from convirt.image_encoder import normalise
from convirt.objectives.convirt import convirt_loss
from convirt.pair_encoder import PairEncoder
from convirt.pairs import AUGMENT, DROPOUT, Batch, Pairs, Sentences, generator


@dataclass(frozen=True)
class TrainConfig:
    """How to pretrain; names and units as in `train` of params.yaml."""

    lr: float
    weight_decay: float
    batch_size: int
    tau: float
    lam: float
    eval_every: int
    evaluations: int
    max_passes: int
    warmup: int
    schedule: str
    patience: int
    factor: float
    checkpoint_every: int
    seed: int
    precision: str
    cache_frozen: bool


@dataclass
class Corpus:
    """What the loop reads: images, sentences, and which of them belong together.

    Attributes:
        images: (N, S, S) uint8, memory-mapped or in memory.
        boxes: (N, 4) top, left, height, width of the film inside its square.
        sentences: Tokens of the distinct sentences.
        train: Pairs to train on.
        val: Pairs to validate on.
    """

    images: np.ndarray
    boxes: np.ndarray
    sentences: Sentences
    train: Pairs
    val: Pairs


@dataclass
class Progress:
    """Everything besides weights that a resumed run has to know."""

    step: int = 0
    best_loss: float = math.inf
    best_step: int = 0
    flat: int = 0
    decays: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Result:
    """What a run ends with; the model holds the best weights.

    Attributes:
        history: One row an evaluation: step, train_loss, val_loss, lr, chance.
        best_step: Steps after which the validation loss was lowest.
        best_loss: That loss.
        steps: Steps in all.
        waiting: Share of this process's time spent waiting for data.
        rate: Pairs a second in this process.
    """

    history: list[dict[str, float]]
    best_step: int
    best_loss: float
    steps: int
    waiting: float
    rate: float


def total_steps(config: TrainConfig, pairs: int) -> int:
    """Steps of a run: `evaluations`, or fewer if `max_passes` over the corpus come first."""
    limit = config.max_passes * pairs / config.batch_size / config.eval_every
    return config.eval_every * max(1, min(config.evaluations, math.floor(limit)))


def learning_rate(config: TrainConfig, step: int, steps: int, decays: int) -> float:
    """The rate of a step.

    1. Linear warm-up over `warmup` steps (the paper has none).
    2. plateau: the base rate times `factor` for each decay (the paper's annealing).
    3. cosine: half a cosine from the base rate to zero, for short runs.
    """
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    return rate * config.factor**decays


def note_validation(progress: Progress, loss: float, config: TrainConfig) -> bool:
    """Count flat evaluations, decay the rate, and tell whether this is the best loss so far."""
    if loss < progress.best_loss:
        progress.best_loss, progress.best_step, progress.flat = loss, progress.step, 0
        return True
    progress.flat += 1
    if progress.flat >= config.patience:
        progress.decays, progress.flat = progress.decays + 1, 0
    return False


class FrozenText:
    """The frozen half of the text encoder, with its outputs kept when `keep` is set.

    A kept output is what a computed one would be, up to the rounding that padding to another
    length causes.
    """

    def __init__(self, model: PairEncoder, sentences: Sentences, keep: bool, autocast: Any) -> None:
        self.model, self.sentences, self.autocast = model, sentences, autocast
        self.kept = self._compute() if keep else None

    def _compute(self, chunk: int = 512) -> Tensor:
        """Outputs of all tokens of all sentences, back to back, (T, width)."""
        count = len(self.sentences.starts) - 1
        device = next(self.model.parameters()).device
        pieces = []
        for first in range(0, count, chunk):
            rows = np.arange(first, min(first + chunk, count))
            tokens, mask = (t.to(device) for t in self.sentences.batch(rows))
            with self.autocast():
                pieces.append(self.model.text_encoder.lower(tokens, mask)[mask].float())
        return torch.cat(pieces)

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Hidden states (N, L, width) and mask (N, L) of some sentences."""
        tokens, mask = self.sentences.batch(rows)
        device = next(self.model.parameters()).device
        if self.kept is None:
            mask = mask.to(device, non_blocking=True)
            return self.model.text_encoder.lower(tokens.to(device, non_blocking=True), mask), mask
        starts = torch.from_numpy(self.sentences.starts[rows])
        index = torch.where(mask, starts[:, None] + torch.arange(mask.shape[1]), 0).to(device)
        return self.kept[index], mask.to(device, non_blocking=True)


def pretrain(
    model: PairEncoder,
    corpus: Corpus,
    spec: augment.Augmentation,
    config: TrainConfig,
    scratch: Path | None,
    report: Callable[[dict[str, float]], None],
    device: str = "cpu",
) -> Result:
    """Train a pair encoder; afterwards it holds the weights of the best validation loss.

    Args:
        model: In its initial state.
        corpus: Images, sentences and pairs.
        spec: Ranges of the image transforms.
        config: The rest.
        scratch: Where the resume state lives; None keeps none.
        report: Called after every step with step, steps, loss (now and then), val_loss, rate
            and waiting.
        device: cpu or cuda.

    Raises:
        InputError: The resume state or the corpus cannot be used, or the loss is no longer
            finite; the last resume state is then from before.
    """
    where = torch.device(device)
    model.to(where)
    autocast = _autocast(where, config.precision)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(
        [p for _, p in trained], lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    text = FrozenText(model, corpus.sentences, config.cache_frozen, autocast)
    validation = corpus.val.fixed(config.seed, config.batch_size)
    steps = total_steps(config, corpus.train.count)
    progress, best = _resume(scratch, model, trained, optimiser)
    running = torch.zeros((), device=where)
    began, waited, first = time.perf_counter(), 0.0, progress.step

    for step, (batch, images, draws), wait in _batches(
        corpus, spec, config, progress.step, steps, where
    ):
        waited += wait
        model.train()
        torch.manual_seed(int(generator(config.seed, DROPOUT, step).integers(2**63)))
        x = augment.apply(images, draws, model.image_config.size, spec.blur_kernel)
        hidden, mask = text(batch.sentences)
        with autocast():
            v = model.project_image(model.image_encoder(normalise(x, model.image_config)))
            u = model.project_text(model.text_encoder.upper(hidden, mask))
        loss = convirt_loss(v, u, config.tau, config.lam)
        loss.backward()
        rate = learning_rate(config, step, steps, progress.decays)
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        # flush the gradients as soon as we can, no need for this memory anymore
        optimiser.zero_grad(set_to_none=True)
        running += loss.detach()

        progress.step, progress.loss_count = step + 1, progress.loss_count + 1
        seconds = time.perf_counter() - began
        status = {
            "step": progress.step,
            "steps": steps,
            "rate": (progress.step - first) * config.batch_size / seconds,
            "waiting": waited / seconds,
        }
        evaluate_now = progress.step % config.eval_every == 0
        checkpoint_now = progress.step % config.checkpoint_every == 0
        if evaluate_now or checkpoint_now:
            progress.loss_sum += float(running)  # a sync point on the GPU
            running.zero_()
            status["loss"] = progress.loss_sum / progress.loss_count
            _require_finite(status["loss"], "training", progress.step)
        if evaluate_now:
            val_loss = validate(model, corpus, validation, text, config, autocast)
            _require_finite(val_loss, "validation", progress.step)
            _log(progress, val_loss, rate, config)
            status["val_loss"] = val_loss
            if note_validation(progress, val_loss, config):
                best = _copy(model)
        if checkpoint_now and scratch is not None:
            _save(scratch, model, best, trained, optimiser, progress)
        report(status)

    model.load_state_dict(best)
    seconds = max(time.perf_counter() - began, 1e-9)
    return Result(
        history=progress.history,
        best_step=progress.best_step,
        best_loss=progress.best_loss,
        steps=steps,
        waiting=waited / seconds,
        rate=(progress.step - first) * config.batch_size / seconds,
    )


@torch.no_grad()
def validate(
    model: PairEncoder,
    corpus: Corpus,
    batches: list[Batch],
    text: FrozenText,
    config: TrainConfig,
    autocast: Any,
) -> float:
    """Mean loss over fixed batches: whole films, nothing drawn, no dropout."""
    model.eval()
    device = next(model.parameters()).device
    total = 0.0
    for batch in batches:
        images = torch.from_numpy(np.ascontiguousarray(corpus.images[batch.images])).to(device)
        theta = augment.whole(corpus.boxes[batch.images], images.shape[-1]).to(device)
        x = augment.warp(images, theta, model.image_config.size)
        hidden, mask = text(batch.sentences)
        with autocast():
            v = model.project_image(model.image_encoder(normalise(x, model.image_config)))
            u = model.project_text(model.text_encoder.upper(hidden, mask))
        total += float(convirt_loss(v, u, config.tau, config.lam))
    return total / len(batches)


def _autocast(device: torch.device, precision: str) -> Any:
    enabled = precision == "bfloat16"
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def resumed_step(scratch: Path) -> int:
    """Steps that the state in `scratch` has behind it; 0 without one."""
    state = checkpoint.read_state(scratch)
    return int(state["step"]) if state else 0


def _batches(
    corpus: Corpus,
    spec: augment.Augmentation,
    config: TrainConfig,
    first: int,
    steps: int,
    device: torch.device,
) -> Iterator[tuple[int, tuple[Batch, Tensor, augment.Draws], float]]:
    """Batches of the steps first..steps-1, made one ahead by a thread, and the wait for each."""

    def load(step: int) -> tuple[Batch, Tensor, augment.Draws]:
        batch = corpus.train.draw(config.seed, step, config.batch_size)
        images = torch.from_numpy(np.ascontiguousarray(corpus.images[batch.images]))
        rng = generator(config.seed, AUGMENT, step)
        draws = augment.draw(rng, corpus.boxes[batch.images], images.shape[-1], spec)
        if device.type == "cuda":
            images = images.pin_memory().to(device, non_blocking=True)
        return batch, images, draws.to(device)

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(load, first)
        for step in range(first, steps):
            asked = time.perf_counter()
            ready = coming.result()
            wait = time.perf_counter() - asked
            if step + 1 < steps:
                coming = pool.submit(load, step + 1)
            yield step, ready, wait


def _require_finite(loss: float, which: str, step: int) -> None:
    if not math.isfinite(loss):
        hint = "lower train.lr, raise train.tau or lengthen train.warmup in params.yaml"
        raise InputError(f"{which} loss at step {step}", "a finite number", str(loss), hint)


def _log(progress: Progress, val_loss: float, rate: float, config: TrainConfig) -> None:
    progress.history.append(
        {
            "step": progress.step,
            "train_loss": progress.loss_sum / progress.loss_count,
            "val_loss": val_loss,
            "lr": rate,
            "chance": math.log(config.batch_size),
        }
    )
    progress.loss_sum, progress.loss_count = 0.0, 0


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


Trained = list[tuple[str, nn.Parameter]]


def _save(
    scratch: Path,
    model: nn.Module,
    best: dict[str, Tensor],
    trained: Trained,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in best.items()}
    for name, parameter in trained:
        state = optimiser.state[parameter]
        tensors |= {f"adam/{key}/{name}": value for key, value in state.items()}
    state = asdict(progress)
    state["best_loss"] = state["best_loss"] if math.isfinite(state["best_loss"]) else None
    checkpoint.save_state(scratch, tensors, state)


def _resume(
    scratch: Path | None, model: nn.Module, trained: Trained, optimiser: torch.optim.Adam
) -> tuple[Progress, dict[str, Tensor]]:
    """Take up the state in `scratch` if there is one; otherwise start at step 0."""
    found = checkpoint.load_state(scratch) if scratch is not None else None
    if found is None:
        return Progress(), _copy(model)
    tensors, state = found
    if state["best_loss"] is None:
        state["best_loss"] = math.inf
    device = next(model.parameters()).device

    def part(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v.to(device) for k, v in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(part("model/"))
    keys = ("step", "exp_avg", "exp_avg_sq")
    moments = {key: part(f"adam/{key}/") for key in keys}
    for name, parameter in trained:
        if name not in moments["step"]:
            continue
        # The fused kernel walks memory: a moment has to lie in memory as its parameter does,
        # channels_last for instance, which a file does not keep.
        optimiser.state[parameter] = {
            key: moments[key][name]
            if key == "step"
            else torch.empty_like(parameter).copy_(moments[key][name])
            for key in keys
        }
    return Progress(**state), part("best/")
