"""MURA-v1.1: limb films in folders whose names contain the study's label.

    MURA-v1.1.zip                         as downloaded; inside it:
    MURA-v1.1/train_image_paths.csv       one path per line, no header
    MURA-v1.1/train_labeled_studies.csv   study folder with a trailing slash, label; no header
    MURA-v1.1/train/XR_WRIST/patient00001/study1_positive/image1.png
    and likewise valid_...

As in the real set, a patient may have studies of several body parts and of both labels, some
PNG files are RGB, and the archive contains "._image1.png" leftovers that no decoder opens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convirt.datasets import phantom
from convirt.datasets.layouts._tools import (
    Layout,
    csv_text,
    patients,
    pick,
    stream,
    write_image,
    write_text,
)

_AGAIN = 0.12  # share of studies with the same patient as the one before
_POSITIVE = 0.45  # share of the studies
_IMAGES = (0.35, 0.4, 0.25)  # shares of studies with one, two, three films
_RGB = 0.1
_LEFTOVERS = 0.05  # share of studies with an AppleDouble file beside an image
# Share of each body part in the training studies of the real set.
_PARTS = {
    "ELBOW": 0.13,
    "FINGER": 0.145,
    "FOREARM": 0.065,
    "HAND": 0.15,
    "HUMERUS": 0.045,
    "SHOULDER": 0.21,
    "WRIST": 0.255,
}
# The header of an AppleDouble file: magic number, version 2, home file system, no entries.
_APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00" + b"Mac OS X        " + b"\x00\x00"


@dataclass(frozen=True)
class Study:
    """One study of the plan."""

    part: str  # train or valid
    index: int
    bone: str
    folder: str
    positive: bool
    images: int


def plan(seed: int, counts: Mapping[str, int]) -> list[Study]:
    """One unit per study; the last study of a part is cut so that the number of images is exact."""
    sizes = {"train": counts["train"] + counts["val"], "valid": counts["test"]}
    return [study for part, size in sizes.items() for study in _plan_part(seed, part, size)]


def _plan_part(seed: int, part: str, size: int) -> list[Study]:
    studies: list[Study] = []
    seen: dict[tuple[int, str], int] = {}
    numbers = enumerate(patients(seed, f"mura/{part}", _AGAIN))
    while size > 0:
        index, (patient, _) = next(numbers)
        rng = stream(seed, f"mura/{part}/plan", index)
        bone, positive = pick(rng, _PARTS), bool(rng.random() < _POSITIVE)
        images = min(size, 1 + int(rng.choice(len(_IMAGES), p=_IMAGES)))
        # Odd numbers for train, even ones for valid: they never share a patient at any size.
        name = f"patient{1 + 2 * patient if part == 'train' else 11186 + 2 * patient:05d}"
        number = seen[patient, bone] = seen.get((patient, bone), 0) + 1
        label = "positive" if positive else "negative"
        folder = f"MURA-v1.1/{part}/XR_{bone}/{name}/study{number}_{label}"
        studies.append(Study(part, index, bone, folder, positive, images))
        size -= images
    return studies


def draw(root: Path, seed: int, side: int, study: Study) -> Study:
    """Write the study's films and, for a few studies, a leftover of the archiver."""
    rng = stream(seed, f"mura/{study.part}", study.index)
    leftover = rng.random() < _LEFTOVERS
    case = phantom.limb_case(rng, abnormal=study.positive, part=study.bone)
    for number in range(1, study.images + 1):
        mode = "RGB" if rng.random() < _RGB else "L"
        film = phantom.draw_limb(rng, case, side)
        write_image(root / study.folder / f"image{number}.png", film, mode)
    if leftover:
        (root / study.folder / "._image1.png").write_bytes(_APPLE_DOUBLE)
    return study


def tables(root: Path, counts: Mapping[str, int], records: list[Any]) -> None:
    """Write the four lists."""
    for part in ("train", "valid"):
        studies: list[Study] = [study for study in records if study.part == part]
        paths = [
            (f"{study.folder}/image{number}.png",)
            for study in studies
            for number in range(1, study.images + 1)
        ]
        labels = [(f"{study.folder}/", int(study.positive)) for study in studies]
        home = root / "MURA-v1.1"
        write_text(home / f"{part}_image_paths.csv", csv_text((), paths))
        write_text(home / f"{part}_labeled_studies.csv", csv_text((), labels))


LAYOUT = Layout(("train", "val", "test"), plan, draw, tables, zipped="MURA-v1.1")
