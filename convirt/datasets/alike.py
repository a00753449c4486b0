"""People and pictures that two parts of a set share: they are reported, not refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from convirt.datasets.tables import Funnel

SHOWN = 3  # examples that are named
MANY = 10  # in a split of at least this many images no patient should have more than half
ONE_PERSON = "images are of one patient: intervals over patients need the id of each"
PERSONS = "patients may be one person under two ids in different splits: give a person one id"
PICTURES = (
    "pictures are under two names in different splits: leave one out, or give both one patient"
)
PICTURES_FOUND = "pictures are a query and a candidate, which it finds first: leave one out"
PICTURES_LABELS = (
    "pictures are under two names with different labels: correct one, or leave both out"
)
SHARED_PATIENTS = "patients with a query and a candidate"
SHARED_QUERIES = "image queries whose patient has a candidate"
SHARED_CLASS = "image queries whose patient has a candidate of the same class"
# "p007", "7" and "7.0", the last from a spreadsheet program that took ids for numbers.
_NUMBERED = re.compile(r"(\D*)0*(\d+)(?:\.0+)?")


def note_patients(images: pd.DataFrame, funnel: Funnel) -> None:
    """Note ids that may be one patient, and an id that may be many patients.

    The former are ids in different splits that differ only by case, leading zeros or ".0"; the
    latter is an id that more than half of a split's images have.

    Args:
        images: patient and split, one row per image.
        funnel: Gets the note, and the first few pairs as examples.
    """
    patients = images[["patient", "split"]].drop_duplicates()
    pairs = _pairs(patients["patient"].map(_plain), patients["patient"], patients["split"])
    funnel.note(PERSONS, len(pairs), ", ".join(pairs[:SHOWN]))
    for split, own in images.groupby("split", sort=True)["patient"]:
        most = own.value_counts()
        if len(own) >= MANY and 2 * most.iloc[0] > len(own):
            funnel.note(
                f"of {len(own)} {split} {ONE_PERSON}", int(most.iloc[0]), f"`{most.index[0]}`"
            )


def note_pictures(
    records: pd.DataFrame, rows: Path, funnel: Funnel, labels: Sequence[str] = ()
) -> None:
    """Note pictures that are equal pixel by pixel where they should not be.

    That is: in different splits, as a query and as a candidate, or with different labels.

    Args:
        records: image, split, role (of a retrieval set) and labels, aligned with the rows.
        rows: The stored pictures, an .npy file; all of it is read if there are parts to compare.
        funnel: Gets the notes, and the first few pairs as examples.
        labels: Columns of records.
    """
    parts = {PICTURES: records["split"]}
    if "role" in records:
        parts[PICTURES_FOUND] = records["role"]
    if labels:
        # one number for each combination of labels: 0.04 s for CheXpert, where texts took 16 s
        parts[PICTURES_LABELS] = records.groupby(list(labels), dropna=False).ngroup()
    parts = {what: part for what, part in parts.items() if part.nunique() > 1}
    if not parts:
        return
    equal = digests(rows)
    for what, part in parts.items():
        pairs = _pairs(equal, records["image"], part, told=what != PICTURES_LABELS)
        funnel.note(what, len(pairs), ", ".join(pairs[:SHOWN]))


def digests(rows: Path, chosen: np.ndarray | None = None) -> list[bytes]:
    """A digest of each picture of an .npy file, or of the chosen ones; equal for equal pictures."""
    pictures = np.load(rows, mmap_mode="r", allow_pickle=False)
    places = range(len(pictures)) if chosen is None else chosen
    # 64 bits: a CRC-32 would mistake about 17 pairs of MIMIC-CXR's 377,110 pictures for equal
    return [hashlib.blake2b(pictures[place], digest_size=8).digest() for place in places]


def note_shared(queries: pd.DataFrame, candidates: pd.DataFrame, funnel: Funnel) -> None:
    """Note how many queries have another film of the same patient among the candidates.

    Args:
        queries: patient and label, one row per image query.
        candidates: Likewise.
        funnel: Gets the notes.
    """
    own = queries["patient"].isin(set(candidates["patient"]))
    pairs = set(zip(candidates["patient"], candidates["label"], strict=True))
    classes = [pair in pairs for pair in zip(queries["patient"], queries["label"], strict=True)]
    funnel.note(SHARED_PATIENTS, int(queries.loc[own, "patient"].nunique()))
    funnel.note(SHARED_QUERIES, int(own.sum()))
    funnel.note(SHARED_CLASS, sum(classes))


def _plain(patient: str) -> str:
    """What the different spellings of one id have in common."""
    number = _NUMBERED.fullmatch(patient)
    return (number[1] + number[2] if number else patient).casefold()


def _pairs(
    keys: Iterable[object], ids: pd.Series, parts: pd.Series, told: bool = True
) -> list[str]:
    """For each key that occurs in several parts, its first id in each of the first two of them.

    With `told`, each id is followed by the name of its part.
    """
    found: dict[object, dict[object, str]] = {}
    for key, name, part in zip(keys, ids, parts, strict=True):
        found.setdefault(key, {}).setdefault(part, name)
    apart = (list(places.items())[:2] for places in found.values() if len(places) > 1)
    return [" and ".join(f"`{name}`" + f" ({part})" * told for part, name in two) for two in apart]
