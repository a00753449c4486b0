"""RSNA Pneumonia Detection Challenge 2018: one row per box, DICOM or converted films, one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs, rsna_files
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.rsna_files import ANNOTATIONS, MAPPING
from convirt.datasets.splits import Split, assign
from convirt.datasets.tables import Tables
from convirt.errors import InputError

LABELS = ("pneumonia",)
PAPER = {"train": 25184, "val": 1500, "test": 3000}
FOLDER = "rsna-pneumonia-detection-challenge"
STAGES = ("stage_2", "stage_1")  # the later release first
SUFFIXES = (".dcm", ".png", ".jpg", ".jpeg")  # the first that exists is used
# Share of test films with a train film of the same person when the 26,684 labelled films are split
# film by film into 22,184, 1,500 and 3,000; people by the pixel matches with ChestX-ray14 that
# mlmed/torchxrayvision publishes. docs/datasets/rsna.md
KNOWN_LEAK = 0.70
# Films of the challenge are named by random UUIDs (version 4); made-up ones are not.
_UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        images: Folder or zip of the films, if they are stored elsewhere (converted ones, say).
        patients: Who is on which film: RSNA's mapping to ChestX-ray14 (JSON), or a CSV with the
            columns patientId and patient. The challenge has one "patientId" per IMAGE; the 26,684
            labelled films are of some 11,400 people. Empty looks for RSNA's file in the root.
        annotations: RSNA's annotations (JSON), which label the films of stage 2's test part too;
            these then are the test set, as in the paper. They need RSNA's mapping.
    """

    images: str = ""
    patients: str = ""
    annotations: str = ""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the labelled part of stage 2, or of stage 1 if stage 2 is not there.

    A film with a box (Target 1) is positive for pneumonia; all others are negative, normal or not.
    With the option `annotations` the films of stage 2's test part are read as well.

    Args:
        root: Holds stage_2_train_labels.csv and stage_2_train_images/<patientId>.dcm (or .png,
            .jpg): the folder or zip file rsna-pneumonia-detection-challenge, or what holds it.
        split: Validation and test images, drawn by whole people where these are known; the labelled
            part has no official split. With `annotations` films are drawn one by one, as in the
            paper, since most people of the test part have other films in the labelled one.
        options: See Options.

    Raises:
        InputError: The list is missing, one image has two targets, a film has no patient in the
            mapping, or there are annotations without a mapping or for stage 1.
    """
    chosen = parse(Options, options, "rsna")
    root, source = _labels(root)
    boxes = inputs.read_csv(source, ["patientId", "Target"])
    boxes["pneumonia"] = inputs.binary(boxes["Target"], "Target", source, {})
    # One row per box: an image with three boxes has three rows, all with Target 1.
    rows = boxes.groupby("patientId", sort=True)["pneumonia"].agg(["min", "max"]).reset_index()
    torn = rows.loc[rows["min"] != rows["max"], "patientId"]
    if len(torn):
        raise InputError(
            source,
            "one Target per image",
            f"both for `{torn.iloc[0]}`",
            "restore the official list",
        )
    ids, stage = rows["patientId"], source.name.split("_train")[0]
    paths, notes = _films(ids, _folder(root, f"{stage}_train_images", chosen.images), source)
    images = pd.DataFrame(
        {
            "image": ids,
            "path": paths,
            "study": ids,
            "patient": ids,
            "pneumonia": rows["max"],
        }
    )
    if stage == "stage_1":
        notes.append("Stage 1 of the challenge was read; the paper's counts are those of stage 2.")
    mapping = _mapping(root, chosen.patients)
    if chosen.annotations:
        annotations = option_path(chosen.annotations, ANNOTATIONS)
        mapping = _needed(mapping, root, source)
        known = rsna_files.labels(annotations, mapping)
        folder = _folder(root, f"{stage}_test_images", chosen.images)
        images, told = _with_test_part(images, known, folder, annotations)
        tables = assemble(images, split, source, labels=LABELS)
        notes += [*told, _rebuilt(tables.images, known, mapping)]
    else:
        if mapping is not None:
            images["patient"] = people_of(ids, mapping)
        tables = assemble(images, split, source, labels=LABELS)
        notes += doubts(tables.images, split, mapping, source)
    tables.funnel.paper, tables.funnel.notes = dict(PAPER), notes
    return tables


def _labels(root: Path) -> tuple[Path, Path]:
    """The folder (or archive) of the set, and its list of labels."""
    homes = [root, root / FOLDER, root / f"{FOLDER}.zip", root / f"{FOLDER}.zip" / FOLDER]
    for home in homes:
        for stage in STAGES:
            name = f"{stage}_train_labels.csv"
            for source in (home / name, home / f"{name}.zip" / name):
                if archives.is_file(source):
                    return home, source
    return root, root / "stage_2_train_labels.csv"  # `read_csv` reports what is there instead


def _folder(root: Path, name: str, option: str) -> Path:
    """Where the films are stored: Kaggle also offers an archive of them alone."""
    if option:
        return option_path(option, "the folder of the films")
    zipped = root / f"{name}.zip"
    places = [root / name, zipped / name, zipped]
    return next((place for place in places if archives.is_dir(place)), places[0])


def _films(ids: pd.Series, folder: Path, source: Path) -> tuple[list[str], list[str]]:
    """The file of each film, and notes about converted ones."""
    there: dict[str, dict[str, str]] = {suffix: {} for suffix in SUFFIXES}
    for name in archives.names(folder):
        suffix = Path(name).suffix
        if suffix.lower() in there:
            there[suffix.lower()][name.removesuffix(suffix)] = name
    files = ids.map(lambda film: f"{film}.dcm")  # what a missing one should be called
    found = pd.Series("", index=ids.index)
    for suffix in reversed(SUFFIXES):
        held = ids.map(there[suffix])
        files, found = files.where(held.isna(), held), found.where(held.isna(), suffix)
    notes = [
        f"{count} of {len(ids)} films are read from {suffix} files in place of DICOM, so their "
        "grey values are those of whoever converted them."
        for suffix, count in found[~found.isin(["", ".dcm"])].value_counts().items()
    ]
    return [str(inputs.inside(folder, name, source)) for name in files], notes


def _needed(mapping: Path | None, root: Path, source: Path) -> Path:
    """The mapping, without which annotations are of no use."""
    if not source.name.startswith(STAGES[0]) or mapping is None or mapping.suffix != ".json":
        expected = f"stage_2_train_labels.csv and {MAPPING}"
        found = f"{source.name} and {mapping.name if mapping else 'no mapping'}"
        raise InputError(root, expected, found, "add them, or remove the option annotations")
    return mapping


def _with_test_part(
    images: pd.DataFrame, known: dict[str, int], folder: Path, annotations: Path
) -> tuple[pd.DataFrame, list[str]]:
    """The labelled films and those of stage 2's test part, and notes on the latter."""
    ids = pd.Series(sorted(known.keys() - set(images["image"])), dtype=object)
    if ids.empty:
        found = f"labels of {len(known)} films, all of them in Kaggle's list"
        hint = f"use {ANNOTATIONS} of rsna.org, or remove the option annotations"
        raise InputError(annotations, "labels of the test films of stage 2", found, hint)
    paths, notes = _films(ids, folder, annotations)
    test = pd.DataFrame({"image": ids, "path": paths, "study": ids, "patient": ids})
    test = test.assign(pneumonia=ids.map(known), split="test")
    return pd.concat([images.assign(split=""), test], ignore_index=True), notes


def _mapping(root: Path, option: str) -> Path | None:
    """The file that says who is on which film."""
    if option:
        return option_path(option, f"{MAPPING}, or a CSV of patientId,patient")
    return rsna_files.find(root, MAPPING)


def people_of(ids: pd.Series, source: Path) -> pd.Series:
    """The person behind each film."""
    if source.suffix == ".json":
        mapping = rsna_files.people(source)
    else:
        rows = inputs.read_csv(source, ["patientId", "patient"])
        mapping = dict(zip(rows["patientId"], rows["patient"], strict=True))
    people = ids.map(mapping)
    if people.isna().any():
        raise InputError(
            source,
            "a patient for every patientId of the labels",
            f"none for `{ids[people.isna()].iloc[0]}` ({int(people.isna().sum())} missing)",
            "complete the list",
        )
    return people


def doubts(images: pd.DataFrame, split: Split, mapping: Path | None, source: Path) -> list[str]:
    """Notes for the user on people who are in two parts of the split."""
    films, people = len(images), images["patient"].nunique()
    if mapping is not None:
        told = f"{films} films are of {people} people by {mapping.name}; none is in two parts."
        if split.listed is None and (images["split"] == "test").any():
            apart = images[["image"]].rename(columns={"image": "patient"}).assign(given="")
            leak = _leak(images["patient"], assign(apart, split, source))
            told += (
                f" Had films been drawn, {leak:.0%} of the test films would have had a train "
                "film of the same person."
            )
        return [told]
    if split.listed is not None or not images["image"].str.fullmatch(_UUID4).all():
        return []
    return [
        "The challenge's patientId is one a film, so people can be in train and in test: in a "
        f"draw by film of the 26,684 labelled films, {KNOWN_LEAK:.0%} of the test films have a "
        "train film of the same person (pixel matches of mlmed/torchxrayvision). Put RSNA's "
        f"{MAPPING} into the root, or set split_file: splits/rsna.csv."
    ]


def _rebuilt(images: pd.DataFrame, known: dict[str, int], mapping: Path) -> str:
    """A note on a test part whose labels come from RSNA's annotations."""
    told = f"The {(images['split'] == 'test').sum()} test films are those of stage 2's test part, "
    told += "labelled by RSNA's annotations"
    people = people_of(images["image"], mapping)
    told += f"; {_leak(people, images['split']):.0%} have a train film of the same person."
    ours = images[images["split"] != "test"]
    other = ours["image"].map(known).ne(ours["pneumonia"]).sum()
    if other:
        told += (
            f" In these, {other} of the {len(ours)} films of Kaggle's list are labelled otherwise."
        )
    return told


def _leak(people: pd.Series, split: pd.Series) -> float:
    """The share of test images whose person has a train image."""
    test = people[split == "test"]
    return float(test.isin(set(people[split == "train"])).mean())
