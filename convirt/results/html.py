"""The page of tables: one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from convirt.results.markdown import percent, points
from convirt.results.page_style import STYLE
from convirt.results.table_layout import Entry, Grid, best
from convirt.results.tables import AGREES, CONTRADICTS, SCARCE, Cell, Order
from convirt.results.verdict import Claim

GLYPHS = {
    AGREES: ("●", "confirms the paper’s order"),
    CONTRADICTS: ("▼", "contradicts the paper’s order"),
}
HOW = (
    "<p>Each cell gives the value measured here; its 95% interval; Δ, by how much ConVIRT (in "
    "Table 4 the default) is higher, with a 95% interval; and the number that the paper prints, on "
    "its own data. All are in percent. A shaded, bold value is the highest here. Rows below the "
    "heavy line are systems that the paper’s table does not have.</p>"
)


@dataclass(frozen=True)
class Picture:
    """A figure of the page.

    Attributes:
        key: Its anchor on the page, e.g. "figure3".
        title: One line.
        caption: What it shows and how it was made.
        alt: What a reader who cannot see it needs to know.
        png: Its bytes; None if there is no picture, for which `caption` gives the reason.
        size: Width and height in pixels, so that the page does not jump while it loads.
    """

    key: str
    title: str
    caption: str
    alt: str = ""
    png: bytes | None = None
    size: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Page:
    """The content of the page, from top to bottom."""

    data: str
    origin: str
    claims: Sequence[Claim]
    grids: Sequence[Grid]
    pictures: Sequence[Picture]
    rule: str
    facts: Sequence[str]


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height in pixels, from a PNG's header."""
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")


def render(page: Page) -> str:
    """The whole HTML document; equal pages give the same text."""
    title = "ConVIRT: every table of the paper, ours beside it"
    blocks = [
        f"<h1>{title}</h1>",
        f'<p class="origin"><strong>Measured on {escape(page.data)}.</strong> {page.origin}</p>',
        '<section id="verdict" aria-label="Verdict">',
        f'<p class="short"><strong>In short:</strong> {escape(_short(page.claims))}</p>',
        '<ul class="claims">',
        *(_claim(claim) for claim in page.claims),
        "</ul></section>",
        _contents(page),
        '<h2 id="how">How to read the tables</h2>',
        HOW + page.rule,
        *(_table(grid) for grid in page.grids),
        *(_figure(picture) for picture in page.pictures),
        '<h2 id="made">How this page was made</h2>',
        *(f'<p class="faint">{fact}</p>' for fact in page.facts),
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, '
        f'initial-scale=1"><title>{title}</title><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style>"
    )
    body = "\n".join(blocks)
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n'
        f"<main>\n{body}\n</main>\n</body></html>\n"
    )


def marks() -> str:
    """The definition of the marks, which stands above the tables."""
    return (
        "<p><strong>Marks.</strong> Each mark is about one comparison in the paper: the system of "
        "the row against ConVIRT in the same column (in Table 4: against the default). Here we "
        "take the difference of the two on the same test patients or the same queries (a paired "
        "bootstrap), with a 95% interval. "
        '<span class="contradicts">▼</span> The interval is wholly on the other side of 0 from '
        "the paper’s difference, which excludes the paper’s order on this data. "
        '<span class="agrees">●</span> The interval is wholly on the paper’s side. No mark: the '
        "interval contains 0, or both are single runs on fewer than "
        f"{SCARCE} images, or the paper prints equal numbers, or not both numbers.</p>"
        "<p><strong>Intervals</strong> cover the test patients or the queries, and the repeats of "
        "a run if it has several. They do not cover another pretraining, nor another seed where a "
        "cell is a single run, and they are not corrected for the number of comparisons. So more "
        "than one interval in 20 misses.</p>"
    )


def _short(claims: Sequence[Claim]) -> str:
    """The answers that have a short form, in one sentence."""
    text = "; ".join(claim.short for claim in claims if claim.short)
    return f"{text[:1].upper()}{text[1:]}." if text else "none of the headline claims was measured."


def _claim(claim: Claim) -> str:
    lines = "".join(f"<li>{escape(point)}</li>" for point in claim.points)
    more = f"<ul>{lines}</ul>" if lines else ""
    kind = claim.answer.replace(" ", "-")
    return (
        f'<li><h3>{escape(claim.question)}</h3><p><span class="answer {kind}">{claim.answer}'
        f"</span>. {escape(claim.text)}</p>{more}</li>"
    )


def _contents(page: Page) -> str:
    links = [(grid.key, grid.title.partition(":")[0]) for grid in page.grids]
    links += [(picture.key, picture.title.partition(":")[0]) for picture in page.pictures]
    items = "".join(f'<li><a href="#{key}">{escape(text)}</a></li>' for key, text in links)
    return f'<nav aria-label="Contents"><ul>{items}</ul></nav>'


def _table(grid: Grid) -> str:
    """A table in a box of its own that scrolls sideways."""
    spans = "".join(
        f'<th colspan="{span}" scope="colgroup" class="edge">{escape(label)}</th>'
        for label, span in grid.groups
    )
    edges, at = set(), 0
    for _, span in grid.groups:
        edges.add(at)
        at += span
    heads = "".join(
        f'<th scope="col"{_class("edge" if j in edges else "")}>{escape(label)}</th>'
        for j, label in enumerate(grid.columns)
    )
    highest = best(grid)
    rows = []
    for i, (label, entries) in enumerate(grid.rows):
        cells = "".join(
            _place(entry, (i, j) in highest, j in edges) for j, entry in enumerate(entries)
        )
        own = _class("own" if i == grid.own > 0 else "")
        rows.append(f'<tr{own}><th scope="row">{escape(label)}</th>{cells}</tr>')
    lines = (f"Measured on {grid.data}.", *grid.notes)
    notes = f'<p class="notes">{escape(" ".join(lines))}</p>'
    return (
        f'<h2 id="{grid.key}">{escape(grid.title)}</h2>{notes}'
        f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{grid.key}"><table>'
        f'<thead><tr><th rowspan="2" scope="col" class="corner">System</th>{spans}</tr>'
        f"<tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>{_under(grid)}"
    )


def _under(grid: Grid) -> str:
    """What the marks mean, repeated under each table with numbers of the paper."""
    if not grid.published():
        return ""
    return (
        f'<p class="notes">Paired 95% interval of {escape(grid.against)} minus the row’s system: '
        '<span class="agrees">●</span> wholly on the paper’s side of 0; '
        '<span class="contradicts">▼</span> wholly on the other, which excludes the paper’s order '
        'on this data (<a href="#how">more</a>).</p>'
    )


def _place(entry: Entry, strong: bool, edge: bool) -> str:
    parts = []
    if entry.cell is None:
        parts.append('<span class="value">–</span>')
    else:
        cell = entry.cell
        between = f"[{percent(cell.low)}, {percent(cell.high)}]"
        highest = '<span class="unseen">, highest here</span>' if strong else ""
        value = f'<span class="value">{percent(cell.value)}{highest}</span>'
        parts.append(f"{value}{_mark(cell)}")
        parts.append(f'<span class="between">{between}</span>')
        if cell.order is not None:
            parts.append(f'<span class="delta">Δ\u00a0{_difference(cell.order)}</span>')
    if entry.paper is not None:
        parts.append(f'<span class="printed">paper {percent(entry.paper)}</span>')
    names = " ".join(filter(None, ("best" if strong else "", "edge" if edge else "")))
    return f"<td{_class(names)}>{''.join(parts)}</td>"


def _mark(cell: Cell) -> str:
    order = cell.order
    if order is None or order.mark not in GLYPHS:
        return ""
    glyph, words = GLYPHS[order.mark]
    told = (
        f"{words}: {order.against} minus this system is {_difference(order)} here, "
        f"{points(order.paper or 0)} in the paper"
    )
    return (
        f' <span class="{order.mark}" role="img" title="{escape(told)}" '
        f'aria-label="{escape(told)}">{glyph}</span>'
    )


def _difference(order: Order) -> str:
    return f"{points(order.value)} [{points(order.low)}, {points(order.high)}]"


def _figure(picture: Picture) -> str:
    image = ""
    if picture.png is not None:
        data = base64.b64encode(picture.png).decode("ascii")
        width, height = picture.size
        image = (
            f'<div class="scroll" tabindex="0" role="region" aria-labelledby="{picture.key}">'
            f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" '
            f'alt="{escape(picture.alt)}"></div>'
        )
    return (
        f'<h2 id="{picture.key}">{escape(picture.title)}</h2><figure>{image}'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )


def _class(names: str) -> str:
    return f' class="{names}"' if names else ""


def sentences(lines: Iterable[str]) -> str:
    """Lines of plain text as one paragraph's HTML."""
    return " ".join(escape(line) for line in lines)
