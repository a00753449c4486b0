"""The lists of a set and the files that they name, without reading a report or resolving a path.

A reader takes minutes for 400,000 images, since it reads every report and resolves every path.
The code below names the same files in seconds; a test compares it with the readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs, mimic_cxr, mimic_reports
from convirt.datasets.options import expanded
from convirt.doctor.catalogue import Facts, ListFile
from convirt.doctor.presence import Files, likeliest, there
from convirt.errors import InputError

Rows = Mapping[str, pd.DataFrame]  # first name of a list -> its rows


class Lists:
    """The lists of one set, as far as they exist.

    Attributes:
        home: The folder of the lists, to which the names in them are relative; None if no list was
            found.
        rows: First name of each list -> its rows.
        official: First name of each list -> official number of rows, 0 if there is none.
        lacking: First names of the missing lists.
        problems: Why other lists could not be read.
    """

    def __init__(self, facts: Facts, root: Path, options: Mapping[str, Any]) -> None:
        self.facts, self.root = facts, root
        self.home: Path | None = None
        self.rows: dict[str, pd.DataFrame] = {}
        self.official: dict[str, int] = {}
        self.lacking: list[str] = []
        self.problems: list[InputError] = []
        for one in facts.lists:
            if not one.when or options.get(one.when):
                self._read(one, tuple(name.format(**options) for name in one.names))

    @property
    def whole(self) -> bool:
        """Whether every list is there and can be read."""
        return bool(self.rows) and not self.lacking and not self.problems

    @property
    def size(self) -> int:
        """Number of rows in all lists."""
        return sum(len(table) for table in self.rows.values())

    def _read(self, one: ListFile, names: tuple[str, ...]) -> None:
        try:
            path = self._find(names)
            if path is None:
                self.lacking.append(names[0])
                return
            self.rows[names[0]] = read_list(path, one)
            official = not one.version or f"_{one.version}." in names[0]
            self.official[names[0]] = one.rows if official else 0
        except InputError as error:
            self.problems.append(error)
        except OSError as error:
            where, reason = self.root / names[0], error.strerror or str(error)
            hint = "check its permissions and the disk"
            self.problems.append(InputError(where, "a file that can be read", reason, hint))

    def _find(self, names: tuple[str, ...]) -> Path | None:
        if not archives.is_dir(self.root):  # the root is a bring-your-own list
            self.home = self.root.parent
            return self.root
        homes = [self.root / home for home in self.facts.homes]
        for home in [self.home] if self.home else homes:
            for name in names:
                if there(home / name):
                    self.home = home
                    return home / name
        return None


def read_list(path: Path, one: ListFile) -> pd.DataFrame:
    """The rows of a list.

    Raises:
        InputError: It is unreadable or lacks a column.
    """
    if path.suffix == ".txt":  # COVIDx: no header, and spaces within fields
        text = archives.read_bytes(path).decode("utf-8", errors="replace")
        return pd.DataFrame({"line": [line for line in text.splitlines() if line.strip()]})
    rows = inputs.read_csv(path, one.columns, names=None if one.header else one.columns)
    if one.header:
        return rows
    return rows[rows[one.columns[0]].str.contains("/")]  # some copies have an added header


# ------------------------------------------------------------------------------ by layout


def _mimic(home: Path, rows: Rows, options: Mapping[str, Any]) -> list[Files]:
    table = next(iter(rows.values()))
    subject, study = table["subject_id"], table["study_id"]
    folders = "files/p" + subject.str[:2] + "/p" + subject + "/s" + study
    stems, texts = folders + "/" + table["dicom_id"], (folders.drop_duplicates() + ".txt").tolist()
    place = mimic_cxr.images_home(home, options["images"])
    images = [Files("images", place, (stems + suffix).tolist()) for suffix in (".jpg", ".dcm")]
    if options["reports"]:
        places = [mimic_reports.holds_files(expanded(options["reports"])[0])]
    else:
        places = [mimic_reports.holds_files(place) for place in mimic_reports.places(home)]
    return [likeliest(images), likeliest([Files("reports", place, texts) for place in places])]


def _chexpert(home: Path, rows: Rows, options: Mapping[str, Any]) -> list[Files]:
    paths = pd.concat([table["Path"] for table in rows.values()])
    # the first component names the download
    return [Files("images", home, paths.str.partition("/")[2].tolist())]


def _mura(home: Path, rows: Rows, options: Mapping[str, Any]) -> list[Files]:
    paths = pd.concat([table["path"] for name, table in rows.items() if "image_paths" in name])
    return [Files("images", home, paths.str.strip().str.partition("/")[2].tolist())]


def _rsna(home: Path, rows: Rows, options: Mapping[str, Any]) -> list[Files]:
    ids = next(iter(rows.values()))["patientId"].drop_duplicates()  # one row per box
    return [Files("images", home, ("stage_2_train_images/" + ids + ".dcm").tolist())]


def _yours(home: Path, rows: Rows, options: Mapping[str, Any]) -> list[Files]:
    names = pd.concat([table["image"] for table in rows.values() if "image" in table]).str.strip()
    return [Files("images", home, names[names != ""].tolist())]


# The layouts whose sets may be large; the reader itself is run on the others.
NAMED: dict[str, Callable[[Path, Rows, Mapping[str, Any]], list[Files]]] = {
    "mimic-cxr": _mimic,
    "chexpert": _chexpert,
    "mura": _mura,
    "rsna": _rsna,
    "pairs": _yours,
    "labels": _yours,
    "retrieval": _yours,
}
