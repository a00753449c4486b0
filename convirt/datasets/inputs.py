"""Reading what a user provides: CSV files and paths that must stay in their folder."""

from __future__ import annotations

import codecs
import csv
import difflib
import gzip
import io
import re
import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd

from convirt.datasets import archives
from convirt.datasets.options import path as option_path
from convirt.datasets.tables import Funnel
from convirt.errors import InputError

OWN = ("study", "patient", "split", "view")  # optional columns of a bring-your-own list
UNREAD = "columns that are not read"
SHOWN = 6  # of these columns
HEAD_WORDS, HEAD_LENGTH = 4, 40  # at most, of a column's name
_OTHER = re.compile(r"[;\t|]")  # other separators between cells
_FILE = re.compile(r"\.(png|jpe?g|dcm|dicom|tiff?)$", re.IGNORECASE)


def read_csv(
    path: Path, columns: Sequence[str], names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Read a CSV (or CSV.gz) with every cell as text, blank cells as "".

    Args:
        path: File, UTF-8, with or without a byte order mark, with any line ends.
        columns: Columns that must be there.
        names: Column names of a file without a header.

    Raises:
        InputError: The file is missing, empty or not a CSV, lacks a column, or has one twice.
    """
    if not archives.is_file(path):
        raise InputError(path, "a CSV file", "nothing there", _hint_nearby(path))
    data = archives.read_bytes(path)
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InputError(path, "a UTF-8 CSV", "UTF-16", "save it as CSV in UTF-8")
    how: dict[str, Any] = {
        "dtype": str,
        "na_filter": False,  # "NA" and "None" are texts here; blank cells become ""
        "encoding": "utf-8-sig",
    }
    try:
        data = _unpacked(data, path) if path.suffix == ".gz" else data
        _whole_rows(data, path, len(names or ()))
        with warnings.catch_warnings():
            # A row with too many cells (an unquoted comma) would otherwise silently lose its end.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table: pd.DataFrame = pd.read_csv(
                io.BytesIO(data),
                **how,
                index_col=False,
                header=None if names else "infer",
                names=list(names) if names else None,
            )
    except InputError:
        raise
    except (pd.errors.ParserWarning, ValueError, EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's fault, not the file's
        found = str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)
        hint = "repair the file; a text with commas needs quotes"
        if isinstance(error, UnicodeDecodeError):
            found, hint = _undecodable(data) or found, "save it as CSV in UTF-8"
        raise InputError(path, "a readable UTF-8 CSV", found, hint) from error
    # A short row leaves gaps that `na_filter` does not reach.
    table = table.fillna("").rename(columns=str.strip)
    if not names:  # names as written: pandas numbers the second of two equal ones
        head: pd.DataFrame = pd.read_csv(io.BytesIO(data), **how, header=None, nrows=1)
        _each_once([str(name).strip() for name in head.iloc[0]], path)
    for column in columns:
        if column not in table.columns:
            near = difflib.get_close_matches(column, table.columns, n=1)
            hint = f"rename `{near[0]}` to `{column}`" if near else f"add the column `{column}`"
            raise InputError(
                path,
                f"a column `{column}` (needed: {', '.join(columns)})",
                named(table.columns),
                _save_with_commas(data) or hint,
            )
    return table


def _unpacked(data: bytes, path: Path) -> bytes:
    """The content of a gzip file, unless that is absurdly large."""
    with gzip.open(io.BytesIO(data)) as packed:
        content = packed.read(archives.MAX_BYTES + 1)
    if len(content) > archives.MAX_BYTES:
        found = f"more than {archives.MAX_BYTES} bytes"
        raise InputError(path, "a list of a usual size", found, "download it again")
    return content


def named(columns: Iterable[Any]) -> str:
    """The columns of a list, for a message; first rows that look like data are only counted.

    A message may end up in a log, which may hold nothing of a report.
    """
    names = [str(name) for name in columns]
    if any(
        len(name.split()) > HEAD_WORDS or len(name) > HEAD_LENGTH or _FILE.search(name)
        for name in names
    ):
        return f"a first row of {len(names)} cells that name nothing: is the row of names missing?"
    return f"columns {', '.join(names)}"


def shown(cell: str) -> str:
    """A cell, for a message; a text of several words, which may be a report, is only measured."""
    if len(cell) <= HEAD_LENGTH and len(cell.split()) <= 1:
        return f"`{cell}`"
    return f"a text of {len(cell)} characters"


def _save_with_commas(data: bytes) -> str:
    """A hint for a file whose first row has no comma but another separator; else ""."""
    first = data[: 1 << 16].decode("utf-8-sig", errors="replace").strip().partition("\n")[0]
    other = None if "," in first else _OTHER.search(first)
    if other is None:
        return ""
    name = {"\t": "tabs"}.get(other[0], f"`{other[0]}`")
    return f"its cells are separated by {name}: save it with commas"


def _whole_rows(data: bytes, path: Path, width: int) -> None:
    """Refuse an unclosed quote, which makes pandas merge several rows into one.

    A row with more cells than `width` (or, if that is 0, than the first row) is refused as well,
    since pandas would not name its line.
    """
    text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
    rows, line = csv.reader(text, strict=True), 1
    limit = csv.field_size_limit(max(len(data), 1))  # a cell may be as long as the file
    try:
        for row in rows:
            width = width or (len(row) if "".join(row).strip() else 0)
            if width and len(row) > width and any(cell.strip() for cell in row[width:]):
                found = f"{len(row)} in the row at line {line}"
                hint = _save_with_commas(data) or "put texts with commas in quotes"
                raise InputError(path, f"{width} cells in each row, as in the first", found, hint)
            line = rows.line_num + 1
    except csv.Error as error:
        raise InputError(
            path,
            "cells whose quotes are closed and followed by a comma",
            f"{error}, in the row that begins at line {line}",
            _save_with_commas(data)
            or 'close the quote; a quote inside a text is written twice: ""',
        ) from None
    finally:
        csv.field_size_limit(limit)


def unlike(
    table: pd.DataFrame, columns: Sequence[str], path: Path, wanted: Sequence[str] = ()
) -> None:
    """Refuse a column whose name is nearly that of a missing one: `Split`, `splits`, `split_id`.

    Args:
        table: The file's rows.
        columns: Optional columns of the file.
        path: The file.
        wanted: Columns that the options ask for by name, whatever they are called.

    Raises:
        InputError: There is one: it would be ignored silently.
    """
    others = {_bare(str(name)): str(name) for name in table if name not in (*columns, *wanted)}
    for column in columns:
        if column not in table and (name := others.get(_bare(column))):
            hint = f"rename it to `{column}`, or to something less similar"
            raise InputError(path, f"the column `{column}`, or none similar", f"`{name}`", hint)


def _bare(name: str) -> str:
    """A column's name without case, separators, "id" and the "s" of a plural."""
    letters = re.sub(r"[\W_]", "", name.casefold()).removesuffix("id")
    return {"txt": "text", "studie": "study"}.get(bare := letters.removesuffix("s"), bare)


def unread(table: pd.DataFrame, columns: Sequence[str], funnel: Funnel) -> None:
    """Note the columns that the reader does not read."""
    names = [str(name) for name in table if name not in columns]
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
        funnel.notes.append(f"{UNREAD}: {shown}{more}")


def _each_once(names: list[str], path: Path) -> None:
    for name in names:
        if name and names.count(name) > 1:
            found = f"`{name}` {names.count(name)} times"
            raise InputError(path, "columns with different names", found, "rename or remove one")


def first_file(root: Path, names: Sequence[str], hint: str) -> Path:
    """The first of `names` that exists under `root` (MIMIC users may have unpacked the lists)."""
    for name in names:
        if archives.is_file(root / name):
            return root / name
    raise InputError(root, " or ".join(names), _listing(root), hint)


def inside(root: Path, relative: str, source: Path) -> Path:
    """The absolute path of `relative` under `root`, if it stays there.

    Args:
        root: Folder that the path may not leave, whether by "..", by an absolute path or by a
            symbolic link. The folder itself may be a link.
        relative: The path as written in the list.
        source: The list, for the message.

    Raises:
        InputError: The path is empty or leaves its folder.
    """
    pure = PurePosixPath(relative)
    outside = (
        not relative.strip()
        or "\0" in relative
        or pure.is_absolute()
        or bool(PureWindowsPath(relative).drive)
        or ".." in pure.parts
        or ".." in PureWindowsPath(relative).parts
    )
    if not outside and archives.holds(root):  # the archive may be a link to a file of another name
        return root.absolute() / pure
    home = _resolve(root.absolute())  # absolute: the working folder may change, the cache stays
    path, leads = home / pure, ""
    if not outside:
        try:
            path = _resolve(path.parent) / pure.name
            if path.is_symlink():
                path = path.resolve()
        # a name too long for the disk, or a loop of links: before Python 3.13 a RuntimeError
        except (OSError, RuntimeError) as error:
            found = f"`{relative[:80]}`: {getattr(error, 'strerror', None) or error}"
            raise InputError(source, "paths of files", found, "correct the path") from error
        outside, leads = not path.is_relative_to(home), f", by a link to {path}"
    if outside:
        hint = "correct the path, or move the file into the folder"
        if ".dvc" in path.parts or "md5" in path.parts:
            relink = "dvc config cache.type reflink,hardlink,copy && dvc checkout --relink"
            hint = f"let DVC make no symbolic links: {relink}"
        raise InputError(
            source,
            f"paths relative to {root} that stay inside it",
            f"`{relative}`{leads}",
            hint,
        )
    return path


@lru_cache(maxsize=1 << 16)
def _resolve(folder: Path) -> Path:
    """Resolve a folder once: each component costs a system call."""
    return folder.resolve()


def _undecodable(data: bytes) -> str:
    """The first byte of a file that is no UTF-8, and its line; "" if there is none."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return f"byte {data[error.start]:#04x} in line {line}, which is not UTF-8"
    return ""


def listed_images(
    rows: pd.DataFrame, source: Path, wanted: Sequence[str] = (), images: str = ""
) -> pd.DataFrame:
    """The images of a bring-your-own list, whose paths are relative to one folder.

    Studies and patients are compared as they look: a letter with an accent is the same letter
    whether it is one character or two (as in macOS file names). Images keep the bytes of their
    paths.

    Args:
        rows: Column image; patient, study, split and view where the list has them. Without a study
            column each image is a study of its own; without a patient column each study a patient.
        source: The list.
        wanted: Columns that the options ask for by name, see `unlike`.
        images: The folder, with environment variables and ~; by default that of the list.

    Returns:
        image, path, study, patient, split and view, aligned with `rows`.

    Raises:
        InputError: There is no such folder, a path is blank or leaves it, or a column is nearly one
            of these.
    """
    unlike(rows, OWN, source, wanted)
    no_blank(rows, ("image",), source)
    # One spelling per path: "./a//b.png" and "a/b.png" are the same image.
    names = [PurePosixPath(name.strip()).as_posix() for name in rows["image"]]
    home = option_path(images, "the folder of the images") if images else source.parent
    found = pd.DataFrame({"image": names}, index=rows.index, dtype=str)
    found["path"] = [str(inside(home, name.strip(), source)) for name in rows["image"]]
    for column, instead in (("study", "image"), ("patient", "study")):
        ids = rows[column].str.strip() if column in rows else found[instead]
        found[column] = ids.map(_composed)
    for column in ("split", "view"):
        found[column] = rows[column].str.strip() if column in rows else ""
    return found


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def no_blank(rows: pd.DataFrame, columns: Iterable[str], source: Path) -> None:
    """Refuse a blank cell in a column that each row needs.

    Raises:
        InputError: There is a blank cell; `source` is the list that the message names.
    """
    for column in columns:
        blank = rows[column].str.strip() == ""
        if blank.any():
            found = f"a blank in data row {int(blank.to_numpy().argmax()) + 1}"
            if blank.sum() > 1:
                found += f" ({int(blank.sum())} such rows)"
            hint = "fill it in, or remove the row"
            raise InputError(source, f"`{column}` in every row", found, hint)


def list_file(root: Path, name: str) -> Path:
    """A bring-your-own list: the root itself if it is a file, else `name` in it.

    Raises:
        InputError: It is not there.
    """
    path = root / name if archives.is_dir(root) else root
    if not archives.is_file(path):
        hint = f"{_hint_nearby(path)}; or name the list in datasets.sources.<name>.options.file"
        raise InputError(path, "a CSV file", "nothing there", hint)
    return path


def binary(values: pd.Series, column: str, source: Path, also: Mapping[str, float]) -> pd.Series:
    """Turn a text column of 0 and 1 into floats.

    Args:
        values: Cells.
        column: Name, for the message.
        source: List file, for the message.
        also: Further allowed cells and their values, such as {"": 0.0}.

    Raises:
        InputError: A cell is not one of the allowed values.
    """
    meaning = {"0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0, **also}
    result = values.str.strip().map(meaning)
    if result.isna().any():
        row = int(result.isna().to_numpy().argmax())
        allowed = ", ".join(f"`{key}`" for key in meaning)
        raise InputError(
            source,
            f"column `{column}` with one of {allowed}",
            f"{shown(values.iloc[row])} in data row {row + 1}",
            "correct the cell",
        )
    return result.astype("float32")


def one_hot(
    values: pd.Series, classes: Sequence[str], column: str, source: Path
) -> dict[str, pd.Series]:
    """Turn a column of class names into one 0/1 column per class.

    Raises:
        InputError: A cell is not one of the declared classes.
    """
    values = values.str.strip()
    unknown = ~values.isin(list(classes))
    if unknown.any():
        row = int(unknown.to_numpy().argmax())
        plain = {name.casefold(): name for name in classes}
        near = difflib.get_close_matches(values.iloc[row].casefold(), plain, n=1)
        raise InputError(
            source,
            f"column `{column}` with one of {', '.join(classes)}",
            f"{shown(values.iloc[row])} in data row {row + 1} ({int(unknown.sum())} such rows)",
            f"did you mean `{plain[near[0]]}`?"
            if near
            else "correct the cell or declare the class",
        )
    return {name: (values == name).astype("float32") for name in classes}


def _hint_nearby(path: Path) -> str:
    if not archives.is_dir(path.parent):
        return f"correct the root: {path.parent} does not exist"
    near = difflib.get_close_matches(path.name, archives.names(path.parent), n=1)
    return f"did you mean {near[0]}?" if near else f"put the file there; {_listing(path.parent)}"


def _listing(root: Path) -> str:
    names = archives.names(root)[:6]
    return f"{root} holds {', '.join(names)}" if names else f"{root} is empty or missing"
