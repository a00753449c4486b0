"""Drawing made-up limb films."""

from __future__ import annotations

import numpy as np

from convirt.datasets.phantom.case import Finding, LimbCase
from convirt.datasets.phantom.tools import blob, clouds, expose, frame, line, segment, soft

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


def draw_limb(rng: np.random.Generator, case: LimbCase, side: int) -> np.ndarray:
    """Draw a limb film, (height, width) uint8, `side` pixels on its longer side."""
    height, width = side, int(side * rng.uniform(0.7, 1.0))
    x, y = frame(rng, height, width, tilt=9.0)
    if rng.random() < 0.5:
        x = -x
    found = {finding.name: finding for finding in case.findings}
    bones = _bones(case.part)
    skin = np.full_like(x, 9.0)
    film = np.zeros_like(x)
    thin = 0.55 * found["osteopenia"].severity + 0.35 if "osteopenia" in found else 0.0
    for index, (a, b, half) in enumerate(bones):
        half = half * rng.uniform(0.92, 1.08)
        bx, by = x, y
        if index == 0:
            bx, by = _displace(rng, found.get("fracture"), x, y, a, b)
        distance, along = segment(bx, by, a, b)
        flare = half * (1 + 0.25 * (2 * along - 1) ** 2)
        inside = soft(flare - distance, 0.02)
        cortex = np.exp(-(((flare - distance) / (0.3 * half)) ** 2))
        film = np.maximum(
            film, inside * (0.30 - 0.10 * thin) + (0.26 - 0.20 * thin) * cortex * inside
        )
        skin = np.minimum(skin, distance - 2.2 * half)
        if index == 0:
            film += _bone_finding(rng, found, x, y, a, b, half)
    film += 0.22 * soft(0.12 - skin, 0.06)
    if case.extra == "cast":
        film += 0.06 * soft(0.3 - skin, 0.03) + 0.03 * np.abs(clouds(rng, film.shape, 30))
    elif case.extra == "marker":
        film += 0.5 * soft(blob(x, y, 0.6, -0.75, 0.05, 0.08) - 0.4, 0.15)
    elif case.extra == "ring":
        cx, cy = rng.uniform(-0.3, 0.3), rng.uniform(-0.5, 0.5)
        film += 0.45 * np.exp(-(((np.hypot((x - cx) / 1.4, y - cy) - 0.09) / 0.02) ** 2))
    film += 0.05 + 0.03 * clouds(rng, film.shape, 7) + 0.025 * clouds(rng, film.shape, 15)
    return expose(rng, film, noise=0.03)


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
    """Shift the bone sideways beyond a fracture: the step of a displaced fracture."""
    if finding is None:
        return x, y
    _, along = segment(x, y, a, b)
    shift = (0.05 + 0.08 * finding.severity) * rng.choice((-1.0, 1.0))
    return x + shift * soft(along - _along(finding), 0.01), y


def _bone_finding(
    rng: np.random.Generator,
    found: dict[str, Finding],
    x: np.ndarray,
    y: np.ndarray,
    a: tuple[float, float],
    b: tuple[float, float],
    half: float,
) -> np.ndarray:
    """What findings add to the main bone: a lucent line, lysis or spurs."""
    film = np.zeros_like(x)

    def at(fraction: float) -> tuple[float, float]:
        return a[0] + fraction * (b[0] - a[0]), a[1] + fraction * (b[1] - a[1])

    if finding := found.get("fracture"):
        cx, cy = at(_along(finding))
        tilt = rng.uniform(-0.1, 0.1)
        gap = line(x, y, (cx - 1.4 * half, cy - tilt), (cx + 1.4 * half, cy + tilt), 0.03)
        film -= (0.26 + 0.15 * finding.severity) * gap
    if finding := found.get("lesion"):
        cx, cy = at(_along(finding) + rng.normal(0, 0.03))
        radius = half * (0.65 + 0.5 * finding.severity)
        film -= 0.30 * blob(x, y, cx, cy, radius, 1.3 * radius)
    if finding := found.get("degenerative"):
        cx, cy = at(0.04 if abs(a[1]) < abs(b[1]) else 0.96)  # the end that lies on the film
        for sign in (-1, 1):
            spur = blob(x, y, cx + sign * 1.25 * half, cy, 0.06, 0.055)
            film += (0.24 + 0.18 * finding.severity) * spur
        film += 0.14 * line(x, y, (cx - half, cy), (cx + half, cy), 0.03)
    return film
