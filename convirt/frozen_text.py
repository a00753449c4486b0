"""The frozen half of a text encoder, computed once per sentence if memory allows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convirt.devices import sent
from convirt.pairs import Sentences
from convirt.text_encoder import Packing, TextEncoder


class FrozenText:
    """Outputs of the frozen half, kept after the first call when `keep` is set.

    A kept output equals a freshly computed one up to rounding, which depends on the rest of the
    batch.

    Args:
        encoder: Its `lower` is the frozen half.
        sentences: Tokens of the distinct sentences.
        keep: Compute all sentences once, (tokens, width) float32 on the encoder's device.
        buckets: 0 leaves all padding out. Otherwise padding stays in and lengths are rounded up to
            a multiple of this, for compiled code and graphs, which are made for each shape.
    """

    def __init__(
        self, encoder: TextEncoder, sentences: Sentences, keep: bool, buckets: int = 0
    ) -> None:
        self.encoder, self.sentences, self.keep, self.buckets = encoder, sentences, keep, buckets
        self.kept: Tensor | None = None

    def _compute(self, device: torch.device, chunk: int = 512) -> Tensor:
        """Outputs of all tokens of all sentences, back to back, (T, width)."""
        count = len(self.sentences.starts) - 1
        pieces = []
        for first in range(0, count, chunk):
            tokens, mask = self.sentences.batch(np.arange(first, min(first + chunk, count)))
            packing = Packing.of(mask).to(device)
            pieces.append(self.encoder.lower(tokens.to(device), packing).float())
        return torch.cat(pieces)

    def __call__(self, rows: np.ndarray) -> tuple[Tensor, Packing]:
        """Hidden states (T, width) of some sentences, and the places of their tokens."""
        return self.hidden(*self.step_inputs(rows))

    def step_inputs(self, rows: np.ndarray) -> tuple[Tensor, Packing]:
        """The part on the CPU: the arguments of `hidden`, on the encoder's device."""
        tokens, mask = self.sentences.batch(rows, max(self.buckets, 1))
        # computed while the mask is on the CPU: on a GPU this would wait for it
        packing = Packing.of(mask, whole=self.buckets > 0)
        if self.keep:
            tokens = packing.pack(torch.from_numpy(self.sentences.places(rows, mask)))
        device = next(self.encoder.parameters()).device
        return sent(tokens, device), packing.to(device)

    def hidden(self, tokens: Tensor, packing: Packing) -> tuple[Tensor, Packing]:
        """The part on the device.

        Args:
            tokens: (N, L) int64; or, if outputs are kept, the places of the tokens, (T,).
            packing: Their places in the batch.
        """
        if not self.keep:
            return self.encoder.lower(tokens, packing), packing
        if self.kept is None or self.kept.device != tokens.device:
            self.kept = self._compute(tokens.device)
        return self.kept[tokens], packing
