"""AUROC and accuracy with 95% intervals: how well scores separate classes, and how certain that is.

The only input is the table of a run's raw test predictions: one row per image and repeat, with
the columns `repeat, image, patient, unit, y_<label>..., p_<label>...`. Scores are averaged over
the images of a unit (an image, a study or a patient) before a metric is computed. ConVIRT scores
MURA by patient (section 4.2), the MURA authors by study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convirt import bootstrap
from convirt.bootstrap import Spread
from convirt.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Metric = Callable[[Floats, Floats, Floats | None], Floats]


def auroc(y: Floats, p: Floats, weights: Floats | None = None) -> Floats:
    """Area under the ROC curve of one label: P(positive scores above negative); ties count half.

    Args:
        y: 0 or 1, (n,).
        p: Scores, (n,); only their order matters.
        weights: How often each item counts, (B, n); None counts each once.

    Returns:
        (B,), or (1,) without weights; NaN where a row of weights covers only one class.
    """
    weights = np.ones((1, len(y))) if weights is None else weights
    order = np.argsort(p, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(p[order]) > 0])  # where runs of equal scores begin
    weights = weights[:, order]
    positive = np.add.reduceat(weights * y[order], starts, axis=1)
    negative = np.add.reduceat(weights * (1 - y[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins: Floats = (positive * (below + negative / 2)).sum(axis=1)
    area: Floats = np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)
    return area


def mean_auroc(y: Floats, p: Floats, weights: Floats | None = None) -> Floats:
    """Plain mean of `auroc` over the labels; `y` and `p` are (n, L), other shapes as there."""
    values: Floats = np.mean([auroc(y[:, i], p[:, i], weights) for i in range(y.shape[1])], axis=0)
    return values


def accuracy(y: Floats, p: Floats, weights: Floats | None = None) -> Floats:
    """Share of items whose class has the highest score; of equal scores the first counts.

    `y` and `p` are (n, L), `y` one-hot; with L = 1 the classes are p < 0.5 and p >= 0.5.
    Other shapes are as in `auroc`.
    """
    if y.shape[1] == 1:
        right = (p[:, 0] >= 0.5) == (y[:, 0] > 0.5)
    else:
        right = p.argmax(axis=1) == y.argmax(axis=1)
    weights = np.ones((1, len(y))) if weights is None else weights
    share: Floats = weights @ right.astype(np.float64) / weights.sum(axis=1)
    return share


METRICS: dict[str, Metric] = {"auroc": mean_auroc, "accuracy": accuracy}


@dataclass(frozen=True)
class Units:
    """The U units that are scored, each an image, a study or a patient; they hold n images.

    Attributes:
        of_image: The unit of each image, (n,).
        patient: The patient of each unit as a number below `patients`, (U,).
        patients: How many patients there are.
        y: 0 or 1 for each unit and label, (U, L): positive if any of its images is.
    """

    of_image: Ints
    patient: Ints
    patients: int
    y: Floats

    def average(self, scores: Floats) -> Floats:
        """Mean over the images of each unit: (n, L) to (U, L)."""
        total = np.zeros_like(self.y)
        np.add.at(total, self.of_image, scores)
        return total / np.bincount(self.of_image)[:, None]


def group(unit: Sequence[str], patient: Sequence[str], y: Floats) -> Units:
    """Group images by unit; units and patients are numbered in the order of their names.

    Args:
        unit: Name of each image's unit, of length n.
        patient: Name of each image's patient, of length n; the images of a unit share it.
        y: Labels of the images, (n, L).
    """
    _, first, of_image = np.unique(np.asarray(unit, str), return_index=True, return_inverse=True)
    patients, number = np.unique(np.asarray(patient, str), return_inverse=True)
    unit_y = np.zeros((len(first), y.shape[1]))
    np.maximum.at(unit_y, of_image, y)
    return Units(of_image, number[first], len(patients), unit_y)


def check_classes(y: Floats, labels: Sequence[str], metric: str, where: Path | str) -> None:
    """Refuse a set of labelled images on which `metric` is not defined.

    AUROC needs both classes of every label, accuracy at least two classes in all.

    Raises:
        InputError: A label has only one class, or there is no image; `where` names the set.
    """
    share = y.sum(axis=0) / max(1, len(y))
    lone = [name for name, part in zip(labels, share, strict=True) if part in (0.0, 1.0)]
    if len(y) and (not lone or (metric == "accuracy" and y.max(axis=0).sum() > 1)):
        return
    found = f"only one class of {', '.join(lone)} in {len(y)} images" if len(y) else "no image"
    raise InputError(
        where,
        f"both classes of each label ({', '.join(labels)})",
        found,
        "add images of the missing class, or take the label out of tasks.<name>.labels",
    )


@dataclass(frozen=True)
class Estimate:
    """A value between 0 and 1 (or a difference of two), with its 95% intervals.

    Attributes:
        value: Mean over the repeats.
        low: Lower end of the interval over patients and repeats: the one that tables show.
        high: Its upper end.
        patients: Number of test patients.
        fewest: Number of patients of the rarest class, if the metric needs both classes of a label;
            else of all. With fewer than ten an interval is too narrow.
        repeats: The value of each repeat.
        over_patients: The interval over patients alone, with the repeats as they are.
        over_repeats: The spread of the repeats, with the patients as they are; None for a single
            repeat.
    """

    value: float
    low: float
    high: float
    patients: int
    fewest: int
    repeats: tuple[float, ...]
    over_patients: tuple[float, float]
    over_repeats: Spread | None


def as_json(result: Estimate, resamples: int) -> dict[str, Any]:
    """An estimate for a JSON file, with a sentence on how each interval was computed."""
    count = len(result.repeats)
    way = f"95% bootstrap interval, {resamples} resamples of the test patients"
    spread = result.over_repeats
    return {
        "value": result.value,
        "low": result.low,
        "high": result.high,
        "how": f"{way}, with Student's t of the {count} repeats"
        if spread
        else f"{way}, one repeat",
        "patients_test": result.patients,
        "patients_fewest": result.fewest,
        "repeats": list(result.repeats),
        "over_patients": {
            "low": result.over_patients[0],
            "high": result.over_patients[1],
            "how": f"{way}, the repeats as they are",
        },
        "over_repeats": spread
        and {
            **asdict(spread),
            "how": f"95% interval of Student's t, {count - 1} degrees of freedom, "
            "the test patients as they are",
        },
    }


def estimate(predictions: pd.DataFrame, metric: str, resamples: int, seed: int) -> Estimate:
    """The metric of one run, mean over its R repeats, with bootstrap intervals.

    Patients, not images, are drawn with replacement, because the images of a patient are not
    independent; a resample takes the same patients in every repeat. `repeat_noise`, which is what
    other repeats (other labels, head and order) might have added, is added to each resample's mean.
    The 2.5 and 97.5 percentiles of these sums, within 0 and 1, are the interval: what the mean over
    R repeats might have been with other patients and other draws. With one repeat it is the
    interval over patients alone. A resample in which a label has only one class has no AUROC and is
    drawn again.

    Args:
        predictions: See the top of this file.
        metric: A name of `METRICS`.
        resamples: How many resamples of the patients.
        seed: Of the resamples.
    """
    return _bootstrap([predictions], metric, resamples, seed)


def paired_difference(
    a: pd.DataFrame, b: pd.DataFrame, metric: str, resamples: int, seed: int
) -> Estimate:
    """The metric of run `a` minus that of run `b` on the same test images.

    Each resample takes the same patients for both runs, so what makes a patient easy or hard for
    both cancels. If both have equally many repeats, the noise of repeats is that of their paired
    differences (repeat i has the same seed in both), and `repeats` holds one difference per repeat;
    otherwise it holds the mean difference alone. Rows may be in any order; else as `estimate`.

    Raises:
        ValueError: The two runs were tested on different images, units, patients or labels.
    """
    mine = _first_repeat(a)
    keys = ["image", "patient", "unit", *(f"y_{label}" for label in _labels(a))]
    for table in (a, b):
        for _, repeat in table.groupby("repeat"):
            theirs = repeat.sort_values("image").reindex(columns=keys).reset_index(drop=True)
            if not theirs.equals(mine[keys]):
                raise ValueError("paired runs have to be tested on the same images and labels")
    return _bootstrap([a, b], metric, resamples, seed)


def _bootstrap(runs: list[pd.DataFrame], metric: str, resamples: int, seed: int) -> Estimate:
    """`estimate` of one run, or of the first minus the second."""
    first = _first_repeat(runs[0])
    labels = _labels(first)
    y = first[[f"y_{label}" for label in labels]].to_numpy(np.float64)
    units = group(first["unit"].tolist(), first["patient"].tolist(), y)
    check_classes(units.y, labels, metric, "test predictions")
    scores = [_scores(run, labels, units) for run in runs]

    def each(weights: Floats | None) -> list[Floats]:
        """The metric by run, repeat and resample: one (repeats, B) per run."""
        return [np.stack([METRICS[metric](units.y, p, weights) for p in run]) for run in scores]

    def contrast(means: list[Floats]) -> Floats:
        """The first run, or the first minus the second: (B,)."""
        return means[0] if len(means) == 1 else means[0] - means[1]

    whole = each(None)
    blocks = [each(w) for w in bootstrap.resample(units, metric == "auroc", resamples, seed)]
    values = [np.concatenate(parts, axis=1) for parts in zip(*blocks, strict=True)]
    fixed = contrast([value.mean(axis=0) for value in values])
    value = contrast([value.mean(axis=0) for value in whole])
    by_run = [run[:, 0] for run in whole]
    paired = len({len(run) for run in by_run}) == 1
    repeats = contrast(by_run) if paired else value
    noise = bootstrap.repeat_noise([repeats] if paired else by_run, resamples, seed)
    drawn = np.clip(fixed + noise, 1 - len(runs), 1)  # a difference may be as low as -1
    return Estimate(
        float(value[0]),
        *bootstrap.interval(drawn),
        units.patients,
        _fewest(units) if metric == "auroc" else units.patients,
        tuple(map(float, repeats)),
        bootstrap.interval(fixed),
        bootstrap.spread(repeats) if len(repeats) > 1 else None,
    )


def _fewest(units: Units) -> int:
    """Number of patients of the rarest class, over all labels and both their classes."""
    return min(
        len(np.unique(units.patient[column == value])) for column in units.y.T for value in (0, 1)
    )


def _scores(run: pd.DataFrame, labels: list[str], units: Units) -> list[Floats]:
    """Scores of the units, (U, L), one array per repeat."""
    columns = [f"p_{label}" for label in labels]
    repeats = [rows.sort_values("image") for _, rows in run.groupby("repeat", sort=True)]
    return [units.average(rows[columns].to_numpy(np.float64)) for rows in repeats]


def _labels(predictions: pd.DataFrame) -> list[str]:
    """The labels of a table of predictions, in its column order."""
    return [name[2:] for name in predictions.columns if name.startswith("y_")]


def _first_repeat(predictions: pd.DataFrame) -> pd.DataFrame:
    """The rows of the lowest repeat, sorted by image."""
    rows: pd.DataFrame = predictions[predictions["repeat"] == predictions["repeat"].min()]
    return rows.sort_values("image").reset_index(drop=True)
