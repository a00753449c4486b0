"""Devices: which one a run computes on, its cores, its seed, and copies to it."""

from __future__ import annotations

import ctypes
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convirt.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def require(name: str) -> str:
    """Return `name` ("cpu" or "cuda") if torch can compute there, and prepare the CPU for it.

    Raises:
        InputError: It is cuda and there is no usable GPU. A run on the CPU instead would be
            another run, with other last bits and another duration.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "params.yaml: compute.device",
            "a GPU that torch can use, as device is cuda",
            f"none (torch {torch.__version__})",
            "check nvidia-smi, or set compute.device: cpu, precision: float32, graphs: false",
        )
    if name == "cuda":
        capability, built = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
        if not has_kernels(capability, built):
            number = ".".join(map(str, capability))
            raise InputError(
                "params.yaml: compute.device",
                f"a GPU that this torch has kernels for ({', '.join(built)})",
                f"{torch.cuda.get_device_name()}, of compute capability {number}",
                "use a newer GPU, or set compute.device: cpu, precision: float32, graphs: false",
            )
    if name == "cpu":
        _keep_memory()
    return name


def has_kernels(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether code that was built for some architectures runs on a GPU.

    Machine code ("sm_90") runs on GPUs of the same major capability and an equal or higher minor
    one; intermediate code ("compute_90"), on all that are not older.

    Args:
        capability: The GPU's, as (9, 0).
        built: As `torch.cuda.get_arch_list` returns them.
    """
    for name in built:
        kind, _, number = name.partition("_")
        major, minor = divmod(int(re.sub(r"\D", "", number)), 10)
        if kind == "sm" and major == capability[0] and minor <= capability[1]:
            return True
        if kind == "compute" and (major, minor) <= capability:
            return True
    return False


def hardware(name: str) -> str:
    """The model of the CPU or GPU in use: another model may give other last bits."""
    import torch

    if name == "cuda":
        return torch.cuda.get_device_name()
    model = about_cpu("model name") or platform.processor() or platform.machine()
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def about_cpu(what: str) -> str:
    """What Linux tells about the CPU, such as its "model name" or "flags"; "" elsewhere."""
    told = Path("/proc/cpuinfo")
    if not told.is_file():
        return ""
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines()
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() == what), "")


CORES = "CONVIRT_CORES"  # environment variable: how many cores a stage may use beside others


def cores() -> int:
    """How many cores this process may use; no number in an output depends on it."""
    if told := os.environ.get(CORES):
        if not (told.isascii() and told.isdigit() and int(told)):
            hint = f"unset {CORES}: stages.runs sets it where it starts stages side by side"
            raise InputError(f"environment: {CORES}", "a number of cores", repr(told), hint)
        return int(told)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def seed(name: str, value: int) -> None:
    """Seed torch's generator on "cpu" or "cuda"."""
    import torch

    # not torch.manual_seed, which formats the stack for every kind of device that may start later:
    # that takes up to a millisecond, most of a step of a linear head
    torch.default_generator.manual_seed(value)
    if name == "cuda":
        torch.cuda.manual_seed_all(value)


def sent(x: Tensor, device: str | torch.device) -> Tensor:
    """Copy a CPU tensor to a device without waiting for the copy.

    A copy to a GPU goes through pinned memory: from any other memory it would wait until the GPU
    has finished all work queued before, whatever `non_blocking` says.
    """
    if str(device).startswith("cuda"):
        x = x.pin_memory()
    return x.to(device, non_blocking=True)


def _keep_memory() -> None:
    """Let glibc keep freed memory, up to 2 GiB, instead of handing it back to the system.

    A training step on the CPU frees and takes the same hundreds of megabytes as the one before,
    and each page that comes back from the system costs a page fault: a twelfth of a fine-tuning
    run. No result changes; peak memory grows by a tenth.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # from <malloc.h>
    libc = ctypes.CDLL(None)
    libc.mallopt(arena_max, 1)  # per-thread arenas would hand memory back nevertheless
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, (1 << 31) - 1)
