"""Images from the memory map or from the device: the same batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import CONFIG, PAPER, assert_same_run

from convirt import labelled, resident
from convirt.errors import InputError
from convirt.metrics import group
from convirt.training import pretrain

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 6, 6)).astype(np.uint8)
CPU = torch.device("cpu")


def test_both_places_give_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    monkeypatch.setattr(resident, "CHUNK", 100)  # two images of 36 bytes at a time
    there = resident.copied(mapped, CPU)
    assert torch.equal(there, torch.from_numpy(IMAGES))
    rows = np.array([3, 0, 10, 3])
    for images in (mapped, there):
        assert torch.equal(resident.take(images, rows, CPU), torch.from_numpy(IMAGES[rows]))


def test_pretraining_does_not_depend_on_the_place(bert: Path) -> None:
    runs = []
    for where in (np.asarray, lambda images: resident.copied(images, CPU)):
        data = tiny_models.corpus()
        data.images = where(data.images)
        model = tiny_models.objective("convirt", bert, data)
        runs.append((model, pretrain(model, data, PAPER, CONFIG, None, lambda _: None)))
    assert_same_run(*runs)


def test_labelled_images_do_not_depend_on_the_place() -> None:
    rows, y = np.array([4, 2, 9]), torch.zeros(3, 1)
    units = group(list("abc"), list("abc"), y.numpy().astype(np.float64))
    batches = [
        labelled.Images(images, rows, y, units, torch.Tensor.float, "cpu").batch(np.array([2, 0]))
        for images in (IMAGES, resident.copied(IMAGES, CPU))
    ]
    assert torch.equal(batches[0], torch.from_numpy(IMAGES[[9, 4]]).float())
    assert torch.equal(*batches)


def test_without_a_gpu() -> None:
    assert resident.placed(IMAGES, "auto", "cpu") is IMAGES
    assert resident.placed(IMAGES, "ram", "cpu") is IMAGES
    with pytest.raises(InputError, match=r"compute\.store"):
        resident.placed(IMAGES, "gpu", "cpu")


@pytest.mark.parametrize(
    ("where", "free", "moves"),
    [
        ("ram", 10**9, False),
        ("auto", 2 * IMAGES.nbytes, True),
        ("auto", 2 * IMAGES.nbytes - 2, False),  # more than half of what is free
        ("gpu", IMAGES.nbytes, True),
    ],
)
def test_where_a_gpu_puts_them(
    where: str, free: int, moves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_memory(free, monkeypatch)
    images = resident.placed(IMAGES, where, "cuda")
    assert (images is not IMAGES) == moves
    assert np.array_equal(np.asarray(images), IMAGES)


def test_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory(IMAGES.nbytes - 1, monkeypatch)
    with pytest.raises(InputError, match="GB of images and"):
        resident.placed(IMAGES, "gpu", "cuda")


@pytest.mark.parametrize("where", ["auto", "gpu"])
def test_a_gpu_whose_memory_another_stage_took(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def taken(*_: object) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError

    with_memory(10**9, monkeypatch)
    monkeypatch.setattr(resident, "copied", taken)
    if where == "auto":
        assert resident.placed(IMAGES, where, "cuda") is IMAGES
        return
    with pytest.raises(torch.cuda.OutOfMemoryError):
        resident.placed(IMAGES, where, "cuda")


def with_memory(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a GPU with so many bytes free; what is put there stays on the CPU."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 10**12))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    copied = resident.copied
    monkeypatch.setattr(resident, "copied", lambda images, device: copied(images, CPU))
