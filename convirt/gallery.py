"""The picture of a retrieval: each query with its nearest images, framed green or red."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

RIGHT, WRONG = (34, 139, 34), (205, 38, 38)
PAPER, INK = (255, 255, 255), (40, 40, 40)
TILE, GAP, FRAME, TITLE = 104, 6, 4, 18  # pixels


@dataclass(frozen=True)
class Row:
    """One query and its nearest candidates.

    Attributes:
        label: The query's class.
        query: An image, (S, S) uint8, or a sentence.
        found: Images, nearest first, each (S, S) uint8.
        right: Which of them have the query's class.
    """

    label: str
    query: NDArray[np.uint8] | str
    found: tuple[NDArray[np.uint8], ...]
    right: tuple[bool, ...]


def draw(rows: Sequence[tuple[Row | None, Row | None]], out: Path) -> None:
    """Draw pairs of rows, image queries on the left and text queries on the right, as a PNG.

    The same rows give the same bytes. A missing half is left blank.
    """
    from PIL import Image, ImageDraw

    most = max((len(row.found) for pair in rows for row in pair if row), default=0)
    half = (most + 1) * (TILE + GAP) + 3 * GAP
    height = TITLE + TILE + GAP
    sheet = Image.new("RGB", (2 * half, len(rows) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, pair in enumerate(rows):
        for j, row in enumerate(pair):
            if row is not None:
                _row(sheet, pen, row, GAP + j * half, GAP + i * height)
    sheet.save(out, format="PNG")


def _row(sheet: Image.Image, pen: ImageDraw.ImageDraw, row: Row, x: int, y: int) -> None:
    """Draw one query and what it found, with the upper left corner at (x, y)."""
    from PIL import ImageFont

    font = ImageFont.load_default(12)
    kind = "text" if isinstance(row.query, str) else "image"
    pen.text((x, y), f"{row.label}: {kind} query", INK, font)
    y += TITLE
    if isinstance(row.query, str):
        lines = textwrap.wrap(row.query, 17, max_lines=7, placeholder=" ...")
        pen.multiline_text((x, y + FRAME), "\n".join(lines), INK, font, spacing=2)
    else:
        sheet.paste(_tile(row.query, TILE), (x, y))
    x += 2 * GAP  # a wider gap after the query
    for image, right in zip(row.found, row.right, strict=True):
        x += TILE + GAP
        frame = RIGHT if right else WRONG
        pen.rectangle((x, y, x + TILE - 1, y + TILE - 1), fill=frame)
        sheet.paste(_tile(image, TILE - 2 * FRAME), (x + FRAME, y + FRAME))


def _tile(image: NDArray[np.uint8], side: int) -> Image.Image:
    from PIL import Image

    return Image.fromarray(image).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
