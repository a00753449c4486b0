"""MIMIC-CXR: one root that holds the reports (MIMIC-CXR) and the images (MIMIC-CXR-JPG).

mimic-cxr-reports.zip               files/p10/p10000032/s50414267.txt
mimic-cxr-2.0.0-metadata.csv.gz     12 columns, one row per image
mimic-cxr-2.0.0-split.csv.gz        dicom_id, study_id, subject_id, split
mimic-cxr-2.0.0-chexpert.csv.gz     one row per study, 14 labels
IMAGE_FILENAMES                     one relative path per line
files.zip                           the tree of images, zipped as where folders are limited:
files/p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from convirt.datasets import phantom
from convirt.datasets.layouts._tools import (
    Layout,
    csv_text,
    hexadecimal,
    patients,
    pick,
    stream,
    write_gzip,
    write_image,
    write_text,
    write_zip,
)
from convirt.datasets.layouts.mimic_report import write_report

METADATA = (
    "dicom_id",
    "subject_id",
    "study_id",
    "PerformedProcedureStepDescription",
    "ViewPosition",
    "Rows",
    "Columns",
    "StudyDate",
    "StudyTime",
    "ProcedureCodeSequence_CodeMeaning",
    "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
_AGAIN = 0.09  # share of studies with the same patient as the one before: 1.1 studies per patient
_SECOND = 0.15  # share of studies with two images
_UNNAMED = 0.03  # share of images whose ViewPosition is empty (4% of the real ones)
_UNLABELLED = 0.01  # share of studies whose row of labels is empty
_SPLITS = {"train": 0.977, "validate": 0.009, "test": 0.014}
_VIEW_CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "": ""}
# Ids step by a constant modulo this prime of seven digits, so that they look random and never
# repeat, and a study number says nothing about the order in time.
_PRIME = 9_999_991


@dataclass(frozen=True)
class Study:
    """One study of the plan."""

    index: int
    subject: int
    number: int

    @property
    def folder(self) -> str:
        """The folder of the images; the report has the same name with .txt."""
        return f"files/p{self.subject // 1_000_000}/p{self.subject}/s{self.number}"


@dataclass(frozen=True)
class Drawn:
    """A study with its report and its rows of the lists."""

    study: Study
    report: str
    metadata: tuple[tuple[object, ...], ...]
    labels: tuple[str, ...]


def plan(seed: int, counts: Mapping[str, int]) -> list[Study]:
    """One unit per study."""
    numbers = islice(patients(seed, "mimic-cxr", _AGAIN), counts["studies"])
    return [
        Study(
            index,
            10_000_000 + (32 + 7_368_787 * patient) % _PRIME,
            50_000_000 + (414_267 + 3_497_861 * index) % _PRIME,
        )
        for index, (patient, _) in enumerate(numbers)
    ]


def draw(root: Path, seed: int, side: int, study: Study) -> Drawn:
    """Write the study's one or two films and its report."""
    rng = stream(seed, "mimic-cxr", study.index)
    case = phantom.chest_case(rng)
    views = _views(rng)
    portable = views[0] == "AP"
    procedure = "CHEST (PORTABLE AP)" if portable else "CHEST (PA AND LAT)"
    report = write_report(rng, procedure, *phantom.chest_report(rng, case))
    date, clock = _moment(rng)
    rows = []
    for view in views:
        film = phantom.draw_chest(rng, case, side, view)
        name = hexadecimal(rng, 8, 8, 8, 8, 8)
        write_image(root / study.folder / f"{name}.jpg", film)
        known = "" if rng.random() < _UNNAMED else view
        shape = (procedure, known, *film.shape)
        codes = (procedure, _VIEW_CODES[known], "" if portable else "Erect")
        rows.append((name, study.subject, study.number, *shape, date, clock, *codes))
    return Drawn(study, report, tuple(rows), _labels(rng, case))


def _views(rng: np.random.Generator) -> tuple[str, ...]:
    """One frontal view, alone, with a second AP view, or with a lateral view."""
    first = pick(rng, {"AP": 0.55, "PA": 0.45})
    if rng.random() >= _SECOND:
        return (first,)
    return (first, first) if first == "AP" else (first, "LATERAL")


def _moment(rng: np.random.Generator) -> tuple[str, str]:
    """StudyDate, shifted into the future; StudyTime as a float, so without leading zeros."""
    date = f"{rng.integers(2110, 2205)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}"
    clock = 10000 * rng.integers(24) + 100 * rng.integers(60) + rng.integers(60)
    return date, f"{clock}.{rng.integers(1, 1000):03d}"


def _labels(rng: np.random.Generator, case: phantom.ChestCase) -> tuple[str, ...]:
    """What the CheXpert labeller says about the report."""
    if rng.random() < _UNLABELLED:
        return ("",) * len(LABELS)
    present = set(case.labels) or {"No Finding"}
    if case.device not in ("none", "leads"):
        present.add("Support Devices")
    if "COVID-19" in present:  # the labeller has no label for a viral infection
        present.add("Lung Opacity")
    values = []
    for label in LABELS:
        sure, denied = rng.random() >= 0.1, rng.random() < 0.12
        if label in ("No Finding", "Support Devices"):
            values.append("1.0" if label in present else "")
        elif label in present:
            values.append("1.0" if sure else "-1.0")
        else:
            values.append("0.0" if denied else "")
    return tuple(values)


# ---------------------------------------------------------------------------------- the lists


def tables(root: Path, counts: Mapping[str, int], records: list[Any]) -> None:
    """Write the archive of reports and the lists, sorted by subject and study as in the release."""
    drawn: list[Drawn] = sorted(records, key=lambda one: (one.study.subject, one.study.number))
    metadata = [row for one in drawn for row in one.metadata]
    # The official split is by subject, so the draw is keyed by the subject.
    splits = [
        (row[0], row[2], row[1], pick(stream(0, "mimic-cxr/split", int(str(row[1]))), _SPLITS))
        for row in metadata
    ]
    labels = [(one.study.subject, one.study.number, *one.labels) for one in drawn]
    head = "mimic-cxr-2.0.0-"
    write_gzip(root / f"{head}metadata.csv.gz", csv_text(METADATA, metadata))
    split_header = ("dicom_id", "study_id", "subject_id", "split")
    write_gzip(root / f"{head}split.csv.gz", csv_text(split_header, splits))
    label_header = ("subject_id", "study_id", *LABELS)
    write_gzip(root / f"{head}chexpert.csv.gz", csv_text(label_header, labels))
    names = [f"{one.study.folder}/{row[0]}.jpg\n" for one in drawn for row in one.metadata]
    write_text(root / "IMAGE_FILENAMES", "".join(names))
    reports = ((f"{one.study.folder}.txt", one.report.encode()) for one in drawn)
    write_zip(root / "mimic-cxr-reports.zip", reports)


LAYOUT = Layout(("studies",), plan, draw, tables, zipped="files")
