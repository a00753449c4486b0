"""The paper's five image transforms (section 4.1, appendix A): per sample, batched, on the device.

Crop, flip, affine and resize are affine maps, so their product is one too: a single
`grid_sample` with one matrix per sample does all four with one interpolation. Brightness,
contrast and blur follow, each with one value per sample.

Deviations from a chain of torchvision transforms, all stated in docs/deviations.md: pixels that
the rotation brings in from outside the crop show the film instead of black (black only beyond the
film), the blur comes after the resize instead of before, and a crop that does not fit is clipped
to the film instead of drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from convirt.devices import sent


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the transforms.

    Attributes:
        crop: Share of the film's area that a crop keeps, lowest and highest.
        flip: Probability of a horizontal flip.
        degrees: Largest rotation.
        translate: Largest shift, as a share of the crop's side.
        scale: Zoom factor, lowest and highest.
        brightness: The factor lies in 1 +- this.
        contrast: The factor lies in 1 +- this.
        blur_sigma: Pixels of the output, lowest and highest.
        blur_kernel: Pixels, odd.
    """

    crop: tuple[float, float]
    flip: float
    degrees: float
    translate: float
    scale: tuple[float, float]
    brightness: float
    contrast: float
    blur_sigma: tuple[float, float]
    blur_kernel: int


@dataclass(frozen=True)
class Draws:
    """One set of random values per sample.

    Attributes:
        theta: (N, 2, 3) float32, from output coordinates in [-1, 1] to stored ones.
        brightness: (N,) float32 factors.
        contrast: (N,) float32 factors.
        contrast_first: (N,) bool, whether contrast comes before brightness.
        sigma: (N,) float32, standard deviation of the blur in output pixels.
    """

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    contrast_first: Tensor
    sigma: Tensor

    def to(self, device: torch.device) -> Draws:
        """The same draws on another device."""
        moved = (sent(getattr(self, name), device) for name in self.__annotations__)
        return Draws(*moved)

    def part(self, rows: slice) -> Draws:
        """The draws of some samples."""
        return Draws(*(getattr(self, name)[rows] for name in self.__annotations__))


def draw(rng: np.random.Generator, boxes: np.ndarray, stored: int, spec: Augmentation) -> Draws:
    """Draw the values for a batch.

    Args:
        rng: Keyed by (seed, step), so that any step can be repeated on its own.
        boxes: (N, 4) top, left, height, width of the films inside their stored squares.
        stored: S, pixels of a stored square's side.
        spec: The ranges.
    """
    n = len(boxes)
    top, left, height, width = boxes.astype(np.float64).T
    area = rng.uniform(*spec.crop, n) * height * width
    # torchvision's RandomResizedCrop: the crop's own aspect, log-uniform in [3/4, 4/3]
    aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), n))
    crop_w = np.minimum(np.sqrt(area * aspect), width)
    crop_h = np.minimum(np.sqrt(area / aspect), height)
    cx = left + rng.random(n) * (width - crop_w) + crop_w / 2
    cy = top + rng.random(n) * (height - crop_h) + crop_h / 2
    flip = np.where(rng.random(n) < spec.flip, -1.0, 1.0)
    angle = np.deg2rad(rng.uniform(-spec.degrees, spec.degrees, n))
    tx = rng.uniform(-spec.translate, spec.translate, n) * crop_w
    ty = rng.uniform(-spec.translate, spec.translate, n) * crop_h
    zoom = rng.uniform(*spec.scale, n)
    theta = compose(cx, cy, crop_w, crop_h, flip, angle, tx, ty, zoom, stored)
    return Draws(
        theta=torch.from_numpy(theta.astype(np.float32)),
        brightness=_uniform(rng, n, 1 - spec.brightness, 1 + spec.brightness),
        contrast=_uniform(rng, n, 1 - spec.contrast, 1 + spec.contrast),
        contrast_first=torch.from_numpy(rng.random(n) < 0.5),
        sigma=_uniform(rng, n, *spec.blur_sigma),
    )


def _uniform(rng: np.random.Generator, n: int, low: float, high: float) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, n).astype(np.float32))


def compose(
    cx: np.ndarray,
    cy: np.ndarray,
    crop_w: np.ndarray,
    crop_h: np.ndarray,
    flip: np.ndarray,
    angle: np.ndarray,
    tx: np.ndarray,
    ty: np.ndarray,
    zoom: np.ndarray,
    stored: int,
) -> np.ndarray:
    """Compose crop, flip, affine and resize into matrices for `affine_grid`.

    Args:
        cx: Centre of the crop, stored pixels, (N,); likewise cy.
        cy: See cx.
        crop_w: Size of the crop, stored pixels; likewise crop_h.
        crop_h: See crop_w.
        flip: -1 for a mirrored sample, else 1.
        angle: Radians, counter-clockwise on the film, like torchvision's rotate.
        tx: Shift in stored pixels; likewise ty.
        ty: See tx.
        zoom: Factor of the affine transform.
        stored: S, pixels of a stored square's side.

    Returns:
        (N, 2, 3), from output coordinates in [-1, 1] to stored ones in [-1, 1].
    """
    # An output pixel (x, y) in [-1, 1] lies at (x w/2 - tx, y h/2 - ty) about the crop's centre;
    # rotated back, divided by the zoom and mirrored, this is where the film has to be read.
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    theta = np.empty((len(cx), 2, 3))
    theta[:, 0, 0], theta[:, 0, 1] = flip * cos * crop_w / 2, flip * -sin * crop_h / 2
    theta[:, 1, 0], theta[:, 1, 1] = sin * crop_w / 2, cos * crop_h / 2
    theta[:, 0, 2] = cx - flip * (cos * tx - sin * ty)
    theta[:, 1, 2] = cy - (sin * tx + cos * ty)
    theta *= 2 / stored
    theta[:, :, 2] -= 1
    return theta


def apply(images: Tensor, draws: Draws, size: int, kernel: int) -> Tensor:
    """Transform a batch.

    Args:
        images: (N, S, S) uint8.
        draws: One set of values per sample, on the same device.
        size: Pixels of the output's side.
        kernel: Pixels of the blur's kernel, odd.

    Returns:
        (N, 1, size, size) float32 in [0, 1].
    """
    x = warp(images, draws.theta, size)
    x = jitter(x, draws.brightness, draws.contrast, draws.contrast_first)
    return blur(x, draws.sigma, kernel)


def whole(boxes: np.ndarray, stored: int) -> Tensor:
    """The view without random draws: each whole film, stretched to the square as a crop would be.

    Args:
        boxes: (N, 4) top, left, height, width of the films inside their stored squares.
        stored: S, pixels of a stored square's side.

    Returns:
        (N, 2, 3) float32, for `warp`.
    """
    top, left, height, width = boxes.astype(np.float64).T
    zero, one = np.zeros(len(boxes)), np.ones(len(boxes))
    cx, cy = left + width / 2, top + height / 2
    theta = compose(cx, cy, width, height, one, zero, zero, zero, one, stored)
    return torch.from_numpy(theta.astype(np.float32))


def warp(images: Tensor, theta: Tensor, size: int) -> Tensor:
    """Sample each film by its matrix, once, bilinearly; black beyond the film.

    Args:
        images: (N, S, S) uint8.
        theta: (N, 2, 3), from output coordinates in [-1, 1] to stored ones.
        size: Pixels of the output's side.

    Returns:
        (N, 1, size, size) float32 in [0, 1].
    """
    x = images.unsqueeze(1).float() / 255
    grid = F.affine_grid(theta, [len(x), 1, size, size], align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def jitter(x: Tensor, brightness: Tensor, contrast: Tensor, contrast_first: Tensor) -> Tensor:
    """Change brightness and contrast like torchvision's ColorJitter, in an order per sample.

    Args:
        x: (N, 1, H, W) in [0, 1].
        brightness: (N,) factors.
        contrast: (N,) factors about the image's own mean.
        contrast_first: (N,) bool.
    """
    b, c = brightness.view(-1, 1, 1, 1), contrast.view(-1, 1, 1, 1)
    first = contrast_first.view(-1, 1, 1, 1)

    def contrasted(y: Tensor) -> Tensor:
        mean = y.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + c * (y - mean)).clamp(0, 1)

    x = torch.where(first, contrasted(x), (x * b).clamp(0, 1))
    return torch.where(first, (x * b).clamp(0, 1), contrasted(x))


def blur(x: Tensor, sigma: Tensor, kernel: int) -> Tensor:
    """Separable Gaussian blur with one sigma per sample and reflected borders.

    Args:
        x: (N, 1, H, W).
        sigma: (N,) pixels.
        kernel: Pixels, odd.
    """
    if kernel <= 1:
        return x
    offsets = torch.arange(kernel, device=x.device, dtype=x.dtype) - kernel // 2
    weights = torch.exp(-0.5 * (offsets / sigma.view(-1, 1)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    n, pad = len(x), kernel // 2
    x = F.pad(x, (pad, pad, pad, pad), mode="reflect").transpose(0, 1)
    x = F.conv2d(x, weights.view(n, 1, kernel, 1), groups=n)
    x = F.conv2d(x, weights.view(n, 1, 1, kernel), groups=n)
    return x.transpose(0, 1)
