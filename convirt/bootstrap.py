"""Resamples of test patients and of repeats, and the 95% intervals that come of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convirt.errors import InputError

if TYPE_CHECKING:
    from convirt.metrics import Units

Floats = NDArray[np.float64]

BLOCK = 4_000_000  # weights held at once, so that 2,000 resamples of 25,000 units fit in memory
REDRAWS = 200  # a resample that lacks a class is drawn anew at most so often
REPEATS = 1  # tells the draws of repeats from those of patients


# ------------------------------------------------------------------------------ patients
def resample(units: Units, both: bool, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks of weights (b, U): how often each unit's patient was drawn, b's summing up.

    With `both`, every row holds both classes of every label.
    """
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // max(units.patients, len(units.patient)))
    for start in range(0, resamples, block):
        weights = _draw(rng, units, min(block, resamples - start))
        for _ in range(REDRAWS):
            positive = weights @ units.y
            lacks = (positive == 0) | (positive == weights.sum(axis=1, keepdims=True))
            bad = np.flatnonzero(lacks.any(axis=1)) if both else np.empty(0, np.int64)
            if not len(bad):
                break
            weights[bad] = _draw(rng, units, len(bad))
        else:
            raise InputError(
                "test predictions",
                "enough patients of each class for a bootstrap",
                f"a resample without both classes, {REDRAWS} times in a row",
                "use a test set with more patients of the rare class",
            )
        yield weights


def _draw(rng: np.random.Generator, units: Units, count: int) -> Floats:
    """Draw as many patients as there are with replacement, `count` times: weights (count, U)."""
    size = units.patients
    drawn = rng.integers(0, size, (count, size)) + np.arange(count)[:, None] * size
    times = np.bincount(drawn.ravel(), minlength=count * size).reshape(count, size)
    return times[:, units.patient].astype(np.float64)


# ------------------------------------------------------------------------------ repeats
def repeat_weights(counts: list[int], resamples: int, seed: int) -> list[Floats]:
    """For each run of R repeats their weights in each resample, (R, resamples): R - 1 are drawn."""
    if len(set(counts)) == 1:
        return [_repeats_drawn(counts[0], resamples, seed, 0)] * len(counts)
    return [_repeats_drawn(count, resamples, seed, i) for i, count in enumerate(counts)]


def _repeats_drawn(count: int, resamples: int, seed: int, run: int) -> Floats:
    if count == 1:
        return np.ones((1, resamples))
    rng = np.random.default_rng([seed, REPEATS, run])  # apart from the draws of patients
    drawn = rng.integers(0, count, (resamples, count - 1)) + np.arange(resamples)[:, None] * count
    times = np.bincount(drawn.ravel(), minlength=resamples * count).reshape(resamples, count)
    return times.T / (count - 1)


# ------------------------------------------------------------------------------ intervals
def interval(draws: Floats) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of what resamples gave."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def spread(repeats: Floats) -> Spread:
    """How far apart two or more repeats lie."""
    from scipy.special import stdtrit

    count, mean, sd = len(repeats), float(repeats.mean()), float(repeats.std(ddof=1))
    half = float(stdtrit(count - 1, 0.975)) * sd / math.sqrt(count)
    return Spread(mean, sd, mean - half, mean + half)


@dataclass(frozen=True)
class Spread:
    """How far R > 1 repeats lie apart.

    Attributes:
        mean: Of the repeats.
        sd: Their standard deviation, R - 1 in the denominator.
        low: Lower end of Student's 95% interval of the mean, the test patients as they are.
        high: Its upper end.
    """

    mean: float
    sd: float
    low: float
    high: float
