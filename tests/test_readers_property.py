"""Whatever the lists hold, a reader gives a result or an InputError that says what to do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import raw
from hypothesis import given, settings
from hypothesis import strategies as st

from convirt.datasets import registry
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError


class Layout(NamedTuple):
    """A valid layout, one list of which is replaced.

    Attributes:
        make: Writes the set into a folder.
        file: The list.
        columns: Its header; none for a list without.
        cells: Cells that could stand there.
    """

    make: Callable[[Path], Path]
    file: str
    columns: tuple[str, ...]
    cells: tuple[str, ...]


def of_films(root: Path) -> Path:
    """labels.csv, queries.csv and candidates.csv without films, which readers do not open."""
    raw.write(root / "labels.csv", "image,patient,edema\na.png,p,1\nb.png,q,0\n")
    raw.write(root / "candidates.csv", "image,label\na.png,Edema\nb.png,Fracture\n")
    raw.write(root / "queries.csv", "label,image,text\nEdema,q.png,\n")
    return root


CHEXPERT = tuple(raw.CHEXPERT_HEADER.split(","))
FILM = raw.chexpert_path("train", 7)
STUDY = "MURA-v1.1/train/XR_HAND/patient00002/study1_negative/"
YOURS = ("a.png", "b.png", "f/../a.png", "p", "s", "train", "val", "test", "PA")
LAYOUTS = {
    "chexpert": Layout(raw.chexpert, "train.csv", CHEXPERT, (FILM, "1.0", "-1", "Frontal", "AP")),
    "chexpert, valid": Layout(raw.chexpert, "valid.csv", CHEXPERT, (FILM, "1.0", "0.0", "PA")),
    "rsna": Layout(
        raw.rsna, "stage_2_train_labels.csv", ("patientId", "x", "Target"), ("a", "b", "0", "1")
    ),
    "mura": Layout(
        lambda root: raw.mura(root, nested=False),
        "train_image_paths.csv",
        (),
        (f"{STUDY}image1.png", f"{STUDY}image2.png", f"{STUDY}._image1.png", "Path"),
    ),
    "mura, labels": Layout(
        lambda root: raw.mura(root, nested=False), "train_labeled_studies.csv", (), (STUDY, "0")
    ),
    "covidx": Layout(raw.covidx, "labels/train_COVIDx4.txt", (), ("a.png", "normal", "rsna")),
    "covidx, test": Layout(raw.covidx, "labels/test_COVIDx4.txt", (), ("t1.png", "COVID-19")),
    "pairs": Layout(
        raw.ten_pairs,
        "pairs.csv",
        ("image", "text", "patient", "study", "split", "view"),
        (*YOURS, "There is no effusion."),
    ),
    "labels": Layout(
        of_films,
        "labels.csv",
        ("image", "patient", "study", "split", "view", "edema"),
        (*YOURS, "0", "1.0"),
    ),
    "retrieval": Layout(
        of_films, "queries.csv", ("label", "image", "text", "patient"), (*YOURS, "Edema")
    ),
    "retrieval, candidates": Layout(
        of_films, "candidates.csv", ("image", "label", "patient", "study"), (*YOURS, "Edema")
    ),
}
PATHS = (
    ".",
    "/",
    "//",
    "\\",
    "C:\\x",
    "../x",
    "/etc/passwd",
    "a/b/c/d/e",
    "a/b/c/d/e/f",
    "y/" * 50,
)
TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\ufeff",
    "\u2028",
    "ß",
    "=1+1",
    "'",
    "🫁",
    "COVID 1 a.png",
)
VALUES = ("NaN", "None", "-0", "1e0", "Ⅷ", "normal")


def lists(layout: Layout) -> st.SearchStrategy[bytes]:
    """The bytes of a list: mostly a table with cells of all sorts, sometimes anything."""
    cell = st.one_of(
        st.sampled_from(layout.cells),
        st.sampled_from(layout.cells),
        st.sampled_from(PATHS + TEXTS + VALUES),
        st.text(st.characters(codec="utf-8"), max_size=8),
    )
    if layout.file.endswith(".txt"):
        rows = st.lists(cell, max_size=5).map(" ".join)
    else:
        width = len(layout.columns) or 1 + ("labeled" in layout.file)
        quoted = cell.map(lambda text: '"' + text.replace('"', '""') + '"')
        rows = st.lists(quoted, min_size=width, max_size=width).map(",".join)
    table = st.lists(rows, max_size=5).map(
        lambda lines: "\n".join([",".join(layout.columns)] * bool(layout.columns) + lines).encode()
    )
    return st.one_of(table, table, table, st.binary(max_size=60))


def options(reader: str) -> dict[str, Any]:
    """Options without which a reader refuses everything."""
    known = vars(sys.modules[registry.READERS[reader].__module__].Options())
    return {"exclude": "none"} if reader == "chexpert" and "test_set" in known else {}


@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_list_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    layout, reader = LAYOUTS[name], name.partition(",")[0]
    root = layout.make(tmp_path_factory.mktemp("set"))
    file = root / layout.file
    assert file.is_file()
    file.write_bytes(data.draw(lists(layout)))
    split = Split(0, data.draw(st.sampled_from([0, 0, 1, 0.5])))
    try:
        tables = registry.read(reader, root, split, options(reader))
    except InputError as error:
        assert all((error.path, error.expected, error.found, error.hint))
        return
    assert isinstance(tables, Tables) and len(tables.images)
    assert all(Path(path).is_relative_to(root) for path in tables.images["path"])


def long_name(reader: str, root: Path) -> Path:
    """A set whose list names a film by more letters than a disk allows."""
    name = "x" * 300
    if reader == "rsna":
        raw.rsna(root)
        text = f"patientId,Target\n{name},0\n"
        raw.write(root / "stage_2_train_labels.csv", text)
    elif reader == "covidx":
        raw.covidx(root)
        raw.write(root / "labels" / "train_COVIDx4.txt", f"1 {name}.png normal rsna\n")
    elif reader == "mura":
        raw.mura(root, nested=False)
        raw.write(root / "train_image_paths.csv", f"{STUDY}{name}.png\n")
    elif reader == "chexpert":
        raw.chexpert(root)
        path = f"CheXpert-v1.0-small/train/patient00001/study1/{name}.jpg"
        line = f"{path},Female,68,Frontal,AP{',' * 14}"
        raw.write(root / "train.csv", f"{raw.CHEXPERT_HEADER}\n{line}\n")
    else:
        of_films(root)
        raw.write(root / "pairs.csv", f"image,text,patient\n{name},There is no effusion.,p\n")
        raw.write(root / "labels.csv", f"image,patient,edema\n{name},p,1\n")
        raw.write(root / "candidates.csv", f"image,label\n{name},Edema\n")
    return root


@pytest.mark.parametrize(
    "reader", ["chexpert", "rsna", "mura", "covidx", "pairs", "labels", "retrieval"]
)
def test_a_name_too_long_for_a_disk_is_read_or_refused(tmp_path: Path, reader: str) -> None:
    try:
        registry.read(reader, long_name(reader, tmp_path), Split(0), options(reader))
    except InputError as error:
        assert error.hint
