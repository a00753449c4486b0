"""Cells in the paper's layout: rows, columns, groups. The page and the pictures are drawn from it.

The paper's rows and columns are always there, whether measured here or not; systems that the paper
does not have follow under a rule. What fits no column of the paper (COVIDx with 1% of the labels,
a task of your own) is only in the CSV files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from convirt.results import paper
from convirt.results.markdown import between, name
from convirt.results.tables import DEFAULT, REFERENCE, SCARCE, Cell, Column

TASKS = {"rsna": "RSNA", "chexpert": "CheXpert", "covidx": "COVIDx", "mura": "MURA"}
METRICS = {"auroc": "AUROC", "accuracy": "accuracy"}
ORDER = (
    *(*paper.INITS, *paper.SUPERVISED),
    *("simclr", "moco_v2", "report_labels", "siglip", "convirt_soft"),
)
"""Systems in the order of rows; others follow by name."""


@dataclass(frozen=True)
class Entry:
    """One place in a table: what was measured here, and what the paper prints."""

    cell: Cell | None = None
    paper: float | None = None


@dataclass(frozen=True)
class Grid:
    """A table to be drawn.

    Attributes:
        key: Name of its picture and its anchor on the page, e.g. "table1-linear".
        title: One line.
        groups: Heads over the columns, each with the number of columns that it spans.
        columns: The head of each column.
        rows: For each row its name and its entries, one per column.
        own: Index of the first row whose system the paper's table does not have.
        notes: What a reader has to know about this table, one sentence each.
        data: What was measured on, e.g. "made-up data".
        against: The system that the marks compare each row with.
    """

    key: str
    title: str
    groups: tuple[tuple[str, int], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Entry, ...]], ...]
    own: int
    notes: tuple[str, ...] = ()
    data: str = "data of unknown origin"
    against: str = "ConVIRT"

    def published(self) -> bool:
        """Whether the paper has any cell of it."""
        return any(entry.paper is not None for _, row in self.rows for entry in row)

    def measured(self) -> int:
        """How many cells were measured here."""
        return sum(entry.cell is not None for _, row in self.rows for entry in row)


@dataclass(frozen=True)
class _Shape:
    """What `_grid` needs to know of a table besides its cells."""

    table: str
    columns: Mapping[Column, str]
    published: Mapping[tuple[str, Column], float | None]
    rows: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)


def transfer(cells: Iterable[Cell], protocol: str) -> Grid:
    """Table 1(a), linear, or 1(b), fine-tuned: the paper's 11 columns."""
    columns: dict[Column, str] = {}
    published: dict[tuple[str, Column], float | None] = {}
    for task, fraction in paper.TABLE_1_COLUMNS:
        column = (protocol, task, fraction)
        columns[column] = "all" if fraction == 100 else f"{fraction}%"
        for init in paper.INITS:
            published[init, column] = paper.transfer(protocol, task, init, fraction)
    cells = list(cells)
    mine = [c for c in cells if c.table == "table1" and c.column in columns]
    metrics = paper.METRICS | {str(c.column[1]): c.metric for c in mine}
    groups = []
    for task, label in TASKS.items():
        metric = METRICS.get(metrics[task], metrics[task])
        groups.append((f"{label} ({metric})", sum(task == t for t, _ in paper.TABLE_1_COLUMNS)))
    shape = _Shape("table1", columns, published, tuple(paper.INITS))
    what = "linear classification" if protocol == "linear" else "fine-tuning"
    title = f"{paper.PROTOCOLS[protocol]}: {what}, with 1%, 10% and all of the training labels"
    notes = [_covered(mine), _drawn(mine), _corpora(mine)] if mine else []
    notes += [EARLY] * (protocol == "linear" and bool(mine))
    key = f"table1-{protocol}"
    return _grid(key, title, groups, shape, cells, tuple(filter(None, notes)))


EARLY = (
    "With few labels an epoch is a step or two. A probe trained by epochs, as in the paper, may "
    "then stop before it has learnt much, and sooner if its encoder is weaker: "
    "docs/linear.md compares it with probes at their minimum."
)


def _covered(cells: Sequence[Cell]) -> str:
    """What an interval of Table 1 covers, given how many runs its cells are means of."""
    shares: dict[int, set[int]] = {}
    for cell in cells:
        shares.setdefault(cell.repeats, set()).add(int(cell.column[2]))
    several = " or ".join(str(count) for count in sorted(shares) if count > 1)
    if not several:
        return (
            "Each cell is a single run: its interval covers the sampling of test patients, "
            "but not another seed or another pretraining."
        )
    mean = f"the mean of {several} runs, each with its own labels, head and order"
    if 1 not in shares:
        return (
            f"Each cell is {mean}; its interval covers these and the test patients, but not "
            "another pretraining."
        )
    single = " and ".join(f"{share}%" for share in sorted(shares[1]))
    return (
        f"A cell with {single} of the labels is a single run, whose interval covers the sampling "
        f"of test patients, but not another seed. Any other cell is {mean}; its interval covers "
        "these and the test patients. No interval covers another pretraining."
    )


def _drawn(cells: Sequence[Cell]) -> str:
    """How many images the fractions of Table 1 are, and what that means for its marks."""
    counts: dict[int, list[int]] = {}
    for cell in cells:
        if cell.n_train is not None:
            counts.setdefault(int(cell.column[2]), []).append(cell.n_train)
    told = [f"{between(counts[share])} with {share}%" for share in sorted(counts)]
    text = f"Training images: {', '.join(told)} of the labels." if told else ""
    if any(cell.one_draw for cell in cells):
        text += (
            f" A single run on fewer than {SCARCE} images gets no mark: another draw of them could "
            "change the order, which the interval of one run does not cover."
        )
    return text


def _corpora(cells: Sequence[Cell]) -> str:
    """Which pairs the encoders of each task were pretrained on."""
    tasks: dict[str, list[str]] = {}
    for cell in cells:
        if cell.corpus:
            task = TASKS[str(cell.column[1])]
            if task not in tasks.setdefault(cell.corpus, []):
                tasks[cell.corpus].append(task)
    told = [f"{corpus} pairs for {', '.join(names)}" for corpus, names in tasks.items()]
    return f"Pretrained on {'; '.join(told)}." if told else ""


def retrieval(cells: Iterable[Cell]) -> Grid:
    """Table 2: both directions, Precision@5, @10 and @50."""
    rows = (*paper.INITS, *paper.SUPERVISED)
    columns: dict[Column, str] = {}
    published: dict[tuple[str, Column], float | None] = {}
    for direction in ("image_image", "text_image"):
        for k in paper.RETRIEVAL_K:
            columns[direction, k] = f"P@{k}"
            for system in rows:
                published[system, (direction, k)] = paper.retrieval(direction, system, k)
    groups = [(name(d), len(paper.RETRIEVAL_K)) for d in ("image_image", "text_image")]
    shape = _Shape("table2", columns, published, rows)
    notes = (
        paper.RANDOM,
        "A system without a text encoder cannot search by text: those places are empty.",
    )
    return _grid("table2", "Table 2: zero-shot retrieval", groups, shape, cells, notes)


def image_only(cells: Iterable[Cell]) -> Grid:
    """Table 3: ConVIRT beside contrastive learning on images alone."""
    rows = ("imagenet", "simclr", "moco_v2", "convirt")
    columns: dict[Column, str] = {}
    published: dict[tuple[str, Column], float | None] = {}
    for key, text in zip(paper.TABLE_3_COLUMNS, ("linear, 1%", "linear, 1%", "P@10"), strict=True):
        columns[key,] = text
        published |= {(s, (key,)): paper.image_only(s, key) for s in rows}
    groups = [(head, 1) for head in ("RSNA", "CheXpert", "image → image")]
    kept = [cell for cell in cells if cell.system in rows]
    title = "Table 3: against contrastive learning on images alone"
    return _grid("table3", title, groups, _Shape("table3", columns, published, rows), kept)


def settings(
    cells: Iterable[Cell], columns: Mapping[str, tuple[str, str]], objective: str = REFERENCE
) -> Grid:
    """Table 4: one hyper-parameter changed.

    Args:
        cells: All cells.
        columns: Name of a column -> its two heads, e.g. "rsna_linear_1" -> "RSNA", "linear, 1%".
        objective: The objective that was varied; the paper has numbers of ConVIRT only.
    """
    rows = tuple(paper.VARIANTS) if objective == REFERENCE else ()
    published: dict[tuple[str, Column], float | None] = {}
    for key in columns:
        published |= {(v, (key,)): paper.setting(v, key) for v in rows}
    texts: dict[Column, str] = {(key,): text for key, (_, text) in columns.items()}
    note = "The paper’s default: τ = 0.1, batch size 32, projections with a hidden layer."
    notes, names = (note,) * bool(rows), paper.VARIANTS
    if not rows:
        names = {**names, DEFAULT: f"{name(objective)} (default)"}
    shape = _Shape("table4", texts, published, rows, names)
    groups = [(head, 1) for head, _ in columns.values()]
    title = f"Table 4: hyper-parameters of {name(objective)}"
    return _grid("table4", title, groups, shape, cells, notes)


def zeroshot(cells: Sequence[Cell]) -> Grid:
    """Zero-shot classification by prompts, which the paper does not have."""
    tasks = list(dict.fromkeys(cell.column for cell in cells if cell.table == "zeroshot"))
    columns: dict[Column, str] = {}
    for column in tasks:
        metric = next(c.metric for c in cells if c.table == "zeroshot" and c.column == column)
        columns[column] = METRICS.get(metric, metric)
    groups = [(TASKS.get(str(task), str(task)), 1) for (task,) in tasks]
    shape = _Shape("zeroshot", columns, {}, ())
    notes = ("Images are scored by their similarity to sentences; no label is used.",)
    return _grid("zeroshot", "Zero-shot classification", groups, shape, cells, notes)


def _grid(
    key: str,
    title: str,
    groups: Iterable[tuple[str, int]],
    shape: _Shape,
    cells: Iterable[Cell],
    notes: tuple[str, ...] = (),
) -> Grid:
    """Place the cells: first the rows of the paper, then those that only we have.

    A column that was not measured as in the paper has none of its numbers.
    """
    found = {
        (c.system, c.column): c
        for c in cells
        if c.table == shape.table and c.column in shape.columns
    }
    foreign = {column for (_, column), cell in found.items() if not cell.alike}
    published = {at: None if at[1] in foreign else v for at, v in shape.published.items()}
    known = [*ORDER, *sorted({system for system, _ in found} - set(ORDER))]
    own = [s for s in known if s not in shape.rows and any(s == system for system, _ in found)]
    rows = []
    for system in (*shape.rows, *own):
        entries = tuple(
            Entry(found.get((system, column)), published.get((system, column)))
            for column in shape.columns
        )
        rows.append((shape.names.get(system, label(system)), entries))
    return Grid(
        key,
        title,
        tuple(groups),
        tuple(shape.columns.values()),
        tuple(rows),
        len(shape.rows),
        notes,
    )


def label(system: str) -> str:
    """The displayed name of a system: the paper's, if it has one."""
    if system == DEFAULT:
        return name(REFERENCE)
    return {**paper.INITS, **paper.SUPERVISED}.get(system, name(system))


def best(grid: Grid) -> set[tuple[int, int]]:
    """(row, column) of the highest value here in each column, ties included."""
    found = set()
    for j in range(len(grid.columns)):
        cells = {i: row[j].cell for i, (_, row) in enumerate(grid.rows)}
        values = {i: cell.value for i, cell in cells.items() if cell is not None}
        if len(values) > 1:
            found |= {(i, j) for i, value in values.items() if value == max(values.values())}
    return found
