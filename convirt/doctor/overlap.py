"""Pictures on which an encoder is tested and which it has seen in pretraining.

Ids of two sources need not mean the same, so stores are compared by their content: pictures that
are equal pixel by pixel after packing to the same size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from convirt.datasets import alike


class Overlap(NamedTuple):
    """Test images of one store that are also train images of a corpus.

    Attributes:
        tested: Name of the store with the test images, candidates and queries included.
        corpus: Name of the store that is pretrained on.
        images: Images in both, by their names in `tested`; None if the two stores were packed at
            different sizes, so that no picture of one can equal one of the other.
        of: How many test images there are.
    """

    tested: str
    corpus: str
    images: tuple[str, ...] | None
    of: int


def overlaps(stores: Path, corpora: Iterable[str], tested: Iterable[str]) -> Iterator[Overlap]:
    """Compare the test images of stores with the train images of corpora.

    Args:
        stores: Folder of all stores.
        corpora: Names of stores that are pretrained on; all their train pictures are read.
        tested: Names of stores with a test part; all their test pictures are read.

    Yields:
        One for each pair of stores, even if they share no image.
    """
    seen = {name: set(_digests(stores / name, "train").values()) for name in corpora}
    for name in tested:
        digests = _digests(stores / name, "test")
        for corpus, known in seen.items():
            found = None
            if _size(stores / name) == _size(stores / corpus):
                found = tuple(image for image, digest in digests.items() if digest in known)
            yield Overlap(name, corpus, found, len(digests))


def _digests(store: Path, split: str) -> dict[str, bytes]:
    """Image name -> digest of its picture, for the images of a split."""
    records = pd.read_parquet(store / "records.parquet", columns=["image", "split"])
    chosen = (records["split"] == split).to_numpy().nonzero()[0]
    names = records["image"].to_numpy(str)[chosen].tolist()
    return dict(zip(names, alike.digests(store / "images.npy", chosen), strict=True))


def _size(store: Path) -> tuple[int, ...]:
    """Height and width of the pictures in a store."""
    pictures: np.ndarray = np.load(store / "images.npy", mmap_mode="r", allow_pickle=False)
    return pictures.shape[1:]
