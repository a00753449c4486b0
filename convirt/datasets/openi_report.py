"""Open-i's reports: one small XML file per examination, in a folder or in the official .tgz."""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from convirt.datasets import archives, inputs
from convirt.errors import InputError

# The official files have some 10 kB; a larger one than this is none of them.
MAX_BYTES = 1 << 24
MAX_ARCHIVE = 1 << 28  # for all of them, unpacked; the official ones have some 20 MB
_STUDY = re.compile(r"CXR\d+", re.ASCII)
_IMAGE = re.compile(r"(?:CXR)?(\d+)_(?:\1_)?(IM-[\w-]+)", re.ASCII)


@dataclass(frozen=True)
class Report:
    """What one file says.

    Attributes:
        study: Its uId, "CXR1"; also the patient, since no file says which reports share one.
        findings: As written, "" if there are none.
        impression: Likewise.
        images: Ids of its images, as `image_id` writes them; 104 official reports have none.
    """

    study: str
    findings: str
    impression: str
    images: tuple[str, ...]


class _DoctypeError(Exception):
    """A document type, which no report has; only there can entities be declared."""


def image_id(name: str) -> str | None:
    """The one spelling of an image's id; None if `name` is not an id.

    The XML says "CXR1000_IM-0003-1001", DICOM files and the Kaggle copy "1000_IM-0003-1001". In
    two ids the XML repeats the report's number: "CXR1_1_IM-0001-3001".
    """
    match = _IMAGE.fullmatch(name)
    return f"CXR{match[1]}_{match[2]}" if match else None


def read_all(place: Path) -> list[Report]:
    """Read every report.

    Args:
        place: Folder with the .xml files, or NLMCXR_reports.tgz, which is read without unpacking.

    Raises:
        InputError: There is no report, a file is not a report, or a report is there twice.
    """
    reports: dict[str, Report] = {}
    for path, data in _contents(place):
        report = parse(data, path)
        if report.study in reports:
            raise InputError(
                path, "each uId once", f"`{report.study}` again", "remove the copy of the report"
            )
        reports[report.study] = report
    if not reports:
        raise InputError(
            place, "reports such as 1.xml", "no .xml file", "unpack NLMCXR_reports.tgz there"
        )
    return list(reports.values())


def parse(data: bytes, path: Path) -> Report:
    """Read one report (root eCitation).

    Args:
        data: The file.
        path: Its name, for messages.

    Raises:
        InputError: It is not XML, has a document type (which could declare entities), or has a uId
            or image id that is not of Open-i's form.
    """
    root = _tree(data, path)
    holder = root.find("uId")
    study = holder.get("id", "") if holder is not None else ""
    if not _STUDY.fullmatch(study):
        raise _no_report(path, 'a report with <uId id="CXR1"/>', f"uId `{study}`")
    images = []
    for parent in root.iter("parentImage"):
        name = parent.get("id", "")
        image = image_id(name)
        if image is None:
            raise _no_report(path, "image ids such as CXR1_IM-0001-3001", f"`{name}`")
        images.append(image)
    findings, impression = _section(root, "FINDINGS"), _section(root, "IMPRESSION")
    return Report(study, findings, impression, tuple(images))


def _section(root: Element, label: str) -> str:
    """The text under a label; every report has all four labels, often with empty text."""
    texts = [
        "".join(node.itertext()).strip()
        for node in root.iter("AbstractText")
        if node.get("Label") == label
    ]
    return "\n".join(text for text in texts if text)


def _tree(data: bytes, path: Path) -> Element:
    """Parse, refusing document types: expat would expand the entities that they declare."""
    if len(data) > MAX_BYTES:
        raise _no_report(path, f"a report of at most {MAX_BYTES} bytes", f"{len(data)} bytes")
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(data, True)
    except _DoctypeError as error:
        raise _no_report(path, "XML without a document type", "a DOCTYPE") from error
    # ValueError and LookupError: an encoding that expat or Python does not know
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise _no_report(path, "well-formed XML", str(error)) from error
    return builder.close()


def _refuse(*_: object) -> None:
    raise _DoctypeError


def _no_report(path: Path, expected: str, found: str) -> InputError:
    return InputError(path, expected, found, "restore the file from NLMCXR_reports.tgz")


def _contents(place: Path) -> Iterator[tuple[Path, bytes]]:
    """Every .xml file of a folder or of a .tgz, without the files that macOS adds."""
    if not archives.is_dir(place):
        yield from _members(place)
        return
    for name in archives.names(place):
        if _is_report(name):
            path = inputs.inside(place, name, place)
            yield path, archives.read_bytes(path)


def _members(place: Path) -> Iterator[tuple[Path, bytes]]:
    """Members of a .tgz, in memory: nothing is unpacked, so no name can lead out of a folder."""
    try:
        with (
            archives.open_binary(place) as packed,
            gzip.open(packed) as handle,
            tarfile.open(fileobj=cast(Any, _AtMost(handle, MAX_ARCHIVE)), mode="r|") as archive,
        ):
            for member in archive:
                if not member.isreg() or not _is_report(PurePosixPath(member.name).name):
                    continue
                stream = archive.extractfile(member)
                if stream is not None:
                    yield place / member.name, stream.read(MAX_BYTES + 1)
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's fault, not the file's
        hint = "download NLMCXR_reports.tgz again"
        raise InputError(place, "a .tgz archive", str(error) or repr(error), hint) from error


class _AtMost:
    """A file whose reading fails once it turns out longer than allowed.

    A header in a .tar may claim any size, all of which would be read into memory.
    """

    def __init__(self, file: gzip.GzipFile, most: int) -> None:
        self.file, self.left = file, most

    def read(self, size: int) -> bytes:
        """The next bytes."""
        found = self.file.read(min(size, self.left + 1))
        self.left -= len(found)
        if self.left < 0:
            raise ValueError("larger than any report")
        return found


def _is_report(name: str) -> bool:
    return name.lower().endswith(".xml") and not name.startswith(".")
