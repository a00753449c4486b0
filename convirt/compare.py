"""Intervals of Precision@k over queries, and of its difference between two systems.

`metrics.py` does the same for classification, over patients. Here queries are resampled: a
system's rankings give for each query how many of its k nearest candidates are right.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convirt import bootstrap
from convirt.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

TOLERANCE = 1e-9  # between the precision in a JSON file and in the rankings beside it


class Interval(NamedTuple):
    """A value, or a difference of two, with its 95% interval; fractions between 0 and 1."""

    value: float
    low: float
    high: float


class Queries(NamedTuple):
    """The Q queries of a search, in the order of the file, and their hits.

    Attributes:
        names: Names of images, or sentences; sentences may repeat.
        hits: Whether the candidate at each rank has the query's class, (Q, depth).
    """

    names: tuple[str, ...]
    hits: NDArray[np.bool_]


def queries(rankings: pd.DataFrame, direction: str, where: Path | str, made_by: str) -> Queries:
    """The searches of one direction in a system's rankings.parquet.

    Raises:
        InputError: The table is not one block of ranks 1, 2, ... per query; `where` names it, and
            `made_by` the DVC stage that writes it.
    """
    rows = rankings[rankings["direction"] == direction]
    rank = rows["rank"].to_numpy()
    starts = np.flatnonzero(rank == 1)
    depth = len(rows) // max(1, len(starts))
    if not len(starts) or not np.array_equal(rank, np.tile(np.arange(1, depth + 1), len(starts))):
        raise InputError(
            where,
            f"rankings of the direction {direction}, one block of ranks 1, 2, ... per query",
            f"{len(rows)} rows, {len(starts)} of rank 1",
            f"dvc repro -f {made_by}",
        )
    names = tuple(rows["query"].to_numpy(str)[starts].tolist())
    return Queries(names, rows["right"].to_numpy(bool).reshape(len(starts), depth))


def precision(found: Queries, k: int, stated: float, where: Path | str, made_by: str) -> Floats:
    """Precision@k of each query, (Q,), whose mean has to equal `stated`.

    Raises:
        InputError: It does not, or fewer than k candidates were kept: the files come from different
            runs. `where` names them, and `made_by` the DVC stage that writes them.
    """
    depth = found.hits.shape[1]
    values: Floats = found.hits[:, :k].mean(axis=1, dtype=np.float64)
    if k > depth or abs(values.mean() - stated) > TOLERANCE:
        raise InputError(
            where,
            f"rankings with Precision@{k} {stated:.4f}, as their JSON says",
            f"depth {depth}" if k > depth else f"{values.mean():.4f}",
            f"dvc repro -f {made_by}",
        )
    return values


def interval(values: Floats, resamples: int, seed: int) -> Interval:
    """Mean over queries, with the 2.5 and 97.5 percentiles of resampling them with replacement.

    The same seed and number of queries draw the same queries, so the interval of `a - b` is that
    of a paired difference.

    Args:
        values: One per query, (Q,).
        resamples: How many.
        seed: Of the draws.
    """
    count, rng = len(values), np.random.default_rng(seed)
    block = max(1, bootstrap.BLOCK // count)
    means = [
        values[rng.integers(0, count, (min(block, resamples - first), count))].mean(axis=1)
        for first in range(0, resamples, block)
    ]
    return Interval(float(values.mean()), *bootstrap.interval(np.concatenate(means)))


def correlation(x: NDArray[np.floating], y: NDArray[np.floating]) -> tuple[float, float] | None:
    """Pearson's and Spearman's correlation over the pairs in which both values are finite.

    None if there are fewer than 3 such pairs, or one side does not vary.
    """
    from scipy.stats import rankdata

    whole = np.isfinite(x) & np.isfinite(y)
    x, y = x[whole], y[whole]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    ranks = np.corrcoef(rankdata(x), rankdata(y))[0, 1]
    return float(np.corrcoef(x, y)[0, 1]), float(ranks)
