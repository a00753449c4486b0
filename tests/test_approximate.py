"""The approximate index: what it finds, against the exact ranking, and that it repeats itself."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from convirt import approximate, retrieval
from convirt.errors import InputError


def clusters(count: int, seed: int = 0, width: int = 32) -> np.ndarray:
    """Vectors around 20 centres, the same for every seed; (count, width) float32."""
    centres = np.random.default_rng(99).normal(size=(20, width))
    rng = np.random.default_rng(seed)
    around = centres[rng.integers(20, size=count)] + 0.5 * rng.normal(size=(count, width))
    return around.astype(np.float32)


@pytest.mark.parametrize("k", [1, 7, 60])
def test_a_small_set_is_ranked_exactly(k: int) -> None:
    queries, candidates = clusters(9, 1), clusters(60)
    found = approximate.top_k(queries, candidates, k)
    assert found.dtype == np.int64
    assert found.tolist() == retrieval.top_k(queries, candidates, k).tolist()


def test_most_of_the_nearest_are_found_among_thousands() -> None:
    queries, candidates = clusters(300, 1), clusters(5000)
    found = approximate.top_k(queries, candidates, 10)
    exact = retrieval.top_k(queries, candidates, 10)
    assert retrieval.recall_at_k(found, exact) > 0.98
    # what is found is in the order of the exact ranking
    cosine = retrieval.unit(queries) @ retrieval.unit(candidates).T
    assert (np.diff(np.take_along_axis(cosine, found, axis=1)) <= 1e-12).all()


def test_two_builds_and_any_number_of_threads_give_the_same_ranking() -> None:
    queries, candidates = clusters(300, 1), clusters(3000)
    first = approximate.top_k(queries, candidates, 10)
    assert (approximate.top_k(queries, candidates, 10) == first).all()
    assert (approximate.top_k(queries, candidates, 10, threads=2) == first).all()


def test_lengths_do_not_matter() -> None:
    queries, candidates = clusters(5, 1), clusters(200)
    lengths = np.random.default_rng(0).uniform(0.01, 100, (200, 1)).astype(np.float32)
    found = approximate.top_k(queries, candidates * lengths, 5)
    assert found.tolist() == approximate.top_k(queries, candidates, 5).tolist()


def test_of_equal_candidates_that_are_found_the_lower_index_comes_first() -> None:
    candidates = np.array([[1.0, 1.0], [2.0, 0.0], [5.0, 0.0], [3.0, 3.0], [1.0, 0.0]])
    assert approximate.top_k(np.array([[1.0, 0.0]]), candidates, 4).tolist() == [[1, 2, 4, 0]]


def test_vectors_whose_products_are_nearly_one_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    vectors = 1 + 1e-5 * rng.normal(size=(2020, 32))
    queries, candidates = vectors[:20], vectors[20:]
    exact = retrieval.top_k(queries, candidates, 10)
    assert retrieval.recall_at_k(approximate.top_k(queries, candidates, 10), exact) > 0.98


def test_every_row_is_full_where_the_graph_falls_apart() -> None:
    candidates = np.ones((3000, 8), np.float32)
    found = approximate.top_k(clusters(3, width=8), candidates, 400)
    assert found.tolist() == 3 * [list(range(400))]  # the exact ranking stepped in


def test_zero_vectors_have_cosine_zero() -> None:
    candidates = np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    queries = np.array([[1.0, 0.0], [0.0, 0.0]])
    found = approximate.top_k(queries, candidates, 4)
    assert found.tolist() == retrieval.top_k(queries, candidates, 4).tolist()
    assert found.tolist() == [[2, 0, 3, 1], [0, 1, 2, 3]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad: float) -> None:
    broken = np.array([[1.0, 0.0], [bad, 1.0]])
    for queries, candidates in ((broken, np.eye(2)), (np.eye(2), broken)):
        with pytest.raises(InputError, match="embeddings"):
            approximate.top_k(queries, candidates, 1)


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match="at most 2"):
        approximate.top_k(np.ones((1, 2)), np.ones((2, 2)), 3)


def test_no_query_has_no_ranking() -> None:
    assert approximate.top_k(np.empty((0, 2)), np.eye(2), 1).shape == (0, 1)


def test_the_threads_of_torch_stay_as_they_were() -> None:
    before, values = torch.get_num_threads(), torch.rand(200_000)
    total = values.sum()
    approximate.top_k(clusters(5), clusters(50), 3, threads=before + 1)
    assert torch.get_num_threads() == before
    assert torch.equal(values.sum(), total)


def test_the_index_is_imported_where_it_is_used_alone() -> None:
    code = "import sys, convirt.approximate, stages.retrieve; assert 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


# ------------------------------------------------------------------------------ recall
def test_recall_on_the_example_of_the_docstring() -> None:
    exact, found = np.array([[4, 2], [7, 1]]), np.array([[2, 5], [7, 1]])
    assert retrieval.recall_at_k(found, exact) == 3 / 4
    assert retrieval.recall_at_k(exact, exact) == 1
    with pytest.raises(ValueError, match="different shapes"):
        retrieval.recall_at_k(found, exact[:, :1])


def test_retrieval_tells_the_recall_of_an_approximate_ranking_alone() -> None:
    queries, candidates = clusters(4, 1), clusters(40)
    labels = np.array(["a"] * 40)

    def reversed_halves(q: np.ndarray, c: np.ndarray, k: int) -> np.ndarray:
        """Finds the k // 2 nearest, and the farthest in place of the other near ones."""
        order = retrieval.top_k(q, c, len(c))
        return np.concatenate([order[:, : k // 2], order[:, -(k - k // 2) :]], axis=1)

    inputs = queries, candidates, labels[:4], labels, (2, 8)
    assert retrieval.retrieve(*inputs).recall is None
    found = retrieval.retrieve(*inputs, reversed_halves)
    assert found.recall == 0.5
    assert found.ranking.tolist() == reversed_halves(queries, candidates, 8).tolist()


def test_recall_is_measured_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieval, "SAMPLE", 3)
    queries, candidates, labels = clusters(5, 1), clusters(40), np.array(["a"] * 40)

    def wrong_between(q: np.ndarray, c: np.ndarray, k: int) -> np.ndarray:
        """Right for the first, the middle and the last of five queries, which are the sample."""
        found = retrieval.top_k(q, c, k)
        found[[1, 3]] = -1
        return found

    found = retrieval.retrieve(queries, candidates, labels[:5], labels, (2,), wrong_between)
    assert found.recall == 1
