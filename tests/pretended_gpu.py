"""A pretended GPU: tensors that claim to be on a GPU but are computed on the CPU.

It refuses what a GPU would refuse: operations on tensors of two devices, and those without a
deterministic kernel there. It notes each time that the host would have to wait for the GPU. So both
are tested without a GPU; kernels, their numbers and their speed are not (`test_gpu.py`).
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from convirt import devices, feed

aten = torch.ops.aten
GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
THERE = ("cuda", "meta")  # autograd makes zeros on the device that C++ sees
COPIES = {aten._to_copy, aten.copy_}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
# the host needs a value, or has to know how large the result is
READS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select}
READS |= {aten._unique2, aten.unique_dim, aten.unique_consecutive, aten.bincount}
# these raise on CUDA, as the documentation of `torch.use_deterministic_algorithms` lists
UNDETERMINED = {
    aten.nll_loss2d_forward,
    aten.grid_sampler_2d_backward,
    aten.grid_sampler_3d_backward,
    aten.reflection_pad1d_backward,
    aten.reflection_pad2d_backward,
    aten.reflection_pad3d_backward,
    aten._adaptive_avg_pool2d_backward,
    aten.adaptive_max_pool2d_backward,
    aten.avg_pool3d_backward,
    aten.upsample_linear1d_backward,
    aten.upsample_bilinear2d_backward,
    aten._upsample_bilinear2d_aa_backward,
    aten.upsample_bicubic2d_backward,
    aten._upsample_bicubic2d_aa_backward,
    aten._ctc_loss_backward,
    aten.max_unpool2d,
    aten.put_,
    aten.histc,
    aten.median,
    aten.kthvalue,
}


class OnGpu(Tensor):
    """A tensor that claims to be on the GPU. To torch's C++ it is on "meta", without data."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        """Wrap a tensor of the CPU."""
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The GPU."""
        return GPU

    def tolist(self) -> Any:
        """Its values; the host waits for them."""
        return self.to(CPU).tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Refuse: inside of `pretended`, no operation gets here."""
        raise RuntimeError(f"{func} on a GPU that is no longer pretended")


class AtOnce(Executor):
    """Does other threads' work in the calling thread: the pretence covers one thread only."""

    def __init__(self, *of_no_interest: Any) -> None:
        pass

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@dataclass
class Waits:
    """Where the host would have waited.

    Attributes:
        places: Operation, and the line below convirt/ that asked for it, in order.
    """

    places: list[str] = field(default_factory=list)

    def note(self, func: Any) -> None:
        """Note one more wait."""
        own = [f for f in traceback.extract_stack() if "/convirt/" in f.filename]
        line = f"{own[-1].filename.rpartition('/')[2]}: {own[-1].line}" if own else "a test"
        self.places.append(f"{func} in {line}")


class Pretence(TorchDispatchMode):
    """Computes on the CPU what is meant for the GPU."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One operation."""
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        some = any(isinstance(x, OnGpu) for x in tensors)
        target = kwargs.get("device")
        to_gpu = some if target is None else torch.device(target).type in THERE
        if some or to_gpu:
            self._check(func.overloadpacket, func, tensors, args, kwargs, to_gpu)
        if target is not None and to_gpu:
            kwargs["device"] = CPU
        kwargs.pop("non_blocking", None)
        plain_args, plain_kwargs = tree_map_only(OnGpu, lambda x: x.held, (args, kwargs))
        out = func(*plain_args, **plain_kwargs)
        if not to_gpu:
            return out
        wrapped = tree_map_only(Tensor, OnGpu, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if some else wrapped

    def _check(
        self, packet: Any, func: Any, tensors: list[Tensor], args: Any, kwargs: Any, to_gpu: bool
    ) -> None:
        """Refuse an operation, or note that the host waits for it."""
        if packet in UNDETERMINED:
            raise RuntimeError(f"{func} does not have a deterministic implementation")
        elsewhere = [x for x in tensors if not isinstance(x, OnGpu)]
        if packet in COPIES:  # waits for all before it if blocking or from pageable memory
            crosses = bool(elsewhere) or not to_gpu
            # the third argument of copy_
            asked = kwargs.get("non_blocking", args[2] if packet is aten.copy_ and args[2:] else 0)
            pageable = any(x.dim() and not hasattr(x, "pinned") for x in elsewhere)
            if crosses and (pageable or not asked):
                self.waits.note(func)
        elif packet in INDEXING:  # a mask has to be counted, an index on the CPU copied
            masks = [x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)]
            if masks or elsewhere:
                self.waits.note(func)
        elif any(x.dim() for x in elsewhere):
            told = [(tuple(x.shape), str(x.device)) for x in tensors]
            raise RuntimeError(f"{func} on two devices: {told}")
        elif packet in READS:
            self.waits.note(func)


class Numbered(TorchFunctionMode):
    """Gives "cuda" its number, which torch would ask the driver for."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One call."""
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and _numbered(kwargs.get("device")) == GPU:
            del kwargs["device"]  # created on the CPU and copied, as torch does
            return func(*args, **kwargs).to(GPU)
        if func is Tensor.to:
            args = tuple(_numbered(x) for x in args)
        if "device" in kwargs:
            kwargs["device"] = _numbered(kwargs["device"])
        return func(*args, **kwargs)


def _numbered(device: Any) -> Any:
    """The GPU, if that is what is meant; anything else as it is."""
    return GPU if isinstance(device, (str, torch.device)) and str(device) == "cuda" else device


def _pinned(x: Tensor) -> Tensor:
    copy = x.clone()
    copy.pinned = True  # type: ignore[attr-defined]
    return copy


def _enter(mode: Any) -> None:
    mode.instead = torch.no_grad()
    mode.instead.__enter__()


def _exit(mode: Any, *error: Any) -> None:
    mode.instead.__exit__(*error)


@contextlib.contextmanager
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Pretend a GPU for what runs inside; yields where the host would have waited for it."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    monkeypatch.setattr(devices, "require", lambda name: name)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "pretended")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 40, 1 << 40))
    monkeypatch.setattr(Tensor, "pin_memory", _pinned)
    monkeypatch.setattr(feed, "ThreadPoolExecutor", AtOnce)
    # inference tensors have no version and cannot be wrapped; `no_grad` computes the same
    monkeypatch.setattr(torch.inference_mode, "__enter__", _enter)
    monkeypatch.setattr(torch.inference_mode, "__exit__", _exit)
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    waits = Waits()
    try:
        with warnings.catch_warnings(), Numbered(), Pretence(waits):
            warnings.filterwarnings("ignore", ".*non-meta parameter")  # it is copied nevertheless
            yield waits
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
