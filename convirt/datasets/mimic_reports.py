"""The reports of MIMIC-CXR: finding their files, and the text to use from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from convirt.datasets import archives, sections, sentences
from convirt.datasets.mimic_exceptions import MISNAMED, SPANS
from convirt.datasets.options import path as option_path
from convirt.datasets.tables import NO_REPORT, NO_SECTION
from convirt.errors import InputError

ZIP = "mimic-cxr-reports.zip"


def read(
    root: Path, option: str, folders: Sequence[str], last_paragraph: bool = False
) -> dict[str, str]:
    """Read the report of every study.

    Args:
        root: Where the lists are; see `places`.
        option: Zip file or folder of the reports; "" to look for it.
        folders: Of the studies, such as "files/p10/p10000032/s50414267"; the report is the file of
            that name with ".txt" added.
        last_paragraph: See `choose`.

    Returns:
        Study ("s50414267") -> text, or the reason why there is none (see `assemble.Reports`).

    Raises:
        InputError: No report of any study is found, or one cannot be read.
    """
    place = _place(root, option, folders)
    found = {}
    for folder in folders:
        study = folder.rpartition("/")[2]
        report = _load(place / f"{folder}.txt")
        found[study] = NO_REPORT if report is None else choose(report, study, last_paragraph)
    if found and all(text == NO_REPORT for text in found.values()):
        raise InputError(
            place,
            "reports such as files/p10/p10000032/s50414267.txt, in a zip file or a folder",
            "no report of any study",
            f"download {ZIP} of MIMIC-CXR (MIMIC-CXR-JPG holds none) into the root,"
            " or set options.reports",
        )
    return found


def choose(report: str, study: str = "", last_paragraph: bool = False) -> str:
    """The part of a report's text that is trained on.

    Args:
        report: Text as distributed.
        study: Such as "s50414267"; a few studies are known to need rules of their own.
        last_paragraph: If there are neither findings nor impression, take the last paragraph, or
            else the comparison; see `sections.last_paragraph`.

    Returns:
        Findings and impression; "" for an empty file, NO_SECTION if there is no such text.
    """
    if not sentences.has_word(report):
        return ""
    text = _exception(sections.unify_lines(report), study)
    if text is None:
        text = sections.findings_and_impression(report)
        if last_paragraph and not text:
            text = sections.last_paragraph(report)
    return text or NO_SECTION


def _exception(report: str, study: str) -> str | None:
    """The text by this study's own rule; None if it has no rule, or if the rule does not fit."""
    if study in MISNAMED:
        return sections.headed(report, MISNAMED[study]) or None
    if study in SPANS and len(report) >= SPANS[study][1]:
        start, end = SPANS[study]
        return "\n".join(line.strip() for line in report[start:end].split("\n")).strip()
    return None


def _place(root: Path, option: str, folders: Sequence[str]) -> Path:
    """What holds `files/` of the reports."""
    if option:
        return holds_files(option_path(option, f"the reports: {ZIP} or its folder"))
    sample = spread(folders, 100)
    for place in places(root):
        packed, place = archives.is_file(place), holds_files(place)
        if packed or any(archives.is_file(place / f"{folder}.txt") for folder in sample):
            return place
    return root


def places(root: Path) -> Iterator[Path]:
    """Yield the places to look: the root, then where `wget` puts MIMIC-CXR beside MIMIC-CXR-JPG."""
    beside = root.absolute().parent.parent / "mimic-cxr"
    versions = [beside / name for name in reversed(archives.names(beside))]
    for folder in (root, *(version for version in versions if version != root)):
        yield from (folder / ZIP, folder / Path(ZIP).stem, folder)


def holds_files(place: Path) -> Path:
    """`place`, or the folder in or above it that holds `files/`.

    Unpacking may leave "mimic-cxr-reports/mimic-cxr-reports/files"; a user may name "files" itself.
    """
    if archives.is_dir(place / "files"):
        return place
    if place.name == "files":
        return place.parent
    inner = [place / name for name in archives.names(place)]
    return next((folder for folder in inner if archives.is_dir(folder / "files")), place)


def spread(items: Sequence[str], count: int) -> Sequence[str]:
    """The first items, and others spread over the rest: a partial download may hold any part."""
    return [*items[:count], *items[count :: max(1, len(items) // count)]]


def _load(path: Path) -> str | None:
    """The text of a report; None if there is no such file."""
    try:
        data = archives.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except PermissionError as error:
        raise InputError(path, "a readable report", str(error), "download it again") from error
    return data.decode("utf-8", errors="replace")
