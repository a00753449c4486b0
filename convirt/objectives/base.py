"""What every pretraining objective has in common: named modules in, loss and log values out.

An objective is a file `convirt/objectives/<name>.py` that defines a class `Objective`, derived from
`Objective` or `PairObjective` below. The one loop (`convirt/training.py`) draws the batches, steps,
validates, keeps the best state and resumes; docs/objectives.md shows how to write one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from convirt import processes
from convirt.errors import InputError
from convirt.frozen_text import FrozenText
from convirt.image_encoder import ImageConfig, save_image_encoder
from convirt.pair_encoder import PairEncoder, save_pair_encoder
from convirt.pairs import Batch, Pairs, tokenize
from convirt.text_encoder import Packing, TextEncoder, Tokenizer

if TYPE_CHECKING:
    from convirt.training import TrainConfig

BUCKET = 16  # tokens; CUDA graphs are recorded for lengths of 16, 32, ... and no others


@dataclass(frozen=True)
class ProjectionConfig:
    """The heads on the encoders; units as in `model.projection` of params.yaml.

    Attributes:
        dim: Width of v and u.
        hidden: Width of the hidden layer; 0 is the input's width.
        layers: 2 has one hidden ReLU layer (the paper's), 1 is linear (Table 4).
    """

    dim: int
    hidden: int
    layers: int = 2


@dataclass(frozen=True)
class Parts:
    """What an objective is built from.

    Attributes:
        image: The image encoder f_v with initial weights, (N, 3, S, S) to h (N, width).
        image_config: Of the image encoder.
        text: Loads the text encoder f_u and its tokenizer; objectives without text never call it.
        tokenizer: Loads the tokenizer alone, for objectives that need words but no text encoder.
        texts: The distinct sentences of the corpus, which rows of a batch and of reports point at.
        train: Pairs to train on.
        val: Pairs to validate on.
        config: How the loop trains: tau, lam, batch_size, seed and the rest.
        projection: Of the heads.
        options: The objective's own settings, `objectives.<name>.options`; see `options_of`.
        corpus: Name of the corpus.
    """

    image: nn.Module
    image_config: ImageConfig
    text: Callable[[], tuple[TextEncoder, Tokenizer]]
    tokenizer: Callable[[], Tokenizer]
    texts: Sequence[str]
    train: Pairs
    val: Pairs
    config: TrainConfig
    projection: ProjectionConfig
    options: Mapping[str, Any]
    corpus: str


@dataclass(frozen=True)
class Inputs:
    """What a step is given.

    Attributes:
        views: `Objective.views` times (N, 3, S, S) float32, normalised, on the device: films of the
            N drawn studies, transformed anew for each view. In validation a single view is the
            whole film; several are drawn once and stay the same.
        batch: Which studies, images and sentences these are.
        more: What `Objective.step_inputs` made of the batch; None where it was not asked.
    """

    views: tuple[Tensor, ...]
    batch: Batch
    more: tuple[Tensor, ...] | None = None

    def part(self, rows: slice) -> Inputs:
        """Those of some pairs."""
        return Inputs(tuple(view[rows] for view in self.views), self.batch.part(rows))


class Objective(nn.Module):
    """Base of all objectives: parameters that require a gradient are trained, buffers are kept.

    The loop seeds torch from (seed, step) before each `forward`, so that draws of torch's CPU
    generator in there can be redone; in evaluation mode nothing may be drawn. What a resumed run
    needs beside the optimiser has to be in the `state_dict`. On a GPU `forward` runs under
    autocast: take losses in float32 (`full_precision`).

    Of several processes each is given its part of a batch, and the gradients of all are averaged.
    A mean over pairs is then that of the batch by itself; whatever compares pairs, or divides by
    something that differs between parts, takes `processes.gather` first.

    Attributes:
        views: Transformed views of each film that a step is given.
        criterion: Which value of `validate` chooses the best state.
        larger_is_better: Whether a high criterion is good.
        recordable: Whether `forward` computes on the device alone, from the views and what
            `step_inputs` made of the batch, so that a step can be recorded (`convirt.recorded`).
        image_encoder: The image encoder f_v, which this is all about.
        chunk: Pairs of a validation that are embedded at a time; 0 is all of a batch.
    """

    views: ClassVar[int] = 1
    criterion: ClassVar[str] = "val_loss"
    larger_is_better: ClassVar[bool] = False
    recordable: ClassVar[bool] = False
    image_encoder: nn.Module

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self.image_config = parts.image_config
        self.chunk = 0
        self._compiled = False

    def forward(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, a scalar, and scalars to log beside it, by name."""
        return self.compare(self.embed(inputs), inputs)

    def step_inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What a recorded step needs to know of a batch beside its images, on the device."""
        return ()

    def embed(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """What is compared of each pair, (n, ...) each, from nothing but that pair.

        An objective that has `embed` and `compare` in place of `forward` can take batches that do
        not fit into memory (`train.chunk`).
        """
        return tuple(half() for half in self.halves(inputs))

    def halves(self, inputs: Inputs) -> tuple[Callable[[], Tensor], ...]:
        """In place of `embed`, where what it returns is made by networks that share no weight.

        They are computed side by side, on a CPU (`convirt.halves`) and where steps are recorded.
        """
        raise NotImplementedError

    @classmethod
    def in_halves(cls) -> bool:
        """Whether `forward` compares what `halves` make, and does nothing else."""
        return cls.forward is Objective.forward and cls.embed is Objective.embed

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `forward` returns, from what `embed` made of the batch."""
        raise NotImplementedError

    def compile_encoders(self, config: TrainConfig) -> None:
        """Let torch compile what takes the time, for the device that it is on; once is enough.

        Every shape has code of its own: left to itself, torch goes by the shapes that it has seen,
        and a resumed run would compute a step with other code.
        """
        if not self._compiled:
            self.compile_with(self.compile_mode(config))
            self._compiled = True

    def compile_with(self, mode: str) -> None:
        """Compile in one of torch's modes; an objective of more networks has more to compile."""
        self.image_encoder.compile(mode=mode, dynamic=False)

    def compile_mode(self, config: TrainConfig) -> str:
        """With CUDA graphs on a GPU, where launching kernels takes longer than they run.

        Not where whole steps are recorded (`compute.graphs`). Several processes go without, since
        BatchNorm then talks to the others in the midst of a graph; and so do chunks, which would be
        recorded anew for each sequence of their lengths.
        """
        on_gpu = next(self.parameters()).device.type == "cuda"
        whole = processes.count() == 1 and not config.chunk
        graphs = on_gpu and whole and not config.graphs
        return "reduce-overhead" if graphs else "default"

    def validate(self, batches: Iterable[Inputs]) -> dict[str, float]:
        """Values of a validation, `val_loss` among them; called in evaluation mode, no gradient."""
        losses = [self._loss(inputs) for inputs in batches]
        return {"val_loss": sum(float(loss) for loss in losses) / len(losses)}

    def _loss(self, inputs: Inputs) -> Tensor:
        count = len(inputs.batch.images)
        if not 0 < self.chunk < count:
            loss: Tensor = self(inputs)[0]
            return loss
        rows = (slice(first, first + self.chunk) for first in range(0, count, self.chunk))
        pieces = [self.embed(inputs.part(own)) for own in rows]
        whole = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
        return self.compare(whole, inputs)[0]

    def chance(self) -> float | None:
        """Loss of a model that knows nothing; None where that is no fixed number."""
        return None

    def save(self, folder: Path) -> None:
        """Write what transfer and retrieval read into an existing folder."""
        save_image_encoder(self.image_encoder, self.image_config, folder)


class PairObjective(Objective):
    """Base of objectives that compare v and u, by the cosine of which images are then retrieved.

    Attributes:
        model: Both encoders and both projections.
    """

    model: PairEncoder

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        text, tokenizer = parts.text()
        # the seed again, so that the heads do not depend on what the encoders drew
        seed_torch(parts.config.seed)
        head = parts.projection
        self.model = PairEncoder(
            parts.image,
            parts.image_config,
            text,
            tokenizer,
            dim=head.dim,
            hidden=head.hidden,
            layers=head.layers,
        )
        tokens = tokenize(parts.texts, tokenizer)
        buckets = BUCKET if parts.config.compile or parts.config.graphs else 0
        self._text = FrozenText(text, tokens, parts.config.cache_frozen, buckets)

    @property
    def image_encoder(self) -> nn.Module:  # type: ignore[override]
        """The image encoder f_v."""
        return self.model.image_encoder

    def h_v(self, inputs: Inputs) -> Tensor:
        """The image encoder's output for the first view, (N, width)."""
        h: Tensor = self.model.image_encoder(inputs.views[0])
        return h

    def h_u(self, inputs: Inputs) -> Tensor:
        """The text encoder's output for the sentences of the batch, (N, width)."""
        if inputs.more is None:
            return self.model.text_encoder.upper(*self._text(inputs.batch.sentences))
        tokens, mask = inputs.more
        return self.model.text_encoder.upper(*self._text.hidden(tokens, Packing(mask, None, None)))

    def step_inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Tokens of the sentences or where they are kept, and which of them are padding."""
        tokens, packing = self._text.step_inputs(batch.sentences)
        return tokens, packing.mask

    def v(self, inputs: Inputs) -> Tensor:
        """Projected images, (N, dim), L2-normalised, float32."""
        return self.model.project_image(self.h_v(inputs))

    def u(self, inputs: Inputs) -> Tensor:
        """Projected sentences, (N, dim), L2-normalised, float32."""
        return self.model.project_text(self.h_u(inputs))

    def halves(self, inputs: Inputs) -> tuple[Callable[[], Tensor], ...]:
        """Projected images and sentences, v and u, (n, dim) each."""
        return partial(self.v, inputs), partial(self.u, inputs)

    def compile_with(self, mode: str) -> None:
        """Compile the image encoder and what a step computes of the text encoder."""
        import torch

        super().compile_with(mode)
        # Each length of sentences has code of its own. Code for any length sums in the order that
        # suits the first one it saw, so that a resumed run could have other bits.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # it would go on uncompiled
        text: Any = self.model.text_encoder
        upper, lower = (
            torch.compile(half, mode=mode, dynamic=False) for half in (text.upper, text.lower)
        )
        text.upper = upper
        if not self._text.keep:  # what is kept is computed once
            # in training as in validation, or each would have code of its own
            text.lower = torch.no_grad()(lower)

    def save(self, folder: Path) -> None:
        """Write both encoders and the projections."""
        save_pair_encoder(self.model, folder)


def seed_torch(seed: int) -> None:
    """Seed torch's generators."""
    import torch

    torch.manual_seed(seed)


def full_precision(like: Tensor) -> Any:
    """A context in which autocast is off on the device of `like`, for losses in float32."""
    import torch

    return torch.autocast(like.device.type, enabled=False)


T = TypeVar("T")


def options_of(kind: type[T], parts: Parts) -> T:
    """The options as a dataclass `kind`, checked strictly.

    Raises:
        InputError: A key is unknown, missing, or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    def refuse(key: str, found: str) -> InputError:
        return InputError(
            f"params.yaml: objectives.{name}.options.{key}".rstrip("."),
            f"options {', '.join(known) or '(none)'}",
            found,
            f"see the docstring of Options in convirt/objectives/{name}.py",
        )

    name = kind.__module__.rpartition(".")[2]
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    # as JSON, of which strict mode makes dataclasses and tuples
    told = json.dumps(dict(parts.options))
    try:
        return TypeAdapter(kind).validate_json(told, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise refuse(key, f"{first['msg']}: {first['input']!r}") from None
