"""A store of studies as batches of pairs: one image view and one sentence each (section 3.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from convirt.errors import InputError

# Streams of randomness; each is keyed by (seed, stream, step or pass).
ORDER, CHOICE, AUGMENT, VALIDATION, DROPOUT = range(5)


def generator(seed: int, stream: int, *index: int) -> np.random.Generator:
    """A generator that depends on (seed, stream, index) alone, so that any step can be repeated."""
    return np.random.default_rng([seed, stream, *index])


@dataclass(frozen=True)
class Sentences:
    """Tokens of the distinct sentences of a corpus, back to back.

    Attributes:
        tokens: (T,) int32.
        starts: (M + 1,) int64; sentence m is tokens[starts[m] : starts[m + 1]].
    """

    tokens: np.ndarray
    starts: np.ndarray

    def batch(self, rows: np.ndarray, multiple: int = 1) -> tuple[Tensor, Tensor]:
        """Tokens (N, L) int64 and mask (N, L) bool of some sentences.

        They are padded to the longest, whose length is rounded up to a multiple of `multiple`.
        """
        lengths = (self.starts[rows + 1] - self.starts[rows]).astype(np.int64)
        longest = -(-lengths.max() // multiple) * multiple
        mask = torch.from_numpy(np.arange(longest) < lengths[:, None])
        tokens = np.where(mask, self.tokens[self.places(rows, mask)], 0).astype(np.int64)
        return torch.from_numpy(tokens), mask

    def places(self, rows: np.ndarray, mask: Tensor) -> np.ndarray:
        """Indices into `tokens` of the tokens of a batch, (N, L) int64; 0 for padding."""
        where = self.starts[rows][:, None] + np.arange(mask.shape[1])
        return np.where(mask.numpy(), where, 0)


def tokenize(
    sentences: Sequence[str],
    tokenizer: Callable[[Sequence[str]], tuple[Tensor, Tensor]],
    chunk: int = 4096,
) -> Sentences:
    """Tokenize all sentences once, at the start."""
    pieces: list[np.ndarray] = []
    for first in range(0, len(sentences), chunk):
        tokens, mask = tokenizer(sentences[first : first + chunk])
        pieces += [
            row[keep].astype(np.int32)
            for row, keep in zip(tokens.numpy(), mask.numpy(), strict=True)
        ]
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    return Sentences(np.concatenate(pieces), np.concatenate([[0], np.cumsum(lengths)]))


@dataclass(frozen=True)
class Groups:
    """Members of groups, back to back: group g holds members[starts[g] : starts[g + 1]]."""

    members: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, codes: np.ndarray, values: np.ndarray, count: int) -> Groups:
        """Group `values` by `codes`, which lie in range(count)."""
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(count + 1))
        return cls(values[order], starts)

    def pick(self, groups: np.ndarray, where: np.ndarray) -> np.ndarray:
        """Pick one member per group; `where` in [0, 1) selects it."""
        sizes = self.starts[groups + 1] - self.starts[groups]
        return np.asarray(self.members[self.starts[groups] + (where * sizes).astype(np.int64)])

    def all(self, groups: np.ndarray) -> list[np.ndarray]:
        """All members of each group, in their order."""
        return [self.members[self.starts[g] : self.starts[g + 1]] for g in groups]


@dataclass(frozen=True)
class Batch:
    """Row numbers of N pairs.

    Attributes:
        images: (N,) rows of the store's images.
        sentences: (N,) rows of the distinct sentences.
        studies: (N,) numbers of the studies within their split.
        said: The sentences of all studies of the split.
    """

    images: np.ndarray
    sentences: np.ndarray
    studies: np.ndarray
    said: Groups

    def reports(self) -> list[np.ndarray]:
        """Rows of all sentences of each study, in the report's order."""
        return self.said.all(self.studies)

    def part(self, rows: slice) -> Batch:
        """Some of the pairs."""
        return Batch(self.images[rows], self.sentences[rows], self.studies[rows], self.said)


class Pairs:
    """Studies of one split, from which batches are drawn.

    Args:
        records: One row per image: study, split.
        sentences: One row per sentence: study, row (of the distinct sentences).
        split: "train" or "val".

    Raises:
        InputError: The split has no study with an image and a sentence.
    """

    def __init__(self, records: pd.DataFrame, sentences: pd.DataFrame, split: str) -> None:
        rows = np.flatnonzero((records["split"] == split).to_numpy())
        own = records["study"].to_numpy()[rows]
        studies = np.intersect1d(own, sentences["study"].to_numpy().astype(own.dtype))
        if len(studies) == 0:
            raise InputError(
                f"split {split!r} of the pretraining set",
                "studies with an image and a sentence",
                "none",
                "see the funnel in metrics/funnel/ and datasets.sources.<name>.val",
            )
        self.count = len(studies)
        keep = pd.Series(own).isin(studies).to_numpy()  # np.isin compares objects one by one
        self.images = Groups.of(np.searchsorted(studies, own[keep]), rows[keep], self.count)
        said = sentences[sentences["study"].isin(studies)]
        codes = np.searchsorted(studies, said["study"].to_numpy().astype(own.dtype))
        self.sentences = Groups.of(codes, said["row"].to_numpy(), self.count)
        # A permutation of 217,000 studies takes 3 ms, so the latest is kept.
        self._latest: tuple[tuple[int, int], np.ndarray] | None = None

    def draw(self, seed: int, step: int, size: int) -> Batch:
        """The batch of a step: a pure function of (seed, step).

        Every pass visits all studies once, in its own order; a batch may straddle two passes.
        """
        position = np.arange(step * size, (step + 1) * size)
        studies = np.empty(size, np.int64)
        for number in np.unique(position // self.count):
            order = self._order(seed, int(number))
            here = position // self.count == number
            studies[here] = order[position[here] % self.count]
        where = generator(seed, CHOICE, step).random((2, size))
        images = self.images.pick(studies, where[0])
        return Batch(images, self.sentences.pick(studies, where[1]), studies, self.sentences)

    def reports(self) -> list[np.ndarray]:
        """Rows of the distinct sentences of each study, in the report's order."""
        return self.sentences.all(np.arange(self.count))

    def _order(self, seed: int, number: int) -> np.ndarray:
        if self._latest is None or self._latest[0] != (seed, number):
            order = generator(seed, ORDER, number).permutation(self.count)
            self._latest = ((seed, number), order)
        return self._latest[1]

    def fixed(self, seed: int, size: int) -> list[Batch]:
        """All studies once, in full batches with fixed views and sentences, for validation.

        A remainder that does not fill a batch is left out: the loss depends on the batch size.

        Raises:
            InputError: There are fewer studies than a batch holds.
        """
        if self.count < size:
            raise InputError(
                "validation split of the pretraining set",
                f"at least train.batch_size = {size} studies",
                f"{self.count}",
                "raise datasets.sources.<name>.val or lower train.batch_size",
            )
        rng = generator(seed, VALIDATION, 0)
        order, where = rng.permutation(self.count), rng.random((2, self.count))
        images = self.images.pick(order, where[0])
        sentences = self.sentences.pick(order, where[1])
        starts = range(0, self.count - size + 1, size)
        return [
            Batch(
                images[i : i + size], sentences[i : i + size], order[i : i + size], self.sentences
            )
            for i in starts
        ]
