"""Every made-up set has the form in which the real one is published."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pydicom
import pytest
from demo_sets import SEED, digests, is_image, lines, reports, rows, unpack, write_all
from PIL import Image

from convirt.datasets.layouts import chexpert, mimic_report
from convirt.datasets.layouts._tools import stream


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small set of each layout, unpacked."""
    return unpack(write_all(tmp_path_factory.mktemp("demo")))


# ------------------------------------------------------------------------------ MIMIC-CXR


def test_mimic_lists_and_files_agree(sets: Path) -> None:
    root = sets / "mimic-cxr"
    metadata = rows(root / "mimic-cxr-2.0.0-metadata.csv.gz")
    assert len(metadata[0]) == 12
    names = [
        f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}/"
        f"{row['dicom_id']}.jpg"
        for row in metadata
    ]
    assert lines(root / "IMAGE_FILENAMES") == names
    assert sorted(path for path in digests(root) if path.endswith(".jpg")) == sorted(names)
    pattern = r"files/p1\d/p1\d{7}/s5\d{7}/[0-9a-f]{8}(-[0-9a-f]{8}){4}\.jpg"
    assert all(re.fullmatch(pattern, name) for name in names)
    assert set(reports(root)) == {name.rsplit("/", 1)[0] + ".txt" for name in names}
    assert {row["ViewPosition"] for row in metadata} >= {"AP", "PA", "LATERAL"}
    splits = rows(root / "mimic-cxr-2.0.0-split.csv.gz")
    assert [row["dicom_id"] for row in splits] == [row["dicom_id"] for row in metadata]
    assert {row["split"] for row in splits} <= {"train", "validate", "test"}


def test_mimic_has_two_views_and_patients_with_two_studies(sets: Path) -> None:
    metadata = rows(sets / "mimic-cxr" / "mimic-cxr-2.0.0-metadata.csv.gz")
    studies = Counter(row["study_id"] for row in metadata)
    patients = {row["study_id"]: row["subject_id"] for row in metadata}
    assert len(studies) == 60
    assert 60 < len(metadata) < 80
    assert 45 < len(set(patients.values())) < 60


def test_mimic_labels_are_one_row_a_study(sets: Path) -> None:
    labels = rows(sets / "mimic-cxr" / "mimic-cxr-2.0.0-chexpert.csv.gz")
    assert len(labels) == 60
    assert list(labels[0])[2:] == sorted(chexpert.LABELS)
    assert {row[label] for row in labels for label in chexpert.LABELS} == {"", "0.0", "1.0", "-1.0"}


def test_mimic_report_form() -> None:
    texts = [
        mimic_report.write_report(
            stream(SEED, "report", i),
            "CHEST (PA AND LAT)",
            "The lungs are clear. There is a very long sentence about nothing that has to wrap.",
            "" if i % 4 == 0 else "No acute process. Stable heart.",
        )
        for i in range(2000)
    ]
    empty = [text for text in texts if not re.search(r"lungs|process", text)]
    assert 2 <= len(empty) <= 25  # 0.5%
    assert "" in empty
    for text in texts:
        assert all(line.startswith(" ") and len(line) < 80 for line in text.splitlines())
    full = [text for text in texts if text not in empty]
    assert all("FINAL REPORT" in text for text in full)
    for mark in (
        "___",
        " ADDENDUM:",
        " WET READ:",
        " 1.  No acute",
        " CONCLUSION:",
        " NOTIFICATION:",
    ):
        assert any(mark in text for text in full), mark
    above = next(text for text in full if " ADDENDUM:" in text)
    assert above.index("ADDENDUM") < above.index("______") < above.index("lungs")


# ------------------------------------------------------------------------------ the others


def test_bone_pairs(sets: Path) -> None:
    root = sets / "bone"
    pairs = rows(root / "pairs.csv")
    assert list(pairs[0]) == ["image", "text", "patient", "study", "view"]
    assert sorted(row["image"] for row in pairs) == [p for p in digests(root) if p != "pairs.csv"]
    assert len({row["study"] for row in pairs}) == 40 < len(pairs)
    assert len({row["patient"] for row in pairs}) < 40
    assert all(row["text"] for row in pairs)


def test_rsna_has_a_row_a_box_and_both_photometric_interpretations(sets: Path) -> None:
    root = sets / "rsna"
    labels, kinds = (
        rows(root / "stage_2_train_labels.csv"),
        rows(root / "stage_2_detailed_class_info.csv"),
    )
    assert [row["patientId"] for row in labels] == [row["patientId"] for row in kinds]
    films = {path.stem: pydicom.dcmread(path) for path in (root / "stage_2_train_images").iterdir()}
    assert set(films) == {row["patientId"] for row in labels}
    assert len(films) == 60 < len(labels)  # some film has two boxes
    assert {row["class"] for row in kinds} == {
        "Normal",
        "Lung Opacity",
        "No Lung Opacity / Not Normal",
    }
    for label, kind in zip(labels, kinds, strict=True):
        assert (label["Target"] == "1") == (kind["class"] == "Lung Opacity")
        box = [label[key] for key in ("x", "y", "width", "height")]
        if label["Target"] == "0":
            assert box == [""] * 4
            continue
        x, y, width, height = map(float, box)
        film = films[label["patientId"]]
        assert x >= 0 and x + width <= film.Columns and width > 0
        assert y >= 0 and y + height <= film.Rows and height > 0
    found = Counter(film.PhotometricInterpretation for film in films.values())
    assert 3 <= found["MONOCHROME1"] < found["MONOCHROME2"]


def test_rsna_dicom_tags_and_pixels(sets: Path) -> None:
    for path in (sets / "rsna" / "stage_2_train_images").iterdir():
        film = pydicom.dcmread(path)
        assert film.PatientID == path.stem
        assert re.fullmatch(r"\d\d", film["PatientAge"].value)
        assert film.ViewPosition in ("AP", "PA")
        pixels = film.pixel_array
        assert pixels.shape == (film.Rows, film.Columns) and pixels.dtype == "uint8"
        inverted = film.PhotometricInterpretation == "MONOCHROME1"
        assert film.file_meta.TransferSyntaxUID.is_compressed != inverted
        air = 255 - pixels if inverted else pixels
        # The spine is brighter than the lungs beside it.
        middle = air.shape[1] // 2
        assert air[10:25, middle - 1 : middle + 2].mean() > air[10:25].mean()


def test_chexpert_tables(sets: Path) -> None:
    root = sets / "chexpert" / "CheXpert-v1.0-small"
    train, valid = rows(root / "train.csv"), rows(root / "valid.csv")
    assert tuple(train[0]) == tuple(valid[0]) == chexpert.HEADER
    assert (len(train), len(valid)) == (50 + 8 * 3 + 8 * 2, 16)
    for part, table in (("train", train), ("valid", valid)):
        paths = [row["Path"].removeprefix("CheXpert-v1.0-small/") for row in table]
        assert sorted(paths) == [p for p in digests(root) if p.startswith(f"{part}/")]
        pattern = rf"{part}/patient\d{{5}}/study\d+/view(1_frontal|2_lateral)\.jpg"
        assert all(re.fullmatch(pattern, path) for path in paths)
    assert {row[label] for row in valid for label in chexpert.LABELS} == {"0.0", "1.0"}
    assert {row[label] for row in train for label in chexpert.LABELS} == {"", "0.0", "1.0", "-1.0"}
    for row in train:
        assert (row["AP/PA"] == "") == (row["Frontal/Lateral"] == "Lateral")


def test_retrieval_lists_have_the_official_form(sets: Path) -> None:
    image, text = (sets / "chexpert" / "convirt" / f"{k}-retrieval" for k in ("image", "text"))
    assert (image / "candidate.csv").read_bytes() == (text / "candidate.csv").read_bytes()
    assert b"\r" not in (image / "candidate.csv").read_bytes()
    for folder, column, count in ((image, "Path", 16), (text, "Text", 40)):
        data = (folder / "query.csv").read_bytes()
        assert data.startswith(f"Variable,{column}\r\n".encode())
        assert data.count(b"\n") == data.count(b"\r\n") == count
        assert not data.endswith(b"\n")
        classes = Counter(row["Variable"] for row in rows(folder / "query.csv"))
        assert classes == dict.fromkeys(chexpert.RETRIEVAL_CLASSES, count // 8)


def test_retrieval_films_are_exclusive_and_share_no_patient(sets: Path) -> None:
    root = sets / "chexpert"
    folder = root / "convirt" / "image-retrieval"
    train = {row["Path"]: row for row in rows(root / "CheXpert-v1.0-small" / "train.csv")}
    candidates, queries = rows(folder / "candidate.csv"), rows(folder / "query.csv")
    assert {row[label] for row in candidates for label in chexpert.LABELS} == {"0.0", "1.0"}
    shown: Counter[str] = Counter()
    for row in candidates:
        positive = [label for label in chexpert.LABELS if row[label] == "1.0"]
        assert len(positive) == 1 and row["Frontal/Lateral"] == "Frontal"
        shown[positive[0]] += 1
        assert [
            label for label in chexpert.LABELS if train[row["Path"]][label] == "1.0"
        ] == positive
    assert shown == dict.fromkeys(chexpert.RETRIEVAL_CLASSES, 3)
    for row in queries:
        labels = train[row["Path"]]
        assert [name for name in chexpert.LABELS if labels[name] == "1.0"] == [row["Variable"]]
    people = [path.split("/")[2] for path in train]
    retrieval = [row["Path"].split("/")[2] for row in candidates + queries]
    assert len(set(retrieval)) == len(retrieval) == 40
    assert all(people.count(person) == 1 for person in retrieval)


def test_covidx_lists(sets: Path) -> None:
    root = sets / "covidx"
    train = lines(root / "labels" / "train_COVIDx4.txt")
    test = lines(root / "labels" / "test_COVIDx4.txt")
    assert (len(train), len(test)) == (60, 30)
    assert {len(line.split(" ")) for line in train} == {4, 5}
    assert {len(line.split(" ")) for line in test} == {3, 4, 5}
    label = re.compile(r" (normal|pneumonia|COVID-19)(?= |$)")
    classes = Counter(label.findall(line)[-1] for line in test)
    assert classes == {"normal": 10, "pneumonia": 10, "COVID-19": 10}
    modes = set()
    for part, table in (("train", train), ("test", test)):
        files = {path.name: path for path in (root / "data" / part).iterdir()}
        assert len(files) == len(table)
        assert all(any(f" {name} " in line for name in files) for line in table)
        for path in files.values():
            with Image.open(path) as image:
                modes.add((image.format, image.mode))
    assert {("PNG", "L"), ("JPEG", "L"), ("PNG", "RGB"), ("PNG", "RGBA")} <= modes


def test_mura_lists(sets: Path) -> None:
    root = sets / "mura"
    leftovers = 0
    people: dict[str, set[str]] = {}
    for part, count in (("train", 50), ("valid", 20)):
        paths = lines(root / "MURA-v1.1" / f"{part}_image_paths.csv")
        labels = dict(
            line.split(",") for line in lines(root / "MURA-v1.1" / f"{part}_labeled_studies.csv")
        )
        assert len(paths) == count
        assert sorted(paths) == [
            path
            for path in digests(root)
            if path.startswith(f"MURA-v1.1/{part}/") and is_image(path)
        ]
        studies = {path.rsplit("/", 1)[0] + "/" for path in paths}
        assert studies == set(labels)
        for study, label in labels.items():
            assert re.fullmatch(
                rf"MURA-v1\.1/{part}/XR_[A-Z]+/patient\d{{5}}/study\d_(positive|negative)/", study
            )
            assert study.endswith("_positive/") == (label == "1")
        people[part] = {study.split("/")[3] for study in studies}
        assert len(people[part]) < len(studies)  # some patient has two
        leftovers += len(list((root / "MURA-v1.1" / part).rglob("._image1.png")))
    assert people["train"].isdisjoint(people["valid"])
    assert leftovers > 0
