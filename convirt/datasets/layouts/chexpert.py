"""CheXpert-v1.0-small and the ConVIRT retrieval lists (yuhaozhang/convirt) that point into it.

    CheXpert-v1.0-small.zip                         as downloaded; in its folder of that name:
    train.csv  valid.csv                            19 columns; Path begins CheXpert-v1.0-small/
    train/patient00001/study1/view1_frontal.jpg     valid/...

    convirt/image-retrieval/{query,candidate}.csv   Variable,Path | the 19 columns
    convirt/text-retrieval/{query,candidate}.csv    Variable,Text | the same candidates

train.csv was labelled by a program: 1.0 stated, 0.0 denied, -1.0 uncertain, blank not mentioned.
valid.csv was labelled by eye: 0.0 and 1.0 only. The retrieval films are in train.csv too; each
shows exactly one of eight classes, and their patients have no other film.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convirt.datasets import phantom
from convirt.datasets.layouts._tools import (
    Layout,
    csv_text,
    patients,
    pick,
    stream,
    write_image,
    write_text,
)

FOLDER = "CheXpert-v1.0-small"
LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *LABELS)
RETRIEVAL_CLASSES = (
    "No Finding",
    "Cardiomegaly",
    "Edema",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Fracture",
)
_TEXTS = 5  # sentences per class that the phantom has

_AGAIN = 0.25  # share of studies with the same patient as the one before
_LATERAL = 0.08  # share of studies with a lateral view as well
_DEVICES = ("pacemaker", "central line", "tube")  # overlying leads are no support device
_OPACITIES = ("Edema", "Consolidation", "Pneumonia", "Atelectasis")
# Share of the present findings that the labeller of train.csv calls uncertain: most often where the
# real list has most -1, but fewer, since the set is small.
_UNCERTAIN = {"Atelectasis": 0.35, "Consolidation": 0.2, "Edema": 0.15, "Pneumonia": 0.2}
_UNCERTAIN_ELSE = 0.08
_ABSENT = {"": 0.81, "0.0": 0.165, "-1.0": 0.025}  # what it writes for an absent finding


@dataclass(frozen=True)
class Study:
    """One study of the plan; `only` is its retrieval class, None in train and valid."""

    part: str  # train, valid, candidate or query
    index: int
    folder: str  # below the root: train/patient00001/study1
    lateral: bool = False
    only: str | None = None


@dataclass(frozen=True)
class Drawn:
    """A study with its rows of train.csv or valid.csv."""

    study: Study
    rows: tuple[tuple[str, ...], ...]


def plan(seed: int, counts: Mapping[str, int]) -> list[Study]:
    """One unit per study; the last study of a part is cut so that the number of images is exact."""
    return [
        *_plan_part(seed, "train", counts["train"] + counts["val"]),
        *_plan_part(seed, "valid", counts["test"]),
        *_plan_retrieval("candidate", counts["per_class"]),
        *_plan_retrieval("query", counts["queries"]),
    ]


def _folder(part: str, patient: int, study: int) -> str:
    # Each part numbers its patients in steps of four from another start, so no two share a patient.
    first = {"train": 1, "valid": 64542, "candidate": 3, "query": 4}[part]
    parent = "valid" if part == "valid" else "train"
    return f"{parent}/patient{first + 4 * patient:05d}/study{study + 1}"


def _plan_part(seed: int, part: str, size: int) -> Iterator[Study]:
    for index, (patient, number) in enumerate(patients(seed, f"chexpert/{part}", _AGAIN)):
        if size <= 0:
            return
        lateral = size > 1 and stream(seed, f"chexpert/{part}/plan", index).random() < _LATERAL
        yield Study(part, index, _folder(part, patient, number), lateral)
        size -= 1 + lateral


def _plan_retrieval(part: str, each: int) -> Iterator[Study]:
    classes = len(RETRIEVAL_CLASSES)
    for number, label in enumerate(RETRIEVAL_CLASSES):
        for i in range(each):
            index = classes * i + number
            yield Study(part, index, _folder(part, index, 0), only=label)


def draw(root: Path, seed: int, side: int, study: Study) -> Drawn:
    """Write the study's one or two films."""
    rng = stream(seed, f"chexpert/{study.part}", study.index)
    case = _case(rng, study.only)
    present = _present(case)
    labels = _by_eye(present) if study.part == "valid" else _by_program(rng, present, study.only)
    patient = stream(seed, f"chexpert/person/{study.folder.split('/')[1]}", 0)
    person = pick(patient, {"Male": 0.59, "Female": 0.41}), str(int(patient.integers(18, 91)))
    view = pick(rng, {"AP": 0.8, "PA": 0.2})
    films = [("view1_frontal.jpg", "Frontal", view)]
    if study.lateral:
        films.append(("view2_lateral.jpg", "Lateral", ""))
    rows = []
    for name, direction, projection in films:
        path = f"{FOLDER}/{study.folder}/{name}"
        film = phantom.draw_chest(rng, case, side, projection or "LATERAL")
        write_image(root / path, film)
        rows.append((path, *person, direction, projection, *labels))
    return Drawn(study, tuple(rows))


def _case(rng: np.random.Generator, only: str | None) -> phantom.ChestCase:
    """A case that CheXpert has columns for; with `only`, one whose row has exactly one 1."""
    while True:
        case = phantom.chest_case(rng, only="" if only == "No Finding" else only)
        if "COVID-19" in case.labels or (only is not None and case.device in _DEVICES):
            continue
        return case


def _present(case: phantom.ChestCase) -> frozenset[str]:
    """The columns that are true of a case, whatever the lists say of them."""
    present = set(case.labels) or {"No Finding"}
    if case.device in _DEVICES:
        present.add("Support Devices")
    return frozenset(present)


def _by_eye(present: frozenset[str]) -> tuple[str, ...]:
    """valid.csv: every column is 0.0 or 1.0; the two general ones follow from specific ones."""
    whole = set(present)
    if not present.isdisjoint(_OPACITIES):
        whole.add("Lung Opacity")
    if "Cardiomegaly" in present:
        whole.add("Enlarged Cardiomediastinum")
    return tuple("1.0" if label in whole else "0.0" for label in LABELS)


def _by_program(
    rng: np.random.Generator, present: frozenset[str], only: str | None
) -> tuple[str, ...]:
    """train.csv: as a labeller reads a report. Retrieval rows are certain and have a single 1."""
    values = []
    for label in LABELS:
        sure, absent = rng.random(), pick(rng, _ABSENT)
        if only is not None:
            values.append("1.0" if label == only else absent.replace("-1.0", ""))
        elif label == "Lung Opacity" and not present.isdisjoint(_OPACITIES):
            values.append("1.0" if sure < 0.6 else "")
        elif label in ("No Finding", "Support Devices"):  # never denied, never doubted
            values.append("1.0" if label in present else "")
        elif label in present:
            values.append("-1.0" if sure < _UNCERTAIN.get(label, _UNCERTAIN_ELSE) else "1.0")
        else:
            values.append(absent)
    return tuple(values)


# ---------------------------------------------------------------------------------- the lists


def tables(root: Path, counts: Mapping[str, int], records: list[Any]) -> None:
    """Write train.csv, valid.csv and the two retrieval folders."""
    drawn: list[Drawn] = records
    rows = {
        part: [row for one in drawn if one.study.part == part for row in one.rows]
        for part in ("train", "valid", "candidate", "query")
    }
    train = sorted(rows["train"] + rows["candidate"] + rows["query"])
    write_text(root / FOLDER / "train.csv", csv_text(HEADER, train))
    write_text(root / FOLDER / "valid.csv", csv_text(HEADER, rows["valid"]))
    images = [(one.study.only, one.rows[0][0]) for one in drawn if one.study.part == "query"]
    texts = [
        (label, phantom.text_query(label, i))
        for label in RETRIEVAL_CLASSES
        for i in range(counts["texts"])
    ]
    candidates = csv_text(HEADER, [[cell or "0.0" for cell in row] for row in rows["candidate"]])
    for kind, column, queries in (("image", "Path", images), ("text", "Text", texts)):
        folder = root / "convirt" / f"{kind}-retrieval"
        write_text(folder / "candidate.csv", candidates)
        # The official query files have CRLF line ends and none after the last line.
        text = csv_text(("Variable", column), queries, end="\r\n")
        write_text(folder / "query.csv", text.removesuffix("\r\n"))


LAYOUT = Layout(
    ("train", "val", "test", "per_class", "queries", "texts"),
    plan,
    draw,
    tables,
    most={"texts": _TEXTS},
    zipped=FOLDER,
)
