"""ConVIRT in which equal sentences count as equally correct: not in the paper.

Reports repeat themselves ("no pleural effusion"), and the paper's loss then pushes an image away
from a sentence that is word for word its own. Here all pairs of the batch with the same sentence
(one row of the distinct sentences) are correct answers, to the same degree, in both directions. If
all sentences of a batch differ, this is the paper's loss.

Related work: with the sentence in place of the label this is the loss of UniCL (Yang et al. 2022,
arXiv 2204.03610), weighted by lambda. UniCL extends SupCon (Khosla et al. 2020, arXiv 2004.11362,
the sum over positives outside of the logarithm) to images and texts. MedCLIP (Wang et al. 2022,
arXiv 2210.10163) goes further, with soft targets from the similarity of extracted findings; here,
sentences that mean the same in other words are still negatives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convirt import processes
from convirt.devices import sent
from convirt.objectives import base
from convirt.objectives.base import Inputs, Parts, full_precision, options_of


@dataclass(frozen=True)
class Options:
    """Settings of this objective: none; tau and lam are `train.tau` and `train.lam`."""


def convirt_soft_loss(v: Tensor, u: Tensor, rows: Tensor, tau: float, lam: float) -> Tensor:
    """Bidirectional contrastive loss with a uniform target over the equal sentences of a batch.

    At chance it is ln N, like the paper's loss. It cannot fall below the mean over the pairs of
    ln m, where m is the number of pairs with the same sentence.

    Args:
        v: L2-normalised image embeddings, (N, d).
        u: L2-normalised text embeddings, (N, d); row i belongs to row i of `v`.
        rows: (N,) the number of each pair's sentence.
        tau: Temperature.
        lam: Weight of image-to-text (softmax over the texts); text-to-image gets ``1 - lam``.

    Returns:
        The mean over the pairs, a scalar.
    """
    logits = v @ u.T / tau
    same = (rows[:, None] == rows[None, :]).to(logits.dtype)
    target = same / same.sum(dim=1, keepdim=True)
    image_to_text = F.cross_entropy(logits, target)
    text_to_image = F.cross_entropy(logits.T, target)  # `same` is symmetric
    return lam * image_to_text + (1 - lam) * text_to_image


class Objective(base.PairObjective):
    """Both encoders and their projections."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        options_of(Options, parts.options)
        self.tau, self.lam = parts.config.tau, parts.config.lam
        self.batch_size = parts.config.batch_size

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch; logs the share of pairs whose sentence another pair has too."""
        v, u = map(processes.gather, embeddings)
        own = torch.from_numpy(inputs.batch.sentences)
        rows = processes.gather(sent(own, v.device))
        with full_precision(v):
            loss = convirt_soft_loss(v, u, rows, self.tau, self.lam)
        shared = (rows[:, None] == rows[None, :]).sum(dim=1) > 1
        return loss, {"shared": shared.float().mean()}

    def chance(self) -> float:
        """Loss of equal embeddings, ln N."""
        return math.log(self.batch_size)
