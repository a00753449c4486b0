"""Weights and resume states: atomic, the same bytes each time, errors that name the tensors."""

from __future__ import annotations

import errno
import math
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from torch import nn

from convirt import checkpoint, files
from convirt.errors import InputError, StoppedError


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.randn(3, 4, generator=generator),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "step": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "rng": generator.get_state(),
        "empty": torch.empty(0, 2),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert torch.equal(left[name], right[name]), name


def test_round_trip_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "new/folder/w.safetensors"
    checkpoint.save_safetensors(path, tensors(), {"note": 'ü "quoted"\n\t/\x01'})
    assert_same(checkpoint.load_safetensors(path), tensors())
    assert checkpoint.read_metadata(path) == {"format": "pt", "note": 'ü "quoted"\n\t/\x01'}
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]


def test_same_content_same_bytes(tmp_path: Path) -> None:
    # safetensors shuffles metadata from call to call, so a few calls would show it
    metadata = {f"key{i}": str(i) for i in range(9)}
    written = set()
    for i in range(6):
        path = tmp_path / f"{i}"
        given = dict(reversed(tensors().items())) if i % 2 else tensors()
        checkpoint.save_safetensors(path, given, metadata)
        written.add(path.read_bytes())
    assert len(written) == 1


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    shared = {"whole": base, "again": base, "part": base[2:4]}
    path = tmp_path / "w"
    checkpoint.save_safetensors(path, shared)
    assert_same(checkpoint.load_safetensors(path), shared)
    assert path.stat().st_size < 1000


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w"
    checkpoint.save_safetensors(path, {"a": torch.zeros(1)})
    before = path.read_bytes()

    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_sort_header", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_safetensors(path, {"a": torch.ones(1)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------ strict loading
def test_load_into_fills_a_module(tmp_path: Path) -> None:
    one, other = nn.Linear(3, 2), nn.Linear(3, 2)
    checkpoint.save_safetensors(tmp_path / "w", one.state_dict())
    checkpoint.load_into(other, tmp_path / "w")
    assert torch.equal(one.weight, other.weight)


def test_every_fault_of_weights_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w"
    checkpoint.save_safetensors(path, {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)})
    with pytest.raises(InputError) as caught:
        checkpoint.load_into(nn.Linear(3, 2), path)
    assert caught.value.path == str(path)
    assert caught.value.found == (
        "missing: bias; unexpected: extra; of another shape: weight [2, 4] instead of [2, 3]"
    )


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_number_that_is_not_finite_is_found(bad: float) -> None:
    tensors = [torch.zeros(2, 3), torch.ones((), dtype=torch.int64), torch.ones(3).bfloat16()]
    assert checkpoint.finite(tensors)
    for index in (0, 2):
        broken = [tensor.clone() for tensor in tensors]
        broken[index].view(-1)[1] = bad
        assert not checkpoint.finite(broken)


def test_files_of_living_processes_stay(tmp_path: Path) -> None:
    living = tmp_path / f".one.{os.getpid()}.tmp"
    dead = [tmp_path / f".one.{number}.tmp" for number in (2**22 + 1, 2**80)]
    for path in (living, *dead):
        path.touch()
    files.sweep(tmp_path / "one")
    assert living.exists() and not any(path.exists() for path in dead)


def test_many_faults_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "w"
    checkpoint.save_safetensors(path, {f"t{i}": torch.zeros(1) for i in range(9)})
    with pytest.raises(InputError, match="t4 and 4 more"):
        checkpoint.load_into(nn.Identity(), path)


@pytest.mark.parametrize("content", [None, b"", b"not weights", b"\xff" * 64])
def test_weights_that_are_none(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "w"
    if content is not None:
        path.write_bytes(content)
    for read in (checkpoint.load_safetensors, checkpoint.read_metadata):
        with pytest.raises(InputError, match="safetensors"):
            read(path)


# ------------------------------------------------------------------------------ resume states
def test_state_round_trip(tmp_path: Path) -> None:
    state = {"step": 3, "best": math.inf, "lr": 0.1 + 0.2, "curve": [1e-05, None], "name": "ü"}
    assert checkpoint.load_state(tmp_path) is None
    checkpoint.save_state(tmp_path, tensors(), {"step": 1})
    checkpoint.save_state(tmp_path, tensors(), state)
    loaded = checkpoint.load_state(tmp_path)
    assert loaded is not None
    assert_same(loaded[0], tensors())
    assert loaded[1] == state


@pytest.mark.parametrize("how", ["torn", "weights", "text"])
def test_corrupt_state_tells_to_delete_the_folder(how: str, tmp_path: Path) -> None:
    path = tmp_path / checkpoint.STATE
    checkpoint.save_state(tmp_path, tensors(), {"step": 1})
    if how == "torn":
        path.write_bytes(path.read_bytes()[:-8])
    elif how == "weights":
        checkpoint.save_safetensors(path, tensors())
    else:
        checkpoint.save_safetensors(path, tensors(), {"state": "{"})
    with pytest.raises(InputError) as caught:
        checkpoint.load_state(tmp_path)
    assert f"rm -r {tmp_path}" in caught.value.hint


def test_the_command_to_delete_it_can_be_pasted(tmp_path: Path) -> None:
    folder = tmp_path / "My Drive"
    folder.mkdir()
    (folder / checkpoint.STATE).write_bytes(b"torn")
    with pytest.raises(InputError) as caught:
        checkpoint.load_state(folder)
    assert shlex.split(caught.value.hint.partition(": ")[2]) == ["rm", "-r", str(folder)]


# ------------------------------------------------------------------------------ the lock
def two_states(folder: Path) -> None:
    """Two states, one after the other, of enough bytes to flip one."""
    for step in (1, 2):
        checkpoint.save_state(folder, {"w": torch.full((50,), float(step))}, {"step": step})


def spoil(path: Path, how: str) -> None:
    """Damage a file, or remove it."""
    data = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
        return
    if how == "flipped bit":
        data[-7] ^= 4
    path.write_bytes({"empty": b"", "cut": bytes(data[:-20])}.get(how, bytes(data)))


@pytest.mark.parametrize("how", ["empty", "cut", "flipped bit", "gone"])
def test_recover_goes_back_to_the_state_before(how: str, tmp_path: Path) -> None:
    """A missing state means that the process was killed while writing it: no need for a message."""
    two_states(tmp_path)
    spoil(tmp_path / checkpoint.STATE, how)
    told = checkpoint.recover(tmp_path)
    assert (told is None) == (how == "gone")
    assert told is None or "the previous state" in told
    found = checkpoint.load_state(tmp_path)
    assert found is not None
    assert found[1] == {"step": 1}
    assert found[0]["w"].unique().tolist() == [1.0]
    assert checkpoint.recover(tmp_path) is None


def test_recover_leaves_a_good_state(tmp_path: Path) -> None:
    assert checkpoint.recover(tmp_path) is None
    two_states(tmp_path)
    spoil(tmp_path / checkpoint.PREVIOUS, "cut")
    assert checkpoint.recover(tmp_path) is None
    assert checkpoint.read_state(tmp_path) == {"step": 2}


@pytest.mark.parametrize("how", ["empty", "cut", "flipped bit"])
def test_recover_with_nothing_good_tells_to_delete_the_folder(how: str, tmp_path: Path) -> None:
    two_states(tmp_path)
    for name in (checkpoint.STATE, checkpoint.PREVIOUS):
        spoil(tmp_path / name, how)
    with pytest.raises(InputError, match=f"rm -r {tmp_path}"):
        checkpoint.recover(tmp_path)
    (tmp_path / checkpoint.PREVIOUS).unlink()
    with pytest.raises(InputError, match=f"rm -r {tmp_path}"):
        checkpoint.recover(tmp_path)


def test_second_run_is_refused_by_number(tmp_path: Path) -> None:
    folder = tmp_path / "scratch/run"
    code = (
        "import sys; from pathlib import Path; from convirt.checkpoint import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        checks: list[int] = []

        def enough() -> None:
            checks.append(1)
            if len(checks) > 2:
                raise StoppedError

        told: list[str] = []
        with pytest.raises(StoppedError), checkpoint.locked(folder, told.append, enough):
            pytest.fail("two at once")
        assert told == [f"{holder.pid} on {platform.node()}"]
        with pytest.raises(InputError) as caught, checkpoint.locked(folder):
            pass
        assert str(holder.pid) in caught.value.found
        holder.kill()
    with checkpoint.locked(folder):  # the kernel frees the lock of a killed process
        pass


def test_lock_is_free_again_after_the_block(tmp_path: Path) -> None:
    for _ in range(2):
        with checkpoint.locked(tmp_path), pytest.raises(InputError), checkpoint.locked(tmp_path):
            pass


def test_holder_may_delete_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with checkpoint.locked(folder):
        (folder / checkpoint.LOCK).unlink()
        folder.rmdir()
        with checkpoint.locked(folder):  # a new folder is a new lock
            assert folder.is_dir()


def test_a_file_lies_in_two_places_without_a_copy_where_that_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"a state")
    files.link(source, tmp_path / "linked")
    assert (tmp_path / "linked").samefile(source)

    def refused(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    files.link(source, tmp_path / "copied")
    assert not (tmp_path / "copied").samefile(source)
    assert (tmp_path / "copied").read_bytes() == b"a state"
