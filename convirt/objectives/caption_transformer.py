"""Caption-Transformer: a meshed-memory transformer writes the report (Cornia 2020).

Its encoder relates the image's regions to each other and to learnt memory vectors (section 3.1).
Every layer of its decoder attends to every layer of the encoder through gates (section 3.2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt.captioning import CaptionObjective, CaptionOptions, Decoder, read_decoder, within
from convirt.objectives import base
from convirt.report_tokens import Vocabulary


@dataclass(frozen=True)
class Options(CaptionOptions):
    """Settings; the defaults are those of Cornia 2020 (section 4.2).

    Attributes:
        width: d of tokens and regions.
        layers: Number of layers, in the encoder and in the decoder.
        heads: Of every attention; `width` has to be a multiple of twice their number.
        feed_forward: Width of the hidden layer after an attention.
        memory: Number m of memory vectors in every attention of the encoder; 0 means none.
        dropout: After embeddings, attentions and feed-forward layers.
    """

    width: int = 512
    layers: int = 3
    heads: int = 8
    feed_forward: int = 2048
    memory: int = 40
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low in (("width", 2), ("layers", 1), ("heads", 1)):
            within(name, getattr(self, name), low)
        within("feed_forward", self.feed_forward, 1)
        within("memory", self.memory, 0)
        within("dropout", self.dropout, 0.0, 0.99)
        if self.width % (2 * self.heads):
            raise ValueError("width has to be a multiple of 2 x heads")


class Attention(nn.Module):
    """Multi-head attention; `memory` learnt vectors are appended to keys and values."""

    def __init__(self, width: int, heads: int, memory: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)
        self.memory = memory
        if memory:
            # as large as the keys and values of a region, which layer norms keep near 1
            self.memories = nn.Parameter(torch.randn(2, memory, width))

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of x, (N, T, width), each (N, heads, T (+ memory), width / heads)."""
        keys, values = self.key_value(x).chunk(2, dim=-1)
        if self.memory:
            own = self.memories.to(keys.dtype).unsqueeze(1).expand(-1, len(x), -1, -1)
            keys, values = torch.cat([keys, own[0]], dim=1), torch.cat([values, own[1]], dim=1)
        return self._split(keys), self._split(values)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """Attend from x, (N, T, width), to what `read` returned; gives (N, T, width)."""
        found = F.scaled_dot_product_attention(
            self._split(self.query(x)), keys, values, is_causal=causal
        )
        out: Tensor = self.output(found.transpose(1, 2).flatten(2))
        return out

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return heads


class Residual(nn.Module):
    """Dropout, addition and layer norm after a sub-layer (post-norm, as in Vaswani 2017)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)

    def forward(self, x: Tensor, change: Tensor) -> Tensor:
        """Add `change` to x, and normalise."""
        out: Tensor = self.norm(x + self.dropout(change))
        return out


def _feed_forward(options: Options) -> nn.Module:
    width, hidden = options.width, options.feed_forward
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Dropout(options.dropout),
        nn.Linear(hidden, width),
    )


class EncoderLayer(nn.Module):
    """Regions attend to each other and to memory (section 3.1)."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.attention = Attention(options.width, options.heads, options.memory)
        self.feed_forward = _feed_forward(options)
        self.one = Residual(options.width, options.dropout)
        self.two = Residual(options.width, options.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, R, width) to the same shape."""
        x = self.one(x, self.attention(x, *self.attention.read(x)))
        out: Tensor = self.two(x, self.feed_forward(x))
        return out


Read = tuple[Tensor, Tensor]  # keys and values, (N, heads, T, width / heads)


class DecoderLayer(nn.Module):
    """Tokens attend to earlier tokens and, through gates, to every encoder layer (section 3.2).

    All encoder layers share one attention and have one gate each, as in the authors' code.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        width = options.width
        self.own = Attention(width, options.heads)
        self.cross = Attention(width, options.heads)
        self.gates = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(options.layers))
        self.feed_forward = _feed_forward(options)
        self.one, self.two, self.three = (Residual(width, options.dropout) for _ in range(3))

    def forward(
        self, y: Tensor, images: list[Read], before: Read | None = None
    ) -> tuple[Tensor, Read]:
        """Tokens (N, T, width) to the same shape.

        Args:
            y: All tokens from the first; or, with `before`, one token per report.
            images: What `cross` reads of each encoder layer.
            before: Keys and values of earlier tokens.

        Returns:
            The output, and keys and values of all tokens so far.
        """
        keys, values = self.own.read(y)
        if before is not None:
            keys, values = torch.cat([before[0], keys], 2), torch.cat([before[1], values], 2)
        y = self.one(y, self.own(y, keys, values, causal=before is None))
        meshed = torch.zeros_like(y)
        for gate, image in zip(self.gates, images, strict=True):
            seen = self.cross(y, *image)
            meshed = meshed + torch.sigmoid(gate(torch.cat([y, seen], dim=-1))) * seen
        y = self.two(y, meshed / math.sqrt(len(images)))
        return self.three(y, self.feed_forward(y)), (keys, values)


class State(NamedTuple):
    """Of N reports: what each decoder layer reads of the image and of the tokens so far."""

    images: list[list[Read]]
    tokens: list[Read] | None
    length: int


class MeshedDecoder(Decoder):
    """The transformer.

    Args:
        channels: C of the regions.
        vocabulary: V, the number of tokens that can be written.
        options: All other settings.
    """

    positions: Tensor

    def __init__(self, channels: int, vocabulary: int, options: Options) -> None:
        super().__init__()
        width = options.width
        self.regions = nn.Sequential(
            nn.Linear(channels, width), nn.ReLU(), nn.Dropout(options.dropout), nn.LayerNorm(width)
        )
        self.encoder = nn.ModuleList(EncoderLayer(options) for _ in range(options.layers))
        self.embedding = nn.Embedding(vocabulary + 1, width)
        self.decoder = nn.ModuleList(DecoderLayer(options) for _ in range(options.layers))
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.dropout = nn.Dropout(options.dropout)
        self.register_buffer("positions", sinusoids(options.max_tokens, width), persistent=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2 and not name.endswith("embedding.weight"):
                nn.init.xavier_uniform_(weight)

    def start(self, regions: Tensor) -> State:
        """Encode the image, and read every encoder layer for every decoder layer."""
        x, layers = self.regions(regions), []
        for layer in self.encoder:
            x = layer(x)
            layers.append(x)
        images = [[layer.cross.read(x) for x in layers] for layer in self.decoder]  # type: ignore[union-attr, operator]
        return State(images, None, 0)

    def _read(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Read tokens (N, T) after those of the state: output (N, T, width), and the new state."""
        length = state.length + tokens.shape[1]
        y = self.dropout(self.embedding(tokens) + self.positions[state.length : length])
        reads = []
        for place, layer in enumerate(self.decoder):
            before = state.tokens[place] if state.tokens is not None else None
            y, read = layer(y, state.images[place], before)
            reads.append(read)
        return y, State(state.images, reads, length)

    def forward(self, regions: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predict by teacher forcing; there is no penalty."""
        y, _ = self._read(self.start(regions), tokens)
        return self.output(y), y.new_zeros(())

    def step(self, state: State, tokens: Tensor) -> tuple[Tensor, State]:
        """Read one token per report."""
        y, state = self._read(state, tokens.unsqueeze(1))
        return self.output(y[:, 0]), state


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (length, width): sines, then cosines, of falling frequency (Vaswani 2017)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle = torch.arange(length).unsqueeze(1) * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Objective(CaptionObjective):
    """The image encoder and the meshed-memory transformer."""

    def __init__(self, parts: base.Parts) -> None:
        options = base.options_of(Options, parts.options)
        super().__init__(parts, options)
        words = len(self.reports.vocabulary)
        self.decoder = MeshedDecoder(parts.image_config.width, words, options)


def load_decoder(folder: Path) -> tuple[Decoder, Vocabulary]:
    """Read the decoder and its vocabulary back from an encoder's folder.

    Raises:
        InputError: A file is missing or a weight does not fit.
    """
    return read_decoder(
        folder, lambda channels, words, told: MeshedDecoder(channels, words, Options(**told))
    )
