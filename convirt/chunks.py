"""The gradient of a whole batch that does not fit into memory, encoded in chunks.

A contrastive loss compares all pairs, so the sum of per-chunk losses would be a different loss.
All chunks are first encoded without a gradient; the loss of the whole batch gives the gradient of
each embedding; then each chunk is encoded again and its embeddings' gradients are propagated to the
weights (Gao et al. 2021, arXiv 2101.06983). That costs a second forward pass, and memory for one
chunk. BatchNorm statistics and dropout are per chunk; both passes draw the same dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from convirt.errors import InputError
from convirt.objectives.base import Inputs, Objective


def divisible(objective: Objective) -> bool:
    """Whether the loss of an objective is a function of embeddings."""
    return type(objective).forward is Objective.forward


def require_divisible(objective: Objective) -> None:
    """Raise `InputError` for an objective that is not `divisible`."""
    if not divisible(objective):
        raise InputError(
            "params.yaml: train.chunk",
            "0 for an objective that does not separate embedding from comparing",
            type(objective).__module__.rpartition(".")[2],
            "set objectives.<name>.train.chunk to 0, or write `embed` and `compare`",
        )


def backward(
    objective: Objective,
    inputs: Inputs,
    size: int,
    seed: Callable[[int], None],
    autocast: Callable[[], AbstractContextManager[object]],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Add the gradient of a batch's loss to the weights.

    Args:
        objective: In training mode; it has `embed` and `compare`.
        inputs: N pairs.
        size: Pairs encoded at a time.
        seed: Seeds torch for a chunk by its number; the number after the last is for `compare`.
        autocast: As in the loop. Entered separately for each pass, since it caches weights that it
            casts: those cast without a gradient would stay without one.

    Returns:
        The loss, detached, and what the objective logs.
    """
    rows = [slice(first, first + size) for first in range(0, len(inputs.batch.images), size)]

    def embedded(number: int) -> tuple[Tensor, ...]:
        seed(number)
        with autocast():
            return objective.embed(inputs.part(rows[number]))

    with torch.no_grad(), _kept(objective):
        pieces = [embedded(number) for number in range(len(rows))]
    whole = tuple(torch.cat(parts).requires_grad_() for parts in zip(*pieces, strict=True))
    seed(len(rows))
    with autocast():
        loss, logs = objective.compare(whole, inputs)
    loss.backward()
    gradients = [x.grad for x in whole]
    for number, own in enumerate(rows):
        torch.autograd.backward(
            embedded(number), [None if g is None else g[own] for g in gradients]
        )
    return loss.detach(), logs


@contextmanager
def _kept(module: nn.Module) -> Iterator[None]:
    """Undo changes of buffers, such as BatchNorm's running statistics."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)
