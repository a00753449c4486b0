"""Labels extracted from reports by rules: the approach that the paper's abstract argues against.

Rules (`convirt.labeler`) turn each report into the labels of a vocabulary; the image encoder with
one linear layer on h is then trained on them as on any multi-label task. The paper does not run it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt import files, labeler, processes
from convirt.devices import sent
from convirt.errors import InputError
from convirt.label_rules import VOCABULARIES, Vocabulary
from convirt.objectives import base

_STATES = {
    "positive": labeler.POSITIVE,
    "uncertain": labeler.UNCERTAIN,
    "negative": labeler.NEGATIVE,
    "blank": labeler.BLANK,
}


@dataclass(frozen=True)
class Options:
    """Settings of this objective.

    Attributes:
        vocabulary: Corpus -> the labels extracted from its reports, `chexpert` or `limb`.
        uncertain: What a doubted finding counts as: `ones` (present; it was seen well enough to be
            named), `zeros` (absent) or `ignore` (left out of the loss); U-Ones, U-Zeroes and
            U-Ignore of Irvin et al. (2019).
    """

    vocabulary: dict[str, Literal["chexpert", "limb"]] = field(
        default_factory=lambda: {"chest": "chexpert", "bone": "limb"}
    )
    uncertain: Literal["ones", "zeros", "ignore"] = "ones"


def targets(states: np.ndarray, uncertain: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of reports as targets; a finding that is not mentioned counts as absent.

    Args:
        states: (N, L), see `labeler.combine`.
        uncertain: See Options.

    Returns:
        (N, L) float32 of 0 and 1, and (N, L) bool, False where the loss leaves a label out.
    """
    doubted = states == labeler.UNCERTAIN
    present = (states == labeler.POSITIVE) | (doubted & (uncertain == "ones"))
    return present.astype(np.float32), ~(doubted & (uncertain == "ignore"))


def masked_bce(logits: Tensor, present: Tensor, known: Tensor) -> Tensor:
    """Binary cross entropy with logits, mean over the known of the (N, L) cells; 0 without any."""
    cells = F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    return (cells * known).sum() / known.sum().clamp(min=1)


def prevalence_entropy(present: np.ndarray, known: np.ndarray) -> float:
    """The lowest `masked_bce` of logits that are the same for all films, in nats.

    The best such logit of a label is its log odds, so this is the entropy of its prevalence, mean
    over the known cells.
    """
    count = known.sum(axis=0)
    share = (present * known).sum(axis=0) / np.maximum(count, 1)
    entropy = [
        sum(-p * math.log(p) for p in (float(one), 1 - float(one)) if p > 0) for one in share
    ]
    return float(np.dot(count, entropy) / count.sum())


class Objective(base.Objective):
    """Multi-label classification of the films by labels that rules extract from their reports.

    Only labels that are present in some training report are learnt.

    Attributes:
        labels: Their names, one per output of the head.
    """

    def __init__(self, parts: base.Parts) -> None:
        super().__init__(parts)
        options = base.options_of(Options, parts.options)
        self._vocabulary = _vocabulary(options.vocabulary, parts.corpus)
        self._uncertain = options.uncertain
        self._states = labeler.label(parts.texts, self._vocabulary)
        told = self._told(parts.train.reports())
        present, known = targets(told, options.uncertain)
        self._columns = np.flatnonzero((present > 0).any(axis=0))
        if len(self._columns) == 0:
            raise InputError(
                f"reports of corpus {parts.corpus!r}",
                f"mentions of {', '.join(self._vocabulary.labels)}",
                f"none in {parts.train.count} training reports",
                "choose the vocabulary that fits, objectives.report_labels.options.vocabulary",
            )
        self.labels = tuple(self._vocabulary.labels[i] for i in self._columns)
        self._chance = prevalence_entropy(present[:, self._columns], known[:, self._columns])
        self._counts = {
            name: {state: int((told[:, i] == value).sum()) for state, value in _STATES.items()}
            for name, i in zip(self.labels, self._columns, strict=True)
        }
        self.image_encoder = parts.image
        torch.manual_seed(parts.config.seed)
        self.head = nn.Linear(parts.image_config.width, len(self.labels))

    def forward(self, inputs: base.Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch; logs nothing else."""
        h = self.image_encoder(inputs.views[0])
        states = self._told(inputs.batch.reports())[:, self._columns]
        present, known = (
            sent(torch.from_numpy(x), h.device) for x in targets(states, self._uncertain)
        )
        with base.full_precision(h):
            logits = processes.gather(self.head(h.float()))
            return masked_bce(logits, processes.gather(present), processes.gather(known)), {}

    def chance(self) -> float:
        """Loss of predicting each label's training prevalence for every film."""
        return self._chance

    def save(self, folder: Path) -> None:
        """Write the image encoder, and labels.json: training reports by label and state."""
        super().save(folder)
        files.write_json(folder / "labels.json", self._counts)

    def _told(self, reports: Sequence[np.ndarray]) -> np.ndarray:
        return labeler.combine(self._states, reports, self._vocabulary)


def _vocabulary(chosen: Mapping[str, str], corpus: str) -> Vocabulary:
    name = chosen.get(corpus)
    if name is None:
        raise InputError(
            f"params.yaml: objectives.report_labels.options.vocabulary.{corpus}",
            f"one of {', '.join(VOCABULARIES)}",
            "nothing",
            f"choose the vocabulary that fits its reports, or take {corpus} out of corpora",
        )
    return VOCABULARIES[name]
