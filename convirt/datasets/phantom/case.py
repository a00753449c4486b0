"""What a made-up film shows: findings, and things that are not findings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHEST_FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Fracture",
    "Pleural Effusion",
    "Pneumonia",
    "Pneumothorax",
    "COVID-19",
)

# Relative frequencies of the findings in a natural case.
_WEIGHTS = np.array([0.14, 0.14, 0.10, 0.11, 0.10, 0.14, 0.11, 0.10, 0.06])
_SITES = ("upper", "mid", "lower")
_DEVICES = ("none", "pacemaker", "central line", "leads", "tube")
_BILATERAL = ("Cardiomegaly", "Edema", "COVID-19")
LIMB_PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")
_LIMB_FINDINGS = ("fracture", "lesion", "degenerative", "osteopenia")
_LIMB_SITES = ("proximal", "mid", "distal")


@dataclass(frozen=True)
class Finding:
    """One abnormality: where it is and how much of it there is."""

    name: str
    side: str
    site: str
    severity: float

    @property
    def grade(self) -> str:
        """The word for the severity, which is in [0, 1]."""
        return "mild" if self.severity < 0.34 else "moderate" if self.severity < 0.67 else "severe"


@dataclass(frozen=True)
class ChestCase:
    """What a chest film shows; `device` and `low_volumes` are not findings."""

    findings: tuple[Finding, ...]
    device: str
    low_volumes: bool

    @property
    def labels(self) -> frozenset[str]:
        """Names of the findings; empty for a normal chest."""
        return frozenset(finding.name for finding in self.findings)


@dataclass(frozen=True)
class LimbCase:
    """What a limb film shows; `extra`, such as a ring or a cast, is not a finding."""

    part: str
    findings: tuple[Finding, ...]
    extra: str

    @property
    def abnormal(self) -> bool:
        """Whether a radiologist would call the study abnormal (MURA's label)."""
        return bool(self.findings)


def chest_case(rng: np.random.Generator, only: str | None = None) -> ChestCase:
    """Draw a case.

    Args:
        rng: Source of all randomness.
        only: The only finding; "" for no finding; None for a natural mixture.
    """
    if only is None:
        count = int(rng.choice(4, p=[0.22, 0.43, 0.25, 0.10]))
        names = list(
            rng.choice(CHEST_FINDINGS, size=count, replace=False, p=_WEIGHTS / _WEIGHTS.sum())
        )
    elif only == "":
        names = []
    elif only in CHEST_FINDINGS:
        names = [only]
    else:
        raise ValueError(f"unknown finding {only!r}, expected one of {CHEST_FINDINGS}")
    findings = tuple(_chest_finding(rng, str(name)) for name in sorted(names))
    device = str(rng.choice(_DEVICES, p=[0.44, 0.14, 0.14, 0.16, 0.12]))
    return ChestCase(findings, device, bool(rng.random() < 0.2))


def _chest_finding(rng: np.random.Generator, name: str) -> Finding:
    side = "bilateral" if name in _BILATERAL else str(rng.choice(("left", "right")))
    site = {"Atelectasis": "lower", "Pleural Effusion": "lower", "Pneumothorax": "upper"}.get(
        name, str(rng.choice(_SITES))
    )
    return Finding(name, side, site, float(rng.random()))


def limb_case(
    rng: np.random.Generator, abnormal: bool | None = None, part: str | None = None
) -> LimbCase:
    """Draw a limb case; None leaves the choice to `rng` (60% abnormal, any part)."""
    part = part or str(rng.choice(LIMB_PARTS))
    abnormal = bool(rng.random() < 0.6) if abnormal is None else abnormal
    findings: tuple[Finding, ...] = ()
    if abnormal:
        count = 1 + int(rng.random() < 0.3)
        names = rng.choice(_LIMB_FINDINGS, size=count, replace=False, p=[0.4, 0.22, 0.22, 0.16])
        findings = tuple(
            Finding(str(name), "", str(rng.choice(_LIMB_SITES)), float(rng.random()))
            for name in sorted(names)
        )
    extra = str(rng.choice(("none", "cast", "marker", "ring"), p=[0.55, 0.15, 0.15, 0.15]))
    return LimbCase(part, findings, extra)
