"""Pretraining objectives, one file each; see `base` for what they have in common.

params.yaml is checked with the names alone, so nothing is imported here: a stage that trains
nothing does not depend on the encoders.
"""

from __future__ import annotations

from pathlib import Path

NO_OBJECTIVE = frozenset({"__init__", "base"})


def available() -> list[str]:
    """Names of all objectives, from the files beside this one."""
    names = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(names - NO_OBJECTIVE)
