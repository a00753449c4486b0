"""Reading what the tables are made of; the error for a missing result names the command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convirt.errors import InputError
from stages._results import read_json, require_keys, there
from stages._run_results import read_run

if TYPE_CHECKING:
    import pandas as pd

    from convirt.compare import Queries
    from convirt.params import Params
    from convirt.results.figure_plots import Curve
    from stages._stage import Stage

Found = dict[str, Any]

RUN_KEYS = {"task", "init", "fraction", "protocol", "metric", "value", "low", "high", "repeats"}
RUN_KEYS |= {"unit", "corpus", "n_train", "provenance"}
ZEROSHOT_KEYS = {"task", "system", "metric", "value", "low", "high", "provenance"}
STATE_COLUMNS = ["step", "val_loss", "linear", "image_image", "text_image"]
CORRELATION = ("objective", "score", "states", "pearson", "spearman", "paper")


def read_result(stage: Stage, name: str, made_by: str, keys: set[str]) -> Found:
    """A result, with its file (`source`) and the DVC stage that makes it (`made_by`)."""
    value = read_json(stage.root, name, made_by)
    require_keys(value, keys, name, made_by)
    return {**value, "source": name, "made_by": made_by}


def transfer_run(stage: Stage, key: str, made_by: str) -> Found:
    """The JSON of a transfer run, which has to be about that run."""
    found = read_run(stage.root, key, made_by, RUN_KEYS)
    return {**found, "source": f"metrics/finetune/{key}.json", "made_by": made_by}


def search_of(stage: Stage, system: str, made_by: str) -> Found:
    """The JSON of a system's search."""
    name, keys = f"metrics/retrieval/{system}.json", {"system", "provenance"}
    return read_result(stage, name, f"{made_by}@{system}", keys)


def queries(stage: Stage, searches: Mapping[str, Found]) -> dict[tuple[str, str], Queries]:
    """By system and direction, what each query found."""
    import pandas as pd

    from convirt.compare import queries
    from convirt.results.summary import DIRECTIONS

    found = {}
    for system, search in searches.items():
        name = f"data/retrieval/{system}/rankings.parquet"
        made_by = search["made_by"]
        table = pd.read_parquet(there(stage.root, name, made_by))
        for direction in DIRECTIONS:
            if direction in search:
                found[system, direction] = queries(table, direction, name, made_by)
    return found


# ------------------------------------------------------------------------------ pretraining
def curves(stage: Stage) -> dict[str, list[Curve]]:
    """The histories of all pretraining runs."""
    import pandas as pd

    from convirt.results.figure_plots import Curve

    p = stage.params
    wanted = [(o, c, f"pretrain@{o}-{c}") for o in p.objectives for c in p.corpora]
    wanted += [(v, p.ablation.corpus, f"vary@{v}") for v in p.ablation.variants]
    curves: dict[str, list[Curve]] = {}
    for name, corpus, made_by in wanted:
        path = f"metrics/pretrain/{name}-{corpus}"
        about = read_result(stage, f"{path}.json", made_by, {"criterion", "best_step"})
        history = pd.read_csv(there(stage.root, f"{path}.csv", made_by))
        _columns(history, {"step", "chance", about["criterion"]}, f"{path}.csv", made_by)
        run = Curve(corpus, history, about["criterion"], about["best_step"])
        curves.setdefault(name, []).append(run)
    return curves


def states(stage: Stage) -> dict[str, pd.DataFrame]:
    """Figure 5's rows of each objective."""
    import pandas as pd

    states = {}
    for objective in stage.params.ablation.trajectory:
        name, made_by = f"metrics/trajectory/{objective}.csv", f"trajectory@{objective}"
        states[objective] = pd.read_csv(there(stage.root, name, made_by))
        _columns(states[objective], set(STATE_COLUMNS), name, made_by)
    return states


def _columns(table: pd.DataFrame, wanted: set[str], name: str, made_by: str) -> None:
    missing = sorted(wanted - set(table.columns))
    if missing:
        found = f"no {', '.join(missing)}"
        raise InputError(name, ", ".join(sorted(wanted)), found, f"dvc repro -f {made_by}")


def correlations(states: Mapping[str, pd.DataFrame], p: Params) -> list[dict[str, Any]]:
    """Correlations of minus the validation loss with each score, over the states of an objective.

    The paper's correlations stand beside those that are about the same scores.
    """
    from convirt.compare import correlation
    from convirt.results import paper
    from convirt.results.tables import REFERENCE

    own = p.ablation
    alike = (own.task, own.fraction, own.k) == paper.FIGURE_5 and paper.searched(p)
    rows = []
    for objective, table in states.items():
        for score in STATE_COLUMNS[2:]:
            loss, values = -table["val_loss"].to_numpy(float), table[score].to_numpy(float)
            r = correlation(loss, values) or (None, None)
            same = alike and objective == REFERENCE
            published = paper.CORRELATIONS.get(score) if same else None
            known = (objective, score, len(table), *r, published)
            rows.append(dict(zip(CORRELATION, known, strict=True)))
    return rows


def setting_columns(p: Params) -> dict[str, tuple[str, str]]:
    """Names of the columns of Table 4, each with its two headings."""
    from convirt.results.table_layout import TASKS

    own = p.ablation
    how = "linear" if own.protocol == "linear" else "fine-tuned"
    probe = f"{own.task}_{own.protocol}_{own.fraction}"
    return {
        probe: (TASKS.get(own.task, own.task), f"{how}, {own.fraction}%"),
        f"image_image_p_at_{own.k}": ("image → image", f"P@{own.k}"),
        f"text_image_p_at_{own.k}": ("text → image", f"P@{own.k}"),
    }
