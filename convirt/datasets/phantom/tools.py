"""Shapes and noise from which films are drawn, as attenuation: air 0, bone towards 1."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=64)
def interpolation(size: int, knots: int) -> np.ndarray:
    """Matrix (size, knots) that stretches `knots` values linearly over `size` pixels."""
    position = np.linspace(0, knots - 1, size)
    low = np.minimum(position.astype(int), knots - 2)
    weights = np.zeros((size, knots), np.float32)
    weights[np.arange(size), low] = 1 - (position - low)
    weights[np.arange(size), low + 1] += position - low
    return weights


def clouds(rng: np.random.Generator, shape: tuple[int, int], knots: int) -> np.ndarray:
    """Smooth noise with about `knots` bumps per side, of unit variance before stretching."""
    grid = rng.standard_normal((knots, knots)).astype(np.float32)
    return np.asarray(interpolation(shape[0], knots) @ grid @ interpolation(shape[1], knots).T)


def soft(x: np.ndarray, width: float) -> np.ndarray:
    """Smooth step, about `width` wide: 0 for x far below zero, 1 for x far above."""
    return np.asarray(0.5 * (1 + np.tanh(x / width)))


def blob(
    x: np.ndarray, y: np.ndarray, cx: float | np.ndarray, cy: float, rx: float, ry: float
) -> np.ndarray:
    """Gaussian spot at (cx, cy) with radii rx, ry; 1 at its centre."""
    return np.asarray(np.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2))


def segment(
    x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distance of every pixel to the segment a-b, and the position along it in [0, 1]."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    across, up = x - a[0] - along * dx, y - a[1] - along * dy
    return np.sqrt(across * across + up * up), along  # np.hypot takes five times as long


def line(
    x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float], width: float
) -> np.ndarray:
    """Soft line from a to b with half-width `width`; 1 on the line."""
    distance, _ = segment(x, y, a, b)
    return np.asarray(np.exp(-((distance / width) ** 2)))


def frame(
    rng: np.random.Generator, height: int, width: int, tilt: float
) -> tuple[np.ndarray, np.ndarray]:
    """Body coordinates of every pixel: x and y in about [-1, 1], rotated, shifted and zoomed."""
    longer = max(height, width)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x = (2 * x + 1 - width) / longer
    y = (2 * y + 1 - height) / longer
    angle = np.deg2rad(rng.normal(0, tilt))
    zoom = rng.uniform(0.92, 1.12)
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    dx, dy = rng.normal(0, 0.04, 2)
    turned = cos * x + sin * y + dx, -sin * x + cos * y + dy
    # numpy's scalars have turned them into doubles, with which all that follows takes twice as long
    return turned[0].astype(np.float32), turned[1].astype(np.float32)


def expose(rng: np.random.Generator, film: np.ndarray, noise: float) -> np.ndarray:
    """Add quantum noise, exposure and contrast, and convert to uint8."""
    film = film + noise * rng.standard_normal(film.shape).astype(np.float32)
    gain, bias, gamma = rng.uniform(0.75, 1.2), rng.uniform(-0.08, 0.1), rng.uniform(0.75, 1.3)
    film = np.clip(gain * film + bias, 0, 1) ** gamma
    return np.asarray((film * 255).round().astype(np.uint8))
