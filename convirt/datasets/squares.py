"""Images scaled into equal squares, and one .npy file that holds them all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from convirt.datasets.images import BadImageError, decode


@dataclass(frozen=True)
class Packed:
    """What became of one image.

    Attributes:
        reason: Why it is dropped, "" if it is kept.
        converted: As in Picture.
        box: top, left, height and width of the content in the square, pixels.
    """

    reason: str = ""
    converted: str = ""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


def fit(pixels: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Scale the larger side to `size` and pad with zeros to a square.

    Args:
        pixels: (height, width) uint8.
        size: Side of the square, pixels.

    Returns:
        (size, size) uint8 with the content centred, and its box: top, left, height, width.
    """
    rows, columns = pixels.shape
    scale = size / max(rows, columns)
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    if (height, width) != (rows, columns):
        # Pillow's bilinear filter widens its support when it shrinks, so nothing aliases.
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), dtype=np.uint8)
    square[top : top + height, left : left + width] = pixels
    return square, (top, left, height, width)


def create(path: Path, count: int, size: int) -> int:
    """Make an (N, S, S) uint8 .npy file whose rows are still undefined.

    Returns:
        Bytes before row 0.
    """
    _header(path, count, size)
    offset = path.stat().st_size
    os.truncate(path, offset + count * size * size)
    return offset


def pack(paths: Sequence[str], first: int, size: int, out: Path, offset: int) -> list[Packed]:
    """Decode some images into their rows of a large array on disk; a job of one process.

    Args:
        paths: Image files.
        first: Row of the first of them.
        size: Side of a stored image, pixels.
        out: File with rows of size * size bytes.
        offset: Bytes before row 0.

    Returns:
        What became of each; the rows of dropped images are undefined.

    Raises:
        OSError: The disk is full. (Writing through a memory map would kill the process instead.)
    """
    rows = np.zeros((len(paths), size, size), dtype=np.uint8)
    results = []
    for row, path in zip(rows, paths, strict=True):
        try:
            picture = decode(Path(path), size)
        except BadImageError as bad:
            results.append(Packed(reason=str(bad)))
            continue
        row[:], box = fit(picture.pixels, size)
        results.append(Packed(converted=picture.converted, box=box))
    with out.open("r+b", buffering=0) as handle:
        data = rows.reshape(-1).data
        position = offset + first * size * size
        while data:
            written = os.pwrite(handle.fileno(), data, position)
            data, position = data[written:], position + written
    return results


def compact(path: Path, keep: list[bool], size: int) -> None:
    """Move the kept rows to the front and cut the rest, in place: the file may be 25 GB."""
    if all(keep):
        return
    offset = path.stat().st_size - len(keep) * size * size
    images = np.memmap(path, np.uint8, "r+", offset, (len(keep), size, size))
    kept = np.flatnonzero(keep)
    for to, row in enumerate(kept):
        if to != row:
            images[to] = images[row]
    images.flush()
    del images
    os.truncate(path, offset + len(kept) * size * size)
    # NumPy pads headers to a multiple of 64 bytes with room for growth, so a smaller count never
    # needs another length.
    _header(path, len(kept), size)


def _header(path: Path, count: int, size: int) -> None:
    """Write the header of an (N, S, S) uint8 .npy file over the start of `path`."""
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    with path.open("r+b" if path.exists() else "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
