"""Limb films with reports, in this repository's own pairs layout.

The paper's 48,000 musculoskeletal pairs are private, so there is no official layout to follow:

    pairs.csv             image,text,patient,study,view
    images/b000000_1.png
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from convirt.datasets import phantom
from convirt.datasets.layouts._tools import (
    Layout,
    csv_text,
    patients,
    stream,
    write_image,
    write_text,
)

_AGAIN = 0.1  # share of studies with the same patient as the one before
_SECOND = 0.1  # share of studies with two films


@dataclass(frozen=True)
class Study:
    """One study of the plan."""

    index: int
    patient: str


def plan(seed: int, counts: Mapping[str, int]) -> list[Study]:
    """One unit per study."""
    numbers = islice(patients(seed, "bone", _AGAIN), counts["studies"])
    return [Study(index, f"p{patient:06d}") for index, (patient, _) in enumerate(numbers)]


def draw(root: Path, seed: int, side: int, study: Study) -> list[tuple[str, ...]]:
    """Write the study's films; return its rows of pairs.csv."""
    rng = stream(seed, "bone", study.index)
    case = phantom.limb_case(rng)
    text = phantom.limb_report(rng, case)
    views = ("AP", "OBLIQUE") if rng.random() < _SECOND else ("AP",)
    rows: list[tuple[str, ...]] = []
    for number, view in enumerate(views, start=1):
        image = f"images/b{study.index:06d}_{number}.png"
        write_image(root / image, phantom.draw_limb(rng, case, side))
        rows.append((image, text, study.patient, f"b{study.index:06d}", view))
    return rows


def tables(root: Path, counts: Mapping[str, int], records: list[Any]) -> None:
    """Write pairs.csv."""
    rows = [row for record in records for row in record]
    write_text(root / "pairs.csv", csv_text(("image", "text", "patient", "study", "view"), rows))


LAYOUT = Layout(("studies",), plan, draw, tables)
