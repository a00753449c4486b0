"""Reading what other stages wrote; for a missing or invalid file the error names the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convirt.errors import InputError

if TYPE_CHECKING:
    from convirt.params import Source

DEMO = "data/demo"  # where stages/demo.py puts what it draws


def read_json(root: Path, name: str, stage: str) -> dict[str, Any]:
    """The JSON object that `stage` writes at `name` below `root`.

    Raises:
        InputError: There is no such file, or it is not a JSON object.
    """
    path = there(root, name, stage)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also not UTF-8
        raise InputError(name, "JSON", str(error), f"dvc repro -f {stage}") from error
    if not isinstance(value, dict):
        raise InputError(name, "a JSON object", type(value).__name__, f"dvc repro -f {stage}")
    return value


def there(root: Path, name: str, stage: str) -> Path:
    """The path of an output of `stage`, which has to exist.

    Raises:
        InputError: It does not exist.
    """
    if not (root / name).is_file():
        raise InputError(name, f"an output of {stage}", "no such file", f"dvc repro {stage}")
    return root / name


def require_keys(value: dict[str, Any], keys: set[str], name: str, stage: str) -> None:
    """Refuse a JSON object of another version.

    Raises:
        InputError: It lacks one of `keys`.
    """
    missing = sorted(keys - set(value))
    if missing:
        found = f"no {', '.join(missing)}"
        raise InputError(
            name, f"the keys {', '.join(sorted(keys))}", found, f"dvc repro -f {stage}"
        )


def is_made_up(root: Path, source: Source) -> bool:
    """Whether a data set is one that the demo drew."""
    return (root / source.root).resolve().is_relative_to((root / DEMO).resolve())
