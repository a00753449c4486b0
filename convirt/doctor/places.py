"""The files and folders that the parameters of a set name: present, to be made, or to be got."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from convirt.datasets import options as reader_options
from convirt.doctor import catalogue, presence
from convirt.doctor.catalogue import YOURS, Facts
from convirt.doctor.diagnosis import Diagnosis
from convirt.doctor.request import Request
from convirt.errors import InputError, quoted

_RELEASE = re.compile(r"\d+(\.\d+)+")


def find_path(
    found: Diagnosis, request: Request, text: str, key: str, steps: tuple[str, ...]
) -> Path | None:
    """The file or folder that a parameter names; if it is not there, a note says what is wrong.

    Args:
        found: Gets the note.
        request: The set; its `maker` says what the pipeline makes.
        text: The path as written, with variables.
        key: The parameter's key below `datasets.sources.<name>`.
        steps: What to do if the path is not there.
    """
    path, unset = reader_options.expanded(text)
    parameter = f"datasets.sources.{request.name}.{key}"
    about = ""
    if key == "root":
        about = _about(request.facts)
        steps += (f"or correct {parameter}", _without(request))
    else:
        steps += (f"or correct {parameter}",)
    if unset:
        text = f"{key} is {text}, and {', '.join(unset)} is not set"
        found.add("stop", text + about, *(f"export {name}=..." for name in unset), *steps)
    elif presence.exists(path):
        return path
    elif maker := request.maker(text):
        found.add("later", f"{path} is not there yet; `dvc repro` makes it (alone: {maker})")
    elif maker == "":
        text = f"{path} is not there, and no set of demo.sets makes it"
        found.add("stop", text, f"add it to demo.sets, or correct {parameter}")
    else:
        found.add("stop", f"{key} {path} is not there{about}", *steps)
    return None


def _about(facts: Facts | None) -> str:
    """Where a set comes from, and what its root has to contain."""
    if facts is None:
        return ""
    text = f". Wanted: {facts.title}"
    if facts.access != YOURS:
        text += f": {facts.size}, access {facts.access}, {facts.page}"
    return f"{text}. The folder has to hold {facts.holds}"


def _without(request: Request) -> str:
    """How to run without the set."""
    keys = [f"datasets.sources.{request.name}", *(use.key for use in request.uses)]
    return f"or do without it: remove {', '.join(keys)} and every mention of them"


def steps_into(facts: Facts | None, root: Path | str, what: str = "") -> tuple[str, ...]:
    """How to get a set, or its reports alone, into `root`."""
    if facts is None:
        return (f"put the set into {root}",)
    if what == "images" and facts.access == YOURS:
        return ("correct the paths in the list: they are relative to its folder",)
    path, unset = reader_options.expanded(str(root))
    place = f'"{root}"' if unset else quoted(path)  # a shell fills in variables in these quotes
    release = path.name if _RELEASE.fullmatch(path.name) else facts.release
    return tuple(
        step.format(root=place, release=release)
        for step in (facts.reports if what == "reports" else facts.steps)
    )


def options_of(found: Diagnosis, request: Request) -> dict[str, Any] | None:
    """The reader's options with defaults; None if one is wrong or names a missing path."""
    try:
        values = vars(reader_options.parse(request.module.Options, request.options, request.reader))
    except InputError as error:
        refuse(found, error)
        return None
    right = True
    for name, reader in (request.facts.paths if request.facts else {}).items():
        if values.get(name) not in (None, "", "none"):
            steps = steps_into(catalogue.FACTS[reader], values[name]) if reader else ()
            key = f"options.{name}"
            right &= find_path(found, request, values[name], key, steps) is not None
    return values if right else None


def refuse(found: Diagnosis, error: InputError) -> None:
    """Note what a reader, or the code that reads in its place, refuses."""
    text = f"{error.path}: expected {error.expected}; found {error.found}"
    found.add("stop", text, error.hint)
