"""Files inside zip archives, addressed as if the archive were a folder.

CheXpert, MURA and RSNA are distributed as zip files, and clusters limit the number of files, so a
set can be read without unpacking it. `MURA-v1.1.zip/MURA-v1.1/train_image_paths.csv` is a member of
an archive; every other path keeps its usual meaning.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from convirt.errors import InputError

SUFFIX = ".zip"
# The largest DICOM radiographs have some 40 MB; a member that claims more than this is a bomb.
MAX_BYTES = 1 << 30
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those that Python can unpack in blocks
BLOCK = 1 << 20


class MemberError(InputError):
    """A member that cannot be unpacked: damaged, encrypted, or too large."""

    def __init__(self, path: Path, found: str) -> None:
        super().__init__(path, "a member that can be unpacked", found, "download it again")


class _Index(NamedTuple):
    """An open archive and its folders, which an archive need not list itself."""

    archive: zipfile.ZipFile
    folders: dict[str, set[str]]


def is_file(path: Path) -> bool:
    """Whether `path` is a file, on the disk or in an archive."""
    if path.is_file():
        return True
    place = _split(path)
    return place is not None and place[1] in _index(place[0]).archive.NameToInfo


def is_dir(path: Path) -> bool:
    """Whether `path` is a folder, on the disk or in an archive; an archive itself is one."""
    if path.is_dir():
        return True
    place = _split(path)
    return place is not None and place[1] in _index(place[0]).folders


def holds(path: Path) -> bool:
    """Whether `path` is an archive, or a name in one, where no link leads elsewhere."""
    return _split(path) is not None


def exists(path: Path) -> bool:
    """Whether `path` is a file or a folder, on the disk or in an archive."""
    return path.exists() or is_file(path) or is_dir(path)


def names(folder: Path) -> list[str]:
    """The names in a folder, sorted; none if it does not exist."""
    if folder.is_dir():
        return sorted(path.name for path in folder.iterdir())
    place = _split(folder)
    return sorted(_index(place[0]).folders.get(place[1], ())) if place else []


def open_binary(path: Path) -> BinaryIO:
    """Open a file or a member for reading; a member is unpacked into memory.

    Raises:
        OSError: As for any file; a member that is not there is a FileNotFoundError.
        MemberError: The member cannot be unpacked.
        InputError: The archive cannot be read.
    """
    place = _split(path)
    if place is None:
        if not (path.is_file() or path.is_dir()):  # such as a pipe, which would be waited for
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path.open("rb")
    archive = _index(place[0]).archive
    entry = archive.NameToInfo.get(place[1])
    if entry is None or entry.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    if entry.file_size > MAX_BYTES:
        raise MemberError(path, f"{entry.file_size} bytes")
    if entry.compress_type not in METHODS:
        raise MemberError(path, f"the method of compression {entry.compress_type}")
    try:
        with archive.open(entry) as member:
            # block by block, since the size that an archive claims need not be true
            return io.BytesIO(b"".join(iter(lambda: member.read(BLOCK), b"")))
    # RuntimeError: encrypted; NotImplementedError: encrypted in a way that Python does not know
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise MemberError(path, str(error)) from error


def read_bytes(path: Path) -> bytes:
    """The whole content of a file or a member; raises as `open_binary` does."""
    with open_binary(path) as handle:
        return handle.read()


def stamp(path: Path) -> tuple[int, ...]:
    """Numbers that change with the content, which is not read; () if nothing is there."""
    place = _split(path)
    try:
        if place is None:
            stat = path.stat()
            return stat.st_size, stat.st_mtime_ns
        entry = _index(place[0]).archive.NameToInfo.get(place[1])
    except OSError:
        return ()
    return (entry.file_size, entry.CRC) if entry else ()


def _split(path: Path) -> tuple[Path, str] | None:
    """The archive and the member's name in it ("" for the archive itself); None for other paths."""
    if SUFFIX not in str(path).lower():
        return None
    for parent in (path, *path.parents):
        if parent.suffix.lower() == SUFFIX and parent.is_file():
            inner = path.relative_to(parent).as_posix()
            return parent, "" if inner == "." else inner
    return None


def _index(archive: Path) -> _Index:
    stat = archive.stat()
    # A forked worker opens its own: two processes that share a file position read nonsense.
    return _open(archive, os.getpid(), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=8)
def _open(path: Path, process: int, changed: int, size: int) -> _Index:
    """Read the list of members, once per process."""
    try:
        archive = zipfile.ZipFile(path)
    # ValueError and struct.error: a corrupt directory of members
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, struct.error) as error:
        raise InputError(path, "a zip archive", str(error), "download it again") from error
    folders: dict[str, set[str]] = {"": set()}
    for name in archive.NameToInfo:
        parts = name.rstrip("/").split("/")
        for depth in range(len(parts), 0, -1):
            inside = folders.setdefault("/".join(parts[: depth - 1]), set())
            if parts[depth - 1] in inside:
                break  # and so are all folders above
            inside.add(parts[depth - 1])
        if name.endswith("/"):
            folders.setdefault(name.rstrip("/"), set())
    return _Index(archive, folders)
