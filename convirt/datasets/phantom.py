"""Made-up radiographs and the reports that a radiologist might dictate about them.

The embedded default experiment needs data that nobody has to apply for. A phantom is a case
(what is present, on which side, where, how much), a film drawn from it and a report written
about it. Films carry what real ones carry and labels do not follow: exposure, rotation, zoom,
view, noise, leads, lines and pacemakers. Findings are weak: low-frequency noise has the size and
the contrast of a small opacity, so that they have to be learnt and cannot be thresholded.

Nothing here was measured on a patient. Brightness is attenuation: air is dark, bone is bright.
The patient's left is on the right-hand side of the film, as radiographs are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

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
LIMB_PARTS = ("ELBOW", "FINGER", "FOREARM", "HAND", "HUMERUS", "SHOULDER", "WRIST")

# How often a finding is among those of a natural case.
_WEIGHTS = np.array([0.14, 0.14, 0.10, 0.11, 0.10, 0.14, 0.11, 0.10, 0.06])
_SITES = ("upper", "mid", "lower")
_SITE_Y = {"upper": -0.42, "mid": -0.02, "lower": 0.36}
_DEVICES = ("none", "pacemaker", "central line", "leads", "tube")
_BILATERAL = ("Cardiomegaly", "Edema", "COVID-19")


@dataclass(frozen=True)
class Finding:
    """One abnormality: where it is and how much of it there is."""

    name: str
    side: str
    site: str
    severity: float

    @property
    def grade(self) -> str:
        """The word for the severity, which lies in [0, 1]."""
        return "mild" if self.severity < 0.34 else "moderate" if self.severity < 0.67 else "severe"


@dataclass(frozen=True)
class ChestCase:
    """What a chest film shows; `device` and `volumes` are no findings."""

    findings: tuple[Finding, ...]
    device: str
    low_volumes: bool

    @property
    def labels(self) -> frozenset[str]:
        """Names of the findings; empty for a normal chest."""
        return frozenset(finding.name for finding in self.findings)


@dataclass(frozen=True)
class LimbCase:
    """What a limb film shows; a ring or a cast is no finding."""

    part: str
    findings: tuple[Finding, ...]
    extra: str

    @property
    def abnormal(self) -> bool:
        """Whether a radiologist would call the study abnormal (MURA's label)."""
        return bool(self.findings)


# ---------------------------------------------------------------------------------- chest cases


def chest_case(rng: np.random.Generator, only: str | None = None) -> ChestCase:
    """Draw a case.

    Args:
        rng: Source of all randomness.
        only: Exactly this finding; "" for none; None for a natural mixture.
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


# ---------------------------------------------------------------------------------- drawing tools


@lru_cache(maxsize=64)
def _interpolation(size: int, knots: int) -> np.ndarray:
    """Matrix (size, knots) that stretches `knots` values linearly over `size` pixels."""
    position = np.linspace(0, knots - 1, size)
    low = np.minimum(position.astype(int), knots - 2)
    weights = np.zeros((size, knots), np.float32)
    weights[np.arange(size), low] = 1 - (position - low)
    weights[np.arange(size), low + 1] += position - low
    return weights


def _clouds(rng: np.random.Generator, shape: tuple[int, int], knots: int) -> np.ndarray:
    """Smooth noise with about `knots` bumps a side, unit variance before stretching."""
    grid = rng.standard_normal((knots, knots)).astype(np.float32)
    return np.asarray(_interpolation(shape[0], knots) @ grid @ _interpolation(shape[1], knots).T)


def _soft(x: np.ndarray, width: float) -> np.ndarray:
    """Smooth step: 0 far below zero, 1 far above, about `width` wide."""
    return np.asarray(0.5 * (1 + np.tanh(x / width)))


def _blob(
    x: np.ndarray, y: np.ndarray, cx: float | np.ndarray, cy: float, rx: float, ry: float
) -> np.ndarray:
    return np.asarray(np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2))


def _segment(
    x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every pixel to the segment a-b, and the position along it in [0, 1]."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.hypot(x - a[0] - along * dx, y - a[1] - along * dy), along


def _line(
    x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float], width: float
) -> np.ndarray:
    distance, _ = _segment(x, y, a, b)
    return np.asarray(np.exp(-((distance / width) ** 2)))


def _frame(
    rng: np.random.Generator, height: int, width: int, tilt: float
) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates of every pixel: x and y in about [-1, 1], turned, shifted and zoomed."""
    longer = max(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x = (2 * x + 1 - width) / longer
    y = (2 * y + 1 - height) / longer
    angle = np.deg2rad(rng.normal(0, tilt))
    zoom = rng.uniform(0.92, 1.12)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    dx, dy = rng.normal(0, 0.04, 2)
    return cos * x + sin * y + dx, -sin * x + cos * y + dy


def _expose(rng: np.random.Generator, film: np.ndarray, noise: float) -> np.ndarray:
    """Exposure, contrast, quantum noise and the film's own frame; to uint8."""
    film = film + noise * rng.standard_normal(film.shape).astype(np.float32)
    gain, bias, gamma = rng.uniform(0.75, 1.2), rng.uniform(-0.08, 0.1), rng.uniform(0.75, 1.3)
    film = np.clip(gain * film + bias, 0, 1) ** gamma
    return np.asarray((film * 255).round().astype(np.uint8))


# ---------------------------------------------------------------------------------- chest films


def draw_chest(
    rng: np.random.Generator, case: ChestCase, side: int, view: str = "PA"
) -> np.ndarray:
    """Draw a chest film of a case.

    Args:
        rng: Source of all randomness.
        case: What to show.
        side: Pixels of the longer side.
        view: PA, AP (larger heart shadow, leads more often) or LATERAL.

    Returns:
        The film, (height, width) uint8.
    """
    if view not in ("PA", "AP", "LATERAL"):
        raise ValueError(f"unknown view {view!r}")
    height, width = side, int(side * rng.uniform(0.82, 1.0))
    if rng.random() < 0.25:
        height, width = width, height
    x, y = _frame(rng, height, width, tilt=5.0)
    film = (_lateral if view == "LATERAL" else _frontal)(rng, case, x, y, view)
    film += 0.035 * _clouds(rng, film.shape, 7) + 0.025 * _clouds(rng, film.shape, 14)
    film = _devices(rng, case, film, x, y)
    return _expose(rng, film, noise=0.03)


def _frontal(
    rng: np.random.Generator, case: ChestCase, x: np.ndarray, y: np.ndarray, view: str
) -> np.ndarray:
    found = {finding.name: finding for finding in case.findings}
    squeeze = 0.85 if case.low_volumes else 1.0
    base = {
        "right": 0.62 * squeeze + rng.normal(0, 0.02),
        "left": 0.68 * squeeze + rng.normal(0, 0.02),
    }
    if "Atelectasis" in found:  # volume loss lifts the diaphragm on that side
        base[found["Atelectasis"].side] -= 0.05 + 0.1 * found["Atelectasis"].severity
    lungs = {}
    half = rng.uniform(0.36, 0.42)
    for name, sign in (("right", -1), ("left", 1)):
        # A lung: an ellipse cut below by the dome of the diaphragm.
        cx = sign * (0.42 + rng.normal(0, 0.01))
        body = _soft(1 - ((x - cx) / (half * 0.82)) ** 2 - ((y + 0.02) / 0.82) ** 2, 0.12)
        dome = base[name] - 0.16 * (1 - ((x - cx) / 0.42) ** 2)
        lungs[name] = body * _soft(dome - y, 0.03)
    lung = np.maximum(lungs["left"], lungs["right"])
    body = _soft(1 - (x / 0.98) ** 4 - (np.maximum(-y - 0.55, 0) / 0.6) ** 2, 0.06)
    film = body * (0.62 - 0.40 * lung)
    film += 0.10 * body * _soft(y - 0.62, 0.1) * (1 - lung)  # abdomen
    film += np.maximum(0.2 * _blob(x, y, 0.0, 0.0, 0.14, 2.0), _heart(rng, found, x, y, view))
    film += _ribs(rng, found, x, y, lung)
    vessels = np.abs(_clouds(rng, film.shape, 18)) * _blob(np.abs(x), y, 0.22, 0.1, 0.26, 0.42)
    film += 0.055 * vessels * lung
    for finding in case.findings:
        film += _opacity(rng, finding, x, y, lungs, base)
    return np.asarray(film)


def _heart(
    rng: np.random.Generator, found: dict[str, Finding], x: np.ndarray, y: np.ndarray, view: str
) -> np.ndarray:
    size = rng.normal(1.0, 0.05) * (1.08 if view == "AP" else 1.0)
    if "Cardiomegaly" in found:
        size *= 1.28 + 0.3 * found["Cardiomegaly"].severity
    # An egg whose apex points to the patient's left and down.
    along, across = 0.87 * (x - 0.10) + 0.5 * (y - 0.32), -0.5 * (x - 0.10) + 0.87 * (y - 0.32)
    inside = 1 - (along / (0.36 * size)) ** 2 - (across / (0.25 * size**0.7)) ** 2
    return np.asarray(0.26 * _soft(inside, 0.2) * _soft(0.72 - y, 0.1))


def _ribs(
    rng: np.random.Generator,
    found: dict[str, Finding],
    x: np.ndarray,
    y: np.ndarray,
    lung: np.ndarray,
) -> np.ndarray:
    """Nine pairs of ribs and two clavicles; a broken rib has a step with a bright callus."""
    phase, spacing = rng.uniform(0, 1), rng.uniform(0.17, 0.2)
    height = y + 0.55 * (np.abs(x) - 0.4) ** 2 - 0.18 * np.abs(x)
    extra = np.zeros_like(x)
    if "Fracture" in found:
        finding = found["Fracture"]
        sign = 1 if finding.side == "left" else -1
        cx, cy = sign * rng.uniform(0.56, 0.68), _SITE_Y[finding.site] + rng.normal(0, 0.04)
        near = _blob(x, y, cx, cy, 0.16, 0.16)
        height = height + (0.06 + 0.05 * finding.severity) * near * np.sign(x - cx)
        extra = (0.26 + 0.18 * finding.severity) * _blob(x, y, cx, cy, 0.075, 0.085)
        extra -= 0.24 * _line(x, y, (cx - 0.03, cy - 0.10), (cx + 0.03, cy + 0.10), 0.018)
    waves = np.cos(2 * np.pi * (height / spacing + phase))
    ribs = _soft(waves - 0.55, 0.25) * _soft(0.86 - np.abs(x), 0.08) * _soft(np.abs(x) - 0.12, 0.06)
    clavicle = _line(np.abs(x), y, (0.08, -0.58), (0.75, -0.70), 0.03)
    strength = rng.uniform(0.06, 0.10)
    return np.asarray(strength * ribs * _soft(0.62 - y, 0.08) + 0.11 * clavicle + extra)


def _opacity(
    rng: np.random.Generator,
    finding: Finding,
    x: np.ndarray,
    y: np.ndarray,
    lungs: dict[str, np.ndarray],
    base: dict[str, float],
) -> np.ndarray:
    """What a finding adds to the attenuation inside the lungs."""
    sign = {"left": 1.0, "right": -1.0}.get(finding.side, 0.0)
    amount = 0.17 + 0.17 * finding.severity
    cx = sign * (0.42 + rng.normal(0, 0.03))
    cy = _SITE_Y[finding.site] + rng.normal(0, 0.04)
    if finding.name == "Consolidation":
        blob = _blob(x, y, cx, cy, 0.22, 0.2)
        return np.asarray(1.3 * amount * _soft(blob - 0.45, 0.2) * lungs[finding.side])
    if finding.name == "Pneumonia":
        patches = np.maximum(_clouds(rng, x.shape, 12), 0)
        blob = _blob(x, y, cx, cy, 0.26, 0.26)
        return np.asarray(1.5 * amount * patches * blob * lungs[finding.side])
    if finding.name == "COVID-19":
        lung = np.maximum(lungs["left"], lungs["right"])
        patches = np.maximum(_clouds(rng, x.shape, 9) + 0.3, 0)
        rim = _blob(np.abs(x), y, 0.66, 0.15, 0.16, 0.5)
        return np.asarray(1.3 * amount * patches * rim * lung)
    if finding.name == "Edema":
        lung = np.maximum(lungs["left"], lungs["right"])
        wings = _blob(np.abs(x), y, 0.26, 0.08, 0.26, 0.36)
        streaks = 0.7 + 0.5 * np.abs(_clouds(rng, x.shape, 26))
        return np.asarray(0.9 * amount * wings * streaks * lung)
    if finding.name == "Atelectasis":
        tilt = rng.normal(0.0, 0.06)
        level = base[finding.side] - 0.24
        band = _line(x, y, (cx - 0.22, level - tilt), (cx + 0.22, level + tilt), 0.05)
        return np.asarray((0.20 + 0.16 * finding.severity) * band * lungs[finding.side])
    if finding.name == "Pleural Effusion":
        # The meniscus: fluid climbs along the chest wall.
        level = base[finding.side] - 0.19 - 0.30 * finding.severity
        climb = 0.35 * np.maximum(np.abs(x) - 0.42, 0) ** 1.0
        half = _soft(sign * x - 0.12, 0.03) * _soft(0.82 - np.abs(x), 0.03)
        fluid = _soft(y - level + climb, 0.03) * half * _soft(0.75 - y, 0.05)
        return np.asarray(0.32 * fluid)
    if finding.name == "Pneumothorax":
        # Air outside the lung: no vessels, darker, bounded by the thin pleural line.
        reach = 0.16 + 0.26 * finding.severity
        inner = ((x - sign * 0.34) / 0.36) ** 2 + ((y - 0.1) / (0.85 - reach)) ** 2 - 1
        air = _soft(inner, 0.08) * lungs[finding.side] * _soft(0.25 - y, 0.08)
        edge = np.exp(-((inner / 0.09) ** 2)) * lungs[finding.side] * _soft(0.25 - y, 0.08)
        return np.asarray(0.12 * edge - (0.07 + 0.06 * finding.severity) * air)
    return np.zeros_like(x)  # heart and ribs are drawn with the chest itself


def _lateral(
    rng: np.random.Generator, case: ChestCase, x: np.ndarray, y: np.ndarray, view: str
) -> np.ndarray:
    """A side view: one outline, the spine behind; findings superimpose and lose their side."""
    body = _soft(1 - (x / 0.8) ** 4 - (y / 1.3) ** 4, 0.1)
    lung = _soft(1 - ((x + 0.02) / 0.6) ** 2 - (y / 0.8) ** 2, 0.2) * _soft(0.6 + 0.2 * x - y, 0.04)
    found = {finding.name: finding for finding in case.findings}
    film = body * (0.62 - 0.34 * lung) + 0.16 * _blob(x, y, 0.55 - 0.1 * y, 0, 0.1, 2.0)
    size = 1.25 if "Cardiomegaly" in found else 1.0
    film += 0.22 * _blob(x, y, -0.25, 0.3, 0.26 * size, 0.28 * size) * lung
    discs = _soft(np.cos(2 * np.pi * y / 0.2 + rng.uniform(0, 6)) - 0.3, 0.3)
    film += 0.06 * discs * _blob(x, y, 0.55, 0, 0.09, 1.5)
    for finding in case.findings:
        amount = 0.08 + 0.12 * finding.severity
        if finding.name in ("Consolidation", "Pneumonia", "COVID-19", "Edema"):
            film += amount * _blob(x, y, rng.normal(0, 0.15), _SITE_Y[finding.site], 0.24, 0.22)
        elif finding.name == "Pleural Effusion":
            film += 0.2 * _soft(y - 0.45 + 0.25 * finding.severity - 0.2 * x, 0.05) * body
        elif finding.name == "Atelectasis":
            film += amount * _line(x, y, (-0.2, 0.4), (0.3, 0.32), 0.04)
    return np.asarray(film)


def _devices(
    rng: np.random.Generator, case: ChestCase, film: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    if case.device == "pacemaker":
        film += 0.5 * _soft(_blob(x, y, 0.6, -0.5, 0.1, 0.08) - 0.4, 0.1)
        film += 0.3 * _line(x, y, (0.55, -0.45), (0.08, -0.2), 0.012)
        film += 0.3 * _line(x, y, (0.08, -0.2), (0.14, 0.45), 0.012)
    elif case.device == "central line":
        film += 0.3 * _line(x, y, (-0.5, -0.75), (-0.08, -0.4), 0.011)
        film += 0.3 * _line(x, y, (-0.08, -0.4), (-0.05, 0.0), 0.011)
    elif case.device == "tube":
        film += 0.22 * _line(x, y, (0.0, -0.95), (0.0, -0.35), 0.02)
    elif case.device == "leads":
        for _ in range(3):
            cx, cy = rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5)
            film += 0.45 * _soft(_blob(x, y, cx, cy, 0.03, 0.03) - 0.4, 0.15)
            film += 0.2 * _line(x, y, (cx, cy), (cx + rng.normal(0, 0.3), 0.95), 0.01)
    if rng.random() < 0.7:  # the technician's marker, on the patient's left
        film += 0.5 * _soft(_blob(x, y, 0.82, -0.82, 0.035, 0.05) - 0.4, 0.15)
    return film


# ---------------------------------------------------------------------------------- chest reports

_PHRASES: dict[str, tuple[str, ...]] = {
    "Atelectasis": (
        "There is {grade} {side} basilar atelectasis.",
        "Linear opacity at the {side} lung base, compatible with {grade} atelectasis.",
        "{Grade} volume loss at the {side} base with plate-like atelectasis.",
    ),
    "Cardiomegaly": (
        "The heart is {graded} enlarged.",
        "There is {grade} cardiomegaly.",
        "The cardiac silhouette shows {grade} enlargement.",
    ),
    "Consolidation": (
        "There is a {grade} consolidation in the {side} {site} lung.",
        "Dense airspace opacity in the {side} {site} zone, consistent with {grade} consolidation.",
        "{Grade} focal consolidation of the {side} {site} lung zone is seen.",
    ),
    "Edema": (
        "There is {grade} pulmonary edema.",
        "Perihilar haze with vascular indistinctness, consistent with {grade} interstitial edema.",
        "{Grade} pulmonary vascular congestion and edema.",
    ),
    "Fracture": (
        "A displaced {side} rib fracture is seen in the {site} chest.",
        "There is a fracture of a {side} {site} rib with callus.",
        "{Side} {site} rib fracture, {gradedly} displaced.",
    ),
    "Pleural Effusion": (
        "There is a {size} {side} pleural effusion.",
        "{Size} effusion on the {side} with blunting of the costophrenic angle.",
        "Layering {side} pleural fluid, {size} in amount.",
    ),
    "Pneumonia": (
        "Patchy opacities in the {side} {site} lung are concerning for {grade} pneumonia.",
        "{Grade} {side} {site} lobe pneumonia.",
        "Heterogeneous {side} {site} opacity, likely {grade} pneumonia.",
    ),
    "Pneumothorax": (
        "There is a {size} {side} apical pneumothorax.",
        "{Size} {side} pneumothorax with a visible pleural line.",
        "A {side} pneumothorax is present, {size} in extent.",
    ),
    "COVID-19": (
        "{Grade} bilateral peripheral ground glass opacities.",
        "Bilateral peripheral opacities, {grade}, suspicious for viral infection.",
        "There are {grade} multifocal opacities in the periphery of both lungs.",
    ),
}
_NORMAL = (
    "No acute cardiopulmonary process.",
    "The lungs are clear.",
    "Heart size is normal and the lungs are well expanded and clear.",
    "Normal chest radiograph.",
)
_NEGATIVE = {
    "Pleural Effusion": "There is no pleural effusion.",
    "Pneumothorax": "No pneumothorax is seen.",
    "Cardiomegaly": "The heart size is normal.",
    "Consolidation": "No focal consolidation.",
    "Fracture": "No displaced rib fracture.",
}
_DEVICE_PHRASES = {
    "pacemaker": "A left pectoral pacemaker is in place with its leads in expected position.",
    "central line": "A right central venous line ends in the superior vena cava.",
    "leads": "Overlying monitoring leads are noted.",
    "tube": "The endotracheal tube ends above the carina.",
}
_IRRELEVANT = (
    "Comparison is made to the prior study of ___.",
    "These findings were discussed with Dr. ___ at the time of review.",
    "Degenerative changes of the thoracic spine are again noted.",
    "Clinical correlation is recommended.",
)


def _say(phrase: str, finding: Finding) -> str:
    sizes = {"mild": "small", "moderate": "moderate", "severe": "large"}
    words = {
        "grade": finding.grade,
        "graded": finding.grade + "ly",
        "gradedly": finding.grade + "ly",
        "size": sizes[finding.grade],
        "side": finding.side,
        "site": finding.site,
    }
    return phrase.format(
        **words, **{key.capitalize(): word.capitalize() for key, word in words.items()}
    )


def chest_report(rng: np.random.Generator, case: ChestCase) -> tuple[str, str]:
    """Write the findings and the impression of a case; either may be an empty string."""
    body = [_say(_PHRASES[f.name][rng.integers(3)], f) for f in case.findings]
    if not case.findings:
        body.append(_NORMAL[rng.integers(1, 4)])
    if case.device != "none" and rng.random() < 0.85:
        body.append(_DEVICE_PHRASES[case.device])
    if case.low_volumes and rng.random() < 0.6:
        body.append("Lung volumes are low.")
    absent = [name for name in _NEGATIVE if name not in case.labels]
    if rng.random() < 0.35:
        body.append(_NEGATIVE[absent[rng.integers(len(absent))]])
    if rng.random() < 0.2:
        body.append(_IRRELEVANT[rng.integers(len(_IRRELEVANT))])
    body = [body[i] for i in rng.permutation(len(body))]
    impression = [_say(_PHRASES[f.name][rng.integers(3)], f) for f in case.findings]
    if not impression:
        impression = [_NORMAL[rng.integers(4)]]
    if rng.random() < 0.12:
        return "", " ".join(impression)
    if rng.random() < 0.25:
        return " ".join(body), ""
    return " ".join(body), " ".join(impression)


_QUERIES: dict[str, tuple[str, ...]] = {
    "No Finding": (
        "The lungs are clear.",
        "Normal chest radiograph.",
        "No acute cardiopulmonary process.",
        "Heart size is normal and the lungs are clear.",
        "No abnormality is seen in the chest.",
    ),
    "Cardiomegaly": (
        "The heart is severely enlarged.",
        "There is moderate cardiomegaly.",
        "The cardiac silhouette is enlarged.",
        "Marked enlargement of the heart.",
        "The heart is mildly enlarged.",
    ),
    "Edema": (
        "There is severe pulmonary edema.",
        "Perihilar haze is present, consistent with interstitial edema.",
        "Moderate pulmonary vascular congestion and edema.",
        "Pulmonary edema is present in both lungs.",
        "The vessels are indistinct because of edema.",
    ),
    "Pneumonia": (
        "Patchy opacities in the left lower lung are concerning for pneumonia.",
        "There is a right lower lobe pneumonia.",
        "Heterogeneous left mid opacity, likely pneumonia.",
        "Findings suggest a right upper lobe pneumonia.",
        "Patchy right mid lung opacity due to pneumonia.",
    ),
    "Atelectasis": (
        "There is left basilar atelectasis.",
        "Linear opacity at the right lung base, compatible with atelectasis.",
        "Plate-like atelectasis at the left base.",
        "Volume loss at the right base with atelectasis.",
        "Moderate right basilar atelectasis is seen.",
    ),
    "Pneumothorax": (
        "There is a large left apical pneumothorax.",
        "A right pneumothorax is present.",
        "Moderate left pneumothorax with a visible pleural line.",
        "A right apical pneumothorax is seen.",
        "Pneumothorax at the left lung apex.",
    ),
    "Pleural Effusion": (
        "There is a large right pleural effusion.",
        "Moderate effusion on the left with blunting of the costophrenic angle.",
        "Layering right pleural fluid.",
        "A left pleural effusion is present.",
        "Pleural fluid blunts the right costophrenic angle.",
    ),
    "Fracture": (
        "A displaced left rib fracture is seen.",
        "There is a fracture of a right lower rib.",
        "Right upper rib fracture with callus.",
        "A left mid rib fracture is present.",
        "Displaced fracture of a right rib.",
    ),
}


def text_query(label: str, i: int) -> str:
    """The i-th of five sentences that describe one of the eight retrieval classes."""
    return _QUERIES[label][i]


# ---------------------------------------------------------------------------------- limbs

Bone = tuple[tuple[float, float], tuple[float, float], float]  # from, to, half width


def _bones(part: str) -> list[Bone]:
    """The bones of a body part, longest first, in film coordinates."""
    if part == "FOREARM":
        return [((-0.14, -0.85), (-0.16, 0.75), 0.09), ((0.16, -0.8), (0.13, 0.75), 0.08)]
    if part == "HUMERUS":
        return [((0.0, -0.7), (0.02, 0.95), 0.13), ((-0.02, -0.78), (0.06, -0.7), 0.22)]
    if part == "ELBOW":
        return [
            ((0.0, -0.95), (0.0, -0.08), 0.13),
            ((-0.12, 0.1), (-0.15, 0.95), 0.09),
            ((0.12, 0.12), (0.15, 0.95), 0.08),
            ((-0.12, -0.05), (0.14, -0.05), 0.12),
        ]
    if part == "SHOULDER":
        return [
            ((0.1, 0.0), (0.3, 0.95), 0.13),
            ((-0.75, -0.45), (0.15, -0.5), 0.06),
            ((-0.3, -0.1), (-0.55, 0.7), 0.13),
            ((0.08, -0.12), (0.14, -0.08), 0.21),
        ]
    if part == "FINGER":
        return [
            ((0.0, 0.2), (0.0, 0.9), 0.11),
            ((0.0, -0.4), (0.0, 0.08), 0.1),
            ((0.0, -0.8), (0.0, -0.5), 0.08),
        ]
    if part == "WRIST":
        fan = [((0.11 * i, -0.15), (0.2 * i, -0.9), 0.05) for i in (-2, -1, 0, 1, 2)]
        carpus = [((0.13 * i, 0.0), (0.13 * i + 0.03, 0.08), 0.07) for i in (-1, 0, 1)]
        return [
            ((-0.13, 0.25), (-0.16, 0.95), 0.12),
            ((0.17, 0.27), (0.15, 0.95), 0.09),
            *fan,
            *carpus,
        ]
    bones: list[Bone] = []  # HAND
    for i, reach in zip((-2, -1, 0, 1, 2), (0.55, 0.85, 0.92, 0.86, 0.7), strict=True):
        foot, knuckle = (0.09 * i, 0.55), (0.19 * i, 0.08)
        middle, tip = (0.25 * i, 0.08 - 0.55 * reach), (0.28 * i, 0.08 - 0.95 * reach)
        bones += [(foot, knuckle, 0.05), (knuckle, middle, 0.045), (middle, tip, 0.035)]
    return [*bones, ((-0.14, 0.75), (-0.15, 0.98), 0.11), ((0.12, 0.75), (0.13, 0.98), 0.09)]


_LIMB_FINDINGS = ("fracture", "lesion", "degenerative", "osteopenia")
_LIMB_SITES = ("proximal", "mid", "distal")


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


def draw_limb(rng: np.random.Generator, case: LimbCase, side: int) -> np.ndarray:
    """Draw a limb film, (height, width) uint8, `side` pixels on its longer side."""
    height, width = side, int(side * rng.uniform(0.7, 1.0))
    x, y = _frame(rng, height, width, tilt=9.0)
    if rng.random() < 0.5:
        x = -x
    found = {finding.name: finding for finding in case.findings}
    bones = _bones(case.part)
    soft = np.full_like(x, 9.0)
    film = np.zeros_like(x)
    thin = 0.55 * found["osteopenia"].severity + 0.35 if "osteopenia" in found else 0.0
    for index, (a, b, half) in enumerate(bones):
        half = half * rng.uniform(0.92, 1.08)
        bx, by = x, y
        if index == 0:
            bx, by = _displace(rng, found.get("fracture"), x, y, a, b)
        distance, along = _segment(bx, by, a, b)
        flare = half * (1 + 0.25 * (2 * along - 1) ** 2)
        inside = _soft(flare - distance, 0.02)
        cortex = np.exp(-(((flare - distance) / (0.3 * half)) ** 2))
        film = np.maximum(
            film, inside * (0.30 - 0.10 * thin) + (0.26 - 0.20 * thin) * cortex * inside
        )
        soft = np.minimum(soft, distance - 2.2 * half)
        if index == 0:
            film += _bone_finding(rng, found, x, y, a, b, half)
    film += 0.22 * _soft(0.12 - soft, 0.06)
    if case.extra == "cast":
        film += 0.06 * _soft(0.3 - soft, 0.03) + 0.03 * np.abs(_clouds(rng, film.shape, 30))
    elif case.extra == "marker":
        film += 0.5 * _soft(_blob(x, y, 0.6, -0.75, 0.05, 0.08) - 0.4, 0.15)
    elif case.extra == "ring":
        cx, cy = rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.5)
        film += 0.45 * np.exp(-(((np.hypot((x - cx) / 1.4, y - cy) - 0.09) / 0.02) ** 2))
    film += 0.05 + 0.03 * _clouds(rng, film.shape, 7) + 0.025 * _clouds(rng, film.shape, 15)
    return _expose(rng, film, noise=0.03)


def _along(finding: Finding) -> float:
    return {"proximal": 0.28, "mid": 0.5, "distal": 0.72}[finding.site]


def _displace(
    rng: np.random.Generator,
    finding: Finding | None,
    x: np.ndarray,
    y: np.ndarray,
    a: tuple[float, float],
    b: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Shift the bone beyond a fracture sideways: the step that a displaced fracture shows."""
    if finding is None:
        return x, y
    _, along = _segment(x, y, a, b)
    shift = (0.03 + 0.07 * finding.severity) * rng.choice((-1.0, 1.0))
    return x + shift * _soft(along - _along(finding), 0.01), y


def _bone_finding(
    rng: np.random.Generator,
    found: dict[str, Finding],
    x: np.ndarray,
    y: np.ndarray,
    a: tuple[float, float],
    b: tuple[float, float],
    half: float,
) -> np.ndarray:
    """Lucent line, lysis or spurs on the main bone."""
    film = np.zeros_like(x)

    def at(fraction: float) -> tuple[float, float]:
        return a[0] + fraction * (b[0] - a[0]), a[1] + fraction * (b[1] - a[1])

    if finding := found.get("fracture"):
        cx, cy = at(_along(finding))
        tilt = rng.uniform(-0.1, 0.1)
        gap = _line(x, y, (cx - 1.4 * half, cy - tilt), (cx + 1.4 * half, cy + tilt), 0.022)
        film -= (0.22 + 0.15 * finding.severity) * gap
    if finding := found.get("lesion"):
        cx, cy = at(_along(finding) + rng.normal(0, 0.03))
        radius = half * (0.65 + 0.5 * finding.severity)
        film -= 0.24 * _blob(x, y, cx, cy, radius, 1.3 * radius)
    if finding := found.get("degenerative"):
        cx, cy = at(0.02 if rng.random() < 0.5 else 0.98)
        for sign in (-1, 1):
            spur = _blob(x, y, cx + sign * 1.25 * half, cy, 0.05, 0.045)
            film += (0.16 + 0.16 * finding.severity) * spur
        film += 0.14 * _line(x, y, (cx - half, cy), (cx + half, cy), 0.03)
    return film


_LIMB_PHRASES: dict[str, tuple[str, ...]] = {
    "fracture": (
        "There is a {graded} displaced fracture of the {site} {bone}.",
        "{Site} {bone} fracture with {grade} displacement.",
        "A transverse lucency through the {site} {bone} represents a {grade} fracture.",
    ),
    "lesion": (
        "There is a {size} lytic lesion in the {site} {bone}.",
        "{Size} lucent bone lesion of the {site} {bone}.",
        "A {size} area of bone destruction is seen in the {site} {bone}.",
    ),
    "degenerative": (
        "There are {grade} degenerative changes of the {joint} with osteophytes.",
        "{Grade} osteoarthritis of the {joint}.",
        "Osteophytes and sclerosis at the {joint}, {grade}.",
    ),
    "osteopenia": (
        "The bones are {graded} osteopenic.",
        "There is {grade} diffuse osteopenia of the {joint}.",
        "{Grade} demineralization of the {bone}.",
    ),
}
_LIMB_NORMAL = (
    "Normal radiograph of the {joint}.",
    "No fracture or dislocation of the {joint}.",
    "The {bone} is intact and the joint spaces are preserved.",
    "No osseous abnormality of the {joint}.",
)


def limb_report(rng: np.random.Generator, case: LimbCase) -> str:
    """Write the report of a limb case, a few sentences."""
    bones = {
        "ELBOW": "humerus",
        "FINGER": "phalanx",
        "FOREARM": "radius",
        "HAND": "metacarpal",
        "HUMERUS": "humerus",
        "SHOULDER": "humerus",
        "WRIST": "radius",
    }
    words = {"bone": bones[case.part], "joint": case.part.lower()}

    def say(phrase: str, finding: Finding | None) -> str:
        text = phrase.replace("{bone}", words["bone"]).replace("{joint}", words["joint"])
        return _say(text, finding) if finding else text

    body = [say(_LIMB_PHRASES[f.name][rng.integers(3)], f) for f in case.findings]
    body += [say(_LIMB_PHRASES[f.name][rng.integers(3)], f) for f in case.findings]
    if not case.findings:
        first, second = rng.choice(4, size=2, replace=False)
        body += [say(_LIMB_NORMAL[first], None), say(_LIMB_NORMAL[second], None)]
    if case.extra == "cast" and rng.random() < 0.7:
        body.append("Overlying cast material obscures fine bony detail.")
    if rng.random() < 0.3:
        body.append(f"Two views of the {words['joint']} were obtained.")
    if rng.random() < 0.15:
        body.append("Comparison is made to the prior study of ___.")
    return " ".join(dict.fromkeys(body))
