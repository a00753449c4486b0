"""Every reader on made-up files in its official layout, awkward rows included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import raw

from convirt.datasets import alike, registry
from convirt.datasets.splits import Split
from convirt.datasets.tables import (
    IMAGE_COLUMNS,
    NO_SECTION,
    Tables,
)
from convirt.errors import InputError

SEED = Split(0)


def read(name: str, root: Path, split: Split = SEED, **options: object) -> Tables:
    """Read, and check what holds for every reader."""
    tables = registry.read(name, root, split, options)
    images = tables.images
    assert tables.reader == name
    assert list(images.columns[: len(IMAGE_COLUMNS)]) == list(IMAGE_COLUMNS)
    assert images["image"].is_unique
    assert list(images["image"]) == sorted(images["image"])
    assert images["path"].map(lambda path: Path(path).is_absolute()).all()
    assert set(images["split"]) <= {"train", "val", "test"}
    assert images.groupby("patient")["split"].nunique().max() == 1
    assert images[list(tables.labels)].isin([0.0, 1.0]).all(axis=None)
    assert tables.funnel.images.kept == len(images)
    assert tables.funnel.studies.kept == images["study"].nunique()
    return tables


def row(tables: Tables, image: str) -> pd.Series:
    """The row of the one image whose id ends with `image`."""
    found = tables.images[tables.images["image"].str.endswith(image)]
    assert len(found) == 1
    return found.iloc[0]


# ------------------------------------------------------------------------------ bring your own


def test_pairs(tmp_path: Path) -> None:
    rows = [
        'a/1.png,"Two films, one text.",p1,s1,PA',
        "./a//2.png,,p1,s1,LATERAL",
        "a/3.png,Another text here.,p2,s2,PA",
    ]
    raw.pairs(tmp_path, rows, "image,text,patient,study,view")
    tables = read("pairs", tmp_path)
    assert list(tables.images["image"]) == ["a/1.png", "a/2.png", "a/3.png"]
    assert tables.reports is not None
    assert tables.reports.to_numpy().tolist() == [
        ["s1", "Two films, one text."],
        ["s2", "Another text here."],
    ]
    assert len(read("pairs", tmp_path, views=["PA"]).images) == 2
    assert len(read("pairs", tmp_path / "pairs.csv").images) == 3  # the list itself as root


def test_pairs_without_studies_count_rows(tmp_path: Path) -> None:
    tables = read("pairs", raw.ten_pairs(tmp_path), Split(0, 0.2, 1))
    assert tables.images["split"].value_counts().to_dict() == {"train": 7, "val": 2, "test": 1}


def test_pairs_with_sections(tmp_path: Path) -> None:
    text = "HISTORY: Cough.\n\nFINDINGS: Clear lungs seen."
    raw.pairs(tmp_path, [f'1.png,"{text}",p1', "2.png,No head in this text.,p2"])
    assert len(read("pairs", tmp_path).images) == 2
    tables = read("pairs", tmp_path, sections=True)
    assert tables.reports is not None
    assert tables.reports["text"].tolist() == ["Clear lungs seen."]
    assert tables.funnel.studies.dropped == {NO_SECTION: ["2.png"]}


def test_pairs_with_sections_keep_all_of_one_name(tmp_path: Path) -> None:
    text = "FINDINGS: Large heart.\nOther findings: None.\nSigned by: Dr. Smith"
    raw.pairs(tmp_path, [f'1.png,"{text}",p1'])
    tables = read("pairs", tmp_path, sections=True)
    assert tables.reports is not None
    assert tables.reports["text"].tolist() == ["Large heart.\n\nOther findings: None."]


@pytest.mark.parametrize(("reports", "noted"), [(0, ""), (1, ""), (2, "10%"), (20, "100%")])
def test_whole_reports_are_noted(tmp_path: Path, reports: int, noted: str) -> None:
    """From a tenth of the texts on; blank cells are no texts."""
    texts = ["HISTORY: Cough.\nFINDINGS: Clear lungs."] * reports + ["Clear lungs: seen."] * 20
    rows = [f'{i}.png,"{text}",p{i}' for i, text in enumerate([*texts[:20], ""])]
    raw.pairs(tmp_path, rows)
    notes = read("pairs", tmp_path).funnel.notes
    assert len(notes) == bool(noted)
    assert not notes or notes[0].startswith(f"{noted} of the texts have heads such as FINDINGS")
    assert not reports or not read("pairs", tmp_path, sections=True).funnel.notes


@pytest.mark.parametrize(
    "text",
    [
        "HISTORY: Cough. FINDINGS: Clear lungs.\nIMPRESSION: Normal.",
        r"FINDINGS: Clear.\nIMPRESSION: -",
    ],
)
def test_reports_without_their_line_breaks_are_noted(tmp_path: Path, text: str) -> None:
    whole = "FINDINGS: Clear lungs.\nOTHER FINDINGS: None.\nIMPRESSION: Normal."
    for flat, noted in ((1, False), (2, True)):
        texts = [text] * flat + [whole] * (20 - flat)
        raw.pairs(tmp_path, [f'{i}.png,"{one}",p{i}' for i, one in enumerate(texts)])
        notes = read("pairs", tmp_path, sections=True).funnel.notes
        assert bool(notes) == noted and all(
            "10% of the texts have heads inside" in n for n in notes
        )


@pytest.mark.parametrize("reader", ["pairs", "labels", "retrieval"])
def test_images_beside_which_no_list_can_lie(reader: str, tmp_path: Path) -> None:
    """A list in one folder, its films in another, which may be read-only."""
    films, lists = tmp_path / "films", tmp_path / "lists"
    for i in range(10):
        raw.save(films / f"f/{i}.png", i)
    rows = [f"f/{i}.png,There is finding number {i}.,p{i},{i % 2}" for i in range(10)]
    raw.write(lists / "pairs.csv", "\n".join(["image,text,patient", *(r[:-2] for r in rows)]))
    raw.write(lists / "labels.csv", "\n".join(["image,note,patient,sick", *rows]))
    raw.write(lists / "queries.csv", "image,label\nf/0.png,a\n")
    raw.write(lists / "candidates.csv", "image,label\nf/1.png,a\nf/2.png,a\n")
    own: dict[str, Any] = {"columns": ["sick"]} if reader == "labels" else {}
    tables = read(reader, lists, images=str(films), **own)
    assert {Path(path).parent for path in tables.images["path"]} == {films / "f"}
    assert all(name.startswith("f/") for name in tables.images["image"])
    with pytest.raises(InputError, match="folder of the images"):
        read(reader, lists, images=str(tmp_path / "none"), **own)
    raw.write(lists / "candidates.csv", "image,label\n../films/f/1.png,a\n")
    for name in ("pairs", "labels"):
        raw.write(
            lists / f"{name}.csv", "image,text,patient,sick\n../films/f/1.png,There is one,p,1\n"
        )
    with pytest.raises(InputError, match="stay inside"):
        read(reader, lists, images=str(films), **own)


def test_an_accent_in_a_name_of_a_file(tmp_path: Path) -> None:
    """Studies and patients are composed Unicode; an image keeps its name on disk."""
    name = "e\u0301.png"
    raw.pairs(tmp_path, [f"{name},Some text of mine.,e\u0301"])
    (image,) = read("pairs", tmp_path).images.to_dict("records")
    assert (image["image"], image["study"], image["patient"]) == (
        name,
        "\u00e9.png",
        "\u00e9",
    )
    assert Path(image["path"]).name == name and Path(image["path"]).is_file()


def test_pairs_with_their_own_split(tmp_path: Path) -> None:
    rows = [f"{i}.png,Some text of mine.,p{i},{'valid' if i < 3 else 'train'}" for i in range(9)]
    raw.pairs(tmp_path, rows, "image,text,patient,split")
    assert (read("pairs", tmp_path).images["split"] == "val").sum() == 3


def test_labels_columns(tmp_path: Path) -> None:
    lines = ["image,patient,view,edema,fracture", "a.png,p1,PA,0,1", "b.png,p2,AP,1.0,0"]
    raw.write(tmp_path / "labels.csv", "\n".join(lines))
    assert read("labels", tmp_path).labels == ("edema", "fracture")  # every other column
    tables = read("labels", tmp_path, columns=["fracture"])
    assert tables.labels == ("fracture",)
    assert list(tables.images["fracture"]) == [1, 0]


def test_labels_classes(tmp_path: Path) -> None:
    lines = ["image,text,patient,label,split"]
    lines += [f"{i}.png,,p{i},{'AB'[i % 2]},{'test' if i > 6 else 'train'}" for i in range(10)]
    raw.write(tmp_path / "mine.csv", "\ufeff" + "\r\n".join(lines))  # as Excel saves it
    tables = read("labels", tmp_path, Split(0, 2), file="mine.csv", column="label",
                  classes=["A", "B", "C"])  # fmt: skip
    assert tables.labels == ("A", "B", "C")
    assert tables.images["B"].sum() == 5
    assert tables.images["C"].sum() == 0
    assert tables.images["split"].value_counts().to_dict() == {"train": 5, "test": 3, "val": 2}


def test_retrieval(tmp_path: Path) -> None:
    raw.write(tmp_path / "candidates.csv", "image,label,patient\na.png,A,p1\nb.png,B,p2\n")
    raw.write(tmp_path / "queries.csv", "label,image,text\nA,q.png,\nB,,Words about B.\n")
    tables = read("retrieval", tmp_path)
    assert tables.images[["image", "role", "label"]].to_numpy().tolist() == [
        ["a.png", "candidate", "A"],
        ["b.png", "candidate", "B"],
        ["q.png", "query", "A"],
    ]
    assert tables.queries is not None
    assert tables.queries.to_numpy().tolist() == [["Words about B.", "B"]]
    assert (tables.images["split"] == "test").all()
    assert not tables.funnel.notes


def test_queries_of_a_candidates_patient_are_noted(tmp_path: Path) -> None:
    raw.write(tmp_path / "candidates.csv", "image,label,patient\na.png,A,p1\nb.png,B,p2\n")
    raw.write(tmp_path / "queries.csv", "label,image,patient\nA,q.png,p2\nB,r.png,p9\n")
    assert read("retrieval", tmp_path).funnel.notes == [
        f"1 {alike.SHARED_PATIENTS}",
        f"1 {alike.SHARED_QUERIES}",
    ]


def test_retrieval_by_text_alone(tmp_path: Path) -> None:
    raw.write(tmp_path / "candidates.csv", "image,label\na.png,A\n")
    raw.write(tmp_path / "queries.csv", "text,label\nWords.,A\n")
    assert len(read("retrieval", tmp_path).images) == 1


# ------------------------------------------------------------------------------ the registry


def test_unknown_reader_and_root(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean `mimic-cxr`"):
        registry.read("mimic_cxr", tmp_path, SEED, {})
    with pytest.raises(InputError, match=r"datasets\.sources\.<name>\.root"):
        registry.read("pairs", tmp_path / "nowhere", SEED, {})


@pytest.mark.parametrize("name", sorted(registry.READERS))
def test_every_reader_names_the_nearest_option(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"options of the reader `{name}`"):
        registry.read(name, tmp_path, SEED, {"viewz": []})
