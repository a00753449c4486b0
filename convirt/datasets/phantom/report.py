"""What a radiologist might dictate about a made-up film."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convirt.datasets.phantom.case import ChestCase, Finding, LimbCase
from convirt.datasets.phantom.hedge import denial, hedged

# Shares that are worded so that rules misread them: of chest reports with a finding, of denials,
# and of limb reports with a finding. In all this is about a quarter of the reports.
_HEDGED, _HEDGED_DENIALS, _HEDGED_LIMBS = 0.22, 0.5, 0.2

_PHRASES: dict[str, tuple[str, ...]] = {
    "Atelectasis": (
        "There is {grade} {side} basilar atelectasis.",
        "Linear opacity at the {side} base, {grade} atelectasis.",
        "{Grade} volume loss at the {side} base with plate-like atelectasis.",
    ),
    "Cardiomegaly": (
        "The heart is {graded} enlarged.",
        "There is {grade} cardiomegaly.",
        "The cardiac silhouette shows {grade} enlargement.",
    ),
    "Consolidation": (
        "There is a {grade} consolidation in the {side} {site} lung.",
        "Dense {side} {site} opacity, a {grade} consolidation.",
        "{Grade} focal consolidation of the {side} {site} lung zone is seen.",
    ),
    "Edema": (
        "There is {grade} pulmonary edema.",
        "Perihilar haze, consistent with {grade} interstitial edema.",
        "{Grade} pulmonary vascular congestion and edema.",
    ),
    "Fracture": (
        "A displaced {side} rib fracture is seen in the {site} chest.",
        "There is a fracture of a {side} {site} rib with callus.",
        "{Side} {site} rib fracture, {gradedly} displaced.",
    ),
    "Pleural Effusion": (
        "There is a {size} {side} pleural effusion.",
        "{Size} effusion on the {side} with blunting of the costophrenic angle.",
        "Layering {side} pleural fluid, {size} in amount.",
    ),
    "Pneumonia": (
        "Patchy {side} {site} opacities, concerning for {grade} pneumonia.",
        "{Grade} {side} {site} lobe pneumonia.",
        "Heterogeneous {side} {site} opacity, likely {grade} pneumonia.",
    ),
    "Pneumothorax": (
        "There is a {size} {side} apical pneumothorax.",
        "{Size} {side} pneumothorax with a visible pleural line.",
        "A {side} pneumothorax is present, {size} in extent.",
    ),
    "COVID-19": (
        "{Grade} bilateral peripheral ground glass opacities.",
        "Bilateral peripheral opacities, {grade}, suspicious for viral infection.",
        "There are {grade} multifocal opacities in the periphery of both lungs.",
    ),
}
_NORMAL = (
    "No acute cardiopulmonary process.",
    "The lungs are clear.",
    "Heart size is normal and the lungs are well expanded and clear.",
    "Normal chest radiograph.",
)
_NEGATIVE = {
    "Pleural Effusion": "There is no pleural effusion.",
    "Pneumothorax": "No pneumothorax is seen.",
    "Cardiomegaly": "The heart size is normal.",
    "Consolidation": "No focal consolidation.",
    "Fracture": "No displaced rib fracture.",
}
_DEVICE_PHRASES = {
    "pacemaker": "A left pectoral pacemaker is in place.",
    "central line": "A right central line ends in the vena cava.",
    "leads": "Overlying monitoring leads are noted.",
    "tube": "The endotracheal tube ends above the carina.",
}
_IRRELEVANT = (
    "Comparison is made to the prior study of ___.",
    "These findings were discussed with Dr. ___.",
    "Degenerative changes of the thoracic spine are again noted.",
    "Clinical correlation is recommended.",
)


def _say(phrase: str, finding: Finding) -> str:
    sizes = {"mild": "small", "moderate": "moderate", "severe": "large"}
    words = {
        "grade": finding.grade,
        "graded": finding.grade + "ly",
        "gradedly": finding.grade + "ly",
        "size": sizes[finding.grade],
        "side": finding.side,
        "site": finding.site,
    }
    return phrase.format(
        **words, **{key.capitalize(): word.capitalize() for key, word in words.items()}
    )


def _hedge(
    rng: np.random.Generator, case: ChestCase | LimbCase, *texts: list[str], share: float
) -> None:
    """In a share of the cases with findings, reword the phrases about one finding, in place."""
    if not case.findings or rng.random() >= share:
        return
    i = int(rng.integers(len(case.findings)))
    present = frozenset(finding.name for finding in case.findings)
    plain = [text[i] for text in texts]
    for text, phrase in zip(texts, hedged(rng, case.findings[i].name, plain, present), strict=True):
        text[i] = phrase


def _sentences(phrases: Sequence[str], case: ChestCase | LimbCase) -> list[str]:
    """One phrase per finding, filled in."""
    return [_say(phrase, f) for phrase, f in zip(phrases, case.findings, strict=True)]


def chest_report(rng: np.random.Generator, case: ChestCase) -> tuple[str, str]:
    """Write the findings and the impression of a case; either may be an empty string."""
    wording = rng.spawn(1)[0]  # its draws leave those of the film unchanged
    first = [_PHRASES[f.name][rng.integers(3)] for f in case.findings]
    others: list[str] = []
    if not case.findings:
        others.append(_NORMAL[rng.integers(1, 4)])
    if case.device != "none" and rng.random() < 0.85:
        others.append(_DEVICE_PHRASES[case.device])
    if case.low_volumes and rng.random() < 0.6:
        others.append("Lung volumes are low.")
    absent = [name for name in _NEGATIVE if name not in case.labels]
    if rng.random() < 0.25:
        plain = _NEGATIVE[absent[rng.integers(len(absent))]]
        tricky = wording.random() < _HEDGED_DENIALS
        others.append(denial(wording, case.labels) if tricky else plain)
    if rng.random() < 0.15:
        others.append(_IRRELEVANT[rng.integers(len(_IRRELEVANT))])
    order = rng.permutation(len(first) + len(others))
    again = [_PHRASES[f.name][rng.integers(3)] for f in case.findings]
    _hedge(wording, case, first, again, share=_HEDGED)
    body = [*_sentences(first, case), *others]
    body = [body[i] for i in order]
    impression = _sentences(again, case)
    if not impression:
        impression = [_NORMAL[rng.integers(4)]]
    if rng.random() < 0.12:
        return "", " ".join(impression)
    if rng.random() < 0.25:
        return " ".join(body), ""
    return " ".join(body), " ".join(impression)


# None is word for word a sentence of a report, which could be memorised and not understood.
_QUERIES: dict[str, tuple[str, ...]] = {
    "No Finding": (
        "Both lungs are clear and the heart is of normal size.",
        "Unremarkable chest radiograph.",
        "There is no evidence of acute cardiopulmonary disease.",
        "Heart size is normal and the lungs are clear.",
        "No abnormality is seen in the chest.",
    ),
    "Cardiomegaly": (
        "The heart is enlarged.",
        "Cardiomegaly is present.",
        "The cardiac silhouette is enlarged.",
        "Marked enlargement of the heart.",
        "Enlarged heart, consistent with cardiomegaly.",
    ),
    "Edema": (
        "Findings are consistent with pulmonary edema.",
        "Perihilar haze is present, consistent with interstitial edema.",
        "Vascular congestion with interstitial edema is seen.",
        "Pulmonary edema is present in both lungs.",
        "The vessels are indistinct because of edema.",
    ),
    "Pneumonia": (
        "Patchy opacities in the left lower lung are concerning for pneumonia.",
        "There is a right lower lobe pneumonia.",
        "Heterogeneous left mid opacity, likely pneumonia.",
        "Findings suggest a right upper lobe pneumonia.",
        "Patchy right mid lung opacity due to pneumonia.",
    ),
    "Atelectasis": (
        "There is left basilar atelectasis.",
        "Linear opacity at the right lung base, compatible with atelectasis.",
        "Plate-like atelectasis at the left base.",
        "Volume loss at the right base with atelectasis.",
        "Moderate right basilar atelectasis is seen.",
    ),
    "Pneumothorax": (
        "A large pneumothorax is seen at the left apex.",
        "A right pneumothorax is present.",
        "A pleural line is visible on the left, a moderate pneumothorax.",
        "A right apical pneumothorax is seen.",
        "Pneumothorax at the left lung apex.",
    ),
    "Pleural Effusion": (
        "A large effusion is seen on the right.",
        "The left costophrenic angle is blunted by a moderate effusion.",
        "Layering right pleural fluid.",
        "A left pleural effusion is present.",
        "Pleural fluid blunts the right costophrenic angle.",
    ),
    "Fracture": (
        "A displaced left rib fracture is seen.",
        "There is a fracture of a right lower rib.",
        "Right upper rib fracture with callus.",
        "A left mid rib fracture is present.",
        "Displaced fracture of a right rib.",
    ),
}


def text_query(label: str, i: int) -> str:
    """The i-th of five sentences that describe one of the eight retrieval classes."""
    return _QUERIES[label][i]


_LIMB_PHRASES: dict[str, tuple[str, ...]] = {
    "fracture": (
        "There is a {graded} displaced fracture of the {site} shaft.",
        "{Site} fracture with {grade} displacement.",
        "A transverse lucency through the {site} shaft, a {grade} fracture.",
    ),
    "lesion": (
        "There is a {size} lytic lesion in the {site} shaft.",
        "{Size} lucent {site} bone lesion.",
        "{Size} area of bone destruction in the {site} shaft.",
    ),
    "degenerative": (
        "There are {grade} degenerative changes with osteophytes.",
        "{Grade} osteoarthritis.",
        "Osteophytes and sclerosis at the joint, {grade}.",
    ),
    "osteopenia": (
        "The bones are {graded} osteopenic.",
        "There is {grade} diffuse osteopenia.",
        "{Grade} demineralization of the bones.",
    ),
}
_LIMB_NORMAL = (
    "Normal radiograph.",
    "No fracture or dislocation.",
    "The bones are intact and the joint spaces are preserved.",
    "No osseous abnormality.",
)


def limb_report(rng: np.random.Generator, case: LimbCase) -> str:
    """Write the report of a limb case, a few sentences."""
    wording = rng.spawn(1)[0]
    pairs = [rng.choice(3, size=2, replace=False) for _ in case.findings]
    first, again = (
        [_LIMB_PHRASES[f.name][pair[k]] for f, pair in zip(case.findings, pairs, strict=True)]
        for k in range(2)
    )
    _hedge(wording, case, first, again, share=_HEDGED_LIMBS)
    both = zip(_sentences(first, case), _sentences(again, case), strict=True)
    body = [sentence for pair in both for sentence in pair]
    if not case.findings:
        body += [_LIMB_NORMAL[k] for k in rng.choice(4, size=2, replace=False)]
    if case.extra == "cast" and rng.random() < 0.7:
        body.append("Overlying cast material obscures fine bony detail.")
    if rng.random() < 0.45:
        body.append(f"Two views of the {case.part.lower()} were obtained.")
    if rng.random() < 0.15:
        body.append("Comparison is made to the prior study of ___.")
    return " ".join(body)
