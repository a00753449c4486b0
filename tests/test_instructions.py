"""Stages keep to AVX2, so that newer CPUs do the same arithmetic."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
from conftest import ROOT

from convirt import devices
from convirt.instructions import AVX2, NEEDED, SWITCH, pins

NEW = NEEDED | {"avx512f"}
HERE = platform.machine() == "x86_64" and set(devices.about_cpu("flags").split()) >= NEEDED


def test_all_libraries_keep_to_avx2() -> None:
    assert pins("x86_64", NEW, {}) == AVX2


def test_what_is_set_stays() -> None:
    assert "MKL_CBWR" not in pins("x86_64", NEW, {"MKL_CBWR": "COMPATIBLE"})
    assert len(pins("x86_64", NEW, {"MKL_CBWR": "COMPATIBLE"})) == len(AVX2) - 1


@pytest.mark.parametrize(
    ("machine", "flags", "environment"),
    [
        ("arm64", set(), {}),
        ("x86_64", {"sse4_2", "avx"}, {}),  # a kernel for AVX2 would crash there
        ("x86_64", set(), {}),  # not told
        ("x86_64", NEW, {SWITCH: "native"}),
    ],
)
def test_other_cpus_and_other_wishes(
    machine: str, flags: set[str], environment: dict[str, str]
) -> None:
    assert pins(machine, flags, environment) == {}


@pytest.mark.skipif(not HERE or SWITCH in os.environ, reason="no x86-64 CPU with AVX2, or native")
def test_tests_compute_as_stages_do() -> None:
    assert os.environ["MKL_CBWR"] and os.environ["ATEN_CPU_CAPABILITY"]


TOLD = (
    "import torch, os; print(torch.backends.cpu.get_cpu_capability(), os.environ.get('MKL_CBWR'))"
)


@pytest.mark.skipif(not HERE, reason="no x86-64 CPU with AVX2")
@pytest.mark.parametrize(
    ("code", "pinned"),
    [
        (f"import stages; {TOLD}", True),
        (f"import convirt.store; {TOLD}", False),  # the library alone changes nothing
        (f"import numpy, stages; {TOLD}", False),  # too late
    ],
)
def test_a_process_of_a_stage_keeps_to_avx2(code: str, pinned: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in AVX2}
    done = subprocess.run(
        [sys.executable, "-W", "error::ImportWarning", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = done.stdout.split()
    assert (found == ["AVX2", "AVX2"]) if pinned else (found[1] == "None")
