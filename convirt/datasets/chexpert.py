"""CheXpert v1.0: train.csv for training; for testing, valid.csv or the test set released in 2022.

`chexpert_files` lists the downloads that can be read. docs/datasets/chexpert.md has the counts, the
choices that the paper leaves open, and what others chose.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from convirt.datasets import archives, chexpert_files, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.chexpert_files import Download
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split, assign
from convirt.datasets.tables import ON_EXCLUDE_LIST, UNCERTAIN, Funnel, Tables
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
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
# Of the five competition labels, those whose "uncertain" (-1) is usually read as 1. The paper
# states no reading; for all other labels it is 0.
UNCERTAIN_AS_ONE = ("Atelectasis", "Edema", "Pleural Effusion")
PAPER = {"train": 218414, "val": 5000, "test": 234}
KEEP_ALL = "none"  # value of `exclude` that leaves nothing out
SHARED = "validation images whose patient is in train too"
_CHOICES = {
    "uncertain": ("usual", "ones", "zeros", "drop"),
    "test_set": ("valid", "test"),
    "validation": ("patient", "image"),
}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        uncertain: What -1 means in train.csv: "usual" (1 for Atelectasis, Edema and Pleural
            Effusion, else 0), "ones", "zeros", or "drop": an image that is uncertain in one of the
            five competition labels is left out, and -1 is 0 in the other labels.
        exclude: Folder of the 8x200 retrieval lists, whose images are taken out of the train set.
            "none" keeps them. It must be given: forgetting it would silently train on them.
        test_set: "valid" (234 images, as in the paper) or "test" (668 images, released in 2022).
        test_root: The download that holds the test set, if it is another one; "" = the root.
        validation: How validation images are drawn: by whole patients ("patient"), or by image
            whatever the patient ("image", as in the paper: most have a patient in train). A split
            list cannot be combined with "image".
        views: Views to keep: values of AP/PA for frontal images ("" where the list has no such
            column) and "LATERAL" for all others; empty keeps all.
    """

    uncertain: str = "usual"
    exclude: str = ""
    test_set: str = "valid"
    test_root: str = ""
    validation: str = "patient"
    views: tuple[str, ...] = ()


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read train.csv and the expert-labelled lists.

    Args:
        root: A download that `chexpert_files.find` knows, unpacked or zipped.
        split: Validation images are drawn from train.csv. The test set is the layout's own, so
            `split.test` must be 0. With `test_set: test` and `split.val` 0, valid.csv is the
            validation set.
        options: See Options; `exclude` is required.

    Raises:
        InputError: A list is missing or wrong, or an option is wrong.
    """
    chosen = parse(Options, options, "chexpert")
    for name, known in _CHOICES.items():
        if getattr(chosen, name) not in known:
            raise InputError(
                "params.yaml",
                f"options.{name}: {', '.join(known)}",
                f"`{getattr(chosen, name)}`",
                f"correct datasets.sources.<name>.options.{name}",
            )
    by_image = chosen.validation == "image"
    if by_image and split.listed is not None:
        raise InputError(
            "params.yaml",
            "no split_file when options.validation is `image`: a list keeps patients apart",
            "one",
            "remove it to draw the images from seed, or set options.validation: patient",
        )
    download = chexpert_files.find(root, "train.csv")
    source = download.file("train.csv")
    funnel = Funnel(paper=dict(PAPER))
    rows = inputs.read_csv(source, ["Path", "Frontal/Lateral", "AP/PA", *LABELS])
    train = _images(rows, download, source, _meanings(chosen.uncertain)).assign(split="train")
    parts = [train, *_expert_parts(root, chosen, split)]
    images = pd.concat(parts, ignore_index=True)
    funnel.images.found, funnel.studies.found = len(images), images["study"].nunique()
    images = _exclude(images, chosen.exclude, funnel)
    if chosen.uncertain == "drop":
        unsure = rows[list(COMPETITION)].apply(lambda cells: cells.str.strip()).isin(["-1", "-1.0"])
        out = images["image"].isin(set(train.loc[unsure.any(axis=1), "image"]))
        images = funnel.leave_out(images, out & (images["split"] == "train"), UNCERTAIN)
    tables = assemble(
        images,
        replace(split, val=0) if by_image else split,
        source,
        labels=LABELS,
        views=chosen.views,
        funnel=funnel,
    )
    return _draw_images(tables, split, source) if by_image else tables


def _expert_parts(root: Path, chosen: Options, split: Split) -> list[pd.DataFrame]:
    """The images labelled by radiologists, one table per list, with its split.

    Nothing is blank or uncertain in these lists. CheXlocalize calls them val_labels.csv and
    test_labels.csv, the latter without views; the labels of the test set also exist alone, one
    row per study (groundtruth.csv).
    """
    roots = [root]
    if chosen.test_root:
        roots.insert(0, option_path(chosen.test_root, "the download that holds the test set"))
    valid = ("valid.csv", "val_labels.csv")
    wanted = [(valid, "test", roots[:1])]
    if chosen.test_set == "test":
        wanted = [(("test_labels.csv", "groundtruth.csv"), "test", roots[:1])]
        if not split.val:
            wanted.append((valid, "val", roots))
    parts = []
    for names, split_name, places in wanted:
        downloads = [chexpert_files.find(place, *names) for place in places]
        found = (d for d in downloads if archives.is_file(d.file(*names)))
        download = next(found, downloads[0])
        source = download.file(*names)
        by_study = source.name == "groundtruth.csv"
        rows = inputs.read_csv(source, ["Study" if by_study else "Path", *LABELS])
        if by_study:
            rows["Path"] = [chexpert_files.films_of(s, download, source) for s in rows["Study"]]
            rows = rows.explode("Path", ignore_index=True)
        parts.append(_images(rows, download, source, {}).assign(split=split_name))
    return parts


def _images(
    rows: pd.DataFrame, download: Download, source: Path, also: dict[str, dict[str, float]]
) -> pd.DataFrame:
    """The images of a list with view and labels; `also`: label -> further allowed cell -> value."""
    images = chexpert_files.locate(rows["Path"], download, source)
    frontal = images["image"].str.contains("_frontal.", regex=False)
    if "Frontal/Lateral" in rows:
        frontal = rows["Frontal/Lateral"].str.strip().str.lower() == "frontal"
    view = rows["AP/PA"].str.strip() if "AP/PA" in rows else pd.Series("", rows.index, dtype=str)
    images["view"] = view.where(frontal, "LATERAL")
    for label in LABELS:
        images[label] = inputs.binary(rows[label], label, source, also.get(label, {}))
    return images


def _meanings(uncertain: str) -> dict[str, dict[str, float]]:
    """The values of a blank (not mentioned, so negative) and of -1 in each column of train.csv."""
    meanings = {}
    for label in LABELS:
        one = uncertain == "ones" or (uncertain == "usual" and label in UNCERTAIN_AS_ONE)
        meanings[label] = {"": 0.0, "-1.0": float(one), "-1": float(one)}
    return meanings


def _draw_images(tables: Tables, split: Split, source: Path) -> Tables:
    """Draw the validation images from the train images, whoever their patients are."""
    images = tables.images
    given = images["split"].replace("train", "")
    units = pd.DataFrame({"patient": images["image"], "given": given})  # each image a patient
    images["split"] = assign(units, split, source)
    train = set(images.loc[images["split"] == "train", "patient"])
    shared = (images["split"] == "val") & images["patient"].isin(train)
    tables.funnel.note(SHARED, int(shared.sum()))
    return tables


def listed(folder: Path) -> set[str]:
    """The images that the 8x200 retrieval lists in `folder` name, without the download's name."""
    names: set[str] = set()
    for name in ("query.csv", "candidate.csv"):
        rows = inputs.read_csv(folder / "image-retrieval" / name, ["Path"])
        names |= {"/".join(PurePosixPath(path.strip()).parts[-4:]) for path in rows["Path"]}
    return names


def _exclude(images: pd.DataFrame, exclude: str, funnel: Funnel) -> pd.DataFrame:
    """Take the retrieval images out of the train set, so that none is retrieved from memory."""
    if exclude == KEEP_ALL:
        return images
    if not exclude:
        raise InputError(
            "params.yaml",
            f"options.exclude: the folder of the 8x200 retrieval lists, or {KEEP_ALL}",
            "nothing: their 1,680 images would be trained on",
            "git clone https://github.com/yuhaozhang/convirt, and name that folder in "
            f"datasets.sources.<name>.options.exclude; {KEEP_ALL} keeps the images",
        )
    folder = option_path(exclude, "the folder of the 8x200 lists (image-retrieval/...)")
    out = images["image"].isin(listed(folder)) & (images["split"] == "train")
    if not out.any():
        raise InputError(
            folder,
            "retrieval lists that name images of train.csv",
            "no image in common",
            f"check datasets.sources.<name>.options.exclude, or set it to {KEEP_ALL}",
        )
    return funnel.leave_out(images, out, ON_EXCLUDE_LIST)
