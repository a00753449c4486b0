"""The batched transforms against slow and third-party ones, and what is drawn for them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from tiny_models import PAPER
from torch import Tensor
from torch.nn.functional import interpolate

from convirt import augment
from convirt.augment import Draws

S = 24  # side of a stored image here


def films(n: int, side: int = S, seed: int = 0) -> Tensor:
    """Noise, (n, side, side) uint8."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (n, side, side)).astype(np.uint8))


def smooth(n: int, side: int = S) -> Tensor:
    """Noise without sharp edges, (n, 1, side, side) in [0, 1]."""
    return interpolate(films(n, 6).unsqueeze(1).float() / 255, (side, side), mode="bilinear")


def geometry(**values: Any) -> np.ndarray:
    """`compose` for one sample; by default the identity on a whole square."""
    known = {
        "cx": S / 2,
        "cy": S / 2,
        "crop_w": S,
        "crop_h": S,
        "flip": 1.0,
        "angle": 0.0,
        "tx": 0.0,
        "ty": 0.0,
        "zoom": 1.0,
    }
    assert set(values) <= set(known)
    arrays = {key: np.array([float(value)]) for key, value in (known | values).items()}
    return augment.compose(**arrays, stored=S)


def neutral(theta: np.ndarray) -> Draws:
    """Draws of a geometry alone: no jitter, and a blur too narrow to blur."""
    n = len(theta)
    ones = torch.ones(n)
    first = torch.zeros(n, dtype=torch.bool)
    return Draws(torch.from_numpy(theta.astype(np.float32)), ones, ones, first, 0.05 * ones)


def moved(images: Tensor, size: int = S, **values: Any) -> np.ndarray:
    """Images under one geometry, (N, size, size) in [0, 1]."""
    theta = np.repeat(geometry(**values), len(images), axis=0)
    return augment.apply(images, neutral(theta), size, kernel=3)[:, 0].numpy()


def grey(images: Tensor) -> np.ndarray:
    return images.numpy().astype(np.float64) / 255


def close(found: np.ndarray, wanted: np.ndarray, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


# ------------------------------------------------------------------------------ geometry
def test_identity_leaves_the_film() -> None:
    images = films(3)
    close(moved(images), grey(images))


@pytest.mark.parametrize("size", [12, 17, 24, 31])
def test_whole_film_is_resized(size: int) -> None:
    images = films(2)
    x = images.unsqueeze(1).float() / 255
    wanted = interpolate(x, (size, size), mode="bilinear", align_corners=False)[:, 0].numpy()
    inner = slice(1, -1)  # beyond the film ours reads black, `interpolate` the last row again
    close(moved(images, size)[:, inner, inner], wanted[:, inner, inner])


def test_crop_is_resized_from_its_box() -> None:
    images = films(2)
    x = images[:, 3:13, 6:20].unsqueeze(1).float() / 255  # top 3, left 6, height 10, width 14
    wanted = interpolate(x, (7, 7), mode="bilinear", align_corners=False)[:, 0].numpy()
    close(moved(images, 7, cx=13, cy=8, crop_w=14, crop_h=10), wanted)


def test_flip_is_horizontal() -> None:
    images = films(2)
    close(moved(images, flip=-1), grey(images)[:, :, ::-1])


def test_flip_mirrors_the_crop_and_not_the_film() -> None:
    images = films(1)
    found = moved(images, 8, cx=8, cy=10, crop_w=8, crop_h=8, flip=-1)
    close(found, grey(images)[:, 6:14, 4:12][:, :, ::-1])


@pytest.mark.parametrize(("tx", "ty"), [(3, 0), (0, 2), (-4, 5)])
@pytest.mark.parametrize("flip", [1, -1])
def test_shift_moves_the_picture(tx: int, ty: int, flip: int) -> None:
    images = films(2)
    # right and down for positive numbers, for a mirrored film too; black comes in
    wanted = np.zeros((2, S + 20, S + 20))
    wanted[:, 10 + ty : 10 + ty + S, 10 + tx : 10 + tx + S] = grey(images)[:, :, ::flip]
    close(moved(images, tx=tx, ty=ty, flip=flip), wanted[:, 10 : 10 + S, 10 : 10 + S])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns(quarters: int) -> None:
    images = films(2)
    wanted = np.rot90(grey(images), quarters, axes=(1, 2))
    close(moved(images, angle=quarters * math.pi / 2), wanted)


def test_turn_comes_after_the_flip() -> None:
    images = films(1)
    wanted = np.rot90(grey(images)[:, :, ::-1], 1, axes=(1, 2))
    close(moved(images, angle=math.pi / 2, flip=-1), wanted)


def test_zoom_enlarges_about_the_centre() -> None:
    images = films(1)
    x = images[:, 6:18, 6:18].unsqueeze(1).float() / 255
    wanted = interpolate(x, (S, S), mode="bilinear", align_corners=False)[:, 0].numpy()
    inner = slice(1, -1)
    close(moved(images, zoom=2)[:, inner, inner], wanted[:, inner, inner])


@pytest.mark.parametrize("degrees", [-20, 7.5, 160])
@pytest.mark.parametrize("scale", [0.95, 1.3])
@pytest.mark.parametrize("flip", [1, -1])
def test_affine_map_is_torchvisions(degrees: float, scale: float, flip: int) -> None:
    """Crop, flip and affine one after the other, as the paper lists them."""
    images = (smooth(2)[:, 0] * 255).round().to(torch.uint8)
    cut = torch.from_numpy(grey(images)[:, 4:20, 2:18].copy()).float()
    cut = (tv.hflip(cut) if flip < 0 else cut).unsqueeze(1)

    def chain(x: Tensor) -> Tensor:
        turned: Tensor = tv.affine(
            x,
            angle=-degrees,  # its affine turns clockwise
            translate=[2, -1],
            scale=scale,
            shear=[0.0],
            interpolation=tv.InterpolationMode.BILINEAR,
        )
        return turned

    found = moved(
        images,
        16,
        cx=10,
        cy=12,
        crop_w=16,
        crop_h=16,
        flip=flip,
        angle=math.radians(degrees),
        tx=2,
        ty=-1,
        zoom=scale,
    )
    # Deviation: outside of the crop torchvision's chain is black, ours shows the film
    inside = chain(torch.ones_like(cut))[:, 0].numpy() > 0.999
    assert inside.mean() > 0.4
    close(found[inside], chain(cut)[:, 0].numpy()[inside], atol=1e-4)


def test_view_without_draws_is_the_whole_film() -> None:
    images = films(2)
    boxes = np.array([[2, 0, 20, S], [0, 5, S, 13]])
    found = augment.warp(images, augment.whole(boxes, S), 12)
    assert found.shape == (2, 1, 12, 12)
    for i, (top, left, height, width) in enumerate(boxes):
        film = images[i : i + 1, top : top + height, left : left + width].unsqueeze(1) / 255
        wanted = interpolate(film, (12, 12), mode="bilinear", align_corners=False)
        close(found[i : i + 1].numpy(), wanted.numpy())


def slow_map(image: np.ndarray, size: int, d: dict[str, float]) -> np.ndarray:
    """Compute each output pixel step by step, with a bilinear look-up by hand."""

    def at(row: int, column: int) -> float:
        inside = 0 <= row < S and 0 <= column < S
        return float(image[row, column]) if inside else 0.0

    out = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            # resize: the output covers the crop; coordinates in stored pixels about its centre
            x, y = ((j + 0.5) / size - 0.5) * d["crop_w"], ((i + 0.5) / size - 0.5) * d["crop_h"]
            # undo the shift, the turn (counter-clockwise, y points down) and the zoom
            x, y = x - d["tx"], y - d["ty"]
            radius, phase = math.hypot(x, y) / d["zoom"], math.atan2(y, x) + d["angle"]
            x, y = radius * math.cos(phase), radius * math.sin(phase)
            # undo the flip, and go to the film; pixel k covers [k, k + 1]
            x, y = d["cx"] + d["flip"] * x - 0.5, d["cy"] + y - 0.5
            left, top = math.floor(x), math.floor(y)
            fx, fy = x - left, y - top
            out[i, j] = (
                (1 - fy) * ((1 - fx) * at(top, left) + fx * at(top, left + 1))
                + fy * ((1 - fx) * at(top + 1, left) + fx * at(top + 1, left + 1))
            )  # fmt: skip
    return out


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What `draw` hands to `compose`, call by call."""
    calls: list[dict[str, np.ndarray]] = []
    compose = augment.compose
    names = ("cx", "cy", "crop_w", "crop_h", "flip", "angle", "tx", "ty", "zoom")

    def record(*values: Any) -> np.ndarray:
        calls.append(dict(zip(names, values[:-1], strict=True)))
        return compose(*values)

    monkeypatch.setattr(augment, "compose", record)
    return calls


@pytest.mark.parametrize("size", [9, 24])
def test_drawn_matrix_is_the_slow_map(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    calls = recorded(monkeypatch)
    images, boxes = films(4), np.array([[0, 0, S, S], [2, 0, 20, S], [0, 5, S, 13], [4, 4, 9, 9]])
    draws = augment.draw(np.random.default_rng(3), boxes, S, PAPER)
    found = augment.apply(images, neutral(draws.theta.numpy()), size, kernel=3)[:, 0].numpy()
    for i in range(4):
        values = {name: float(value[i]) for name, value in calls[0].items()}
        close(found[i], slow_map(grey(images)[i], size, values), atol=1e-4)


# ------------------------------------------------------------------------------ light
@pytest.mark.parametrize("contrast_first", [False, True])
def test_jitter_is_torchvisions(contrast_first: bool) -> None:
    x = smooth(4)
    brightness, contrast = torch.tensor([0.6, 1.4, 0.9, 1.0]), torch.tensor([1.4, 1.3, 0.6, 1.0])
    found = augment.jitter(x, brightness, contrast, torch.full((4,), contrast_first))
    for i in range(4):
        b, c = float(brightness[i]), float(contrast[i])
        if contrast_first:
            wanted = tv.adjust_brightness(tv.adjust_contrast(x[i], c), b)
        else:
            wanted = tv.adjust_contrast(tv.adjust_brightness(x[i], b), c)
        close(found[i].numpy(), wanted.numpy(), atol=1e-6)
    close(found[3].numpy(), x[3].numpy(), atol=1e-6)


def test_order_of_jitter_is_per_sample() -> None:
    x = smooth(1).expand(2, 1, S, S)
    brighter, duller = torch.full((2,), 1.4), torch.full((2,), 0.6)
    both = augment.jitter(x, brighter, duller, torch.tensor([False, True]))
    for i, first in enumerate((False, True)):
        alone = augment.jitter(x[:1], brighter[:1], duller[:1], torch.tensor([first]))
        assert torch.equal(both[i], alone[0])
    assert float((both[0] - both[1]).abs().max()) > 0.01


@pytest.mark.parametrize("kernel", [3, 7, 11])
def test_blur_is_torchvisions(kernel: int) -> None:
    x, sigma = smooth(4), torch.tensor([0.1, 0.7, 1.5, 3.0])
    found = augment.blur(x, sigma, kernel)
    assert found.shape == x.shape
    for i in range(4):
        wanted = tv.gaussian_blur(x[i], [kernel, kernel], [float(sigma[i])] * 2)
        close(found[i].numpy(), wanted.numpy(), atol=1e-6)


def test_kernel_of_one_pixel_does_not_blur() -> None:
    x = smooth(2)
    assert torch.equal(augment.blur(x, torch.tensor([1.0, 2.0]), 1), x)


def test_blur_comes_after_the_jitter() -> None:
    images, boxes = films(4), np.tile([0, 0, S, S], (4, 1))
    draws = augment.draw(np.random.default_rng(0), boxes, S, PAPER)
    first = torch.zeros(4, dtype=torch.bool)
    draws = replace(draws, brightness=torch.full((4,), 1.4), contrast_first=first)
    found = augment.apply(images, draws, 16, 5)
    x = augment.warp(images, draws.theta, 16)
    for i in range(4):
        contrast, sigma = float(draws.contrast[i]), float(draws.sigma[i])
        light = tv.adjust_contrast(tv.adjust_brightness(x[i], 1.4), contrast)
        close(found[i].numpy(), tv.gaussian_blur(light, [5, 5], [sigma] * 2).numpy())


def test_samples_do_not_see_each_other() -> None:
    images = films(5)
    boxes = np.tile([0, 0, S, S], (5, 1))
    draws = augment.draw(np.random.default_rng(0), boxes, S, PAPER)
    together = augment.apply(images, draws, 16, 5)
    assert together.shape == (5, 1, 16, 16)
    assert together.dtype == torch.float32
    assert 0 <= float(together.min()) < float(together.max()) <= 1
    for i in range(5):
        one = Draws(*(getattr(draws, name)[i : i + 1] for name in Draws.__annotations__))
        close(augment.apply(images[i : i + 1], one, 16, 5)[0].numpy(), together[i].numpy())


# ------------------------------------------------------------------------------ what is drawn
MANY = 3000
BOXES = np.tile([[0, 0, S, S], [3, 0, 17, S], [0, 4, S, 15]], (MANY // 3, 1))


def values_of(draws: Draws) -> dict[str, np.ndarray]:
    return {name: getattr(draws, name).numpy() for name in Draws.__annotations__}


def test_draws_differ_within_a_batch() -> None:
    draws = values_of(augment.draw(np.random.default_rng(0), BOXES[:64], S, PAPER))
    for name in ("theta", "brightness", "contrast", "sigma"):
        assert len(np.unique(draws[name], axis=0)) == 64, name
    assert set(draws["contrast_first"]) == {False, True}


def test_draws_are_a_function_of_the_key() -> None:
    def of(*key: int) -> dict[str, np.ndarray]:
        return values_of(augment.draw(np.random.default_rng(key), BOXES[:8], S, PAPER))

    one, same, other = of(1, 2, 3), of(1, 2, 3), of(1, 2, 4)
    for name in one:
        assert np.array_equal(one[name], same[name]), name
        if name != "contrast_first":
            assert not np.array_equal(one[name], other[name]), name


def assert_uniform(spans: dict[str, tuple[np.ndarray, float, float]]) -> None:
    """Each quantity is spread uniformly between its ends."""
    for name, (found, low, high) in spans.items():
        near = 0.03 * (high - low)
        assert low - 1e-6 <= found.min() < low + 0.01 * (high - low), name
        assert high - 0.01 * (high - low) < found.max() <= high + 1e-6, name
        assert found.mean() == pytest.approx((low + high) / 2, abs=near), name
        assert found.std() == pytest.approx((high - low) / math.sqrt(12), abs=near), name


def test_ranges_are_respected_and_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    draws = values_of(augment.draw(np.random.default_rng(0), BOXES, S, PAPER))
    d = calls[0]
    spans = {
        "rotation": (np.rad2deg(d["angle"]), -20, 20),
        "shift right": (d["tx"] / d["crop_w"], -0.1, 0.1),
        "shift down": (d["ty"] / d["crop_h"], -0.1, 0.1),
        "zoom": (d["zoom"], 0.95, 1.05),
        "brightness": (draws["brightness"], 0.6, 1.4),
        "contrast": (draws["contrast"], 0.6, 1.4),
        "sigma": (draws["sigma"], 0.1, 3.0),
    }
    assert_uniform(spans)
    assert set(d["flip"]) == {-1.0, 1.0}
    assert np.mean(d["flip"] < 0) == pytest.approx(0.5, abs=0.03)
    assert draws["contrast_first"].mean() == pytest.approx(0.5, abs=0.03)


def test_crop_keeps_its_share_and_stays_in_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = recorded(monkeypatch)
    augment.draw(np.random.default_rng(0), BOXES, S, PAPER)
    d = calls[0]
    top, left, height, width = BOXES.T
    assert (d["cx"] - d["crop_w"] / 2 >= left - 1e-9).all()
    assert (d["cx"] + d["crop_w"] / 2 <= left + width + 1e-9).all()
    assert (d["cy"] - d["crop_h"] / 2 >= top - 1e-9).all()
    assert (d["cy"] + d["crop_h"] / 2 <= top + height + 1e-9).all()
    share = d["crop_w"] * d["crop_h"] / (width * height)
    clipped = (d["crop_w"] >= width - 1e-9) | (d["crop_h"] >= height - 1e-9)
    assert share.max() <= 1 + 1e-9
    assert share[~clipped].min() >= 0.6 - 1e-9
    aspect = (d["crop_w"] / d["crop_h"])[~clipped]
    assert 3 / 4 - 1e-9 <= aspect.min() < 0.8
    assert 1.25 < aspect.max() <= 4 / 3 + 1e-9


def test_crop_is_drawn_uniformly_and_each_number_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops so small that none is clipped."""
    calls = recorded(monkeypatch)
    boxes, spec = np.tile([3, 1, 17, 23], (MANY, 1)), replace(PAPER, crop=(0.2, 0.5))
    augment.draw(np.random.default_rng(0), boxes, S, spec)
    d = calls[0]
    spans = {
        "share": (d["crop_w"] * d["crop_h"] / (17 * 23), 0.2, 0.5),
        "aspect": (np.log(d["crop_w"] / d["crop_h"]), math.log(3 / 4), math.log(4 / 3)),
        "right": ((d["cx"] - d["crop_w"] / 2 - 1) / (23 - d["crop_w"]), 0.0, 1.0),
        "down": ((d["cy"] - d["crop_h"] / 2 - 3) / (17 - d["crop_h"]), 0.0, 1.0),
    }
    assert_uniform(spans)
    for one, other in combinations(spans, 2):
        assert abs(np.corrcoef(spans[one][0], spans[other][0])[0, 1]) < 0.06, (one, other)


def test_matrix_without_affine_part_reads_inside_the_film() -> None:
    spec = replace(PAPER, degrees=0.0, translate=0.0, scale=(1.0, 1.0))
    theta = augment.draw(np.random.default_rng(0), BOXES, S, spec).theta.numpy()
    corners = np.array([[-1, -1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, 1]]).T
    read = (theta @ corners + 1) * S / 2  # (N, x and y, corner), stored pixels
    top, left, height, width = BOXES.T[:, :, None]
    assert (read[:, 0] >= left - 1e-4).all()
    assert (read[:, 0] <= left + width + 1e-4).all()
    assert (read[:, 1] >= top - 1e-4).all()
    assert (read[:, 1] <= top + height + 1e-4).all()


@pytest.mark.parametrize(("flip", "sign"), [(0.0, 1), (1.0, -1)])
def test_flip_probability(flip: float, sign: int) -> None:
    spec = replace(PAPER, degrees=0.0, flip=flip)
    theta = augment.draw(np.random.default_rng(0), BOXES, S, spec).theta.numpy()
    assert (np.sign(theta[:, 0, 0]) == sign).all()
    assert (theta[:, 1, 1] > 0).all()


def test_padding_around_a_film_is_hardly_read() -> None:
    """A white film in a black square: without rotation and shift, crops of it hold no padding."""
    images = torch.zeros(64, S, S, dtype=torch.uint8)
    images[:, 3:20] = 255
    boxes = np.tile([3, 0, 17, S], (64, 1))
    still = replace(PAPER, degrees=0.0, translate=0.0, scale=(1.0, 1.0))
    draws = augment.draw(np.random.default_rng(0), boxes, S, still)
    found = augment.apply(images, neutral(draws.theta.numpy()), 16, 3).numpy()
    assert found[:, :, 1:-1, 1:-1].min() > 0.999


def test_draws_move_between_devices() -> None:
    draws = augment.draw(np.random.default_rng(0), BOXES[:3], S, PAPER)
    moved = draws.to(torch.device("meta"))
    assert {getattr(moved, name).device.type for name in Draws.__annotations__} == {"meta"}


def test_each_number_of_a_sample_is_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One draw that served two of them would leave the range of each as it is."""
    calls = recorded(monkeypatch)
    draws = values_of(augment.draw(np.random.default_rng(0), BOXES, S, PAPER))
    d = calls[0]
    numbers = {
        "flip": d["flip"],
        "rotation": d["angle"],
        "shift right": d["tx"] / d["crop_w"],
        "shift down": d["ty"] / d["crop_h"],
        "zoom": d["zoom"],
        "brightness": draws["brightness"],
        "contrast": draws["contrast"],
        "contrast first": draws["contrast_first"].astype(float),
        "sigma": draws["sigma"],
    }
    for one, other in combinations(numbers, 2):
        assert abs(np.corrcoef(numbers[one], numbers[other])[0, 1]) < 0.07, (one, other)
