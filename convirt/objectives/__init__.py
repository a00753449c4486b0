"""Pretraining objectives, one file each; see `base` for what they have in common."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
        InputError: There is no such file, or it defines no objective.
    """
    if name not in available():
        hint = f"correct it, or write convirt/objectives/{name}.py (docs/objectives.md)"
        raise InputError("objective", f"one of {', '.join(available())}", repr(name), hint)
    found: Any = getattr(import_module(f"{__name__}.{name}"), "Objective", None)
    fault = _fault(found)
    if fault:
        file, hint = f"convirt/objectives/{name}.py", "docs/objectives.md has an example"
        raise InputError(file, "a class `Objective` of pretraining", fault, hint)
    return cast("type[Objective]", found)


def _fault(found: Any) -> str:
    """What keeps `found` from being an objective; "" if nothing does."""
    from convirt.objectives.base import Objective

    if found is None:
        return "no class of this name"
    if not (isinstance(found, type) and issubclass(found, Objective)):
        return "one that is not derived from `base.Objective`"
    if found.forward is Objective.forward and found.compare is Objective.compare:
        return "one with neither `compare` nor `forward`"
    return ""
