"""CheXpert v1.0 and v1.0-small: train.csv to learn from, expert-labelled valid.csv to test on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split
from convirt.datasets.tables import ON_EXCLUDE_LIST, Funnel, Tables
from convirt.errors import InputError

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
# The usual reading of "uncertain" (-1) in the five labels of the competition. The paper states
# none; all other labels take 0.
UNCERTAIN_AS_ONE = ("Atelectasis", "Edema", "Pleural Effusion")
PAPER = {"train": 218414, "val": 5000, "test": 234}
FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0")


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        uncertain: What -1 means: "usual" (1 for Atelectasis, Edema and Pleural Effusion, else 0),
            "ones" or "zeros".
        exclude: Folder of the 8x200 retrieval lists; their images leave the train set. Empty
            keeps all.
        views: Values of AP/PA to keep, "LATERAL" for the others; empty keeps all.
    """

    uncertain: str = "usual"
    exclude: str = ""
    views: tuple[str, ...] = ()


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read train.csv and valid.csv.

    Blank means not mentioned and is read as negative, -1 (uncertain) as `options.uncertain` says.

    Args:
        root: Holds train.csv, valid.csv, train/ and valid/, or the folder CheXpert-v1.0-small
            (or CheXpert-v1.0) with them, unpacked or as the zip file CheXpert-v1.0-small.zip.
        split: Validation images are drawn by patient from train.csv; valid.csv is the test set,
            as in the paper, so `split.test` must be 0.
        options: See Options.

    Raises:
        InputError: A list is missing or wrong.
    """
    chosen = parse(Options, options, "chexpert")
    if chosen.uncertain not in ("usual", "ones", "zeros"):
        raise InputError(
            "params.yaml",
            "options.uncertain: usual, ones or zeros",
            f"`{chosen.uncertain}`",
            "correct it",
        )
    root = home(root, "train.csv")
    parts = []
    for name, split_name in (("train", "train"), ("valid", "test")):
        source = root / f"{name}.csv"
        rows = inputs.read_csv(source, ["Path", "Frontal/Lateral", "AP/PA", *LABELS])
        images = locate(rows["Path"], root, source)
        frontal = rows["Frontal/Lateral"].str.strip().str.lower() == "frontal"
        images["view"] = rows["AP/PA"].str.strip().where(frontal, "LATERAL")
        images["split"] = split_name
        for label in LABELS:
            one = chosen.uncertain == "ones" or (
                chosen.uncertain == "usual" and label in UNCERTAIN_AS_ONE
            )
            also = {"": 0.0, "-1.0": float(one), "-1": float(one)}
            images[label] = inputs.binary(rows[label], label, source, also)
        parts.append(images)
    images = pd.concat(parts, ignore_index=True)

    funnel = Funnel(paper=dict(PAPER))
    funnel.images.found, funnel.studies.found = len(images), images["study"].nunique()
    if chosen.exclude:
        images = _exclude(images, Path(chosen.exclude), funnel)
    return assemble(
        images, split, root / "train.csv", labels=LABELS, views=chosen.views, funnel=funnel
    )


def home(root: Path, name: str) -> Path:
    """What holds `name`: the root itself, or the download's own folder in it, zipped or not."""
    folders = [root, *(place / f for f in FOLDERS for place in (root, root / f"{f}.zip"))]
    return next((folder for folder in folders if archives.exists(folder / name)), root)


def locate(paths: pd.Series, root: Path, source: Path) -> pd.DataFrame:
    """Turn "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg" into a row.

    The first component names the download and is replaced by the real root.

    Returns:
        image ("train/patient00001/study1/view1_frontal.jpg"), path, study and patient.
    """
    rows: list[Sequence[str]] = []
    for text in paths:
        parts = PurePosixPath(text).parts
        if len(parts) != 5:
            raise InputError(
                source,
                "paths such as CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
                f"`{text}`",
                "restore the official list",
            )
        inside = inputs.inside(root, "/".join(parts[1:]), source)
        rows.append(("/".join(parts[1:]), str(inside), f"{parts[2]}/{parts[3]}", parts[2]))
    return pd.DataFrame(rows, columns=["image", "path", "study", "patient"], dtype=str)


def listed(folder: Path) -> set[str]:
    """The images that the 8x200 retrieval lists in `folder` name, without the first component."""
    names: set[str] = set()
    for name in ("query.csv", "candidate.csv"):
        rows = inputs.read_csv(folder / "image-retrieval" / name, ["Path"])
        names |= {"/".join(PurePosixPath(path).parts[1:]) for path in rows["Path"]}
    return names


def _exclude(images: pd.DataFrame, folder: Path, funnel: Funnel) -> pd.DataFrame:
    """Take the retrieval images out of the train set, so that nothing is retrieved by heart."""
    folder = option_path(str(folder), "the folder of the 8x200 lists (image-retrieval/...)")
    out = images["image"].isin(listed(folder)) & (images["split"] == "train")
    if not out.any():
        raise InputError(
            folder,
            "retrieval lists that name images of train.csv",
            "no image in common",
            "check datasets.sources.<name>.options.exclude, or set it to ''",
        )
    kept = images[~out]
    funnel.images.drop(ON_EXCLUDE_LIST, images.loc[out, "image"])
    funnel.studies.drop(ON_EXCLUDE_LIST, sorted(set(images["study"]) - set(kept["study"])))
    return kept
