"""A packed data set, opened: all images small, square and 8-bit in one array, with tables.

`packing.py` writes it. The two are separate so that a stage which only reads stores does not depend
on the code that decodes images and splits reports.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from convirt.errors import InputError

FORMAT = 1


@dataclass(frozen=True)
class Store:
    """An opened store.

    Attributes:
        images: (N, S, S) uint8, memory-mapped, read-only.
        records: Row i describes image i: image, study, patient, split, view, top, left, height,
            width (the content's box in the square, pixels), label columns; retrieval sets also
            role and label.
        sentences: study, sentence (pair sets), in the order of the reports.
        queries: text, label (retrieval sets).
        meta: format, images (N), size (S), labels, kind ("pairs", "labels", "retrieval"), reader,
            digest (SHA-256 over the other files).
    """

    images: np.ndarray
    records: pd.DataFrame
    sentences: pd.DataFrame | None
    queries: pd.DataFrame | None
    meta: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the store at `path`.

        Raises:
            InputError: There is none, or it is damaged or has another format version.
        """
        hint = f"dvc repro preprocess@{path.name}"
        try:
            meta = json.loads((path / "store.json").read_text(encoding="utf-8"))
            told = meta.get("format") if isinstance(meta, dict) else meta
            if told != FORMAT:
                raise InputError(path, f"a store of format {FORMAT}", str(told)[:80], hint)
            images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
            records = pd.read_parquet(path / "records.parquet")
            tables = [
                pd.read_parquet(path / name) if (path / name).exists() else None
                for name in ("sentences.parquet", "queries.parquet")
            ]
        except (FileNotFoundError, NotADirectoryError) as error:
            found = f"no {error.filename or 'such folder'}"
            raise InputError(path, "a store made by preprocess", found, hint) from error
        except (ValueError, EOFError, OSError) as error:
            raise InputError(path, "an intact store", str(error).splitlines()[0], hint) from error
        expected = (meta["images"], meta["size"], meta["size"])
        if images.shape != expected or len(records) != len(images):
            found = f"images {images.shape}, {len(records)} records"
            raise InputError(path, f"images and records of shape {expected}", found, hint)
        return cls(images, records, tables[0], tables[1], meta)
