"""Contrastive-Binary-Loss, the baseline that distinguishes true from false pairs (section 4.3).

h_v and h_u are each projected linearly to the same width and concatenated, and a small network
predicts how likely it is that the two belong together. The loss is the binary cross entropy over
each true pair and one fake, whose text is that of another pair of the batch.

A swapped-in text that equals the pair's own (the same row of the distinct sentences) is no fake: it
is left out, and the remaining fakes share the weight of all. True pairs and fakes thus have half
the weight each, and the loss of a network that knows nothing stays ln 2. A text in other words
that is also true of the film counts as a fake, as in the paper.

Nothing here aligns a film and its sentence in one space: the cosine of the two linear projections,
by which images are retrieved, is a mere by-product of the network. The paper's precision is close
to chance, too (Table 2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from convirt import checkpoint, processes
from convirt.devices import sent
from convirt.objectives import base
from convirt.objectives.base import Inputs, Parts, full_precision, options_of
from convirt.pair_encoder import Projection


@dataclass(frozen=True)
class Options:
    """Settings of this objective.

    Attributes:
        hidden: Width of the network's hidden layer; 0 means that of both projections together.
    """

    hidden: int = 0

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise ValueError("hidden has to be 0 or more")


def partners(count: int, draw: bool) -> Tensor:
    """For each of `count` pairs the pair whose text is swapped in, (count,) int64.

    A permutation that leaves no pair its own text (if there are at least two): the next pair in an
    order drawn from torch's CPU generator, so that all other pairs are equally likely; without
    `draw`, the next pair in the batch.
    """
    if not draw:
        return torch.arange(count).roll(-1)
    order = torch.randperm(count)
    other = torch.empty_like(order)
    other[order] = order.roll(-1)
    return other


def binary_loss(true: Tensor, fake: Tensor, is_fake: Tensor) -> Tensor:
    """Binary cross entropy of true pairs and fakes, with half the weight each.

    At chance, with all logits 0, it is ln 2. Without any fake it is that of the true pairs.

    Args:
        true: Logits of the N pairs, (N,).
        fake: Logits with the texts swapped, (N,).
        is_fake: (N,) bool, false where the swapped-in text equals the pair's own.

    Returns:
        A scalar.
    """
    of_true = F.softplus(-true).mean()  # -ln sigmoid
    kept = is_fake.to(fake.dtype)
    of_fake = (F.softplus(fake) * kept).sum() / kept.sum().clamp(min=1)
    return torch.where(is_fake.any(), (of_true + of_fake) / 2, of_true)


class Objective(base.PairObjective):
    """Both encoders, each with a linear projection, and the network that judges a pair."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        options = options_of(Options, parts.options)
        width = 2 * parts.projection.dim
        self.classifier = Projection(width, options.hidden or width, 1)

    def halves(self, inputs: Inputs) -> tuple[Callable[[], Tensor], ...]:
        """The linear projections, (n, dim) each, not normalised."""
        return (
            lambda: self.model.image_projection(self.h_v(inputs)),
            lambda: self.model.text_projection(self.h_u(inputs)),
        )

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; logs the share of true pairs and fakes that are classified correctly."""
        v, u = embeddings
        own = torch.from_numpy(inputs.batch.sentences)
        rows = processes.gather(sent(own, v.device))
        drawn = sent(partners(len(rows), self.training), v.device)
        other, mine = processes.broadcast(drawn), processes.part(len(rows))
        is_fake = rows != rows[other]
        true = processes.gather(self.judge(v, u))
        fake = processes.gather(self.judge(v, processes.gather(u)[other[mine]]))
        right = (true > 0).sum() + ((fake < 0) & is_fake).sum()
        with full_precision(v):
            loss = binary_loss(true, fake, is_fake)
        return loss, {"accuracy": right / (len(rows) + is_fake.sum())}

    def judge(self, v: Tensor, u: Tensor) -> Tensor:
        """Logits that image and text belong together, (N,) float32, from v and u, (N, dim)."""
        logits: Tensor = self.classifier(torch.cat([v, u], dim=1))
        return logits.squeeze(1).float()

    def chance(self) -> float:
        """Loss of predicting even odds for every pair."""
        return math.log(2)

    def save(self, folder: Path) -> None:
        """Write both encoders and the projections, and the network beside them."""
        super().save(folder)
        path = folder / "classifier.safetensors"
        checkpoint.save_safetensors(path, self.classifier.state_dict())
