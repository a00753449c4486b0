"""RSNA Pneumonia Detection Challenge 2018 as RSNA itself offers it: all labels, and no account."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
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
EXPORT = "mdai_rsna_project_"  # so begins the name of the folder in the archive
FROM = "https://s3.amazonaws.com/east1.public.rsna.org/AI/2018"
PROBES = 10  # films looked for to tell where the folders of studies are


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
    """One of the two JSON files, in the root or beside it if it is the archive of the films."""
    places = [root / name, root.parent / name] if root.suffix == archives.SUFFIX else [root / name]
    for place in places:
        if archives.is_file(place):
            return place
    found = ", ".join(archives.names(root)[:3]) or "an empty folder"
    raise InputError(root, name, found, f"wget {FROM}/{name}")


def _home(root: Path, option: str, films: list[str]) -> Path:
    """What the names of the films are relative to."""
    start = option_path(option, "the folder or zip file of the films") if option else root
    for home in _homes(start):
        if any(archives.is_file(home / film) for film in islice(films, PROBES)):
            return home
    raise InputError(
        start,
        f"the films, such as {films[0]} in {FILMS}.zip" if films else "films",
        ", ".join(archives.names(start)[:3]) or "an empty folder",
        f"wget {FROM}/{FILMS}.zip; it may stay a zip file",
    )


def _homes(start: Path) -> Iterator[Path]:
    """Where folders of studies can be: the archive has been unpacked in more than one way."""
    for base in (start, start / FILMS, start / f"{FILMS}.zip", start / f"{FILMS}.zip" / FILMS):
        yield base
        yield from (base / name for name in archives.names(base) if name.startswith(EXPORT))
