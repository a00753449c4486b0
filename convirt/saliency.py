"""Which pixels a classifier's answer depends on: gradients of a logit (Simonyan et al. 2014).

Figure 4 of the paper: models trained on 1% of CheXpert with the encoder frozen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convirt import checkpoint, files
from convirt.errors import InputError
from convirt.image_encoder import ImageConfig, load_image_encoder

if TYPE_CHECKING:
    import pandas as pd


def load_probe(
    root: Path, folder: Path, hint: str
) -> tuple[nn.Module, ImageConfig, tuple[str, ...]]:
    """Read a linear run's classifier: (N, 3, S, S) to logits (N, L), and its L labels.

    Args:
        root: The folder to which the encoder's folder in config.json is relative.
        folder: models/finetune/<run>, with the head alone.
        hint: The command that creates it.

    Raises:
        InputError: A file or a weight is missing, or the encoder is no longer that of the run.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(path, "a linear run's folder", "no config.json", hint)
    about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    encoder, config = load_image_encoder(root / about["encoder"]["folder"])
    found = files.sha256(root / about["encoder"]["folder"] / "image_encoder.safetensors")
    if found != about["encoder"]["sha256"]:
        expected = f"a run of the encoder {found[:12]}"
        raise InputError(path, expected, about["encoder"]["sha256"][:12], hint)
    head = nn.Linear(config.width, len(about["labels"]))
    checkpoint.load_into(head, folder / "head.safetensors")
    return nn.Sequential(encoder, head).eval(), config, tuple(about["labels"])


def saliency(model: nn.Module, x: Tensor, labels: Tensor) -> NDArray[np.float32]:
    """Largest absolute gradient over the channels, of one logit per image.

    Args:
        model: (N, 3, S, S) to logits (N, L), in evaluation mode.
        x: Normalised images, (N, 3, S, S).
        labels: Which logit of each image, (N,).

    Returns:
        (N, S, S) float32, non-negative.
    """
    x = x.detach().clone().requires_grad_(True)
    logits = model(x).gather(1, labels[:, None]).sum()
    (gradient,) = torch.autograd.grad(logits, x)
    maps: NDArray[np.float32] = gradient.abs().amax(dim=1).cpu().numpy()
    return maps


def samples(records: pd.DataFrame, classes: tuple[str, ...]) -> dict[str, int]:
    """Row of each class's first image query, in the order of the list: none is hand-picked.

    Args:
        records: Of a retrieval store: `role` and `label`.
        classes: Those without an image query are left out.
    """
    role, label = records["role"].to_numpy(str), records["label"].to_numpy(str)
    found = {}
    for name in classes:
        rows = np.flatnonzero((role == "query") & (label == name))
        if len(rows):
            found[name] = int(rows[0])
    return found
