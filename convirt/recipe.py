"""The stateless parts of a transfer run: its numbers, order, schedule and loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from convirt.metrics import Floats, Ints


@dataclass(frozen=True)
class Recipe:
    """How one run is trained; `lr` and `head_lr` are rates, `patience` and `stop` count epochs.

    Attributes:
        protocol: "finetune" or "linear".
        kind: "multiclass" has a softmax and one-hot labels, "binary" and "multilabel" one sigmoid
            per label.
        metric: The validation criterion, a name of `metrics.METRICS`.
        head_steps, head_lr: For fine-tuning only.
        bfloat16: Autocast in training steps. Scores are always computed in float32, since 8 bits of
            mantissa would give ties.
    """

    protocol: str
    kind: str
    metric: str
    lr: float
    batch_size: int
    weight_decay: float
    dropout: float
    patience: int
    factor: float
    stop: int
    max_epochs: int
    seed: int
    head_steps: int = 0
    head_lr: float = 0.0
    device: str = "cpu"
    bfloat16: bool = False


def torch_seed(*parts: int) -> int:
    """A seed for torch, derived from (seed, phase, epoch, batch)."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def batches(n: int, size: int, *key: int) -> list[Ints]:
    """A permutation of n items in ceil(n / size) parts that differ by at most one in length.

    So every item is seen once per epoch, and BatchNorm never gets a last batch of one image.
    """
    order = np.random.default_rng(key).permutation(n)
    return np.array_split(order, math.ceil(n / size))


@dataclass(frozen=True, order=True)
class Score:
    """Validation after an epoch: the higher metric wins, and the lower loss breaks a tie."""

    value: float
    minus_loss: float


def plan(history: Sequence[Score], recipe: Recipe) -> tuple[int, float, bool]:
    """The state of training after the validations in `history`.

    Returns:
        The position of the best one (the first of equals); the learning rate of the next epoch,
        lowered after each `patience` epochs without a new best; and whether training is over, after
        `stop` epochs without a new best.
    """
    best, flat, lr = 0, 0, recipe.lr
    for i, score in enumerate(history):
        if i == 0 or score > history[best]:
            best, flat = i, 0
            continue
        flat += 1
        if flat % recipe.patience == 0:
            lr *= recipe.factor
    return best, lr, flat >= recipe.stop


def loss_of(logits: Tensor, y: Tensor, kind: str) -> Tensor:
    """Cross entropy for one-hot classes, else binary cross entropy; mean over items and labels."""
    if kind == "multiclass":
        return F.cross_entropy(logits, y)
    return F.binary_cross_entropy_with_logits(logits, y)


def probabilities(logits: Tensor, kind: str) -> Floats:
    """Logits (n, L) to probabilities, in double precision so that confident ones do not tie."""
    logits = logits.double()
    p = logits.softmax(dim=1) if kind == "multiclass" else logits.sigmoid()
    return cast(Floats, p.numpy())
