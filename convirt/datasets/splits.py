"""Train, validation and test: drawn by patient from a seed, listed, or as given by the layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from convirt.errors import InputError

# Names that layouts use for our three splits; MIMIC-CXR says "validate", other lists "valid".
ALIASES = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class Listed:
    """A split that was drawn once and is kept as a list of ids; see `split_lists`.

    Attributes:
        source: The list, for error messages.
        parts: Image id -> "val" or "test", for the drawn images; all others stay where they are.
        people: Image id -> patient, for the same images.
        images: How many images it was drawn from.
        digest: sha256 of their ids, as `split_lists.digest` computes it.
        val: Size that was asked for.
        test: Likewise.
    """

    source: Path
    parts: Mapping[str, str]
    people: Mapping[str, str]
    images: int
    digest: str
    val: float
    test: float


@dataclass(frozen=True)
class Split:
    """How to divide a set.

    Attributes:
        seed: Seed of the draw.
        val: Validation share (< 1) or count (>= 1) of units: studies of a pair set, else images.
        test: Likewise; 0 where the layout has its own test set.
        listed: A split to use instead of drawing one.
    """

    seed: int
    val: float = 0
    test: float = 0
    listed: Listed | None = None


def assign(table: pd.DataFrame, split: Split, source: Path) -> pd.Series:
    """Assign each unit to training, validation or test.

    Given splits stay. Units given as train, or not given, are the pool from which first the test
    and then the validation units are drawn, whole patients at a time.

    Args:
        table: One row per unit: patient (str) and given ("" where the layout does not say).
        split: Seed and sizes.
        source: List file for error messages.

    Returns:
        "train", "val" or "test", aligned with `table`.

    Raises:
        InputError: A patient is in two given splits, or has units in validation or test and others
            not given; a split name is unknown; a size cannot be drawn; or a size is asked for
            although the layout has that split.
    """
    given = given_splits(table, source)
    for name, size in (("val", split.val), ("test", split.test)):
        _check_size(name, size)
        if size and (given == name).any():
            raise InputError(
                source,
                f"{name}: 0 in params.yaml, because this set brings its own {name} split",
                f"{name}: {size:g}",
                f"set datasets.sources.<name>.{name} to 0",
            )
    one_split_a_patient(table["patient"], given, source)

    result = given.where(given != "", "train")
    pool = table["patient"][result == "train"].value_counts().sort_index()
    # Sorted before shuffling: the order of the rows in a file must not decide who is tested.
    order = np.random.default_rng([split.seed, len(pool)]).permutation(len(pool))
    patients, counts = pool.index.to_numpy()[order], pool.to_numpy()[order]
    total = int(counts.sum())
    for name, size in (("test", split.test), ("val", split.val)):
        count = round(size * total) if size < 1 else int(size)
        chosen = _take(counts, max(count, 1)) if size else np.zeros(len(counts), dtype=bool)
        if size and (chosen.all() or counts.sum() < count):
            hint = f"lower datasets.sources.<name>.{name} in params.yaml"
            if len(counts) == 1:  # whole patients are drawn, so a smaller number is no help
                hint = "name the person of each row in the patient column"
            raise InputError(
                source,
                f"more than {count} units to draw {name} from, so that some are left to train",
                f"{int(counts.sum())} units of {len(counts)} patients",
                hint,
            )
        result[table["patient"].isin(patients[chosen]) & (result == "train")] = name
        patients, counts = patients[~chosen], counts[~chosen]
    return result


def _take(counts: np.ndarray, count: int) -> np.ndarray:
    """Mark patients, in the order given, until their units reach `count`.

    A patient who would overshoot is skipped, so the count is met exactly as long as patients with
    few units remain; if it is not met, the smallest patient left is added.
    """
    chosen = np.zeros(len(counts), dtype=bool)
    total = 0
    for i, units in enumerate(counts):
        if total + units <= count:
            chosen[i] = True
            total += int(units)
        if total == count:
            break
    if total < count and not chosen.all():
        rest = np.flatnonzero(~chosen)
        chosen[rest[np.argmin(counts[rest])]] = True
    return chosen


def given_splits(table: pd.DataFrame, source: Path) -> pd.Series:
    """The layout's own splits under our names."""
    given = table["given"].astype(str).str.strip().str.lower()
    unknown = sorted(set(given) - set(ALIASES) - {""})
    if unknown:
        raise InputError(
            source,
            "train, val, test or nothing in the split column",
            f"`{unknown[0]}`",
            "correct the split column",
        )
    return given.map(lambda name: ALIASES.get(name, "")).astype(object)


def _check_size(name: str, size: float) -> None:
    """Refuse sizes that are neither a share nor a whole count."""
    if size < 0 or (size >= 1 and size != int(size)):
        raise InputError(
            "params.yaml",
            f"a share below 1 or a whole count for `{name}`",
            f"{size:g}",
            f"correct datasets.sources.<name>.{name}",
        )


def one_split_a_patient(patients: pd.Series, given: pd.Series, source: Path) -> None:
    """Refuse a patient whom the layout puts in two splits; a blank counts as train."""
    blank = given == ""
    pairs = pd.DataFrame({"patient": patients, "split": given.mask(blank, "train")})
    pairs = pairs.drop_duplicates()
    torn = sorted(set(pairs.loc[pairs["patient"].duplicated(), "patient"]))
    if torn:
        splits = sorted(pairs.loc[pairs["patient"] == torn[0], "split"])
        unsaid = (blank & (patients == torn[0])).any()
        raise InputError(
            source,
            "each patient in one split only, or the test result is inflated",
            f"patient `{torn[0]}` in {' and '.join(splits)}"
            + " (a blank means train)" * bool(unsaid)
            + (f", and {len(torn) - 1} more patients" if len(torn) > 1 else ""),
            "move all rows of a patient to one split, or leave the split column empty",
        )
