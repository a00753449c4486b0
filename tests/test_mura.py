"""MURA v1.1: lists without a header, labels of studies, leftovers of macOS."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import raw
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import refused, replace
from test_readers import read, row

from convirt import labelled, metrics
from convirt.datasets import registry
from convirt.datasets.splits import Split
from convirt.datasets.tables import LEFTOVER
from convirt.errors import InputError
from convirt.params import Task
from stages import finetune

TRAIN = "MURA-v1.1/train_image_paths.csv"


@pytest.mark.parametrize(("nested", "header"), [(True, False), (False, True)])
def test_lists_and_labels(tmp_path: Path, nested: bool, header: bool) -> None:
    tables = read("mura", raw.mura(tmp_path, nested, header), Split(0, 1))
    assert len(tables.images) == 6  # no first image taken for a header, no header for an image
    wrist = row(tables, "train/XR_WRIST/patient00001/study1_negative/image1.png")
    shoulder = row(tables, "study1_positive/image2.png")
    assert (wrist["abnormal"], shoulder["abnormal"]) == (0, 1)
    assert wrist["patient"] == shoulder["patient"] == "patient00001"
    assert wrist["study"] != shoulder["study"]  # both are study1, but of different limbs
    assert wrist["view"] == "WRIST"
    assert tables.images["study"].nunique() == 5
    assert row(tables, "patient11185/study1_positive/image1.png")["split"] == "test"
    assert tables.funnel.paper == {"train": 33078, "val": 3730, "test": 3197}


def test_one_archive(tmp_path: Path) -> None:
    plain = read("mura", raw.mura(tmp_path / "plain"))
    with zipfile.ZipFile(tmp_path / "MURA-v1.1.zip", "w") as archive:
        for path in sorted(p for p in (tmp_path / "plain").rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(tmp_path / "plain").as_posix())
    zipped = read("mura", tmp_path / "MURA-v1.1.zip")
    assert zipped.images.drop(columns="path").equals(plain.images.drop(columns="path"))


def test_leftovers_of_macos(tmp_path: Path) -> None:
    """Beside each image, in the folders and in lists that were made by globbing."""
    root = raw.mura(tmp_path)
    lines = (root / TRAIN).read_text().splitlines()
    made = [f"{line.rpartition('/')[0]}/._{line.rpartition('/')[2]}" for line in lines]
    raw.write(root / TRAIN, "\n".join(sorted([*made, *lines])))
    tables = read("mura", root, Split(0, 1))
    assert not tables.images["image"].str.contains("._", regex=False).any()
    assert tables.funnel.to_dict()["images"] == {"in": 11, "dropped": {LEFTOVER: 5}, "kept": 6}
    assert tables.funnel.dropped_share == 0  # nothing was lost
    raw.write(root / TRAIN, "\n".join([made[0], *lines[2:]]))  # a study with nothing but a leftover
    assert read("mura", root).funnel.studies.dropped == {
        LEFTOVER: ["train/XR_SHOULDER/patient00001/study1_positive"]
    }


@pytest.mark.parametrize(
    "path",
    [
        "no path at all",
        "MURA-v1.1/train/XR_HAND/patient00002/study1_negative",
        "MURA-v1.1/train/XR_HAND/patient00002/study1_negative/../image1.png",
        "a/b/train/XR_HAND/patient00002/study1_negative/image1.png",
        "MURA-v1.1/learn/XR_HAND/patient00002/study1_negative/image1.png",
        "MURA-v1.1/train/XR_HAND/patient00002/study1/image1.png",
    ],
)
def test_other_paths_are_refused(tmp_path: Path, path: str) -> None:
    """Only the first row may be a header."""
    root = raw.mura(tmp_path)
    replace(root / TRAIN, "MURA-v1.1/train/XR_HAND/patient00002/study1_negative/image1.png", path)
    assert f"`{path}`" in refused("mura", root).found


def test_a_patient_of_both_parts(tmp_path: Path) -> None:
    root = raw.mura(tmp_path)
    for name in ("image_paths", "labeled_studies"):
        replace(root / f"MURA-v1.1/valid_{name}.csv", "patient11185", "patient00003")
    assert "`patient00003`" in refused("mura", root).found


# ------------------------------------------------------------------------------ scores


@pytest.mark.parametrize(
    ("unit", "truth", "scores"),
    [
        ("image", [1, 1, 1, 0, 0], [0.1, 0.3, 0.9, 0.5, 0.8]),
        ("study", [1, 1, 0, 0], [0.2, 0.9, 0.5, 0.8]),  # the official score
        ("patient", [1, 1, 0], [0.4, 0.9, 0.5]),  # the paper's
    ],
)
def test_scores_are_averaged_by_unit(
    tmp_path: Path, unit: str, truth: list[int], scores: list[float]
) -> None:
    """The first patient has a normal wrist and an abnormal shoulder on two films."""
    films = {
        "XR_SHOULDER/patient00001/study1_positive/image1.png": 0.1,
        "XR_SHOULDER/patient00001/study1_positive/image2.png": 0.3,
        "XR_HAND/patient00003/study1_positive/image1.png": 0.9,
        "XR_WRIST/patient00001/study1_negative/image1.png": 0.8,
        "XR_HAND/patient00002/study1_negative/image1.png": 0.5,
    }
    records = read("mura", raw.mura(tmp_path)).images
    records["split"] = records["split"].map({"train": "test", "test": "train"})
    images = labelled.split_of(
        np.zeros((6, 2, 2), np.uint8),
        records,
        ["abnormal"],
        unit,
        "test",
        torch.Tensor.float,
        "cpu",
    )
    order = records.loc[records["split"] == "test", "image"].str.removeprefix("train/")
    p = np.array([[films[name]] for name in order])
    found = sorted(zip(images.units.y[:, 0], images.units.average(p)[:, 0].round(6), strict=True))
    assert found == sorted(zip(truth, scores, strict=True))
    task = {"corpus": "bone", "kind": "binary", "labels": ("abnormal",), "metric": "auroc"}
    spec = Task.model_validate({**task, "unit": unit, "lr": 0.1})
    table = finetune._predictions(records, spec, [torch.logit(torch.from_numpy(p))])
    wins = [(a > b) + (a == b) / 2 for y, a in found if y for z, b in found if not z]
    value = metrics.estimate(table, "auroc", 5, 0).value
    assert value == pytest.approx(sum(wins) / len(wins))


# ------------------------------------------------------------------------------ properties

PIECES = st.sampled_from(
    ["MURA-v1.1/", "train/", "XR_HAND/", "patient00002/", "study1_positive/", "image1.png", ",1"]
) | st.text(max_size=4)


@settings(max_examples=60)
@given(
    st.sampled_from(["train_image_paths.csv", "train_labeled_studies.csv"]),
    st.lists(st.lists(PIECES, max_size=8).map("".join), max_size=4),
    st.booleans(),
)
def test_any_list_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, lines: list[str], add: bool
) -> None:
    root = raw.mura(tmp_path_factory.mktemp("set"))
    path = root / "MURA-v1.1" / name
    old = path.read_text().splitlines() if add else []
    path.write_bytes("\n".join([*old, *lines]).encode("utf-8", "surrogatepass"))
    try:
        tables = registry.read("mura", root, Split(0), {})
    except InputError:
        return
    images = tables.images
    assert images["image"].str.fullmatch(r"(train|valid)/XR_[A-Z]+/patient\d{5}/[^/]+/[^/]+").all()
    assert (images["abnormal"] == images["study"].str.endswith("_positive")).all()


LIMB = st.sampled_from(["ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST"])


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(LIMB, st.integers(0, 99), st.integers(1, 4), st.booleans(), st.integers(1, 11)),
        min_size=1, max_size=6, unique_by=lambda study: study[:4],
    ),
    st.sampled_from(["", "path", "Img_Path"]),
)  # fmt: skip
def test_any_official_list_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    studies: list[tuple[str, int, int, bool, int]],
    header: str,
) -> None:
    home = raw.mura(tmp_path_factory.mktemp("set")) / "MURA-v1.1"
    images, labels = [header] * bool(header), [f"{header},label"] * bool(header)
    for limb, patient, number, positive, count in studies:
        folder = f"study{number}_{'positive' if positive else 'negative'}"
        study = f"MURA-v1.1/train/XR_{limb}/patient{patient:05d}/{folder}"
        images += [f"{study}/image{i}.png" for i in range(1, count + 1)]
        labels.append(f"{study}/,{int(positive)}")
    raw.write(home / "train_image_paths.csv", "\n".join(images))
    raw.write(home / "train_labeled_studies.csv", "\n".join(labels) + "\n")
    tables = read("mura", home)
    train = tables.images[tables.images["split"] == "train"]
    assert len(train) == sum(study[-1] for study in studies)
    assert train["study"].nunique() == len(studies)
    assert train["abnormal"].sum() == sum(study[-1] * study[3] for study in studies)
