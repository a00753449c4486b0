"""Both encoders and their projections: what ConVIRT trains and what its folder holds.

Symbols follow the paper (section 3): an image encoder f_v gives h_v, a text encoder f_u gives
h_u, and the projections g_v, g_u give v and u, which the objective compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from convirt import checkpoint, files
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

    Input (N, width) of h, output (N, dim), not normalised.
    """

    def __init__(self, width: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, dim)

    def forward(self, h: Tensor) -> Tensor:
        """Project h, (N, width), to (N, dim)."""
        return cast(Tensor, self.output(F.relu(self.hidden(h))))


class PairEncoder(nn.Module):
    """Both encoders and both projections: what ConVIRT trains."""

    def __init__(
        self,
        image: nn.Module,
        image_config: ImageConfig,
        text: TextEncoder,
        tokenizer: Tokenizer,
        dim: int,
        hidden: int,
    ) -> None:
        super().__init__()
        self.image_encoder, self.image_config = image, image_config
        self.text_encoder, self.tokenizer = text, tokenizer
        self.image_projection = Projection(image_config.width, hidden or image_config.width, dim)
        self.text_projection = Projection(text.width, hidden or text.width, dim)
        self.dim, self.hidden = dim, hidden

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
    save_image_encoder(model.image_encoder, model.image_config, folder)
    save_text_encoder(model.text_encoder, model.tokenizer, folder / "text_encoder")
    heads = {
        f"{name}.{key}": value
        for name, head in (("image", model.image_projection), ("text", model.text_projection))
        for key, value in head.state_dict().items()
    }
    checkpoint.save_safetensors(folder / "projections.safetensors", heads)
    config = read_config(folder)
    config["projection"] = {"dim": model.dim, "hidden": model.hidden}
    config["text"] = {
        "frozen_layers": model.text_encoder.frozen_layers,
        "max_tokens": model.tokenizer.max_tokens,
        "pooling": "max over all tokens of the last layer",
    }
    files.write_json(folder / "config.json", config)


def load_pair_encoder(folder: Path) -> PairEncoder:
    """Read a pair encoder back.

    Raises:
        InputError: A file is missing or a weight does not fit.
    """
    image, image_config = load_image_encoder(folder)
    config = read_config(folder)
    if "projection" not in config:
        raise InputError(folder, "a ConVIRT encoder", "an image encoder only", "dvc repro pretrain")
    text, tokenizer = create_text_encoder(
        f"file:{folder / 'text_encoder'}",
        config["text"]["frozen_layers"],
        config["text"]["max_tokens"],
    )
    model = PairEncoder(image, image_config, text, tokenizer, **config["projection"])
    path = folder / "projections.safetensors"
    heads = checkpoint.load_safetensors(path)
    for name, head in (("image", model.image_projection), ("text", model.text_projection)):
        own = {k.partition(".")[2]: v for k, v in heads.items() if k.startswith(name + ".")}
        checkpoint.fill(head, own, path)
    return model
