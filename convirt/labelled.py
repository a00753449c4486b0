"""Labelled images of a task: which are used, at which label fraction, and in batches."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from convirt.errors import InputError
from convirt.metrics import Floats, Ints, Units, check_classes, group
from convirt.resident import take

if TYPE_CHECKING:
    import pandas as pd

EVAL_BATCH = 256  # images per batch where no gradient is needed
SPLITS = ("train", "val", "test")


# ------------------------------------------------------------------------------ which images
def check_task(
    records: pd.DataFrame,
    labels: Sequence[str],
    kind: str,
    metric: str,
    unit: str,
    where: Path,
    splits: Sequence[str] = SPLITS,
) -> None:
    """Refuse a store on which a task cannot be trained, chosen or tested, before anything runs.

    Args:
        records: One row per image: `image, patient, split` and the labels, 0 or 1.
        labels: The task's labels.
        kind: "multiclass" needs exactly one label per image (and per unit).
        metric: A name of `metrics.METRICS`.
        unit: "image", "study" or "patient".
        where: The path that errors name.
        splits: The splits that have to be usable.

    Raises:
        InputError: A label has no column, a split is empty or has only one class, or a unit of a
            multi-class task has no class or several.
    """
    for label in labels:
        if label not in records:
            near = difflib.get_close_matches(label, [str(name) for name in records], 1, 0)
            raise InputError(
                where,
                f"a column {label!r}, which tasks.<name>.labels asks for",
                f"columns {', '.join(map(str, records))}",
                f"correct the label; the nearest column is {near[0]!r}",
            )
    for split in splits:
        rows = records[records["split"] == split]
        y = rows[list(labels)].to_numpy(np.float64)
        units = group(rows[unit].tolist(), rows["patient"].tolist(), y)
        place = f"{where} ({split})"
        check_classes(units.y if split != "train" else y, labels, metric, place)
        classes = units.y.sum(axis=1)
        if kind == "multiclass" and not (classes == 1).all():
            name = sorted(set(rows[unit]))[int(np.flatnonzero(classes != 1)[0])]
            raise InputError(
                place,
                f"exactly one of the classes {', '.join(labels)} for each {unit}",
                f"{int(classes[classes != 1][0])} classes for {name!r}",
                "correct the labels, or set tasks.<name>.kind to multilabel or unit to image",
            )


def label_subset(records: pd.DataFrame, labels: Sequence[str], fraction: int, seed: int) -> Ints:
    """Draw `fraction` percent of the training images: stratified, nested, fixed by the seed.

    Images with the same labels form a stratum. Hashes of (seed, image) shuffle each stratum, whose
    m members then take the places (0 + u) / m, (1 + u) / m, ... on a line, with u fixed per
    stratum; the fraction is the first part of the whole line. So the 1% are part of the 10%, and
    these of the 100%; each stratum has its share to within one image; and the order of rows has no
    effect. A class (a label present, or absent) without an image in the fraction gets its first.

    Args:
        records: The training images: `image` (unique) and the labels, 0 or 1; n rows.
        labels: The columns that count.
        fraction: Percent, 1 to 100.
        seed: Of the draw.

    Returns:
        Ascending positions of rows, about n * fraction / 100 of them.
    """
    y = records[list(labels)].to_numpy(np.float64)
    rank = np.array([_hash(seed, image) for image in records["image"]])
    _, stratum = np.unique(y, axis=0, return_inverse=True)
    place = np.empty(len(y))
    for i in range(stratum.max() + 1):
        members = np.flatnonzero(stratum == i)
        members = members[np.argsort(rank[members])]
        shift = _hash(seed, str(y[members[0]].astype(int)))
        place[members] = (np.arange(len(members)) + shift) / len(members)
    order = np.lexsort((rank, place))
    count = max(1, round(len(y) * fraction / 100))
    chosen = set(order[:count].tolist())
    for column in y[order].T:
        for value in (0.0, 1.0):
            where = np.flatnonzero(column == value)
            if len(where):
                chosen.add(int(order[where[0]]))  # already in, unless the class is missing
    return np.array(sorted(chosen), np.int64)


def _hash(seed: int, name: str) -> float:
    """A number in [0, 1) that looks random but is fixed."""
    return int.from_bytes(sha256(f"{seed}/{name}".encode()).digest()[:6], "big") / 2**48


def prediction_table(
    test: pd.DataFrame, labels: Sequence[str], unit: str, repeats: Sequence[Floats]
) -> pd.DataFrame:
    """One row per repeat and test image: its names, its labels (y_) and its predictions (p_).

    Args:
        test: Records of the n test images.
        labels: The task's labels.
        unit: "image", "study" or "patient".
        repeats: Probabilities (n, L), one array per repeat.
    """
    import pandas as pd

    tables = []
    for i, p in enumerate(repeats):
        table = pd.DataFrame({"repeat": i, "image": test["image"], "patient": test["patient"]})
        table["unit"] = test[unit]
        for j, label in enumerate(labels):
            table[f"y_{label}"], table[f"p_{label}"] = test[label].astype(float), p[:, j]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------ in batches
class Source(Protocol):
    """n labelled items that come in batches."""

    @property
    def y(self) -> Tensor:
        """Labels, 0 or 1, (n, L) float32."""

    @property
    def units(self) -> Units:
        """The units that are scored."""

    def batch(self, index: Ints) -> Tensor:
        """A model's input for the items at `index`, on the device."""


@dataclass(frozen=True)
class Images:
    """Some images of a store, or their features, read in batches: they may exceed the memory.

    Attributes:
        pixels: The whole store, (N, S, S) uint8, or its features, (N, width) float32; usually a
            memory map, or on the device (`resident.placed`).
        rows: Rows of the n items in it.
        y: Labels, (n, L) float32.
        units: The units that are scored.
        prepare: From (b, S, S) uint8 to the encoder's input; features stay as they are.
        device: Where batches go before they are prepared.
        check: Called before each batch; an exception from it ends the caller's work.
    """

    pixels: np.ndarray | Tensor
    rows: Ints
    y: Tensor
    units: Units
    prepare: Callable[[Tensor], Tensor]
    device: str
    check: Callable[[], None] = lambda: None

    def batch(self, index: Ints) -> Tensor:
        """Prepared images, (b, 3, H, W), or features, (b, width)."""
        self.check()
        return self.prepare(take(self.pixels, self.rows[index], torch.device(self.device)))

    def take(self, positions: Ints) -> Images:
        """The items at some positions; `units` still describes all items: do not score a part."""
        return replace(self, rows=self.rows[positions], y=self.y[torch.from_numpy(positions)])


def split_of(
    pixels: np.ndarray | Tensor,
    records: pd.DataFrame,
    labels: Sequence[str],
    unit: str,
    split: str,
    prepare: Callable[[Tensor], Tensor],
    device: str,
    check: Callable[[], None] = lambda: None,
) -> Images:
    """The images of one split; row i of `records` describes pixels[i]. Else as in `Images`."""
    rows = np.flatnonzero(records["split"] == split)
    part = records.iloc[rows]
    y = part[list(labels)].to_numpy(np.float64)
    units = group(part[unit].tolist(), part["patient"].tolist(), y)
    labelled = torch.tensor(y, dtype=torch.float32)
    return Images(pixels, rows, labelled, units, prepare, device, check)


def as_they_are(features: Tensor) -> Tensor:
    """The `prepare` for features."""
    return features


@dataclass(frozen=True)
class Features:
    """A frozen encoder's output for the items `at` (ascending): h is (len(at), width)."""

    h: Tensor
    at: Ints
    y: Tensor
    units: Units

    def batch(self, index: Ints) -> Tensor:
        """Rows of h, (b, width); every index has to be among `at`."""
        return take(self.h, np.searchsorted(self.at, index), self.h.device)


@torch.no_grad()
def features(encoder: nn.Module, source: Source, at: Ints | None = None) -> Features:
    """Run the encoder once, in evaluation mode, over all items or those `at` (ascending)."""
    encoder.eval()
    at = np.arange(len(source.y)) if at is None else at
    h = torch.cat([encoder(source.batch(index)).float() for index in blocks(at)])
    return Features(h, at, source.y, source.units)


def blocks(index: Ints) -> list[Ints]:
    """Cut an index into pieces of at most `EVAL_BATCH`."""
    return np.split(index, range(EVAL_BATCH, len(index), EVAL_BATCH))
