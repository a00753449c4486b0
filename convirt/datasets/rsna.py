"""RSNA Pneumonia Detection Challenge 2018, stage 2: DICOM files and one row a box."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError

LABELS = ("pneumonia",)
PAPER = {"train": 25184, "val": 1500, "test": 3000}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        patients: CSV with the columns patientId and patient. The challenge's "patientId" is one
            an IMAGE; the 26,684 labelled films are of far fewer people, and without such a map
            most test films have a train film of the same person.
    """

    patients: str = ""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the labelled part of stage 2.

    Args:
        root: Holds stage_2_train_labels.csv and stage_2_train_images/<patientId>.dcm.
        split: Validation and test images; there is no official division of the labelled part.
        options: See Options.

    Raises:
        InputError: The list is missing, or one image has two targets.
    """
    chosen = parse(Options, options, "rsna")
    source = root / "stage_2_train_labels.csv"
    boxes = inputs.read_csv(source, ["patientId", "Target"])
    boxes["pneumonia"] = inputs.binary(boxes["Target"], "Target", source, {})
    # One row a box: an image with three boxes has three rows, all with Target 1.
    rows = boxes.groupby("patientId", sort=True)["pneumonia"].agg(["min", "max"]).reset_index()
    torn = rows.loc[rows["min"] != rows["max"], "patientId"]
    if len(torn):
        raise InputError(
            source, "one Target an image", f"both for `{torn.iloc[0]}`", "restore the official list"
        )
    relative = "stage_2_train_images/" + rows["patientId"] + ".dcm"
    images = pd.DataFrame(
        {
            "image": rows["patientId"],
            "path": [str(inputs.inside(root, name, source)) for name in relative],
            "study": rows["patientId"],
            "patient": rows["patientId"],
            "pneumonia": rows["max"],
        }
    )
    if chosen.patients:
        images["patient"] = _people(images["image"], chosen.patients)
    tables = assemble(images, split, source, labels=LABELS)
    tables.funnel.paper = dict(PAPER)
    return tables


def _people(ids: pd.Series, option: str) -> pd.Series:
    """The person behind each film."""
    source = option_path(option, "a CSV of patientId,patient")
    rows = inputs.read_csv(source, ["patientId", "patient"])
    people = ids.map(dict(zip(rows["patientId"], rows["patient"], strict=True)))
    if people.isna().any():
        raise InputError(
            source,
            "a patient for every patientId of the labels",
            f"none for `{ids[people.isna()].iloc[0]}` ({int(people.isna().sum())} missing)",
            "complete the list",
        )
    return people
