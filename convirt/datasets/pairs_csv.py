"""Bring your own pairs: `pairs.csv` with image,text,patient[,study][,split][,view]."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import alike, inputs, own_reports
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import NO_SECTION, Tables
from convirt.errors import InputError


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        file: Name of the list in the root.
        sections: Take only findings and impression of each text, found by their heads
            (see `own_reports`). By default the whole text is used.
        views: Values of the view column to keep; empty keeps all.
    """

    file: str = "pairs.csv"
    sections: bool = False
    views: tuple[str, ...] = ()


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read one CSV.

    Args:
        root: Folder of the list, or the list itself; image paths are relative to the list.
        split: Validation and test studies, drawn by patient where the list has no split.
        options: See Options.

    Raises:
        InputError: The list is missing or wrong, or one study has two different texts.
    """
    chosen = parse(Options, options, "pairs")
    source = inputs.list_file(root, chosen.file)
    rows = inputs.read_csv(source, ["image", "text", "patient"])
    images = inputs.listed_images(rows, source)
    texts = _texts(images["study"], rows["text"], source)
    if chosen.sections:
        texts = {study: _choose(text) for study, text in texts.items()}
    tables = assemble(images, split, source, reports=texts, views=chosen.views)
    alike.note_patients(tables.images, tables.funnel)
    inputs.unread(rows, ("image", "text", *inputs.OWN), tables.funnel)
    return tables


def _texts(studies: pd.Series, texts: pd.Series, source: Path) -> dict[str, str]:
    """The text of each study: repeated on each of its rows, or given once and blank elsewhere."""
    found: dict[str, str] = {}
    for study, text in zip(studies, texts.str.strip(), strict=True):
        if text and found.get(study) and found[study] != text:
            raise InputError(
                source,
                "one text a study",
                f"two different texts for `{study}`",
                "give the rows different studies, or the same text",
            )
        found[study] = text or found.get(study, "")
    return found


def _choose(text: str) -> str:
    return own_reports.findings_and_impression(text) or (NO_SECTION if text else "")
