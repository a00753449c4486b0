"""COVIDx: two text lists without a header, three classes, images from several sources."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.splits import Split
from convirt.datasets.tables import LISTED_TWICE, Funnel, Tables
from convirt.errors import InputError

LABELS = ("normal", "pneumonia", "COVID-19")
PAPER = {"train": 13598, "val": 300, "test": 300}


class Release(NamedTuple):
    """The official lists of a version: their numbers of lines and first digits of their sha256.

    Counted and hashed from github.com/lindawangg/COVID-Net, folder labels (CXR-3A: branch cxr3).
    """

    train: int
    test: int
    train_sha256: str
    test_sha256: str


RELEASES = {
    "COVIDx": Release(16546, 210, "9922b4ac2848a9b6", "137f8c0159f46d68"),
    "COVIDx2": Release(13569, 231, "1a7e1a5b494cbca9", "d5ca8c9beb0feb4d"),
    "COVIDx3": Release(13670, 300, "1512788cc6b4ccf6", "6a13db483a3cc7a6"),
    "COVIDx4": Release(13898, 300, "81615cb5480c074c", "6a13db483a3cc7a6"),
    "COVIDx5": Release(13958, 300, "9de231edb4c882f2", "6a13db483a3cc7a6"),
    "COVIDx7A": Release(15111, 300, "20f1ae941289867a", "9be3741bf9dc78ed"),
    "COVIDx8A": Release(15599, 400, "3aacdf36bc173d01", "048629233e9426f1"),
    "COVIDx9A": Release(30130, 400, "059ae9b3b6dce1c6", "048629233e9426f1"),
    "COVIDx_CXR-3A": Release(29634, 400, "a7e7ef10b00df1bd", "048629233e9426f1"),
}
# Versions with the classes negative and positive, which lack a class pneumonia. Each is mapped to
# a three-class version of about the same time.
TWO_CLASSES = {
    "COVIDx6": "COVIDx5",
    "COVIDx7B": "COVIDx7A",
    "COVIDx8B": "COVIDx8A",
    "COVIDx9B": "COVIDx9A",
    "COVIDx_CXR-3B": "COVIDx_CXR-3A",
}


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        version: Version of the lists train_<version>.txt and test_<version>.txt; the paper used
            COVIDx4. Other lists with the same three classes can be read too.
    """

    version: str = "COVIDx4"


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read the lists of one version.

    Args:
        root: Holds the lists (at the root or in labels/) and the images (in data/train and
            data/test, or train and test); a folder or a zip file.
        split: Validation images are drawn by patient from the train list; the test list stays,
            so `split.test` must be 0.
        options: See Options.

    Raises:
        InputError: A list is missing or of another version, the version has two classes, one
            file has two labels, or one patient is in both lists.
    """
    version = parse(Options, options, "covidx").version
    if version in TWO_CLASSES:
        raise InputError(
            "params.yaml",
            f"a version with three classes: {', '.join(RELEASES)}",
            f"{version}, whose classes are negative and positive",
            f"set datasets.sources.<name>.options.version to {TWO_CLASSES[version]}, the "
            "three-class lists of about that time, or to COVIDx4 as in the paper",
        )
    funnel = Funnel(paper=dict(PAPER))
    parts = []
    for name in ("train", "test"):
        file = f"{name}_{version}.txt"
        hint = "put the official label lists there, or set options.version"
        source = inputs.first_file(root, [file, f"labels/{file}"], hint)
        data = archives.read_bytes(source)
        rows = parse_list(data, source)
        funnel.notes += _pin(data, len(rows), name, version, source)
        rows["split"] = name
        folder = root / (f"data/{name}" if archives.is_dir(root / "data" / name) else name)
        files = _locate(rows["image"], folder, source, funnel)
        rows["path"] = [str(inputs.inside(folder, image, source)) for image in files]
        rows["image"] = f"{name}/" + rows["image"]
        funnel.images.found += len(rows)
        parts.append(_listed_once(rows, source, funnel))
    images = pd.concat(parts, ignore_index=True)
    images["study"] = images["image"]  # no list says which images were taken together
    funnel.studies.found = images["study"].nunique()
    images = images.assign(**inputs.one_hot(images["label"], LABELS, "label", source))
    return assemble(images.drop(columns="label"), split, source, labels=LABELS, funnel=funnel)


def parse_list(data: bytes, source: Path) -> pd.DataFrame:
    """Read "patientid filename label [source]".

    Lines have 3, 4 or more fields: some test lines lack the source, and some patient ids contain a
    space ("COVID 1 COVID(1).png COVID-19 sirm"). So the label is looked for from the right.

    Args:
        data: The list.
        source: Its file, for error messages.

    Returns:
        patient, image (the file's name) and label.

    Raises:
        InputError: A line has no label where one should be, or the list is not UTF-8.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(source, "UTF-8", str(error), "restore the official list") from error
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        at = next((i for i in (-1, -2) if len(fields) >= 2 - i and fields[i] in LABELS), None)
        if at is None:
            raise InputError(
                source,
                f"`patientid filename label [source]` with one of {', '.join(LABELS)}",
                f"line {number}: `{line.strip()}`",
                "use the lists of COVIDx4; other versions have other classes",
            )
        rows.append((" ".join(fields[: at - 1]), fields[at - 1], fields[at]))
    return pd.DataFrame(rows, columns=["patient", "image", "label"], dtype=str)


def _pin(data: bytes, lines: int, name: str, version: str, source: Path) -> list[str]:
    """A note if a list is not the official one, which was published once and never changed."""
    release = RELEASES.get(version)
    if release is None:
        return [f"{version} is no version with known lists; it was read as three classes."]
    checksum = hashlib.sha256(data.replace(b"\r\n", b"\n")).hexdigest()
    official = release.train_sha256 if name == "train" else release.test_sha256
    if checksum.startswith(official):
        return []
    return [
        f"{source.name} is not the official list: {lines} lines, sha256 {checksum[:16]}; official "
        f"{release.train if name == 'train' else release.test} lines, {official}."
    ]


def _locate(listed: pd.Series, folder: Path, source: Path, funnel: Funnel) -> list[str]:
    """The file of each listed image, if need be under another known spelling, which is noted.

    The lists say "COVID(1).png" where archives of the images have "COVID-1.png".
    """
    there = archives.names(folder)
    exact, renamed = set(there), defaultdict(set)
    for name in there:
        renamed[_plain(name)].add(name)
    files = []
    moved: list[str] = []
    lost: list[str] = []
    for name in listed:
        others = renamed[_plain(name)] if name not in exact else set()
        if len(others) == 1:
            moved.append(f"{name} as {next(iter(others))}")
            name = next(iter(others))
        elif name not in exact:
            lost.append(name)
        files.append(name)
    for what, names in (
        (f"files of {source.name} were found under another name", moved),
        (f"of {len(listed)} files of {source.name} are not there", lost if there else []),
    ):
        funnel.note(what, len(names), names[0] if names else "")
    return files


def _plain(name: str) -> str:
    """What "COVID(1).png", "COVID (1).png" and "COVID-1.PNG" have in common."""
    stem, dot, suffix = re.sub(r"\s*\((\d+)\)", r"-\1", name).rpartition(".")
    return stem + dot + suffix.lower()


def _listed_once(rows: pd.DataFrame, source: Path, funnel: Funnel) -> pd.DataFrame:
    """Keep the first of repeated lines: COVIDx4 lists 000001-27.jpg under two patient ids."""
    labels = rows.groupby("image")["label"].nunique()
    torn = labels.index[labels > 1]
    if len(torn):
        raise InputError(
            source, "one label per file", f"two for `{torn[0]}`", "restore the official list"
        )
    twice = rows["image"].duplicated()
    funnel.images.drop(LISTED_TWICE, rows.loc[twice, "image"])
    return rows[~twice]
