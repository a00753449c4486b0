"""Zero-shot classification: a linear classifier whose weights are written in words.

An image's score for a label is high if its v is nearer to the u of sentences that affirm the label
than to the u of those that deny it (CheXzero, Tiu 2022, doi:10.1038/s41551-022-00936-9; for
exclusive classes CLIP, Radford 2021, arXiv 2103.00020). No label is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convirt.pair_encoder import PairEncoder


@dataclass(frozen=True)
class Prompts:
    """Sentences that affirm a label, and sentences that deny it (none for exclusive classes)."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()


@torch.inference_mode()
def direction(pair: PairEncoder, sentences: Sequence[str]) -> Tensor:
    """The mean u of sentences, (dim,): its dot product with a v is the mean of the cosines."""
    u: Tensor = pair.project_text(pair.encode_sentences(sentences)).mean(dim=0)
    return u


class ZeroShot(nn.Module):
    """Images (N, 3, S, S) to logits (N, L), one per label.

    `kind` determines how logits become probabilities, as in a trained classifier:

    - binary, multilabel: (mean cosine to the positive prompts - mean cosine to the negative ones)
      / tau. Its sigmoid is the softmax over the two.
    - multiclass: mean cosine to the class's prompts / tau. The softmax is over the classes.
    """

    weight: Tensor  # (L, dim)

    def __init__(
        self,
        pair: PairEncoder,
        prompts: Mapping[str, Prompts],
        labels: Sequence[str],
        kind: str,
        tau: float,
    ) -> None:
        """Turn the prompts of `labels` into weights; `pair` is switched to evaluation mode.

        Args:
            pair: On the device.
            prompts: By label.
            labels: In the order of the logits.
            kind: "binary", "multilabel" or "multiclass".
            tau: Temperature, larger than 0.
        """
        super().__init__()
        self.pair, self.tau = pair.eval(), tau
        weights = [direction(pair, prompts[label].positive) for label in labels]
        if kind != "multiclass":
            denied = [direction(pair, prompts[label].negative) for label in labels]
            weights = [yes - no for yes, no in zip(weights, denied, strict=True)]
        self.register_buffer("weight", torch.stack(weights))

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images."""
        v = self.pair.project_image(self.pair.image_encoder(x))
        logits: Tensor = v @ self.weight.T / self.tau
        return logits
