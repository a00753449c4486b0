"""Exact retrieval over growing numbers of candidates: ours, and sorting the whole matrix.

    python -m bench.retrieve                        # 1,000 to 1,000,000 candidates
    python -m bench.retrieve --most 100000

- **ours** is `convirt.retrieval.top_k`, in double precision, with the rule for ties; the candidates
  lie in a file that is mapped into memory, as many as they are.
- **plain** is what notebooks do: one float32 matrix product, and `argsort` of every row.
- **compute only** is the product of our precision alone, block by block.

Queries are 40, the text queries of the paper, and embeddings 512 wide. Memory is what the process
allocated beside the mapped candidates (tracemalloc), of our way. A picture of the growth is drawn
beside the JSON.
"""

from __future__ import annotations

import tempfile
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import typer

from bench import _measure
from convirt import plots, retrieval

MOST: int = typer.Option(1_000_000, min=1000, help="Of the candidates.")
ROUNDS: int = typer.Option(3, min=1, help="Rounds.")
QUERIES, WIDTH, K = 40, 512, 50


def write(path: Path, count: int) -> np.ndarray:
    """Random embeddings in a file, mapped."""
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


def main(most: int = MOST, rounds: int = ROUNDS) -> None:
    """Print and keep queries a second by the number of candidates, and draw them."""
    queries = np.random.default_rng(1).standard_normal((QUERIES, WIDTH), np.float32)
    rows = []
    for count in (n for n in (1_000, 10_000, 100_000, 1_000_000) if n <= most):
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
        rows.append(_measure.row(what, dict.fromkeys(ways, QUERIES), taken, memory))
    path = _measure.tell("retrieve", "cpu", rows, {"width": WIDTH, "k": K})
    counts = [int(row.name.split()[0].replace(",", "")) for row in rows]
    lines: dict[str, list[float | None]] = {
        "ours": [row.ours for row in rows],
        "the whole matrix": [row.plain for row in rows],
        "the product alone": [row.compute_only for row in rows],
    }
    figure = _measure.growth(counts, lines, "candidates", "queries a second")
    plots.save(figure, path.with_suffix(".png"))


if __name__ == "__main__":
    typer.run(main)
