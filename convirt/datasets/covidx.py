"""COVIDx v4: two text lists without a header, three classes, images from several sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import LISTED_TWICE, Funnel, Tables
from convirt.errors import InputError

LABELS = ("normal", "pneumonia", "COVID-19")
PAPER = {"train": 13598, "val": 300, "test": 300}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        version: Of the lists train_<version>.txt and test_<version>.txt; the paper used COVIDx4.
            Other lists with the same three classes can be read too.
    """

    version: str = "COVIDx4"


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the lists of one version.

    Args:
        root: Holds the lists (at the root or in labels/) and the images (in data/train and
            data/test, or train and test).
        split: Validation images are drawn by patient from the train list; the test list stays,
            so `split.test` must be 0.
        options: See Options.

    Raises:
        InputError: A list is missing or of another version, one file has two labels, or one
            patient is in both lists.
    """
    chosen = parse(Options, options, "covidx")
    funnel = Funnel(paper=dict(PAPER))
    parts = []
    for name in ("train", "test"):
        file = f"{name}_{chosen.version}.txt"
        hint = "put the official label lists there, or set options.version"
        source = inputs.first_file(root, [file, f"labels/{file}"], hint)
        rows = _parse(source)
        rows["split"] = name
        folder = f"data/{name}" if archives.is_dir(root / "data" / name) else name
        rows["path"] = [str(inputs.inside(root / folder, image, source)) for image in rows["image"]]
        rows["image"] = f"{name}/" + rows["image"]
        funnel.images.found += len(rows)
        parts.append(_listed_once(rows, source, funnel))
    images = pd.concat(parts, ignore_index=True)
    images["study"] = images["image"]  # no list says which images were taken together
    funnel.studies.found = images["study"].nunique()
    images = images.assign(**inputs.one_hot(images["label"], LABELS, "label", source))
    return assemble(images.drop(columns="label"), split, source, labels=LABELS, funnel=funnel)


def _parse(source: Path) -> pd.DataFrame:
    """Read "patientid filename label [source]".

    Lines have 3, 4 or more fields: some test lines lack the source, and some patient ids hold a
    space ("COVID 1 COVID(1).png COVID-19 sirm"). So the label is looked for from the right.
    """
    rows = []
    lines = archives.read_bytes(source).decode("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        at = next((i for i in (-1, -2) if len(fields) > 2 - i - 1 and fields[i] in LABELS), None)
        if at is None:
            raise InputError(
                source,
                f"`patientid filename label [source]` with one of {', '.join(LABELS)}",
                f"line {number}: `{line.strip()}`",
                "use the lists of COVIDx4; other versions have other classes",
            )
        rows.append((" ".join(fields[: at - 1]), fields[at - 1], fields[at]))
    return pd.DataFrame(rows, columns=["patient", "image", "label"], dtype=str)


def _listed_once(rows: pd.DataFrame, source: Path, funnel: Funnel) -> pd.DataFrame:
    """Keep the first of repeated lines: COVIDx4 lists 000001-27.jpg under two patient ids."""
    labels = rows.groupby("image")["label"].nunique()
    torn = labels.index[labels > 1]
    if len(torn):
        raise InputError(
            source, "one label a file", f"two for `{torn[0]}`", "restore the official list"
        )
    twice = rows["image"].duplicated()
    funnel.images.drop(LISTED_TWICE, rows.loc[twice, "image"])
    return rows[~twice]
