"""The lists of MIMIC-CXR: which images there are, and the official split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.errors import InputError

_GZ = ("", ".gz")  # many users unpack the lists
# Release 2.1.0 of MIMIC-CXR-JPG still calls its files 2.0.0.
_VERSIONS = ("2.0.0", "2.1.0")
RECORDS, STUDIES = "cxr-record-list.csv", "cxr-study-list.csv"
_IDS = {"subject_id": r"[0-9]{2,}", "study_id": r"[0-9]+", "dicom_id": r"[0-9A-Za-z-]+"}


@dataclass(frozen=True)
class Listed:
    """What a download lists.

    Attributes:
        rows: One row per image: subject_id, study_id, dicom_id (text), view ("" = unknown).
        source: The list.
        views: Whether the list has views at all.
    """

    rows: pd.DataFrame
    source: Path
    views: bool


def read(root: Path) -> Listed:
    """Read the metadata of MIMIC-CXR-JPG or, without it, the list of records of MIMIC-CXR.

    Raises:
        InputError: Neither is there, a column is missing, or an id is malformed.
    """
    names = [*_names("metadata"), *(RECORDS + gz for gz in _GZ)]
    hint = "set the root to the MIMIC-CXR-JPG (or MIMIC-CXR) download, the folder of its version"
    if any(archives.is_file(root / (STUDIES + gz)) for gz in _GZ):
        hint = f"download {RECORDS}.gz as well: {STUDIES} names no images"
    source = inputs.first_file(root, names, hint)
    views = not source.name.startswith(RECORDS)
    rows = inputs.read_csv(source, [*_IDS, *(["ViewPosition"] if views else [])])
    for column, pattern in _IDS.items():
        # Ids become parts of paths, so these patterns exclude dots and slashes.
        bad = rows.loc[~rows[column].str.fullmatch(pattern), column]
        if len(bad):
            hint = "restore the official list"
            raise InputError(source, f"bare ids in `{column}`", f"`{bad.iloc[0]}`", hint)
    view = rows["ViewPosition"].str.strip() if views else ""
    return Listed(rows[list(_IDS)].assign(view=view), source, views)


def official_split(root: Path, images: pd.Series) -> pd.Series:
    """The official split of each image: "train", "validate" or "test".

    Args:
        root: Root of the MIMIC-CXR-JPG download.
        images: dicom_id of each image.

    Raises:
        InputError: The list is missing or lacks an image.
    """
    hint = "download mimic-cxr-2.0.0-split.csv.gz of MIMIC-CXR-JPG, or set official_split: false"
    source = inputs.first_file(root, _names("split"), hint)
    listed = inputs.read_csv(source, ["dicom_id", "split"])
    official = images.map(dict(zip(listed["dicom_id"], listed["split"], strict=True)))
    lacking = images[official.isna()]
    if len(lacking):
        raise InputError(
            source,
            "a split for every image of the metadata",
            f"none for `{lacking.iloc[0]}` ({len(lacking)} images)",
            "restore the official list, or set official_split: false",
        )
    return official


def _names(name: str) -> list[str]:
    return [f"mimic-cxr-{version}-{name}.csv{gz}" for version in _VERSIONS for gz in _GZ]
