"""Writers of made-up sets in the layouts of the published real sets.

The embedded demo runs every reader on files that look like the official release, name for name
and field for field. The same seed gives the same bytes on any number of processes, and a set that
grows keeps its first items.

    write("mura", out, seed=1, side=128, counts={"train": 400, "val": 150, "test": 500})
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from convirt.datasets.layouts import bone, chexpert, covidx, mimic_cxr, mura, rsna
from convirt.datasets.layouts._tools import Layout, draw_all, zip_folder
from convirt.errors import InputError

LAYOUTS: dict[str, Layout] = {
    "mimic-cxr": mimic_cxr.LAYOUT,
    "bone": bone.LAYOUT,
    "rsna": rsna.LAYOUT,
    "chexpert": chexpert.LAYOUT,
    "covidx": covidx.LAYOUT,
    "mura": mura.LAYOUT,
}


def check(name: str, counts: Mapping[str, int], where: str = "counts") -> None:
    """Make sure that a set can be written.

    Args:
        name: A key of `LAYOUTS`.
        counts: As in `write`.
        where: Where `counts` come from, for error messages.

    Raises:
        InputError: No such layout, or `counts` has other keys, or a negative or too large value.
    """
    if name not in LAYOUTS:
        near = difflib.get_close_matches(name, LAYOUTS, 1, 0.0)[0]
        raise InputError(where, f"a set named {', '.join(LAYOUTS)}", name, f"try {near}")
    layout = LAYOUTS[name]
    if set(counts) != set(layout.counts):
        found = ", ".join(counts) or "nothing"
        hint = "give a number for each of these keys, and no others"
        raise InputError(where, f"the keys {', '.join(layout.counts)}", found, hint)
    for key, value in counts.items():
        most = layout.most.get(key, sys.maxsize)
        if not 0 <= value <= most:
            expected = f"{key} of at most {most}" if value > most else f"{key} of at least 0"
            raise InputError(where, expected, str(value), f"change {key}")


def units(name: str, seed: int, counts: Mapping[str, int]) -> int:
    """How many times `write` calls `tick` for these arguments."""
    return len(LAYOUTS[name].plan(seed, counts))


def write(
    name: str,
    root: Path,
    *,
    seed: int,
    side: int,
    counts: Mapping[str, int],
    workers: int = 1,
    tick: Callable[[], None] = lambda: None,
) -> None:
    """Write one made-up set.

    Args:
        name: A key of `LAYOUTS`.
        root: An empty folder.
        seed: Seed of all draws.
        side: Pixels of a film's longer side.
        counts: How large the set is: the keys that `LAYOUTS[name].counts` names.
        workers: Number of processes; any number gives the same bytes.
        tick: Called after every unit (a study, or an image) for a progress bar.

    Raises:
        InputError: See `check`.
    """
    check(name, counts)
    layout = LAYOUTS[name]
    plan = layout.plan(seed, counts)
    records = draw_all(partial(layout.draw, root, seed, side), plan, workers, tick)
    layout.tables(root, counts, records)
    if layout.zipped:
        zip_folder(root / layout.zipped)
