"""Nearest candidates by an approximate index, HNSW (Malkov and Yashunin 2016, arXiv 1603.09320).

A graph links each vector to near ones. The search walks it towards the query and looks at few
candidates. HNSW rather than an inverted file (IVF), because it reaches the same recall with fewer
cosines and without cells, which would have to be trained, and their number chosen, for each set.

Some of the nearest are missed: `convirt.retrieval.recall_at_k` measures which share is found. The
graph costs time and memory before the first query; it pays where there are very many queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convirt import retrieval
from convirt.retrieval import Floats, Ints

if TYPE_CHECKING:
    import faiss

LINKS = 32  # from a vector to others, M; twice as many in the lowest layer
WIDTH = 100  # candidates in view while a vector is linked, efConstruction
BEAM = 256  # candidates in view while a query is answered, efSearch; at least 2 k
QUERIES = 256  # answered together


def top_k(
    queries: NDArray[np.floating], candidates: NDArray[np.floating], k: int, threads: int = 1
) -> Ints:
    """Find approximately the k candidates nearest to each query by cosine, nearest first.

    The candidates found are ordered as by `convirt.retrieval.top_k`: by cosines in double
    precision, ties by the lower index. Which of several equally near candidates are found depends
    on the graph. The same input gives the same ranking, whatever the number of threads.

    Args:
        queries: (Q, D), any length but zero.
        candidates: (C, D), likewise; may be a memory map, the index holds a copy in float32.
        k: At most C.
        threads: Threads that answer queries; one thread builds the graph.

    Returns:
        Indices of candidates, (Q, k), without repetition in a row.

    Raises:
        InputError: There are fewer than k candidates, or a number is not finite.
    """
    retrieval.require(k, len(candidates))
    return search(build(candidates), queries, candidates, k, threads)


def build(candidates: NDArray[np.floating]) -> faiss.IndexHNSWFlat:
    """Build the graph over candidates (C, D), scaled to length 1; one thread, hence reproducible.

    Raises:
        InputError: A number is not finite.
    """
    import faiss

    index = faiss.IndexHNSWFlat(candidates.shape[1] + 1, LINKS, faiss.METRIC_L2)
    index.hnsw.efConstruction = WIDTH
    with _threads(1):  # several would link vectors in the order in which they finish
        for start in range(0, len(candidates), retrieval.BLOCK):
            index.add(_points(candidates[start : start + retrieval.BLOCK]))
    return index


def search(
    index: faiss.IndexHNSWFlat,
    queries: NDArray[np.floating],
    candidates: NDArray[np.floating],
    k: int,
    threads: int = 1,
) -> Ints:
    """Like `top_k`, with the index that `build` returned for the same candidates."""
    import faiss

    depth = min(2 * k, len(candidates))  # more than k, to choose among equally near ones
    settings = faiss.SearchParametersHNSW(efSearch=max(BEAM, depth))
    rows = [np.empty((0, k), np.int64)]
    for start in range(0, len(queries), QUERIES):
        block = queries[start : start + QUERIES]
        with _threads(threads):
            _, found = index.search(_points(block), depth, params=settings)
        for one, near in zip(retrieval.unit(block), found, strict=True):
            rows.append(_in_order(one, np.sort(near[near >= 0]), candidates, k)[None])
    return np.concatenate(rows)


def _points(x: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows (N, D + 1) whose squared distances are 2 - 2 cosine.

    Distances, since in float32 they still distinguish vectors whose products are all nearly 1. A
    zero row has cosine 0 to all others, hence an axis of its own.
    """
    rows = retrieval.unit(x)
    return np.column_stack([rows, ~rows.any(axis=1)]).astype(np.float32)


def _in_order(query: Floats, found: Ints, candidates: NDArray[np.floating], k: int) -> Ints:
    """The k nearest (k,) of `found` (ascending), or of all candidates if too few were found."""
    if len(found) < k:  # parts of the graph may be out of reach, as among many equal vectors
        found = retrieval.top_k(query[None], candidates, k)[0]
    cosine = np.round(retrieval.unit(candidates[found]) @ query, retrieval.DECIMALS)
    order: Ints = found[np.argsort(-cosine, kind="stable")[:k]]
    return order


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Use `count` OpenMP threads, then restore: torch may share the setting with faiss."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
