"""Checks of what a run needs besides data: weights, a GPU, disk space. No weights are loaded."""

from __future__ import annotations

import difflib
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convirt.doctor.diagnosis import Diagnosis
from convirt.errors import InputError

GB = 1e9
COARSE = 1.5  # times the side of the input


def architecture(name: str) -> Diagnosis:
    """Whether timm has the image encoder."""
    import timm

    found = Diagnosis("model.image.architecture", name)
    if timm.is_model(name):
        found.add("ok", "a model of timm")
        return found
    near = difflib.get_close_matches(name, timm.list_models(), n=1)
    listing = 'python -c "import timm; print(timm.list_models())"'
    found.add("stop", "timm has no such model", f"did you mean {near[0]}?" if near else listing)
    return found


def objectives(options: Mapping[str, Mapping[str, Any]]) -> Diagnosis:
    """Whether each objective can be imported and accepts its options.

    Args:
        options: By objective, `objectives.<name>.options`.
    """
    from convirt.objectives.base import find, options_of

    found = Diagnosis("objectives", ", ".join(options) or "none")
    for name, given in options.items():
        file = f"convirt/objectives/{name}.py"
        try:
            kind: Any = vars(importlib.import_module(find(name).__module__)).get("Options")
            if kind is not None:
                options_of(kind, given)
        except InputError as error:
            text = f"{error.path}: expected {error.expected}; found {error.found}"
            found.add("stop", text, error.hint)
        except Exception as error:  # whatever the file of an own objective does
            text = f"{file} cannot be used: {type(error).__name__}: {error}"
            found.add("stop", text, "docs/objectives.md has an example")
    if found.level == "ok":
        found.add("ok", "each accepts its options")
    return found


def image_weights(architecture: str, weights: str) -> Diagnosis:
    """Whether the initial image weights are at hand: a package, a file, or timm's hub cache."""
    found = Diagnosis("model.image.weights", weights)
    source, _, name = weights.partition(":")
    if weights == "random":
        found.add("ok", "random, nothing to get")
    elif source == "package":
        _package(found, name)
    elif source == "file":
        _path(found, Path(name), Path(name).is_file(), "state dict")
    elif source == "timm" and name.partition(".")[0] != architecture:
        text = f"weights of another architecture than model.image.architecture, {architecture}"
        command = f"python -c \"import timm; print(timm.list_pretrained('{architecture}*'))\""
        found.add("stop", text, command)
    elif source == "timm":
        command = f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\""
        _hub(found, f"timm/{name}", command)
    else:
        expected = "random, package:<module>, file:<path> or timm:<tag>"
        found.add("stop", f"not {expected}", "correct model.image.weights")
    return found


def text_weights(weights: str) -> Diagnosis:
    """Whether the initial text weights are at hand: a package, a folder, or the hub cache."""
    found = Diagnosis("model.text.weights", weights)
    source, _, name = weights.partition(":")
    if source == "package":
        _package(found, name)
    elif source == "file":
        there = (Path(name) / "config.json").is_file()
        _path(found, Path(name), there, "folder with config.json")
    elif (Path(weights) / "config.json").is_file():
        found.add("ok", "a folder")
    else:
        command = (
            'python -c "import transformers as t; '
            f"[c.from_pretrained('{weights}') for c in (t.AutoModel, t.AutoTokenizer)]\""
        )
        _hub(found, weights, command)
    return found


def resolution(stored: int, size: int) -> Diagnosis:
    """Whether the size of the stored films suits the encoder's input.

    Args:
        stored: Pixels of a stored film's longer side.
        size: Pixels of the input's side.
    """
    found = Diagnosis("model.image.size", str(size))
    if size > stored:
        text = f"films are stored at {stored} pixels: an input of {size} adds no detail"
        found.add("check", text, f"datasets.image_size: {size} or more")
    elif stored > COARSE * size:
        text = f"films are stored at {stored} pixels; pretraining samples them without antialiasing"
        found.add(
            "check", text, f"datasets.image_size: {round(size * 8 / 7)}, in the ratio of 256 to 224"
        )
    else:
        found.add("ok", f"films are stored at {stored} pixels")
    return found


def device(name: str) -> Diagnosis:
    """Whether torch can compute on `name`."""
    found = Diagnosis("compute.device", name)
    if name == "cpu":
        found.add("ok", "no GPU asked for")
        return found
    from convirt import devices  # imports torch, which takes seconds

    try:
        devices.require(name)
    except InputError as error:
        found.add("stop", f"expected {error.expected}; found {error.found}", error.hint)
        return found
    found.add("ok", "torch can use a GPU")
    return found


def disk(folder: Path, counts: Sequence[int], size: int) -> Diagnosis:
    """Whether the stores that are still to be made fit on the disk of `folder`.

    What is stored of models (states, features, classifiers) depends on their size and is not
    counted.

    Args:
        folder: Folder of the stores; it need not exist yet.
        counts: How many images each of them will hold.
        size: Pixels of a stored image's side; one byte each.
    """
    images = sum(counts)
    need = images * size**2
    # while a store is written, its pieces take up space too
    meanwhile = need + max(counts, default=0) * size**2
    place = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(place).free
    found = Diagnosis("disk", str(place))
    text = f"stores to be made: about {need / GB:,.1f} GB ({images:,} images of {size} x {size})"
    text += f"; {free / GB:,.1f} GB free, also for states, features and classifiers"
    smaller = "lower datasets.image_size, or work on a larger disk"
    if meanwhile > free:
        text += f"; {meanwhile / GB:,.1f} GB while the largest is written"
        found.add("stop", text, smaller)
    elif 2 * need > free:
        text += ". DVC keeps a second copy in its cache where the disk cannot share blocks"
        found.add("check", text, "dvc config cache.type reflink,hardlink,copy", smaller)
    else:
        found.add("ok", text)
    return found


def _package(found: Diagnosis, module: str) -> None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # a parent package is missing; the name is empty
        spec = None
    if spec is None:
        hint = "pip install -r requirements.txt"
        found.add("stop", f"the package {module or '(no name)'} is not installed", hint)
    else:
        found.add("ok", "an installed package")


def _path(found: Diagnosis, path: Path, there: bool, what: str) -> None:
    if there:
        found.add("ok", f"a {what} on disk")
    else:
        found.add("stop", f"{path}: no {what} there", f"put it there, or correct {found.subject}")


def _hub(found: Diagnosis, repository: str, command: str) -> None:
    """Note whether weights of the model hub are cached, or the run will have to download them."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = [
            try_to_load_from_cache(repository, name)
            for name in ("model.safetensors", "pytorch_model.bin")
        ]
    except HFValidationError:
        hint = f"correct {found.subject}"
        found.add("stop", f"{repository} is neither a name on the model hub nor a folder", hint)
        return
    if any(isinstance(path, str) for path in cached):
        found.add("ok", f"{repository}, in the cache of the model hub")
    elif constants.HF_HUB_OFFLINE:
        text = f"{repository} is not in the cache of the model hub, and HF_HUB_OFFLINE is set"
        hint = f"or set {found.subject} to file:<path> of a downloaded copy"
        found.add("stop", text, f"with a network: HF_HUB_OFFLINE=0 {command}", hint)
    else:
        text = f"{repository} is not in the cache: the run will download it from huggingface.co"
        found.add("check", text, f"to get it now: {command}")
