"""Made-up radiographs and the reports that a radiologist might dictate about them.

The embedded default experiment needs data that nobody has to apply for. A phantom is a case
(what is present, on which side, where, how much), a film drawn from it and a report written
about it. As in real films, much varies that labels do not depend on: exposure, rotation, zoom,
view, noise, leads, lines and pacemakers. Findings are weak: low-frequency noise has the size and
contrast of a small opacity, so that findings have to be learnt and cannot be thresholded.

Nothing here was measured on a patient. Brightness is attenuation: air is dark, bone is bright.
The patient's left is on the right-hand side of the film, as radiographs are read.
"""

from __future__ import annotations

from convirt.datasets.phantom.case import (
    CHEST_FINDINGS,
    LIMB_PARTS,
    ChestCase,
    Finding,
    LimbCase,
    chest_case,
    limb_case,
)
from convirt.datasets.phantom.chest import draw_chest
from convirt.datasets.phantom.limb import draw_limb
from convirt.datasets.phantom.report import chest_report, limb_report, text_query

__all__ = [
    "CHEST_FINDINGS",
    "LIMB_PARTS",
    "ChestCase",
    "Finding",
    "LimbCase",
    "chest_case",
    "chest_report",
    "draw_chest",
    "draw_limb",
    "limb_case",
    "limb_report",
    "text_query",
]
