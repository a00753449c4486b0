"""Zero-shot retrieval (section 4.2 of the paper): exact nearest candidates, and Precision@k."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convirt.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ranker = Callable[[NDArray[np.floating], NDArray[np.floating], int], Ints]  # as `top_k`

CHUNK = 1 << 24  # similarities in memory at a time
BLOCK = 1 << 13  # candidates scaled to length 1 at a time
DECIMALS = 12  # of a cosine; a difference beyond them is a tie
SAMPLE = 1000  # most queries on which the recall of an approximate ranking is measured


def top_k(queries: NDArray[np.floating], candidates: NDArray[np.floating], k: int) -> Ints:
    """The k candidates nearest to each query by cosine, nearest first.

    Exact: all candidates are compared. Of equally near candidates the one with the lower index
    comes first; cosines are computed in double precision and rounded, so that equal embeddings tie
    whatever the order in which a matrix product sums.

    Candidates are read block by block, once per `CHUNK / BLOCK` queries, so that the memory besides
    the two arrays does not grow with their number, and they may be a memory map.

    Args:
        queries: (Q, D), any length but zero.
        candidates: (C, D), likewise.
        k: At most C.

    Returns:
        Indices of candidates, (Q, k).

    Raises:
        InputError: There are fewer than k candidates, or a number is not finite.
    """
    require(k, len(candidates))
    step = max(1, CHUNK // BLOCK)
    return np.concatenate(
        [
            _nearest(unit(queries[start : start + step]), candidates, k)
            for start in range(0, len(queries), step)
        ]
        or [np.empty((0, k), np.int64)]
    )


def _nearest(q: Floats, candidates: NDArray[np.floating], k: int) -> Ints:
    """Indices (Q, k) of the candidates nearest to unit vectors q, all queries together."""
    cosine = np.full((len(q), k), -np.inf)  # of the best so far, nearest first
    index = np.zeros((len(q), k), np.int64)
    for start in range(0, len(candidates), BLOCK):
        block = np.round(q @ unit(candidates[start : start + BLOCK]).T, DECIMALS)
        for i, row in enumerate(block):
            # a candidate that only equals the k-th best comes later in the order, so it loses
            near = np.flatnonzero(row > cosine[i, -1])
            if len(near) > k:
                kth = np.partition(row[near], len(near) - k)[len(near) - k]
                near = near[row[near] >= kth]
            if len(near):
                both = np.concatenate([cosine[i], row[near]])
                first = np.argsort(-both, kind="stable")[:k]
                cosine[i] = both[first]
                index[i] = np.concatenate([index[i], start + near])[first]
    return index


def require(k: int, candidates: int) -> None:
    """Refuse a k above the number of candidates.

    Raises:
        InputError: There are fewer than k candidates.
    """
    if k > candidates:
        raise InputError(
            "params.yaml: retrieval.k",
            f"at most {candidates}, the number of candidates",
            str(k),
            "lower it, or add candidates",
        )


def unit(x: NDArray[np.floating]) -> Floats:
    """Rows of length 1, in double precision; a zero row stays zero.

    Raises:
        InputError: A number is not finite.
    """
    rows = x.astype(np.float64)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(length).all():
        hint = "the encoder that made them is broken: look at its loss, and train it again"
        raise InputError("embeddings", "finite numbers", "NaN or infinity", hint)
    scaled: Floats = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return scaled


def precision_at_k(
    ranking: Ints, query_labels: NDArray[np.str_], candidate_labels: NDArray[np.str_], k: int
) -> float:
    """Share of the k nearest candidates that carry the query's label, mean over queries.

    If 2 queries are labelled `[a, b]`, 4 candidates `[a, b, a, b]`, and `ranking` is::

        [[2, 1, 0, 3],      labels a b a b, wanted a: right wrong right wrong
         [2, 3, 1, 0]]      labels a b b a, wanted b: wrong right right wrong

    then Precision@1 is (1 + 0) / 2 = 0.5, Precision@2 (1/2 + 1/2) / 2 = 0.5 and Precision@3
    (2/3 + 2/3) / 2 = 0.667.

    Args:
        ranking: Indices of candidates, nearest first, (Q, K).
        query_labels: (Q,).
        candidate_labels: (C,).
        k: At most K.
    """
    if not 1 <= k <= ranking.shape[1]:
        raise ValueError(f"k has to be between 1 and {ranking.shape[1]}, not {k}")
    right = candidate_labels[ranking[:, :k]] == query_labels[:, None]
    return float(right.mean())


def recall_at_k(approximate: Ints, exact: Ints) -> float:
    """Share of the k nearest candidates that an approximate ranking contains, in any order.

    If `exact` is `[[4, 2], [7, 1]]` and `approximate` is `[[2, 5], [7, 1]]`, then one of two and
    two of two were found, and the recall is 3/4. A candidate found instead of an equally near one
    counts as a miss.

    Args:
        approximate: Indices of candidates, (Q, k).
        exact: Those of `top_k` for the same queries, (Q, k).

    Raises:
        ValueError: The shapes differ.
    """
    if approximate.shape != exact.shape:
        raise ValueError(f"rankings of different shapes: {approximate.shape}, {exact.shape}")
    found = (exact[:, :, None] == approximate[:, None, :]).any(axis=2)
    return float(found.mean())


def chance(query_labels: NDArray[np.str_], candidate_labels: NDArray[np.str_]) -> float:
    """Precision@k of a random ranking: how common a query's label is, mean over queries.

    Raises:
        InputError: No candidate has a query's label, so that the query has no right answer.
    """
    names, counts = np.unique(candidate_labels, return_counts=True)
    share = dict(zip(names.tolist(), (counts / len(candidate_labels)).tolist(), strict=True))
    if lone := sorted(set(query_labels.tolist()) - set(share)):
        raise InputError(
            "retrieval queries",
            f"labels of candidates: {', '.join(share)}",
            f"queries labelled {', '.join(lone)}",
            "correct the labels, or add candidates of that class",
        )
    return float(np.mean([share[label] for label in query_labels.tolist()]))


def highest(
    query_labels: NDArray[np.str_], candidate_labels: NDArray[np.str_], ks: tuple[int, ...]
) -> dict[int, float]:
    """Precision@k of a perfect ranking for each k, mean over queries, whose labels all occur."""
    names, counts = np.unique(candidate_labels, return_counts=True)
    there = counts[np.searchsorted(names, query_labels)]
    return {k: float(np.minimum(there, k).mean() / k) for k in ks}


@dataclass(frozen=True)
class Retrieval:
    """The rankings of a set of queries and their scores.

    Attributes:
        ranking: Indices of candidates, nearest first, (Q, max(k)).
        precision: Precision@k by k.
        chance: Precision@k of a random ranking.
        highest: By k the highest possible Precision@k: less than 1 if classes have fewer than k
            candidates.
        recall: Of an approximate ranking, at max(k); None if it is exact.
    """

    ranking: Ints
    precision: dict[int, float]
    chance: float
    highest: dict[int, float]
    recall: float | None = None


def retrieve(
    queries: NDArray[np.floating],
    candidates: NDArray[np.floating],
    query_labels: NDArray[np.str_],
    candidate_labels: NDArray[np.str_],
    ks: tuple[int, ...],
    approximate: Ranker | None = None,
) -> Retrieval:
    """Rank the candidates for each query and score the rankings; shapes as above.

    If given, `approximate` ranks instead of `top_k`, and `top_k` measures its recall on at most
    `SAMPLE` evenly spaced queries.
    """
    expected = chance(query_labels, candidate_labels)
    ranking = (approximate or top_k)(queries, candidates, max(ks))
    precision = {k: precision_at_k(ranking, query_labels, candidate_labels, k) for k in ks}
    most = highest(query_labels, candidate_labels, ks)
    if approximate is None:
        return Retrieval(ranking, precision, expected, most)
    some = np.linspace(0, len(queries) - 1, min(len(queries), SAMPLE)).astype(np.int64)
    recall = recall_at_k(ranking[some], top_k(queries[some], candidates, max(ks)))
    return Retrieval(ranking, precision, expected, most, recall)
