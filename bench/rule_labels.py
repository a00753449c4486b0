"""How well rules read the made-up reports: their labels, against what was drawn.

    python -m bench.rule_labels              # 2,000 reports of each kind, a few seconds

Precision P, recall R and their harmonic mean F, once with labels of -1 (uncertain) counted as
absent (0) and once as present (1). The truth is the case that the report was written about: a sign
named in place of a finding, and a finding named beside another one, count as mistakes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import typer

from convirt import labeler
from convirt.datasets import phantom, sentences
from convirt.label_rules import CHEXPERT, LIMB, Vocabulary
from convirt.results.markdown import table

_OPACITIES = {"Atelectasis", "Consolidation", "Edema", "Pneumonia", "COVID-19"}
_LIMB_NAMES = {
    "fracture": "Fracture",
    "lesion": "Bone Lesion",
    "degenerative": "Degenerative Change",
    "osteopenia": "Osteopenia",
}


def chest(seed: int, number: int) -> tuple[str, set[str]]:
    """A report and the labels that are true of its film."""
    rng = np.random.default_rng([seed, number])
    case = phantom.chest_case(rng)
    text = "\n\n".join(phantom.chest_report(rng, case))
    true = set(case.labels & set(CHEXPERT.labels)) | ({"No Finding"} if not case.labels else set())
    true |= {"Lung Opacity"} if case.labels & _OPACITIES else set()
    return text, true | ({"Support Devices"} if case.device not in ("none", "leads") else set())


def limb(seed: int, number: int) -> tuple[str, set[str]]:
    """The same for a limb."""
    rng = np.random.default_rng([seed, number])
    case = phantom.limb_case(rng)
    true = {_LIMB_NAMES[finding.name] for finding in case.findings} or {"No Finding"}
    return phantom.limb_report(rng, case), true | ({"Hardware"} if case.extra == "cast" else set())


def scores(told: np.ndarray, true: np.ndarray) -> tuple[float, float, float]:
    """Precision, recall and F of two bool arrays; nan where nothing was labelled or true."""
    hits = float((told & true).sum())
    precision, recall = (
        hits / n if (n := int(some.sum())) else float("nan") for some in (told, true)
    )
    return precision, recall, 2 * hits / max(1.0, float(told.sum() + true.sum()))


def scored(cases: Iterable[tuple[str, set[str]]], vocabulary: Vocabulary) -> str:
    """A table with one row per label that is true of some case."""
    reports, truths = zip(*cases, strict=True)
    said = [sentences.split(report) for report in reports]
    row = {one: i for i, one in enumerate(dict.fromkeys(one for own in said for one in own))}
    rows = [np.array([row[one] for one in own], int) for own in said]
    labels = labeler.combine(labeler.label(row, vocabulary), rows, vocabulary)
    body = []
    for column, name in enumerate(vocabulary.labels):
        true = np.array([name in truth for truth in truths])
        if not true.any():
            continue
        own = labels[:, column]
        sure = scores(own == labeler.POSITIVE, true)
        lenient = scores(np.isin(own, (labeler.POSITIVE, labeler.UNCERTAIN)), true)
        counts = (str(int(true.sum())), str(int((own == labeler.UNCERTAIN).sum())))
        body.append((name, *counts, *(f"{x:.3f}" for x in (*sure, *lenient))))
    head = ("Label", "true", "told -1", "P0", "R0", "F0", "P1", "R1", "F1")
    return table(head, body)


def main(
    reports: int = typer.Option(2000, min=1, help="Reports of each kind."),
    seed: int = typer.Option(0, help="For drawing cases and reports."),
) -> None:
    """Print both tables."""
    for make, vocabulary in ((chest, CHEXPERT), (limb, LIMB)):
        print(scored([make(seed, number) for number in range(reports)], vocabulary), end="\n\n")


if __name__ == "__main__":
    typer.run(main)
