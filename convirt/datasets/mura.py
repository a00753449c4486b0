"""MURA v1.1: limb radiographs, normal or abnormal, labelled by study.

docs/datasets/mura.md has the counts and the two ways of scoring, per patient or per study.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import LEFTOVER, Funnel, Tables
from convirt.errors import InputError

LABELS = ("abnormal",)
PAPER = {"train": 33078, "val": 3730, "test": 3197}
FOLDER = "MURA-v1.1"
# macOS's archiver leaves a file of its own beside others, which no decoder opens; lists that were
# made by globbing name these files.
_LEFTOVER = "._"
_STUDY = (
    r"(?:[^/]+/)?(train|valid)/XR_([A-Z]+)/(patient[0-9]{5})"
    r"/(study[0-9]{1,3}_(?:positive|negative))"
)
_STUDY_PATH = re.compile(f"{_STUDY}/?")
_IMAGE_PATH = re.compile(_STUDY + r"/((?:\._)?image[0-9]{1,3}\.(?:png|jpg|jpeg))")


@dataclass(frozen=True)
class Options:
    """This reader has no switches."""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the four lists, which have no header.

    Args:
        root: The folder MURA-v1.1, or MURA-v1.1.zip, or the folder that holds one of them.
        split: Validation images are drawn by patient from the train list. The valid list is the
            test set (the official test set is hidden), as in the paper, so `split.test` must be 0.
        options: None known.

    Returns:
        Tables; the view is the body part, such as "WRIST".

    Raises:
        InputError: A list is missing, an image's study has no label, or a label contradicts the
            name of its folder.
    """
    parse(Options, options, "mura")
    places = [root, root / FOLDER, root / f"{FOLDER}.zip" / FOLDER]
    root = next((p for p in places if archives.is_file(p / "train_image_paths.csv")), root)
    parts = []
    for name, split_name in (("train", "train"), ("valid", "test")):
        source = root / f"{name}_image_paths.csv"
        images = _locate(_column(source, ["path"])["path"], root, source)
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
    funnel = Funnel(paper=dict(PAPER))
    funnel.images.found, funnel.studies.found = len(images), images["study"].nunique()
    left = images["image"].map(lambda image: PurePosixPath(image).name).str.startswith(_LEFTOVER)
    kept = funnel.leave_out(images, left, LEFTOVER)
    return assemble(kept, split, root / "train_image_paths.csv", labels=LABELS, funnel=funnel)


def _column(source: Path, names: list[str]) -> pd.DataFrame:
    """A list without a header, path first; some copies have one, which is skipped."""
    rows = inputs.read_csv(source, [], names=names)
    return rows[1:] if len(rows) and "/" not in rows["path"].iloc[0] else rows


def _locate(paths: pd.Series, root: Path, source: Path) -> pd.DataFrame:
    """Turn "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png" into a row.

    A patient may have several body parts and both labels; the number alone identifies the patient.
    """
    rows = []
    for text in paths:
        match = _IMAGE_PATH.fullmatch(text.strip())
        if match is None:
            raise InputError(
                source,
                "paths that stay inside the download, such as "
                "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png",
                f"`{text}`",
                "restore the official list",
            )
        part, limb, patient, number, file = match.groups()
        study = f"{part}/XR_{limb}/{patient}/{number}"
        path = str(inputs.inside(root, f"{study}/{file}", source))
        rows.append((f"{study}/{file}", path, study, patient, limb))
    return pd.DataFrame(rows, columns=["image", "path", "study", "patient", "view"], dtype=str)


def _labels(source: Path) -> dict[str, float]:
    """Study "train/XR_WRIST/patient00001/study1_positive" -> 1.0 if abnormal."""
    rows = _column(source, ["path", "label"]).reset_index(drop=True)
    labels = inputs.binary(rows["label"], "label", source, {})
    studies = {}
    for path, label in zip(rows["path"], labels, strict=True):
        match = _STUDY_PATH.fullmatch(path.strip())
        if match is None:
            raise InputError(
                source,
                "studies that stay inside the download, such as "
                "MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/",
                f"`{path}`",
                "restore the official list",
            )
        part, limb, patient, number = match.groups()
        study = f"{part}/XR_{limb}/{patient}/{number}"
        if not study.endswith("_positive" if label else "_negative"):
            raise InputError(
                source,
                "labels that agree with the folder's name (_positive = 1, _negative = 0)",
                f"{label:.0f} for `{study}`",
                "restore the official list",
            )
        studies[study] = float(label)
    return studies
