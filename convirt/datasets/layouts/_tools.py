"""What all layout writers share: random streams, files with fixed bytes, drawing in processes."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from convirt import workers

JPEG_QUALITY = 95
JOB = 16  # units per job of a process


@dataclass(frozen=True)
class Layout:
    """How one set is written, in three steps.

    Attributes:
        counts: Names of the numbers that say how large the set is.
        plan: (seed, counts) -> units; a unit is what one call draws, mostly a study. Cheap.
        draw: (root, seed, side, unit) -> record; writes the unit's image files. Runs in any
            process, so it depends on nothing but its arguments.
        tables: (root, counts, records) -> None; writes the lists, given the records in the order
            of the plan.
        most: Upper limits of some counts.
        zipped: A folder of the set that is kept as a zip archive, "" if none. With one folder per
            study it holds ten thousand folders, which DVC would walk at every command.
    """

    counts: tuple[str, ...]
    plan: Callable[[int, Mapping[str, int]], list[Any]]
    draw: Callable[[Path, int, int, Any], Any]
    tables: Callable[[Path, Mapping[str, int], list[Any]], None]
    most: Mapping[str, int] = field(default_factory=dict)
    zipped: str = ""


# ------------------------------------------------------------------------------ random streams


def stream(seed: int, name: str, index: int) -> np.random.Generator:
    """The generator of item `index` of `name`, independent of the draws of all other items.

    A set that grows therefore keeps its first items.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode()), index])


def pick(rng: np.random.Generator, options: Mapping[str, float]) -> str:
    """One key of `options`, drawn with the probabilities that are its values."""
    return str(rng.choice(list(options), p=list(options.values())))


def hexadecimal(rng: np.random.Generator, *groups: int) -> str:
    """Groups of the given numbers of hexadecimal digits, joined by hyphens, as in UUIDs."""
    return "-".join("".join(f"{digit:x}" for digit in rng.integers(16, size=n)) for n in groups)


def patients(seed: int, name: str, again: float) -> Iterator[tuple[int, int]]:
    """Patient and study numbers, both from 0, of an endless sequence of studies.

    Args:
        seed: As in `stream`.
        name: As in `stream`.
        again: Probability that a study has the same patient as the one before it.
    """
    patient, study, index = 0, 0, 0
    while True:
        if index > 0:
            same = stream(seed, f"{name}/patients", index).random() < again
            patient, study = (patient, study + 1) if same else (patient + 1, 0)
        yield patient, study
        index += 1


# ------------------------------------------------------------------------------ files


def write_image(path: Path, film: np.ndarray, mode: str = "L") -> None:
    """Write a film in the format of its suffix; the bytes depend on the pixels alone.

    Args:
        path: Ends with .png, .jpg or .jpeg; its folder is created.
        film: (height, width) uint8.
        mode: Pillow mode of the file: L, RGB or RGBA, for a set whose files are not all grey.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(film).convert(mode)
    if path.suffix == ".png":
        image.save(path, "PNG", compress_level=1)  # as small for noise, in a third of the time
    else:
        image.save(path, "JPEG", quality=JPEG_QUALITY)


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]], end: str = "\n") -> str:
    """The text of a CSV file; an empty header is left out (MURA's lists have none)."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator=end)
    writer.writerows([header, *rows] if header else rows)
    return buffer.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write text with its line ends unchanged; create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8"))


def write_gzip(path: Path, text: str) -> None:
    """Write a gzip file that contains neither a time nor a file name."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
        packed.write(text.encode("utf-8"))


def write_zip(path: Path, members: Iterable[tuple[str, bytes]], compress: bool = True) -> None:
    """Write a zip archive, all members dated 1980-01-01 (the format's zero)."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
            entry.create_system = 3  # Unix, on any system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)


def zip_folder(folder: Path) -> None:
    """Put a folder into a zip archive beside it, and remove it.

    The members are stored as they are (pictures are compressed already), under the folder's name.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    members = ((path.relative_to(folder.parent).as_posix(), path.read_bytes()) for path in paths)
    write_zip(folder.with_name(f"{folder.name}.zip"), members, compress=False)
    shutil.rmtree(folder)


# ------------------------------------------------------------------------------ processes


def draw_all(
    draw: Callable[[Any], Any],
    units: Sequence[Any],
    processes: int,
    tick: Callable[[], None],
) -> list[Any]:
    """Call `draw` on every unit in several processes; records keep the order of the units.

    Args:
        draw: A function that can be pickled.
        units: What to draw.
        processes: How many processes draw; 1 draws in the present one.
        tick: Called after every unit, for a progress bar.
    """
    jobs = [(draw, first, units[first : first + JOB]) for first in range(0, len(units), JOB)]
    drawn: dict[int, list[Any]] = {}
    for first, records in workers.run(_draw_some, jobs, processes):
        drawn[first] = records
        for _ in records:
            tick()
    return [record for first in sorted(drawn) for record in drawn[first]]


def _draw_some(
    draw: Callable[[Any], Any], first: int, units: Sequence[Any]
) -> tuple[int, list[Any]]:
    return first, [draw(unit) for unit in units]
