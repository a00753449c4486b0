"""The paper's retrieval sets CheXpert 8x200: image queries, text queries, candidates.

The lists are those of github.com/yuhaozhang/convirt; the films are CheXpert's. A few patients have
both a query and a candidate. The paper kept them, so they stay; the funnel notes how many.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import alike, archives, chexpert, chexpert_files, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.chexpert_files import Download
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
# Section 4.2 and the released lists: 5 texts per class, although their README says 10.
PAPER = {"image_queries": 80, "text_queries": 40, "candidates": 1600}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        images: The CheXpert download that holds train/, or the batches of it.
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
        InputError: A list is missing, a class is unknown, a candidate does not have exactly one
            label, or the two folders list different candidates.
    """
    chosen = parse(Options, options, "chexpert-8x200")
    if not chosen.images:
        raise InputError(
            "params.yaml",
            "options.images: the CheXpert download of the reader `chexpert-8x200`",
            "nothing",
            "set datasets.sources.<name>.options.images",
        )
    home = option_path(chosen.images, "the CheXpert download")
    download = chexpert_files.find(home, "train", "train.csv")
    folder = root / "image-retrieval"
    queries = _queries(folder / "query.csv", "Path")
    located = chexpert_files.locate(queries["Path"], download, folder / "query.csv")
    located["label"], located["role"] = queries["Variable"].to_numpy(), "query"
    candidates = _candidates(folder / "candidate.csv", download)
    _same_candidates(candidates, root / "text-retrieval" / "candidate.csv", download)
    images = pd.concat([located, candidates], ignore_index=True)
    images["split"] = "test"

    texts = _queries(root / "text-retrieval" / "query.csv", "Text")
    texts = texts.rename(columns={"Text": "text", "Variable": "label"})[["text", "label"]]
    tables = assemble(images, Split(split.seed), folder / "candidate.csv", queries=texts)
    tables.funnel.paper = dict(PAPER)
    alike.note_shared(located, candidates, tables.funnel)
    return tables


def _queries(source: Path, column: str) -> pd.DataFrame:
    """A list of queries, one per row: Variable (its class) and Path or Text."""
    rows = inputs.read_csv(source, ["Variable", column])
    inputs.one_hot(rows["Variable"], CLASSES, "Variable", source)
    rows["Variable"] = rows["Variable"].str.strip()
    if (rows[column].str.strip() == "").any():
        raise InputError(source, f"`{column}` in every row", "a blank", "fill it in")
    return rows


def _candidates(source: Path, download: Download) -> pd.DataFrame:
    """The candidates; the class of each is the one of CheXpert's fourteen labels that is 1."""
    rows = inputs.read_csv(source, ["Path", *chexpert.LABELS])
    images = chexpert_files.locate(rows["Path"], download, source)
    present = pd.DataFrame(
        {name: inputs.binary(rows[name], name, source, {"": 0.0}) for name in chexpert.LABELS}
    )
    wrong = (present.sum(axis=1) != 1) | (present[list(CLASSES)].sum(axis=1) != 1)
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        shown = [name for name in chexpert.LABELS if present[name].iloc[row]]
        raise InputError(
            source,
            "exactly one label per candidate, out of the eight classes",
            f"{len(shown)} for `{rows['Path'].iloc[row]}`" + f" ({', '.join(shown)})" * bool(shown),
            "restore the official list",
        )
    images["label"], images["role"] = present.idxmax(axis=1).to_numpy(), "candidate"
    return images


def _same_candidates(candidates: pd.DataFrame, source: Path, download: Download) -> None:
    """Make sure that both folders list the same candidates, since only one list is searched."""
    if not archives.is_file(source):
        return
    rows = inputs.read_csv(source, ["Path"])
    other = set(chexpert_files.locate(rows["Path"], download, source)["image"])
    if other != set(candidates["image"]):
        raise InputError(
            source,
            "the candidates of image-retrieval/candidate.csv",
            f"{len(other ^ set(candidates['image']))} images that are in only one of the two lists",
            "restore the official lists",
        )
