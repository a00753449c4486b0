"""Writing files so that a killed process or a full disk leaves nothing half-written behind."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` on success, delete it on failure.

    Works for a file or a folder that the caller creates under the temporary name. An existing
    folder at `path` is replaced: a kill leaves the old or the new one, or, within a short moment,
    none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    remove(temporary)
    try:
        yield temporary
        _put(temporary, path)
    except BaseException:
        remove(temporary)
        raise


def _put(temporary: Path, path: Path) -> None:
    """Rename; a folder at `path` is moved away first, again if another process puts one there."""
    while True:
        old = path.with_name(f".{path.name}.old.{os.getpid()}.tmp")
        remove(old)
        try:
            if path.is_dir() and not path.is_symlink():
                with contextlib.suppress(FileNotFoundError):
                    path.rename(old)  # as a whole, since deleting it takes a while
            temporary.replace(path)
        except BaseException as error:  # ctrl-C as well
            if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST):
                continue
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        else:
            return
        finally:
            discard(old)


def sweep(path: Path) -> None:
    """Delete what processes left behind that were killed while writing or deleting `path`."""
    for stale in path.parent.glob(f".{path.name}.*.tmp"):
        number = stale.name.split(".")[-2]
        if number.isdigit() and not _runs(int(number)):
            remove(stale)


def _runs(number: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def remove(path: Path) -> None:
    """Delete a file or a folder tree; a missing one is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Delete what nobody needs; what cannot be deleted yet is left to `sweep`.

    On NFS a file that a process holds open keeps a name, and so its folder, until it is closed.
    """
    with contextlib.suppress(OSError):
        remove(path)


@contextmanager
def fresh_directory(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` once the block has succeeded."""
    with atomic(path) as temporary:
        temporary.mkdir(parents=True)
        yield temporary


def link(source: Path, path: Path) -> None:
    """Make `source` available as `path` too, by a hard link if the disk allows it, else a copy."""
    try:
        os.link(source, path)
    except OSError:  # two disks, or a file system without links
        shutil.copyfile(source, path)


def write_json(path: Path, value: Any) -> None:
    """Write sorted, indented JSON; NaN and infinity, which JSON cannot express, are refused."""
    text = json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_parquet(path: Path, table: pd.DataFrame) -> None:
    """Write a table without its index; the same table gives the same bytes."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def sha256_of_folder(folder: Path) -> str:
    """Hex digest over the contents of all files below `folder`, in the order of their paths."""
    return sha256(*sorted(path for path in folder.rglob("*") if path.is_file()))


def sha256(*paths: Path) -> str:
    """Hex digest over the contents of `paths`, in the order given."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
