"""The sigmoid loss in place of the softmax, not in the paper (Zhai et al. 2023, arXiv 2303.15343).

Every pairing of an image and a sentence of the batch is a separate yes-or-no question: yes on the
diagonal, no elsewhere. Temperature and bias are learnt; the bias starts low, since a yes is rare.
As published, if a sentence is in the batch twice, each copy is a no for the other's image. Weight
decay acts on temperature and bias as on every other weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt import processes
from convirt.objectives import base
from convirt.objectives.base import Inputs, Parts, full_precision, options_of


@dataclass(frozen=True)
class Options:
    """Settings of this objective; the defaults are the published ones.

    Attributes:
        scale: t = exp(t') at the start, above 0; 10 as published.
        bias: b at the start; -10 as published.
    """

    scale: float = 10.0
    bias: float = -10.0

    def __post_init__(self) -> None:
        if self.scale <= 0:
            raise ValueError("scale has to be above 0; 10 as published")


def sigmoid_loss(v: Tensor, u: Tensor, scale: Tensor | float, bias: Tensor | float) -> Tensor:
    """Sum over the texts, mean over the images, of -ln sigmoid(+-(scale v u^T + bias)).

    Args:
        v: L2-normalised image embeddings, (N, d).
        u: L2-normalised text embeddings, (N, d); row i belongs to row i of `v`.
        scale: t, the inverse of a temperature.
        bias: b.

    Returns:
        A scalar.
    """
    logits = scale * (v @ u.T) + bias
    sign = 2 * torch.eye(len(v), dtype=logits.dtype, device=v.device) - 1
    return F.softplus(-sign * logits).sum() / len(v)


def sigmoid_chance(count: int) -> float:
    """The lowest loss possible without looking at the pairs, of which 1 in N is true.

    ln N + (N - 1) ln(N / (N - 1)), the entropy of N such answers.
    """
    if count == 1:
        return 0.0
    return math.log(count) + (count - 1) * math.log(count / (count - 1))


class Objective(base.PairObjective):
    """Both encoders, their projections, t' = ln t and b."""

    recordable: ClassVar[bool] = True

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        options = options_of(Options, parts.options)
        self.log_scale = nn.Parameter(torch.tensor(math.log(options.scale)))
        self.bias = nn.Parameter(torch.tensor(options.bias))
        self.batch_size = parts.config.batch_size

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch; logs the t and b that it was computed with."""
        v, u = map(processes.gather, embeddings)
        with full_precision(v):
            scale = self.log_scale.exp()
            loss = sigmoid_loss(v, u, scale, self.bias)
        return loss, {"scale": scale.detach(), "bias": self.bias.detach().clone()}

    def chance(self) -> float:
        """Loss of the best constant answer (see `sigmoid_chance`)."""
        return sigmoid_chance(self.batch_size)
