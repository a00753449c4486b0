"""The RSNA challenge as it is downloaded, converted, zipped, and with or without its mapping."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import raw
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_bad_input import refused
from test_readers import read

from convirt.datasets import images, rsna, rsna_files
from convirt.datasets.rsna_files import ANNOTATIONS, MAPPING
from convirt.datasets.splits import Split
from convirt.errors import InputError


def zip_folder(folder: Path, archive: Path, prefix: str = "") -> Path:
    """Pack what a folder holds, and delete it."""
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                target.write(path, prefix + path.relative_to(folder).as_posix())
    shutil.rmtree(folder)
    return archive


def films(root: Path, people: dict[str, str], boxes: int = 0) -> Path:
    """A set of films with the given names, with RSNA's mapping: film -> ChestX-ray14 image."""
    lines = ["patientId,x,y,width,height,Target", *(f"{name},,,,,0" for name in people)]
    raw.write(root / "stage_2_train_labels.csv", "\n".join(lines))
    rows = [
        {"subset_img_id": film, "img_id": nih, "StudyInstanceUID": "1.2.3", "orig_labels": ["Mass"]}
        for film, nih in people.items()
    ]
    raw.write(root / MAPPING, json.dumps(rows))
    return root


def uuids(count: int) -> list[str]:
    """Names such as the challenge's."""
    return [f"{i:08x}-14fd-4e49-80ba-63a80b6bddd6" for i in range(count)]


# ------------------------------------------------------------------------------ labels
def test_boxes_are_collapsed(tmp_path: Path) -> None:
    tables = read("rsna", raw.rsna(tmp_path), Split(0, 2, 3))
    assert tables.images["split"].value_counts().to_dict() == {"train": 3, "test": 3, "val": 2}
    assert list(tables.images["pneumonia"]) == [0, 1, 1, 0, 1, 1, 0, 1]
    assert tables.funnel.to_dict()["images"] == {"in": 8, "dropped": {}, "kept": 8}
    assert all(Path(path).is_file() for path in tables.images["path"])
    assert "notes" not in tables.funnel.to_dict()


def test_contradictions_and_strange_values(tmp_path: Path) -> None:
    labels = raw.rsna(tmp_path) / "stage_2_train_labels.csv"
    text = labels.read_text()
    labels.write_text(text + "id-01,,,,,0\n")
    assert "`id-01`" in refused("rsna", tmp_path).found
    labels.write_text(text + "id-09,,,,,2\n")
    assert "`2` in data row" in refused("rsna", tmp_path).found


def test_the_later_stage_counts(tmp_path: Path) -> None:
    raw.rsna(tmp_path)
    for name in ("train_labels.csv", "train_images"):
        source, target = tmp_path / f"stage_2_{name}", tmp_path / f"stage_1_{name}"
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    both = read("rsna", tmp_path)
    assert both.images["path"].str.contains("stage_2_train_images").all()
    (tmp_path / "stage_2_train_labels.csv").unlink()
    alone = read("rsna", tmp_path)
    assert alone.images["path"].str.contains("stage_1_train_images").all()
    assert "Stage 1" in alone.funnel.notes[0]


# ------------------------------------------------------------------------------ where the files are
@pytest.mark.parametrize("inner", ["", f"{rsna.FOLDER}/"])
@pytest.mark.parametrize("whole", [True, False])
def test_the_archive_as_downloaded(tmp_path: Path, inner: str, whole: bool) -> None:
    raw.rsna(tmp_path / "set")
    archive = zip_folder(tmp_path / "set", tmp_path / f"{rsna.FOLDER}.zip", inner)
    archives = {True: archive / inner.rstrip("/"), False: tmp_path}
    root = archives[whole]
    tables = read("rsna", root, Split(0, 2, 3))
    assert list(tables.images["pneumonia"]) == [0, 1, 1, 0, 1, 1, 0, 1]
    assert images.decode(Path(tables.images["path"][2])).pixels.shape == (24, 20)


@pytest.mark.parametrize("inner", ["", "stage_2_train_images/"])
def test_files_that_are_zipped_one_by_one(tmp_path: Path, inner: str) -> None:
    raw.rsna(tmp_path)
    zip_folder(tmp_path / "stage_2_train_images", tmp_path / "stage_2_train_images.zip", inner)
    labels = tmp_path / "stage_2_train_labels.csv"
    with zipfile.ZipFile(tmp_path / f"{labels.name}.zip", "w") as archive:
        archive.write(labels, labels.name)
    labels.unlink()
    tables = read("rsna", tmp_path)
    assert len(tables.images) == 8
    assert images.decode(Path(tables.images["path"][2])).pixels.shape == (24, 20)


def convert(folder: Path, suffix: str, out: Path) -> None:
    """Turn DICOM files into pictures of the same names."""
    out.mkdir(exist_ok=True)
    for path in sorted(folder.glob("*.dcm")):
        target = out / (path.stem + suffix)
        Image.fromarray(images.decode(path).pixels).save(target)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG"])
def test_converted_films(tmp_path: Path, suffix: str) -> None:
    folder = raw.rsna(tmp_path) / "stage_2_train_images"
    convert(folder, suffix, folder)
    for name in ("id-00", "id-01"):
        raw.write(folder / f"._{name}{suffix}", "no picture")  # macOS leaves such files behind
        (folder / f"{name}.dcm").unlink()
    tables = read("rsna", tmp_path)
    found = [Path(path).suffix for path in tables.images["path"]]
    assert found == [suffix, suffix, *[".dcm"] * 6]  # DICOM where there is one
    assert list(tables.images["image"]) == [f"id-{i:02d}" for i in range(8)]  # the same ids
    note = f"2 of 8 films are read from {suffix.lower()} files"
    assert [text[: len(note)] for text in tables.funnel.notes] == [note]


def test_converted_films_elsewhere(tmp_path: Path) -> None:
    folder = raw.rsna(tmp_path / "set") / "stage_2_train_images"
    convert(folder, ".png", tmp_path / "png")
    shutil.rmtree(folder)
    tables = read("rsna", tmp_path / "set", images=str(tmp_path / "png"))
    assert all(Path(path).is_file() for path in tables.images["path"])
    assert "8 of 8" in tables.funnel.notes[0]
    assert "nothing there" in refused("rsna", tmp_path / "set", images="none/such").found


def test_missing_films_keep_their_rows(tmp_path: Path) -> None:
    folder = raw.rsna(tmp_path) / "stage_2_train_images"
    (folder / "id-03.dcm").unlink()
    tables = read("rsna", tmp_path)  # packing drops it as missing, and counts it
    assert Path(tables.images["path"][3]).name == "id-03.dcm"


def test_a_folder_of_films_that_is_a_link(tmp_path: Path) -> None:
    folder = raw.rsna(tmp_path / "set") / "stage_2_train_images"
    folder.rename(tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    assert all(Path(path).is_file() for path in read("rsna", tmp_path / "set").images["path"])


# ------------------------------------------------------------------------------ people
def test_people_of_a_csv(tmp_path: Path) -> None:
    raw.rsna(tmp_path)
    lines = ["patientId,patient"] + [f"id-{i:02d},person{i // 2}" for i in range(8)]
    raw.write(tmp_path / "people.csv", "\n".join(lines))
    tables = read("rsna", tmp_path, Split(0, 2, 2), patients=str(tmp_path / "people.csv"))
    assert tables.images["patient"].nunique() == 4
    raw.write(tmp_path / "people.csv", "patientId,patient\nid-00,a\n")
    assert "7 missing" in refused("rsna", tmp_path, patients=str(tmp_path / "people.csv")).found


def test_people_of_the_official_mapping(tmp_path: Path) -> None:
    names = uuids(40)
    films(tmp_path, {name: f"{i // 4 + 13:08d}_{i:03d}.png" for i, name in enumerate(names)})
    tables = read("rsna", tmp_path, Split(0, 4, 12))
    assert tables.images["patient"].nunique() == 10
    assert tables.images["patient"][0] == "00000013"
    assert tables.images["split"].value_counts().to_dict() == {"train": 24, "test": 12, "val": 4}
    (note,) = tables.funnel.notes
    assert note.startswith(f"40 films are of 10 people by {MAPPING}; none is in two parts.")
    assert "100% of the test films" in note  # by film, each test film would have had a relative


def test_the_mapping_beside_the_archive(tmp_path: Path) -> None:
    films(tmp_path / "set", {"a": "00000001_000.png", "b": "00000001_001.png"})
    (tmp_path / "set" / MAPPING).rename(tmp_path / MAPPING)
    archive = zip_folder(tmp_path / "set", tmp_path / f"{rsna.FOLDER}.zip")
    assert read("rsna", archive).images["patient"].tolist() == ["00000001"] * 2
    assert read("rsna", tmp_path).images["patient"].tolist() == ["00000001"] * 2


def test_a_warning_where_people_are_unknown(tmp_path: Path) -> None:
    films(tmp_path, dict.fromkeys(uuids(9), ""))
    (tmp_path / MAPPING).unlink()
    (note,) = read("rsna", tmp_path, Split(0, 1, 2)).funnel.notes
    assert "70% of the test films" in note
    assert "torchxrayvision" in note
    assert MAPPING in note


def test_leak_is_the_share_of_test_films() -> None:
    people = pd.Series(["a", "a", "b", "c", "c", "d"])
    split = pd.Series(["train", "test", "test", "val", "test", "test"])
    assert rsna._leak(people, split) == 0.25  # only a; c is shared with val


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSONDecodeError"),
        ("[" * 100_000, "RecursionError"),
        ('{"a": 1}', "TypeError"),
        ('[{"subset_img_id": "a"}]', "KeyError"),
        ('[{"subset_img_id": "a", "img_id": 3}]', "`3` as img_id"),
        ('[{"subset_img_id": "a", "img_id": "x.png"}]', "`x.png` for `a`"),
        ('[{"subset_img_id": [], "img_id": "00000001_000.png"}]', "`[]` as subset_img_id"),
        ("[]", "none"),
        ('[{"subset_img_id": "b", "img_id": "00000001_000.png"}]', "none for `a`"),
    ],
)
def test_mappings_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    films(tmp_path, {"a": ""})
    raw.write(tmp_path / MAPPING, text)
    assert words in refused("rsna", tmp_path).found


def test_a_mapping_with_two_people_on_one_film(tmp_path: Path) -> None:
    films(tmp_path, {"a": ""})
    rows = [{"subset_img_id": "a", "img_id": f"0000000{i}_000.png"} for i in (1, 1, 2)]
    raw.write(tmp_path / MAPPING, json.dumps(rows))
    assert "00000002_000.png" in refused("rsna", tmp_path).found


# ------------------------------------------------------------------------------ RSNA's annotations
OPACITY, NORMAL, NEITHER, READER = "L1", "L2", "L3", "L4"


def released(root: Path, labels: list[tuple[str, str]]) -> dict[str, Any]:
    """RSNA's two files for films a to d on Kaggle's list and e to g of the test part.

    Args:
        root: Of the set.
        labels: Film and label of each annotation.

    Returns:
        The reader's option.
    """
    names = "abcdefg"
    lines = ["patientId,Target", *(f"{name},{int(name in 'ab')}" for name in names[:4])]
    raw.write(root / "stage_2_train_labels.csv", "\n".join(lines))
    for name in names[:4]:
        raw.write(root / f"stage_2_train_images/{name}.dcm", "")
    for name in names[4:]:
        raw.write(root / f"stage_2_test_images/{name}.dcm", "")
    rows = [  # a and e are of one person, as are b and f
        {"subset_img_id": name, "SOPInstanceUID": f"1.{i}", "img_id": f"{i % 4:08d}_000.png"}
        for i, name in enumerate(names)
    ]
    raw.write(root / MAPPING, json.dumps(rows))
    calculated = {OPACITY: "Lung Opacity ", NORMAL: "Normal"}
    calculated[NEITHER] = "No Lung Opacity / Not Normal"
    groups = {"Calculated": calculated, "Team 1": {READER: "Lung Opacity (High Prob)"}}
    export = {
        "labelGroups": [
            {"name": group, "labels": [{"id": id_, "name": name} for id_, name in held.items()]}
            for group, held in groups.items()
        ],
        "datasets": [
            {
                "annotations": [
                    {"labelId": label, "SOPInstanceUID": f"1.{names.index(film)}", "data": None}
                    for film, label in labels
                ]
                + [{"labelId": READER, "StudyInstanceUID": "of a study, not of a film"}]
            }
        ],
    }
    return {"annotations": str(raw.write(root / ANNOTATIONS, json.dumps(export)))}


LABELLED = [("a", OPACITY), ("b", OPACITY), ("b", OPACITY), ("c", NORMAL), ("d", NEITHER)]
TESTED = [("e", OPACITY), ("f", NORMAL), ("g", NEITHER), ("g", READER)]


def test_the_test_part_with_the_labels_of_rsna(tmp_path: Path) -> None:
    options = released(tmp_path, [*LABELLED, *TESTED])
    tables = read("rsna", tmp_path, Split(0, 1), **options)
    found = tables.images.set_index("image")
    assert found["pneumonia"].to_dict() == dict(zip("abcdefg", (1, 1, 0, 0, 1, 0, 0), strict=True))
    assert list(found.index[found["split"] == "test"]) == ["e", "f", "g"]
    assert (found["split"] == "val").sum() == 1
    assert all(Path(path).is_file() for path in found["path"])
    (note,) = tables.funnel.notes
    assert note.startswith("The 3 test films are those of stage 2's test part")
    train = set(found.index[found["split"] == "train"])
    shared = sum(other in train for other in ("a", "b", "c"))  # of e, f and g
    assert f"; {shared / 3:.0%} have a train film of the same person." in note
    assert "otherwise" not in note


def test_labels_of_rsna_that_differ_from_kaggles_are_told(tmp_path: Path) -> None:
    """Kaggle's list decides on the films that it has."""
    options = released(tmp_path, [("a", NORMAL), *LABELLED[1:4], *TESTED])
    tables = read("rsna", tmp_path, **options)
    assert tables.images["pneumonia"][0] == 1
    (note,) = tables.funnel.notes
    assert "2 of the 4 films of Kaggle's list are labelled otherwise" in note  # a; d has no label


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([*LABELLED, *TESTED, ("e", NORMAL)], "two for 1.4"),
        (LABELLED, "all of them in Kaggle's list"),
        ([], "none of its 7 among 0"),
    ],
)
def test_annotations_that_label_no_test_film(
    tmp_path: Path, labels: list[tuple[str, str]], words: str
) -> None:
    options = released(tmp_path, labels)
    assert words in refused("rsna", tmp_path, **options).found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "TypeError"),
        ('{"labelGroups": [], "datasets": []}', "ValueError"),
        ('{"labelGroups": [{"name": "Calculated", "labels": []}]}', "KeyError: 'datasets'"),
        (
            '{"labelGroups": [{"name": "Calculated", "labels": [{"id": "1", "name": "Mass"}]}],'
            '"datasets": [{"annotations": [{"labelId": "1", "SOPInstanceUID": "1.4"}]}]}',
            "KeyError: 'Mass'",
        ),
    ],
)
def test_annotations_that_are_none(tmp_path: Path, text: str, words: str) -> None:
    options = released(tmp_path, [*LABELLED, *TESTED])
    raw.write(tmp_path / ANNOTATIONS, text)
    assert words in refused("rsna", tmp_path, **options).found


def test_annotations_need_the_mapping_and_the_later_stage(tmp_path: Path) -> None:
    options = released(tmp_path, [*LABELLED, *TESTED])
    (tmp_path / MAPPING).rename(tmp_path / "mapping.json")
    assert "no mapping" in refused("rsna", tmp_path, **options).found
    options["patients"] = str(tmp_path / "mapping.json")
    assert len(read("rsna", tmp_path, **options).images) == 7
    labels = tmp_path / "stage_2_train_labels.csv"
    labels.rename(tmp_path / "stage_1_train_labels.csv")
    assert "stage_1" in refused("rsna", tmp_path, **options).found


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["subset_img_id", "img_id", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(JSON)
def test_any_json_is_a_mapping_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, value: object
) -> None:
    path = raw.write(tmp_path_factory.getbasetemp() / "any.json", json.dumps(value))
    try:
        people = rsna_files.people(path)
    except InputError:
        return
    assert all(film and patient.isdigit() for film, patient in people.items() if film)


CELL = st.sampled_from(["", "0", "1", "1.0", "2", "a", "../a", "a/b", "\x1f", '"', "a\0", " "])


@given(st.lists(st.tuples(CELL, CELL, st.integers(0, 3)), max_size=6))
def test_any_labels_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, int]]
) -> None:
    root = tmp_path_factory.getbasetemp() / "labels"
    lines = ["patientId,Target"] + [
        ",".join([name, target][:3] + [""] * n) for name, target, n in rows
    ]
    raw.write(root / "stage_2_train_labels.csv", "\n".join(lines))
    try:
        tables = rsna.read(root, Split(0), {})
    except InputError:
        return
    assert tables.images["image"].is_unique
    assert np.isin(tables.images["pneumonia"], [0, 1]).all()
