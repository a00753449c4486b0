"""Retrieval over growing numbers of candidates: ours, faiss's exact search, and an HNSW index.

    python -m bench.retrieve                        # 1,000 to 1,000,000 candidates, HNSW to 100,000
    python -m bench.retrieve --most 100000 --most-hnsw 1000000      # HNSW: hours on 2 cores

- **ours** is `convirt.retrieval.top_k`, exact, in double precision, with the rule for ties; the
  candidates are in a memory-mapped file, however many they are.
- **plain** is `faiss.IndexFlatIP`, exact in float32 and in the order that it happens to find; it
  holds all candidates in memory, already normalised, which takes no part of the time.
- **compute only** is the matrix product alone, in our precision, block by block.

There are 40 queries, as many as the paper's text queries, and embeddings are 512 wide. Memory is
what our way allocated beside the mapped candidates (tracemalloc). A plot of the growth is saved
beside the JSON, which is written after each number of candidates.

The rows named HNSW measure `convirt.approximate` on other candidates, since pure noise has no near
neighbours: 8 clusters, as many as the paper's retrieval set has classes, with noise as wide as the
centres are apart. Building the index has a row of its own and uses one thread. The row for
answering has faiss's exact search as its plain way, and in its name the share of the 10 nearest
candidates, of those by `convirt.retrieval.top_k`, that it finds. Memory is the peak resident size
of the process so far. A second plot shows both ways of answering.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import typer

from bench import _measure
from convirt import approximate, retrieval
from convirt.results import plots

MOST: int = typer.Option(1_000_000, min=1000, help="Largest number of candidates.")
MOST_HNSW: int = typer.Option(100_000, min=1000, help="The same for the HNSW index.")
ROUNDS: int = typer.Option(3, min=1, help="Rounds.")
QUERIES, WIDTH, K = 40, 512, 50
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
CLUSTERS = 8
MANY, NEAR = 1_000, 10  # queries of the HNSW index, and the k of its recall


def write(path: Path, count: int) -> np.ndarray:
    """Random embeddings in a memory-mapped file."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (count, WIDTH))
    rng = np.random.default_rng(0)
    for start in range(0, count, 50_000):
        block = array[start : start + 50_000]
        block[:] = rng.standard_normal(block.shape, np.float32)
    array.flush()
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def flat(candidates: np.ndarray) -> Any:
    """All candidates, normalised, in faiss's index for exact search."""
    index = faiss.IndexFlatIP(candidates.shape[1])
    for start in range(0, len(candidates), retrieval.BLOCK):
        block = np.array(candidates[start : start + retrieval.BLOCK])
        faiss.normalize_L2(block)
        index.add(block)
    return index


def plain(queries: np.ndarray, index: Any, k: int) -> np.ndarray:
    q = queries.copy()
    faiss.normalize_L2(q)
    order: np.ndarray = index.search(q, k)[1]
    return order


def product(queries: np.ndarray, candidates: np.ndarray) -> None:
    q = queries.astype(np.float64)
    for start in range(0, len(candidates), retrieval.BLOCK):
        q @ candidates[start : start + retrieval.BLOCK].astype(np.float64).T


def main(most: int = MOST, most_hnsw: int = MOST_HNSW, rounds: int = ROUNDS) -> None:
    """Print, save and plot queries per second over the number of candidates."""
    whole, answers = list[_measure.Row](), list[_measure.Row]()
    rows = list[_measure.Row]()
    facts = {"width": WIDTH, "k": K, "hnsw_k": NEAR, "hnsw_links": approximate.LINKS}
    for count in COUNTS:
        if count <= most:
            whole.append(exact(count, rounds))
            rows.append(whole[-1])
            path = _measure.tell("retrieve", "cpu", rows, facts)
    draw(
        path.with_suffix(".png"),
        list(COUNTS[: len(whole)]),
        {
            "ours": [row.ours for row in whole],
            "faiss, float32": [row.plain for row in whole],
            "the product alone": [row.compute_only for row in whole],
        },
    )
    for count in COUNTS:
        if count <= most_hnsw:
            rows += hnsw(count, rounds)
            answers.append(rows[-1])
            path = _measure.tell("retrieve", "cpu", rows, facts)
    draw(
        path.with_name(f"{path.stem}-hnsw.png"),
        list(COUNTS[: len(answers)]),
        {"HNSW": [row.ours for row in answers], "faiss, exact": [row.plain for row in answers]},
    )


def exact(count: int, rounds: int) -> _measure.Row:
    """Measure the exact ways on `count` candidates."""
    queries = np.random.default_rng(1).standard_normal((QUERIES, WIDTH), np.float32)
    with tempfile.TemporaryDirectory() as name:
        candidates = write(Path(name) / "embeddings.npy", count)
        found, index = retrieval.top_k(queries, candidates, K), flat(candidates)
        same = float((found == plain(queries, index, K)).mean())
        assert same > 0.999, f"ranks differ from those of faiss: {same}"
        tracemalloc.start()
        retrieval.top_k(queries, candidates, K)
        memory = tracemalloc.get_traced_memory()[1] / 2**30
        tracemalloc.stop()
        ways: dict[str, _measure.Run] = {
            "ours": partial(retrieval.top_k, queries, candidates, K),
            "plain": partial(plain, queries, index, K),
            "compute": partial(product, queries, candidates),
        }
        taken = _measure.interleaved(ways, rounds=rounds)
    what = f"{count:,} candidates", QUERIES, "queries/s"
    return _measure.row(what, dict.fromkeys(ways, QUERIES), taken, memory)


def hnsw(count: int, rounds: int) -> tuple[_measure.Row, _measure.Row]:
    """Measure building an index over `count` candidates, and answering with it."""
    candidates, queries = clustered(count, MANY)
    start = time.perf_counter()
    index = approximate.build(candidates)
    built = count / (time.perf_counter() - start)
    inputs = index, queries, candidates, NEAR, faiss.omp_get_max_threads()
    ways: dict[str, _measure.Run] = {
        "ours": partial(approximate.search, *inputs),
        "plain": partial(plain, queries, flat(candidates), NEAR),
    }
    taken = _measure.interleaved(ways, rounds=rounds)
    recall = retrieval.recall_at_k(ways["ours"](), retrieval.top_k(queries, candidates, NEAR))
    memory = _measure.peak_memory("cpu")
    name = f"{count:,} candidates, HNSW"
    what = f"{name}, recall@{NEAR} {recall:.3f}", MANY, "queries/s"
    return (
        _measure.Row(f"{name}, building", count, "candidates/s", built, None, None, memory),
        _measure.row(what, dict.fromkeys(ways, MANY), taken, memory),
    )


def clustered(count: int, queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (count, WIDTH) and queries (queries, WIDTH) from the same clusters."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((CLUSTERS, WIDTH), np.float32)

    def draw_from(n: int) -> np.ndarray:
        noise = rng.standard_normal((n, WIDTH), np.float32)
        noise += centres[rng.integers(CLUSTERS, size=n)]
        return noise

    return draw_from(count), draw_from(queries)


def draw(path: Path, counts: list[int], lines: dict[str, list[float | None]]) -> None:
    """Plot queries per second over the number of candidates."""
    plots.save(_measure.growth(counts, lines, "candidates", "queries per second"), path)


if __name__ == "__main__":
    typer.run(main)
