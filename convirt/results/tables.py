"""The paper's tables as cells: what was measured here, what the paper prints, and their order.

A cell is one number with its 95% interval and its source. An order is a question about two cells:
the paper has one system ahead of another; do our data agree? These are pure functions: what is not
passed in is not a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from convirt.compare import Interval
from convirt.results import paper

Run = Mapping[str, Any]  # the JSON of a result
Column = tuple[str | int, ...]

REFERENCE, DEFAULT = "convirt", "default"
HEADS: dict[str, tuple[str, ...]] = {
    "table1": ("protocol", "task", "fraction"),
    "table2": ("direction", "k"),
    "table3": ("column",),
    "table4": ("column",),
    "zeroshot": ("task",),
}
"""What names a column of each table; `Cell.column` holds the values in this order."""

FILES: dict[str, tuple[str, ...]] = {
    "table1": (
        *("system", "corpus", "protocol", "task", "fraction", "n_train", "metric"),
        *("value", "low", "high", "repeats", "paper"),
    ),
    "table2": ("system", "direction", "k", "value", "low", "high", "paper"),
    "table3": ("system", "column", "value", "low", "high", "paper"),
    "table4": ("variant", "column", "value", "low", "high", "paper"),
    "zeroshot": ("system", "task", "metric", "value", "low", "high"),
}
"""The columns of each CSV file."""

AGREES, CONTRADICTS, OPEN = "agrees", "contradicts", "open"
SCARCE = 20  # training images; a single run on fewer depends more on their draw than on the rest


@dataclass(frozen=True)
class Order:
    """The reference minus a cell's system: here, with a paired 95% interval, and in the paper.

    Attributes:
        against: The reference.
        value: The difference here, as low and high.
        paper: The difference in the paper, where it prints both numbers.
        one_draw: Whether both are single runs on fewer than `SCARCE` training images. The interval
            does not cover another draw of these, so it decides nothing.
    """

    against: str
    value: float
    low: float
    high: float
    paper: float | None
    one_draw: bool = False

    @property
    def side(self) -> int:
        """1 if our interval lies above 0, -1 if below, 0 if it leaves that open."""
        return 0 if self.one_draw else (self.low > 0) - (self.high < 0)

    @property
    def mark(self) -> str | None:
        """What our interval says about the paper's order; None where the paper has none.

        `AGREES`: it lies wholly on the paper's side of 0. `CONTRADICTS`: wholly on the other side.
        `OPEN`: it contains 0, or decides nothing. The paper has no order where it prints equal
        numbers, or not both.
        """
        if not self.paper:
            return None
        sign = 1 if self.paper > 0 else -1
        return {1: AGREES, 0: OPEN, -1: CONTRADICTS}[sign * self.side]


@dataclass(frozen=True)
class Cell:
    """One measured number.

    Attributes:
        table: A key of `HEADS`.
        system: Our name, with underscores; in Table 4 that of a variant, or "default".
        column: Values that name the column; see `HEADS`.
        metric: "auroc", "accuracy" or "precision".
        value: A fraction between 0 and 1, as are low, high and paper.
        repeats: Number of independent runs that it is the mean of.
        order: Compared with `REFERENCE` (Table 4: the default) in the same column.
        source: The JSON that it comes from.
        code: Digest of the code that made that JSON.
        params: Digest of the parameters.
        alike: Whether it was measured as in the paper: the metric, its unit, the searched set.
        unit: What the metric of a transfer run scores.
        corpus: What the encoder of a transfer run was pretrained on; "" if on no pairs.
        n_train: Its training images; of several repeats the most.
    """

    table: str
    system: str
    column: Column
    metric: str
    value: float
    low: float
    high: float
    repeats: int
    paper: float | None
    order: Order | None
    source: str
    code: str
    params: str
    alike: bool = True
    unit: str = ""
    corpus: str = ""
    n_train: int | None = None

    @property
    def one_draw(self) -> bool:
        """As `Order.one_draw`."""
        return self.repeats == 1 and self.n_train is not None and self.n_train < SCARCE


def dashed(system: str) -> str:
    """A system's name as the table files write it: caption-lstm."""
    return system.replace("_", "-")


def transfer_cells(runs: Iterable[Run], paired: Mapping[str, Interval]) -> list[Cell]:
    """Table 1: one cell per transfer run.

    Args:
        runs: Their JSONs, each with its path under ``"source"``.
        paired: Source of a run -> `REFERENCE` minus that run, on the same test patients.
    """
    cells = []
    for run in runs:
        column = (run["protocol"], run["task"], run["fraction"])
        score = run["metric"], run["unit"]
        published, ahead = (
            paper.transfer(run["protocol"], run["task"], init, run["fraction"], *score)
            for init in (run["init"], REFERENCE)
        )
        cell = _probe("table1", run["init"], column, run)
        cell = replace(
            cell,
            alike=paper.comparable(run["task"], *score),
            unit=run["unit"],
            corpus=run["corpus"] or "",
            n_train=max(run["n_train"]),
            paper=published,
        )
        order = _order(REFERENCE, paired.get(run["source"]), ahead, published, cell.one_draw)
        cells.append(replace(cell, order=order))
    return cells


def retrieval_cell(
    system: str,
    column: Column,
    own: Interval,
    lead: Interval | None,
    found: Run,
    alike: bool = True,
) -> Cell:
    """Table 2: one cell, for a direction and k.

    Args:
        system: Our name of the system.
        column: Direction and k.
        own: Precision@k over the queries.
        lead: `REFERENCE` minus `system`, query by query.
        found: The JSON of the search, with its path under ``"source"``.
        alike: Whether the searched set has the layout of the paper's.
    """
    direction, k = str(column[0]), int(column[1])
    published, ahead = (
        paper.retrieval(direction, name, k) if alike else None for name in (system, REFERENCE)
    )
    order = _order(REFERENCE, lead, ahead, published)
    return Cell(
        "table2",
        system,
        column,
        "precision",
        *own,
        1,
        published,
        order,
        found["source"],
        found["provenance"]["code"],
        found["provenance"]["params"],
        alike,
    )


def zeroshot_cells(found: Iterable[Run]) -> list[Cell]:
    """Zero-shot classification, which the paper lacks: one cell per task and system."""
    return [_probe("zeroshot", cell["system"], (cell["task"],), cell) for cell in found]


def image_only_cells(cells: Sequence[Cell]) -> list[Cell]:
    """Table 3, made of cells of Tables 1 and 2, for all systems."""
    places: dict[str, tuple[str, Column]] = {
        "rsna_linear_1": ("table1", ("linear", "rsna", 1)),
        "chexpert_linear_1": ("table1", ("linear", "chexpert", 1)),
        "image_image_p_at_10": ("table2", ("image_image", 10)),
    }
    found = []
    for name in paper.TABLE_3_COLUMNS:
        for cell in cells:
            if (cell.table, cell.column) == places[name]:
                published, ahead = (
                    paper.image_only(system, name) if cell.alike else None
                    for system in (cell.system, REFERENCE)
                )
                order = _order(REFERENCE, _lead(cell.order), ahead, published, cell.one_draw)
                found.append(_moved(cell, "table3", cell.system, name, published, order))
    return found


def setting_cell(cell: Cell, variant: str, column: str, lead: Interval | None) -> Cell:
    """Table 4: a cell of Table 1 or 2 as the cell of a variant, or of the default.

    Args:
        cell: The measured cell.
        variant: A key of ablation.variants, or `DEFAULT`.
        column: Name of the column; the paper has those of `paper.TABLE_4_COLUMNS`.
        lead: The default minus this variant; None for the default itself.
    """
    published, ahead = (
        paper.setting(name, column) if cell.alike else None for name in (variant, DEFAULT)
    )
    order = _order(DEFAULT, lead, ahead, published, cell.one_draw)
    return _moved(cell, "table4", variant, column, published, order)


def csv_rows(table: str, cells: Iterable[Cell]) -> list[dict[str, Any]]:
    """The rows of a table's CSV file, in the order of `cells`; the columns are `FILES[table]`."""
    rows = []
    for cell in cells:
        if cell.table == table:
            named = dict(zip(HEADS[table], cell.column, strict=True))
            named |= {"system": dashed(cell.system), "variant": cell.system}
            rows.append({key: (asdict(cell) | named)[key] for key in FILES[table]})
    return rows


def as_json(cell: Cell) -> dict[str, Any]:
    """A cell for cells.json."""
    told = asdict(cell)
    told["system"] = cell.system if cell.table == "table4" else dashed(cell.system)
    told["column"] = dict(zip(HEADS[cell.table], cell.column, strict=True))
    if cell.order is not None:
        told["order"]["mark"] = cell.order.mark
    return told


def _probe(table: str, system: str, column: Column, run: Run) -> Cell:
    return Cell(
        table,
        system,
        column,
        run["metric"],
        run["value"],
        run["low"],
        run["high"],
        len(run.get("repeats") or [run["value"]]),
        None,
        None,
        run["source"],
        run["provenance"]["code"],
        run["provenance"]["params"],
    )


def _moved(
    cell: Cell, table: str, system: str, column: str, published: float | None, order: Order | None
) -> Cell:
    """A cell, moved to another table."""
    return replace(cell, table=table, system=system, column=(column,), paper=published, order=order)


def _lead(order: Order | None) -> Interval | None:
    return None if order is None else Interval(order.value, order.low, order.high)


def _order(
    against: str,
    lead: Interval | None,
    ahead: float | None,
    published: float | None,
    one_draw: bool = False,
) -> Order | None:
    """The order, if there is a difference to compare; else None."""
    if lead is None:
        return None
    known = ahead is not None and published is not None
    printed = round(ahead - published, 4) if known else None  # type: ignore[operator]
    return Order(against, *lead, printed, one_draw)
