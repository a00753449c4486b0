"""Every made-up set is read back by its reader with the counts that were drawn."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from demo_sets import reports, rows, unpack, write, write_all

from convirt.datasets import archives, chexpert_files
from convirt.datasets.layouts import chexpert, mimic_report
from convirt.datasets.splits import Split
from convirt.datasets.tables import NO_SECTION, Tables


@pytest.fixture(scope="module", params=["zipped", "unpacked"])
def sets(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with one small set of each layout, as drawn or as unpacked by a user."""
    home = write_all(tmp_path_factory.mktemp("demo"))
    return unpack(home) if request.param == "unpacked" else home


def read(module: str, root: Path, split: Split, **options: Any) -> Tables:
    """What the reader of `module` finds."""
    tables: Tables = importlib.import_module(f"convirt.datasets.{module}").read(
        root, split, options
    )
    assert all(archives.is_file(Path(path)) for path in tables.images["path"])
    return tables


def sizes(images: pd.DataFrame) -> dict[str, int]:
    """Images per split."""
    return {str(name): int(count) for name, count in images["split"].value_counts().items()}


def test_reader_finds_every_mimic_report(sets: Path) -> None:
    root = sets / "mimic-cxr"
    tables = read("mimic_cxr", root, Split(0, val=10))
    texts = reports(root)
    assert tables.reports is not None
    usable = [
        text
        for text in texts.values()
        if re.search(r"^ (FINDINGS|IMPRESSION|CONCLUSION|CHEST|PA AND)\b.*:", text, re.MULTILINE)
    ]
    assert len(tables.reports) == len(usable)
    assert tables.funnel.studies.found == 60
    assert not tables.reports["text"].str.contains("INDICATION|EXAMINATION|TECHNIQUE").any()


def test_reader_drops_the_mimic_reports_without_text(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(mimic_report, "EMPTY", 0.5)
    root = write("mimic-cxr", tmp_path / "set")
    dropped = read("mimic_cxr", root, Split(0, val=5)).funnel.studies.dropped
    assert 15 <= sum(map(len, dropped.values())) <= 45
    assert NO_SECTION in dropped and len(dropped) == 2


def test_reader_finds_every_bone_pair(sets: Path) -> None:
    tables = read("pairs_csv", sets / "bone", Split(0, val=8))
    assert tables.reports is not None and len(tables.reports) == 40
    assert len(tables.images) == len(rows(sets / "bone" / "pairs.csv"))


def test_reader_collapses_the_rsna_boxes(sets: Path) -> None:
    tables = read("rsna", sets / "rsna", Split(0, val=10, test=20))
    kinds = {
        row["patientId"]: row["class"]
        for row in rows(sets / "rsna" / "stage_2_detailed_class_info.csv")
    }
    assert sizes(tables.images) == {"train": 30, "val": 10, "test": 20}
    positive = [kinds[name] == "Lung Opacity" for name in tables.images["image"]]
    assert tables.images["pneumonia"].astype(bool).tolist() == positive
    assert 10 <= sum(positive) <= 32  # 35%


def test_reader_keeps_the_retrieval_films_out_of_chexpert(sets: Path) -> None:
    root = sets / "chexpert"
    tables = read("chexpert", root, Split(0, val=10), exclude=str(root / "convirt"))
    found = sizes(tables.images)
    assert (found["train"] + found["val"], found["test"]) == (50, 16)
    valid = rows(chexpert_files.find(root, "valid.csv").file("valid.csv"))
    test = tables.images[tables.images["split"] == "test"]
    for label in chexpert.LABELS:
        assert test[label].sum() == sum(float(row[label]) for row in valid), label


def test_reader_finds_the_retrieval_set(sets: Path) -> None:
    root = sets / "chexpert"
    tables = read("chexpert_8x200", root / "convirt", Split(0), images=str(root))
    assert tables.queries is not None and len(tables.queries) == 40
    found = Counter(zip(tables.images["role"], tables.images["label"], strict=True))
    expected = {("candidate", name): 3 for name in chexpert.RETRIEVAL_CLASSES}
    assert found == expected | {("query", name): 2 for name in chexpert.RETRIEVAL_CLASSES}


def test_reader_finds_the_three_covidx_classes(sets: Path) -> None:
    tables = read("covidx", sets / "covidx", Split(0, val=10))
    found = sizes(tables.images)
    assert (found["train"] + found["val"], found["test"]) == (60, 30)
    test = tables.images[tables.images["split"] == "test"]
    assert test[["normal", "pneumonia", "COVID-19"]].sum().tolist() == [10, 10, 10]
    assert tables.images["patient"].duplicated().any()


def test_reader_finds_every_mura_image(sets: Path) -> None:
    tables = read("mura", sets / "mura", Split(0, val=10))
    found = sizes(tables.images)
    assert (found["train"] + found["val"], found["test"]) == (50, 20)
    folders = tables.images["path"].str.contains("_positive")
    assert tables.images["abnormal"].astype(bool).tolist() == folders.tolist()
    assert 0.2 < folders.mean() < 0.7
