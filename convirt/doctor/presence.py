"""Whether files that a list names exist, with few accesses to the disk."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from convirt.datasets import archives
from convirt.errors import InputError

PROBES = 20  # files looked for to tell one layout from another


class Files(NamedTuple):
    """Files of one sort.

    Attributes:
        what: "images" or "reports".
        home: What the names are relative to.
        names: Relative paths.
    """

    what: str
    home: Path
    names: Sequence[str]

    def path(self, index: int) -> Path:
        """The path of one of the files."""
        return self.home / self.names[index]


def exists(path: Path) -> bool:
    """Whether there is anything at `path`; a damaged archive counts."""
    try:
        return archives.exists(path)
    except InputError:
        return path.is_file()
    except (OSError, ValueError):
        return False


def there(path: Path) -> bool:
    """Whether a file exists; False for a name that no disk can hold (too long, with a NUL)."""
    try:
        return archives.is_file(path)
    except (OSError, ValueError):
        return False


def names(folder: Path) -> list[str]:
    """The names in a folder; none if it does not exist or cannot be listed."""
    try:
        return archives.names(folder)
    except (InputError, OSError, ValueError):
        return []


def nearly(path: Path) -> Path | None:
    r"""An existing path that differs only in case, form of accents, or / for \; None if none."""
    path = Path(str(path).replace("\\", "/"))
    folder = path.parent if exists(path.parent) else nearly(path.parent)
    wanted = _plain(path.name)
    near = [name for name in names(folder) if _plain(name) == wanted] if folder else []
    return folder / near[0] if folder and near else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def spread(count: int, at_most: int) -> Sequence[int]:
    """At most `at_most` of `count` indices, the first and the last among them, evenly spaced."""
    if count <= at_most:
        return range(count)
    return sorted({i * (count - 1) // (at_most - 1) for i in range(at_most)})


def likeliest(candidates: Sequence[Files]) -> Files:
    """The candidate of which most files exist, judging by a few; the first of equals."""
    return max(candidates, key=lambda files: sum(map(there, probes(files))))


def probes(files: Files) -> list[Path]:
    """A few of the files, spread evenly over all."""
    return [files.path(index) for index in spread(len(files.names), PROBES)]


def absent(files: Files, indices: Iterable[int]) -> list[Path]:
    """The files at `indices` that do not exist; each is looked for."""
    return [path for path in map(files.path, indices) if not there(path)]


def absent_of_all(files: Files) -> list[Path]:
    """All files that do not exist; each folder is listed once."""
    missing: list[Path] = []
    listed: dict[Path, frozenset[str]] = {}
    for path in map(files.path, range(len(files.names))):
        if path.parent not in listed:
            listed[path.parent] = frozenset(names(path.parent))
        if path.name not in listed[path.parent]:
            missing.append(path)
    return missing
