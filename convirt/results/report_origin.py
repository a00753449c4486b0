"""The end of the Markdown page: the data, and the code, parameters and versions of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convirt.results.markdown import data_name, table

Cells = Mapping[str, Any]
SORTS = ("studies", "images", "sentences")
SPLITS = ("train", "val", "test")
DIGEST = 12  # hex digits of a digest that are shown


def data(
    funnels: Mapping[str, Cells], readers: Mapping[str, str], made_up: frozenset[str]
) -> list[str]:
    """What came in, what was dropped and why, one row per data set.

    Args:
        funnels: The funnel JSON of each set; see `convirt.datasets.tables.Funnel.to_dict`.
        readers: The reader of each set.
        made_up: Names of the sets that the demo drew.
    """
    head = ["set", "reader", "data", "studies", "images", "sentences"]
    head += ["images in train / val / test", "dropped", "converted", "the paper's own data"]
    rows = [
        [key, f"`{readers.get(key, '?')}`", data_name([key], made_up), *_counts(funnel)]
        for key, funnel in funnels.items()
    ]
    text = "Counts read “kept of found”; “converted” images were kept, in another pixel format."
    notes = [
        f"- {key}: {note}"
        for key, own in funnels.items()
        for note in own.get("notes", [])
        if key not in made_up
    ]
    more = ["Please check:", "\n".join(notes)] if notes else []
    return ["## Data", text, table(head, rows), *more] if rows else []


def _counts(funnel: Cells) -> list[str]:
    """The cells of a funnel's row, from the column of studies on."""
    kept = [f"{funnel[sort]['kept']:,} of {funnel[sort]['in']:,}" for sort in SORTS]
    split = [f"{funnel['split'].get(part, {}).get('images', 0):,}" for part in SPLITS]
    dropped = [
        f"{n:,} {sort}: {reason}" for sort in SORTS for reason, n in funnel[sort]["dropped"].items()
    ]
    converted = [f"{n:,} {what}" for what, n in funnel["converted"].items()]
    stated = [f"{n:,} {what.replace('_', ' ')}" for what, n in funnel.get("paper", {}).items()]
    lists = ("; ".join(part) or "–" for part in (dropped, converted, stated))
    return [*kept, " / ".join(split), *lists]


def run(stages: Mapping[str, Cells], settings: Sequence[Sequence[str]]) -> list[str]:
    """What was run: the settings worth comparing, digests and versions.

    Args:
        stages: The provenance (code, params, versions) of each stage that left one.
        settings: Name, value here and value in the paper, one row per setting.
    """
    blocks = ["## What was run", table(["setting", "here", "paper"], settings)]
    digests: dict[tuple[str, str], list[str]] = {}
    versions: dict[str, list[str]] = {}
    for stage, made_by in stages.items():
        pair = (made_by["code"][:DIGEST], made_by["params"][:DIGEST])
        digests.setdefault(pair, []).append(f"`{stage}`")
        packages = ", ".join(f"{key} {value}" for key, value in sorted(made_by["versions"].items()))
        versions.setdefault(packages, []).append(f"`{stage}`")
    if digests:
        rows = [[", ".join(names), f"`{code}`", f"`{p}`"] for (code, p), names in digests.items()]
        blocks += [
            f"First {DIGEST} digits of the SHA-256 over the source files that each stage imports, "
            "and over the parameters that it reads:",
            table(["stages", "code", "parameters"], rows),
        ]
    for packages, names in versions.items():
        where = "in all stages" if len(versions) == 1 else f"in {', '.join(names)}"
        blocks.append(f"Versions {where}: {packages}.")
    return blocks
