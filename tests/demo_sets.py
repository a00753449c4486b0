"""Small made-up sets, and ways to look at their files, for the tests of the demo."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

from convirt.datasets import archives, layouts

SEED, SIDE = 7, 40
COUNTS: dict[str, dict[str, int]] = {
    "mimic-cxr": {"studies": 60},
    "bone": {"studies": 40},
    "rsna": {"train": 30, "val": 10, "test": 20},
    "chexpert": {"train": 40, "val": 10, "test": 16, "per_class": 3, "queries": 2, "texts": 5},
    "covidx": {"train": 50, "val": 10, "test": 30},
    "mura": {"train": 40, "val": 10, "test": 20},
}


def write_all(home: Path) -> Path:
    """Write one small set of each layout, each in a folder of its name."""
    for name in COUNTS:
        write(name, home / name)
    return home


def write(name: str, root: Path, workers: int = 1, **counts: int) -> Path:
    """Write one small set; `counts` replace those of COUNTS."""
    root.mkdir(parents=True)
    sizes = COUNTS[name] | counts
    layouts.write(name, root, seed=SEED, side=SIDE, counts=sizes, workers=workers)
    return root


def unpack(home: Path) -> Path:
    """Unpack the archives of images in place, as a user would, and delete them."""
    for path in sorted(home.rglob("*.zip")):
        if path.name != "mimic-cxr-reports.zip":
            with zipfile.ZipFile(path) as archive:
                archive.extractall(path.parent)
            path.unlink()
    return home


def digests(root: Path) -> dict[str, str]:
    """The sha256 of every file below `root`."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, gzipped or not, in an archive or not, as text."""
    data = archives.read_bytes(path)
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    return list(csv.DictReader(io.StringIO(text)))


def is_image(path: str) -> bool:
    """Whether a path is that of a film, not of a list or an archiver's leftover."""
    return path.endswith((".png", ".jpg", ".jpeg", ".dcm")) and "/._" not in path


def lines(path: Path) -> list[str]:
    """The lines of a text file, gzipped or not."""
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.decode().splitlines()


def reports(root: Path) -> dict[str, str]:
    """The reports: name in the archive -> text."""
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip") as archive:
        return {name: archive.read(name).decode("ascii") for name in archive.namelist()}
