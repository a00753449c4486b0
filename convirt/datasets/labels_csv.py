"""Bring your own task: `labels.csv` with image,patient[,study][,split][,view] and its labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import alike, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import IMAGE_COLUMNS, RETRIEVAL_COLUMNS, Tables
from convirt.errors import InputError


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        file: Name of the list in the root.
        images: Folder that the image paths are relative to; by default that of the list.
        columns: Columns of 0 and 1, one per label. If this and `column` are both empty, every
            column that has no other meaning is a label.
        column: One column of class names instead.
        classes: The class names that `column` may hold; each becomes a label of its own.
        views: Values of the view column to keep; empty keeps all.
    """

    file: str = "labels.csv"
    images: str = ""
    columns: tuple[str, ...] = ()
    column: str = ""
    classes: tuple[str, ...] = ()
    views: tuple[str, ...] = ()


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read one CSV.

    Args:
        root: Folder of the list, or the list itself.
        split: Validation and test images, drawn by patient where the list has no split.
        options: See Options.

    Raises:
        InputError: The list is missing or wrong, or a label is not one of the declared ones.
    """
    chosen = parse(Options, options, "labels")
    if bool(chosen.column) != bool(chosen.classes) or (chosen.column and chosen.columns):
        raise InputError(
            "params.yaml",
            "options of the reader `labels`: `columns`, or `column` with `classes`, or none",
            ", ".join(name for name in ("columns", "column", "classes") if getattr(chosen, name)),
            "correct datasets.sources.<name>.options",
        )
    source = inputs.list_file(root, chosen.file)
    wanted = (chosen.column,) if chosen.column else chosen.columns
    rows = inputs.read_csv(source, ["image", "patient"])
    for name in wanted:
        if name not in rows:
            raise InputError(
                source,
                f"the column `{name}`, which datasets.sources.<name>.options asks for",
                inputs.named(rows),
                "correct options.column or options.columns, or the name of the column",
            )
    images = inputs.listed_images(rows, source, wanted, chosen.images)
    labels = _labels(rows, chosen, source)
    taken = sorted(
        set(labels) & {*IMAGE_COLUMNS, *RETRIEVAL_COLUMNS, "top", "left", "height", "width"}
    )
    if taken or not labels:
        raise InputError(
            source,
            "label columns with names of their own",
            f"`{taken[0]}`, which the store uses itself" if taken else "no label column",
            "rename the column" if taken else "add a column of 0 and 1, or set options.column",
        )
    images = images.assign(**labels)
    tables = assemble(images, split, source, labels=labels, views=chosen.views)
    alike.note_patients(tables.images, tables.funnel)
    inputs.unread(rows, ("image", *inputs.OWN, *(wanted or labels)), tables.funnel)
    return tables


def _labels(rows: pd.DataFrame, chosen: Options, source: Path) -> dict[str, pd.Series]:
    """Label -> its 0/1 column."""
    if chosen.column:
        return inputs.one_hot(rows[chosen.column], chosen.classes, chosen.column, source)
    names = chosen.columns or [str(name) for name in rows if name not in IMAGE_COLUMNS]
    try:
        return {name: inputs.binary(rows[name], name, source, {}) for name in names}
    except InputError as error:
        if chosen.columns:
            raise
        hint = (
            f"{error.hint}; or, since every column counts as a label, name the label columns in "
            "datasets.sources.<name>.options: columns, or column and classes for class names"
        )
        raise InputError(error.path, error.expected, error.found, hint) from error
