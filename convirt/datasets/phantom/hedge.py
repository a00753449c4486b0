"""Sentences of made-up reports that people understand and rules misread.

Real reports express doubt ("cannot be excluded"), name possible findings beside actual ones, deny
several findings together, compare with an older film, and say the same in other words. Nothing here
is false about the film: a doubted finding is there, or is a differential named beside one that is;
a denied finding is absent. Side, site and grade are kept, since pretraining depends on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_VAGUE: dict[str, tuple[str, ...]] = {
    "Atelectasis": (
        "{Side} basilar airspace opacity may represent {grade} atelectasis or early pneumonia.",
        "{Grade} {side} basilar opacity, atelectasis versus scarring.",
    ),
    "Cardiomegaly": (
        "The cardiomediastinal silhouette is {graded} enlarged.",
        "Enlarged cardiac silhouette, {grade}, a pericardial effusion cannot be excluded.",
    ),
    "Consolidation": (
        "{Grade} {side} {site} airspace opacity, which may represent consolidation or aspiration.",
        "{Side} {site} airspace opacity, {grade}, infection cannot be excluded.",
    ),
    "Edema": (
        "{Grade} vascular congestion, interstitial edema cannot be excluded.",
        "{Grade} perihilar haze, possibly edema.",
    ),
    "Fracture": (
        "Irregularity of a {side} {site} rib, a fracture cannot be excluded.",
        "Deformity of a {side} {site} rib may represent a fracture.",
    ),
    "Pleural Effusion": (
        "Blunted {side} costophrenic angle, a {size} effusion cannot be excluded.",
        "Blunting of the {side} costophrenic angle, {size} effusion versus pleural thickening.",
    ),
    "Pneumonia": (
        "Patchy {side} {site} airspace opacity, {grade}, pneumonia versus atelectasis.",
        "{Grade} {side} {site} airspace opacity may represent atelectasis or early pneumonia.",
    ),
    "Pneumothorax": (
        "Lucency at the {side} apex, possibly a {size} pneumothorax.",
        "A {size} {side} apical pneumothorax cannot be excluded.",
    ),
    "COVID-19": (
        "{Grade} peripheral airspace opacities, atypical infection cannot be excluded.",
        "{Grade} bilateral peripheral opacities, infection versus organizing pneumonia.",
    ),
    "fracture": (
        "Lucency through the {site} shaft may represent a {graded} displaced fracture.",
        "{Grade} cortical irregularity of the {site} shaft, a fracture cannot be excluded.",
    ),
    "lesion": (
        "{Size} lucency in the {site} shaft, lytic lesion versus cyst.",
        "{Size} lucency in the {site} shaft, a lesion cannot be excluded.",
    ),
    "degenerative": (
        "{Grade} joint space narrowing, possibly degenerative.",
        "{Grade} spurring of the joint.",
    ),
    "osteopenia": (
        "The bones appear {graded} lucent, osteopenia cannot be excluded.",
        "{Grade} decrease in bone density.",
    ),
}
_COMPARED: dict[str, str] = {
    "Atelectasis": "{grade} {side} basilar atelectasis",
    "Cardiomegaly": "{grade} cardiomegaly",
    "Consolidation": "{grade} {side} {site} consolidation",
    "Edema": "{grade} pulmonary edema",
    "Fracture": "{side} {site} rib fracture",
    "Pleural Effusion": "{size} {side} pleural effusion",
    "Pneumonia": "{grade} {side} {site} pneumonia",
    "Pneumothorax": "{size} {side} pneumothorax",
    "COVID-19": "{grade} bilateral peripheral opacities",
    "fracture": "{graded} displaced {site} fracture",
    "lesion": "{size} lytic {site} lesion",
    "degenerative": "{grade} degenerative changes",
    "osteopenia": "{grade} osteopenia",
}
_COMPARISONS = ("No significant change in the {}.", "Unchanged {}.")
# What may be denied, beside a finding or with another denial: (finding, words). Those without a
# finding are on no made-up film.
_DENIED = (
    ("Consolidation", "focal consolidation"),
    ("Edema", "pulmonary edema"),
    ("Pleural Effusion", "effusion"),
    ("Pneumothorax", "pneumothorax"),
    ("", "free air"),
)
_DENIED_LIMB = (
    ("fracture", "acute fracture"),
    ("lesion", "focal lesion"),
    ("", "dislocation"),
    ("", "joint effusion"),
)
_DENIALS = (
    "No {0} or {1}.",
    "No evidence of {0}, {1}.",
    "The chest is without {0}, {1}.",
    "The previously seen {0} has resolved.",
    "The {0} seen on the prior study is no longer present.",
)


def hedged(
    rng: np.random.Generator, name: str, plain: Sequence[str], present: frozenset[str]
) -> list[str]:
    """Phrases about a finding that is present: doubted, compared, or with others denied beside it.

    Args:
        rng: Source of all randomness.
        name: The finding.
        plain: At most two plain phrases about it, one for each part of the report.
        present: Names of all findings of the case.

    Returns:
        As many templates as plain phrases, with the same fields.
    """
    kind = rng.choice(3, p=[0.6, 0.2, 0.2])
    order = rng.permutation(2)[: len(plain)]
    if kind == 0:
        return [_VAGUE[name][i] for i in order]
    if kind == 1:
        return [_COMPARISONS[i].format(_COMPARED[name]) for i in order]
    choices = _DENIED_LIMB if name.islower() else _DENIED
    denied = [" or ".join(_absent(rng, present, choices)) for _ in plain]
    return [f"{phrase[:-1]}, without {words}." for phrase, words in zip(plain, denied, strict=True)]


def denial(rng: np.random.Generator, present: frozenset[str]) -> str:
    """A sentence that denies two chest findings, or says that one is gone."""
    return _DENIALS[rng.integers(len(_DENIALS))].format(*_absent(rng, present, _DENIED))


def _absent(
    rng: np.random.Generator, present: frozenset[str], choices: Sequence[tuple[str, str]]
) -> list[str]:
    """The words for two things that are absent."""
    absent = [words for name, words in choices if name not in present]
    return [absent[i] for i in rng.choice(len(absent), size=2, replace=False)]
