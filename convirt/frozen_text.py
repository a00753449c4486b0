"""The frozen half of a text encoder, computed once a sentence where memory allows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convirt.pairs import Sentences
from convirt.text_encoder import TextEncoder


class FrozenText:
    """Outputs of the frozen half, kept after the first call when `keep` is set.

    A kept output is what a computed one would be, up to the rounding that padding to another
    length causes.

    Args:
        encoder: Its `lower` is the frozen half.
        sentences: Tokens of the distinct sentences.
        keep: Compute all sentences once, (tokens, width) float32 on the encoder's device.
    """

    def __init__(self, encoder: TextEncoder, sentences: Sentences, keep: bool) -> None:
        self.encoder, self.sentences, self.keep = encoder, sentences, keep
        self.kept: Tensor | None = None

    def _compute(self, device: torch.device, chunk: int = 512) -> Tensor:
        """Outputs of all tokens of all sentences, back to back, (T, width)."""
        count = len(self.sentences.starts) - 1
        pieces = []
        for first in range(0, count, chunk):
            rows = np.arange(first, min(first + chunk, count))
            tokens, mask = (t.to(device) for t in self.sentences.batch(rows))
            pieces.append(self.encoder.lower(tokens, mask)[mask].float())
        return torch.cat(pieces)

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Hidden states (N, L, width) and mask (N, L) of some sentences."""
        tokens, mask = self.sentences.batch(rows)
        device = next(self.encoder.parameters()).device
        if not self.keep:
            mask = mask.to(device, non_blocking=True)
            return self.encoder.lower(tokens.to(device, non_blocking=True), mask), mask
        if self.kept is None or self.kept.device != device:
            self.kept = self._compute(device)
        starts = torch.from_numpy(self.sentences.starts[rows])
        index = torch.where(mask, starts[:, None] + torch.arange(mask.shape[1]), 0).to(device)
        return self.kept[index], mask.to(device, non_blocking=True)
