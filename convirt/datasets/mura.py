"""MURA v1.1: limb radiographs, normal or abnormal; the label is of the study."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError

LABELS = ("abnormal",)
PAPER = {"train": 33078, "val": 3730, "test": 3197}
FOLDER = "MURA-v1.1"


@dataclass(frozen=True)
class Options:
    """This reader has no switches."""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the four lists, none of which has a header.

    Args:
        root: The folder MURA-v1.1, or what holds it: a folder, MURA-v1.1.zip, or its folder.
        split: Validation images are drawn by patient from the train list. The valid list is the
            test set (the official test set is hidden), as in the paper, so `split.test` must be 0.
        options: None known.

    Returns:
        Tables; the view is the body part, such as "WRIST".

    Raises:
        InputError: A list is missing, an image has no labelled study, or a label contradicts
            the name of its folder.
    """
    parse(Options, options, "mura")
    places = [root, root / FOLDER, root / f"{FOLDER}.zip" / FOLDER]
    root = next((p for p in places if archives.is_file(p / "train_image_paths.csv")), root)
    parts = []
    for name, split_name in (("train", "train"), ("valid", "test")):
        source = root / f"{name}_image_paths.csv"
        paths = inputs.read_csv(source, [], names=["path"])["path"].str.strip()
        images = _locate(paths[paths.str.contains("/")], root, source)
        labels = _labels(root / f"{name}_labeled_studies.csv")
        images["abnormal"] = images["study"].map(labels)
        unknown = images.loc[images["abnormal"].isna(), "study"]
        if len(unknown):
            raise InputError(
                root / f"{name}_labeled_studies.csv",
                "a label for the study of every image",
                f"none for `{unknown.iloc[0]}`",
                "restore the official lists",
            )
        images["split"] = split_name
        parts.append(images)
    images = pd.concat(parts, ignore_index=True)
    tables = assemble(images, split, root / "train_image_paths.csv", labels=LABELS)
    tables.funnel.paper = dict(PAPER)
    return tables


def _locate(paths: pd.Series, root: Path, source: Path) -> pd.DataFrame:
    """Turn "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png" into a row.

    A patient may have several body parts and both labels; the number alone names the patient.
    """
    rows = []
    for text in paths:
        parts = PurePosixPath(text).parts
        if len(parts) != 6:
            raise InputError(
                source,
                "paths such as MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png",
                f"`{text}`",
                "restore the official list",
            )
        name = "/".join(parts[1:])
        path = str(inputs.inside(root, name, source))
        rows.append((name, path, "/".join(parts[1:5]), parts[3], parts[2].removeprefix("XR_")))
    return pd.DataFrame(rows, columns=["image", "path", "study", "patient", "view"], dtype=str)


def _labels(source: Path) -> dict[str, float]:
    """Study "train/XR_WRIST/patient00001/study1_positive" -> 1.0 if abnormal."""
    rows = inputs.read_csv(source, [], names=["path", "label"])
    rows = rows[rows["path"].str.contains("/")].reset_index(drop=True)  # a header, in some copies
    labels = inputs.binary(rows["label"], "label", source, {})
    studies = ["/".join(PurePosixPath(path).parts[1:]) for path in rows["path"]]
    for study, label in zip(studies, labels, strict=True):
        if not study.endswith("_positive" if label else "_negative"):
            raise InputError(
                source,
                "labels that agree with the folder's name (_positive = 1, _negative = 0)",
                f"{label:.0f} for `{study}`",
                "restore the official list",
            )
    return dict(zip(studies, labels, strict=True))
