"""Parameters restricted to what a stage has declared, so that DVC tracks all that it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from pydantic import BaseModel

from convirt.params import Params


class UndeclaredError(Exception):
    """A stage reads a parameter that it has not declared: a mistake in the stage, not by a user."""


def scoped(params: Params, reads: Sequence[str]) -> Params:
    """A view of `params` in which only the dotted keys `reads`, and keys below them, can be read.

    A value wholly below one of `reads` comes out as the plain, typed object; every other attribute
    or name raises `UndeclaredError`, even if it exists.
    """
    return cast(Params, _Scoped(params, "", tuple(reads)))


class _Scoped:
    """A part of the parameters that holds declared and undeclared keys."""

    def __init__(self, value: Any, key: str, reads: tuple[str, ...]) -> None:
        self._value, self._key, self._reads = value, key, reads

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or not isinstance(self._value, BaseModel):
            raise AttributeError(f"{self._key or 'params'} as a whole is not declared: {name}")
        return self._enter(name, lambda: getattr(self._value, name))

    def __getitem__(self, name: str) -> Any:
        return self._enter(name, lambda: self._value[name])

    def get(self, key: str) -> Any:
        """As `Params.get`, for a declared key."""
        self._require(key)
        return self._value.get(key)

    def _enter(self, name: str, read: Any) -> Any:
        key = f"{self._key}.{name}" if self._key else name
        if any(declared.startswith(f"{key}.") for declared in self._reads) and not self._covers(
            key
        ):
            return _Scoped(read(), key, self._reads)
        self._require(key)
        return read()

    def _covers(self, key: str) -> bool:
        return any(key == r or key.startswith(f"{r}.") for r in self._reads)

    def _require(self, key: str) -> None:
        if not self._covers(key):
            declared = ", ".join(self._reads)
            raise UndeclaredError(f"{key} is read but not declared in READS ({declared})")
