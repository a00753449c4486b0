"""The course of pretraining as plain numbers: its settings, its steps, its rates, its progress."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TrainConfig:
    """How to pretrain; names and units as in params.yaml, mostly its block `train`."""

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
    milestones: tuple[float, ...]
    optimiser: str
    keep_every: int
    checkpoint_every: int
    chunk: int
    seed: int
    precision: str
    compile: bool
    graphs: bool
    cache_frozen: bool


@dataclass
class Progress:
    """Everything that a resumed run has to know besides the weights and the optimiser.

    Attributes:
        step: Steps done.
        best_cost: Lowest criterion so far, negated if larger is better.
        best_step: The step at which it was reached.
        best_loss: Lowest validation loss so far, which controls the learning rate.
        flat: Evaluations since that loss, or since the last decay of the rate.
        decays: How often the rate has decayed.
        sums: Loss and logged values, summed since the last evaluation.
        count: Number of steps in `sums`.
        history: One row per evaluation.
    """

    step: int = 0
    best_cost: float = math.inf
    best_step: int = 0
    best_loss: float = math.inf
    flat: int = 0
    decays: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    history: list[dict[str, float | None]] = field(default_factory=list)


def total_steps(config: TrainConfig, pairs: int) -> int:
    """Steps of a run: `evaluations` intervals, or fewer if `max_passes` over the corpus come first.

    Always whole intervals of `eval_every` steps, and at least one.
    """
    limit = config.max_passes * pairs / config.batch_size / config.eval_every
    return config.eval_every * max(1, min(config.evaluations, math.floor(limit)))


def doubts(config: TrainConfig, pairs: int) -> Iterator[str]:
    """Warnings about a run over `pairs` training pairs, before it starts; none of them stops it."""
    steps = total_steps(config, pairs)
    passes = steps * config.batch_size / pairs
    if passes > config.max_passes:
        yield (
            f"the run of {steps} steps is {passes:.1f} passes over {pairs} pairs, more than "
            f"train.max_passes ({config.max_passes}): it is one evaluation at least. "
            "Lower train.eval_every"
        )
    if config.warmup >= steps:
        yield (
            f"the rate only rises: train.warmup ({config.warmup}) is not below the {steps} steps "
            "of the run. Lower it, or raise train.evaluations or train.max_passes"
        )


def learning_rate(config: TrainConfig, step: int, steps: int, decays: int) -> float:
    """The learning rate of a step: a linear warm-up, times one of the schedules.

    1. Linear warm-up over `warmup` steps (the paper has none).
    2. plateau: the base rate times `factor` for each decay (the paper's annealing).
    3. cosine: half a cosine from the base rate to zero, for short runs.
    4. steps: the base rate times `factor` from each of the `milestones` (shares of the run) on.
    """
    rate = config.lr * min(1.0, (step + 1) / max(1, config.warmup))
    if config.schedule == "cosine":
        return rate * 0.5 * (1 + math.cos(math.pi * step / steps))
    if config.schedule == "steps":
        decays = sum(step >= share * steps for share in config.milestones)
    return rate * config.factor**decays


def note_validation(progress: Progress, cost: float, loss: float, config: TrainConfig) -> bool:
    """Count flat evaluations, decay the rate, and return whether this is the lowest cost so far.

    The rate follows the loss, whatever criterion chooses the best state: a criterion such as CIDEr
    is noisy, and its rare records would bring the rate of a run that still learns to zero.
    """
    if loss < progress.best_loss:
        progress.best_loss, progress.flat = loss, 0
    else:
        progress.flat += 1
    if progress.flat >= config.patience:
        progress.decays, progress.flat = progress.decays + 1, 0
    if cost >= progress.best_cost:
        return False
    progress.best_cost, progress.best_step = cost, progress.step
    return True
