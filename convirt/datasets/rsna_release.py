"""RSNA Pneumonia Detection Challenge 2018 as RSNA itself offers it: all labels, and no account."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from convirt.datasets import archives, inputs, rsna_files
from convirt.datasets.assemble import assemble
from convirt.datasets.options import parse
from convirt.datasets.options import path as option_path
from convirt.datasets.rsna import LABELS, PAPER, doubts, people_of
from convirt.datasets.rsna_files import ANNOTATIONS, MAPPING
from convirt.datasets.splits import Split
from convirt.datasets.tables import NO_FINAL_LABEL, Funnel, Tables
from convirt.errors import InputError

FILMS = "pneumonia-challenge-dataset-adjudicated-kaggle_2018"
FROM = "https://s3.amazonaws.com/east1.public.rsna.org/AI/2018"
GET = f"wget -N -c -P {{root}} {FROM}/"  # and the name of a file
PROBES = 20  # films looked for to tell where the folders of studies are
FEW = 20  # entries of a folder that is looked into for them


@dataclass(frozen=True)
class Options:
    """Switches of this reader.

    Attributes:
        images: Folder or zip of the films, if it is not in the root.
    """

    images: str = ""


def read(root: Path, split: Split, options: dict[str, Any]) -> Tables:
    """Read all films that have a final label: those of Kaggle's lists, and stage 2's test part.

    A film with the label "Lung Opacity" is positive for pneumonia; the others are negative, normal
    or not. Films bear the names that Kaggle gives them.

    Args:
        root: Holds the two JSON files (`rsna_files`), and the films as
            <StudyInstanceUID>/<SeriesInstanceUID>/<SOPInstanceUID>.dcm: in the zip file as it was
            downloaded, or unpacked.
        split: Validation and test images, drawn by whole people. The release does not say which
            films were stage 2's test part, so the paper's split cannot be drawn from it.
        options: See Options.

    Raises:
        InputError: A file is missing or holds something else, or there is no folder of films.
    """
    chosen = parse(Options, options, "rsna-release")
    mapping, annotations = (_file(root, name) for name in (MAPPING, ANNOTATIONS))
    places = rsna_files.places(mapping)
    known = rsna_files.labels(annotations, mapping)
    ids = pd.Series(sorted(places), dtype=object)
    home = _home(root, chosen.images, [places[film] for film in ids])
    images = pd.DataFrame(
        {
            "image": ids,
            "path": [str(inputs.inside(home, places[film], mapping)) for film in ids],
            "study": ids,
            "patient": people_of(ids, mapping),
            "pneumonia": ids.map(known),
        }
    )
    funnel = Funnel()
    funnel.images.found = funnel.studies.found = len(images)
    images = funnel.leave_out(images, images["pneumonia"].isna(), NO_FINAL_LABEL)
    images = images.astype({"pneumonia": int})
    tables = assemble(images, split, annotations, labels=LABELS, funnel=funnel)
    funnel.paper, funnel.notes = dict(PAPER), doubts(tables.images, split, mapping, annotations)
    return tables


def _file(root: Path, name: str) -> Path:
    """One of the two JSON files."""
    place = rsna_files.find(root, name)
    if place is None:
        raise InputError(root, name, _told(root), _get(root, name))
    return place


def _home(root: Path, option: str, films: list[str]) -> Path:
    """What the names of the films are relative to: where most of a few of them are."""
    start = option_path(option, "the folder or zip file of the films") if option else root
    probes = films[:: max(1, len(films) // PROBES)]
    found = {home: sum(archives.is_file(home / film) for film in probes) for home in _homes(start)}
    home = max(found, key=lambda home: found[home])  # the first of equals
    if found[home]:
        return home
    get = _get(root, f"{FILMS}.zip")
    raise InputError(
        start,
        f"the films, such as {films[0]} in {FILMS}.zip",
        _told(start),
        f"{get} (it may stay a zip file), or name where they are in options.images",
    )


def _homes(start: Path, depth: int = 4) -> Iterator[Path]:
    """Where folders of studies can be: down through folders and archives that hold few things."""
    yield start
    inside = archives.names(start)
    if depth and len(inside) <= FEW:
        for place in (start / name for name in inside):
            if archives.is_dir(place):
                yield from _homes(place, depth - 1)


def _told(place: Path) -> str:
    """What is at a place, for a message."""
    if not archives.is_dir(place):
        return "a file"
    return ", ".join(archives.names(place)[:3]) or "an empty folder"


def _get(root: Path, name: str) -> str:
    """The command that gets a file."""
    folder = root.parent if root.is_file() else root
    return GET.format(root=shlex.quote(str(folder))) + name
