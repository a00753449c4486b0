"""The report's figures: loss curves, label efficiency, retrieval; and contact sheets.

Functions take plain rows and return a matplotlib `Figure`; `save` turns it into PNG bytes that are
the same each time (Agg, fixed dots per inch, matplotlib's own fonts, no metadata). The colours are
those of Okabe and Ito, which colour-blind readers can tell apart; markers and hatches repeat the
distinction for prints in grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from convirt.files import atomic
from convirt.results.markdown import name, percent

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

P = ParamSpec("P")
Row = Mapping[str, Any]

DPI = 120
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
GREY = "#767676"

COLOURS = {"convirt": BLUE, "imagenet": ORANGE, "random": GREY}
SPARE_COLOURS = (GREEN, VERMILION, PURPLE, SKY, BLACK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "hatch.color": "white",
    "hatch.linewidth": 1.2,
}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw with our style alone, whatever any matplotlibrc says."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def save(figure: Figure, path: Path) -> None:
    """Write a PNG: the same figure gives the same bytes."""
    with matplotlib.rc_context(), atomic(path) as temporary:
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def colours(inits: Iterable[str]) -> dict[str, str]:
    """One colour per initialisation; the usual ones keep theirs whatever else is drawn."""
    others = sorted(set(inits) - set(COLOURS))
    return COLOURS | {key: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, key in enumerate(others)}


@styled
def loss(curves: Mapping[str, pd.DataFrame], data: str) -> Figure:
    """Pretraining loss over the steps, one panel per encoder, with the level of chance.

    Args:
        curves: "<objective>-<corpus>" -> columns step, train_loss, val_loss, chance; chance is NaN
            where the objective has none.
        data: What it was trained on, for the title ("made-up data").
    """
    columns = min(len(curves), 2)
    rows = -(-len(curves) // columns)
    # losses of different objectives have different scales
    alike = len({key.partition("-")[0] for key in curves}) == 1
    figure, panels = grid(rows, columns, 4.6, 3.5, sharey=alike)
    flat = [axes for row in panels for axes in row]
    for axes in flat[len(curves) :]:
        axes.set_visible(False)
    for axes, (key, curve) in zip(flat, curves.items(), strict=False):
        chance = curve["chance"].iloc[0]
        if chance == chance:  # not NaN
            axes.axhline(chance, color=GREY, linestyle="--", label=f"chance = {chance:.2f}")
        axes.plot(curve["step"], curve["train_loss"], color=SKY, label="training")
        axes.plot(
            curve["step"],
            curve["val_loss"],
            color=BLUE,
            marker="o",
            markersize=4,
            label="validation",
        )
        objective, _, corpus = key.partition("-")
        axes.set(title=f"{name(objective)}, {corpus} pairs", xlabel="step")
        axes.legend(loc="best", fontsize=9)
    panels[0][0].set_ylabel("loss (nats)")
    figure.suptitle(f"Pretraining ({data})", fontsize=12)
    return figure


@styled
def efficiency(rows: Sequence[Row], data: Mapping[str, str]) -> Figure:
    """Test metric over the share of labels: for each protocol ours above, the paper's below.

    The two never share a panel, since they were measured on different data.

    Args:
        rows: Keys protocol, task, metric, init, fraction (percent), source ("here" or "paper"),
            value, low, high (fractions between 0 and 1; low and high None where unknown).
        data: Task -> the data that were measured on here, for the titles ("made-up data").
    """
    tasks = _unique(row["task"] for row in rows)
    inits = _unique(row["init"] for row in rows)
    fractions = sorted({row["fraction"] for row in rows})
    bands = [(p, s) for p in _unique(r["protocol"] for r in rows) for s in ("here", "paper")]
    bands = [b for b in bands if any((r["protocol"], r["source"]) == b for r in rows)]
    figure, panels = grid(len(bands), len(tasks), 3.0, 3.0)
    for band, line in zip(bands, panels, strict=True):
        protocol, source = band
        for axes, task in zip(line, tasks, strict=True):
            mine = [r for r in rows if (r["protocol"], r["source"], r["task"]) == (*band, task)]
            _efficiency_panel(axes, mine, inits, fractions)
            title = f"{task}, {name(mine[0]['metric'])}" if mine else task
            where = (
                data[task] if source == "here" else "paper's data" if mine else "not in the paper"
            )
            axes.set_title(f"{title}\n({where})")
            axes.set_xlabel("labels used" if band == bands[-1] else "")
        label = "measured here" if source == "here" else "printed in the paper"
        line[0].set_ylabel(f"{name(protocol)},\n{label}")
    legend(figure, panels)
    return figure


def _efficiency_panel(
    axes: Axes, rows: Sequence[Row], inits: Sequence[str], fractions: Sequence[int]
) -> None:
    """One task from one source: one line per initialisation, with intervals where there are any."""
    left, right = fractions[0] / 1.7, fractions[-1] * 1.7
    beside = (right / left) ** 0.03  # side by side, or the intervals hide one another
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    axes.set_xticks(fractions, labels=[f"{fraction}%" for fraction in fractions])
    axes.minorticks_off()
    colour = colours(inits)
    for i, init in enumerate(inits):
        points = sorted((r for r in rows if r["init"] == init), key=lambda r: r["fraction"])
        if not points:
            continue
        x = [r["fraction"] * beside ** (i - (len(inits) - 1) / 2) for r in points]
        y = [r["value"] for r in points]
        measured = points[0]["source"] == "here"
        axes.plot(
            x,
            y,
            color=colour[init],
            marker=MARKERS[i % len(MARKERS)],
            markersize=6,
            linestyle="-" if measured else "--",
            alpha=1.0 if measured else 0.65,
            label=name(init) + ("" if measured else ", paper"),
        )
        known = [(xi, r) for xi, r in zip(x, points, strict=True) if r["low"] is not None]
        if known:
            axes.vlines(
                [xi for xi, _ in known],
                [r["low"] for _, r in known],
                [r["high"] for _, r in known],
                color=colour[init],
                linewidth=1.6,
            )
    _round_ticks(axes)


def _round_ticks(axes: Axes) -> None:
    """Ticks with two decimals; a panel spans at least 0.1, so that no small difference fills it."""
    low, high = axes.get_ylim()
    missing = max(0.0, 0.1 - (high - low)) / 2
    axes.set_ylim(low - missing, high + missing)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], min_n_ticks=3))
    axes.yaxis.set_major_formatter("{x:.2f}")


@styled
def retrieval(rows: Sequence[Row], here: str) -> Figure:
    """Precision@k as bars, one panel per direction, the paper's hatched, with the chance level.

    Args:
        rows: Keys source ("here" or "paper"), direction, init, k, value, chance (fractions between
            0 and 1), and recall where the ranking is approximate.
        here: The data that were measured on here, for the legend ("made-up data").
    """
    directions = _unique(row["direction"] for row in rows)
    ks = sorted({row["k"] for row in rows})
    colour = colours(row["init"] for row in rows)
    figure, panels = grid(1, len(directions), 4.8, 3.8, sharey=True)
    for axes, direction in zip(panels[0], directions, strict=True):
        mine = [row for row in rows if row["direction"] == direction]
        bars = _unique((row["source"], row["init"]) for row in mine)
        width = 0.84 / len(bars)
        for i, (source, init) in enumerate(bars):
            heights = {
                r["k"]: r["value"] for r in mine if (r["source"], r["init"]) == (source, init)
            }
            x = [ks.index(k) + (i - (len(bars) - 1) / 2) * width for k in heights]
            drawn = axes.bar(
                x,
                list(heights.values()),
                width * 0.94,
                color=colour[init],
                alpha=1.0 if source == "here" else 0.55,
                hatch=None if source == "here" else "///",
                label=f"{name(init)}, {here if source == 'here' else 'paper (CheXpert 8x200)'}",
            )
            axes.bar_label(drawn, fmt=percent, fontsize=8)
        chance = mine[0]["chance"]
        axes.axhline(chance, color=BLACK, linestyle=":", label=f"chance, {percent(chance)}")
        axes.grid(axis="x", visible=False)
        axes.set_xticks(range(len(ks)), labels=[f"P@{k}" for k in ks])
        axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        axes.set_ylim(0, max(1.12 * max(r["value"] for r in rows), 0.2))
        recalls = {r["init"]: r["recall"] for r in mine if "recall" in r}
        told = ", ".join(f"{name(init)} {percent(recall)}" for init, recall in recalls.items())
        axes.set_title(name(direction) + (f"\napproximate, recall: {told}" if told else ""))
    panels[0][0].set_ylabel("mean precision over queries (%)")
    legend(figure, panels, 3)
    return figure


@styled
def contact_sheet(images: Sequence[NDArray[Any]], titles: Sequence[str], columns: int) -> Figure:
    """A grid of small pictures with a title above each.

    Args:
        images: uint8, each (h, w) grey or (h, w, 3); sides may differ.
        titles: One per image; line breaks are kept.
        columns: Pictures per row.
    """
    if len(images) != len(titles) or not images:
        raise ValueError(f"as many titles as images, at least one: {len(titles)}, {len(images)}")
    figure, panels = grid(-(-len(images) // columns), columns, 1.7, 2.05)
    flat = [axes for line in panels for axes in line]
    for axes in flat:
        axes.grid(visible=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for axes, image, title in zip(flat, images, titles, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        axes.set_title(title, fontsize=8)
    return figure


def grid(
    lines: int, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of lines x columns panels, each width x height inches, that never overlap."""
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False, sharey=sharey)
    return figure, [list(line) for line in panels]


def legend(figure: Figure, panels: Sequence[Sequence[Axes]], columns: int = 4) -> None:
    """One legend below the figure for all panels, each entry once."""
    entries: dict[str, Any] = {}
    for axes in (axes for line in panels for axes in line):
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = min(len(entries), columns if figure.get_figwidth() > 8 else 2)
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=columns)


def _unique(values: Iterable[Any]) -> list[Any]:
    """The values in the order in which each first appears."""
    return list(dict.fromkeys(values))
