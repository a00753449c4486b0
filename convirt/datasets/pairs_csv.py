"""Bring your own pairs: `pairs.csv` with image,text,patient[,study][,split][,view]."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import alike, inputs, own_reports
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import NO_SECTION, Funnel, Tables
from convirt.errors import InputError

LOOKED_AT = 1_000  # texts, at most, that are searched for heads
HEADS = 0.1  # share of them with heads that is taken to be no accident
# a head behind the end of a sentence or behind another head, or a line break that is spelled out
FLAT = re.compile(r"[.:!?][ \t]+(?:FINDINGS|IMPRESSION|CONCLUSION)S?[ \t]*:|\\n")


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        file: Name of the list in the root.
        images: Folder that the image paths are relative to; by default that of the list.
        sections: Take only findings and impression of each text, found by their heads
            (see `own_reports`). By default the whole text is used.
        views: Values of the view column to keep; empty keeps all.
    """

    file: str = "pairs.csv"
    images: str = ""
    sections: bool = False
    views: tuple[str, ...] = ()


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read one CSV.

    Args:
        root: Folder of the list, or the list itself.
        split: Validation and test studies, drawn by patient where the list has no split.
        options: See Options.

    Raises:
        InputError: The list is missing or wrong, one study has two different texts, or `sections`
            is set and no text has any.
    """
    chosen = parse(Options, options, "pairs")
    source = inputs.list_file(root, chosen.file)
    rows = inputs.read_csv(source, ["image", "text", "patient"])
    images = inputs.listed_images(rows, source, images=chosen.images)
    texts = whole = _texts(images["study"], rows["text"], source)
    if chosen.sections:
        texts = _sections(whole, source)
    tables = assemble(images, split, source, reports=texts, views=chosen.views)
    alike.note_patients(tables.images, tables.funnel)
    inputs.unread(rows, ("image", "text", *inputs.OWN), tables.funnel)
    given = list(filter(None, whole.values()))
    if chosen.sections:  # they seem to have lost their line breaks
        what = "heads inside a line, which are not found: put each on its own"
        _note_share(given, FLAT.search, what, tables.funnel)
    else:  # they seem to be whole reports
        what = "heads such as FINDINGS, and are used whole: see options.sections"
        _note_share(given, own_reports.findings_and_impression, what, tables.funnel)
    return tables


def _texts(studies: pd.Series, texts: pd.Series, source: Path) -> dict[str, str]:
    """The text of each study, which its rows may repeat, or give once and leave blank elsewhere."""
    found: dict[str, str] = {}
    for study, text in zip(studies, texts.str.strip(), strict=True):
        if text and found.get(study) and found[study] != text:
            raise InputError(
                source,
                "one text per study",
                f"two different texts for `{study}`",
                "give the rows different studies, or the same text",
            )
        found[study] = text or found.get(study, "")
    return found


def _sections(texts: Mapping[str, str], source: Path) -> dict[str, str]:
    """Findings and impression of each study's text; NO_SECTION where a text has neither."""
    found = {
        study: own_reports.findings_and_impression(text) or (NO_SECTION if text else "")
        for study, text in texts.items()
    }
    given = [text for text in found.values() if text]
    if given and set(given) == {NO_SECTION}:
        raise InputError(
            source,
            "texts with a findings or impression heading at the start of a line",
            f"none in {len(given):,} texts",
            "put each head on a line of its own, or set datasets.sources.<name>.options.sections: "
            "false, to use the texts whole",
        )
    return found


def _note_share(
    texts: Sequence[str], found: Callable[[str], object], what: str, funnel: Funnel
) -> None:
    """Note the share of the texts for which `found` is true, judging by a sample of them."""
    looked = texts[:: -(-len(texts) // LOOKED_AT) or 1]
    share = sum(bool(found(text)) for text in looked) / len(looked)
    if share >= HEADS:
        funnel.notes.append(f"{share:.0%} of the texts have {what}")
