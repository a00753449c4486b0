"""The same arithmetic on every x86-64 CPU with AVX2, also on those with newer instructions.

PyTorch, NumPy and the libraries below them choose their kernels by the CPU. Kernels for AVX-512 add
in another order than those for AVX2, so last bits differ, and training makes that visible. All of
these libraries can be told to do without.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping

from convirt import devices

SWITCH = "CONVIRT_CPU"  # environment variable; "native" lets libraries use all that the CPU has
NEEDED = {"avx2", "fma"}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions
    "MKL_CBWR": "AVX2",  # its matrix products
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",  # NumPy's and SciPy's matrix products
    "FAISS_OPT_LEVEL": "AVX2",
}


def pins(machine: str, flags: set[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables to set; those that are set already stay as they are.

    Args:
        machine: As `platform.machine()`.
        flags: What the CPU can do, as in /proc/cpuinfo.
        environment: The variables that are set.
    """
    if machine != "x86_64" or not flags >= NEEDED or environment.get(SWITCH) == "native":
        return {}
    return {name: value for name, value in AVX2.items() if name not in environment}


def pin() -> None:
    """Keep this process, and those that it starts, to AVX2.

    Has no effect once NumPy or PyTorch is there: they have already chosen some of their kernels.
    """
    if not {"numpy", "torch"} & sys.modules.keys():
        flags = set(devices.about_cpu("flags").split())
        os.environ.update(pins(platform.machine(), flags, os.environ))
