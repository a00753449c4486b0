"""Gradients of weights, computed by whichever thread has nothing else to do.

In a backward pass each layer waits only for the gradient of its output; gradients of weights are
needed only at the end. So one thread can leave them to another that finishes earlier.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import torch
from torch import Tensor

Job = Callable[[], Tensor]


class Deferred:
    """Weight gradients that one thread leaves to be computed later, by itself or by others.

    Which thread computes a gradient changes no bit: each is an operation of its own, and they are
    added to the weights' gradients in the order in which they were left.
    """

    def __init__(self) -> None:
        """Start with no gradient left."""
        self._weights: list[Tensor] = []
        self._gradients: dict[int, Tensor] = {}
        self._jobs: SimpleQueue[tuple[int, Job] | None] = SimpleQueue()

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Leave the gradients of this thread; can be used once, and not nested."""
        _thread.deferred = self
        try:
            yield
        finally:
            _thread.deferred = None
            self._jobs.put(None)

    def leave(self, weight: Tensor, job: Job) -> None:
        """Leave a gradient of `weight` to whichever thread is free."""
        number = len(self._weights)
        self._weights.append(weight)
        self._jobs.put((number, job))

    def help(self) -> None:
        """Compute what was left, until `leaving` is over and nothing is left."""
        while (found := self._jobs.get()) is not None:
            number, job = found
            self._gradients[number] = job()
        self._jobs.put(None)  # ends the other helpers as well

    @torch.no_grad()
    def add(self) -> None:
        """Add the gradients to those of the weights; call it when all helpers are done."""
        for number, weight in enumerate(self._weights):
            gradient = self._gradients.pop(number)
            if weight.grad is not None:
                weight.grad += gradient
            elif _laid_out_alike(gradient, weight):
                weight.grad = gradient.view_as(weight)
            else:  # as autograd does: optimisers step through both in memory order
                weight.grad = torch.empty_like(weight).copy_(gradient)


def of_weight(weight: Tensor, job: Job) -> Tensor | None:
    """For a backward function: the gradient of `weight`, or None if it is left for later."""
    if torch.compiler.is_compiling() or _thread.deferred is None:
        return job()
    _thread.deferred.leave(weight, job)
    return None


class _Thread(threading.local):
    deferred: Deferred | None = None


_thread = _Thread()


def _laid_out_alike(a: Tensor, b: Tensor) -> bool:
    """Whether tensors of one shape have their elements in the same order in memory."""
    pairs = zip(a.stride(), b.stride(), a.shape, strict=True)
    return all(one == other for one, other, size in pairs if size > 1)
