"""The features that a frozen encoder gives for the images of a store: computed once, kept on disk.

A linear probe sees images only through the frozen encoder, so all label fractions, repeats and
solvers of one task and encoder share these features. They are always computed in the same
blocks and always read from the file, so a run gives the same bytes whether the file existed or
not. The folder is named after everything that the features depend on; deleting it costs only time.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from convirt import checkpoint, files, image_encoder
from convirt.errors import InputError, quoted

KEEP_EVERY = 60.0  # seconds between two marks to resume from; no effect on results
FILE, PART, MARK = "features.npy", "features.part", "features.json"


def features(
    folder: Path,
    images: np.ndarray,
    rows: np.ndarray,
    encoder: Path,
    device: str,
    report: Callable[[int], None] = lambda count: None,
    confirm: Callable[[], None] = lambda: None,
    waiting: Callable[[str], None] = lambda process: None,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Read the features in `folder`, computing them first if they are not there yet.

    If several processes need the same features, one computes them and the others wait for it. A
    killed computation resumes from the last mark.

    Args:
        folder: Of this cache, named after everything that the features depend on.
        images: A store's images, (N, S, S) uint8.
        rows: Which of them, ascending, (n,).
        encoder: Folder of the image encoder; its network is loaded only if something is computed.
        device: "cpu" or "cuda".
        report: Called with the number of images done since the last call, first with resumed ones.
        confirm: Called before the file is kept; may raise to prevent that.
        waiting: Called with the process that this one waits for, as "12 on host".
        check: Called repeatedly during that wait; may raise to end it.

    Returns:
        (n, width) float32, a memory map: h_v of images[rows[i]] in row i, in evaluation mode.

    Raises:
        InputError: The file is damaged.
    """
    path = folder / FILE
    shape = (len(rows), image_encoder.read_image_config(encoder).width)
    if not path.exists():
        with checkpoint.locked(folder, waiting, check):
            if not path.exists():  # the other process may have written it
                _compute(folder, images, rows, encoder, device, report)
                confirm()
                (folder / PART).rename(path)
    (folder / MARK).unlink(missing_ok=True)
    return _open(path, shape)


def _open(path: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        found = f"{array.dtype} {array.shape}"
    except (ValueError, EOFError, OSError) as error:
        found = str(error).splitlines()[0]
    else:
        if array.shape == shape and array.dtype == np.float32:
            return array
    hint = f"rm -r {quoted(path.parent)}, and run the same command"
    raise InputError(path, f"features, float32 {shape}", found, hint)


def _compute(
    folder: Path,
    images: np.ndarray,
    rows: np.ndarray,
    encoder: Path,
    device: str,
    report: Callable[[int], None],
) -> None:
    """Write all of PART, resuming from MARK if there is one."""
    network, config = image_encoder.load_image_encoder(encoder)
    network.to(device)
    part, mark = folder / PART, folder / MARK
    done, offset = _marked(part, mark)
    # plain writes, no memory map: a full disk then raises an error instead of killing the process
    with part.open("r+b" if done else "wb") as handle:
        if not done:
            shape = (len(rows), config.width)
            head = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(handle, head)
        else:
            handle.truncate(offset)  # drops what was written after the mark
            handle.seek(offset)
            report(done)
        kept = time.monotonic()
        for h in image_encoder.encoded(images, rows[done:], network, config, device):
            if h.shape[1] != config.width:  # else rows would shift without any error
                found, hint = f"{h.shape[1]} numbers per film", "dvc repro -f encoder pretrain"
                raise InputError(encoder, f"{config.width}, as in its config.json", found, hint)
            handle.write(np.ascontiguousarray(h, "<f4").tobytes())
            done += len(h)
            if time.monotonic() - kept >= KEEP_EVERY:
                _flush(handle.fileno(), handle.flush)
                files.write_json(mark, {"images": done, "bytes": handle.tell()})
                kept = time.monotonic()
            report(len(h))
        _flush(handle.fileno(), handle.flush)


def _marked(part: Path, mark: Path) -> tuple[int, int]:
    """How many images are certainly in PART, and at which byte they end."""
    try:
        at = json.loads(mark.read_text(encoding="utf-8"))
        if part.stat().st_size >= at["bytes"]:
            return int(at["images"]), int(at["bytes"])
    except (FileNotFoundError, ValueError, KeyError):
        pass
    return 0, 0


def _flush(descriptor: int, flush: Callable[[], None]) -> None:
    """Force what was written onto the disk."""
    flush()
    os.fsync(descriptor)
