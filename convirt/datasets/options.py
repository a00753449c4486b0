"""A reader's own switches: its block `options` in params.yaml, strictly typed."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from convirt.datasets import archives
from convirt.errors import InputError

T = TypeVar("T")


def parse(kind: type[T], options: Mapping[str, Any], reader: str) -> T:
    """Fill a reader's options (a frozen dataclass with defaults) from its block of params.yaml.

    Raises:
        InputError: An unknown option (the nearest known one is named) or a value of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in options.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            known = ", ".join(fields) or "none"
            raise InputError(
                "params.yaml",
                f"options of the reader `{reader}`: {known}",
                f"`{name}`",
                f"did you mean `{near[0]}`?" if near else "remove it from `options`",
            )
        default = fields[name].default
        if isinstance(default, tuple) and isinstance(value, list | tuple):
            value = tuple(map(str, value))
        if type(value) is not type(default):
            raise InputError(
                "params.yaml",
                f"option `{name}` of the reader `{reader}`, of type "
                f"{'list' if isinstance(default, tuple) else type(default).__name__}",
                f"`{value}` ({type(value).__name__})",
                f"correct datasets.sources.<name>.options.{name}",
            )
        values[name] = value
    return kind(**values)


def expanded(text: str) -> tuple[Path, list[str]]:
    """A path with environment variables and ~ filled in, and the variables that are not set."""
    filled = os.path.expandvars(text)
    unset = sorted({match[1] for match in re.finditer(r"\$\{?(\w+)", filled)})
    return Path(filled).expanduser(), unset


def path(text: str, what: str) -> Path:
    """A folder or file given as an option, with environment variables and ~ filled in.

    Raises:
        InputError: It does not exist, or names a variable that is not set.
    """
    found, unset = expanded(text)
    if not archives.exists(found):
        hint = "export the variable" if unset else "correct it in params.yaml"
        raise InputError(found, what, "nothing there", hint)
    return found
