"""CIDEr-D: how close generated texts are to the true ones, by weighted n-grams (Vedantam 2015).

For n = 1 to 4, a text is the vector of its n-gram counts h, each weighted by how rare the n-gram
is among the references (eq. 1; as in the authors' code, the counts are not divided by the length,
which affects only the clipping below)::

    g(w) = h(w) * ln(texts / max(1, references that contain w))

and a candidate c scores against its reference s (eqs. 2, 4 and 5)::

    CIDEr-D_n = exp(-(len c - len s)^2 / (2 sigma^2)) * sum_w min(g_c(w), g_s(w)) g_s(w)
                / (|g_c| |g_s|)

The score is 10 times the mean over n, and the score of a set the mean over its texts. It is 10 at
most, for candidates equal to their references, and less if a text has no n-gram of weight for some
n. Plain CIDEr has no clipping and no length term, and rewards a candidate that repeats one phrase.
Here each candidate has one reference, and tokens may be anything hashable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

Text = Sequence[Hashable]
Ngram = tuple[Hashable, ...]


class CiderD:
    """CIDEr-D against fixed references, whose vectors are computed once.

    Args:
        references: The true texts, one per candidate; they also define how rare an n-gram is.
        longest: n-grams have 1 to this many tokens (4 in the paper).
        sigma: Of the length term, in tokens (6 in the paper).

    Raises:
        ValueError: There are no references.
    """

    def __init__(self, references: Sequence[Text], longest: int = 4, sigma: float = 6.0) -> None:
        if not references:
            raise ValueError("CIDEr-D takes at least one reference")
        self.longest, self.sigma = longest, sigma
        counts = [self._counts(text) for text in references]
        self._holders = Counter(ngram for count in counts for ngram in count)
        self._texts = len(references)
        self._lengths = [len(text) for text in references]
        self._references = [self._vectors(count) for count in counts]

    def scores(self, candidates: Sequence[Text]) -> list[float]:
        """The score of each candidate against the reference at the same position.

        Raises:
            ValueError: There are more or fewer candidates than references.
        """
        if len(candidates) != self._texts:
            raise ValueError(f"{len(candidates)} candidates for {self._texts} references")
        return [self._score(i, text) for i, text in enumerate(candidates)]

    def __call__(self, candidates: Sequence[Text]) -> float:
        """The mean score."""
        return sum(self.scores(candidates)) / self._texts

    def _score(self, place: int, text: Text) -> float:
        gap = len(text) - self._lengths[place]
        closeness = math.exp(-(gap**2) / (2 * self.sigma**2))
        total = 0.0
        for c, s in zip(self._vectors(self._counts(text)), self._references[place], strict=True):
            norms = _norm(c) * _norm(s)
            if norms > 0:
                total += sum(min(g, s[w]) * s[w] for w, g in c.items() if w in s) / norms
        return 10 * closeness * total / self.longest

    def _counts(self, text: Text) -> Counter[Ngram]:
        return Counter(
            tuple(text[i : i + n])
            for n in range(1, self.longest + 1)
            for i in range(len(text) - n + 1)
        )

    def _vectors(self, counts: Counter[Ngram]) -> list[dict[Ngram, float]]:
        """The weights g, one mapping per length of n-gram."""
        vectors: list[dict[Ngram, float]] = [{} for _ in range(self.longest)]
        for ngram, count in counts.items():
            rarity = math.log(self._texts / max(1, self._holders[ngram]))
            vectors[len(ngram) - 1][ngram] = count * rarity
        return vectors


def _norm(vector: dict[Ngram, float]) -> float:
    return math.sqrt(sum(value**2 for value in vector.values()))
