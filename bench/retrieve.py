"""Retrieval over growing numbers of candidates: ours, the whole matrix, and an HNSW index.

    python -m bench.retrieve                        # 1,000 to 1,000,000 candidates, HNSW to 100,000
    python -m bench.retrieve --most 100000 --most-hnsw 1000000      # HNSW: hours on 2 cores

- **ours** is `convirt.retrieval.top_k`, exact, in double precision, with the rule for ties; the
  candidates are in a memory-mapped file, however many they are.
- **plain** is what notebooks do: one float32 matrix product, and `argsort` of every row.
- **compute only** is the matrix product alone, in our precision, block by block.

There are 40 queries, as many as the paper's text queries, and embeddings are 512 wide. Memory is
what our way allocated beside the mapped candidates (tracemalloc). A plot of the growth is saved
beside the JSON.

The rows named HNSW measure `convirt.approximate` on other candidates, since pure noise has no near
neighbours: 8 clusters, as many as the paper's retrieval set has classes, with noise as wide as the
centres are apart. Building the index has a row of its own and uses one thread. The row for
answering has the exact `convirt.retrieval.top_k` as its plain way, and its recall at 10 in its
name. Memory is the peak resident size of the process so far. A second plot shows both ways of
answering.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import tracemalloc
from functools import partial
from pathlib import Path

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


def plain(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    q = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    c = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    order: np.ndarray = np.argsort(-(q @ c.T), axis=1)[:, :K]
    return order


def product(queries: np.ndarray, candidates: np.ndarray) -> None:
    q = queries.astype(np.float64)
    for start in range(0, len(candidates), retrieval.BLOCK):
        q @ candidates[start : start + retrieval.BLOCK].astype(np.float64).T


def main(most: int = MOST, most_hnsw: int = MOST_HNSW, rounds: int = ROUNDS) -> None:
    """Print, save and plot queries per second over the number of candidates."""
    whole = [exact(count, rounds) for count in COUNTS if count <= most]
    counts = [count for count in COUNTS if count <= most_hnsw]
    graphs = [hnsw(count, rounds) for count in counts]
    rows = [*whole, *(row for pair in graphs for row in pair)]
    facts = {"width": WIDTH, "k": K, "hnsw_k": NEAR, "hnsw_links": approximate.LINKS}
    path = _measure.tell("retrieve", "cpu", rows, facts)
    draw(
        path.with_suffix(".png"),
        list(COUNTS[: len(whole)]),
        {
            "ours": [row.ours for row in whole],
            "the whole matrix": [row.plain for row in whole],
            "the product alone": [row.compute_only for row in whole],
        },
    )
    answers = [answer for _, answer in graphs]
    draw(
        path.with_name(f"{path.stem}-hnsw.png"),
        counts,
        {"HNSW": [row.ours for row in answers], "exact": [row.plain for row in answers]},
    )


def exact(count: int, rounds: int) -> _measure.Row:
    """Measure the exact ways on `count` candidates."""
    queries = np.random.default_rng(1).standard_normal((QUERIES, WIDTH), np.float32)
    with tempfile.TemporaryDirectory() as name:
        candidates = write(Path(name) / "embeddings.npy", count)
        found = retrieval.top_k(queries, candidates, K)
        same = float((found == plain(queries, candidates)).mean())
        assert same > 0.999, f"ranks differ from those of the whole matrix: {same}"
        tracemalloc.start()
        retrieval.top_k(queries, candidates, K)
        memory = tracemalloc.get_traced_memory()[1] / 2**30
        tracemalloc.stop()
        ways: dict[str, _measure.Run] = {
            "ours": partial(retrieval.top_k, queries, candidates, K),
            "plain": partial(plain, queries, candidates),
            "compute": partial(product, queries, candidates),
        }
        taken = _measure.interleaved(ways, rounds=rounds)
    what = f"{count:,} candidates", QUERIES, "queries/s"
    return _measure.row(what, dict.fromkeys(ways, QUERIES), taken, memory)


def hnsw(count: int, rounds: int) -> tuple[_measure.Row, _measure.Row]:
    """Measure building an index over `count` candidates, and answering with it."""
    import faiss

    candidates, queries = clustered(count, MANY)
    start = time.perf_counter()
    index = approximate.build(candidates)
    built = count / (time.perf_counter() - start)
    inputs = index, queries, candidates, NEAR, faiss.omp_get_max_threads()
    ways: dict[str, _measure.Run] = {
        "ours": partial(approximate.search, *inputs),
        "plain": partial(retrieval.top_k, queries, candidates, NEAR),
    }
    taken = _measure.interleaved(ways, rounds=rounds)
    rates = {way: MANY / statistics.median(times) for way, times in taken.items()}
    recall = retrieval.recall_at_k(ways["ours"](), ways["plain"]())
    memory = _measure.peak_memory("cpu")
    name = f"{count:,} candidates, HNSW"
    return (
        _measure.Row(f"{name}, building", count, "candidates/s", built, None, None, memory),
        _measure.Row(
            f"{name}, recall@{NEAR} {recall:.3f}",
            MANY,
            "queries/s",
            rates["ours"],
            rates["plain"],
            None,
            memory,
        ),
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
