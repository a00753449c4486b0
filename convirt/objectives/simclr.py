"""SimCLR, contrastive learning from images alone (section 6; Chen et al. 2020, arXiv 2002.05709).

The two transformed views of each film have to be matched with each other, among all other views of
the batch. The head on top, W2 ReLU(W1 h), is discarded after training. Both views go through the
encoder in one batch, so that BatchNorm sees them together, as in the code that the paper used
(sthalles/SimCLR).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from convirt import processes
from convirt.objectives import base
from convirt.objectives.base import Inputs, Parts, full_precision, options_of


@dataclass(frozen=True)
class Options:
    """Settings of this objective: none; `train.tau` and `model.projection` set tau and the head."""


def nt_xent(one: Tensor, two: Tensor, tau: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, eq. 1), over all 2N views.

    Each view is matched with its partner among the 2N - 1 others; at chance the loss is ln(2N - 1).

    Args:
        one: L2-normalised embeddings of the first views, (N, d).
        two: Those of the second views; row i shows the film of row i of `one`.
        tau: Temperature.

    Returns:
        The mean over the views, a scalar.
    """
    z = torch.cat([one, two])
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    logits = (z @ z.T / tau).masked_fill(itself, float("-inf"))
    partner = torch.arange(len(z), device=z.device).roll(len(one))
    return F.cross_entropy(logits, partner)


class Objective(base.Objective):
    """The image encoder and a head."""

    views: ClassVar[int] = 2
    recordable: ClassVar[bool] = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        options_of(Options, parts.options)
        self.image_encoder = parts.image
        self.tau, self.batch_size = parts.config.tau, parts.config.batch_size
        torch.manual_seed(parts.config.seed)
        self.head = parts.projection.head(parts.image_config.width)

    def embed(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """Both views, projected and L2-normalised, (n, dim) each."""
        h = self.image_encoder(torch.cat(inputs.views))
        return F.normalize(self.head(h).float(), dim=-1).chunk(2)

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of two views each."""
        one, two = map(processes.gather, embeddings)
        with full_precision(one):
            return nt_xent(one, two, self.tau), {}

    def chance(self) -> float:
        """Loss if all other views are equally likely to be the partner."""
        return math.log(2 * self.batch_size - 1)
