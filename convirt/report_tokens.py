"""Whole reports as token numbers of a compact vocabulary, for objectives that write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convirt.text_encoder import Tokenizer

END, UNKNOWN = 0, 1  # the first two numbers of any vocabulary
CHUNK = 4096  # sentences tokenized at a time


@dataclass(frozen=True)
class Vocabulary:
    """The word pieces of the train reports, numbered in the order of the tokenizer.

    Attributes:
        pieces: (V,) texts. Number 0 ends a report, 1 stands for a piece that no train report has.
            Number V, `begin`, opens a decoder's input and is never written.
    """

    pieces: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def begin(self) -> int:
        """The number that opens a decoder's input."""
        return len(self.pieces)

    def text(self, numbers: Iterable[int]) -> str:
        """Pieces as running text; "##" joins a piece to the one before (WordPiece)."""
        return " ".join(self.pieces[number] for number in numbers).replace(" ##", "")


@dataclass(frozen=True)
class Reports:
    """The sentences of a corpus as token numbers, and reports as rows of them.

    Attributes:
        vocabulary: Of the numbers.
        tokens: (T,) int64, the sentences back to back.
        starts: (M + 1,) int64; sentence m is tokens[starts[m] : starts[m + 1]].
        max_tokens: A report is cut after this many, its end included.
    """

    vocabulary: Vocabulary
    tokens: np.ndarray
    starts: np.ndarray
    max_tokens: int

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        train: Sequence[np.ndarray],
        tokenizer: Tokenizer,
        max_tokens: int,
    ) -> Reports:
        """Number the sentences of a corpus.

        Args:
            texts: The M distinct sentences.
            train: The train reports as rows of `texts`; only their pieces make the vocabulary.
            tokenizer: That of the text encoder; its length limit, meant for sentences, is not used.
            max_tokens: As the attribute, at least 2.
        """
        # lists of numbers take ten times the memory of arrays, so not for all sentences together
        lengths, parts = [0], []
        for first in range(0, len(texts), CHUNK):
            pieces = tokenizer.pieces(texts[first : first + CHUNK])
            lengths += map(len, pieces)
            parts.append(np.array([piece for row in pieces for piece in row], np.int64))
        starts, flat = np.cumsum(lengths, dtype=np.int64), np.concatenate(parts)
        rows = np.unique(np.concatenate(train))
        known = np.unique(np.concatenate([flat[starts[row] : starts[row + 1]] for row in rows]))
        place = np.searchsorted(known, flat).clip(max=len(known) - 1)
        numbers = np.where(known[place] == flat, place + 2, UNKNOWN)
        vocabulary = Vocabulary(("[END]", "[UNKNOWN]", *tokenizer.names(known.tolist())))
        return cls(vocabulary, numbers, starts, max_tokens)

    def report(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of a report, (L,) int64 with L <= max_tokens; the last is END unless cut."""
        said = [self.tokens[self.starts[row] : self.starts[row + 1]] for row in rows]
        return np.concatenate([*said, [END]])[: self.max_tokens]

    def batch(self, reports: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Reports as tokens (N, T) int64, padded with END to the longest, and mask (N, T) bool."""
        numbers = [self.report(rows) for rows in reports]
        longest = max(map(len, numbers))
        tokens = np.full((len(numbers), longest), END)
        for row, own in zip(tokens, numbers, strict=True):
            row[: len(own)] = own
        mask = np.arange(longest) < np.array([[len(own)] for own in numbers])
        return torch.from_numpy(tokens), torch.from_numpy(mask)


def until_end(numbers: Sequence[int]) -> list[int]:
    """A report without its end and what follows it."""
    return list(numbers[: numbers.index(END)]) if END in numbers else list(numbers)
