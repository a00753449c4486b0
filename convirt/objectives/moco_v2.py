"""MoCo v2, contrastive learning from images alone with a queue (section 6).

He et al. 2020, arXiv 1911.05722, with the head of Chen et al. 2020, arXiv 2003.04297. One view of a
film, encoded by the query encoder, has to be matched with the film's other view, encoded by the key
encoder, among the keys of earlier batches. The key encoder follows the query encoder slowly and
gets no gradient. The query encoder is the one that is saved.

The queue starts empty, and only its filled part counts, so that no query is ever compared with
noise. The first step therefore has zero loss and no gradient. The loss then rises to its level
until the queue is full, which has to be the case by the first validation after a step.

BatchNorm: if the batch's queries and keys were normalised with the same films, a query could
recognise its key by that alone. The original shuffles the keys over its GPUs, each of which
normalises its own part. Here one device does what `groups` GPUs did: the queries go through the
encoder in `groups` parts, and so do the keys, in a newly drawn order. (The running statistics then
cover all parts; the original's are those of the first GPU.)
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from convirt import processes
from convirt.devices import sent
from convirt.errors import InputError
from convirt.objectives import base
from convirt.objectives.base import Inputs, Parts, full_precision, options_of


@dataclass(frozen=True)
class Options:
    """Settings; the defaults are the published ones, and the number of the paper's GPUs.

    Attributes:
        queue: Number of keys that are kept, K.
        momentum: Share of its weights that the key encoder keeps at each step, in [0, 1].
        groups: Parts in which BatchNorm sees a batch, as on so many GPUs; has to divide the batch.
    """

    queue: int = 4096
    momentum: float = 0.999
    groups: int = 2

    def __post_init__(self) -> None:
        if not 0 <= self.momentum <= 1:
            raise ValueError("momentum has to be between 0 and 1; 0.999 as published")
        if self.groups < 1:
            raise ValueError("groups has to be at least 1; 2, the number of GPUs, in the paper")


def queue_loss(q: Tensor, k: Tensor, queue: Tensor, filled: Tensor, tau: float) -> Tensor:
    """Cross entropy of each query's own key among that key and the queue (MoCo, eq. 1).

    At chance it is ln(1 + K) with a full queue; with an empty queue it is 0, without a gradient.

    Args:
        q: L2-normalised queries, (N, d).
        k: L2-normalised keys, (N, d); row i is of the film of row i of `q`.
        queue: L2-normalised keys of earlier batches, (K, d).
        filled: How many rows of the queue count, starting from the first, a scalar.
        tau: Temperature.

    Returns:
        The mean over the queries, a scalar.
    """
    own = (q * k).sum(dim=1, keepdim=True)
    empty = torch.arange(len(queue), device=q.device) >= filled
    others = (q @ queue.T).masked_fill(empty, float("-inf"))
    logits = torch.cat([own, others], dim=1) / tau
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.int64, device=q.device))


class Objective(base.Objective):
    """Query and key encoder, each with a head, and the queue.

    Attributes:
        queue: (K, dim) float32 keys, a ring buffer.
        enqueued: Number of keys ever added; the next one goes to this row modulo K.
    """

    views: ClassVar[int] = 2
    criterion: ClassVar[str] = "val_keys"
    queue: Tensor
    enqueued: Tensor

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.options = options_of(Options, parts.options)
        check(self.options, parts.config.batch_size, parts.config.eval_every)
        self.tau = parts.config.tau
        torch.manual_seed(parts.config.seed)
        self.image_encoder = parts.image
        self.head = parts.projection.head(parts.image_config.width)
        self.key_encoder = copy.deepcopy(self.image_encoder).requires_grad_(False)
        self.key_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(self.options.queue, parts.projection.dim))
        self.register_buffer("enqueued", torch.zeros((), dtype=torch.int64))

    def forward(self, inputs: Inputs) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of two views each; training also updates key encoder and queue."""
        if self.training:
            self._follow()
        q, k = self.embed(inputs)
        with full_precision(q):
            # a copy, since the backward pass still needs what is overwritten below
            queue = self.queue.clone() if self.training else self.queue
            loss = queue_loss(q, k, queue, self.enqueued, self.tau)
        if self.training:
            self._enqueue(processes.gather(k))
        return loss, {}

    def validate(self, batches: Iterable[Inputs]) -> dict[str, float]:
        """The loss over the queue, and the criterion `val_keys`: over keys of the current encoder.

        The queue's keys come from older encoders, and the faster these change, the easier the own
        key is distinguished from them. So the loss over the queue is lowest early, when the encoder
        is worst. `val_keys` compares each query with the keys of all validation films, as encoded
        now. Before the first step the queue is not full, and `val_loss` is that of chance.
        """
        losses, queries, keys = [], [], []
        for inputs in batches:
            q, k = self.embed(inputs)
            with full_precision(q):
                loss = queue_loss(q, k, self.queue, self.enqueued, self.tau)
            losses.append(loss)
            queries.append(q)
            keys.append(k)
        q, k = torch.cat(queries), torch.cat(keys)
        with full_precision(q):
            own = torch.arange(len(q), device=q.device)
            among = float(F.cross_entropy(q @ k.T / self.tau, own))
        full = int(self.enqueued) >= len(self.queue)
        mean = sum(float(loss) for loss in losses) / len(losses) if full else self.chance()
        return {"val_loss": mean, "val_keys": among}

    def embed(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Queries and keys, (N, dim) each, L2-normalised, float32; the keys without a gradient."""
        query_view, key_view = inputs.views
        if self.training:
            q = self._embed(self.image_encoder, self.head, query_view)
            k = self._keys(key_view)
        else:
            q = self.head(self.image_encoder(query_view))
            with torch.no_grad():
                k = self.key_head(self.key_encoder(key_view))
        return F.normalize(q.float(), dim=-1), F.normalize(k.float(), dim=-1)

    def compile_with(self, mode: str) -> None:
        """Compile both image encoders."""
        super().compile_with(mode)
        self.key_encoder.compile(mode=mode, dynamic=False)

    def _follow(self) -> None:
        """Move the key encoder towards the query encoder: weights, not BatchNorm statistics."""
        keys = [*self.key_encoder.parameters(), *self.key_head.parameters()]
        queries = [*self.image_encoder.parameters(), *self.head.parameters()]
        follow = get_ema_multi_avg_fn(self.options.momentum)  # one kernel for all on a GPU
        follow(keys, queries, None)

    def _embed(self, encoder: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
        """Encode in `groups` parts, each with its own BatchNorm statistics."""
        return torch.cat([head(encoder(part)) for part in x.chunk(self.options.groups)])

    @torch.no_grad()
    def _keys(self, x: Tensor) -> Tensor:
        """Encode the keys in parts of a drawn order, and return them in their original order."""
        order = torch.randperm(len(x))
        back = sent(order.argsort(), x.device)
        shuffled = x[sent(order, x.device)]
        shuffled = shuffled.contiguous(memory_format=torch.channels_last)
        return self._embed(self.key_encoder, self.key_head, shuffled)[back]

    @torch.no_grad()
    def _enqueue(self, k: Tensor) -> None:
        """Replace the oldest keys of the queue by these."""
        rows = (self.enqueued + torch.arange(len(k), device=k.device)) % len(self.queue)
        self.queue.index_copy_(0, rows, k)
        self.enqueued += len(k)

    def chance(self) -> float:
        """Loss if the own key and all keys of a full queue are equally likely."""
        return math.log(1 + self.options.queue)


def check(options: Options, batch_size: int, eval_every: int) -> None:
    """Refuse settings that contradict each other.

    Raises:
        InputError: A queue smaller than a batch or not full at the first validation, or a batch
            that cannot be divided into equal groups.
    """
    where = "params.yaml: objectives.moco_v2.options."
    most = batch_size * eval_every
    if not batch_size <= options.queue <= most:
        raise InputError(
            f"{where}queue",
            f"{batch_size} (train.batch_size) to {most} (the keys of train.eval_every steps)",
            str(options.queue),
            "lower it, or validate less often: losses over a growing queue are not comparable",
        )
    own = batch_size // processes.count()
    if own % options.groups:
        raise InputError(
            f"{where}groups",
            f"a divisor of {own}, the films per process and step",
            str(options.groups),
            "2, the number of GPUs in the paper",
        )
