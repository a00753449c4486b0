"""The two JSON files of RSNA's own release: who is on a film, its adjudicated label, its place.

Kaggle's release has neither people nor the labels of its test part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from convirt.datasets import archives
from convirt.errors import InputError

Found = TypeVar("Found")
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
ANNOTATIONS = "pneumonia-challenge-annotations-adjudicated-kaggle_2018.json"
GROUP = "Calculated"  # of labels: the adjudicated ones; the others are single readers'
_UID = re.compile(r"(?=.{1,64}$)[0-9]+(\.[0-9]+)*")
CLASSES = {"Lung Opacity": 1, "Normal": 0, "No Lung Opacity / Not Normal": 0}


def load(source: Path, expected: str, use: Callable[[Any], Found]) -> Found:
    """What `use` makes of a JSON file from rsna.org.

    Raises:
        InputError: It is no JSON, or `use` does not find in it what it needs.
    """
    try:
        return use(json.loads(archives.read_bytes(source).decode("utf-8-sig")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(source, expected, found, "download it again from rsna.org") from error


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
        InputError: A file holds something else, a film has two labels, or no film has one.
    """
    expected = f"labelGroups, one of them {GROUP!r}, and datasets with annotations"
    by_image = load(annotations, expected, _adjudicated)
    names = load(
        mapping,
        "RSNA's list of objects with subset_img_id and SOPInstanceUID",
        lambda rows: {
            str(row[uid]): str(row["subset_img_id"])
            for row in rows
            for uid in ("StudyInstanceUID", "SOPInstanceUID")
            if uid in row or uid == "SOPInstanceUID"
        },
    )
    found: dict[str, int] = {}
    for image, classes in by_image.items():
        if image not in names:
            continue
        film = names[image]
        if len(classes | {found.get(film, -1)} - {-1}) > 1:
            raise InputError(
                annotations, "one class per film", f"two for {image}", "download it again"
            )
        found[film] = next(iter(classes))
    if not found:
        raise InputError(
            annotations,
            f"films of {mapping.name}",
            f"none of its {len(names)} among {len(by_image)} labelled ones",
            "use the two files of the 2018 challenge on rsna.org",
        )
    return found


def _adjudicated(export: Any) -> dict[str, set[int]]:
    """SOPInstanceUID, or StudyInstanceUID of an annotation without one -> its classes, 0 or 1."""
    (group,) = (group for group in export["labelGroups"] if group["name"] == GROUP)
    kinds = {label["id"]: CLASSES[label["name"].strip()] for label in group["labels"]}
    found: dict[str, set[int]] = {}
    for part in export["datasets"]:
        for one in part["annotations"]:
            if one["labelId"] in kinds:
                uid = one.get("SOPInstanceUID") or one["StudyInstanceUID"]
                found.setdefault(str(uid), set()).add(kinds[one["labelId"]])
    return found


def people(mapping: Path) -> dict[str, str]:
    """Film, by the challenge's name -> patient of ChestX-ray14, from the file `MAPPING`.

    "subset_img_id" names the challenge's film and "img_id" that of ChestX-ray14, which has a name
    such as "00000013_005.png": patient 13, sixth film.

    Raises:
        InputError: It holds something else, or one film has two patients.
    """
    matches = load(
        mapping,
        "RSNA's list of objects with subset_img_id and img_id",
        lambda rows: [
            (str(row["subset_img_id"]), row["img_id"], re.match(r"(\d+)_", row["img_id"]))
            for row in rows
        ],
    )
    found: dict[str, str] = {}
    for film, image, match in matches:
        if match is None or found.setdefault(film, match[1]) != match[1]:
            raise InputError(
                mapping,
                "an img_id such as 00000013_005.png, with one patient per subset_img_id",
                f"`{image}` for `{film}`",
                "download it again from rsna.org",
            )
    return found


def places(mapping: Path) -> dict[str, str]:
    """Film, by the challenge's name -> its file in RSNA's release, from the file `MAPPING`.

    Raises:
        InputError: It holds something else, such as a UID that is none.
    """
    levels = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    uids = load(
        mapping,
        f"RSNA's list of objects with subset_img_id, {', '.join(levels)}",
        lambda rows: {
            str(row["subset_img_id"]): [str(row[level]) for level in levels] for row in rows
        },
    )
    for film, parts in uids.items():
        strange = next((uid for uid in parts if not _UID.fullmatch(uid)), None)
        if strange is not None:
            hint = "download it again from rsna.org"
            raise InputError(mapping, "UIDs of digits and dots", f"`{strange}` of {film}", hint)
    return {film: "/".join(parts) + ".dcm" for film, parts in uids.items()}
