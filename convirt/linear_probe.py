"""A linear probe of an encoder in memory: it returns one number and writes nothing.

The transfer stage probes encoders on disk, one run per label fraction; this is for many states of
one encoder. The training is the same (`transfer`, protocol "linear").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from convirt import labelled, transfer
from convirt.image_encoder import ImageConfig
from convirt.recipe import Recipe
from convirt.search import encode
from convirt.store import Store


def test_metric(
    store: Store,
    labels: Sequence[str],
    unit: str,
    fraction: int,
    encoder: nn.Module,
    config: ImageConfig,
    recipes: Sequence[Recipe],
    l2: Sequence[float] | None = None,
) -> float:
    """The recipes' metric on the test split, mean over the recipes, one repeat each.

    Each image that any repeat needs goes through the encoder once.

    Args:
        store: Of the task; checked by `labelled.check_task`.
        labels: The task's labels.
        unit: "image", "study" or "patient".
        fraction: Percent of the training labels; each recipe's seed draws its own.
        encoder: On the recipes' device.
        config: Of the encoder.
        recipes: Of the protocol "linear".
        l2: Penalties for the exact solver to choose from; None trains step by step.
    """
    device, split = recipes[0].device, store.records["split"].to_numpy(str)
    train = np.flatnonzero(split == "train")
    of_train = store.records.iloc[train]
    drawn = [train[labelled.label_subset(of_train, labels, fraction, r.seed)] for r in recipes]
    rest = np.flatnonzero(np.isin(split, ("val", "test")))
    needed = np.unique(np.concatenate([*drawn, rest]))
    h = encode(store.images, encoder, config, device, needed)

    def part(name: str) -> labelled.Images:
        return labelled.split_of(
            h, store.records.iloc[needed], labels, unit, name, labelled.as_they_are, device
        )

    values = []
    for recipe, rows in zip(recipes, drawn, strict=True):
        head = transfer.linear_head(config.width, len(labels), recipe).to(device)
        own = part("train")
        own = own.take(np.flatnonzero(np.isin(needed[own.rows], rows)))
        if l2 is None:
            with transfer.one_thread():
                transfer.transfer(head, own, part("val"), recipe)
        else:
            transfer.probe(head, own, part("val"), recipe, l2)
        values.append(transfer.score(head, part("test"), recipe).value)
    return float(np.mean(values))
