"""Pieces: decoded images of a share of a data set, kept on disk while a store is being made.

A piece is a folder that a restarted run finds again and that can be moved between machines:

    about.json      what it belongs to and which images it holds
    images.npy      (n, S, S) uint8; rows of images that are not decoded yet are zero
    journal.jsonl   a line for each finished block of rows: the result for each image, a stamp of
                    the image files, and the CRC-32 of the rows

A row counts as decoded once its block is in the journal. Rows are written before their line, so
that a kill at any moment is harmless. The CRC-32 detects rows that a crashing machine lost.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from convirt import files, journal, workers
from convirt.datasets import squares
from convirt.datasets.squares import Block, Packed
from convirt.errors import InputError, quoted
from convirt.provenance import digest

BLOCK = 64  # images per job; the bytes of a store do not depend on it
ABOUT, ROWS = "about.json", "images.npy"
Belongs = Mapping[str, str | int]


@dataclass(frozen=True)
class Share:
    """Piece `number` of `of`, counted from 1."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read "2/8".

        Raises:
            InputError: It is no such text.
        """
        number, _, of = text.partition("/")
        if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
            return cls(int(number), int(of))
        raise InputError("--shard", "i/n with 1 <= i <= n, such as 2/8", text, "correct it")

    @property
    def folder(self) -> str:
        """Name of the piece's folder."""
        return f"{self.number}-of-{self.of}"

    def bounds(self, count: int) -> tuple[int, int]:
        """First row and end (exclusive) of the share of `count` rows."""
        return count * (self.number - 1) // self.of, count * self.number // self.of


@dataclass
class Piece:
    """A piece on disk.

    Attributes:
        folder: Its folder.
        first: Row of the data set that is its row 0.
        count: Number of its rows, n.
        size: Side of an image in pixels, S.
        blocks: First row (of the piece) -> finished block.
    """

    folder: Path
    first: int
    count: int
    size: int
    blocks: dict[int, Block] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many images are decoded."""
        return sum(len(block.results) for block in self.blocks.values())

    @property
    def results(self) -> list[Packed]:
        """The result for each image, in order; the piece has to be finished."""
        return [result for _, block in sorted(self.blocks.items()) for result in block.results]

    def append_kept(self, file: BinaryIO) -> None:
        """Append the rows of the kept images to `file`, one block at a time.

        Raises:
            InputError: The rows differ from those that were written.
        """
        with (self.folder / ROWS).open("rb") as rows:
            for _, block in sorted(self.blocks.items()):
                data = self._read(rows, block)
                if data is None:
                    end = block.first + len(block.results)
                    raise InputError(
                        self.folder / ROWS,
                        "the rows that were written",
                        f"other bytes in rows {block.first} to {end - 1}",
                        "copy the piece again, or rerun with the same --shard: only "
                        "damaged rows are decoded again",
                    )
                keep = np.array([not result.reason for result in block.results])
                square = np.frombuffer(data, np.uint8).reshape(len(keep), -1)
                file.write(data if keep.all() else square[keep].tobytes())

    def _read(self, rows: BinaryIO, block: Block) -> bytes | None:
        """The bytes of a block, None if they differ from those that were written."""
        area = self.size * self.size
        rows.seek(len(squares.header(self.count, self.size)) + block.first * area)
        data = rows.read(len(block.results) * area)
        return data if zlib.crc32(data) == block.check else None

    def sound(self, paths: list[str]) -> dict[int, Block]:
        """The blocks whose rows are intact and whose image files have not changed since."""
        good = {}
        with (self.folder / ROWS).open("rb") as rows:
            for first, block in self.blocks.items():
                names = paths[first : first + len(block.results)]
                if squares.stamp(names) == block.stamp and self._read(rows, block) is not None:
                    good[first] = block
        return good


def belongs(images: pd.DataFrame, size: int, made_by: Mapping[str, str]) -> dict[str, str | int]:
    """Properties that all pieces of one store have to share.

    Args:
        images: Tables.images of the whole data set.
        size: Side of a stored image, pixels.
        made_by: Digests and versions of the code that decodes.
    """
    return {"images": digest(images["image"].tolist()), "size": size, **made_by}


def start(folder: Path, images: pd.DataFrame, share: Share, to: Belongs) -> Piece:
    """Create a piece, or find out how far an existing one has come.

    Args:
        folder: Of the piece; used by no other process.
        images: Tables.images of the whole data set.
        share: Which part of it.
        to: From `belongs`.

    Raises:
        InputError: The folder holds a piece of something else.
    """
    first, end = share.bounds(len(images))
    piece = Piece(folder, first, end - first, int(to["size"]))
    about = {"belongs": dict(to), "first": first, "end": end}
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / ROWS
    if (folder / ABOUT).exists():
        _require_same(folder, about)
    else:  # written last: a folder is a piece only with this file
        (folder / journal.NAME).unlink(missing_ok=True)
        squares.create(rows, piece.count, piece.size)
        files.write_json(folder / ABOUT, about)
    if not rows.is_file() or rows.stat().st_size != squares.file_size(piece.count, piece.size):
        # lost, or truncated in transfer
        squares.create(rows, piece.count, piece.size)
    piece.blocks = journal.read(folder)
    piece.blocks = piece.sound(images["path"].iloc[first:end].tolist())
    return piece


def decode(
    piece: Piece,
    images: pd.DataFrame,
    processes: int,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Decode what a piece still lacks.

    Args:
        piece: From `start`.
        images: Tables.images of the whole data set.
        processes: How many decode in parallel.
        progress: Called with the number of images done since the last call.

    Raises:
        InputError: A process died, or runs different code.
        OSError: The disk is full.
    """
    paths = images["path"].iloc[piece.first : piece.first + piece.count].tolist()
    rows = piece.folder / ROWS
    offset = len(squares.header(piece.count, piece.size))
    jobs = [
        (names, first, piece.size, rows, offset)
        for first in range(0, piece.count, BLOCK)
        if len(names := paths[first : first + BLOCK]) != _length(piece.blocks.get(first))
    ]
    with (piece.folder / journal.NAME).open("ab", buffering=0) as book:
        for block in workers.run(squares.pack, jobs, processes):
            book.write(journal.line(block))
            piece.blocks[block.first] = block
            if progress is not None:
                progress(len(block.results))


def complete(home: Path, count: int, to: Belongs) -> list[Piece]:
    """All pieces of a data set that was divided, in order; none if it was not divided.

    Args:
        home: Folder that contains the pieces' folders.
        count: Images of the whole data set.
        to: From `belongs`, as the store needs it.

    Raises:
        InputError: A piece is missing, not finished, or of something else.
    """
    names = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
    shares = [Share.parse(n.replace("-of-", "/")) for n in names if _is_piece(home / n)]
    if not shares:
        return []
    if len(parts := Counter(share.of for share in shares)) > 1:
        found = " and ".join(f"{k} of {of}" for of, k in sorted(parts.items()))
        raise InputError(home, "pieces of one division", found, "remove those that are not needed")
    pieces, lacking = [], []
    for number in range(1, shares[0].of + 1):
        share = Share(number, shares[0].of)
        first, end = share.bounds(count)
        piece = Piece(home / share.folder, first, end - first, int(to["size"]))
        if share in shares:
            _require_same(piece.folder, {"belongs": dict(to), "first": first, "end": end})
            piece.blocks = journal.read(piece.folder)
        if piece.done != piece.count or not (piece.folder / ROWS).is_file():
            lacking.append(f"{number}/{share.of} ({piece.done} of {piece.count} images)")
        pieces.append(piece)
    if lacking:
        hint = f"copy them here or make them: python -m stages.preprocess {home.name} --shard i/n"
        hint += f"; or start again without pieces: rm -r {quoted(home)}"
        raise InputError(home, f"all {len(pieces)} pieces", f"lacking {', '.join(lacking)}", hint)
    return pieces


def _is_piece(folder: Path) -> bool:
    number, _, of = folder.name.partition("-of-")
    return number.isdecimal() and of.isdecimal() and (folder / ABOUT).is_file()


def _require_same(folder: Path, about: Mapping[str, Any]) -> None:
    """Refuse a piece that belongs to something else."""
    hint = (
        f"make it again with this code and these parameters: rm -r {quoted(folder)}, then run again"
    )
    try:
        found = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        other = {**found["belongs"], "first": found["first"], "end": found["end"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            folder / ABOUT, "the JSON that says what a piece belongs to", repr(error), hint
        ) from None
    mine = {**about["belongs"], "first": about["first"], "end": about["end"]}
    keys = [key for key in sorted(mine | other) if mine.get(key) != other.get(key)]
    if keys:
        expected = ", ".join(f"{key} {_short(mine.get(key))}" for key in keys)
        actual = ", ".join(f"{key} {_short(other.get(key))}" for key in keys)
        raise InputError(folder, f"a piece with {expected}", f"one with {actual}", hint)


def _short(value: object) -> str:
    return str(value)[:12]


def _length(block: Block | None) -> int:
    return len(block.results) if block else -1
