"""Reading the result of a transfer run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convirt.errors import InputError
from convirt.results.summary import key_of
from stages._results import read_json, require_keys


def read_run(root: Path, key: str, made_by: str, keys: set[str]) -> dict[str, Any]:
    """The JSON of the run `key`, which has to be about that run.

    Args:
        root: The folder that DVC runs in.
        key: Such as "rsna-convirt-1-linear".
        made_by: The DVC stage that makes it.
        keys: Of the JSON, those that are needed, among them those of which `key` is made.

    Raises:
        InputError: There is none, it lacks one of `keys`, or it is about another run.
    """
    name = f"metrics/finetune/{key}.json"
    run = read_json(root, name, made_by)
    require_keys(run, keys, name, made_by)
    if key_of(run) != key:
        raise InputError(name, f"the result of {key}", key_of(run), f"dvc repro -f {made_by}")
    return run
