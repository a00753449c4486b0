"""Pictures of the tables: the same cells as on the page, for a README or a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

from convirt.results.markdown import percent
from convirt.results.plots import BLUE, GREY, VERMILION, styled
from convirt.results.table_layout import Entry, Grid, best
from convirt.results.tables import AGREES, CONTRADICTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, RULE = "#1A1A1A", "#6A6A6A", "#9A9A9A"
GLYPHS = {AGREES: ("●", BLUE), CONTRADICTS: ("▼", VERMILION)}
"""Marks of an order, told apart by shape as well as by colour."""

# all in inches
CELL, HEAD, TITLE, MARGIN, NOTE = 0.98, 0.28, 0.42, 0.14, 0.2
TALL, SHORT = 0.62, 0.46  # a row with and without numbers of the paper
LETTER = 0.077  # width of a letter, at most
LEGEND = "bold: highest here   ·   [95% interval]   ·   grey: the paper, on its own data"
MARKS = (
    "paired 95% interval of {} minus the row’s system:",
    "● wholly on the paper’s side of 0   ·   ▼ wholly on the other: it excludes the paper’s order",
)


class _Sides(NamedTuple):
    """Horizontal positions in a table, in inches."""

    left: float  # left edge of the first column
    cell: float  # width of a column
    right: float  # right edge of the last column

    def middle(self, column: float) -> float:
        return self.left + self.cell * (column + 0.5)


@styled
def table(grid: Grid) -> Figure:
    """One table: each place has our value, its interval, and the paper's value in grey."""
    lines = (
        [LEGEND, *(mark.format(grid.against) for mark in MARKS), *grid.notes]
        if grid.published()
        else [*grid.notes]
    )
    heights = [TALL if any(e.paper is not None for e in row) else SHORT for _, row in grid.rows]
    names = LETTER * max(14, *(len(label) for label, _ in grid.rows)) + 0.2
    heads = [LETTER * len(label) / span + 0.15 for label, span in grid.groups]
    body = max(CELL, *heads) * len(grid.columns)
    longest = max(len(line) for line in [f"{grid.title}    {grid.data}", *lines])
    width = 2 * MARGIN + max(names + body, (LETTER + 0.01) * longest)
    sides = _Sides(MARGIN + names, (width - 2 * MARGIN - names) / len(grid.columns), width - MARGIN)
    top = MARGIN + TITLE + 2 * HEAD
    height = top + sum(heights) + NOTE * (len(lines) + 0.6) + MARGIN
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    axes.text(MARGIN, MARGIN + 0.17, grid.title, weight="bold", size=11, va="center")
    axes.text(sides.right, MARGIN + 0.17, grid.data, size=9, va="center", ha="right", color=FAINT)
    _heads(axes, grid, sides, MARGIN + TITLE)
    highest, y = best(grid), top
    for i, (label, row) in enumerate(grid.rows):
        if i == 0 or i == grid.own:
            axes.hlines(y, MARGIN, sides.right, color=RULE if i else INK, lw=0.7 if i else 0.9)
        axes.text(MARGIN, y + heights[i] / 2, label, size=9.5, va="center", color=INK)
        for j, entry in enumerate(row):
            _place(axes, entry, sides.middle(j), y + 0.18, (i, j) in highest)
        y += heights[i]
    axes.hlines(y, MARGIN, sides.right, color=INK, lw=0.9)
    for i, line in enumerate(lines):
        axes.text(MARGIN, y + NOTE * (i + 0.95), line, size=8, va="center", color=FAINT)
    return figure


def _heads(axes: Axes, grid: Grid, sides: _Sides, y: float) -> None:
    """Two lines of heads: groups over columns."""
    x = sides.left
    for label, span in grid.groups:
        across = sides.cell * span
        axes.text(x + across / 2, y + HEAD / 2, label, size=9.5, ha="center", va="center")
        axes.hlines(y + HEAD, x + 0.08, x + across - 0.08, color=RULE, lw=0.7)
        x += across
    for j, label in enumerate(grid.columns):
        middle = sides.middle(j)
        axes.text(middle, y + 1.5 * HEAD, label, size=9, ha="center", va="center", color=INK)


def _place(axes: Axes, entry: Entry, x: float, y: float, strong: bool) -> None:
    """One entry: its value is centred at x and y, its interval and the paper's value below."""
    cell = entry.cell
    if cell is None:
        axes.text(x, y, "–", size=10, ha="center", va="center", color=FAINT)
    else:
        weight = "bold" if strong else "normal"
        number = percent(cell.value)
        axes.text(x, y, number, size=10, ha="center", va="center", weight=weight)
        between = f"[{percent(cell.low)}, {percent(cell.high)}]"
        axes.text(x, y + 0.155, between, size=6.6, ha="center", va="center", color=INK)
        glyph = GLYPHS.get(cell.order.mark or "") if cell.order else None
        if glyph:
            mark, colour = glyph
            axes.text(x + 0.3, y, mark, size=7.5, ha="center", va="center", color=colour)
    if entry.paper is not None:
        printed = percent(entry.paper)
        axes.text(x, y + 0.295, printed, size=7.6, ha="center", va="center", color=GREY)
