"""Open-i's chest films of Indiana University: 3,955 reports and 7,470 images, free to download.

Read from the official XML with PNG or DICOM files, or from the Kaggle copy with two CSV files.
Demner-Fushman et al., JAMIA 2016, doi 10.1093/jamia/ocv080; https://openi.nlm.nih.gov/faq.
"""

from __future__ import annotations

import html
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs, openi_report
from convirt.datasets.assemble import assemble
from convirt.datasets.openi_report import Report, image_id
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.splits import Split
from convirt.datasets.tables import NO_SECTION, Funnel, Tables
from convirt.errors import InputError

NO_IMAGE = "report without an image"
REPORTS_CSV, PROJECTIONS_CSV = "indiana_reports.csv", "indiana_projections.csv"
REPORTS = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "NLMCXR_reports.tgz", REPORTS_CSV)
DICOM = "NLMCXR_dcm"
IMAGES = ("NLMCXR_png", DICOM, "images/images_normalized", "images_normalized", "images", ".")

REMOVED = "XXXX"
# "Normal chest x-XXXX.": this is one removed word, so it becomes one mark.
_REMOVED = re.compile(rf"(?:\b[Xx]-)?{REMOVED}")
_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_FILE = re.compile(r"(.+?)((?:\.dcm)?\.(?:png|jpe?g)|\.dcm)", re.IGNORECASE)


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        reports: Folder of the .xml files, NLMCXR_reports.tgz or indiana_reports.csv, if it is not
            in the root.
        images: Folder of the images, if it is not in the root.
        views: Views to keep ("" = unknown); empty keeps all.
        mark: What replaces "XXXX", Open-i's mark for a removed word. The default is MIMIC-CXR's
            mark, so that both corpora share one, and so that a sentence of marks alone counts as
            having no word. "XXXX" leaves the texts as they are, "" removes the marks.
    """

    reports: str = ""
    images: str = ""
    views: tuple[str, ...] = ()
    mark: str = "___"


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read reports and images, joined by image id.

    Args:
        root: Holds the reports (NLMCXR_reports.tgz, ecgen-radiology/ or indiana_reports.csv) and
            the images (NLMCXR_png/, NLMCXR_dcm/, images/images_normalized/, or the files).
        split: Validation and test studies, drawn by report: no file says which reports share a
            patient.
        options: See Options.

    Returns:
        Tables with reports: findings and impression of each study.

    Raises:
        InputError: Reports or images are missing, or one of them differs from the official form.
    """
    chosen = parse(Options, options, "open-i")
    place = _reports_place(root, chosen.reports)
    is_csv = place.suffix.lower() == ".csv"
    reports = _read_csv(place) if is_csv else openi_report.read_all(place)
    images = pd.DataFrame(
        [(image, report.study) for report in reports for image in report.images],
        columns=["image", "study"],
        dtype=str,
    )
    images["patient"] = images["study"]
    home, files = _image_files(root, chosen.images, set(images["image"]))
    images["path"] = [
        str(inputs.inside(home, files.get(image, f"{image}.png"), place))
        for image in images["image"]
    ]
    images["view"] = _views(root, place, images)

    funnel = Funnel()
    funnel.images.found, funnel.studies.found = len(images), len(reports)
    funnel.studies.drop(NO_IMAGE, [report.study for report in reports if not report.images])
    texts = {report.study: text_of(report, chosen.mark) or NO_SECTION for report in reports}
    return assemble(images, split, place, reports=texts, views=chosen.views, funnel=funnel)


def text_of(report: Report, mark: str) -> str:
    """Findings, a blank line, the impression, with `mark` for removed words; "" if neither."""
    text = "\n\n".join(part for part in (report.findings, report.impression) if part)
    text = _BREAK.sub(" ", html.unescape(text))  # a few texts were escaped twice
    return text if mark == REMOVED else _REMOVED.sub(lambda _: mark, text)


def _reports_place(root: Path, option: str) -> Path:
    """The folder of the .xml files, the .tgz, or the CSV."""
    home = option_path(option, "the reports: a folder, a .tgz or a .csv") if option else root
    if not archives.is_dir(home):
        return home
    for name in REPORTS:
        if archives.exists(home / name):
            return home / name
    if any(name.lower().endswith(".xml") for name in archives.names(home)):
        return home
    raise InputError(
        home,
        f"the reports: {', '.join(REPORTS)}, or .xml files",
        ", ".join(archives.names(home)[:6]) or "an empty folder",
        "download NLMCXR_reports.tgz into the root, or set options.reports",
    )


def _read_csv(source: Path) -> list[Report]:
    """The reports of the Kaggle copy: texts in one list, images in another beside it."""
    rows = inputs.read_csv(source, ["uid", "findings", "impression"])
    listed = _projections(source.parent / PROJECTIONS_CSV)
    _check_numbers(rows["uid"], source)
    if rows["uid"].duplicated().any():
        twice = rows.loc[rows["uid"].duplicated(), "uid"].iloc[0]
        raise InputError(source, "each uid once", f"`{twice}` again", "restore the list")
    images: dict[str, list[str]] = {uid: [] for uid in rows["uid"]}
    for uid, image in zip(listed["uid"], listed["image"], strict=True):
        if uid not in images:
            raise InputError(
                source, "the reports of all images", f"none for uid `{uid}`", "restore the list"
            )
        images[uid].append(image)
    return [
        Report(f"CXR{uid}", findings.strip(), impression.strip(), tuple(images[uid]))
        for uid, findings, impression in rows[["uid", "findings", "impression"]].to_numpy()
    ]


def _projections(source: Path) -> pd.DataFrame:
    """The Kaggle copy's list of images: uid, image (its id) and projection."""
    rows = inputs.read_csv(source, ["uid", "filename", "projection"])
    _check_numbers(rows["uid"], source)
    rows["image"] = [_id_of(name.strip()) for name in rows["filename"]]
    bad = rows.loc[rows["image"] == "", "filename"]
    if len(bad):
        raise InputError(
            source,
            "file names such as 1_IM-0001-4001.dcm.png",
            f"`{bad.iloc[0]}` ({len(bad)} such rows)",
            "restore the list",
        )
    return rows


def _check_numbers(uids: pd.Series, source: Path) -> None:
    bad = uids[~uids.str.fullmatch("[0-9]+")]
    if len(bad):
        raise InputError(source, "a number in `uid`", f"`{bad.iloc[0]}`", "restore the list")


def _id_of(name: str) -> str:
    """The image id in a file name; "" if the name is not of this set."""
    match = _FILE.fullmatch(name)
    return (image_id(match[1]) if match else None) or ""


def _image_files(root: Path, option: str, wanted: set[str]) -> tuple[Path, dict[str, str]]:
    """The folder that holds images, and the file of each image in it.

    Images without a file are left to the packing, which counts them as missing.
    """
    folders = [option_path(option, "the folder of the images")] if option else []
    for folder in folders or [root / name for name in IMAGES]:
        files = _listing(folder)
        if wanted & files.keys():
            return folder, files
    raise InputError(
        folders[0] if folders else root,
        "images such as NLMCXR_png/CXR1000_IM-0003-1001.png",
        ", ".join(archives.names(folders[0] if folders else root)[:6]) or "an empty folder",
        "unpack NLMCXR_png.tgz into NLMCXR_png, or set options.images",
    )


def _listing(folder: Path) -> dict[str, str]:
    """Image -> file relative to `folder`, flat (PNG) or with one folder per report (DICOM)."""
    found: dict[str, str] = {}
    for name in archives.names(folder):
        if image := _id_of(name):
            found.setdefault(image, name)
        elif archives.is_dir(folder / name):
            for inner in archives.names(folder / name):
                if image := _id_of(inner):
                    found.setdefault(image, f"{name}/{inner}")
    return found


def _views(root: Path, place: Path, images: pd.DataFrame) -> list[str]:
    """The view of each image: Frontal or Lateral as the Kaggle copy lists it, else the DICOM view.

    The list has precedence because the headers err: of the 3,590 listed films whose header says PA,
    1,368 are lateral.
    """
    for folder in (root, place.parent):
        if archives.is_file(folder / PROJECTIONS_CSV):
            listed = _projections(folder / PROJECTIONS_CSV)
            known = dict(zip(listed["image"], listed["projection"].str.strip(), strict=True))
            return [known.get(image, "") for image in images["image"]]
    beside = {image: root / DICOM / name for image, name in _listing(root / DICOM).items()}
    views = []
    for image, own in zip(images["image"], images["path"], strict=True):
        path = Path(own) if own.lower().endswith(".dcm") else beside.get(image)
        views.append(_header_view(path) if path is not None else "")
    return views


def _header_view(path: Path) -> str:
    """ViewPosition of a DICOM file; "" if it has none. The pixels are not read."""
    import pydicom

    try:
        with archives.open_binary(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(file, specific_tags=["ViewPosition"], stop_before_pixels=True)
            return str(header.get("ViewPosition", "") or "").strip()
    except Exception as error:  # a broken header can fail anywhere; decoding will give a reason
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno):
            raise
        return ""
