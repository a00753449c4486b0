"""Retrieval on a matrix that can be checked by eye, and against a slow reference."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from PIL import Image

from convirt import gallery, retrieval
from convirt import search as searching
from convirt.errors import InputError
from convirt.search import parts_of, search


def test_nearest_on_a_hand_made_matrix() -> None:
    queries = np.array([[1.0, 0.0], [0.0, 2.0]])
    candidates = np.array([[0.0, 9.0], [3.0, 0.1], [1.0, 1.0], [-5.0, 0.0]])
    # cosines: query 0 -> 0, .999, .707, -1; query 1 -> 1, .033, .707, 0
    expected = [[1, 2, 0, 3], [0, 2, 1, 3]]
    assert retrieval.top_k(queries, candidates, 4).tolist() == expected
    assert retrieval.top_k(queries, candidates, 1).tolist() == [[1], [0]]


def test_ties_go_to_the_lower_index() -> None:
    candidates = np.array([[1.0, 1.0], [2.0, 0.0], [5.0, 0.0], [3.0, 3.0], [1.0, 0.0]])
    assert retrieval.top_k(np.array([[1.0, 0.0]]), candidates, 2).tolist() == [[1, 2]]
    assert retrieval.top_k(np.array([[1.0, 0.0]]), candidates, 4).tolist() == [[1, 2, 4, 0]]


@pytest.mark.parametrize("k", [1, 2])
def test_cosines_that_differ_by_a_ten_millionth_are_no_tie(k: int) -> None:
    angle = np.array([1.1e-3, 1e-3])
    candidates = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    assert retrieval.top_k(np.array([[1.0, 0.0]]), candidates, k).tolist() == [[1, 0][:k]]


def slow_top_k(queries: np.ndarray, candidates: np.ndarray, k: int) -> list[list[int]]:
    """One pair at a time, then sort by (similarity, index)."""
    rows = []
    for q in queries.astype(np.float64):
        cosines = [
            round(float(q @ c / np.linalg.norm(q) / np.linalg.norm(c)), 12)
            for c in candidates.astype(np.float64)
        ]
        rows.append(sorted(range(len(cosines)), key=lambda i: (-cosines[i], i))[:k])
    return rows


@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (12, 4), (100, 25), (1 << 24, 1 << 13)])
def test_equals_the_slow_reference_in_any_blocks(
    chunk: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "CHUNK", chunk)
    monkeypatch.setattr(retrieval, "BLOCK", block)
    rng = np.random.default_rng(0)
    candidates = rng.normal(size=(60, 7)).astype(np.float32)
    candidates[rng.integers(0, 60, 30)] = candidates[rng.integers(0, 60, 30)]  # many ties
    queries = np.concatenate([rng.normal(size=(9, 7)), candidates[:5]]).astype(np.float32)
    for k in (1, 13, 60):
        found = retrieval.top_k(queries, candidates, k)
        assert found.tolist() == slow_top_k(queries, candidates, k)


def test_memory_does_not_grow_with_the_candidates() -> None:
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(40, 32)).astype(np.float32)
    peaks = []
    for count in (30_000, 120_000):
        candidates = rng.normal(size=(count, 32)).astype(np.float32)
        tracemalloc.start()
        retrieval.top_k(queries, candidates, 50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_that_are_not_finite_are_refused(bad: float) -> None:
    broken = np.array([[1.0, 0.0], [bad, 1.0]])
    for queries, candidates in ((broken, np.eye(2)), (np.eye(2), broken)):
        with pytest.raises(InputError, match="embeddings"):
            retrieval.top_k(queries, candidates, 1)


RANKING = np.array([[2, 1, 0, 3], [2, 3, 1, 0]])
QUERIES, CANDIDATES = np.array(["a", "b"]), np.array(["a", "b", "a", "b"])


@pytest.mark.parametrize(("k", "value"), [(1, 1 / 2), (2, 1 / 2), (3, 2 / 3), (4, 1 / 2)])
def test_precision_on_the_example_of_the_docstring(k: int, value: float) -> None:
    assert retrieval.precision_at_k(RANKING, QUERIES, CANDIDATES, k) == pytest.approx(value)


def test_the_highest_precision_is_of_what_is_there() -> None:
    found = retrieval.highest(np.array(["b", "a"]), np.array(["a", "b", "a", "a"]), (1, 2, 4))
    assert found == {1: 1.0, 2: (0.5 + 1) / 2, 4: (0.25 + 0.75) / 2}


def test_precision_of_all_candidates_is_chance() -> None:
    rng = np.random.default_rng(1)
    labels = np.array(list("aaabbc"))
    queries = np.array(list("abca"))
    embeddings = rng.normal(size=(10, 4))
    result = retrieval.retrieve(embeddings[:4], embeddings[4:], queries, labels, (1, 6))
    assert result.chance == pytest.approx((3 / 6 + 2 / 6 + 1 / 6 + 3 / 6) / 4)
    assert result.precision[6] == pytest.approx(result.chance)
    assert result.ranking.shape == (4, 6)


def test_perfect_and_hopeless_embeddings() -> None:
    labels = np.array(list("aabb"))
    code = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    good = retrieval.retrieve(code[[0, 2]], code, np.array(["a", "b"]), labels, (1, 2))
    assert good.precision == {1: 1.0, 2: 1.0}
    bad = retrieval.retrieve(code[[0, 2]], code, np.array(["b", "a"]), labels, (2,))
    assert bad.precision == {2: 0.0}


def test_more_than_there_are_is_an_error() -> None:
    with pytest.raises(InputError, match="at most 2"):
        retrieval.top_k(np.ones((1, 2)), np.ones((2, 2)), 3)
    with pytest.raises(ValueError, match="between 1 and 4"):
        retrieval.precision_at_k(RANKING, QUERIES, CANDIDATES, 5)


def test_a_query_without_candidates_of_its_class_is_an_error() -> None:
    with pytest.raises(InputError, match="queries labelled x"):
        retrieval.chance(np.array(["a", "x"]), CANDIDATES)


@pytest.mark.parametrize("films", [3, 4, 8192])
def test_each_direction_ranks_the_candidates_by_its_own_embeddings(
    bert: Path, films: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Queries and candidates are mixed; h finds images by image, u and v by text."""
    monkeypatch.setattr(searching, "FILMS", films)  # projected at a time
    roles = ["query", "candidate", "candidate", "query", "candidate", "candidate"]
    records = pd.DataFrame({"image": list("abcdef"), "role": roles, "label": list("xxyyxy")})
    texts = pd.DataFrame({"text": ["small effusion .", "the heart is large"], "label": ["y", "x"]})
    store: Any = SimpleNamespace(records=records, queries=texts)
    pair = tiny_models.pair_encoder(bert).eval()
    h = np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)
    by_image, by_text = search(store, parts_of(store, Path("here")), h, pair, (1, 4))
    asked, held = [0, 3], [1, 2, 4, 5]
    with torch.inference_mode():
        v = pair.project_image(torch.from_numpy(h[held])).numpy()
        u = pair.project_text(pair.encode_sentences(texts["text"].tolist())).numpy()
    labels = records["label"].to_numpy(str)
    for found, queries, candidates, wanted in (
        (by_image, h[asked], h[held], labels[asked]),
        (by_text, u, v, texts["label"].to_numpy(str)),
    ):
        ranking = retrieval.top_k(queries, candidates, 4)
        assert found.result.ranking.tolist() == ranking.tolist()
        assert found.result.precision[1] == (labels[held][ranking[:, 0]] == wanted).mean()
    assert (by_image.names, by_text.names) == (["a", "d"], texts["text"].tolist())


# ------------------------------------------------------------------------------ the picture
def test_gallery_frames_right_green_and_wrong_red(tmp_path: Path) -> None:
    images = np.full((4, 10, 10), 128, np.uint8)
    image_row = gallery.Row("a", images[0], tuple(images[1:3]), (True, False))
    text_row = gallery.Row("a", "a sentence long enough to be broken " * 4, (images[3],), (True,))
    for name in ("one.png", "two.png"):
        gallery.draw([(image_row, text_row), (image_row, None)], tmp_path / name)
    picture = np.asarray(Image.open(tmp_path / "one.png").convert("RGB"))
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert gallery.RIGHT in colours and gallery.WRONG in colours
    red = (picture == gallery.WRONG).all(axis=2).any(axis=1)
    height = len(red) // 2
    assert red[:height].any() and red[height:].any()
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
