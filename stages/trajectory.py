"""Figure 5: how well the states along a pretraining run score, beside their validation loss."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from convirt import files
from stages import _protocols as protocols
from stages._protocols import Protocol
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    from torch import nn

    from convirt.image_encoder import ImageConfig
    from convirt.pair_encoder import PairEncoder
    from convirt.params import Params
    from convirt.search import Parts
    from convirt.store import Store

READS = [
    "seed",
    "compute.device",
    "compute.precision",
    "compute.threads",
    "ablation.fraction",
    "ablation.k",
    "finetune.batch_size",
    "finetune.weight_decay",
    "finetune.dropout",
    "finetune.patience",
    "finetune.factor",
    "finetune.stop",
    "finetune.linear",
    "retrieval.dataset",
    "tasks.{task}",
]
COLUMNS = ["step", "val_loss", "linear", "image_image", "text_image"]

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Sets:
    """What a state is scored on: the task's store, the retrieval set and its parts."""

    task: Store
    retrieval: Store
    parts: Parts


@app.command()
def main(
    objective: str = typer.Argument(help="One of ablation.trajectory, such as convirt."),
    corpus: str = typer.Argument(help="ablation.corpus."),
    task: str = typer.Argument(help="ablation.task."),
    params: Path = PARAMS,
) -> None:
    """Score every kept state of a pretraining run by a linear probe and by retrieval.

    Reads models/kept/OBJECTIVE/CORPUS (filled if train.keep_every is not 0),
    models/encoders/OBJECTIVE/CORPUS, data/stores/TASK and data/stores/<retrieval.dataset>. Writes
    metrics/trajectory/OBJECTIVE.csv, one row per state: step, val_loss, linear (the task's test
    metric with ablation.fraction percent of the labels, mean over finetune.linear.repeats runs),
    image_image and text_image (Precision at ablation.k; the latter is empty without a text
    encoder). If killed and run again, it resumes with the first state that has no scores.
    """
    names = {"objective": objective, "corpus": corpus, "task": task}
    with Stage(__file__, reads=READS, names=names, params=params) as stage:
        from convirt import devices, kept, labelled, provenance, search
        from convirt.pair_encoder import load_encoders
        from convirt.store import Store

        p, spec = stage.params, stage.params.tasks[task]
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        models, stores = stage.root / "models", Path("data") / "stores"
        states = kept.states(models / "kept" / objective / corpus)
        labels, found = (Store.open(stage.root / stores / s) for s in (task, p.retrieval.dataset))
        sets = Sets(labels, found, search.parts_of(found, stores / p.retrieval.dataset))
        where = stores / task / "records.parquet"
        labelled.check_task(labels.records, spec.labels, spec.kind, spec.metric, spec.unit, where)
        final = models / "encoders" / objective / corpus
        image, config, pair = load_encoders(final)
        for module in filter(None, (image, pair)):
            module.to(p.compute.device).eval()
        inputs = {
            "task": labels.meta["digest"],
            "retrieval": found.meta["digest"],
            "encoder": files.sha256_of_folder(final),
            "kept": files.sha256(*(state.path for state in states)),
        }
        rows: list[dict[str, Any]] = []
        with (
            stage.scratch(inputs) as scratch,
            stage.progress(f"trajectory {objective}", len(states), "states") as progress,
        ):
            for state in states:
                done = scratch / f"{state.step}.json"
                if (scores := _read(done)) is None:
                    kept.put(state.path, image, pair)
                    scores = _scores(p, task, sets, image, config, pair)
                    files.write_json(done, scores)
                    progress.update(1, **scores)
                else:
                    progress.skip(1)
                rows.append({"step": state.step, "val_loss": state.val_loss, **scores})
                stage.poll()
            stage.confirm()
            _write(stage.root / "metrics" / "trajectory" / f"{objective}.csv", rows)
            stage.scratch_done()


def _read(path: Path) -> dict[str, Any] | None:
    """The scores of a state, None if there are none; a machine that crashes may empty the file."""
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None


def _scores(
    p: Params,
    task: str,
    sets: Sets,
    image: nn.Module,
    config: ImageConfig,
    pair: PairEncoder | None,
) -> dict[str, float]:
    """The columns of a state that are not known from pretraining."""
    from convirt import linear_probe, search

    spec, k = p.tasks[task], p.ablation.k
    own = p.finetune.linear
    recipes = [protocols.recipe(p, spec, Protocol.linear, i) for i in range(own.repeats)]
    penalties = own.l2 if own.solver == "lbfgs" else None
    linear = linear_probe.test_metric(
        sets.task, spec.labels, spec.unit, p.ablation.fraction, image, config, recipes, penalties
    )
    h = search.encode(sets.retrieval.images, image, config, p.compute.device)
    found = search.search(sets.retrieval, sets.parts, h, pair, (k,))
    return {"linear": linear, **{one.direction: one.result.precision[k] for one in found}}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    import pandas as pd

    table = pd.DataFrame(rows, columns=COLUMNS)
    files.write_text(path, table.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    app()
