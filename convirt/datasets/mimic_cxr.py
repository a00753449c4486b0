"""MIMIC-CXR 2.x (reports) joined with MIMIC-CXR-JPG 2.x (images and lists)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, mimic_lists, mimic_reports
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError

# Section 4.1 and appendix A; a pair is a study.
PAPER = {"studies": 217000, "images_per_study": 1.7, "sentences_per_study": 6.0, "val": 5000}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        reports: `mimic-cxr-reports.zip`, or the folder that holds `files/p10/...`, if it is
            neither in the root (the JPG download holds no reports) nor in `mimic-cxr/<version>`
            beside `mimic-cxr-jpg/<version>`.
        images: Folder or zip file that holds `files/`, if it is not the root.
        views: ViewPosition values to keep ("" = unknown); empty keeps all, as the paper does.
        official_split: Use the split list of the JPG download instead of drawing one.
        last_paragraph: Where a report has neither findings nor impression, use its last paragraph;
            the paper drops such studies.
    """

    reports: str = ""
    images: str = ""
    views: tuple[str, ...] = ()
    official_split: bool = False
    last_paragraph: bool = False


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the official tree.

    Args:
        root: Holds `mimic-cxr-2.0.0-metadata.csv[.gz]` (or, for MIMIC-CXR without MIMIC-CXR-JPG,
            `cxr-record-list.csv[.gz]`) and `files/p10/p.../s.../<dicom_id>.jpg` (or .dcm), or
            files.zip with these, and the reports unless `options.reports` says where they are.
        split: Validation and test studies, drawn by patient.
        options: See Options.

    Returns:
        Tables with reports: findings and impression of each study.

    Raises:
        InputError: A list or the reports are missing, or a row is wrong.
    """
    chosen = parse(Options, options, "mimic-cxr")
    listed = mimic_lists.read(root)
    rows, source = listed.rows, listed.source
    if chosen.views and not listed.views:
        raise InputError(
            source,
            "a list with the view of each image, which `views` needs",
            "no views in this one",
            f"download mimic-cxr-2.0.0-metadata.csv.gz of MIMIC-CXR-JPG into {root},"
            " or remove options.views",
        )
    home = images_home(root, chosen.images)
    # Ids hold no dots or slashes (checked), so no path can leave the folder.
    folders = (
        "files/p" + rows["subject_id"].str[:2] + "/p" + rows["subject_id"] + "/s" + rows["study_id"]
    )
    stems = folders + "/" + rows["dicom_id"]
    names = stems + _suffix(home, stems.tolist(), ".jpg" if listed.views else ".dcm")
    images = pd.DataFrame(
        {
            "image": names,
            "path": str(home) + "/" + names,
            "study": "s" + rows["study_id"],
            "patient": "p" + rows["subject_id"],
            "view": rows["view"],
        }
    )
    if chosen.official_split:
        images["split"] = mimic_lists.official_split(root, rows["dicom_id"])
    reports = mimic_reports.read(
        root, chosen.reports, folders.unique().tolist(), chosen.last_paragraph
    )
    tables = assemble(images, split, source, reports=reports, views=chosen.views)
    tables.funnel.paper = dict(PAPER)
    return tables


def images_home(root: Path, option: str) -> Path:
    """What holds `files/` of the images, as an absolute path: the working folder may change."""
    if option:
        return mimic_reports.holds_files(option_path(option, "what holds files/")).absolute()
    packed = root / "files.zip"  # for clusters that limit the number of files
    home = packed if packed.is_file() and not (root / "files").is_dir() else root
    return home.absolute()


def _suffix(home: Path, stems: list[str], default: str) -> str:
    """.jpg or .dcm (MIMIC-CXR-JPG or MIMIC-CXR), as the first image that is found."""
    for stem in mimic_reports.spread(stems, 500):
        for suffix in (".jpg", ".dcm"):
            if archives.is_file(home / (stem + suffix)):
                return suffix
    return default
