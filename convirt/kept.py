"""The states that pretraining kept along the way, loaded back into encoders.

A kept state holds what the optimiser trained, and the buffers; frozen layers are in the final
encoder's folder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from convirt import checkpoint
from convirt.errors import InputError

INDEX = "kept.json"


@dataclass(frozen=True)
class Kept:
    """A kept state: its file, the steps before it, and its validation loss."""

    path: Path
    step: int
    val_loss: float


def states(folder: Path) -> list[Kept]:
    """The kept states in models/kept/<objective>/<corpus>, by step.

    Raises:
        InputError: There is no index or no state, or one of them is missing.
    """
    path = folder / INDEX
    hint = f"dvc repro pretrain@{folder.parent.name}-{folder.name}"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["states"]
        found = [Kept(folder / row["file"], row["step"], row["val_loss"]) for row in rows]
    except FileNotFoundError:
        raise InputError(path, "the list of kept states", "no such file", hint) from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(path, "the list of kept states", repr(error), hint) from None
    if not found:
        hint = "set train.keep_every, for example to 5, and pretrain again"
        raise InputError(path, "kept states", "none", hint)
    for kept in found:
        if not kept.path.is_file():
            raise InputError(kept.path, "a kept state", "no such file", hint)
    return sorted(found, key=lambda kept: kept.step)


def put(path: Path, image: nn.Module, pair: nn.Module | None) -> None:
    """Replace the trained parameters and the buffers of an encoder by those of a kept state.

    Args:
        path: A safetensors file of `Objective.state_dict()` without frozen parameters.
        image: The image encoder of the final folder.
        pair: The pair encoder that it is part of; None if there is no text encoder.

    Raises:
        InputError: The state lacks a trained tensor, or one has another shape.
    """
    module, prefix = (image, "image_encoder.") if pair is None else (pair, "model.")
    tensors = checkpoint.load_safetensors(path)
    kept = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    checkpoint.fill(module, {**_frozen(module), **kept}, path)


def _frozen(module: nn.Module) -> dict[str, Tensor]:
    """Parameters that training does not change."""
    return {name: p.detach() for name, p in module.named_parameters() if not p.requires_grad}
