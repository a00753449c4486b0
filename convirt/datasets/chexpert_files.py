"""Where the lists and films of a CheXpert download are stored, whichever download it is.

    CheXpert-v1.0-small, CheXpert-v1.0    train.csv valid.csv train/patient00001/... valid/...
    chexpertchestxrays-u20210408          what AIMI distributes, four folders or zip files:
      CheXpert-v1.0 batch 1 (validate & csv)   train.csv valid.csv valid/patient64541/...
      CheXpert-v1.0 batch 2 (train 1)          patient00001/..., without a folder train/
      ... batch 3 (train 2), batch 4 (train 3)
    CheXpert, beside CheXlocalize         val_labels.csv test_labels.csv val/ test/

Any of them may be a folder, a zip file of that name, or the root itself. The lists name films as in
the first layout, so in the others each film is looked for in the folder that holds its patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from convirt.datasets import archives, inputs
from convirt.errors import InputError

FOLDERS = ("CheXpert-v1.0-small", "CheXpert-v1.0", "chexpertchestxrays-u20210408", "CheXpert")
# The names of each part of the set: in the lists of v1.0, and in CheXlocalize.
PARTS = {"train": ("train",), "valid": ("valid", "val"), "test": ("test",)}
_BATCH = re.compile(r"CheXpert-v1\.0 batch [0-9]+ \(.*\)", re.IGNORECASE)
_STUDY = r"(?:[^/]+/)?(train|valid|val|test)/(patient[0-9]{5})/(study[0-9]{1,3})"
_FILM = r"view[0-9]{1,3}_(?:frontal|lateral)\.(?:jpg|jpeg|png)"
_STUDY_PATH, _FILM_PATH = re.compile(f"{_STUDY}/?"), re.compile(f"{_STUDY}/({_FILM})")


@dataclass(frozen=True)
class Download:
    """One download.

    Attributes:
        spots: Folders that hold lists and parts: the download's own, then those of its batches.
    """

    spots: tuple[Path, ...]

    def file(self, *names: str) -> Path:
        """The first of `names` that any spot has, else the first name in the first spot."""
        places = (spot / name for name in names for spot in self.spots)
        return next((p for p in places if archives.is_file(p)), self.spots[0] / names[0])

    def folder_of(self, part: str) -> Callable[[str], Path]:
        """A function from a patient of `part` to the folder that holds the patient's folder."""
        names = PARTS[part]
        folders = [s / n for s in self.spots for n in names if archives.is_dir(s / n)]
        if part == "train":
            folders += self.spots[1:]  # a batch is train/ itself
        if len(folders) < 2:
            only = folders[0] if folders else self.spots[0] / names[0]
            return lambda patient: only
        owner: dict[str, Path] = {}
        for folder in folders:
            for name in archives.names(folder):
                owner.setdefault(name, folder)
        return lambda patient: owner.get(patient, folders[0])


def find(root: Path, *names: str) -> Download:
    """The download at `root` that holds a list or a folder with one of these names.

    Returns:
        The root itself if there is none, so that a later error names it.
    """
    tops = [root]
    for name in FOLDERS:
        tops += [root / name, root / f"{name}.zip" / name, root / f"{name}.zip"]
    for top in filter(archives.is_dir, tops):
        download = Download((top, *_batches(top)))
        if any(archives.exists(spot / name) for spot in download.spots for name in names):
            return download
    return Download((root, *_batches(root)))


def _batches(top: Path) -> list[Path]:
    """The AIMI batches in a folder; a batch's archive may hold a folder of its own name."""
    batches = []
    for name in archives.names(top):
        stem = name[: -len(archives.SUFFIX)] if name.lower().endswith(archives.SUFFIX) else name
        if _BATCH.fullmatch(stem) and archives.is_dir(top / name):
            inner = top / name / stem
            batches.append(inner if archives.is_dir(inner) else top / name)
    return batches


def locate(paths: Iterable[str], download: Download, source: Path) -> pd.DataFrame:
    """Find the films that a list names, such as train/patient00001/study1/view1_frontal.jpg.

    A component before these four, if any, names the download ("CheXpert-v1.0-small"); it is
    dropped. CheXlocalize's "val" is v1.0's "valid".

    Args:
        paths: The list's column Path.
        download: Where the films are.
        source: The list, for messages.

    Returns:
        image (the four components as v1.0 names them, whatever the layout), path, study, patient.

    Raises:
        InputError: A path of another form, or one that a symbolic link leads out of its folder.
    """
    owner: dict[str, Callable[[str], Path]] = {}
    rows = []
    for text in paths:
        part, patient, study, film = _split(_FILM_PATH, text, source, "view1_frontal.jpg")
        if part not in owner:
            owner[part] = download.folder_of(part)
        path = inputs.inside(owner[part](patient), f"{patient}/{study}/{film}", source)
        rows.append((f"{part}/{patient}/{study}/{film}", str(path), f"{patient}/{study}", patient))
    return pd.DataFrame(rows, columns=["image", "path", "study", "patient"], dtype=str)


def films_of(study: str, download: Download, source: Path) -> list[str]:
    """The films in a study's folder, named as in a list with one row per film.

    Raises:
        InputError: A path of another form, or no film in the folder.
    """
    part, patient, number = _split(_STUDY_PATH, study, source, "")
    folder = download.folder_of(part)(patient) / patient / number
    names = [name for name in archives.names(folder) if re.fullmatch(_FILM, name)]
    if not names:
        raise InputError(
            source,
            f"films of every study, such as {folder}/view1_frontal.jpg",
            f"none for `{study}`",
            "put this list beside the folder test/ of CheXlocalize's download",
        )
    return [f"{part}/{patient}/{number}/{name}" for name in names]


def _split(pattern: re.Pattern[str], text: str, source: Path, film: str) -> tuple[str, ...]:
    """The components that `pattern` captures, the part as v1.0 names it."""
    match = pattern.fullmatch(text.strip())
    if match is None:
        raise InputError(
            source,
            "paths that stay inside the download, such as "
            f"CheXpert-v1.0-small/train/patient00001/study1/{film}",
            f"`{text}`",
            "restore the official list",
        )
    part, *rest = match.groups()
    return ("valid" if part == "val" else part, *rest)
