"""From single results to the one nested dictionary that shows whether the claim holds.

The abstract's claim: ConVIRT with 10% of the labels is as good as or better than ImageNet with all
of them. Here a claim is a paired difference on the same test patients, with a 95% interval.
These are pure functions that read no file: what is not passed in is not in the summary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convirt.contradictions import RESERVED
from convirt.errors import InputError
from convirt.results import paper

if TYPE_CHECKING:
    import pandas as pd

Run = Mapping[str, Any]  # the JSON of one transfer run
Cells = dict[str, Any]  # nested, scalars at the leaves

OURS, BASELINE = "convirt", "imagenet"
FEW, ALL = 10, 100  # percent of the training labels
ENOUGH = 10  # test patients of each class that resampling needs, to be meaningful
DIRECTIONS = ("image_image", "text_image")
PRECISION = re.compile(r"p_at_(\d+)")
RECALL = re.compile(r"recall_at_(\d+)")  # of an approximate ranking


def run_key(task: str, init: str, fraction: int, protocol: str) -> str:
    """Name of a run, as in ``dvc repro finetune@<key>`` and in the names of its files."""
    return f"{task}-{init}-{fraction}-{protocol}"


def key_of(run: Run) -> str:
    """Name of the run that a JSON describes."""
    return run_key(run["task"], run["init"], run["fraction"], run["protocol"])


def matrix_keys(
    tasks: Iterable[str], inits: Iterable[str], fractions: Iterable[int], protocols: Iterable[str]
) -> list[str]:
    """The runs of the matrix, in the order of its axes; the first axis is the slowest."""
    inits, fractions, protocols = list(inits), list(fractions), list(protocols)
    return [
        run_key(task, init, fraction, protocol)
        for task in tasks
        for init in inits
        for fraction in fractions
        for protocol in protocols
    ]


@dataclass(frozen=True)
class Comparison:
    """One paired difference: the metric of run `ours` minus that of run `baseline`.

    Attributes:
        path: Where the result is in the summary, e.g. ``("claim", "equal_fraction", "rsna")``.
        task: Name of the task.
        protocol: ``"finetune"`` or ``"linear"``.
        fraction: Percent of the labels that the baseline had.
        ours: Key of the ConVIRT run at 10% of the labels.
        baseline: Key of the ImageNet run.
        metric: ``"auroc"`` or ``"accuracy"``.
        unit: ``"image"``, ``"study"`` or ``"patient"``.
    """

    path: tuple[str, ...]
    task: str
    protocol: str
    fraction: int
    ours: str
    baseline: str
    metric: str
    unit: str


def comparisons(runs: Sequence[Run]) -> list[Comparison]:
    """The comparisons of which both runs exist.

    The claim of the abstract is about fine-tuning, whose results are at ``claim.<task>``; those of
    linear probes, if they were run, are at ``claim.linear.<task>``.

    Raises:
        InputError: A task has a name that the summary uses for something else.
    """
    by_key = {key_of(run): run for run in runs}
    found = []
    for task, protocol in dict.fromkeys((run["task"], run["protocol"]) for run in runs):
        if task in RESERVED:
            raise InputError(
                f"params.yaml, tasks.{task}",
                f"a task name other than {', '.join(sorted(RESERVED))}",
                task,
                "rename the task, its data set and its entry in matrix.task",
            )
        for fraction, part in ((ALL, ()), (FEW, ("equal_fraction",))):
            ours = run_key(task, OURS, FEW, protocol)
            baseline = run_key(task, BASELINE, fraction, protocol)
            if ours in by_key and baseline in by_key:
                root = ("claim",) if protocol == "finetune" else ("claim", protocol)
                path = (*root, *part, task)
                score = by_key[ours]["metric"], by_key[ours]["unit"]
                found.append(Comparison(path, task, protocol, fraction, ours, baseline, *score))
    return found


def summarise(
    runs: Sequence[Run],
    predictions: Mapping[str, pd.DataFrame],
    retrieval: Mapping[str, Mapping[str, Any]],
    pretrain: Sequence[Mapping[str, Any]],
    made_up: Mapping[str, bool],
    searched: Mapping[str, bool],
    resamples: int,
    seed: int,
) -> Cells:
    """Everything that was measured, as scalars under dotted keys that `dvc metrics diff` sorts.

    Args:
        runs: The JSON of each run of the matrix.
        predictions: Raw test predictions by run key, at least of the runs in `comparisons(runs)`;
            columns repeat, image, patient, unit, y_<label>, p_<label>.
        retrieval: The retrieval JSON of each system.
        pretrain: The JSON of each pretrained encoder.
        made_up: By data set, whether it is made up.
        searched: The searched set, and whether it has the layout of the paper's, CheXpert 8x200,
            so that the paper's numbers may stand beside ours.
        resamples: Bootstrap resamples of the test patients.
        seed: Seed of the bootstrap.

    Returns:
        ``<protocol>.<task>.<init>.<fraction>.{value,low,high}``,
        ``claim.[linear.][equal_fraction.]<task>.{difference,low,high}`` and ``...mean.difference``,
        ``retrieval.<system>.<direction>.{p_at_<k>,chance}`` (and ``recall_at_<k>`` if the ranking
        is approximate),
        ``pretrain.<objective>.<corpus>.{val_loss,chance,below_chance,pairs}`` (also the criterion's
        ``start`` and ``best``), ``data.made_up.<set>``, ``data.searched.<set>``, and, for a task of
        the paper that is scored by another metric or unit, ``data.other_score.<task>``. Metrics and
        differences are fractions, losses are in nats. A cell that was not run is absent, as is the
        interval of a difference with fewer than `ENOUGH` test patients of a class.
    """
    summary: Cells = {}
    for key, facts in (("made_up", made_up), ("searched", searched)):
        _put(summary, ("data", key), {name: float(value) for name, value in facts.items()})
    for run in runs:
        score = run["task"], run["metric"], run["unit"]
        if run["task"] in paper.METRICS and not paper.comparable(*score):
            _put(summary, ("data", "other_score"), {run["task"]: 1.0})
        path = (run["protocol"], run["task"], run["init"], str(run["fraction"]))
        _put(summary, path, {part: float(run[part]) for part in ("value", "low", "high")})
    _put_claims(summary, comparisons(runs), predictions, resamples, seed)
    for system, cells in retrieval.items():
        _put(summary, ("retrieval", system), _precisions(cells))
    for result in pretrain:
        cell: Cells = {"pairs": int(result["pairs"])}
        cell |= {part: float(result[part]) for part in ("val_loss", "start", "best")}
        if result["chance"] is not None:
            chance = float(result["chance"])
            cell |= {"chance": chance, "below_chance": 1 - cell["val_loss"] / chance}
        _put(summary, ("pretrain", result["objective"], result["corpus"]), cell)
    return summary


def _put_claims(
    summary: Cells,
    pairs: Sequence[Comparison],
    predictions: Mapping[str, pd.DataFrame],
    resamples: int,
    seed: int,
) -> None:
    """Add every paired difference, and the unweighted mean over the tasks of each group."""
    from convirt.metrics import paired_difference

    groups: dict[tuple[str, ...], list[float]] = {}
    for pair in pairs:
        tables = predictions[pair.ours], predictions[pair.baseline]
        try:
            result = paired_difference(*tables, pair.metric, resamples, seed)
        except ValueError as error:
            raise InputError(
                f"predictions of {pair.ours} and {pair.baseline}",
                "two runs tested on the same images, patients and labels",
                str(error),
                f"dvc repro -f finetune@{pair.ours} finetune@{pair.baseline}",
            ) from error
        cell = {"difference": result.value}
        if result.fewest >= ENOUGH:
            cell |= {"low": result.low, "high": result.high}
        _put(summary, pair.path, cell)
        groups.setdefault(pair.path[:-1], []).append(result.value)
    for path, values in groups.items():
        _put(summary, (*path, "mean"), {"difference": sum(values) / len(values)})


def _precisions(cells: Mapping[str, Any]) -> Cells:
    """Keep p_at_k, chance and recall_at_k of each direction of a retrieval JSON."""
    return {
        direction: {
            key: float(value)
            for key, value in cells[direction].items()
            if key == "chance" or PRECISION.fullmatch(key) or RECALL.fullmatch(key)
        }
        for direction in DIRECTIONS
        if direction in cells
    }


def efficiency_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows in long format for the label-efficiency figure and its CSV: ours, then the paper's.

    Keys: protocol, task, metric, init, fraction (percent), source ("here" or "paper"), value, low,
    high (fractions between 0 and 1; low and high are None for the paper, which has no intervals).
    """
    heads = ("protocol", "task", "metric", "init")
    lines = {tuple(run[head] for head in heads): run["unit"] for run in runs}
    rows: list[dict[str, Any]] = []
    for line, unit in lines.items():
        protocol, task, metric, init = line
        base = dict(zip(heads, line, strict=True))
        for run in runs:
            if tuple(run[head] for head in heads) == line:
                cell = {part: run[part] for part in ("fraction", "value", "low", "high")}
                rows.append(base | {"source": "here"} | cell)
        for fraction in dict.fromkeys(run["fraction"] for run in runs):
            value = paper.transfer(protocol, task, init, fraction, metric, unit)
            if value is not None:
                cell = {"fraction": fraction, "value": value, "low": None, "high": None}
                rows.append(base | {"source": "paper"} | cell)
    return rows


def retrieval_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows in long format for the retrieval figure and its CSV: ours, then the paper's.

    The paper's are left out if another set than its own was searched. Keys: source ("here" or
    "paper"), direction, init, k, value, chance; our rows also have recall if it is approximate.
    """
    rows: list[dict[str, Any]] = []
    theirs = any(summary["data"]["searched"].values())
    cells = summary.get("retrieval", {})
    recall = recall_key(cells)
    for direction in DIRECTIONS:
        for init in sorted(cells, key=lambda system: (system != OURS, system)):
            cell = cells[init].get(direction, {})
            ks = sorted(int(match[1]) for key in cell if (match := PRECISION.fullmatch(key)))
            here = {k: cell[f"p_at_{k}"] for k in ks}
            published = {k: paper.retrieval(direction, init, k) for k in ks if theirs}
            base = {"direction": direction, "init": init}
            for source, values in (("here", here), ("paper", published)):
                for k, value in values.items():
                    if value is not None:
                        row = {"source": source, "k": k, "value": value, "chance": cell["chance"]}
                        known = {"recall": cell[recall]} if source == "here" and recall else {}
                        rows.append(base | row | known)
    return rows


def made_up_sets(summary: Mapping[str, Any]) -> frozenset[str]:
    """The data sets that the demo drew.

    Raises:
        InputError: The summary is of an earlier version, which held their share alone.
    """
    made_up = summary["data"]["made_up"]
    if not isinstance(made_up, Mapping):
        where, found = "metrics/summary.json: data.made_up", f"{made_up}, of an earlier version"
        raise InputError(where, "a number for each data set", found, "dvc repro report")
    return frozenset(name for name, drawn in made_up.items() if drawn)


def recall_key(cells: Mapping[str, Any]) -> str | None:
    """`recall_at_<k>` if `cells`, ``summary["retrieval"]``, are of approximate rankings."""
    keys = {key for system in cells.values() for cell in system.values() for key in cell}
    return next(filter(RECALL.fullmatch, sorted(keys)), None)


def _put(cells: Cells, path: Sequence[str], value: Cells) -> None:
    """Merge `value` into the nested dictionary at a path of keys."""
    for part in path:
        cells = cells.setdefault(part, {})
    cells.update(value)
