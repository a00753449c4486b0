"""Explain what is wrong with the parameters, so that the next edit is plain.

Defines no schema itself: `convirt/params.py` passes its models and the errors of pydantic.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from convirt.errors import InputError

NAME = r"^[A-Za-z0-9][A-Za-z0-9_-]*$"
MODULE_NAME = r"^[a-z][a-z0-9_]*$"
LAUNCHER = r"^(python|torchrun( [A-Za-z0-9._:/=-]+)*)$"
PATTERNS = {  # in words
    NAME: "a name of letters, digits, - and _, starting with a letter or digit",
    MODULE_NAME: "a name of lower-case letters, digits and _, starting with a letter",
    LAUNCHER: "python, or torchrun with options, one space before each",
}

UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})  # of models, dataclasses
KINDS = {  # in the words of YAML
    "tuple_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
}


class Problem(NamedTuple):
    """One fault of the parameters: the full dotted `key`, and the parts of an `InputError`."""

    key: str
    expected: str
    found: str
    hint: str


class ParamsError(InputError):
    """The parameters are not as required; the message lists every fault that was found.

    Attributes:
        problems: The faults; `path`, `expected`, `found` and `hint` are those of the first.
    """

    def __init__(self, source: Path | str, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        errors = [InputError(f"{source}: {p.key}", *p[1:]) for p in self.problems]
        first = errors[0]
        super().__init__(first.path, first.expected, first.found, first.hint)
        self.args = ("\n".join(str(error) for error in errors),)


def known_keys(model: type[BaseModel], data: Any, prefix: str = "") -> Iterator[str]:
    """Every dotted key that `model` knows; names chosen by the user are taken from `data`."""
    data = data if isinstance(data, Mapping) else {}
    for name, field in model.model_fields.items():
        yield f"{prefix}{name}"
        yield from _below(field.annotation, data.get(name), f"{prefix}{name}.")


def _below(kind: Any, data: Any, prefix: str) -> Iterator[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from known_keys(kind, data, prefix)
    elif (arguments := get_args(kind)) and isinstance(data, Mapping):
        for name, value in data.items():
            yield f"{prefix}{name}"
            yield from _below(arguments[-1], value, f"{prefix}{name}.")


def nearest(key: str, known: Iterable[str]) -> str:
    """The known dotted key most similar to `key`; its last part counts as much as the whole."""

    def likeness(candidate: str) -> float:
        pairs = ((key, candidate), (key.split(".")[-1], candidate.split(".")[-1]))
        return sum(difflib.SequenceMatcher(None, a, b).ratio() for a, b in pairs)

    return max(known, key=likeness, default="none")


def explain(errors: Iterable[ErrorDetails], keys: Iterable[str]) -> list[Problem]:
    """One problem for each of pydantic's `errors` in validating values that may have `keys`."""
    found = [(".".join(str(part) for part in error["loc"]), error) for error in errors]
    unknown = {key for key, error in found if error["type"] in UNKNOWN}
    missing = {key for key, error in found if error["type"] == "missing"}
    known = [key for key in keys if key not in unknown]
    problems = []
    for key, error in found:
        if key in unknown:
            near = nearest(key, known)
            lost = " (which is missing)" if near in missing else ""
            hint = f"nearest known key: {near}{lost}; rename or remove {key}"
            problems.append(Problem(key, "a known key", "an unknown one", hint))
        elif key in missing:
            beside = [other for other in unknown if _parent(other) == _parent(key)]
            rename = f", or rename the unknown {nearest(key, beside)}" if beside else ""
            hint = f"add {key}{rename}"
            problems.append(Problem(key, "this key with a value", "no such key", hint))
        else:
            problems.append(_explain_value(key.removesuffix(".[key]"), error))
    return problems


def one_of(key: str, value: str, known: Iterable[str]) -> Iterator[Problem]:
    """A problem if `value`, found at `key`, is none of the `known` names."""
    names = list(known)
    if value not in names:
        hint = f"nearest: {nearest(value, names)}" if names else f"define {value} first"
        yield Problem(key, "one of " + (", ".join(names) or "(none is defined)"), value, hint)


def _parent(key: str) -> str:
    return key.rpartition(".")[0]


def _explain_value(key: str, error: ErrorDetails) -> Problem:
    value = error["input"]
    expected = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    hint = f"correct {key}"
    if error["type"] in ("float_type", "int_type") and isinstance(value, str):
        hint = f"write {key} as a number without quotes"
    elif error["type"] in KINDS:
        expected = KINDS[error["type"]]
    elif error["type"] == "string_pattern_mismatch":
        expected = PATTERNS[error["ctx"]["pattern"]]
    return Problem(key, expected, show(value), hint)


def show(value: Any) -> str:
    """A value, shortened to one line, and its type."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
