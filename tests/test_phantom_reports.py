"""Made-up reports: true to the film, the same at each call, and worded as real ones are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import ROOT

from convirt import labeler
from convirt.datasets import phantom, sentences
from convirt.datasets.phantom import hedge, report
from convirt.label_rules import CHEXPERT, LIMB, Vocabulary
from convirt.labeler import NEGATIVE, POSITIVE

LIMB_LABELS = {
    "fracture": "Fracture",
    "lesion": "Bone Lesion",
    "degenerative": "Degenerative Change",
    "osteopenia": "Osteopenia",
}


def chest(number: int) -> tuple[str, set[str], np.random.Generator]:
    """A report, the labels of its findings, and the generator in the state left for the film."""
    rng = np.random.default_rng([3, number])
    case = phantom.chest_case(rng)
    return "\n\n".join(phantom.chest_report(rng, case)), set(case.labels), rng


def limb(number: int) -> tuple[str, set[str], np.random.Generator]:
    """The same for a limb."""
    rng = np.random.default_rng([3, number])
    case = phantom.limb_case(rng)
    return phantom.limb_report(rng, case), {LIMB_LABELS[f.name] for f in case.findings}, rng


KINDS = [pytest.param(chest, CHEXPERT, id="chest"), pytest.param(limb, LIMB, id="limb")]
Make = Callable[[int], tuple[str, set[str], np.random.Generator]]


def worded(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Reword the given share of all that may be reworded."""
    for name in ("_HEDGED", "_HEDGED_DENIALS", "_HEDGED_LIMBS"):
        monkeypatch.setattr(report, name, share)


@pytest.mark.parametrize(("make", "low", "high"), [(chest, 0.2, 0.33), (limb, 0.06, 0.2)])
def test_a_moderate_share_is_reworded(
    make: Make, low: float, high: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [make(i)[0] for i in range(600)]
    worded(monkeypatch, 0.0)
    share = np.mean([text != make(i)[0] for i, text in enumerate(texts)])
    assert low < share < high


@pytest.mark.parametrize("make", [chest, limb])
def test_wording_moves_neither_the_film_nor_another_call(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = [make(i) for i in range(40)]
    assert [text for text, _, _ in plain] == [make(i)[0] for i in range(40)]
    worded(monkeypatch, 1.0)
    for i, (_, _, left) in enumerate(plain):
        assert make(i)[2].bit_generator.state == left.bit_generator.state


@pytest.mark.parametrize(("make", "vocabulary"), KINDS)
def test_no_sentence_denies_what_is_there(
    make: Make, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    worded(monkeypatch, 1.0)
    for i in range(300):
        text, true, _ = make(i)
        said = sentences.split(text)
        states = labeler.label(said, vocabulary)
        for sentence, row in zip(said, states, strict=True):
            denied = {vocabulary.labels[j] for j in np.flatnonzero(row == NEGATIVE)}
            assert not denied & true, sentence


@pytest.mark.parametrize(("make", "vocabulary"), KINDS)
def test_rules_trip_over_the_wording(
    make: Make, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recall() -> float:
        hits = total = 0
        for i in range(150):
            text, true, _ = make(i)
            states = labeler.label(sentences.split(text), vocabulary)
            told = labeler.combine(states, [np.arange(len(states))], vocabulary)[0]
            named = set(np.array(vocabulary.labels)[told == POSITIVE])
            hits, total = hits + len(true & named), total + len(true & set(vocabulary.labels))
        return hits / total

    worded(monkeypatch, 0.0)
    plain = recall()
    worded(monkeypatch, 1.0)
    assert recall() < plain - 0.1


def test_page_shows_the_scores_of_the_rules() -> None:
    page = (ROOT / "docs" / "phantom.md").read_text(encoding="utf-8")
    command = [sys.executable, "-m", "bench.rule_labels"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, encoding="utf-8")
    tables = told.stdout.strip().split("\n\n")
    assert len(tables) == 2
    for table in tables:
        assert table in page, "put what `python -m bench.rule_labels` prints into docs/phantom.md"


def test_rewording_keeps_what_tells_cases_apart() -> None:
    """Every rewording of a phrase with side, site or grade keeps them."""

    def fields(phrases: Any) -> set[str]:
        words = {"graded": "grade", "gradedly": "grade", "size": "grade"}
        found = {
            piece.split("}")[0].lower() for phrase in phrases for piece in phrase.split("{")[1:]
        }
        return {words.get(name, name) for name in found}

    plain = report._PHRASES | report._LIMB_PHRASES
    assert set(hedge._VAGUE) == set(hedge._COMPARED) == set(plain)
    for name, phrases in plain.items():
        for phrase in hedge._VAGUE[name]:
            missing = fields(phrases) - fields([phrase])
            assert missing <= ({"grade"} if name == "Fracture" else set()), phrase


def test_no_text_query_is_a_sentence_of_a_report() -> None:
    """An encoder that read the query in training could recall it without understanding it."""
    said: set[str] = set()
    for seed in range(4000):
        rng = np.random.default_rng(seed)
        for part in phantom.chest_report(rng, phantom.chest_case(rng)):
            said.update(sentence.casefold().rstrip(".") for sentence in sentences.split(part))
    assert len(said) > 600
    for label in report._QUERIES:
        for i in range(5):
            assert phantom.text_query(label, i).casefold().rstrip(".") not in said
