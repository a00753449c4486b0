"""The paper's retrieval sets CheXpert 8x200: image queries, text queries, candidates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import chexpert, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError

CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Edema",
    "Fracture",
    "No Finding",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
)
# Section 4.2 and the released lists: 5 texts a class, although their README says 10.
PAPER = {"image_queries": 80, "text_queries": 40, "candidates": 1600}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        images: The CheXpert download that holds train/.
    """

    images: str = ""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the three lists.

    Args:
        root: Holds image-retrieval/{query,candidate}.csv and text-retrieval/query.csv.
        split: Unused: everything is test.
        options: See Options; `images` is required.

    Returns:
        Tables of images with role and label, and text queries.

    Raises:
        InputError: A list is missing, a class unknown, or a candidate has not exactly one label.
    """
    chosen = parse(Options, options, "chexpert-8x200")
    if not chosen.images:
        raise InputError(
            "params.yaml",
            "options.images: the CheXpert download of the reader `chexpert-8x200`",
            "nothing",
            "set datasets.sources.<name>.options.images",
        )
    home = chexpert.home(option_path(chosen.images, "the CheXpert download"), "train")
    folder = root / "image-retrieval"
    queries = _queries(folder / "query.csv", "Path")
    located = chexpert.locate(queries["Path"], home, folder / "query.csv")
    located["label"], located["role"] = queries["Variable"].to_numpy(), "query"
    images = pd.concat([located, _candidates(folder / "candidate.csv", home)], ignore_index=True)
    images["split"] = "test"

    texts = _queries(root / "text-retrieval" / "query.csv", "Text")
    texts = texts.rename(columns={"Text": "text", "Variable": "label"})[["text", "label"]]
    tables = assemble(images, Split(split.seed), folder / "candidate.csv", queries=texts)
    tables.funnel.paper = dict(PAPER)
    return tables


def _queries(source: Path, column: str) -> pd.DataFrame:
    """A list of queries, one a row: Variable (its class) and Path or Text."""
    rows = inputs.read_csv(source, ["Variable", column])
    inputs.one_hot(rows["Variable"], CLASSES, "Variable", source)
    rows["Variable"] = rows["Variable"].str.strip()
    if (rows[column].str.strip() == "").any():
        raise InputError(source, f"`{column}` in every row", "a blank", "fill it in")
    return rows


def _candidates(source: Path, home: Path) -> pd.DataFrame:
    """The candidates; the class is the one label that is 1."""
    rows = inputs.read_csv(source, ["Path", *CLASSES])
    images = chexpert.locate(rows["Path"], home, source)
    present = pd.DataFrame(
        {name: inputs.binary(rows[name], name, source, {"": 0.0}) for name in CLASSES}
    )
    wrong = present.sum(axis=1) != 1
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise InputError(
            source,
            "exactly one of the eight classes a candidate",
            f"{int(present.sum(axis=1).iloc[row])} for `{rows['Path'].iloc[row]}`",
            "restore the official list",
        )
    images["label"], images["role"] = present.idxmax(axis=1).to_numpy(), "candidate"
    return images
