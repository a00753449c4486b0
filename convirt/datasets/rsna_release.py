"""Labels of the RSNA challenge's test films: RSNA's own release has them, Kaggle's has not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from convirt.datasets import archives
from convirt.errors import InputError

Found = TypeVar("Found")
GROUP = "Calculated"  # of labels: the adjudicated ones; the others are single readers'
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
        annotations: pneumonia-challenge-annotations-adjudicated-kaggle_2018.json, an export of
            MD.ai: `labelGroups`, each with a name and labels, and `datasets` with annotations,
            which name a label by `labelId` and a film by `SOPInstanceUID`.
        mapping: pneumonia-challenge-dataset-mappings_2018.json, whose `subset_img_id` is the
            challenge's name of the film with that SOPInstanceUID.

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
        lambda rows: {str(row["SOPInstanceUID"]): str(row["subset_img_id"]) for row in rows},
    )
    found: dict[str, int] = {}
    for image, classes in by_image.items():
        if len(classes) > 1:
            raise InputError(
                annotations, "one class per film", f"two for {image}", "download it again"
            )
        if image in names:
            found[names[image]] = next(iter(classes))
    if not found:
        raise InputError(
            annotations,
            f"films of {mapping.name}",
            f"none of its {len(names)} among {len(by_image)} labelled ones",
            "use the two files of the 2018 challenge on rsna.org",
        )
    return found


def _adjudicated(export: Any) -> dict[str, set[int]]:
    """SOPInstanceUID -> its classes, 0 or 1."""
    (group,) = (group for group in export["labelGroups"] if group["name"] == GROUP)
    kinds = {label["id"]: CLASSES[label["name"].strip()] for label in group["labels"]}
    found: dict[str, set[int]] = {}
    for part in export["datasets"]:
        for one in part["annotations"]:
            if one["labelId"] in kinds:
                found.setdefault(str(one["SOPInstanceUID"]), set()).add(kinds[one["labelId"]])
    return found
