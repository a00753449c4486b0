"""Packing a data set into a store: count what is lost, write all or nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from convirt import files, pieces
from convirt.datasets import alike, sentences, squares
from convirt.datasets.squares import Packed
from convirt.datasets.tables import CHOICES, RETRIEVAL_COLUMNS, SPLITS, Funnel, Tables
from convirt.errors import InputError
from convirt.pieces import Piece, Share
from convirt.store import FORMAT

NO_IMAGE = "no usable image"
NO_WORD = "sentence without a word"
DARK = (
    f"films are nearly black: at most {squares.BRIGHT_SHARE:.0%} of their pixels are brighter than "
    f"{squares.DIM} of 255. Look at them: in a file of more than 8 bits without a window, one "
    "bright marker sets the scale of the whole film"
)
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
    """Decode every image and write the store, in one go and without a resume state.

    For benches and tests; `stages/preprocess.py` does the same by `start`, `decode` and `merge`.
    The bytes are the same for any number of workers. At most a few jobs' images are in memory.
    Nothing appears at `out` before everything is written.

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
    check_dropped(tables, max_dropped)
    with _beside(out) as folder:
        piece = start(tables, folder, Share(), pieces.belongs(tables.images, size, {}), out)
        pieces.decode(piece, tables.images, workers, progress)
        return merge(tables, [piece], out, max_dropped, confirm)


def start(
    tables: Tables, folder: Path, share: Share, to: pieces.Belongs, out: Path | None = None
) -> Piece:
    """Begin or resume a piece, if there is room on the disk for it and for the store at `out`.

    Raises:
        InputError: The folder holds a piece of something else.
        OSError: There is too little room: better to know now than after hours.
    """
    piece = pieces.start(folder, tables.images, share, to)
    row = piece.size * piece.size
    needed = {folder: (piece.count - piece.done) * row}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        needed[out.parent] = len(tables.images) * row
    _check_room(needed)
    return piece


def merge(
    tables: Tables,
    parts: Sequence[Piece],
    out: Path,
    max_dropped: float = 0.0,
    confirm: Callable[[], None] | None = None,
) -> Funnel:
    """Write the store from pieces that hold all images, a block at a time.

    Args:
        tables: What a reader returned.
        parts: Finished pieces in order; they stay as they are.
        out: Folder of the store, replaced if it exists.
        max_dropped: Share of the wanted images that may be lost.
        confirm: Called before the store takes its place; may raise to prevent that.

    Returns:
        The funnel, complete.

    Raises:
        InputError: More was dropped than `max_dropped`, nothing is left, or a piece is damaged.
        OSError: The disk is full.
    """
    funnel, size = tables.funnel, parts[0].size
    records = _records(tables, list(chain.from_iterable(p.results for p in parts)), funnel)
    check_dropped(tables, max_dropped)
    _check_parts(tables, records, max_dropped)
    with files.fresh_directory(out) as folder:
        _check_room({folder: len(records) * size * size})
        with (folder / "images.npy").open("wb") as rows:
            rows.write(squares.header(len(records), size))
            for part in parts:
                part.append_kept(rows)
        alike.note_pictures(records, folder / "images.npy", funnel, tables.labels)
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


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder beside `out`, deleted at the end; `files` sweeps it up if the process is killed."""
    folder = out.with_name(f".{out.name}.pieces.{os.getpid()}.tmp")
    files.remove(folder)
    try:
        yield folder
    finally:
        files.remove(folder)


def _check_room(needed: Mapping[Path, int]) -> None:
    """Raise the error of a full disk unless `needed` bytes are free on the disk of each folder."""
    wanted: Counter[int] = Counter()
    for folder, count in needed.items():
        wanted[folder.stat().st_dev] += count
    for folder in needed:
        count, free = wanted[folder.stat().st_dev], shutil.disk_usage(folder).free
        if free < count:
            text = f"{os.strerror(errno.ENOSPC)} ({count >> 20} MiB needed, {free >> 20} MiB free)"
            raise OSError(errno.ENOSPC, text, str(folder))


def _records(tables: Tables, packed: list[Packed], funnel: Funnel) -> pd.DataFrame:
    """The table of the kept images; counts the others in the funnel."""
    table = tables.images
    reasons = np.array([p.reason for p in packed], dtype=object)
    for reason in sorted(set(reasons) - {""}):
        funnel.images.drop(reason, table.loc[reasons == reason, "image"])
    kept = reasons == ""
    left = table[kept]
    funnel.studies.drop(NO_IMAGE, sorted(set(table["study"]) - set(left["study"])))
    funnel.converted = dict(Counter(p.converted for p in packed if not p.reason and p.converted))
    dark = left.loc[np.array([p.dark for p in packed])[kept], "image"]
    funnel.note(DARK, len(dark), ", ".join(f"`{name}`" for name in dark[: alike.SHOWN]))
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
    owners: list[str] = []  # two flat lists: the paper's set has 1.5 million sentences
    said: list[str] = []
    for study, text in zip(tables.reports["study"], tables.reports["text"], strict=True):
        found = sentences.pieces(text)
        funnel.sentences.found += len(found)
        if study not in alive:
            funnel.sentences.drop(NO_IMAGE, [study] * len(found))
            continue
        spoken = [piece for piece in found if sentences.has_word(piece)]
        funnel.sentences.drop(NO_WORD, [study] * (len(found) - len(spoken)))
        owners += [study] * len(spoken)
        said += spoken
    table = pd.DataFrame({"study": owners, "sentence": said}, dtype=str)
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
    """What was dropped, one row per study or image, for people to look up."""
    rows = [
        (what, name, reason)
        for what, count in (("study", funnel.studies), ("image", funnel.images))
        for reason, ids in sorted(count.dropped.items())
        for name in ids
    ]
    return pd.DataFrame(rows, columns=["what", "id", "reason"], dtype=str)


def check_dropped(tables: Tables, max_dropped: float) -> None:
    """Refuse a data set of which too much was lost."""
    funnel = tables.funnel
    if funnel.images.kept > 0 and funnel.dropped_share <= max_dropped:
        return
    lost = {r: ids for r, ids in funnel.images.dropped.items() if r not in CHOICES}
    reasons = "; ".join(f"{len(ids)} {r} (such as {ids[0]})" for r, ids in sorted(lost.items()))
    raise InputError(
        tables.source,
        f"at most {max_dropped:.1%} of the images dropped (max_dropped), and some left",
        f"{funnel.dropped_share:.1%} of {funnel.images.found - funnel.images.excluded}: {reasons}",
        "repair or remove these images, or raise max_dropped if they are truly lost",
    )


def _check_parts(tables: Tables, records: pd.DataFrame, max_dropped: float) -> None:
    """Refuse a data set if one part lost too much: 300 test films are only 2% of COVIDx."""
    columns = [name for name in ("split", "role") if name in tables.images]
    kept = set(records["image"])
    for part, own in tables.images.groupby(columns)["image"]:
        lost = own[~own.isin(kept)]
        if len(lost) <= max_dropped * len(own):
            continue
        name = " ".join(map(str, part))
        raise InputError(
            tables.source,
            f"at most {max_dropped:.1%} of the images of each part dropped (max_dropped)",
            f"{len(lost):,} of the {len(own):,} of {name}, such as {lost.iloc[0]}",
            "fetch or repair these images, or raise max_dropped if they are truly lost",
        )
