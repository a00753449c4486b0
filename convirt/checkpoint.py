"""Weights and resume states as safetensors: written atomically, reproducible bytes, no pickle."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from convirt import files
from convirt.errors import InputError, quoted

if TYPE_CHECKING:
    from torch import Tensor, nn

STATE = "state.safetensors"
PREVIOUS = "previous.safetensors"  # the state before the latest
LOCK = "lock"


# ------------------------------------------------------------------------------ weights
def save_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors from any device; the same tensors and metadata give the same bytes.

    Args:
        path: Replaced only once the new file is complete.
        tensors: By name. Tensors that share memory are written separately.
        metadata: Texts for the header; `format: pt`, which transformers requires, is added.
    """
    from safetensors.torch import save_file

    copies = _separate(tensors)
    with files.atomic(path) as temporary:
        save_file(copies, str(temporary), {"format": "pt", **(metadata or {})})
        _sort_header(temporary)


def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite; a sync point on the GPU, and no more than one."""
    import torch

    return bool(torch.stack([tensor.detach().isfinite().all() for tensor in tensors]).all())


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file, onto the CPU.

    Raises:
        InputError: The file is missing or corrupt.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _require_file(path)
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise InputError(path, "a safetensors file", str(error), "make or fetch it again") from None


def load_into(module: nn.Module, path: Path) -> None:
    """Fill a module with the weights in a file; the names have to match exactly.

    Raises:
        InputError: As in `load_safetensors` and `fill`.
    """
    fill(module, load_safetensors(path), path)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill a module with tensors read from `path`; the names have to match exactly.

    Raises:
        InputError: A tensor is missing, unexpected or of another shape; the message names it.
    """
    own = module.state_dict()
    _require_shapes(path, _shapes(tensors), _shapes(own))
    module.load_state_dict(dict(tensors), strict=True)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def read_metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors header.

    Raises:
        InputError: The file is missing or corrupt.
    """
    from safetensors import SafetensorError, safe_open

    _require_file(path)
    try:
        with safe_open(str(path), framework="pt") as handle:
            return dict(handle.metadata() or {})
    except SafetensorError as error:
        raise InputError(path, "a safetensors file", str(error), "make or fetch it again") from None


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors, of which no two share memory (safetensors refuses those)."""
    copies: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        storage = copy.untyped_storage()
        whole = storage.nbytes() == copy.numel() * copy.element_size()
        copies[name] = copy if whole and storage.data_ptr() not in seen else copy.clone()
        seen.add(storage.data_ptr())
    return copies


def _sort_header(path: Path) -> None:
    """Rewrite the JSON header with sorted metadata: safetensors shuffles it from call to call."""
    with path.open("r+b") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > size:
            raise RuntimeError(f"{path}: header grew from {size} to {len(text)} bytes")
        handle.seek(8)
        handle.write(text.ljust(size))


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(path, "a safetensors file", "none", "dvc repro, or dvc pull")


def _require_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unexpected": sorted(found.keys() - wanted.keys()),
        "of another shape": [
            f"{name} {list(found[name])} instead of {list(wanted[name])}"
            for name in sorted(wanted.keys() & found.keys())
            if found[name] != wanted[name]
        ],
    }
    if any(faults.values()):
        told = "; ".join(f"{what}: {_few(names)}" for what, names in faults.items() if names)
        hint = "check that the file is of the architecture in params.yaml"
        raise InputError(path, f"{len(wanted)} tensors of the model", told, hint)


def _few(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


# ------------------------------------------------------------------------------ resume states
def save_state(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write the resume state of `folder`; the state before it stays beside it.

    A kill at any moment leaves at least one of them whole; `recover` finds it.

    Args:
        folder: The scratch folder.
        tensors: Weights, optimiser moments, states of random generators.
        state: Everything else, JSON-able; floats are restored bit for bit.
    """
    text = json.dumps(state, sort_keys=True)
    copies = _separate(tensors)
    path = folder / STATE
    if path.exists():
        path.replace(folder / PREVIOUS)
    save_safetensors(path, copies, {"state": text, "checksum": _checksum(copies, text)})


def recover(folder: Path) -> str | None:
    """Leave a good resume state in `folder`, if there is any: the latest, or else the one before.

    Returns:
        A message if the latest is corrupt, else None.

    Raises:
        InputError: All states are corrupt; the message says to delete the folder.
    """
    path, previous = folder / STATE, folder / PREVIOUS
    if not previous.exists():
        load_state(folder)
        return None
    if not path.exists():  # killed in the middle of `save_state`
        previous.replace(path)
        load_state(folder)
        return None
    try:
        load_state(folder)
    except InputError as error:
        load_state(folder, PREVIOUS)
        previous.replace(path)
        return f"{path} is corrupt ({error.found}): resuming from the previous state"
    return None


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 of a whole state: safetensors notices a truncated file, but no flipped bit."""
    import zlib

    import torch

    value = zlib.crc32(text.encode())
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1).view(torch.uint8)
        value = zlib.crc32(flat.numpy().data, zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def load_state(folder: Path, name: str = STATE) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The resume state that `save_state` left in `folder`, None if there is none.

    Raises:
        InputError: The file is there but corrupt; the message says to delete the folder.
    """
    path = folder / name
    if not path.exists():
        return None
    told = _told(path)
    try:
        tensors = load_safetensors(path)
    except InputError as error:
        raise _no_state(path, error.found) from None
    if _checksum(tensors, told["state"]) != told.get("checksum"):
        raise _no_state(path, "bytes that differ from those written")
    return tensors, _parsed(path, told)


def read_state(folder: Path) -> dict[str, Any] | None:
    """The state in `folder` without its tensors, which may be gigabytes; None if there is none.

    Raises:
        InputError: As `load_state`.
    """
    path = folder / STATE
    return _parsed(path, _told(path)) if path.exists() else None


def _told(path: Path) -> dict[str, str]:
    """The header of a state, which has to contain "state"."""
    try:
        told = read_metadata(path)
    except InputError as error:
        raise _no_state(path, error.found) from None
    if "state" not in told:
        raise _no_state(path, f"a header with {', '.join(sorted(told)) or 'nothing'}")
    return told


def _parsed(path: Path, told: Mapping[str, str]) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], json.loads(told["state"]))
    except ValueError as error:
        raise _no_state(path, repr(error)) from None


def _no_state(path: Path, found: str) -> InputError:
    hint = f"start from the beginning: rm -r {quoted(path.parent)}"
    return InputError(path, "a resume state", found, hint)


@contextmanager
def locked(
    folder: Path,
    waiting: Callable[[str], None] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Lock `folder`, created if missing, for this process; if that dies, the kernel unlocks it.

    The holder may delete the folder.

    Args:
        folder: The folder to lock.
        waiting: If given and another process holds the folder, it is called with that process, as
            "12 on host" (or "unknown"), and then this process waits for the lock.
        check: Called repeatedly during the wait; an exception from it ends the wait.

    Raises:
        InputError: Another process holds it, and `waiting` is not given.
    """
    import fcntl

    descriptor = _acquire(folder, waiting, check)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        # unlocked explicitly, since forked workers may still hold the descriptor
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _acquire(folder: Path, waiting: Callable[[str], None] | None, check: Callable[[], None]) -> int:
    import fcntl

    path = folder / LOCK
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:  # the former holder has just deleted the folder
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 256, 0).decode(errors="replace") or "unknown"
            if waiting is None:
                os.close(descriptor)
                hint = f"wait for it, or end it: kill {holder.partition(' ')[0]}"
                found = f"held by process {holder}: this run is already in progress"
                raise InputError(folder, "a free scratch folder", found, hint) from None
            try:
                waiting(holder)
                wait_for(descriptor, check)
            except BaseException:  # a signal, say
                os.close(descriptor)
                raise
        try:
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # the locked file was deleted meanwhile: take the new one


def wait_for(descriptor: int, check: Callable[[], None]) -> None:
    """Lock a file as soon as it is free, by polling: a wait in the kernel would miss signals.

    `check` is called after each failed attempt; an exception from it ends the wait.
    """
    import fcntl

    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            check()
        time.sleep(0.1)
