"""The tables of `metrics/summary.json`, for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rich import box
from rich.table import Table

from convirt.contradictions import RESERVED
from convirt.results import paper
from convirt.results.markdown import (
    above_zero,
    data_name,
    interval,
    name,
    percent,
    points,
    points_interval,
)
from convirt.results.summary import ALL, FEW, OURS, made_up_sets, recall_key, retrieval_rows

Cells = Mapping[str, Any]
ORDER = ("random", "imagenet")  # baselines first; the rest by name, ConVIRT last


def tables(summary: Cells) -> list[Table]:
    """Every table that there are results for, in reading order."""
    made_up = made_up_sets(summary)
    strange = summary["data"].get("other_score", {})
    made = [
        _transfer(protocol, summary[protocol], made_up, strange)
        for protocol in paper.PROTOCOLS
        if protocol in summary
    ]
    claim = summary.get("claim", {})
    for protocol, cells in (("finetune", claim), ("linear", claim.get("linear", {}))):
        if cells:
            made.append(_claim(protocol, cells, made_up, strange))
    if "retrieval" in summary:
        made.append(_retrieval(summary, made_up))
    if "pretrain" in summary:
        made.append(_pretrain(summary["pretrain"], made_up))
    return made


def _table(title: str, *columns: str, words: int) -> Table:
    """An empty table; its first `words` columns are for words, the others for numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < words else "right", overflow="fold")
    return table


def _transfer(
    protocol: str, tasks: Cells, made_up: frozenset[str], strange: Collection[str]
) -> Table:
    """Table of one protocol; `strange` tasks, scored otherwise, without numbers of the paper."""
    fractions = sorted(
        {int(f) for inits in tasks.values() for cell in inits.values() for f in cell}
    )
    columns = [c for f in fractions for c in (f"{f}% of labels", f"paper, {f}%")]
    here = data_name(tasks, made_up)
    title = f"Transfer, {name(protocol)}: percent [95% interval], here on {here}"
    table = _table(title, "task", "start", *columns, words=2)
    for task, inits in sorted(tasks.items()):
        for init in sorted(inits, key=_rank):
            row = []
            for fraction in fractions:
                cell = inits[init].get(str(fraction))
                row.append(interval(cell["value"], cell["low"], cell["high"]) if cell else "–")
                published = paper.transfer(protocol, task, init, fraction)
                row.append(percent(None if task in strange else published))
            table.add_row(task, name(init), *row)
        table.add_section()
    return table


def _rank(init: str) -> tuple[int, str]:
    return (len(ORDER) + (init == OURS) if init not in ORDER else ORDER.index(init), init)


def _claim(protocol: str, cells: Cells, made_up: frozenset[str], strange: Collection[str]) -> Table:
    equal = cells.get("equal_fraction", {})
    tasks = sorted((set(cells) | set(equal)) - RESERVED)
    here = data_name(tasks, made_up)
    title = (
        f"ConVIRT with {FEW}% of the labels, {name(protocol)}: difference in points, here on {here}"
    )
    heads = [f"minus ImageNet {f}%" for f in (ALL, FEW)]
    columns = [c for head in heads for c in (head, "above 0", "paper")]
    table = _table(title, "task", *columns, words=1)
    for task in tasks:
        row = []
        for group, fraction in ((cells, ALL), (equal, FEW)):
            published = None if task in strange else paper.difference(protocol, task, fraction)
            row += [*_difference(group.get(task)), "–" if published is None else points(published)]
        table.add_row(task, *row)
    means = [_difference(group.get("mean"))[0] for group in (cells, equal)]
    table.add_section()
    table.add_row("mean", means[0], "", "", means[1], "", "")
    return table


def _difference(cell: Cells | None) -> list[str]:
    """The difference, with its interval if it has one, and whether the interval is above 0."""
    if cell is None:
        return ["–", "–"]
    return [points_interval(cell), above_zero(cell)]


def _retrieval(summary: Cells, made_up: frozenset[str]) -> Table:
    rows, cells = retrieval_rows(summary), summary["retrieval"]
    ks = sorted({row["k"] for row in rows})
    sources = list(dict.fromkeys(row["source"] for row in rows))
    columns = [c for k in ks for c in (f"P@{k}", "paper")[: len(sources)]]
    here = data_name(summary["data"]["searched"], made_up)
    title = f"Zero-shot retrieval: precision in percent, here on {here}"
    recall = recall_key(cells)
    columns += ["chance", *([recall.replace("_at_", "@")] if recall else [])]
    table = _table(title, "direction", "encoder", *columns, words=2)
    for direction, init in dict.fromkeys((row["direction"], row["init"]) for row in rows):
        mine = [row for row in rows if (row["direction"], row["init"]) == (direction, init)]
        found = {(row["source"], row["k"]): row["value"] for row in mine}
        values = [percent(found.get((source, k))) for k in ks for source in sources]
        cell = cells[init][direction]
        values += [percent(cell.get(key)) for key in ("chance", recall) if key]
        table.add_row(name(direction), name(init), *values)
    return table


def _pretrain(objectives: Cells, made_up: frozenset[str]) -> Table:
    here = data_name({corpus for cells in objectives.values() for corpus in cells}, made_up)
    title = f"Pretraining: loss in nats, here on {here}"
    columns = ("pairs", "validation loss", "chance", "below chance")
    table = _table(title, "objective", "corpus", *columns, words=2)
    for objective in sorted(objectives, key=_rank):
        for corpus, cell in sorted(objectives[objective].items()):
            known = "chance" in cell
            table.add_row(
                name(objective),
                corpus,
                f"{cell['pairs']:,}",
                f"{cell['val_loss']:.3f}",
                f"{cell['chance']:.3f}" if known else "–",
                f"{percent(cell['below_chance'])}%" if known else "–",
            )
    return table
