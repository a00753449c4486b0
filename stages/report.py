"""One summary of everything: tables, figures and whether the claim holds."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from stages._results import is_made_up, read_json, there
from stages._stage import PARAMS, Stage
from stages._told import told

if TYPE_CHECKING:
    import pandas as pd

    from convirt.params import Params
    from convirt.results.report_text import Results

READS = [
    "seed",
    "corpora",
    "objectives",
    "datasets.sources",
    "finetune.bootstrap",
    "matrix",
    "model",
    "retrieval",
    "train",
]
RUN_KEYS = {"task", "init", "fraction", "protocol", "metric", "value", "low", "high"}
RUN_KEYS |= {"n_train", "n_train_studies", "n_val", "n_test", "patients_test", "patients_fewest"}
RUN_KEYS |= {"unit", "repeats", "corpus", "max_epochs", "encoder_finetuned"}
LOSS_COLUMNS = ["step", "train_loss", "val_loss", "chance"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    params: Path = PARAMS,
    show: bool = typer.Option(
        False, "--show", help="Only print the tables of the existing metrics/summary.json."
    ),
) -> None:
    """Gather the results of the matrix beside the paper's, and say whether the claim holds.

    Reads metrics/finetune/<run>.json of every run that `matrix` in params.yaml asks for (leftovers
    of others are ignored), models/finetune/<run>/predictions.parquet of those that are compared,
    metrics/pretrain/, metrics/funnel/ and metrics/retrieval/.

    Writes metrics/summary.json, metrics/report.md and metrics/figures/ (loss.png,
    loss/<objective>-<corpus>.csv, efficiency.{csv,png}, retrieval.{csv,png}), and prints the
    tables.
    """
    if show:
        with told():
            _print(read_json(Path.cwd(), "metrics/summary.json", "report"))
        return
    with Stage(__file__, reads=READS, params=params) as stage:
        results, curves = _gather(stage.params, stage.root)
        stage.confirm()
        _write(results, curves, stage.root / "metrics")
        _print(results.summary)


def _print(summary: Mapping[str, Any]) -> None:
    from rich.console import Console

    from convirt.results.console import tables

    if isinstance(sys.stdout, io.TextIOWrapper):  # latin-1 has no minus sign
        sys.stdout.reconfigure(errors="replace")
    # wide enough for the tables where the output is not a terminal, so that logs hold whole lines
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=120)
    for table in tables(summary):
        console.print(table)


def _gather(p: Params, root: Path) -> tuple[Results, dict[str, pd.DataFrame]]:
    """Read every result that the parameters ask for, and summarise it."""
    import pandas as pd

    from convirt.results import paper
    from convirt.results.report_text import Results
    from convirt.results.summary import comparisons, matrix_keys, summarise
    from stages._run_results import read_run

    m = p.matrix
    keys = matrix_keys(m.task, m.init, m.fraction, m.protocol)
    runs = [read_run(root, key, f"finetune@{key}", RUN_KEYS) for key in keys]
    paired = {key for pair in comparisons(runs) for key in (pair.ours, pair.baseline)}
    predictions = {
        key: pd.read_parquet(
            there(root, f"models/finetune/{key}/predictions.parquet", f"finetune@{key}")
        )
        for key in sorted(paired)
    }
    sources = p.datasets.sources
    trained = [f"{objective}-{corpus}" for objective in p.objectives for corpus in p.corpora]
    pretrain = [read_json(root, f"metrics/pretrain/{k}.json", f"pretrain@{k}") for k in trained]
    funnels = {s: read_json(root, f"metrics/funnel/{s}.json", f"preprocess@{s}") for s in sources}
    retrieval = {
        s: read_json(root, f"metrics/retrieval/{s}.json", f"retrieve@{s}")
        for s in p.retrieval.systems
    }
    made_up = frozenset(s for s, source in sources.items() if is_made_up(root, source))
    drawn = {name: name in made_up for name in sources}
    searched = {p.retrieval.dataset: paper.searched(p)}
    results = Results(
        summary=summarise(
            runs, predictions, retrieval, pretrain, drawn, searched, p.finetune.bootstrap, p.seed
        ),
        runs=runs,
        retrieval=retrieval,
        retrieval_set=p.retrieval.dataset,
        pretrain=pretrain,
        funnels=funnels,
        readers={name: source.reader for name, source in sources.items()},
        made_up=made_up,
        settings=_settings(p, _repeats(runs)),
    )
    curves = {
        k: pd.read_csv(there(root, f"metrics/pretrain/{k}.csv", f"pretrain@{k}")) for k in trained
    }
    return results, curves


def _repeats(runs: Sequence[Mapping[str, Any]]) -> str:
    """The number of independent runs per cell, by protocol if there are several protocols."""
    found: dict[str, set[int]] = {}
    for run in runs:
        found.setdefault(run["protocol"], set()).add(len(run["repeats"]))
    counts = {name: " or ".join(map(str, sorted(own))) for name, own in sorted(found.items())}
    if len(counts) == 1:
        return str(*counts.values())
    return ", ".join(f"{protocol} {count}" for protocol, count in counts.items())


def _settings(p: Params, repeats: str) -> list[tuple[str, str, str]]:
    """The settings that a reader has to know, here and in the paper."""
    from convirt.results.paper import SETTINGS

    image, text = p.model.image, p.model.text
    here = (
        f"`{image.architecture}`, weights `{_weights(image.weights)}`",
        f"weights `{_weights(text.weights)}`",
        str(image.size),
        str(p.train.batch_size),
        str(p.train.lr),
        str(p.train.tau),
        str(p.train.lam),
        repeats,
    )
    return [(key, value, SETTINGS[key]) for key, value in zip(SETTINGS, here, strict=True)]


def _weights(source: str) -> str:
    """Where weights come from, without the folders of this machine."""
    return Path(source).name if Path(source).is_absolute() else source


def _write(results: Results, curves: Mapping[str, pd.DataFrame], metrics: Path) -> None:
    """Write summary, page and figures, each of them whole or not at all."""
    from convirt.files import fresh_directory, write_json, write_text
    from convirt.results import plots
    from convirt.results.markdown import data_name
    from convirt.results.report_text import render
    from convirt.results.summary import efficiency_rows, retrieval_rows

    efficiency = efficiency_rows(results.runs)
    retrieval = retrieval_rows(results.summary)
    tasks = {run["task"]: data_name([run["task"]], results.made_up) for run in results.runs}
    with fresh_directory(metrics / "figures") as folder:
        (folder / "loss").mkdir()
        for key, curve in curves.items():
            # one file per encoder, so that `dvc plots show` draws whichever there are
            _write_csv(folder / f"loss/{key}.csv", curve[LOSS_COLUMNS])
        if curves:
            trained_on = data_name((cell["corpus"] for cell in results.pretrain), results.made_up)
            plots.save(plots.loss(curves, trained_on), folder / "loss.png")
        if efficiency:
            _write_csv(folder / "efficiency.csv", efficiency)
            plots.save(plots.efficiency(efficiency, tasks), folder / "efficiency.png")
        if retrieval:
            _write_csv(folder / "retrieval.csv", retrieval)
            searched = data_name([results.retrieval_set], results.made_up)
            plots.save(plots.retrieval(retrieval, searched), folder / "retrieval.png")
    write_text(metrics / "report.md", render(results))
    write_json(metrics / "summary.json", results.summary)


def _write_csv(path: Path, rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> None:
    import pandas as pd

    pd.DataFrame(rows).to_csv(path, index=False, lineterminator="\n")


if __name__ == "__main__":
    app()
