"""The layouts that can be read, by their names in params.yaml."""

from __future__ import annotations

import dataclasses
import difflib
from pathlib import Path
from typing import Any

from convirt.datasets import (
    archives,
    chexpert,
    chexpert_8x200,
    covidx,
    labels_csv,
    mimic_cxr,
    mura,
    openi,
    pairs_csv,
    retrieval_csv,
    rsna,
    rsna_release,
)
from convirt.datasets.splits import Split
from convirt.datasets.tables import Reader, Tables
from convirt.errors import InputError

READERS: dict[str, Reader] = {
    "mimic-cxr": mimic_cxr.read,
    "chexpert": chexpert.read,
    "rsna": rsna.read,
    "rsna-release": rsna_release.read,
    "covidx": covidx.read,
    "mura": mura.read,
    "open-i": openi.read,
    "chexpert-8x200": chexpert_8x200.read,
    "pairs": pairs_csv.read,
    "labels": labels_csv.read,
    "retrieval": retrieval_csv.read,
}


def read(
    name: str, root: Path, split: Split, options: dict[str, Any], key: str = "<name>"
) -> Tables:
    """Read the set at `root` with the reader `name`.

    Args:
        name: Name of the reader.
        root: Root of the set.
        split: Seed and sizes.
        options: The reader's switches.
        key: The set's name in datasets.sources, for messages.

    Raises:
        InputError: There is no such reader or no such root, or the reader refuses the set.
    """
    try:
        return _read(name, root, split, options)
    except InputError as error:
        parts = (error.path, error.expected, error.found, error.hint)
        raise InputError(*(part.replace("<name>", key) for part in parts)) from error


def _read(name: str, root: Path, split: Split, options: dict[str, Any]) -> Tables:
    if name not in READERS:
        near = difflib.get_close_matches(name, READERS, n=1)
        raise InputError(
            "params.yaml",
            f"a reader: {', '.join(READERS)}",
            f"`{name}`",
            f"did you mean `{near[0]}`?" if near else "correct datasets.sources.<name>.reader",
        )
    if not archives.exists(root):
        raise InputError(
            root,
            f"the files of a set that the reader `{name}` knows",
            "nothing there",
            "download the set, or correct datasets.sources.<name>.root in params.yaml",
        )
    return dataclasses.replace(READERS[name](root, split, options), reader=name)
