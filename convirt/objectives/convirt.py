"""The objective of the paper."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
