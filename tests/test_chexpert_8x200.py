"""The CheXpert 8x200 lists: odd line ends, labels, and patients who are in both parts."""

from __future__ import annotations

from pathlib import Path

import pytest
import raw
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import refused, replace
from test_readers import read

from convirt.datasets import alike, chexpert_8x200, registry
from convirt.datasets.splits import Split
from convirt.errors import InputError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A CheXpert download whose first patient has a lateral film too."""
    return raw.chexpert(tmp_path / "chexpert", nested=True)


def test_lists(tmp_path: Path, home: Path) -> None:
    root = raw.retrieval_lists(tmp_path / "convirt")
    query = (root / "text-retrieval/query.csv").read_bytes()
    assert b"\r\n" in query and not query.endswith(b"\n")  # as in the real ones
    tables = read("chexpert-8x200", root, images=str(home))
    assert tables.kind == "retrieval"
    found = tables.images[["role", "label", "patient"]].to_numpy().tolist()
    assert found == [
        ["query", "Edema", "patient00001"],
        ["candidate", "Fracture", "patient00002"],
        ["candidate", "Edema", "patient00003"],
    ]
    assert all(Path(path).is_file() for path in tables.images["path"])
    assert tables.queries is not None
    assert tables.queries.to_numpy().tolist() == [
        ["There is edema.", "Edema"],
        ["A rib is broken, badly.", "Fracture"],
    ]
    assert tables.funnel.paper == {"image_queries": 80, "text_queries": 40, "candidates": 1600}
    assert "notes" not in tables.funnel.to_dict()


def test_films_in_batches(tmp_path: Path, home: Path) -> None:
    (tmp_path / "aimi").mkdir()
    batch = tmp_path / "aimi/CheXpert-v1.0 batch 2 (train 1)"
    (home / "CheXpert-v1.0-small/train").rename(batch)
    root = raw.retrieval_lists(tmp_path / "convirt")
    tables = read("chexpert-8x200", root, images=str(tmp_path / "aimi"))
    assert all(Path(path).is_relative_to(batch) for path in tables.images["path"])
    assert all(Path(path).is_file() for path in tables.images["path"])


def test_patients_in_both_parts_are_told(tmp_path: Path, home: Path) -> None:
    root = raw.retrieval_lists(tmp_path / "convirt", (1, 2), (3, 4))
    for name in ("image", "text"):  # candidate 2 is another study of query 1's patient
        path = root / f"{name}-retrieval/candidate.csv"
        replace(path, raw.chexpert_path("train", 4), raw.chexpert_path("train", 1, 2))
    tables = read("chexpert-8x200", root, images=str(home))
    assert tables.funnel.to_dict()["notes"] == [
        f"1 {alike.SHARED_PATIENTS}",
        f"1 {alike.SHARED_QUERIES}",
        f"1 {alike.SHARED_CLASS}",
    ]


def test_a_candidate_shows_one_finding(tmp_path: Path, home: Path) -> None:
    """One of all fourteen: the six that are no classes must not be on the film either."""
    root = raw.retrieval_lists(tmp_path / "convirt")
    lines = (root / "image-retrieval/candidate.csv").read_text()
    first = f"{raw.chexpert_path('train', 2)},Male,42,Frontal,AP,"
    assert f"{first}0.0,0.0," in lines
    both = lines.replace(f"{first}0.0,0.0,", f"{first}0.0,1.0,")
    raw.write(root / "image-retrieval/candidate.csv", both)
    error = refused("chexpert-8x200", root, images=str(home))
    assert "2 for" in error.found and "Enlarged Cardiomediastinum, Fracture" in error.found
    alone = both.replace("0.0,1.0,0.0\n", "0.0,0.0,0.0\n", 1)
    raw.write(root / "image-retrieval/candidate.csv", alone)
    assert "1 for" in refused("chexpert-8x200", root, images=str(home)).found


def test_both_folders_list_the_same_candidates(tmp_path: Path, home: Path) -> None:
    root = raw.retrieval_lists(tmp_path / "convirt")
    other = root / "text-retrieval/candidate.csv"
    replace(other, raw.chexpert_path("train", 3), raw.chexpert_path("train", 4))
    error = refused("chexpert-8x200", root, images=str(home))
    assert "text-retrieval" in error.path and "2 images" in error.found
    other.unlink()
    assert len(read("chexpert-8x200", root, images=str(home)).images) == 3


def test_a_query_without_text(tmp_path: Path, home: Path) -> None:
    root = raw.retrieval_lists(tmp_path / "convirt")
    replace(root / "text-retrieval/query.csv", "There is edema.", " ")
    assert "a blank" in refused("chexpert-8x200", root, images=str(home)).found


CELL = st.sampled_from(["Edema", "No Finding", " Fracture ", "edema", ""]) | st.text(max_size=4)


@settings(max_examples=40)
@given(rows=st.lists(st.tuples(CELL, st.text(max_size=8)), max_size=4), end=st.booleans())
def test_any_text_queries_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: bool
) -> None:
    home = tmp_path_factory.mktemp("set")
    root = raw.retrieval_lists(home / "convirt")
    lines = ["Variable,Text"] + [
        ",".join('"{}"'.format(cell.replace('"', '""')) for cell in row) for row in rows
    ]
    text = "\r\n".join(lines) + "\r\n" * end
    (root / "text-retrieval/query.csv").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        tables = registry.read("chexpert-8x200", root, Split(0), {"images": str(home)})
    except InputError:
        return
    assert tables.queries is not None and len(tables.queries) == len(rows)
    assert set(tables.queries["label"]) <= set(chexpert_8x200.CLASSES)
