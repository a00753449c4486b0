"""The headline claims of the paper, answered from the cells in plain sentences with numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convirt.compare import Interval
from convirt.results import paper
from convirt.results.markdown import interval, percent, points
from convirt.results.summary import ALL
from convirt.results.table_layout import TASKS, label
from convirt.results.tables import AGREES, CONTRADICTS, OPEN, REFERENCE, Cell, Column, Order

YES, PARTLY, NO, LEVEL = "yes", "partly", "no", "not told apart"
UNKNOWN = "not measured"
FIRST, TIED, BEHIND = "first", "tied", "behind"  # places of ConVIRT in a column


@dataclass(frozen=True)
class Claim:
    """One claim and its answer.

    Attributes:
        question: What the paper claims, as a question.
        answer: `YES`, `PARTLY`, `NO`, `LEVEL` or `UNKNOWN`.
        text: The answer in one or two sentences.
        points: The numbers behind the answer, one line each.
        short: The answer as part of a sentence, for the head of the page.
    """

    question: str
    answer: str
    text: str
    points: tuple[str, ...] = ()
    short: str = ""


def efficiency(
    differences: Mapping[str, Interval],
    protocol: str,
    scores: Mapping[str, tuple[str, str]] | None = None,
) -> Claim:
    """The abstract's claim: ConVIRT with 10% of the labels against ImageNet with all of them.

    An interval that contains 0 is no evidence that the two are equal, so it does not count for
    "yes". "Yes" is ahead on every task, "partly" ahead on some, "no" ahead on none and behind on
    one or more.

    Args:
        differences: Task -> ConVIRT@10% minus ImageNet@100% on the same test patients.
        protocol: "finetune" (which the claim is about) or "linear".
        scores: Task -> metric and unit, by default the paper's, whose number is given beside these
            alone.
    """
    how = "fine-tuned" if protocol == "finetune" else "linear"
    question = f"With a tenth of the labels, is ConVIRT better than ImageNet with all? ({how})"
    if not differences:
        return Claim(question, UNKNOWN, f"No task has both {how} runs.")
    ahead = [task for task, d in differences.items() if d.low > 0]
    behind = [task for task, d in differences.items() if d.high < 0]
    count = len(differences)
    level = count - len(ahead) - len(behind)
    answer = YES if len(ahead) == count else PARTLY if ahead else NO if behind else LEVEL
    text = (
        f"With 10% of the labels ConVIRT is ahead of ImageNet with 100% on {len(ahead)} of {count} "
        f"tasks and behind on {len(behind)}; on {level} the interval of the difference contains 0."
    )
    if level:
        lowest = min(d.low for task, d in differences.items() if task not in (*ahead, *behind))
        text += (
            " The paper claims “better or comparable”: where that interval contains 0, ConVIRT may "
            f"be up to {points(-lowest).removeprefix('+')} points worse."
        )
    lines = []
    for task, d in differences.items():
        printed = paper.difference(protocol, task, ALL, *(scores or {}).get(task, ()))
        beside = "" if printed is None else f"; paper\u00a0{points(printed)}"
        lines.append(f"{TASKS.get(task, task)}: {_points(d)} points{beside}")
    short = ""
    if protocol == "finetune":
        short = (
            f"with 10% of the labels ConVIRT is ahead of ImageNet with 100% on {len(ahead)} of "
            f"{count} tasks, behind on {len(behind)}, undecided on {level}"
        )
    return Claim(question, answer, text, tuple(lines), short)


def first(cells: Iterable[Cell], protocol: str) -> Claim:
    """In how many of the paper's 11 columns ConVIRT is first among the paper's systems.

    First: the paired interval of its difference to every other system of the paper is above 0.
    Undecided: some interval contains 0 or decides nothing (`tables.Order.one_draw`), and none is
    below 0. "Yes" is first everywhere, "partly" first somewhere, "no" first nowhere and behind
    somewhere.
    """
    what = "linear" if protocol == "linear" else "fine-tuned"
    question = f"Is ConVIRT the best of the paper's systems? ({what})"
    wanted = {(protocol, task, fraction) for task, fraction in paper.TABLE_1_COLUMNS}
    by_column: dict[Column, list[Cell]] = {}
    cells = list(cells)
    for cell in cells:
        if cell.table == "table1" and cell.column in wanted and cell.system in paper.INITS:
            by_column.setdefault(cell.column, []).append(cell)
    places = [
        place for column in by_column.values() if (place := _place(column)) and len(column) > 1
    ]
    if not places:
        return Claim(question, UNKNOWN, f"No {what} cell has ConVIRT and another system.")
    best, behind = places.count(FIRST), places.count(BEHIND)
    level = len(places) - best - behind
    systems = {cell.system for column in by_column.values() for cell in column}
    answer = YES if best == len(places) else PARTLY if best else NO if behind else LEVEL
    text = (
        f"Of the {len(places)} {what} cells, ConVIRT is first by interval in {best} and behind in "
        f"{behind}; in {level} an interval leaves open which system is first. It is compared "
        f"with {len(systems) - 1} of the paper's {len(paper.INITS) - 1} other systems "
        f"(in the paper, its number is the highest in {_first_in_paper(protocol)} of "
        f"{len(paper.TABLE_1_COLUMNS)})."
    )
    text += _ahead(c for c in cells if c.table == "table1" and c.column in wanted)
    orders = [cell.order for column in by_column.values() for cell in column if cell.order]
    short = (
        f"among {len(systems)} of the paper's systems it is first in {best} of {len(places)} "
        f"linear cells, behind in {behind}, else open"
    )
    return Claim(question, answer, text, (_marks(orders),), short if what == "linear" else "")


def retrieval(cells: Iterable[Cell], chance: float, k: int = 10) -> Claim:
    """Whether ConVIRT finds images by text: above chance, no system of the paper ahead of it."""
    question = "Does ConVIRT find images from a sentence, without any label?"
    found = {cell.system: cell for cell in cells if cell.column == ("text_image", k)}
    own = found.get(REFERENCE)
    if own is None:
        return Claim(question, UNKNOWN, f"Its text-image Precision@{k} was not measured.")
    beside = f" (the paper: {percent(own.paper)})" if own.paper is not None else ""
    text = (
        f"Of the {k} images nearest to a sentence, {percent(own.value)}% are of its class{beside}; "
        f"chance is {percent(chance)}%."
    )
    lines = [_line(cell) for cell in found.values()]
    others = [cell for cell in found.values() if cell.system in paper.INITS and cell.order]
    better = [label(cell.system) for cell in others if cell.order and cell.order.side < 0]
    if better:
        text += f" Ahead of ConVIRT: {', '.join(better)}."
    text += _ahead(found.values())
    above = own.low > chance
    answer = (PARTLY if better else YES) if above else NO if own.high < chance else LEVEL
    short = (
        f"of the {k} images nearest to a sentence, {percent(own.value)}% are right (chance "
        f"{percent(chance)}%)"
    )
    return Claim(question, answer, text, tuple(lines), short)


def images(cells: Iterable[Cell], k: int = 10) -> Claim:
    """Whether ConVIRT finds images by image better than the paper's other systems."""
    question = "Does ConVIRT find images of the same class from an image?"
    found = {cell.system: cell for cell in cells if cell.column == ("image_image", k)}
    own = found.get(REFERENCE)
    others = {s: c for s, c in found.items() if s in paper.INITS and s != REFERENCE}
    if own is None or not others:
        text = f"Precision@{k} of ConVIRT, or of a system to compare it with, was not measured."
        return Claim(question, UNKNOWN, text)
    place = _place([own, *others.values()])
    word = {FIRST: "first by interval", TIED: "not told apart from the best"}.get(
        place, "not first"
    )
    beside = f" (the paper: {percent(own.paper)})" if own.paper is not None else ""
    text = (
        f"Of the {k} images nearest to an image, {percent(own.value)}% are of its class{beside}: "
        f"{word} among {len(others) + 1} of the paper's systems."
    )
    text += _ahead(found.values())
    lines = [_line(cell) for cell in found.values()]
    answer = {FIRST: YES, TIED: LEVEL}.get(place, NO)
    return Claim(question, answer, text, tuple(lines))


def _place(column: Sequence[Cell]) -> str:
    """ConVIRT's place in a column, by intervals alone; "" where it is not there."""
    if all(cell.system != REFERENCE for cell in column):
        return ""
    others = [cell.order for cell in column if cell.system != REFERENCE]
    sides = [order.side if order is not None else 0 for order in others]
    return BEHIND if -1 in sides else FIRST if 0 not in sides else TIED


def _ahead(cells: Iterable[Cell]) -> str:
    """A sentence on systems outside the comparison that are ahead of ConVIRT, by interval."""
    others = [cell for cell in cells if cell.system not in paper.INITS and cell.order]
    of = Counter(cell.system for cell in others)
    ahead = Counter(cell.system for cell in others if cell.order and cell.order.side < 0)
    told = [
        label(system) + (f" ({count} of {of[system]})" if of[system] > 1 else "")
        for system, count in ahead.items()
    ]
    return f" Not compared here, and ahead of it: {', '.join(told)}." if told else ""


def _marks(orders: Iterable[Order]) -> str:
    """How many of the paper's orders our intervals confirm and contradict."""
    marks = [order.mark for order in orders if order.mark]
    counts = {mark: marks.count(mark) for mark in (AGREES, OPEN, CONTRADICTS)}
    return (
        f"Of the paper's {len(marks)} comparisons with ConVIRT, our intervals confirm "
        f"{counts[AGREES]}, leave {counts[OPEN]} open and contradict {counts[CONTRADICTS]}. Orders "
        "of other systems among each other are not tested."
    )


def _first_in_paper(protocol: str) -> int:
    """In how many columns the paper prints no higher number than ConVIRT's."""
    wins = 0
    for task, fraction in paper.TABLE_1_COLUMNS:
        values = [paper.transfer(protocol, task, init, fraction) for init in paper.INITS]
        own = paper.transfer(protocol, task, REFERENCE, fraction)
        wins += own is not None and own >= max(v for v in values if v is not None)
    return wins


def _line(cell: Cell) -> str:
    between = interval(cell.value, cell.low, cell.high).replace(" ", "\u00a0")
    return f"{label(cell.system)}: {between}"


def _points(d: Interval) -> str:
    return f"{points(d.value)}\u00a0[{points(d.low)},\u00a0{points(d.high)}]"
