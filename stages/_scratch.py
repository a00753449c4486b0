"""The end of resume states, which outlive their stage until DVC has recorded its outputs.

DVC hashes and stores what a stage wrote after the stage has ended. If that fails, it deletes the
outputs and runs the stage once more, which then goes on from the state instead of training again.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from convirt import checkpoint, files
from convirt.errors import InputError

SCRATCH = ".scratch"
WRITTEN = "outputs-written"  # in a folder of a state; holds the stage that waits to be recorded
ENOUGH = 3600.0  # seconds for DVC to record outputs, where nobody reports that it has


def mark(folder: Path, stage: str, root: Path) -> None:
    """Note that `stage`, run by DVC in `root`, has written its outputs."""
    files.write_text(folder / WRITTEN, _owner(stage, root))


def unmark(folder: Path) -> None:
    """The stage runs again: the state is needed."""
    (folder / WRITTEN).unlink(missing_ok=True)


def recorded(stage: str, root: Path) -> None:
    """Delete the states of a stage whose outputs DVC has recorded."""
    for path in _marks(root):
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == _owner(stage, root):
                _delete_marked(path.parent)


def sweep(base: Path) -> None:
    """Delete states that were marked more than `ENOUGH` seconds ago, or half-deleted by a kill."""
    for stale in base.glob(f"{SCRATCH}/.*.tmp"):  # as `delete` names them
        files.sweep(stale.with_name(stale.name[1:].rsplit(".", 2)[0]))
    for path in _marks(base):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ENOUGH:
                _delete_marked(path.parent)


def delete(folder: Path) -> None:
    """Delete the folder of a state, which this process has locked."""
    # renamed first, so that a run that starts now never sees it half-deleted
    files.discard(folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}.tmp")))


def _delete_marked(folder: Path) -> None:
    """Delete a folder, unless the stage holds it again."""
    with contextlib.suppress(InputError), checkpoint.locked(folder):
        if (folder / WRITTEN).exists():
            delete(folder)


def _marks(base: Path) -> list[Path]:
    return sorted(base.glob(f"{SCRATCH}/[!.]*/{WRITTEN}"))


def _owner(stage: str, root: Path) -> str:
    """Experiments in copies of the repository share the folder, so the copy is part of it."""
    return f"{stage} in {root}\n"
