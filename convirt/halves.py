"""The two halves of a pair in parallel on a CPU: the same bits in less time.

Images and sentences are independent until they are compared. One core per half is faster than all
cores on one half after the other: the operations of a small batch are too small to divide well. The
backward passes of the halves also run in parallel, and the thread that finishes first computes
gradients of the other's weights (`deferred`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

from convirt import devices, processes
from convirt.deferred import Deferred
from convirt.objectives.base import Inputs, Objective

if TYPE_CHECKING:
    from convirt.schedule import TrainConfig

T = TypeVar("T")


class Halves:
    """The gradient of a batch, with its halves in parallel.

    All threads share one generator of torch, so draws of both halves would interleave in an
    undefined order. The first batch shows whether any half but the last draws something; if one
    does, the halves run one after the other.
    """

    def __init__(self, objective: Objective) -> None:
        """Prepare a thread for an `objective` with halves."""
        self.objective = objective
        self.apart: bool | None = None
        # a thread takes over torch's number of threads when it asks for it; convolutions do not ask
        asked = torch.get_num_threads
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="half", initializer=asked)

    def backward(
        self, inputs: Inputs, meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradient of a batch's loss to the weights.

        Args:
            inputs: The batch.
            meanwhile: Called by this thread once it has its embeddings, while others may still run.

        Returns:
            The loss, detached, and what the objective logs.
        """
        halves = self.objective.halves(inputs)
        known = self.apart is not None
        embeddings = self._all(halves, meanwhile) if known else self._first(halves)
        whole = tuple(x.detach().requires_grad_() for x in embeddings)
        loss, logs = self.objective.compare(whole, inputs)
        loss.backward()
        pairs = zip(embeddings, whole, strict=True)
        self._back([partial(x.backward, own.grad) for x, own in pairs if own.grad is not None])
        return loss.detach(), logs

    def _first(self, halves: Sequence[Callable[[], Tensor]]) -> list[Tensor]:
        before = torch.get_rng_state()
        others = [half() for half in halves[:-1]]
        self.apart = torch.equal(before, torch.get_rng_state())
        return [*others, halves[-1]()]

    def _all(
        self, jobs: Sequence[Callable[[], T]], meanwhile: Callable[[], None] = lambda: None
    ) -> list[T]:
        """Results in order; this thread does the last job."""
        if not self.apart:
            return [job() for job in jobs]
        elsewhere = [self._pool.submit(job) for job in jobs[:-1]]
        here = jobs[-1]()
        meanwhile()
        return [*(future.result() for future in elsewhere), here]

    def _back(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Run the backward passes; the thread that is done first helps with the other's weights."""
        if not self.apart:
            self._all(jobs)
            return
        left = Deferred()

        def others() -> None:
            with left.leaving():
                for job in jobs[:-1]:
                    job()
            left.help()

        elsewhere = self._pool.submit(others)
        jobs[-1]()
        left.help()
        elsewhere.result()
        left.add()


def side_by_side(objective: Objective, device: torch.device, config: TrainConfig) -> Halves | None:
    """`Halves` where they pay and change no bit: on a CPU with enough cores for both, else None.

    None for steps that are compiled, recorded, cut into chunks, shared among processes or in lower
    precision.
    """
    usual = not (config.compile or config.chunk or config.graphs)
    plain = usual and config.precision == "float32"
    if not plain or device.type != "cpu" or processes.count() > 1:
        return None
    pays = objective.in_halves() and 2 * torch.get_num_threads() <= devices.cores()
    return Halves(objective) if pays else None
