"""CheXpert: every download that is handed out, its labels, its test sets and its validation."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import raw
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import refused, replace
from test_readers import read, row

from convirt import packing
from convirt.datasets import archives, chexpert, chexpert_files, images, registry, split_lists
from convirt.datasets.chexpert_files import Download
from convirt.datasets.splits import Split
from convirt.datasets.tables import ON_EXCLUDE_LIST, UNCERTAIN, VIEW_NOT_CHOSEN, Tables
from convirt.errors import InputError

ALL: dict[str, Any] = {"exclude": "none"}
FIRST = "train/patient00001/study1/view1_frontal.jpg"
BATCH = "CheXpert-v1.0 batch {}"
BATCHES = [BATCH.format(f"{2 + i} (train {1 + i})") for i in range(3)]
CSV_BATCH = BATCH.format("1 (validate & csv)")


def cells(tables: Tables) -> pd.DataFrame:
    """The table of images without their paths."""
    assert all(archives.is_file(Path(path)) for path in tables.images["path"])
    return tables.images.drop(columns="path")


# ------------------------------------------------------------------------------ the lists


@pytest.mark.parametrize("nested", [True, False])
def test_lists_and_labels(tmp_path: Path, nested: bool) -> None:
    tables = read("chexpert", raw.chexpert(tmp_path, nested=nested), Split(0, 2), **ALL)
    assert len(tables.labels) == 14
    first = row(tables, FIRST)
    assert first["image"] == FIRST
    assert (first["study"], first["patient"]) == ("patient00001/study1", "patient00001")
    assert (first["view"], row(tables, "view2_lateral.jpg")["view"]) == ("AP", "LATERAL")
    assert all(Path(path).is_file() for path in tables.images["path"])
    # blank is negative; uncertain is positive for atelectasis and effusion only
    wanted = {"Edema": 1, "Cardiomegaly": 0, "Consolidation": 0, "Atelectasis": 1}
    wanted |= {"Pleural Effusion": 1, "Pneumothorax": 0, "No Finding": 0}
    assert {name: first[name] for name in wanted} == wanted
    assert tables.images["split"].value_counts().to_dict() == {"train": 5, "val": 2, "test": 2}
    assert tables.funnel.paper == {"train": 218414, "val": 5000, "test": 234}


def test_views(tmp_path: Path) -> None:
    raw.chexpert(tmp_path)
    replace(tmp_path / "train.csv", "patient00002/study1/view1_frontal.jpg,Female,68,Frontal,AP",
            "patient00002/study1/view1_frontal.jpg,Unknown,0,Frontal,LL")  # fmt: skip
    tables = read("chexpert", tmp_path, **ALL, views=["AP", "PA"])
    assert set(tables.images["view"]) == {"AP", "PA"}
    assert sorted(tables.funnel.images.dropped[VIEW_NOT_CHOSEN]) == [
        "train/patient00001/study1/view2_lateral.jpg",
        "train/patient00002/study1/view1_frontal.jpg",
    ]


@pytest.mark.parametrize("label", chexpert.LABELS)
def test_what_uncertain_means_for_each_label(tmp_path: Path, label: str) -> None:
    raw.chexpert(tmp_path)
    own = f"{raw.chexpert_path('train', 2)},Female,68,Frontal,AP,"
    told = ",".join("-1.0" if name == label else "" for name in chexpert.LABELS)
    replace(tmp_path / "train.csv", f"{own}1.0,,,,,,,,,0.0,,,,1.0", own + told)
    second = row(read("chexpert", tmp_path, **ALL), "patient00002/study1/view1_frontal.jpg")
    assert second[label] == (label in ("Atelectasis", "Edema", "Pleural Effusion"))


@pytest.mark.parametrize(
    ("policy", "values"), [("usual", [0, 1]), ("ones", [1, 1]), ("zeros", [0, 0])]
)
def test_uncertain_labels(tmp_path: Path, policy: str, values: list[int]) -> None:
    tables = read("chexpert", raw.chexpert(tmp_path), **ALL, uncertain=policy)
    first = row(tables, FIRST)
    assert list(first[["Cardiomegaly", "Atelectasis"]]) == values
    assert list(first[["Edema", "Enlarged Cardiomediastinum"]]) == [1, 0]  # stated, blank


def test_uncertain_images_may_be_dropped(tmp_path: Path) -> None:
    raw.chexpert(tmp_path)  # of six patients, the odd ones are uncertain; the first has two films
    second = f"{raw.chexpert_path('train', 2)},Female,68,Frontal,AP,"
    replace(tmp_path / "train.csv", f"{second}1.0,,,,,,,,,0.0", f"{second}1.0,-1,,,,,,-1.0,,0.0")
    tables = read("chexpert", tmp_path, **ALL, uncertain="drop")
    funnel = tables.funnel.to_dict()
    assert funnel["images"] == {"in": 9, "dropped": {UNCERTAIN: 4}, "kept": 5}
    assert funnel["studies"]["dropped"] == {UNCERTAIN: 3}
    assert tables.funnel.dropped_share == 0  # what is left out by choice is no loss
    kept = row(tables, "train/patient00002/study1/view1_frontal.jpg")
    assert list(kept[["Enlarged Cardiomediastinum", "Pneumonia"]]) == [0, 0]  # no competition label


@pytest.mark.parametrize("cell", ["", "-1.0", "0.5"])
def test_experts_leave_nothing_open(tmp_path: Path, cell: str) -> None:
    raw.chexpert(tmp_path)
    replace(tmp_path / "valid.csv", "Male,40,Frontal,PA,1.0", f"Male,40,Frontal,PA,{cell}")
    error = refused("chexpert", tmp_path, **ALL)
    assert "valid.csv" in error.path and f"`{cell}`" in error.found


@pytest.mark.parametrize(
    "path",
    [
        "train/patient00001/study1",
        "a/b/train/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0/train/../study1/view1_frontal.jpg",
        "CheXpert-v1.0/learn/patient00001/study1/view1_frontal.jpg",
        "CheXpert-v1.0/train/patient1/study1/view1_frontal.jpg",
        "CheXpert-v1.0\\train\\patient00001\\study1\\view1_frontal.jpg",
        "",
    ],
)
def test_other_paths_are_refused(tmp_path: Path, path: str) -> None:
    raw.chexpert(tmp_path)
    replace(tmp_path / "train.csv", raw.chexpert_path("train", 3), path)
    assert f"`{path}`" in refused("chexpert", tmp_path, **ALL).found


# ------------------------------------------------------------------------------ retrieval images


@pytest.mark.parametrize("folder", ["CheXpert-v1.0-small", "CheXpert-v1.0"])
def test_retrieval_images_leave_the_train_set(tmp_path: Path, folder: str) -> None:
    raw.chexpert(tmp_path)
    train = tmp_path / "train.csv"  # the retrieval lists say -small whatever was downloaded
    train.write_text(train.read_text().replace("CheXpert-v1.0-small", folder))
    raw.retrieval_lists(tmp_path / "convirt")
    tables = read("chexpert", tmp_path, exclude=str(tmp_path / "convirt"))
    gone = {f"train/patient0000{i}/study1/view1_frontal.jpg" for i in (1, 2, 3)}
    assert not gone & set(tables.images["image"])
    assert len(tables.images) == 9 - 3
    assert tables.funnel.to_dict()["images"]["dropped"] == {ON_EXCLUDE_LIST: 3}
    assert tables.funnel.dropped_share == 0


def test_what_to_exclude_must_be_said(tmp_path: Path) -> None:
    error = refused("chexpert", raw.chexpert(tmp_path))
    assert "options.exclude" in error.expected and "1,680" in error.found
    assert "git clone https://github.com/yuhaozhang/convirt" in error.hint
    assert len(read("chexpert", tmp_path, exclude="none").images) == 9
    assert "image-retrieval" in refused("chexpert", tmp_path, exclude=str(tmp_path / "x")).expected


# ------------------------------------------------------------------------------ downloads


def move_train(root: Path, home: Path, how: str) -> None:
    """Spread train/ over the three batches, as folders or zip files, and empty it."""
    for i, patient in enumerate(sorted((home / "train").iterdir())):
        name = BATCHES[i % 3]
        if how == "folders" or (how == "mixed" and i % 3 == 0):
            shutil.copytree(patient, root / name / patient.name)
            continue
        with zipfile.ZipFile(root / f"{name}.zip", "a") as archive:
            for film in sorted(patient.rglob("*.jpg")):
                inside = film.relative_to(patient.parent).as_posix()
                archive.write(film, inside if how == "bare zips" else f"{name}/{inside}")
    shutil.rmtree(home / "train")


def batches(root: Path, how: str) -> Path:
    """What AIMI hands out, beside a download that was cut off and another list of labels."""
    made = raw.chexpert(root.parent / "made")
    for name in ("train.csv", "valid.csv"):  # the full size
        text = (made / name).read_text()
        (made / name).write_text(text.replace("CheXpert-v1.0-small/", "CheXpert-v1.0/"))
    root.mkdir()
    move_train(root, made, how)
    if how == "folders":
        made.rename(root / CSV_BATCH)
    else:
        with zipfile.ZipFile(root / f"{CSV_BATCH}.zip", "w") as archive:
            for path in sorted(p for p in made.rglob("*") if p.is_file()):
                archive.write(path, f"{CSV_BATCH}/{path.relative_to(made).as_posix()}")
    raw.write(root / "train_cheXbert.csv", "Path,Sex\n")
    raw.write(root / f".azDownload-87ab-{BATCHES[0]}.zip", "cut off")
    return root


@pytest.mark.parametrize("how", ["folders", "zips", "bare zips", "mixed"])
@pytest.mark.parametrize("container", ["", "chexpertchestxrays-u20210408"])
def test_batches_are_one_set(tmp_path: Path, how: str, container: str) -> None:
    plain = read("chexpert", raw.chexpert(tmp_path / "plain"), Split(0, 2), **ALL)
    root = tmp_path / "aimi" / container
    (tmp_path / "aimi").mkdir()
    batches(root if container else tmp_path / "aimi" / "files", how)
    home = tmp_path / "aimi" / ("" if container else "files")
    tables = read("chexpert", home, Split(0, 2), **ALL)
    assert cells(tables).equals(cells(plain))
    for path, image in zip(tables.images["path"], tables.images["image"], strict=True):
        assert images.decode(Path(path)).pixels.shape == (24, 20), image


def test_a_batch_that_is_lacking_is_missing_images(tmp_path: Path) -> None:
    root = batches(tmp_path / "aimi", "folders")
    shutil.rmtree(root / BATCHES[1])
    tables = registry.read("chexpert", root, Split(0, 2), ALL)
    assert len(tables.images) == 9
    with pytest.raises(InputError, match="2 image missing"):
        packing.build(tables, tmp_path / "store", 16)


def test_two_unpacked_batches_and_train(tmp_path: Path) -> None:
    """A user who began to merge the batches by hand: some patients moved, the lists too."""
    root = batches(tmp_path / "aimi", "folders")
    (root / "train").mkdir()
    for patient in sorted((root / BATCHES[0]).iterdir()):
        patient.rename(root / "train" / patient.name)
    (root / CSV_BATCH / "train.csv").rename(root / "train.csv")
    plain = read("chexpert", raw.chexpert(tmp_path / "plain"), **ALL)
    assert cells(read("chexpert", root, **ALL)).equals(cells(plain))


@pytest.mark.parametrize("inner", ["CheXpert-v1.0-small/", ""])
def test_one_archive(tmp_path: Path, inner: str) -> None:
    plain = raw.chexpert(tmp_path / "plain")
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip/CheXpert-v1.0-small.zip", "w") as archive:
        for path in sorted(p for p in plain.rglob("*") if p.is_file()):
            archive.write(path, inner + path.relative_to(plain).as_posix())
    wanted = cells(read("chexpert", plain, **ALL))
    assert cells(read("chexpert", tmp_path / "zip", **ALL)).equals(wanted)
    assert cells(read("chexpert", tmp_path / "zip/CheXpert-v1.0-small.zip", **ALL)).equals(wanted)


def test_a_linked_part_is_fine(tmp_path: Path) -> None:
    raw.chexpert(tmp_path / "set")
    (tmp_path / "set/train").rename(tmp_path / "other-disk")
    (tmp_path / "set/train").symlink_to(tmp_path / "other-disk")
    assert len(cells(read("chexpert", tmp_path / "set", **ALL))) == 9


def test_a_linked_patient_is_not(tmp_path: Path) -> None:
    raw.chexpert(tmp_path / "set")
    (tmp_path / "set/train/patient00001").rename(tmp_path / "secret")
    (tmp_path / "set/train/patient00001").symlink_to(tmp_path / "secret")
    assert "stay inside" in refused("chexpert", tmp_path / "set", **ALL).expected


# ------------------------------------------------------------------------------ test sets


def localize(root: Path, by_study: bool = False) -> Path:
    """CheXlocalize's folder CheXpert: other names, and a test list without views."""
    home = root / "CheXpert"
    made = raw.chexpert(root / "made")
    (made / "valid.csv").rename(raw.write(home / "val_labels.csv", ""))
    (made / "valid").rename(home / "val")
    shutil.rmtree(made)
    films = [
        "test/patient64741/study1/view1_frontal.jpg",
        "test/patient64741/study1/view2_lateral.jpg",
        "test/patient64742/study1/view1_frontal.jpg",
    ]
    for i, film in enumerate(films):
        raw.save(home / film, i)
    labels = ",".join(chexpert.LABELS)
    if by_study:
        lines = [f"Study,{labels}"]
        for patient, first in (("patient64741", 1), ("patient64742", 0)):
            lines.append(f"CheXpert-v1.0/test/{patient}/study1,{first}" + ",0" * 13)
        raw.write(home / "groundtruth.csv", "\n".join(lines))
        raw.write(home / "test/patient64741/study1/._view1_frontal.jpg", "of macOS")
    else:
        lines = [f"Path,{labels}"]
        lines += [f"{film},{int('64741' in film)}.0" + ",0.0" * 13 for film in films]
        raw.write(home / "test_labels.csv", "\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("by_study", [False, True])
def test_the_set_of_2022(tmp_path: Path, by_study: bool) -> None:
    raw.chexpert(tmp_path / "set")
    localize(tmp_path / "localize", by_study)
    options: dict[str, Any] = {"test_set": "test", "test_root": str(tmp_path / "localize"), **ALL}
    tables = read("chexpert", tmp_path / "set", Split(0, 2), **options)
    test = tables.images[tables.images["split"] == "test"]
    assert test[["image", "view", "No Finding"]].to_numpy().tolist() == [
        ["test/patient64741/study1/view1_frontal.jpg", "", 1],
        ["test/patient64741/study1/view2_lateral.jpg", "LATERAL", 1],
        ["test/patient64742/study1/view1_frontal.jpg", "", 0],
    ]
    assert len(cells(tables)) == 7 + 3  # valid.csv is not used ...
    alone = read("chexpert", tmp_path / "set", **options)  # ... but to validate, if asked for none
    val = alone.images[alone.images["split"] == "val"]
    assert list(val["patient"]) == ["patient64541", "patient64542"]
    assert len(cells(alone)) == 7 + 2 + 3


def test_valid_csv_is_found_in_the_root_too(tmp_path: Path) -> None:
    """The released test set may come by itself, without the lists of v1.0."""
    raw.chexpert(tmp_path / "set")
    localize(tmp_path / "localize")
    for name in ("val_labels.csv", "valid.csv"):
        for path in (tmp_path / "localize").rglob(name):
            path.unlink()
    options: dict[str, Any] = {"test_set": "test", "test_root": str(tmp_path / "localize"), **ALL}
    images = read("chexpert", tmp_path / "set", **options).images
    assert list(images.loc[images["split"] == "val", "patient"]) == ["patient64541", "patient64542"]


def test_a_study_without_films(tmp_path: Path) -> None:
    raw.chexpert(tmp_path / "set")
    localize(tmp_path / "localize", by_study=True)
    shutil.rmtree(tmp_path / "localize/CheXpert/test/patient64742")
    options: dict[str, Any] = {"test_set": "test", "test_root": str(tmp_path / "localize"), **ALL}
    assert "patient64742" in refused("chexpert", tmp_path / "set", **options).found
    replace(tmp_path / "localize/CheXpert/groundtruth.csv", "/study1", "/study1/view1_frontal.jpg")
    assert "view1_frontal" in refused("chexpert", tmp_path / "set", **options).found
    options["test_root"] = str(tmp_path / "nowhere")
    assert "test set" in refused("chexpert", tmp_path / "set", **options).expected
    options = {"test_set": "test", **ALL}
    assert "test_labels.csv" in refused("chexpert", tmp_path / "set", **options).path


@pytest.mark.parametrize("part", ["valid", "val"])
def test_the_usual_test_set_of_chexlocalize(tmp_path: Path, part: str) -> None:
    plain = cells(read("chexpert", raw.chexpert(tmp_path / "set"), Split(0, 2), **ALL))
    replace(localize(tmp_path / "localize") / "CheXpert/val_labels.csv", "valid/", f"{part}/")
    (tmp_path / "set/valid.csv").unlink()
    shutil.rmtree(tmp_path / "set/valid")
    assert "valid.csv" in refused("chexpert", tmp_path / "set", **ALL).path
    options: dict[str, Any] = {"test_root": str(tmp_path / "localize"), **ALL}
    assert cells(read("chexpert", tmp_path / "set", Split(0, 2), **options)).equals(plain)


# ------------------------------------------------------------------------------ validation


def test_validation_by_patient_or_by_image(tmp_path: Path) -> None:
    raw.chexpert(tmp_path, patients=3)
    lines = (tmp_path / "train.csv").read_text().splitlines()
    lines += [lines[1].replace("study1", f"study{i}") for i in range(2, 40)]
    raw.write(tmp_path / "train.csv", "\n".join(lines))
    by_patient = read("chexpert", tmp_path, Split(0, 1), **ALL)  # checks that no patient is split
    assert not by_patient.funnel.notes
    options: dict[str, Any] = {"validation": "image", **ALL}
    tables = registry.read("chexpert", tmp_path, Split(0, 20), options)
    sizes = tables.images["split"].value_counts().to_dict()
    assert sizes == {"train": len(lines) - 1 - 20, "val": 20, "test": 2}
    (note,) = tables.funnel.to_dict()["notes"]
    shared, _, what = note.partition(" ")
    assert 15 <= int(shared) <= 20 and what == chexpert.SHARED
    again = registry.read("chexpert", tmp_path, Split(0, 20), options)
    assert again.images.equals(tables.images)
    assert "own test split" in refused("chexpert", tmp_path, Split(0, 20, 5), **options).expected
    assert "lower" in refused("chexpert", tmp_path, Split(0, 500), **options).hint
    with pytest.raises(InputError, match=r"(?s)each patient in one part.*change that option"):
        split_lists.draw(tables, Split(0, 20), "chexpert")
    split_lists.write(path := tmp_path / "it.csv", split_lists.draw(by_patient, Split(0, 1), "it"))
    with_list = Split(0, 1, listed=split_lists.read(str(path)))
    assert "no split_file" in refused("chexpert", tmp_path, with_list, **options).expected
    read("chexpert", tmp_path, with_list, **ALL)


@pytest.mark.parametrize("option", ["uncertain", "test_set", "validation"])
def test_unknown_choices(tmp_path: Path, option: str) -> None:
    raw.chexpert(tmp_path)
    options: dict[str, Any] = {option: "maybe", **ALL}
    error = refused("chexpert", tmp_path, **options)
    assert f"options.{option}" in error.expected and "`maybe`" in error.found


# ------------------------------------------------------------------------------ properties

NOWHERE = Download((Path("/nowhere"),))
PARTS = st.sampled_from(["train", "valid", "val", "test"])
NUMBERS = st.integers(0, 99999)


@given(PARTS, NUMBERS, st.integers(1, 99), st.integers(1, 9), st.booleans(),
       st.sampled_from(["", "CheXpert-v1.0/", "CheXpert-v1.0-small/", "x y (z)/"]))  # fmt: skip
def test_any_official_path_is_found(
    part: str, patient: int, study: int, view: int, lateral: bool, prefix: str
) -> None:
    film = f"patient{patient:05d}/study{study}/view{view}_{'lateral' if lateral else 'frontal'}.jpg"
    found = chexpert_files.locate([f"{prefix}{part}/{film}"], NOWHERE, Path("list.csv")).iloc[0]
    assert found["image"] == f"{'valid' if part == 'val' else part}/{film}"
    assert found["path"] == f"/nowhere/{found['image']}"
    assert (found["study"], found["patient"]) == (film.rsplit("/", 1)[0], film.split("/")[0])


PIECES = st.lists(
    st.sampled_from(["train", "val", "patient00001", "study1", "view1_frontal.jpg", "..", "", "."])
    | st.text(max_size=6),
    max_size=6,
)


@settings(max_examples=60)
@given(PIECES.map("/".join) | st.text())
def test_any_path_is_found_or_refused(text: str) -> None:
    try:
        found = chexpert_files.locate([text], NOWHERE, Path("list.csv")).iloc[0]
    except InputError as error:
        assert f"`{text}`" in error.found
    else:
        assert found["image"].count("/") == 3 and found["path"].startswith("/nowhere/")


CELL = st.sampled_from(["", "0.0", "1.0", "-1.0", "1", "-1"])


@settings(max_examples=40)
@given(
    st.lists(
        st.lists(CELL | st.text("01.- x,\"'", max_size=3), min_size=14, max_size=14),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["usual", "ones", "zeros", "drop"]),
)
def test_any_labels_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], policy: str
) -> None:
    root = tmp_path_factory.mktemp("set")
    lines = [raw.CHEXPERT_HEADER]
    lines += [
        f"{raw.chexpert_path('train', i)},Male,40,Frontal,AP,{','.join(row)}"
        for i, row in enumerate(rows, 1)
    ]
    raw.write(root / "train.csv", "\n".join(lines))
    zeros = ",0.0" * 14
    raw.write(
        root / "valid.csv",
        f"{raw.CHEXPERT_HEADER}\n{raw.chexpert_path('valid', 64541)},Male,40,Frontal,AP{zeros}\n",
    )
    known = {"", "0.0", "0", "1.0", "1", "-1.0", "-1"}
    try:
        tables = read("chexpert", root, uncertain=policy, **ALL)
    except InputError:
        assert not {cell.strip() for row in rows for cell in row} <= known
    else:
        unsure = sum(any(row[i].strip().startswith("-") for i in (2, 5, 6, 8, 10)) for row in rows)
        assert len(tables.images) == 1 + len(rows) - unsure * (policy == "drop")
