"""What the tables are made of: every result that the parameters ask for, read and compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convirt.errors import InputError
from convirt.results.summary import DIRECTIONS, FEW, comparisons, key_of, matrix_keys, run_key
from stages import _table_inputs as inputs
from stages._results import require_keys, there
from stages._table_inputs import Found

if TYPE_CHECKING:
    import pandas as pd

    from convirt.compare import Interval, Queries
    from convirt.params import Params
    from convirt.results.figure_plots import Curve
    from convirt.results.tables import Cell, Column
    from stages._stage import Stage


@dataclass(frozen=True)
class Measured:
    """All numbers of the tables.

    Attributes:
        cells: The cells of all tables, in the order of the parameters.
        efficiency: By protocol and task, ConVIRT@10% minus ImageNet@100%.
        chance: Precision of a random ranking for text queries; without any, for image queries.
        curves: By objective or variant, its pretraining runs.
        states: By objective, the scores of its kept states (Figure 5).
        correlations: Rows of figure5.csv.
    """

    cells: Sequence[Cell]
    efficiency: Mapping[str, Mapping[str, Interval]]
    chance: float
    curves: Mapping[str, Sequence[Curve]]
    states: Mapping[str, pd.DataFrame]
    correlations: Sequence[Mapping[str, Any]]

    def sets(self, p: Params) -> set[str]:
        """Names of the data sets that the numbers depend on."""
        varied = [p.ablation.task] if p.ablation.variants or p.ablation.trajectory else []
        return {*p.matrix.task, *p.corpora, p.retrieval.dataset, *p.zeroshot.task, *varied}


def gather(stage: Stage) -> Measured:
    """Read, compare and sort everything.

    Raises:
        InputError: A result that the parameters ask for is missing or of another version.
    """
    from convirt.results import tables

    p = stage.params
    m, own = p.matrix, p.ablation
    runs = [inputs.transfer_run(stage, k, f"finetune@{k}") for k in matrix_keys(*_axes(m))]
    probes = {}
    for variant in own.variants:
        key = run_key(own.task, variant, own.fraction, own.protocol)
        probes[variant] = inputs.transfer_run(stage, key, f"vary-probe@{variant}")
    # before the long part, so that missing files are reported early
    curves, states = inputs.curves(stage), inputs.states(stage)
    zero = [
        inputs.read_result(
            stage, f"metrics/zeroshot/{t}-{s}.json", f"zeroshot@{t}-{s}", inputs.ZEROSHOT_KEYS
        )
        for t in p.zeroshot.task
        for s in p.zeroshot.system
    ]
    searches = {s: inputs.search_of(stage, s, "retrieve") for s in p.retrieval.systems}
    varied = {v: inputs.search_of(stage, v, "vary-retrieve") for v in own.variants}
    leads, efficiency, probe_leads = _paired(stage, runs, probes)
    cells = tables.transfer_cells(runs, leads)
    found = inputs.queries(stage, searches) | inputs.queries(stage, varied)
    cells += _retrieval_cells(stage, searches, found)
    cells += tables.image_only_cells(cells)
    cells += _setting_cells(stage, cells, probes, probe_leads, varied, found)
    cells += tables.zeroshot_cells(zero)
    chance = _chance(searches.get(tables.REFERENCE, {}))
    return Measured(cells, efficiency, chance, curves, states, inputs.correlations(states, p))


def _axes(matrix: Any) -> tuple[Iterable[str], Iterable[str], Iterable[int], Iterable[str]]:
    return matrix.task, matrix.init, matrix.fraction, matrix.protocol


# ------------------------------------------------------------------------------ paired differences
def _paired(
    stage: Stage, runs: Sequence[Found], probes: Mapping[str, Found]
) -> tuple[dict[str, Interval], dict[str, dict[str, Interval]], dict[str, Interval]]:
    """ConVIRT minus each run, by source; the claim by protocol and task; default minus variants."""
    from convirt.results.tables import REFERENCE

    by_key = {key_of(run): run for run in runs}
    jobs: list[tuple[str, Found, Found]] = []
    for run in runs:
        key = run_key(run["task"], REFERENCE, run["fraction"], run["protocol"])
        if run["init"] != REFERENCE and key in by_key:
            jobs.append((run["source"], by_key[key], run))
    claims = []
    for pair in comparisons(runs):
        if pair.fraction != FEW:
            claims.append(pair)
            jobs.append((pair.ours + pair.baseline, by_key[pair.ours], by_key[pair.baseline]))
    own = stage.params.ablation
    default = by_key.get(run_key(own.task, own.objective, own.fraction, own.protocol))
    jobs += [(probe["source"], default, probe) for probe in probes.values() if default]
    found: dict[str, Interval] = {}
    with stage.progress("comparing", len(jobs), "pairs") as bar:
        for name, ours, theirs in jobs:
            found[name] = _difference(stage, ours, theirs)
            bar.update()
            stage.poll()
    efficiency: dict[str, dict[str, Interval]] = {}
    for pair in claims:
        lead = found[pair.ours + pair.baseline]
        efficiency.setdefault(pair.protocol, {})[pair.task] = lead
    leads = {run["source"]: found[run["source"]] for run in runs if run["source"] in found}
    varied = {v: found[probe["source"]] for v, probe in probes.items() if probe["source"] in found}
    return leads, efficiency, varied


def _difference(stage: Stage, ours: Found, theirs: Found) -> Interval:
    """The metric of one run minus that of another, on the same test patients.

    With too few patients to resample nothing is known: the interval then is all possible values.
    """
    import pandas as pd

    from convirt.compare import Interval
    from convirt.metrics import paired_difference
    from convirt.results.summary import ENOUGH

    p = stage.params
    keys = [key_of(ours), key_of(theirs)]
    a, b = (
        pd.read_parquet(
            there(stage.root, f"models/finetune/{key}/predictions.parquet", run["made_by"])
        )
        for key, run in zip(keys, (ours, theirs), strict=True)
    )
    try:
        found = paired_difference(a, b, ours["metric"], p.finetune.bootstrap, p.seed)
    except ValueError as error:
        raise InputError(
            " and ".join(f"models/finetune/{key}" for key in keys),
            "predictions of the same test images",
            str(error),
            f"dvc repro -f {ours['made_by']} {theirs['made_by']}",
        ) from error
    low, high = (found.low, found.high) if found.fewest >= ENOUGH else (-1.0, 1.0)
    return Interval(found.value, low, high)


# ------------------------------------------------------------------------------ retrieval
def _retrieval_cells(
    stage: Stage, searches: Mapping[str, Found], found: Mapping[tuple[str, str], Queries]
) -> list[Cell]:
    from convirt.results import paper
    from convirt.results.tables import REFERENCE, retrieval_cell

    alike = paper.searched(stage.params)
    cells = []
    for system, search in searches.items():
        for direction in DIRECTIONS:
            for k in stage.params.retrieval.k if direction in search else ():
                own, lead = _precision(stage, searches, found, (direction, k), system, REFERENCE)
                cells.append(retrieval_cell(system, (direction, k), own, lead, search, alike))
    return cells


def _precision(
    stage: Stage,
    searches: Mapping[str, Found],
    found: Mapping[tuple[str, str], Queries],
    column: tuple[str, int],
    system: str,
    against: str,
) -> tuple[Interval, Interval | None]:
    """Precision@k of a system, and that of `against` minus it, query by query."""
    from convirt.compare import interval, precision

    direction, k = column
    draws = (stage.params.finetune.bootstrap, stage.params.seed)

    def of(name: str) -> Any:
        where = f"data/retrieval/{name}/rankings.parquet"
        search = searches[name]
        made_by = search["made_by"]
        require_keys(search[direction], {f"p_at_{k}"}, search["source"], made_by)
        stated = search[direction][f"p_at_{k}"]
        return precision(found[name, direction], k, stated, where, made_by)

    own = of(system)
    lead = None
    if system != against and (against, direction) in found:
        if found[against, direction].names != found[system, direction].names:
            where = f"data/retrieval/{against} and {system}"
            hint = f"dvc repro -f {searches[against]['made_by']} {searches[system]['made_by']}"
            raise InputError(where, "the same queries in the same order", "others", hint)
        lead = interval(of(against) - own, *draws)
    return interval(own, *draws), lead


def _chance(search: Found) -> float:
    for direction in ("text_image", "image_image"):
        if direction in search:
            return float(search[direction]["chance"])
    return 0.0


def _setting_cells(
    stage: Stage,
    cells: Sequence[Cell],
    probes: Mapping[str, Found],
    leads: Mapping[str, Interval],
    varied: Mapping[str, Found],
    found: Mapping[tuple[str, str], Queries],
) -> list[Cell]:
    """Table 4: the default, where it was measured, and every variant."""
    from convirt.results import paper
    from convirt.results.tables import DEFAULT, retrieval_cell, setting_cell, transfer_cells

    own = stage.params.ablation
    if not own.variants:
        return []
    names = inputs.setting_columns(stage.params)
    probe, *rest = names
    places: dict[str, tuple[str, Column]] = {
        probe: ("table1", (own.protocol, own.task, own.fraction))
    }
    places |= {n: ("table2", (d, own.k)) for n, d in zip(rest, DIRECTIONS, strict=True)}
    made = [
        setting_cell(cell, DEFAULT, name, None)
        for name, place in places.items()
        for cell in cells
        if (cell.table, cell.column) == place and cell.system == own.objective
    ]
    searches, alike = dict(varied), paper.searched(stage.params)
    known = {c.system for c in cells if c.table == "table2"}
    if own.objective in known:
        searches[own.objective] = inputs.search_of(stage, own.objective, "retrieve")
    for variant in own.variants:
        (cell,) = transfer_cells([probes[variant]], {})
        made.append(setting_cell(cell, variant, probe, leads.get(variant)))
        for name, direction in zip(rest, DIRECTIONS, strict=True):
            if direction in varied[variant]:
                column = (direction, own.k)
                value, lead = _precision(stage, searches, found, column, variant, own.objective)
                cell = retrieval_cell(variant, column, value, None, varied[variant], alike)
                made.append(setting_cell(cell, variant, name, lead))
    return made
