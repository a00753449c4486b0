"""Bring your own retrieval: `queries.csv` (image or text, and label) and `candidates.csv`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import alike, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        images: Folder that the image paths are relative to; by default that of the lists.
    """

    images: str = ""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the two lists.

    Args:
        root: Holds queries.csv, with label and image or text (or both columns, one of them filled
            in each row), and candidates.csv, with image and label. Both may have patient and
            study.
        split: Unused: everything is test.
        options: See Options.

    Raises:
        InputError: A list is missing or wrong, a candidate has no label, a query has a label that
            no candidate has, or an image is in both lists.
    """
    folder = parse(Options, options, "retrieval").images
    source = root / "candidates.csv"
    rows = inputs.read_csv(source, ["image", "label"])
    candidates, others = inputs.listed_images(rows, source, images=folder), [rows]
    inputs.no_blank(rows, ("label",), source)
    candidates["label"], candidates["role"] = rows["label"].str.strip(), "candidate"
    classes = sorted(set(candidates["label"]))

    query_file = root / "queries.csv"
    rows = inputs.read_csv(query_file, ["label"])
    inputs.unlike(rows, ("image", "text", *inputs.OWN), query_file)
    for column in ("image", "text"):
        rows[column] = rows[column].str.strip() if column in rows else ""
    others.append(rows)
    _one_kind_a_row(rows, query_file)
    inputs.one_hot(rows["label"], classes, "label", query_file)
    rows["label"] = rows["label"].str.strip()
    pictures = rows[rows["image"] != ""]
    queries = inputs.listed_images(pictures, query_file, images=folder)
    queries["label"], queries["role"] = pictures["label"], "query"
    texts = rows.loc[rows["text"] != "", ["text", "label"]].reset_index(drop=True)

    if both := sorted(set(queries["image"]) & set(candidates["image"])):
        found = f"`{both[0]}` in both ({len(both)} images)"
        hint = "remove it from one of them"
        raise InputError(query_file, "images that are not in candidates.csv", found, hint)
    images = pd.concat([queries, candidates], ignore_index=True)
    images["split"] = "test"
    tables = assemble(images, Split(split.seed), root, queries=texts)
    alike.note_shared(queries, candidates, tables.funnel)
    for rows in others:
        inputs.unread(rows, ("image", "text", "label", *inputs.OWN), tables.funnel)
    return tables


def _one_kind_a_row(rows: pd.DataFrame, source: Path) -> None:
    """Make sure that each query is either an image or a text."""
    wrong = (rows["image"] != "") == (rows["text"] != "")
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        both = rows["image"].iloc[row] != ""
        raise InputError(
            source,
            "an image or a text in each row",
            f"{'both' if both else 'neither'} in data row {row + 1}",
            "write one query per row",
        )
