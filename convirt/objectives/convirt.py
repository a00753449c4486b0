"""The objective of the paper: bidirectional contrastive loss (section 3, equations 2 to 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from convirt import processes
from convirt.objectives import base


def convirt_loss(v: Tensor, u: Tensor, tau: float, lam: float) -> Tensor:
    """Bidirectional contrastive loss over a batch of N true pairs (ConVIRT, eqs. 2 to 4).

    At chance it is ln N.

    Args:
        v: L2-normalised image embeddings, (N, d).
        u: L2-normalised text embeddings, (N, d); row i belongs to row i of `v`.
        tau: Temperature.
        lam: Weight of image-to-text (softmax over the texts); text-to-image gets ``1 - lam``.

    Returns:
        The mean over the pairs, a scalar.
    """
    logits = v @ u.T / tau
    target = torch.arange(len(v), device=v.device)
    image_to_text = F.cross_entropy(logits, target)
    text_to_image = F.cross_entropy(logits.T, target)
    return lam * image_to_text + (1 - lam) * text_to_image


@dataclass(frozen=True)
class Options:
    """ConVIRT has no settings of its own."""


class Objective(base.PairObjective):
    """ConVIRT; the temperature and the weight are `train.tau` and `train.lam`."""

    recordable: ClassVar[bool] = True

    def __init__(self, parts: base.Parts) -> None:
        super().__init__(parts)
        base.options_of(Options, parts.options)
        self.tau, self.lam, self.batch_size = (
            parts.config.tau,
            parts.config.lam,
            parts.config.batch_size,
        )

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: base.Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch; logs nothing else."""
        v, u = map(processes.gather, embeddings)
        with base.full_precision(v):
            return convirt_loss(v, u, self.tau, self.lam), {}

    def chance(self) -> float:
        """Loss of equal embeddings, ln N."""
        return math.log(self.batch_size)
