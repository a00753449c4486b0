"""CIDEr-D against values worked by hand and a slow reference that follows the equations."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convirt.cider import CiderD

texts = st.lists(st.lists(st.sampled_from("abc"), max_size=7), min_size=1, max_size=5)


def grams(text: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text)) if i + n <= len(text)]


def slow(candidates: list[list[str]], references: list[list[str]], sigma: float) -> list[float]:
    """Equations 1, 2, 4 and 5 with plain lists, one axis for each n-gram of any text."""

    def vector(text: list[str], n: int) -> list[float]:
        out = []
        for axis in sorted({g for other in [*candidates, *references] for g in grams(other, n)}):
            holders = sum(axis in grams(other, n) for other in references)
            weight = math.log(len(references) / max(1, holders))
            out.append(grams(text, n).count(axis) * weight)
        return out

    scores = []
    for candidate, reference in zip(candidates, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            c, s = vector(candidate, n), vector(reference, n)
            length = math.sqrt(sum(x * x for x in c)) * math.sqrt(sum(x * x for x in s))
            dot = sum(min(x, y) * y for x, y in zip(c, s, strict=True))
            gap = len(candidate) - len(reference)
            total += math.exp(-gap * gap / (2 * sigma * sigma)) * (dot / length if length else 0)
        scores.append(10 * total / 4)
    return scores


def test_worked_by_hand() -> None:
    """Two references "a b" and "a c": "a" is in both and weighs ln 1 = 0, the rest ln 2."""
    score = CiderD([["a", "b"], ["a", "c"]])
    # "a b": 1 for n = 1 (b) and n = 2 (a b); no n-grams of 3 and 4
    # "c": 1 for n = 1 alone, one token short of its reference
    assert score.scores([["a", "b"], ["c"]]) == pytest.approx([5.0, 2.5 * math.exp(-1 / 72)])
    # "b b": the vectors of n = 1 are 2 ln 2 and ln 2, clipped to ln 2 * ln 2 over their lengths
    # "a a": nothing of weight
    assert score.scores([["b", "b"], ["a", "a"]]) == pytest.approx([1.25, 0.0])
    assert score([["b", "b"], ["a", "a"]]) == pytest.approx(0.625)


def test_the_references_themselves_get_ten() -> None:
    references = [list("abcde"), list("fghij"), list("klmnopq")]
    assert CiderD(references)(references) == pytest.approx(10.0)


def test_length_costs_by_the_gaussian() -> None:
    references = [list("abcdefgh"), list("ijklmnop")]
    longer = [*references[0], "z", "z"]
    near, far = (CiderD(references, sigma=s).scores([longer, []])[0] for s in (6.0, 2.0))
    assert far / near == pytest.approx(math.exp(-4 / 8) / math.exp(-4 / 72))


def test_saying_a_phrase_again_does_not_pay() -> None:
    """Plain CIDEr (a cosine without clipping) would give this candidate more than half."""
    references = [list("abcdefgh"), list("ijklmnop")]
    score = CiderD(references, sigma=1e9)
    once, again = (score.scores([list(c), []])[0] for c in ("ab", "abababab"))
    assert again < once


@pytest.mark.parametrize("seed", range(20))
def test_as_the_slow_reference(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    candidates, references = (
        [rng.choices("abcd", k=rng.randint(0, 12)) for _ in range(count)] for _ in range(2)
    )
    found = CiderD(references, sigma=3.0).scores(candidates)
    assert found == pytest.approx(slow(candidates, references, 3.0))


@given(texts)
def test_within_bounds_and_best_for_the_truth(references: list[list[str]]) -> None:
    score = CiderD(references)
    shifted = references[1:] + references[:1]
    best, others = score.scores(references), score.scores(shifted)
    assert all(0 <= s <= b + 1e-9 <= 10 + 1e-6 for s, b in zip(others, best, strict=True))


def test_refuses_what_has_no_score() -> None:
    with pytest.raises(ValueError, match="at least one"):
        CiderD([])
    with pytest.raises(ValueError, match="1 candidates for 2"):
        CiderD([["a"], ["b"]]).scores([["a"]])
