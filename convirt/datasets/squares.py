"""Images scaled into equal squares, and .npy files that hold many of them, one per row."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from convirt.datasets import archives
from convirt.datasets.images import BadImageError, decode

DIM, BRIGHT_SHARE = 32, 0.01  # a hand on a large black plate covers several times as much


class Packed(NamedTuple):
    """What packing did with one image.

    Attributes:
        reason: Why it is dropped, "" if it is kept.
        converted: As in Picture.
        box: top, left, height and width of the content in the square, in pixels.
        dark: Whether hardly a pixel of the content is brighter than `DIM`.
    """

    reason: str = ""
    converted: str = ""
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    dark: bool = False


@dataclass(frozen=True)
class Block:
    """Neighbouring rows of a file that hold decoded images.

    Attributes:
        first: Number of the first row.
        results: The outcome for each image; the rows of dropped ones are undefined.
        stamp: `stamp` of the image files, taken before they were read.
        check: CRC-32 of the rows' bytes.
    """

    first: int
    results: list[Packed]
    stamp: int
    check: int


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
        # Pillow's bilinear filter widens its support when it shrinks an image, so nothing aliases.
        image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(image)
    top, left = (size - height) // 2, (size - width) // 2
    square = np.zeros((size, size), dtype=np.uint8)
    square[top : top + height, left : left + width] = pixels
    return square, (top, left, height, width)


def header(count: int, size: int) -> bytes:
    """The first bytes of an (N, S, S) uint8 .npy file; the rows follow."""
    file = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size)}
    np.lib.format.write_array_header_1_0(file, shape)
    return file.getvalue()


def file_size(count: int, size: int) -> int:
    """Bytes of an (N, S, S) uint8 .npy file."""
    return len(header(count, size)) + count * size * size


def create(path: Path, count: int, size: int) -> None:
    """Create an (N, S, S) uint8 .npy file of zeros, which take no disk space yet."""
    with path.open("wb") as file:
        file.write(header(count, size))
        file.truncate(file_size(count, size))


def stamp(paths: Sequence[str]) -> int:
    """A number that changes when one of the files does; no content is read."""
    return zlib.crc32(repr([archives.stamp(Path(path)) for path in paths]).encode())


def pack(paths: Sequence[str], first: int, size: int, out: Path, start: int) -> Block:
    """Decode some images into their rows of a large array on disk: the job of one process.

    Args:
        paths: Image files.
        first: Row of the first of them.
        size: Side of a stored image, pixels.
        out: File with rows of size * size bytes.
        start: Bytes before row 0.

    Raises:
        OSError: The disk is full. (Writing to a memory-mapped file would kill the process instead.)
    """
    before = stamp(paths)
    rows = np.zeros((len(paths), size, size), dtype=np.uint8)
    results = []
    for row, path in zip(rows, paths, strict=True):
        try:
            picture = decode(Path(path), size)
        except BadImageError as bad:
            results.append(Packed(reason=bad.reason))
            continue
        row[:], box = fit(picture.pixels, size)
        results.append(Packed("", picture.converted, box, _is_dark(row, box[2] * box[3])))
    with out.open("r+b", buffering=0) as handle:
        data = rows.reshape(-1).data
        position = start + first * size * size
        while data:
            written = os.pwrite(handle.fileno(), data, position)
            data, position = data[written:], position + written
    return Block(first, results, before, zlib.crc32(rows.reshape(-1).data))


def _is_dark(square: np.ndarray, content: int) -> bool:
    """Whether at most `BRIGHT_SHARE` of the content's pixels exceed `DIM`; padding is black."""
    return int(np.count_nonzero(square > DIM)) <= BRIGHT_SHARE * content
