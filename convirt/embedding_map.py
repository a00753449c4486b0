"""Image vectors projected to a plane: t-SNE, as in the paper's Figure 3."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convirt.retrieval import unit

Floats = NDArray[np.floating]
PERPLEXITY = 30.0
NEIGHBOURS = 10


def tsne(h: Floats, seed: int) -> NDArray[np.float64]:
    """t-SNE of the rows of h, (N, width) to (N, 2); on one thread, so the same bits every time.

    The distance is Euclidean between unit vectors, which orders pairs as the cosine does. It
    starts from the first two principal components. Perplexity is 30, or less if there are few rows.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        model = TSNE(
            perplexity=min(PERPLEXITY, (len(h) - 1) / 3), init="pca", random_state=seed, n_jobs=1
        )
        points: NDArray[np.float64] = model.fit_transform(unit(h)).astype(np.float64)
    return points


def purity(h: Floats, labels: NDArray[np.str_]) -> float:
    """Share of an image's 10 nearest others (by cosine of h) with its label, mean over images."""
    rows = unit(h)
    similarity = np.round(rows @ rows.T, 9)
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, :NEIGHBOURS]
    return float((labels[nearest] == labels[:, None]).mean())
