"""Features kept on disk: the same bytes if reused, after a kill, and by processes side by side."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from convirt import feature_cache, image_encoder
from convirt.errors import InputError
from convirt.feature_cache import FILE, MARK, PART, features

SIDE, N = 32, 23
IMAGES = np.random.default_rng(0).integers(0, 256, (N, SIDE, SIDE)).astype(np.uint8)
ROWS = np.array([k for k in range(N) if k not in (3, 10)])


class KilledError(Exception):
    """Stands for a kill."""


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny encoder's folder; blocks of four images, a mark after each."""
    monkeypatch.setattr(image_encoder, "BLOCK", 4)
    monkeypatch.setattr(feature_cache, "KEEP_EVERY", 0.0)
    network, config = image_encoder.create_image_encoder("test_efficientnet", "random", SIDE, 0)
    folder = tmp_path / "encoder"
    folder.mkdir()
    image_encoder.save_image_encoder(network, config, folder)
    return folder


def test_features_are_what_the_encoder_gives(tmp_path: Path, encoder: Path) -> None:
    found = features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu")
    network, config = image_encoder.load_image_encoder(encoder)
    with torch.no_grad():
        x = image_encoder.to_input(torch.from_numpy(IMAGES[ROWS]), config)
        expected = network.eval()(x).numpy()
    assert found.dtype == np.float32 and found.shape == (len(ROWS), config.width)
    assert np.allclose(found, expected, atol=1e-5)
    assert isinstance(found, np.memmap)
    assert sorted(p.name for p in (tmp_path / "f").iterdir()) == [FILE, "lock"]


def test_what_is_kept_is_read_and_not_computed(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = np.array(features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu"))
    monkeypatch.setattr(feature_cache, "_compute", None)
    assert np.array_equal(features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu"), first)


@pytest.mark.parametrize("when", [1, 2, 5])
def test_killed_and_resumed_gives_the_same_bytes(tmp_path: Path, encoder: Path, when: int) -> None:
    features(tmp_path / "whole", IMAGES, ROWS, encoder, "cpu")
    seen: list[int] = []

    def kill(images: int) -> None:
        seen.append(images)
        if len(seen) == when:
            raise KilledError

    folder = tmp_path / "f"
    with pytest.raises(KilledError):
        features(folder, IMAGES, ROWS, encoder, "cpu", kill)
    with (folder / PART).open("ab") as handle:
        handle.write(b"torn")  # what a kill in the middle of a block leaves
    again: list[int] = []
    features(folder, IMAGES, ROWS, encoder, "cpu", again.append)
    assert again[0] == 4 * when and sum(again) == len(ROWS)  # nothing is computed twice
    assert (folder / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    assert not (folder / PART).exists() and not (folder / MARK).exists()


def test_a_part_shorter_than_its_mark_is_begun_anew(tmp_path: Path, encoder: Path) -> None:
    features(tmp_path / "whole", IMAGES, ROWS, encoder, "cpu")
    folder = tmp_path / "f"

    def kill(images: int) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        features(folder, IMAGES, ROWS, encoder, "cpu", kill)
    os.truncate(folder / PART, 90)
    features(folder, IMAGES, ROWS, encoder, "cpu")
    assert (folder / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()


def test_nothing_is_kept_where_the_run_may_not_write(tmp_path: Path, encoder: Path) -> None:
    def edited() -> None:
        raise KilledError

    with pytest.raises(KilledError):
        features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu", confirm=edited)
    assert not (tmp_path / "f" / FILE).exists()
    features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu")


def test_of_two_at_once_one_computes_and_the_other_waits(tmp_path: Path, encoder: Path) -> None:
    inside, go = threading.Event(), threading.Event()
    told: list[str] = []
    blocks: dict[str, list[int]] = {"first": [], "second": []}
    found: dict[str, np.ndarray] = {}

    def slow(images: int) -> None:
        blocks["first"].append(images)
        inside.set()
        assert go.wait(20)

    def first() -> None:
        found["first"] = features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu", slow)

    def second() -> None:
        report = blocks["second"].append
        found["second"] = features(
            tmp_path / "f", IMAGES, ROWS, encoder, "cpu", report, waiting=told.append
        )

    threads = [threading.Thread(target=first, daemon=True)]
    threads[0].start()
    assert inside.wait(20)
    threads.append(threading.Thread(target=second, daemon=True))
    threads[1].start()
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert told == [f"{os.getpid()} on {platform.node()}"] and not found
    go.set()
    for thread in threads:
        thread.join(20)
    assert sum(blocks["first"]) == len(ROWS) and blocks["second"] == []
    assert np.array_equal(found["first"], found["second"])


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"no array at all"])
def test_a_damaged_file_is_an_error_that_tells_what_to_do(
    tmp_path: Path, encoder: Path, damage: bytes
) -> None:
    features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu")
    (tmp_path / "f" / FILE).write_bytes(damage)
    with pytest.raises(InputError, match="rm -r"):
        features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu")


def test_an_encoder_of_another_width_is_refused(tmp_path: Path, encoder: Path) -> None:
    """Each row would begin before the previous one has ended."""
    config = json.loads((encoder / "config.json").read_text())
    config["image"]["width"] -= 1
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="numbers per film"):
        features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu")


def test_features_of_other_images_are_refused(tmp_path: Path, encoder: Path) -> None:
    features(tmp_path / "f", IMAGES, ROWS, encoder, "cpu")
    with pytest.raises(InputError, match=r"float32 \(23, "):
        features(tmp_path / "f", IMAGES, np.arange(N), encoder, "cpu")
