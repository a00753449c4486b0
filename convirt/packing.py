"""Packing a set into a store: decode in parallel, count what is lost, write all or nothing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from convirt import files
from convirt.datasets import sentences, squares
from convirt.datasets.tables import CHOICES, RETRIEVAL_COLUMNS, SPLITS, Funnel, Tables
from convirt.errors import InputError
from convirt.store import FORMAT

CHUNK = 64  # images a job; the bytes do not depend on it
ALONE = 4.0  # seconds of work before other processes are started: they take as long to import
NO_IMAGE = "no usable image"
NO_WORD = "sentence without a word"
_BOX = ("top", "left", "height", "width")


def build(
    tables: Tables,
    out: Path,
    size: int,
    workers: int = 1,
    max_dropped: float = 0.0,
    progress: Callable[[int], None] | None = None,
    confirm: Callable[[], None] | None = None,
) -> Funnel:
    """Decode every image and write the store.

    The bytes are the same for any number of workers. Never more than a few jobs of images are in
    memory. Nothing appears at `out` before all is written.

    Args:
        tables: What a reader returned.
        out: Folder of the store, replaced if it exists.
        size: Side S of a stored image, pixels.
        workers: Processes that decode.
        max_dropped: Share of the wanted images that may be lost.
        progress: Called with the number of images done since the last call.
        confirm: Called before the store takes its place; may raise to prevent that.

    Returns:
        The funnel, complete.

    Raises:
        InputError: More was dropped than `max_dropped`, or nothing is left.
        OSError: The disk is full.
    """
    funnel = tables.funnel
    _check_dropped(tables, max_dropped)  # what the reader dropped already may be too much
    with files.fresh_directory(out) as folder:
        packed = _write_images(tables.images, folder / "images.npy", size, workers, progress)
        records = _records(tables, packed, funnel)
        _check_dropped(tables, max_dropped)
        squares.compact(folder / "images.npy", [not p.reason for p in packed], size)
        files.write_parquet(folder / "records.parquet", records)
        said = _write_text(tables, records, folder, funnel)
        files.write_parquet(folder / "dropped.parquet", _dropped(funnel))
        funnel.split = _split_sizes(records, said)
        contents = sorted(path for path in folder.iterdir())
        meta = {
            "format": FORMAT,
            "images": len(records),
            "size": size,
            "labels": list(tables.labels),
            "kind": tables.kind,
            "reader": tables.reader,
            "digest": files.sha256(*contents),
        }
        files.write_json(folder / "store.json", meta)
        if confirm is not None:
            confirm()
    return funnel


def _write_images(
    table: pd.DataFrame,
    path: Path,
    size: int,
    workers: int,
    progress: Callable[[int], None] | None,
) -> list[squares.Packed]:
    """Write an array with one row for every image of `table`, dropped ones included."""
    needed = len(table) * size * size
    free = shutil.disk_usage(path.parent).free
    if free < needed:  # better now than after an hour
        text = f"{os.strerror(errno.ENOSPC)} ({needed >> 20} MiB needed, {free >> 20} MiB free)"
        raise OSError(errno.ENOSPC, text, str(path))
    offset = squares.create(path, len(table), size)
    names = table["path"].tolist()
    jobs = [
        (names[first : first + CHUNK], first, size, path, offset)
        for first in range(0, len(names), CHUNK)
    ]
    packed: list[squares.Packed] = []
    for results in _run(jobs, workers):
        packed += results
        if progress is not None:
            progress(len(results))
    return packed


def _run(jobs: list[tuple[Any, ...]], workers: int) -> Iterator[list[squares.Packed]]:
    """Do the jobs, here or in other processes; results come in the order of the jobs."""
    start, done = time.monotonic(), 0
    while done < len(jobs) and (workers <= 1 or time.monotonic() - start < ALONE):
        yield squares.pack(*jobs[done])
        done += 1
    if done == len(jobs):
        return
    # Spawned, not forked: the caller may run threads (a progress bar), and forks copy their locks.
    context = multiprocessing.get_context("spawn")
    count = min(workers, len(jobs) - done)
    pool = ProcessPoolExecutor(count, context, initializer=_end_with_parent)
    try:
        yield from pool.map(squares.pack, *zip(*jobs[done:], strict=True))
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed, so that none goes on writing alone."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _records(tables: Tables, packed: list[squares.Packed], funnel: Funnel) -> pd.DataFrame:
    """The table of the kept images; counts the others in the funnel."""
    table = tables.images
    reasons = np.array([p.reason for p in packed], dtype=object)
    for reason in sorted(set(reasons) - {""}):
        funnel.images.drop(reason, table.loc[reasons == reason, "image"])
    kept = reasons == ""
    left = table[kept]
    funnel.studies.drop(NO_IMAGE, sorted(set(table["study"]) - set(left["study"])))
    funnel.converted = dict(Counter(p.converted for p in packed if not p.reason and p.converted))
    boxes = np.array([p.box for p in packed], dtype=np.int32).reshape(-1, 4)[kept]
    columns = ["image", "study", "patient", "split", "view"]
    records: pd.DataFrame = left[columns].astype(str).reset_index(drop=True)
    for name, values in zip(_BOX, boxes.T, strict=True):
        records[name] = values
    for name in RETRIEVAL_COLUMNS:
        if name in left:
            records[name] = left[name].astype(str).to_numpy()
    for name in tables.labels:
        records[name] = left[name].to_numpy(np.float32)
    return records


def _write_text(
    tables: Tables, records: pd.DataFrame, folder: Path, funnel: Funnel
) -> pd.DataFrame | None:
    """Write the sentences of the kept studies, or the text queries; return the sentences."""
    if tables.queries is not None:
        files.write_parquet(folder / "queries.parquet", tables.queries.astype(str))
    if tables.reports is None:
        return None
    alive = set(records["study"])
    rows: list[tuple[str, str]] = []
    for study, text in zip(tables.reports["study"], tables.reports["text"], strict=True):
        found = sentences.pieces(text)
        funnel.sentences.found += len(found)
        if study not in alive:
            funnel.sentences.drop(NO_IMAGE, [study] * len(found))
            continue
        spoken = [piece for piece in found if sentences.has_word(piece)]
        funnel.sentences.drop(NO_WORD, [study] * (len(found) - len(spoken)))
        rows += [(study, sentence) for sentence in spoken]
    table = pd.DataFrame(rows, columns=["study", "sentence"], dtype=str)
    files.write_parquet(folder / "sentences.parquet", table)
    return table


def _split_sizes(records: pd.DataFrame, said: pd.DataFrame | None) -> dict[str, dict[str, int]]:
    """Images, studies, patients and sentences of each split."""
    sizes = {}
    for name in SPLITS:
        part = records[records["split"] == name]
        sizes[name] = {
            "images": len(part),
            "studies": part["study"].nunique(),
            "patients": part["patient"].nunique(),
        }
        if said is not None:
            sizes[name]["sentences"] = int(said["study"].isin(set(part["study"])).sum())
    return sizes


def _dropped(funnel: Funnel) -> pd.DataFrame:
    """What was dropped, one row a study or image, for a person to look up."""
    rows = [
        (what, name, reason)
        for what, count in (("study", funnel.studies), ("image", funnel.images))
        for reason, ids in sorted(count.dropped.items())
        for name in ids
    ]
    return pd.DataFrame(rows, columns=["what", "id", "reason"], dtype=str)


def _check_dropped(tables: Tables, max_dropped: float) -> None:
    """Refuse a set of which too much was lost."""
    funnel = tables.funnel
    if funnel.images.kept > 0 and funnel.dropped_share <= max_dropped:
        return
    lost = {r: ids for r, ids in funnel.images.dropped.items() if r not in CHOICES}
    reasons = "; ".join(f"{len(ids)} {r} (such as {ids[0]})" for r, ids in sorted(lost.items()))
    raise InputError(
        tables.source,
        f"at most {max_dropped:.1%} of the images dropped (datasets.max_dropped), and some left",
        f"{funnel.dropped_share:.1%} of {funnel.images.found - funnel.images.excluded}: {reasons}",
        "repair or remove these images, or raise datasets.max_dropped if they are truly lost",
    )
