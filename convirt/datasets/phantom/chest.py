"""Drawing made-up chest films."""

from __future__ import annotations

import numpy as np

from convirt.datasets.phantom.case import ChestCase, Finding
from convirt.datasets.phantom.tools import blob, clouds, expose, frame, line, soft

_SITE_Y = {"upper": -0.42, "mid": -0.02, "lower": 0.36}


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
    x, y = frame(rng, height, width, tilt=5.0)
    film = (_lateral if view == "LATERAL" else _frontal)(rng, case, x, y, view)
    film += 0.035 * clouds(rng, film.shape, 7) + 0.025 * clouds(rng, film.shape, 14)
    film = _devices(rng, case, film, x, y)
    return expose(rng, film, noise=0.03)


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
        body = soft(1 - ((x - cx) / (half * 0.82)) ** 2 - ((y + 0.02) / 0.82) ** 2, 0.12)
        dome = base[name] - 0.16 * (1 - ((x - cx) / 0.42) ** 2)
        lungs[name] = body * soft(dome - y, 0.03)
    lung = np.maximum(lungs["left"], lungs["right"])
    body = soft(1 - ((x / 0.98) ** 2) ** 2 - (np.maximum(-y - 0.55, 0) / 0.6) ** 2, 0.06)
    film = body * (0.62 - 0.40 * lung)
    film += 0.10 * body * soft(y - 0.62, 0.1) * (1 - lung)  # abdomen
    film += np.maximum(0.2 * blob(x, y, 0.0, 0.0, 0.14, 2.0), _heart(rng, found, x, y, view))
    film += _ribs(rng, found, x, y, lung)
    vessels = np.abs(clouds(rng, film.shape, 18)) * blob(np.abs(x), y, 0.22, 0.1, 0.26, 0.42)
    film += 0.055 * vessels * lung
    for finding in case.findings:
        film += _opacity(rng, finding, x, y, lungs, base)
    return np.asarray(film)


def _heart(
    rng: np.random.Generator, found: dict[str, Finding], x: np.ndarray, y: np.ndarray, view: str
) -> np.ndarray:
    size = rng.normal(1.0, 0.05) * (1.08 if view == "AP" else 1.0)
    if "Cardiomegaly" in found:
        size *= 1.34 + 0.3 * found["Cardiomegaly"].severity
    # An egg whose apex points to the patient's left and down.
    along, across = 0.87 * (x - 0.10) + 0.5 * (y - 0.32), -0.5 * (x - 0.10) + 0.87 * (y - 0.32)
    inside = 1 - (along / (0.36 * size)) ** 2 - (across / (0.25 * size**0.7)) ** 2
    return np.asarray(0.26 * soft(inside, 0.2) * soft(0.72 - y, 0.1))


def _ribs(
    rng: np.random.Generator,
    found: dict[str, Finding],
    x: np.ndarray,
    y: np.ndarray,
    lung: np.ndarray,
) -> np.ndarray:
    """About nine pairs of ribs and two clavicles; a broken rib has a step with a bright callus."""
    phase, spacing = rng.uniform(0, 1), rng.uniform(0.17, 0.2)
    height = y + 0.55 * (np.abs(x) - 0.4) ** 2 - 0.18 * np.abs(x)
    extra = np.zeros_like(x)
    if "Fracture" in found:
        finding = found["Fracture"]
        sign = 1 if finding.side == "left" else -1
        cx, cy = sign * rng.uniform(0.56, 0.68), _SITE_Y[finding.site] + rng.normal(0, 0.04)
        near = blob(x, y, cx, cy, 0.16, 0.16)
        height = height + (0.06 + 0.05 * finding.severity) * near * np.sign(x - cx)
        extra = (0.36 + 0.18 * finding.severity) * blob(x, y, cx, cy, 0.085, 0.095)
        extra -= 0.24 * line(x, y, (cx - 0.03, cy - 0.10), (cx + 0.03, cy + 0.10), 0.018)
    waves = np.cos(2 * np.pi * (height / spacing + phase))
    ribs = soft(waves - 0.55, 0.25) * soft(0.86 - np.abs(x), 0.08) * soft(np.abs(x) - 0.12, 0.06)
    clavicle = line(np.abs(x), y, (0.08, -0.58), (0.75, -0.70), 0.03)
    strength = rng.uniform(0.06, 0.10)
    return np.asarray(strength * ribs * soft(0.62 - y, 0.08) + 0.11 * clavicle + extra)


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
        area = blob(x, y, cx, cy, 0.22, 0.2)
        return np.asarray(1.3 * amount * soft(area - 0.45, 0.2) * lungs[finding.side])
    if finding.name == "Pneumonia":
        patches = np.maximum(clouds(rng, x.shape, 12), 0)
        area = blob(x, y, cx, cy, 0.26, 0.26)
        return np.asarray(2.1 * amount * patches * area * lungs[finding.side])
    if finding.name == "COVID-19":
        lung = np.maximum(lungs["left"], lungs["right"])
        patches = np.maximum(clouds(rng, x.shape, 9) + 0.3, 0)
        rim = blob(np.abs(x), y, 0.66, 0.15, 0.16, 0.5)
        return np.asarray(1.8 * amount * patches * rim * lung)
    if finding.name == "Edema":
        lung = np.maximum(lungs["left"], lungs["right"])
        wings = blob(np.abs(x), y, 0.26, 0.08, 0.26, 0.36)
        streaks = 0.7 + 0.5 * np.abs(clouds(rng, x.shape, 26))
        return np.asarray(0.9 * amount * wings * streaks * lung)
    if finding.name == "Atelectasis":
        tilt = rng.normal(0.0, 0.06)
        level = base[finding.side] - 0.24
        band = line(x, y, (cx - 0.22, level - tilt), (cx + 0.22, level + tilt), 0.05)
        return np.asarray((0.26 + 0.16 * finding.severity) * band * lungs[finding.side])
    if finding.name == "Pleural Effusion":
        # The meniscus: fluid replaces the lung's air from below and climbs along the chest wall.
        level = base[finding.side] - 0.22 - 0.30 * finding.severity
        climb = 0.35 * np.maximum(np.abs(x) - 0.42, 0)
        return np.asarray(0.34 * soft(y - level + climb, 0.03) * lungs[finding.side])
    if finding.name == "Pneumothorax":
        # Air outside the lung: no vessels, darker, bounded by the thin pleural line.
        reach = 0.16 + 0.26 * finding.severity
        inner = ((x - sign * 0.34) / 0.36) ** 2 + ((y - 0.1) / (0.85 - reach)) ** 2 - 1
        air = soft(inner, 0.08) * lungs[finding.side] * soft(0.25 - y, 0.08)
        edge = np.exp(-((inner / 0.09) ** 2)) * lungs[finding.side] * soft(0.25 - y, 0.08)
        return np.asarray(0.16 * edge - (0.10 + 0.06 * finding.severity) * air)
    return np.zeros_like(x)  # heart and ribs are drawn with the chest itself


def _lateral(
    rng: np.random.Generator, case: ChestCase, x: np.ndarray, y: np.ndarray, view: str
) -> np.ndarray:
    """A lateral view: one outline with the spine behind; findings overlap and lose their side."""
    body = soft(1 - ((x / 0.8) ** 2) ** 2 - ((y / 1.3) ** 2) ** 2, 0.1)
    lung = soft(1 - ((x + 0.02) / 0.6) ** 2 - (y / 0.8) ** 2, 0.2) * soft(0.6 + 0.2 * x - y, 0.04)
    found = {finding.name: finding for finding in case.findings}
    film = body * (0.62 - 0.34 * lung) + 0.16 * blob(x, y, 0.55 - 0.1 * y, 0, 0.1, 2.0)
    size = 1.25 if "Cardiomegaly" in found else 1.0
    film += 0.22 * blob(x, y, -0.25, 0.3, 0.26 * size, 0.28 * size) * lung
    discs = soft(np.cos(2 * np.pi * y / 0.2 + rng.uniform(0, 6)) - 0.3, 0.3)
    film += 0.06 * discs * blob(x, y, 0.55, 0, 0.09, 1.5)
    for finding in case.findings:
        amount = 0.08 + 0.12 * finding.severity
        if finding.name in ("Consolidation", "Pneumonia", "COVID-19", "Edema"):
            film += amount * blob(x, y, rng.normal(0, 0.15), _SITE_Y[finding.site], 0.24, 0.22)
        elif finding.name == "Pleural Effusion":
            film += 0.2 * soft(y - 0.45 + 0.25 * finding.severity - 0.2 * x, 0.05) * body
        elif finding.name == "Atelectasis":
            film += amount * line(x, y, (-0.2, 0.4), (0.3, 0.32), 0.04)
        elif finding.name == "Fracture":
            film += 0.3 * blob(x, y, 0.3, _SITE_Y[finding.site], 0.08, 0.09) * lung
        elif finding.name == "Pneumothorax":
            film -= 0.14 * blob(x, y, -0.05, -0.6, 0.4, 0.2) * lung
    return np.asarray(film)


def _devices(
    rng: np.random.Generator, case: ChestCase, film: np.ndarray, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    if case.device == "pacemaker":
        film += 0.5 * soft(blob(x, y, 0.6, -0.5, 0.1, 0.08) - 0.4, 0.1)
        film += 0.3 * line(x, y, (0.55, -0.45), (0.08, -0.2), 0.012)
        film += 0.3 * line(x, y, (0.08, -0.2), (0.14, 0.45), 0.012)
    elif case.device == "central line":
        film += 0.3 * line(x, y, (-0.5, -0.75), (-0.08, -0.4), 0.011)
        film += 0.3 * line(x, y, (-0.08, -0.4), (-0.05, 0.0), 0.011)
    elif case.device == "tube":
        film += 0.22 * line(x, y, (0.0, -0.95), (0.0, -0.35), 0.02)
    elif case.device == "leads":
        for _ in range(3):
            cx, cy = rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5)
            film += 0.45 * soft(blob(x, y, cx, cy, 0.03, 0.03) - 0.4, 0.15)
            film += 0.2 * line(x, y, (cx, cy), (cx + rng.normal(0, 0.3), 0.95), 0.01)
    if rng.random() < 0.7:  # the technician's marker, on the patient's left
        film += 0.5 * soft(blob(x, y, 0.82, -0.82, 0.035, 0.05) - 0.4, 0.15)
    return film
