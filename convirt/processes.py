"""Several processes that train one model, each on its part of every batch; started by torchrun.

With N pairs per batch and P processes, process p encodes pairs p N/P to (p + 1) N/P. Embeddings are
gathered in that order, and gradients flow back to the process that computed them, so that each
process computes the loss of the whole batch; gradients are then averaged. Loss and gradients are
those of one process that encodes all N pairs. In a single process, without torchrun, nothing here
has any effect.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from convirt.errors import InputError

T = TypeVar("T")
_by_itself = False  # inside of `alone`


def count() -> int:
    """How many processes work together; one while this one works `alone`."""
    return dist.get_world_size() if dist.is_initialized() and not _by_itself else 1


def rank() -> int:
    """The number of this process; process 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the others if torchrun has started this process, and select its own GPU.

    Args:
        device: "cuda" communicates by NCCL, "cpu" by gloo.

    Raises:
        InputError: There is no GPU for this process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    if device == "cuda":
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= there:
            raise InputError(
                "torchrun --nproc-per-node",
                f"at most {there}, one per GPU",
                os.environ.get("LOCAL_WORLD_SIZE", str(local + 1)),
                f"torchrun --nproc-per-node {there} ...",
            )
        torch.cuda.set_device(local)
    # long, since the others wait while the first validates; torchrun detects a process that died,
    # this timeout one that hangs
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(hours=1))
    yield
    dist.destroy_process_group()  # not after an error: processes would wait for each other


@contextmanager
def alone() -> Iterator[None]:
    """Let the first process work by itself, for example validate; nothing is shared meanwhile."""
    global _by_itself
    _by_itself = True
    try:
        yield
    finally:
        _by_itself = False


def part(size: int) -> slice:
    """This process's own rows of a batch of `size`.

    Raises:
        InputError: The batch cannot be cut into equal parts.
    """
    if size % count():
        hint = f"try {size // count() * count() or count()}, or another number of processes"
        raise InputError(
            "params.yaml: train.batch_size",
            f"a multiple of {count()}, the number of processes",
            str(size),
            hint,
        )
    own = size // count()
    return slice(rank() * own, (rank() + 1) * own)


def gather(x: Tensor) -> Tensor:
    """Gather the rows of all processes, in the order of the batch; (n, ...) to (N, ...).

    The gradient of a row is the sum of its gradients in all processes.
    """
    if count() == 1:
        return x
    if x.requires_grad:
        gathered: Tensor = _Gather.apply(x)
        return gathered
    sent = x.to(torch.uint8) if x.dtype == torch.bool else x
    return _rows_of_all(sent).to(x.dtype)


class _Gather(torch.autograd.Function):
    """`gather` with its gradient; torch's own function for it is deprecated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        return _rows_of_all(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def _rows_of_all(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(count())]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


def broadcast(x: Tensor) -> Tensor:
    """The first process's tensor; shape and type have to be the same everywhere."""
    if count() == 1:
        return x
    sent = x.clone(memory_format=torch.contiguous_format)
    dist.broadcast(sent, 0)
    return sent


def broadcast_object(value: T) -> T:
    """The first process's value, such as a text or a dictionary; the others may pass anything."""
    if count() == 1:
        return value
    told: list[Any] = [value]
    dist.broadcast_object_list(told, 0)
    first: T = told[0]
    return first


def mean(values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The mean of named scalars over the processes; the names have to be the same everywhere."""
    if count() == 1 or not values:
        return values
    stacked = torch.stack([value.detach().double() for value in values.values()])
    dist.all_reduce(stacked)
    return dict(zip(values, stacked / count(), strict=True))


def any_of(answer: bool) -> bool:
    """Whether `answer` is true in any process; none continues before all have answered."""
    return minimum(-int(answer)) < 0


def minimum(value: int) -> int:
    """The smallest value of all processes."""
    if count() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    found = torch.tensor(value, device=device)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


def data_parallel(model: nn.Module, device: torch.device, averaging: bool = True) -> nn.Module:
    """Wrap `model` so that gradients are averaged over the processes; unchanged for a single one.

    On GPUs BatchNorm takes its statistics over the whole batch, as one process would. Torch
    supports that only on GPUs, so on CPUs each process normalises its own part.

    Without `averaging` gradients stay local to each process, for `average`.
    """
    if count() == 1:
        return model
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm

        model = convert_sync_batchnorm(model)
    if not averaging:
        return model
    own = [torch.cuda.current_device()] if device.type == "cuda" else None
    # otherwise gradients are regrouped into messages after the first step, which is a later step in
    # a resumed run; regrouped gradients are added in another order
    warnings.filterwarnings("ignore", "find_unused_parameters=True was specified")
    return nn.parallel.DistributedDataParallel(model, device_ids=own, find_unused_parameters=True)


def average(parameters: Iterable[nn.Parameter]) -> None:
    """Average the gradients of backward passes over the processes, in one message."""
    if count() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= count()
    for gradient, mean_of_all in zip(
        gradients, flat.split([g.numel() for g in gradients]), strict=True
    ):
        gradient.copy_(mean_of_all.view(gradient.shape))
