"""Pretraining objectives, one file each; see `base` for what they have in common."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from convirt.errors import InputError

if TYPE_CHECKING:
    from convirt.objectives.base import Objective

NO_OBJECTIVE = frozenset({"__init__", "base"})


def available() -> list[str]:
    """Names of all objectives, from the files beside this one."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(names - NO_OBJECTIVE)


def find(name: str) -> type[Objective]:
    """The class `Objective` of convirt/objectives/<name>.py; no other file is imported.

    Raises:
        InputError: There is no such file.
    """
    if name not in available():
        hint = f"correct it, or write convirt/objectives/{name}.py (docs/objectives.md)"
        raise InputError("objective", f"one of {', '.join(available())}", repr(name), hint)
    found: type[Objective] = import_module(f"{__name__}.{name}").Objective
    return found
