"""How often each stage is disturbed, and when."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Sequence
from typing import TypeVar

from faults.world import Truth

Case = TypeVar("Case")
ASKED = int(os.environ.get("FAULT_MOMENTS", "0"))


def share(cases: Sequence[Case], every: int) -> Sequence[Case]:
    """Every `every`-th of `cases` by default, all of them if FAULT_MOMENTS is set."""
    return cases if ASKED else cases[::every]


def count(default: int) -> int:
    """How many moments of a kind: FAULT_MOMENTS if that is set."""
    return ASKED or default


def generator(*key: object) -> random.Random:
    """Draws of its own for each test, the same in every run."""
    return random.Random("/".join(str(part) for part in key))


def change(rng: random.Random, truth: Truth, pattern: str = "") -> int:
    """One of the changes to files that a step makes, counted from 1.

    The kind is drawn first, since a stage that writes a hundred films writes one list of them.
    """
    kinds: dict[str, list[int]] = {}
    for at, told in enumerate(truth.changes, start=1):
        if re.search(pattern, told):
            kinds.setdefault(re.sub(r"[0-9a-f]*\d[0-9a-f]*", "#", told), []).append(at)
    assert kinds, f"no change like {pattern!r} in {truth.changes}"
    return rng.choice(kinds[rng.choice(list(kinds))])
