"""COVIDx v4: two text lists and two folders of mixed image files.

    labels/train_COVIDx4.txt   patient file label [source], single spaces, no header
    labels/test_COVIDx4.txt
    data/train/COVID(1).png    data/test/...

As in the real lists, some patient ids contain a space ("COVID 1") and some test lines name no
source, so that a line has 3, 4 or 5 fields. Unlike in the real set, file format and colours do not
depend on the label, so that a network cannot learn the source of a picture instead of its finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convirt.datasets import phantom
from convirt.datasets.layouts._tools import (
    Layout,
    hexadecimal,
    pick,
    stream,
    write_image,
    write_text,
)

LABELS = ("normal", "pneumonia", "COVID-19")
_ONLY = {"normal": "", "pneumonia": "Pneumonia", "COVID-19": "COVID-19"}
_TRAIN_SHARES = {"normal": 0.42, "pneumonia": 0.35, "COVID-19": 0.23}
_AGAIN = 0.12  # share of images with the same patient as the last of their class
_NO_SOURCE = 0.15  # share of the test lines
_SUFFIX = {"png": 0.6, "jpg": 0.3, "jpeg": 0.1}
_MODE = {"L": 0.75, "RGB": 0.2, "RGBA": 0.05}


@dataclass(frozen=True)
class Picture:
    """One image of the plan; `line` is its line in the list."""

    part: str  # train or test
    index: int
    label: str
    file: str
    mode: str
    line: str


def plan(seed: int, counts: Mapping[str, int]) -> list[Picture]:
    """One unit per image."""
    return [
        *_plan_part(seed, "train", counts["train"] + counts["val"]),
        *_plan_part(seed, "test", counts["test"]),
    ]


def _plan_part(seed: int, part: str, size: int) -> list[Picture]:
    pictures = []
    patient = dict.fromkeys(LABELS, -1)  # of the latest image of each class
    images = dict.fromkeys(LABELS, 0)  # that this patient has so far
    for index in range(size):
        rng = stream(seed, f"covidx/{part}/plan", index)
        # The test set is balanced, as in the real one (100 each).
        label = pick(rng, _TRAIN_SHARES) if part == "train" else LABELS[index % 3]
        again = rng.random() < _AGAIN and patient[label] >= 0
        patient[label] += 0 if again else 1
        images[label] = images[label] + 1 if again else 1
        name, file, source = _names(seed, part, label, patient[label], images[label])
        suffix, mode = pick(rng, _SUFFIX), pick(rng, _MODE)
        if suffix != "png" and mode == "RGBA":  # JPEG has no alpha
            mode = "RGB"
        silent = part == "test" and rng.random() < _NO_SOURCE
        line = f"{name} {file}.{suffix} {label}" + ("" if silent else f" {source}")
        pictures.append(Picture(part, index, label, f"{file}.{suffix}", mode, line))
    return pictures


def _names(seed: int, part: str, label: str, patient: int, image: int) -> tuple[str, str, str]:
    """Patient id, file name without suffix and source of a patient's n-th image."""
    rng = stream(seed, f"covidx/{part}/{label}", patient)
    number = 2 * patient + (1 if part == "train" else 2)  # odd for train, even for test
    more = "" if image == 1 else f"-{image}"
    if label == "COVID-19" and rng.random() < 0.5:
        return f"COVID {number}", f"COVID({number}){more}", "sirm"
    if label != "normal" and rng.random() < 0.4:
        # The two classes number their patients separately.
        code = f"{label[0].lower()}{number}"
        return code, f"{label}-{hexadecimal(rng, 8)}-day{image}", "cohen"
    code = hexadecimal(rng, 8, 4, 4, 4, 12)
    return code, f"{code}{more}", "actmed" if label == "COVID-19" else "rsna"


def draw(root: Path, seed: int, side: int, picture: Picture) -> Picture:
    """Write one image."""
    rng = stream(seed, f"covidx/{picture.part}", picture.index)
    case = phantom.chest_case(rng, only=_ONLY[picture.label])
    film = phantom.draw_chest(rng, case, side, "AP" if rng.random() < 0.5 else "PA")
    write_image(root / "data" / picture.part / picture.file, film, picture.mode)
    return picture


def tables(root: Path, counts: Mapping[str, int], records: list[Any]) -> None:
    """Write the two lists."""
    for part in ("train", "test"):
        lines = [f"{picture.line}\n" for picture in records if picture.part == part]
        write_text(root / "labels" / f"{part}_COVIDx4.txt", "".join(lines))


LAYOUT = Layout(("train", "val", "test"), plan, draw, tables)
