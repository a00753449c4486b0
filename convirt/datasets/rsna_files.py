"""The two JSON files of RSNA's own release: who is on a film, its adjudicated label, its place.

Kaggle's release has neither people nor the labels of its test part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from convirt.datasets import archives
from convirt.errors import InputError

Found = TypeVar("Found")
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
ANNOTATIONS = "pneumonia-challenge-annotations-adjudicated-kaggle_2018.json"
STUDY = "StudyInstanceUID"
AGAIN = "download it again from rsna.org"
GROUP = "Calculated"  # of labels: the adjudicated ones; the others are single readers'
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
CLASSES = {"Lung Opacity": 1, "Normal": 0, "No Lung Opacity / Not Normal": 0}


def find(root: Path, name: str) -> Path | None:
    """The file `name` in the root of a set, or beside it if the root is an archive."""
    beside = [root.parent / name] * (root.suffix.lower() == archives.SUFFIX)
    return next((place for place in (root / name, *beside) if archives.is_file(place)), None)


def _load(source: Path, expected: str, use: Callable[[Any], Found]) -> Found:
    """What `use` makes of a JSON file from rsna.org.

    Raises:
        InputError: It is no JSON, or `use` does not find in it what it needs.
    """
    try:
        return use(json.loads(archives.read_bytes(source).decode("utf-8-sig")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(source, expected, found, AGAIN) from error


def labels(annotations: Path, mapping: Path) -> dict[str, int]:
    """Film -> 1 where its adjudicated label is an opacity, else 0.

    Args:
        annotations: The file `ANNOTATIONS`, an export of MD.ai: `labelGroups`, each with a name
            and labels, and `datasets` with annotations, which name a label by `labelId` and a film
            by `SOPInstanceUID`, or a study (of one film) by `StudyInstanceUID` alone.
        mapping: The file `MAPPING`, whose `subset_img_id` is the challenge's name of the film with
            these UIDs.

    Returns:
        Films that have a label in `GROUP`, by the challenge's name.

    Raises:
        InputError: A file holds something else, a film has two labels, a label is of several films,
            or no film has one.
    """
    expected = f"labelGroups, one of them {GROUP!r}, and datasets with annotations"
    by_uid = _load(annotations, expected, _adjudicated)
    films: dict[str, set[str]] = {}  # UID -> films that it names
    for film, image, study in _rows(mapping, ("subset_img_id", "SOPInstanceUID"), STUDY):
        films.setdefault(image, set()).add(film)
        if study:
            films.setdefault(study, set()).add(film)
    found: dict[str, int] = {}
    for uid, classes in by_uid.items():
        named = films.get(uid, set())
        if len(named) > 1:
            expected, told = "one film for each UID that has a label", f"{len(named)} for {uid}"
            raise InputError(mapping, expected, told, AGAIN)
        for film, value in product(named, classes):
            if found.setdefault(film, value) != value:
                raise InputError(annotations, "one class per film", f"two for {uid}", AGAIN)
    if not found:
        count = len(set().union(*films.values()))
        raise InputError(
            annotations,
            f"films of {mapping.name}",
            f"none of its {count} among {len(by_uid)} labelled ones",
            "use the two files of the 2018 challenge on rsna.org",
        )
    return found


def _adjudicated(export: Any) -> dict[str, set[int]]:
    """SOPInstanceUID, or StudyInstanceUID of an annotation without one -> its classes, 0 or 1."""
    (group,) = (group for group in export["labelGroups"] if group["name"] == GROUP)
    kinds = {label["id"]: label["name"].strip() for label in group["labels"]}
    found: dict[str, set[int]] = {}
    for part in export["datasets"]:
        for one in part["annotations"]:
            if one["labelId"] in kinds:
                uid = one.get("SOPInstanceUID") or one[STUDY]
                found.setdefault(str(uid), set()).add(CLASSES[kinds[one["labelId"]]])
    return found


def people(mapping: Path) -> dict[str, str]:
    """Film, by the challenge's name -> patient of ChestX-ray14, from the file `MAPPING`.

    "subset_img_id" names the challenge's film and "img_id" that of ChestX-ray14, which has a name
    such as "00000013_005.png": patient 13, sixth film.

    Raises:
        InputError: It holds something else, or one film has two patients.
    """
    found: dict[str, str] = {}
    for film, image in _rows(mapping, ("subset_img_id", "img_id")):
        match = re.match(r"([0-9]+)_", image)
        if match is None or found.setdefault(film, match[1]) != match[1]:
            raise InputError(
                mapping,
                "an img_id such as 00000013_005.png, with one patient per subset_img_id",
                f"`{image}` for `{film}`",
                AGAIN,
            )
    return found


def places(mapping: Path) -> dict[str, str]:
    """Film, by the challenge's name -> its file in RSNA's release, from the file `MAPPING`.

    Raises:
        InputError: It holds something else, such as a UID that is none, or two places of one film.
    """
    levels = (STUDY, "SeriesInstanceUID", "SOPInstanceUID")
    found: dict[str, str] = {}
    owners: dict[str, str] = {}
    for film, *uids in _rows(mapping, ("subset_img_id", *levels)):
        for uid in uids:
            if not _UID.fullmatch(uid):
                raise InputError(mapping, "UIDs of digits and dots", f"`{uid}` of {film}", AGAIN)
        place = "/".join(uids) + ".dcm"
        if found.setdefault(film, place) != place or owners.setdefault(place, film) != film:
            expected, told = "one file for each film", f"{place} for {film}, and another"
            raise InputError(mapping, expected, told, AGAIN)
    return found


def _rows(mapping: Path, keys: Sequence[str], optional: str = "") -> list[tuple[str, ...]]:
    """The texts under some keys of each row of the file `MAPPING`, and under `optional`, or ""."""

    def texts(row: Any) -> tuple[str, ...]:
        values = [row[key] for key in keys] + [row.get(optional, "")] * bool(optional)
        for key, value in zip(keys, values, strict=False):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"`{value}` as {key}")
        return tuple(map(str, values))

    expected = f"RSNA's list of objects with {', '.join(keys)}"
    rows = _load(mapping, expected, lambda rows: [texts(row) for row in rows])
    if not rows:
        raise InputError(mapping, expected, "none", AGAIN)
    return rows
