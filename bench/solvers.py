"""The two solvers of a linear head on the features of an experiment: scores and seconds.

    python -m bench.solvers

Reads data/stores/ and models/encoders/ (`dvc repro preprocess encoder pretrain`) and the settings
in params.yaml, and computes the features of each task and encoder. Seconds are CPU time on one
thread, without that of the features. Scores are means over REPEATS seeds: those of the test set for
the table, those of the validation set for whoever has to choose.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from convirt import feature_cache, labelled, transfer
from convirt.params import Params, Task, load
from convirt.recipe import Recipe
from convirt.store import Store

REPEATS = 5
SOLVERS = ("adam", "lbfgs")


class Outcome(NamedTuple):
    """Means over the repeats, and what was chosen: the best epoch, or the penalty."""

    val: float
    test: float
    seconds: float
    chosen: str


def solve(
    p: Params, spec: Task, store: Store, h: np.ndarray, fraction: int, solver: str
) -> Outcome:
    scores, chosen = [], []
    begin = time.process_time()
    for seed in range(REPEATS):
        f = p.finetune
        recipe = Recipe(
            protocol="linear",
            kind=spec.kind,
            metric=spec.metric,
            lr=spec.lr,
            batch_size=f.batch_size,
            weight_decay=f.weight_decay,
            dropout=f.dropout,
            patience=f.patience,
            factor=f.factor,
            stop=f.stop,
            max_epochs=f.linear.max_epochs,
            seed=seed,
        )
        train, val, test = (
            labelled.split_of(
                h, store.records, spec.labels, spec.unit, split, labelled.as_they_are, "cpu"
            )
            for split in labelled.SPLITS
        )
        rows = store.records.iloc[train.rows]
        train = train.take(labelled.label_subset(rows, spec.labels, fraction, seed))
        head = transfer.linear_head(h.shape[1], len(spec.labels), recipe)
        if solver == "adam":
            chosen.append(f"{transfer.transfer(head, train, val, recipe).best_epoch}")
        else:
            chosen.append(f"{transfer.probe(head, train, val, recipe, f.linear.l2).l2:g}")
        scores.append([transfer.score(head, part, recipe).value for part in (val, test)])
    seconds = (time.process_time() - begin) / REPEATS
    mean = np.mean(scores, axis=0)
    return Outcome(float(mean[0]), float(mean[1]), seconds, " ".join(chosen))


def main() -> None:
    """Print one row per task, encoder and share of the labels."""
    console = Console(width=150)
    if not Path("data/stores").is_dir() or not Path("models/encoders").is_dir():
        console.print("skipped: no data/stores or models/encoders (dvc repro pretrain encoder)")
        return
    torch.set_num_threads(1)
    p = load(Path("params.yaml"))
    table = Table("task", "encoder", "labels")
    for solver in SOLVERS:
        for column in (f"{solver}: test", "val", "CPU s", "chosen"):
            table.add_column(column)
    with tempfile.TemporaryDirectory() as name:
        for task, spec in p.tasks.items():
            store = Store.open(Path("data/stores") / task)
            for init in p.matrix.init:
                where = Path(init) if init in p.model.baselines else Path(init) / spec.corpus
                kept = Path(name) / task / init
                h = feature_cache.features(
                    kept,
                    store.images,
                    np.arange(len(store.records)),
                    Path("models/encoders") / where,
                    "cpu",
                )
                for fraction in p.matrix.fraction:
                    row = [task, init, f"{fraction}%"]
                    for solver in SOLVERS:
                        o = solve(p, spec, store, h, fraction, solver)
                        row += [f"{o.test:.3f}", f"{o.val:.3f}", f"{o.seconds:.2f}", o.chosen]
                    table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
