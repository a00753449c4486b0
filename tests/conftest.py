"""Fixtures that several test files use."""

from __future__ import annotations

import copy
import os
import signal
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# before torch starts: several test processes share few cores, and one thread is reproducible
os.environ.setdefault("OMP_NUM_THREADS", "1")

# a shell makes background jobs (&) ignore Ctrl-C, and processes that a test starts inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import hypothesis
import pytest

from convirt import instructions

instructions.pin()  # before NumPy: tests compute with the instructions that stages use

# The same examples in every run: a check that fails once in a hundred runs must not block a change.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parents[1]

TINY: dict[str, Any] = {
    "compute.threads": 1,
    "compute.workers": 1,
    "demo.side": 48,
    "demo.sets.mimic-cxr.studies": 24,
    "demo.sets.bone.studies": 24,
    "datasets.image_size": 32,
    "datasets.sources.chest.val": 6,
    "datasets.sources.bone.val": 6,
    "model.image.size": 32,
    "model.projection.dim": 16,
    "train.batch_size": 4,
    "train.eval_every": 2,
    "train.evaluations": 2,
    "train.warmup": 1,
    "train.checkpoint_every": 1,
    "finetune.batch_size": 4,
    "finetune.finetune.head_steps": 2,
    "finetune.finetune.max_epochs": 1,
    "finetune.linear.max_epochs": 1,
    "finetune.bootstrap": 20,
    "retrieval.k": [1, 2],
}  # with these, every stage runs in a moment
TINY_MODELS: dict[str, Any] = {
    "model.image.architecture": "test_resnet",
    "model.image.weights": "random",
    "model.text.weights": "file:bert",
    "model.text.frozen_layers": 1,
    "augment.blur_kernel": 3,
}  # encoders without weights to load; `tiny_models.write_bert` makes the folder
TINY_PIPELINE: dict[str, Any] = {
    **TINY,
    **TINY_MODELS,
    "demo.side": 40,
    "datasets.max_dropped": 0.2,  # one lost film is a large share of so few
    "datasets.sources.rsna.val": 8,
    "datasets.sources.rsna.test": 16,
    "model.baselines": ["imagenet"],
}  # goes with `demo.sets` of 8 rsna films to validate and 16 to test


# files that take longest, longest first: one that a process begins last keeps the others waiting
SLOW = ["test_dag.py", "test_kills.py", "test_compiled.py", "test_processes.py", "test_runs.py"]
SLOW += ["test_pretended_gpu.py", "test_tables.py", "test_pretrain_kill.py", "test_disk.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Let several processes take files in the order below, not by their numbers of tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first."""
    rank = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.name, len(SLOW)))


@contextmanager
def memory_below(most: int) -> Iterator[None]:
    """Assert that what runs inside never holds `most` bytes or more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module", autouse=True)
def mode_as_before() -> Iterator[None]:
    """Undo torch's deterministic mode after each file: a stage run in this process leaves it on."""

    def mode() -> bool:
        torch = sys.modules.get("torch")  # few tests need it
        return torch is not None and torch.are_deterministic_algorithms_enabled()

    before = mode()
    yield
    if mode() != before:
        sys.modules["torch"].use_deterministic_algorithms(before)


@pytest.fixture(scope="module")
def deterministic() -> Iterator[None]:
    """One thread, deterministic algorithms and float32 without TF32, as stages set them."""
    import torch

    from convirt.provenance import make_deterministic

    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    make_deterministic(1, 0)
    yield
    torch.set_num_threads(before[0])
    torch.use_deterministic_algorithms(before[1])


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny text encoder."""
    import tiny_models  # and torch, which few tests need

    return tiny_models.write_bert(tmp_path_factory.mktemp("weights") / "bert")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def committed_params() -> dict[str, Any]:
    """The committed params.yaml as plain data, read once; not to be changed."""
    from convirt.params import read_yaml

    return read_yaml(ROOT / "params.yaml")


@pytest.fixture
def default_params(committed_params: dict[str, Any]) -> dict[str, Any]:
    """The committed params.yaml as plain data, to be changed at will."""
    return copy.deepcopy(committed_params)


@pytest.fixture
def tiny_params(default_params: dict[str, Any]) -> dict[str, Any]:
    """The committed params.yaml with the sizes of `TINY`, as plain data."""
    for key, value in TINY.items():
        set_key(default_params, key, value)
    for name in ("rsna", "chexpert", "covidx", "mura"):
        default_params["demo"]["sets"][name] |= {"train": 16, "val": 8, "test": 16}
    default_params["demo"]["sets"]["chexpert"] |= {"per_class": 4, "queries": 1, "texts": 1}
    for name in ("rsna", "chexpert", "covidx", "mura"):
        default_params["datasets"]["sources"][name]["val"] = 8
    default_params["datasets"]["sources"]["rsna"]["test"] = 16
    return default_params


@pytest.fixture
def write_params(tmp_path: Path) -> Callable[..., Path]:
    """`write_params(data, **{"train.lr": 1.0})` writes params.yaml and returns its path."""

    def write(data: dict[str, Any], folder: Path = tmp_path, **changes: Any) -> Path:
        from ruamel.yaml import YAML

        for key, value in changes.items():
            set_key(data, key, value)
        path = folder / "params.yaml"
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        with path.open("w", encoding="utf-8") as handle:
            yaml.dump(data, handle)
        return path

    return write


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Set the value at a dotted key of nested dictionaries."""
    *parents, last = key.split(".")
    at: Any = data
    for parent in parents:
        at = at[int(parent) if isinstance(at, list) else parent]
    at[int(last) if isinstance(at, list) else last] = value


def drop_key(data: dict[str, Any], key: str) -> None:
    """Remove a dotted key of nested dictionaries."""
    *parents, last = key.split(".")
    for parent in parents:
        data = data[parent]
    del data[last]
