"""What all pretraining objectives have in common: built from `Parts`, they return loss and logs.

An objective is a file `convirt/objectives/<name>.py` that defines a class `Objective`, derived from
`Objective` or `PairObjective` below. The one loop (`convirt/training.py`) draws batches, steps,
validates, keeps the best state and resumes; docs/objectives.md shows how to write an objective.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from convirt import objectives, processes
from convirt.errors import InputError
from convirt.frozen_text import FrozenText
from convirt.image_encoder import ImageConfig, save_image_encoder
from convirt.pair_encoder import PairEncoder, ProjectionConfig, save_pair_encoder
from convirt.pairs import Batch, Pairs, tokenize
from convirt.text_encoder import Packing, TextEncoder, Tokenizer

if TYPE_CHECKING:
    from convirt.schedule import TrainConfig

BUCKET = 16  # tokens; CUDA graphs are recorded only for lengths of 16, 32, ...


@dataclass(frozen=True)
class Parts:
    """What an objective is built from.

    Attributes:
        image: The image encoder f_v with initial weights, (N, 3, S, S) to h (N, width).
        image_config: Of the image encoder.
        text: Loads the text encoder f_u and its tokenizer; objectives without text never call it.
        tokenizer: Loads the tokenizer alone, for objectives that need words but no text encoder.
        texts: The distinct sentences of the corpus; rows in batches and reports index them.
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
    """The inputs of a step.

    Attributes:
        views: `Objective.views` tensors (N, 3, S, S) float32, normalised, on the device: films of
            the N drawn studies, transformed separately for each view. In validation a single view
            is the whole film; several views are drawn once and stay the same.
        batch: The rows of these studies, images and sentences.
        more: What `Objective.step_inputs` returned for the batch; None if it was not called.
    """

    views: tuple[Tensor, ...]
    batch: Batch
    more: tuple[Tensor, ...] | None = None

    def part(self, rows: slice) -> Inputs:
        """The inputs of some pairs."""
        return Inputs(tuple(view[rows] for view in self.views), self.batch.part(rows))


class Objective(nn.Module):
    """Base of all objectives: parameters that require a gradient are trained, buffers are kept.

    The loop seeds torch from (seed, step) before each `forward`, so that its draws from torch's CPU
    generator can be repeated; in evaluation mode nothing may be drawn. What a resumed run needs
    besides the optimiser has to be in the `state_dict`. On a GPU `forward` may run under autocast:
    compute losses in float32 (`full_precision`).

    With several processes, each gets its part of a batch, and the gradients of all are averaged. A
    mean over pairs then equals that over the whole batch. Code that compares pairs, or divides by
    something that differs between parts, has to call `processes.gather` first.

    Attributes:
        views: Number of transformed views of each film that a step gets.
        criterion: Which value of `validate` chooses the best state.
        larger_is_better: Whether a high criterion is good.
        recordable: Whether `forward` computes on the device alone, from the views and what
            `step_inputs` returned for the batch, so that a step can be recorded
            (`convirt.recorded`).
        image_encoder: The image encoder f_v, the result of pretraining.
        chunk: Pairs embedded at a time in validation; 0 means a whole batch.
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
        """What a recorded step needs of a batch besides its images, on the device."""
        return ()

    def embed(self, inputs: Inputs) -> tuple[Tensor, ...]:
        """The tensors that are compared, (n, ...) each, every row computed from its pair alone.

        An objective that defines `embed` and `compare` instead of `forward` can use batches that do
        not fit into memory (`train.chunk`).
        """
        return tuple(half() for half in self.halves(inputs))

    def halves(self, inputs: Inputs) -> tuple[Callable[[], Tensor], ...]:
        """One function per embedding, instead of `embed`, if their networks share no weight.

        They run in parallel on a CPU (`convirt.halves`) and in recorded steps.
        """
        raise NotImplementedError

    @classmethod
    def in_halves(cls) -> bool:
        """Whether `forward` does nothing but compare the results of `halves`."""
        return cls.forward is Objective.forward and cls.embed is Objective.embed

    def compare(
        self, embeddings: tuple[Tensor, ...], inputs: Inputs
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What `forward` returns, from what `embed` returned for the batch."""
        raise NotImplementedError

    def compile_encoders(self, config: TrainConfig) -> None:
        """Let torch compile the slow parts, for the device they are on; later calls do nothing.

        Every shape has its own code: by default torch generalises from the shapes that it has seen,
        and a resumed run would compute a step with other code.
        """
        if not self._compiled:
            self.compile_with(self.compile_mode(config))
            self._compiled = True

    def compile_with(self, mode: str) -> None:
        """Compile in one of torch's modes; override it to compile more networks."""
        self.image_encoder.compile(mode=mode, dynamic=False)

    def compile_mode(self, config: TrainConfig) -> str:
        """Torch's mode: with CUDA graphs on a GPU, where launching kernels outlasts running them.

        Without them if whole steps are recorded (`compute.graphs`), in several processes, where
        BatchNorm communicates in the middle of a graph, and with chunks, which would be recorded
        again for each sequence of their lengths.
        """
        on_gpu = next(self.parameters()).device.type == "cuda"
        whole = processes.count() == 1 and not config.chunk
        graphs = on_gpu and whole and not config.graphs
        return "reduce-overhead" if graphs else "default"

    def validate(self, batches: Iterable[Inputs]) -> dict[str, float]:
        """Values of a validation, including `val_loss`; called in evaluation mode, no gradient."""
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

    def constant(self) -> frozenset[str]:
        """Names of the state that training never changes, which resume states leave out."""
        return frozenset()

    def chance(self) -> float | None:
        """Loss of a model that knows nothing; None if that is no fixed number."""
        return None

    def save(self, folder: Path) -> None:
        """Write what transfer and retrieval read into an existing folder."""
        save_image_encoder(self.image_encoder, self.image_config, folder)


class PairObjective(Objective):
    """Base of objectives that compare v and u; images are then retrieved by the cosine of both.

    Attributes:
        model: Both encoders and both projections.
    """

    model: PairEncoder

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        text, tokenizer = parts.text()
        # seeded again, so that the heads do not depend on what the encoders drew
        torch.manual_seed(parts.config.seed)
        self.model = PairEncoder(parts.image, parts.image_config, text, tokenizer, parts.projection)
        tokens = tokenize(parts.texts, tokenizer)
        buckets = BUCKET if parts.config.compile or parts.config.graphs else 0
        self._text = FrozenText(text, tokens, parts.config.cache_frozen, buckets)

    @property
    def image_encoder(self) -> nn.Module:  # type: ignore[override]
        """The image encoder f_v."""
        return self.model.image_encoder

    def constant(self) -> frozenset[str]:
        """The frozen layers of the text encoder: half of the paper's BERT and its embeddings."""
        text = self.model.text_encoder.named_parameters(prefix="model.text_encoder")
        return frozenset(name for name, parameter in text if not parameter.requires_grad)

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
        """Tokens of the sentences (or the places of kept ones), and the mask of real tokens."""
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
        """Compile the image encoder and the part of the text encoder that a step computes."""
        super().compile_with(mode)
        # Each length of sentences has its own code. Code for any length would sum in the order that
        # suits the first length it saw, so that a resumed run could have other bits.
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True  # else it would go on uncompiled
        text: Any = self.model.text_encoder
        upper, lower = (
            torch.compile(half, mode=mode, dynamic=False) for half in (text.upper, text.lower)
        )
        text.upper = upper
        if not self._text.keep:  # kept outputs are computed only once
            # the same in training and validation, else each would have its own code
            text.lower = torch.no_grad()(lower)

    def save(self, folder: Path) -> None:
        """Write both encoders and the projections."""
        save_pair_encoder(self.model, folder)


def find(name: str) -> type[Objective]:
    """The class `Objective` of convirt/objectives/<name>.py; no other file is imported.

    Raises:
        InputError: There is no such file, or it defines no objective.
    """
    known = objectives.available()
    if name not in known:
        hint = f"correct it, or write convirt/objectives/{name}.py (docs/objectives.md)"
        raise InputError("objective", f"one of {', '.join(known)}", repr(name), hint)
    found: Any = getattr(import_module(f"{objectives.__name__}.{name}"), "Objective", None)
    fault = _fault(found)
    if fault:
        file, hint = f"convirt/objectives/{name}.py", "docs/objectives.md has an example"
        raise InputError(file, "a class `Objective` of pretraining", fault, hint)
    return cast("type[Objective]", found)


def _fault(found: Any) -> str:
    """What keeps `found` from being an objective; "" if nothing does."""
    if found is None:
        return "no class of this name"
    if not (isinstance(found, type) and issubclass(found, Objective)):
        return "one that is not derived from `base.Objective`"
    if found.forward is Objective.forward and found.compare is Objective.compare:
        return "one with neither `compare` nor `forward`"
    return ""


def full_precision(like: Tensor) -> Any:
    """A context in which autocast is off on the device of `like`, for losses in float32."""
    return torch.autocast(like.device.type, enabled=False)


T = TypeVar("T")


def options_of(kind: type[T], options: Mapping[str, Any]) -> T:
    """An objective's `options` as its dataclass `kind`, checked strictly.

    Raises:
        ParamsError: A key is unknown, missing, or of another type.
    """
    from pydantic import TypeAdapter, ValidationError

    from convirt.faults import ParamsError, explain

    try:
        # as JSON, from which strict mode can build dataclasses and tuples
        told = json.dumps(dict(options))
        return TypeAdapter(kind).validate_json(told, strict=True, extra="forbid")
    except ValidationError as error:
        name = kind.__module__.rpartition(".")[2]
        known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
        where, see = f"objectives.{name}.options", f"see Options in convirt/objectives/{name}.py"
        problems = [
            p._replace(key=f"{where}.{p.key}", hint=f"{p.hint}; {see}")
            if p.key
            else p._replace(key=where, hint=see)  # two options that contradict each other
            for p in explain(error.errors(include_url=False), known)
        ]
        raise ParamsError("params.yaml", problems) from None
