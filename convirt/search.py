"""Search of a retrieval set with encoders: by image, and by text if there is a text encoder.

Section 4.2 of the paper. Image-image compares h, the image encoder's output; text-image compares
the projections v and u. The paper does not say which vectors it uses; h before the projection is
the only reading by which encoders without a projection can have a row in its Table 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from convirt.errors import InputError
from convirt.image_encoder import ImageConfig, encoded
from convirt.pair_encoder import PairEncoder
from convirt.retrieval import Ranker, Retrieval, retrieve
from convirt.store import Store

# at a time, so that memory does not grow with the number of queries or candidates
SENTENCES = 256  # encoded
FILMS = 8192  # projected

T = TypeVar("T", np.ndarray, Sequence[str])


class Search(NamedTuple):
    """One set of queries, searched among the candidates."""

    direction: str
    names: list[str]
    labels: np.ndarray
    result: Retrieval


class Parts(NamedTuple):
    """Positions of a store's image queries and candidates, and its text queries."""

    queries: np.ndarray
    candidates: np.ndarray
    texts: pd.DataFrame | None


def parts_of(store: Store, where: Path) -> Parts:
    """Separate queries from candidates; errors name `where`.

    Raises:
        InputError: The store is no retrieval store, or lacks candidates or queries.
    """
    role = store.records.get("role")
    if role is None:
        kind = f"a store of kind {store.meta['kind']}"
        hint = "name a retrieval set in retrieval.dataset"
        raise InputError(where, "a retrieval set", kind, hint)
    queries = np.flatnonzero(role == "query")
    texts = store.queries if store.queries is not None and len(store.queries) else None
    parts = Parts(queries, np.flatnonzero(role == "candidate"), texts)
    if not len(parts.candidates) or (not len(queries) and texts is None):
        count = 0 if texts is None else len(texts)
        found = f"{len(parts.candidates)} candidates, {len(queries)} images, {count} sentences"
        raise InputError(where, "candidates, and images or sentences as queries", found, "add them")
    return parts


def encode(
    images: np.ndarray,
    encoder: nn.Module,
    config: ImageConfig,
    device: str,
    rows: np.ndarray | None = None,
    report: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """The output h of an encoder on `device` for images (N, S, S) uint8: (N, width) float32.

    With `rows`, for these images only, in that order. `report` is called after each block with its
    number of images.
    """
    rows = np.arange(len(images)) if rows is None else rows
    h, done = np.empty((len(rows), config.width), np.float32), 0
    for block in encoded(images, rows, encoder, config, device):
        h[done : done + len(block)] = block
        done += len(block)
        report(len(block))
    return h


def search(
    store: Store,
    parts: Parts,
    h: np.ndarray,
    pair: PairEncoder | None,
    ks: tuple[int, ...],
    approximate: Ranker | None = None,
) -> list[Search]:
    """The searches that a retrieval set and an encoder allow, among all candidates.

    Args:
        store: The retrieval set.
        parts: Its queries and candidates.
        h: Of all its images, (N, width).
        pair: The encoder's projections and text half, if it has them; in evaluation mode.
        ks: The k of Precision@k.
        approximate: Ranks instead of the exact search, which then measures its recall.
    """
    label = store.records["label"].to_numpy(str)
    candidate_labels, searches = label[parts.candidates], []
    if len(parts.queries):
        labels = label[parts.queries]
        own, others = h[parts.queries], h[parts.candidates]
        found = retrieve(own, others, labels, candidate_labels, ks, approximate)
        del own, others  # copies, as large as h
        names = store.records["image"].iloc[parts.queries].tolist()
        searches.append(Search("image_image", names, labels, found))
    if pair is not None and parts.texts is not None:
        sentences = parts.texts["text"].tolist()
        with torch.inference_mode():
            v = np.concatenate([_v(pair, h[rows]) for rows in _blocks(parts.candidates, FILMS)])
            u = np.concatenate([_u(pair, block) for block in _blocks(sentences, SENTENCES)])
        labels = parts.texts["label"].to_numpy(str)
        found = retrieve(u, v, labels, candidate_labels, ks, approximate)
        searches.append(Search("text_image", sentences, labels, found))
    return searches


def _blocks(values: T, size: int) -> Iterator[T]:
    """A sequence in blocks of at most `size`."""
    return (values[first : first + size] for first in range(0, len(values), size))


def _v(pair: PairEncoder, h: np.ndarray) -> np.ndarray:
    """The v of images with the outputs h, (N, dim) float32."""
    device = next(pair.parameters()).device
    v: np.ndarray = pair.project_image(torch.from_numpy(h).to(device)).cpu().numpy()
    return v


def _u(pair: PairEncoder, sentences: Sequence[str]) -> np.ndarray:
    """The u of sentences, (N, dim) float32."""
    u: np.ndarray = pair.project_text(pair.encode_sentences(sentences)).cpu().numpy()
    return u
