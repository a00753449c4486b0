"""The encoder of a fine-tuned classifier, without the head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import nn

from convirt import checkpoint
from convirt.errors import InputError

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def encoder_of(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The encoder of a fine-tuned run, weight for weight, and the run's config.json.

    Args:
        folder: models/finetune/<run>: model.safetensors under timm's names, and config.json.

    Raises:
        InputError: A file is missing or damaged, the run is a linear one (whose encoder never
            changed), or a weight does not fit.
    """
    import timm

    config = _config(folder)
    if config["protocol"] != "finetune":
        raise InputError(
            folder,
            "a fine-tuned run",
            f"a run of the protocol {config['protocol']}, which leaves the encoder unchanged",
            "name the run whose key ends in -finetune",
        )
    path = folder / WEIGHTS
    tensors = checkpoint.load_safetensors(path)
    encoder = cast(
        nn.Module,
        timm.create_model(config["image"]["architecture"], pretrained=False, num_classes=0),
    )
    head = str(getattr(encoder, "default_cfg", {}).get("classifier", "head"))
    body = {name: value for name, value in tensors.items() if not name.startswith(f"{head}.")}
    if len(body) == len(tensors):
        found = f"{len(tensors)} tensors, none of them {head}.*"
        raise InputError(path, f"a classifier with the head {head!r}", found, _hint(folder))
    checkpoint.fill(encoder, body, path)
    return encoder, config


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(path, "a transfer run's folder", f"no {CONFIG}", _hint(folder))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        missing = [key for key in ("protocol", "corpus", "image") if key not in config]
        if missing:
            raise ValueError(f"no {', '.join(missing)}")
        config["image"]["architecture"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            path, "the JSON that finetune writes", f"{error!r}", _hint(folder)
        ) from None
    return cast(dict[str, Any], config)


def _hint(folder: Path) -> str:
    return f"dvc repro finetune@{folder.name}"
