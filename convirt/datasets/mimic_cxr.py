"""MIMIC-CXR 2.x (reports) joined with MIMIC-CXR-JPG 2.x (images and lists)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs, sections
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split
from convirt.datasets.tables import NO_REPORT, NO_SECTION, Tables
from convirt.errors import InputError

# Section 4.1 and appendix A; a pair is a study.
PAPER = {"studies": 217000, "images_per_study": 1.7, "sentences_per_study": 6.0, "val": 5000}
_DICOM_ID = re.compile(r"[0-9A-Za-z-]+")


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        reports: `mimic-cxr-reports.zip`, or the folder that holds `files/p10/...`, when it is not
            in the root (the JPG download holds no reports).
        images: Folder or zip file that holds `files/`, when it is not the root.
        views: ViewPosition values to keep ("" = unknown); empty keeps all, as the paper does.
        official_split: Use the split list of the JPG download instead of drawing.
    """

    reports: str = ""
    images: str = ""
    views: tuple[str, ...] = ()
    official_split: bool = False


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the official tree.

    Args:
        root: Holds `mimic-cxr-2.0.0-metadata.csv[.gz]` and `files/p10/p.../s.../<dicom_id>.jpg`
            (or .dcm), or files.zip with that, and the reports unless `options.reports` says where
            they are.
        split: Validation and test studies, drawn by patient.
        options: See Options.

    Returns:
        Tables with reports: findings and impression of each study.

    Raises:
        InputError: A list or the reports are missing, or a row is wrong.
    """
    chosen = parse(Options, options, "mimic-cxr")
    source = _list_file(root, "metadata")
    rows = inputs.read_csv(source, ["dicom_id", "subject_id", "study_id", "ViewPosition"])
    _check_ids(rows, source)
    home = option_path(chosen.images, "what holds files/") if chosen.images else _home(root)
    suffix = _suffix(home, rows)
    folders = (
        "files/p" + rows["subject_id"].str[:2] + "/p" + rows["subject_id"]
        + "/s" + rows["study_id"] + "/"
    )  # fmt: skip
    relative = folders + rows["dicom_id"] + suffix
    images = pd.DataFrame(
        {
            "image": relative,
            "path": [str(inputs.inside(home, name, source)) for name in relative],
            "study": "s" + rows["study_id"],
            "patient": "p" + rows["subject_id"],
            "view": rows["ViewPosition"].str.strip(),
        }
    )
    if chosen.official_split:
        images["split"] = _official_split(root, rows)
    reports = _reports(root, chosen.reports, folders.str.rstrip("/").unique())
    tables = assemble(images, split, source, reports=reports, views=chosen.views)
    tables.funnel.paper = dict(PAPER)
    return tables


def _home(root: Path) -> Path:
    """What holds `files/`: the root, or files.zip in it, for clusters that count files."""
    packed = root / "files.zip"
    return packed if packed.is_file() and not (root / "files").is_dir() else root


def _list_file(root: Path, name: str) -> Path:
    """A list of the JPG download; release 2.1.0 still calls its files 2.0.0."""
    names = [
        f"mimic-cxr-{version}-{name}.csv{gz}"
        for version in ("2.0.0", "2.1.0")
        for gz in ("", ".gz")
    ]
    return inputs.first_file(root, names, "set the root to the MIMIC-CXR-JPG download")


def _check_ids(rows: pd.DataFrame, source: Path) -> None:
    """Ids become paths, so they may hold nothing but digits (and hex groups)."""
    for column, pattern in (
        ("subject_id", r"\d{2,}"),
        ("study_id", r"\d+"),
        ("dicom_id", _DICOM_ID),
    ):
        bad = rows.loc[~rows[column].str.fullmatch(pattern), column]
        if len(bad):
            raise InputError(
                source, f"bare ids in `{column}`", f"`{bad.iloc[0]}`", "restore the official list"
            )


def _suffix(home: Path, rows: pd.DataFrame) -> str:
    """.jpg, unless the first study at hand holds DICOM files (MIMIC-CXR instead of -JPG)."""
    for subject, study, image in rows[["subject_id", "study_id", "dicom_id"]].head(100).to_numpy():
        stem = home / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / image
        for suffix in (".jpg", ".dcm"):
            if archives.is_file(stem.with_suffix(suffix)):
                return suffix
    return ".jpg"


def _official_split(root: Path, rows: pd.DataFrame) -> pd.Series:
    """The split of each row of the metadata."""
    source = _list_file(root, "split")
    listed = inputs.read_csv(source, ["dicom_id", "split"])
    official = rows["dicom_id"].map(dict(zip(listed["dicom_id"], listed["split"], strict=True)))
    if official.isna().any():
        missing = rows.loc[official.isna(), "dicom_id"]
        raise InputError(
            source,
            "a split for every image of the metadata",
            f"none for `{missing.iloc[0]}` ({len(missing)} images)",
            "restore the official list, or set official_split: false",
        )
    return official


def _reports(root: Path, option: str, studies: Iterable[str]) -> dict[str, str]:
    """Study ("s50414267") -> findings and impression, or why there is none.

    Args:
        root: Looked in when `option` is empty.
        option: Zip file or folder.
        studies: Folders "files/p10/p10000032/s50414267"; the report lies beside: "....txt".
    """
    if option:
        place = option_path(option, "the reports: mimic-cxr-reports.zip or its folder")
    else:
        places = [root / "mimic-cxr-reports.zip", root / "mimic-cxr-reports"]
        place = next((place for place in places if place.exists()), root)
    reports = {}
    for study in studies:
        path = inputs.inside(place, f"{study}.txt", place)
        reports[path.stem] = _report(path) if archives.is_file(path) else NO_REPORT
    if reports and all(text == NO_REPORT for text in reports.values()):
        raise InputError(
            place,
            "reports such as files/p10/p10000032/s50414267.txt, in a zip file or a folder",
            "no report of any study",
            "download mimic-cxr-reports.zip of MIMIC-CXR (MIMIC-CXR-JPG holds none) into the root,"
            " or set options.reports",
        )
    return reports


def _report(path: Path) -> str:
    """Findings and impression, "" for an empty file, or that it has neither."""
    try:
        report = archives.read_bytes(path).decode("utf-8", errors="replace")
    except archives.MemberError as error:
        raise InputError(path, "a readable report", str(error), "download it again") from error
    return sections.findings_and_impression(report) or (NO_SECTION if report.strip() else "")
