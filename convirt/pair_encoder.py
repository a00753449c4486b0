"""Both encoders and their projections: what ConVIRT trains and what its folder contains.

Symbols follow the paper (section 3): an image encoder f_v gives h_v, a text encoder f_u gives
h_u, and the projections g_v, g_u give v and u, which the objective compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from convirt import checkpoint
from convirt.errors import InputError
from convirt.image_encoder import (
    ImageConfig,
    load_image_encoder,
    read_config,
    save_image_encoder,
)
from convirt.text_encoder import TextEncoder, Tokenizer, create_text_encoder, save_text_encoder


class Projection(nn.Module):
    """A head with one hidden layer, W2 ReLU(W1 h) (section 3.1), with biases.

    With `layers` 1 it is linear, W h (Table 4). The input is h, (N, width), the output (N, dim),
    not normalised.
    """

    def __init__(self, width: int, hidden: int, dim: int, layers: int = 2) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden) if layers == 2 else None
        self.output = nn.Linear(hidden if layers == 2 else width, dim)

    def forward(self, h: Tensor) -> Tensor:
        """Project h, (N, width), to (N, dim)."""
        if self.hidden is not None:
            h = F.relu(self.hidden(h))
        return cast(Tensor, self.output(h))


@dataclass(frozen=True)
class ProjectionConfig:
    """The heads on the encoders; units as in `model.projection` of params.yaml.

    Attributes:
        dim: Width of v and u.
        hidden: Width of the hidden layer; 0 means the input's width.
        layers: 2 means one hidden ReLU layer (as in the paper), 1 is linear (Table 4).
    """

    dim: int
    hidden: int = 0
    layers: int = 2

    def head(self, width: int) -> Projection:
        """A new head on an encoder whose output is (N, width)."""
        return Projection(width, self.hidden or width, self.dim, self.layers)


class PairEncoder(nn.Module):
    """Both encoders and both projections: what ConVIRT and related objectives train."""

    def __init__(
        self,
        image: nn.Module,
        image_config: ImageConfig,
        text: TextEncoder,
        tokenizer: Tokenizer,
        projection: ProjectionConfig,
    ) -> None:
        super().__init__()
        self.image_encoder, self.image_config = image, image_config
        self.text_encoder, self.tokenizer = text, tokenizer
        self.image_projection = projection.head(image_config.width)
        self.text_projection = projection.head(text.width)
        self.projection = projection

    def project_image(self, h: Tensor) -> Tensor:
        """h_v (N, width) to v (N, dim), L2-normalised."""
        return F.normalize(self.image_projection(h).float(), dim=-1)

    def project_text(self, h: Tensor) -> Tensor:
        """h_u (N, width) to u (N, dim), L2-normalised."""
        return F.normalize(self.text_projection(h).float(), dim=-1)

    def encode_sentences(self, sentences: Sequence[str]) -> Tensor:
        """Sentences to h_u (N, width)."""
        tokens, mask = self.tokenizer(sentences)
        device = next(self.parameters()).device
        return cast(Tensor, self.text_encoder(tokens.to(device), mask.to(device)))


def save_pair_encoder(model: PairEncoder, folder: Path) -> None:
    """Write the four parts of a pair encoder into an existing folder.

    image_encoder.safetensors, text_encoder/ (transformers), projections.safetensors, config.json.
    """
    text = {
        "frozen_layers": model.text_encoder.frozen_layers,
        "max_tokens": model.tokenizer.max_tokens,
        "pooling": "max over all tokens of the last layer",
    }
    about = {"projection": asdict(model.projection), "text": text}
    save_image_encoder(model.image_encoder, model.image_config, folder, about)
    save_text_encoder(model.text_encoder, model.tokenizer, folder / "text_encoder")
    heads = {
        f"{name}.{key}": value
        for name, head in (("image", model.image_projection), ("text", model.text_projection))
        for key, value in head.state_dict().items()
    }
    checkpoint.save_safetensors(folder / "projections.safetensors", heads)


def is_pair_encoder(folder: Path) -> bool:
    """Whether an encoder's folder also holds a text encoder."""
    return "projection" in read_config(folder)


def load_pair_encoder(folder: Path) -> PairEncoder:
    """Read a pair encoder back.

    Raises:
        InputError: A file is missing or a weight does not fit.
    """
    if not is_pair_encoder(folder):
        found = "an image encoder only"
        raise InputError(folder, "encoders of images and text", found, "dvc repro pretrain")
    config = read_config(folder)
    image, image_config = load_image_encoder(folder)
    text, tokenizer = create_text_encoder(
        f"file:{folder / 'text_encoder'}",
        config["text"]["frozen_layers"],
        config["text"]["max_tokens"],
    )
    projection = ProjectionConfig(**config["projection"])
    model = PairEncoder(image, image_config, text, tokenizer, projection)
    path = folder / "projections.safetensors"
    heads = checkpoint.load_safetensors(path)
    for name, head in (("image", model.image_projection), ("text", model.text_projection)):
        own = {k.partition(".")[2]: v for k, v in heads.items() if k.startswith(name + ".")}
        checkpoint.fill(head, own, path)
    return model


def load_encoders(folder: Path) -> tuple[nn.Module, ImageConfig, PairEncoder | None]:
    """Read an encoder's folder: the image encoder, and the pair encoder that it is part of, if any.

    Raises:
        InputError: As `load_image_encoder` and `load_pair_encoder`.
    """
    if not is_pair_encoder(folder):
        return *load_image_encoder(folder), None
    pair = load_pair_encoder(folder)
    return pair.image_encoder, pair.image_config, pair
