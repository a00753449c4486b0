"""Ids and pictures that look the same in different splits are noted, and only those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import raw

from convirt import packing
from convirt.datasets import alike, registry
from convirt.datasets.splits import Split
from convirt.datasets.tables import Funnel


def notes(*patients: tuple[str, str]) -> list[str]:
    """The notes about patients and their splits."""
    funnel = Funnel()
    alike.note_patients(pd.DataFrame(patients, columns=["patient", "split"]), funnel)
    return funnel.note_lines()


@pytest.mark.parametrize(
    ("one", "other"),
    [("007", "7"), ("7", "7.0"), ("p2", "P2"), ("P007", "p7.0"), ("Müller", "MÜLLER"), ("0", "00")],
)
def test_ids_that_may_be_one_person(one: str, other: str) -> None:
    assert notes((one, "train"), (other, "test"), ("x", "val")) == [
        f"1 {alike.PERSONS}; for example `{one}` (train) and `{other}` (test)"
    ]
    assert not notes((one, "train"), (other, "train"), (one, "train"))


@pytest.mark.parametrize(
    ("one", "other"), [("7", "70"), ("7.0", "7.1"), ("p1", "q1"), ("1.2.0", "1.2"), ("a0", "a")]
)
def test_ids_of_two_people(one: str, other: str) -> None:
    assert not notes((one, "train"), (other, "test"))


def test_a_few_are_named_and_all_counted() -> None:
    pairs = [(f"{zeros}{i}", split) for i in range(1, 6)
             for zeros, split in (("", "train"), ("0", "val"))]  # fmt: skip
    (note,) = notes(*pairs)
    assert note.startswith("5 patients") and note.count(" and `0") == alike.SHOWN


@pytest.mark.parametrize(("count", "noted"), [(8, True), (7, False)])
def test_a_placeholder_for_patients(tmp_path: Path, count: int, noted: bool) -> None:
    patients = ["unknown"] * count + [f"p{i}" for i in range(14 - count)]
    rows = [f"{i}.png,1,{patient},test" for i, patient in enumerate(patients)]
    rows += [f"{i}.png,1,q,train" for i in range(20, 29)]  # too few to tell
    raw.write(tmp_path / "labels.csv", "\n".join(["image,y,patient,split", *rows]))
    told = registry.read("labels", tmp_path, Split(0), {}).funnel.note_lines()
    line = f"8 of 14 test {alike.ONE_PERSON}; for example `unknown`"
    assert told == ([line] if noted else [])


@pytest.mark.parametrize("name", ["pairs", "labels"])
def test_own_lists_are_looked_through(tmp_path: Path, name: str) -> None:
    label = {"pairs": "text", "labels": "y"}[name]
    rows = ["a.png,1,007,train", "b.png,1,7,test", "c.png,1,8,train"]
    if name == "pairs":
        rows = [row.replace(",1,", ",There is a text.,") for row in rows]
    raw.write(tmp_path / f"{name}.csv", "\n".join([f"image,{label},patient,split", *rows]))
    tables = registry.read(name, tmp_path, Split(0), {})
    assert tables.funnel.to_dict()["notes"] == [f"1 {alike.PERSONS}"]  # committed, so without ids
    assert "`007` (train) and `7` (test)" in tables.funnel.note_lines()[0]
    assert len(tables.images) == 3


def pack(root: Path, out: Path, splits: str = "train train test") -> Funnel:
    """Three pictures of three patients, the first and the last the same."""
    rows = [
        f"{name}.png,{name},1,{split}" for name, split in zip("abc", splits.split(), strict=True)
    ]
    raw.write(root / "labels.csv", "\n".join(["image,patient,y,split", *rows]))
    for name, seed in zip("abc", (1, 2, 1), strict=True):
        raw.save(root / f"{name}.png", seed)
    return packing.build(registry.read("labels", root, Split(0), {}), out, 16)


def test_a_picture_with_two_labels(tmp_path: Path) -> None:
    """It is noted within one split too, even if only one of its labels differs."""
    rows = ["a.png,p,1,0,train", "b.png,q,1,0,train", "c.png,r,1,1,train", "d.png,s,1,0,train"]
    raw.write(tmp_path / "labels.csv", "\n".join(["image,patient,y,z,split", *rows]))
    for name, seed in zip("abcd", (1, 2, 1, 2), strict=True):
        raw.save(tmp_path / f"{name}.png", seed)
    funnel = packing.build(registry.read("labels", tmp_path, Split(0), {}), tmp_path / "out", 16)
    assert funnel.notes == [f"1 {alike.PICTURES_LABELS}"]
    assert funnel.note_lines()[0].endswith("; for example `a.png` and `c.png`")


def test_a_picture_that_is_query_and_candidate(tmp_path: Path) -> None:
    raw.write(tmp_path / "queries.csv", "image,label\nq.png,x\nr.png,y\n")
    raw.write(tmp_path / "candidates.csv", "image,label\na.png,x\nb.png,y\n")
    for name, seed in zip("qrab", (1, 2, 3, 2), strict=True):
        raw.save(tmp_path / f"{name}.png", seed)
    tables = registry.read("retrieval", tmp_path, Split(0), {})
    funnel = packing.build(tables, tmp_path / "out", 16)
    assert funnel.notes == [f"1 {alike.PICTURES_FOUND}"]
    assert "`b.png` (candidate) and `r.png` (query)" in funnel.note_lines()[0]


def test_a_picture_of_two_patients_in_two_splits(tmp_path: Path) -> None:
    funnel = pack(tmp_path / "raw", tmp_path / "store")
    assert funnel.to_dict()["notes"] == [f"1 {alike.PICTURES}"]
    assert funnel.note_lines()[0].endswith("; for example `a.png` (train) and `c.png` (test)")
    assert funnel.images.kept == 3  # nothing is dropped for it


@pytest.mark.parametrize("splits", ["train test train", "train train train"])
def test_a_picture_twice_in_one_split_is_not_noted(tmp_path: Path, splits: str) -> None:
    assert "notes" not in pack(tmp_path / "raw", tmp_path / "store", splits).to_dict()


def test_a_note_changes_no_byte_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tmp_path / "raw", tmp_path / "noted")
    monkeypatch.setattr(alike, "note_pictures", lambda *_: None)
    pack(tmp_path / "raw", tmp_path / "plain")
    names = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "noted").iterdir())
    for name in names:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "noted" / name).read_bytes()


def test_pictures_that_are_nearly_the_same_are_not_noted(tmp_path: Path) -> None:
    rows = np.zeros((2, 4, 4), np.uint8)
    rows[1, 3, 3] = 1
    np.save(tmp_path / "images.npy", rows)
    funnel = Funnel()
    records = pd.DataFrame({"image": ["a", "b"], "split": ["train", "test"]})
    alike.note_pictures(records, tmp_path / "images.npy", funnel)
    assert not funnel.notes
