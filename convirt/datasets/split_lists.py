"""Splits as lists of ids that are kept in the repository, with a record of how they were drawn.

A list is two files: NAME.csv (id, split, patient) holds the images drawn for validation and test;
NAME.json is its head: rule, seed, counts, and the sha256 of all ids that it was drawn from. Images
that the list does not name stay where the layout puts them, mostly in train.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from convirt import files
from convirt.datasets import inputs
from convirt.datasets.splits import Listed, Split, given_splits, one_split_a_patient
from convirt.datasets.tables import PERSON_HELD_OUT, SPLITS, Funnel, Tables
from convirt.errors import InputError

COLUMNS = ("id", "split", "patient")
DRAWN = ("val", "test")
PIN = 12  # hex digits of a list's sha256 after the "@" of a reference
RULE = (
    "Whole patients at random until the size is met, test before val: "
    "numpy.random.default_rng([seed, number of patients]).permutation over the sorted patients; "
    "a patient who would overshoot is passed over (convirt/datasets/splits.py)."
)


class Drawn(NamedTuple):
    """A split list as text: the table, its head, and the pin by which params.yaml refers to it."""

    csv: str
    head: dict[str, Any]
    pin: str


def digest(ids: Iterable[str]) -> str:
    """The sha256 of the sorted ids, each followed by a line feed, as UTF-8."""
    return hashlib.sha256("".join(f"{name}\n" for name in sorted(ids)).encode()).hexdigest()


def draw(tables: Tables, split: Split, name: str) -> Drawn:
    """The list for the split of `tables`.

    Args:
        tables: What a reader returned for `split`.
        split: Seed and sizes; a split that the layout provides (size 0) is not listed.
        name: Name of the set.

    Raises:
        InputError: A patient is in two parts, as happens with CheXpert's `validation: image`.
    """
    images = tables.images
    torn = images.groupby("patient")["split"].nunique() > 1
    if torn.any():
        found = f"{int(torn.sum())} patients in two, such as `{torn.idxmax()}`"
        hint = (
            "an option draws images instead of patients: run without a list, or change that option"
        )
        raise InputError(tables.source, "each patient in one part", found, hint)
    drawn = [part for part in DRAWN if getattr(split, part)]
    held = images[images["split"].isin(drawn)].sort_values("image")
    columns = held[["image", "split", "patient"]].set_axis(list(COLUMNS), axis=1)
    stream = io.StringIO()
    columns.to_csv(stream, index=False, lineterminator="\n")
    text = stream.getvalue()
    checksum = hashlib.sha256(text.encode()).hexdigest()
    head = {
        "set": name,
        "reader": tables.reader,
        "rule": RULE,
        "seed": split.seed,
        "val": _plain(split.val),
        "test": _plain(split.test),
        "unit": "study" if tables.kind == "pairs" else "image",
        "drawn_from": {"images": len(images), "sha256": digest(images["image"])},
        "list": {"images": len(held), "sha256": checksum},
        "splits": {
            part: _counts(images[images["split"] == part], tables.labels) for part in SPLITS
        },
        "notes": list(tables.funnel.notes),
    }
    return Drawn(text, head, checksum[:PIN])


def write(path: Path, drawn: Drawn) -> None:
    """Write a list and its head.

    Raises:
        InputError: There is a list of another reader's set, which would be replaced.
    """
    before, reader = _reader(path.with_suffix(".json")), drawn.head["reader"]
    if before and before != reader:
        raise InputError(
            path,
            f"no list, or one of the reader `{reader}`",
            f"one of the reader `{before}`",
            "write the new list into another folder: --out FOLDER",
        )
    files.write_text(path, drawn.csv)
    files.write_json(path.with_suffix(".json"), drawn.head)


def compare(path: Path, drawn: Drawn) -> None:
    """Make sure that the list at `path` equals the one that is drawn now.

    Raises:
        InputError: It is missing, malformed or different.
    """
    listed = read(str(path))
    differ = _checksum(path) != drawn.head["list"]["sha256"]
    if differ or listed.digest != drawn.head["drawn_from"]["sha256"]:
        raise InputError(
            path,
            f"the list drawn with these parameters, {drawn.pin}...",
            f"{_checksum(path)[:PIN]}..., drawn from {listed.images} images",
            "python -m stages.splits NAME --write, if the list should change",
        )


def read(reference: str) -> Listed:
    """Read a list.

    Args:
        reference: "splits/rsna.csv" or "splits/rsna.csv@<first digits of its sha256>". With the
            digits, a changed list is a changed parameter, so that DVC reads the set again.

    Raises:
        InputError: A file is missing or malformed, the list is not the one that its head or the
            reference names, or it holds an id twice.
    """
    name, _, pin = reference.partition("@")
    path = Path(name)
    rows = inputs.read_csv(path, COLUMNS)
    checksum = _checksum(path)
    if pin and not (len(pin) >= 8 and checksum.startswith(pin)):
        raise InputError(
            path,
            f"the list whose sha256 the parameter gives, {pin}...",
            f"{checksum[:PIN]}...",
            f"set split_file: {name}@{checksum[:PIN]}, or `git checkout {name}`",
        )
    head = _head(path.with_suffix(".json"))
    if head["list"]["sha256"] != checksum:
        raise InputError(
            path,
            "the list that its head describes",
            "an edited one",
            f"`git checkout {name}`, or draw it again: python -m stages.splits NAME --write",
        )
    unknown = rows.loc[~rows["split"].isin(DRAWN), "split"]
    if len(unknown):
        raise InputError(path, "val or test", f"`{unknown.iloc[0]}`", "draw the list again")
    twice = rows.loc[rows["id"].duplicated(), "id"]
    if len(twice):
        raise InputError(path, "each id once", f"`{twice.iloc[0]}` again", "draw the list again")
    return Listed(
        path,
        dict(zip(rows["id"], rows["split"], strict=True)),
        dict(zip(rows["id"], rows["patient"], strict=True)),
        head["drawn_from"]["images"],
        head["drawn_from"]["sha256"],
        head["val"],
        head["test"],
    )


def apply(
    images: pd.DataFrame, split: Split, listed: Listed, source: Path, funnel: Funnel
) -> pd.DataFrame:
    """Divide a set by a list.

    Where a reader does not know the patient of an image (its patient is the image itself), the
    list's patient is used. Where the reader knows of patients that the list did not, train images
    of those in validation or test are left out and counted, so that no patient is in two parts.

    Args:
        images: image, patient, study and split ("" or as the layout gives it).
        split: Its sizes must be those that the list was drawn with.
        listed: The list.
        source: List file of the set, for error messages.
        funnel: Counts what is left out.

    Returns:
        The images with their split.

    Raises:
        InputError: The list was drawn from other images or with other sizes, it names images that
            the layout itself puts in validation or test, or one patient is in both.
    """
    _same_images(images["image"], listed, source)
    for name in DRAWN:
        if getattr(split, name) != getattr(listed, name):
            raise InputError(
                "params.yaml",
                f"{name}: {getattr(listed, name)}, the size that {listed.source} was drawn with",
                f"{name}: {getattr(split, name)}",
                "set that, or draw a list of your own: python -m stages.splits NAME --write",
            )
    images = images.copy()
    given = given_splits(images[["split"]].rename(columns={"split": "given"}), source)
    parts = images["image"].map(listed.parts)
    torn = parts.notna() & given.isin(DRAWN)
    if torn.any():
        raise InputError(
            listed.source,
            "images that the layout leaves in train",
            f"`{images.loc[torn, 'image'].iloc[0]}`, which it puts in {given[torn].iloc[0]}",
            "draw the list again: python -m stages.splits NAME --write",
        )
    alone = (images["patient"] == images["image"]) & parts.notna()
    images.loc[alone, "patient"] = images.loc[alone, "image"].map(listed.people)
    rest = given.where(given != "", "train")
    images["split"] = parts.where(parts.notna(), rest).astype(object)
    held = images["split"] != "train"
    one_split_a_patient(images.loc[held, "patient"], images.loc[held, "split"], listed.source)
    known = ~held & images["patient"].isin(set(images.loc[held, "patient"]))
    return funnel.leave_out(images, known, PERSON_HELD_OUT)


def _same_images(ids: pd.Series, listed: Listed, source: Path) -> None:
    if digest(ids) == listed.digest:
        return
    absent = sorted(set(listed.parts) - set(ids))
    raise InputError(
        source,
        f"the {listed.images} images that {listed.source} was drawn from",
        f"{len(ids)} images with other ids"
        + (
            f"; {len(absent)} of the list's are not among them, such as `{absent[0]}`"
            if absent
            else ""
        ),
        "read the same release with the same options, draw a list of your own "
        "(python -m stages.splits --help), or set split_file: '' to draw each time",
    )


def _reader(head: Path) -> str:
    """The reader that a head names; "" if there is no sound head."""
    try:
        return str(_head(head).get("reader", ""))
    except InputError:
        return ""


def _head(path: Path) -> dict[str, Any]:
    """The head of a list; those of its values that `read` needs have been checked."""
    try:
        head = json.loads(path.read_text(encoding="utf-8"))
        sizes: Sequence[object] = [head["val"], head["test"], head["drawn_from"]["images"]]
        texts: Sequence[object] = [head["drawn_from"]["sha256"], head["list"]["sha256"]]
        sound = all(type(value) in (int, float) for value in sizes)
        sound = sound and all(isinstance(value, str) for value in texts)
    except FileNotFoundError:
        found = "nothing there"
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
    else:
        if sound:
            return dict(head)
        found = "values of the wrong type"
    hint = "git checkout it, or draw the list again: python -m stages.splits NAME --write"
    raise InputError(path, "the head of a split list", found, hint)


def _checksum(path: Path) -> str:
    # git on Windows may have changed the line ends
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def _counts(images: pd.DataFrame, labels: Iterable[str]) -> dict[str, Any]:
    counts: dict[str, Any] = {"images": len(images), "patients": int(images["patient"].nunique())}
    if labels := list(labels):
        counts["labels"] = {label: int(images[label].sum()) for label in labels}
    return counts


def _plain(size: float) -> float:
    return int(size) if size == int(size) else size
