"""A set in a zip archive reads like the same set unpacked."""

from __future__ import annotations

import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import memory_below
from PIL import Image

from convirt.datasets import archives, images, inputs, registry
from convirt.datasets.splits import Split
from convirt.errors import InputError


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """An archive that lists no folders."""
    path = tmp_path / "set.ZIP"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("top/list.csv", "image,label\na.png,1\n")
        archive.writestr("top/deep/er/b.txt", "b")
    return path


def test_members_are_files_and_folders(packed: Path, tmp_path: Path) -> None:
    assert archives.is_file(packed / "top/list.csv")
    assert not archives.is_file(packed / "top") and not archives.is_file(packed / "top/none")
    assert archives.is_dir(packed) and archives.is_dir(packed / "top/deep")
    assert not archives.is_dir(packed / "top/list.csv") and not archives.is_dir(packed / "to")
    assert archives.names(packed / "top") == ["deep", "list.csv"]
    assert archives.names(packed) == ["top"] and archives.names(packed / "none") == []
    assert archives.read_bytes(packed / "top/deep/er/b.txt") == b"b"
    assert archives.exists(packed / "top/deep/er") and not archives.exists(packed / "bottom")
    with pytest.raises(FileNotFoundError):
        archives.open_binary(packed / "top/none")
    with pytest.raises(FileNotFoundError):
        archives.open_binary(packed / "top")
    # a folder may be named like an archive
    (tmp_path / "folder.zip").mkdir()
    (tmp_path / "folder.zip" / "a").write_text("a")
    assert archives.read_bytes(tmp_path / "folder.zip" / "a") == b"a"
    assert archives.names(tmp_path / "folder.zip") == ["a"]


def test_lists_in_an_archive(packed: Path) -> None:
    table = inputs.read_csv(packed / "top/list.csv", ["image", "label"])
    assert table.to_dict("list") == {"image": ["a.png"], "label": ["1"]}
    with pytest.raises(InputError, match=r"did you mean list.csv"):
        inputs.read_csv(packed / "top/lists.csv", [])
    with pytest.raises(InputError, match="stay inside"):
        inputs.inside(packed / "top", "../../other.zip/a", packed)


def test_a_changed_archive_is_read_anew(packed: Path) -> None:
    assert not archives.is_file(packed / "late")
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("late", "x")
    assert archives.read_bytes(packed / "late") == b"x"


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.zip"
    path.write_bytes(b"PK\x03\x04 and then the download stopped")
    with pytest.raises(InputError, match="a zip archive") as caught:
        registry.read("mura", path, Split(0, val=1), {})
    assert str(path) in str(caught.value)


def test_damaged_and_huge_members_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set.zip"
    noise = np.random.default_rng(0).integers(0, 256, (40, 30), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.write(tmp_path / "a.png", "a.png")
    assert (images.decode(path / "a.png").pixels == noise).all()
    whole = path.read_bytes()
    at = whole.index(b"IDAT") + 40
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(images.BadImageError, match=images.UNREADABLE):
        images.decode(path / "a.png")
    with pytest.raises(images.BadImageError, match=images.MISSING):
        images.decode(path / "b.png")
    monkeypatch.setattr(archives, "MAX_BYTES", 100)
    with pytest.raises(archives.MemberError, match="bytes"):
        archives.open_binary(path / "a.png")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_is_larger_than_it_claims(tmp_path: Path, method: int) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.csv", bytes(1 << 26))
    size = (1 << 26).to_bytes(4, "little")
    data = path.read_bytes()
    assert data.count(size) == 2  # in the member's head and in the directory
    path.write_bytes(data.replace(size, (100).to_bytes(4, "little")))
    with memory_below(1 << 24), pytest.raises(archives.MemberError):
        archives.read_bytes(path / "a.csv")


def _read(path: Path) -> bool:
    """In a worker, check that every member holds its own number, repeated."""
    return all(
        archives.read_bytes(path / f"{i}") == bytes([i]) * 10_000
        for _ in range(20)
        for i in range(9)
    )


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this system"
)
def test_forked_workers_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(9):
            archive.writestr(f"{i}", bytes([i]) * 10_000)
    assert archives.is_file(path / "0")  # opened before the fork
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(_read, [path] * 4, chunksize=1))
