"""One transfer run: an encoder, a task, a share of its labels, a protocol."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from convirt import checkpoint, files
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from convirt.image_encoder import ImageConfig
    from convirt.metrics import Estimate
    from convirt.params import Params, Task
    from convirt.recipe import Recipe
    from convirt.store import Store
    from convirt.transfer import Classifier, Progress
    from stages._progress import Progress as Bar

READS = [
    "seed",
    "compute.device",
    "compute.precision",
    "compute.threads",
    "model.baselines",
    "finetune",
    "tasks.{task}",
]

app = typer.Typer(add_completion=False)


class Protocol(StrEnum):
    """How an encoder is transferred."""

    finetune = "finetune"
    linear = "linear"


class Repeat(NamedTuple):
    """What one repeat leaves behind: test logits and, of the first, the weights."""

    logits: Tensor
    weights: dict[str, Tensor]
    facts: dict[str, int]


@app.command()
def main(
    task: str = typer.Argument(help="A key of tasks, such as rsna."),
    init: str = typer.Argument(help="An objective, or one of model.baselines."),
    fraction: int = typer.Argument(min=1, max=100, help="Percent of the training labels."),
    protocol: Protocol = typer.Argument(help="All weights, or a linear head alone."),
    params: Path = PARAMS,
) -> None:
    """Train a classifier on an encoder, choose its epoch on validation, and test it once.

    Reads data/stores/TASK and models/encoders/INIT (of an objective: the corpus that
    tasks.TASK.corpus names). Writes models/finetune/TASK-INIT-FRACTION-PROTOCOL (the raw test
    predictions; the classifier of the first repeat, which timm can load) and
    metrics/finetune/TASK-INIT-FRACTION-PROTOCOL.json. Killed and run again it goes on where it
    was.
    """
    names = {"task": task, "init": init, "fraction": fraction, "protocol": protocol.value}
    key = "-".join(str(name) for name in names.values())
    with Stage(__file__, reads=READS, names=names, params=params) as stage:
        from convirt import devices, image_encoder, labelled, metrics, provenance
        from convirt.store import Store

        p, spec = stage.params, stage.params.tasks[task]
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        encoder = _encoder_folder(p, stage.root, init, spec)
        where = Path("data") / "stores" / task
        store = Store.open(stage.root / where)
        records = store.records
        labelled.check_task(
            records, spec.labels, spec.kind, spec.metric, spec.unit, where / "records.parquet"
        )
        _, config = image_encoder.load_image_encoder(encoder)
        weights = files.sha256(encoder / "config.json", encoder / "image_encoder.safetensors")
        inputs = {"store": store.meta["digest"], "encoder": weights}
        total = p.finetune.repeats * p.finetune.max_epochs
        with stage.scratch(inputs) as scratch, stage.progress(key, total, "epochs") as bar:
            repeats = [
                _repeat(stage, store, encoder, names, scratch / f"repeat-{i}", i, bar)
                for i in range(p.finetune.repeats)
            ]
            predictions = _predictions(records, spec, [repeat.logits for repeat in repeats])
            result = metrics.estimate(predictions, spec.metric, p.finetune.bootstrap, p.seed)
            stage.confirm()
            facts = {**names, "corpus": None if init in p.model.baselines else spec.corpus}
            with files.fresh_directory(stage.root / "models" / "finetune" / key) as folder:
                files.write_parquet(folder / "predictions.parquet", predictions)
                checkpoint.save_safetensors(folder / "model.safetensors", repeats[0].weights)
                files.write_json(folder / "config.json", _config(config, spec, facts))
            files.write_json(
                stage.root / "metrics" / "finetune" / f"{key}.json",
                {
                    **facts,
                    **_result(records, spec, result, repeats),
                    "provenance": stage.provenance(inputs),
                },
            )
            stage.scratch_done()
        stage.say(
            f"{key}: {spec.metric} {result.value:.3f} [{result.low:.3f}, {result.high:.3f}], "
            f"best epoch {', '.join(str(repeat.facts['best_epoch']) for repeat in repeats)}"
        )


def _encoder_folder(p: Params, root: Path, init: str, spec: Task) -> Path:
    """Where the encoder lies: a baseline's own folder, else that of the task's corpus."""
    folder = root / "models" / "encoders" / init
    return folder if init in p.model.baselines else folder / spec.corpus


def _recipe(p: Params, spec: Task, protocol: str, repeat: int) -> Recipe:
    """The numbers of params.yaml; a repeat is a run with the seed raised by one."""
    from convirt.recipe import Recipe

    f = p.finetune.model_dump(exclude={"repeats", "bootstrap"})
    return Recipe(
        protocol=protocol,
        kind=spec.kind,
        metric=spec.metric,
        lr=spec.lr,
        seed=p.seed + repeat,
        device=p.compute.device,
        bfloat16=p.compute.precision == "bfloat16",
        **f,
    )


def _repeat(
    stage: Stage,
    store: Store,
    encoder: Path,
    names: dict[str, Any],
    scratch: Path,
    index: int,
    bar: Bar,
) -> Repeat:
    """One run with its own draw of labels, head and order; taken up where it was cut off."""
    from convirt import image_encoder, labelled, transfer

    p, spec = stage.params, stage.params.tasks[names["task"]]
    done = checkpoint.load_state(scratch / "done")
    if done is not None:
        tensors, facts = done
        bar.update(p.finetune.max_epochs)
        return Repeat(tensors.pop("logits"), tensors, facts)
    recipe = _recipe(p, spec, names["protocol"], index)
    network, config = image_encoder.load_image_encoder(encoder)
    classifier = transfer.Classifier(network, config.width, len(spec.labels), recipe)
    classifier.to(recipe.device)
    prepare = partial(image_encoder.to_input, config=config)
    part = partial(labelled.split_of, store.images, store.records, spec.labels, spec.unit)
    train, val, test = (part(split, prepare, recipe.device) for split in ("train", "val", "test"))
    rows = store.records.iloc[train.rows]
    train = train.take(labelled.label_subset(rows, spec.labels, names["fraction"], recipe.seed))

    def report(progress: Progress) -> None:
        bar.update(repeat=index, loss=progress.train_loss, val=progress.val.value)
        stage.poll()

    outcome = transfer.transfer(classifier, train, val, recipe, report, scratch)
    logits = transfer.predict(classifier, test)
    facts = {
        "n_train": len(train.rows),
        "best_epoch": outcome.best_epoch,
        "epochs": outcome.epochs,
    }
    weights = _named_for_timm(classifier) if index == 0 else {}
    checkpoint.save_state(scratch / "done", {"logits": logits, **weights}, facts)
    return Repeat(logits, weights, facts)


def _named_for_timm(classifier: Classifier) -> dict[str, Tensor]:
    """The classifier's weights under the names that timm gives to the same architecture."""
    head = str(getattr(classifier.encoder, "default_cfg", {}).get("classifier", "head"))
    weights = dict(classifier.encoder.state_dict())
    weights |= {f"{head}.{name}": value for name, value in classifier.head[1].state_dict().items()}
    return weights


def _predictions(records: pd.DataFrame, spec: Task, logits: list[Tensor]) -> pd.DataFrame:
    """One row a repeat and test image: who it is, what it has (y_), what was predicted (p_)."""
    import pandas as pd

    from convirt.recipe import probabilities

    test = records[records["split"] == "test"]
    tables = []
    for i, values in enumerate(logits):
        table = pd.DataFrame({"repeat": i, "image": test["image"], "patient": test["patient"]})
        table["unit"] = test[spec.unit]
        p = probabilities(values, spec.kind)
        for j, label in enumerate(spec.labels):
            table[f"y_{label}"], table[f"p_{label}"] = test[label].astype(float), p[:, j]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _result(
    records: pd.DataFrame, spec: Task, result: Estimate, repeats: list[Repeat]
) -> dict[str, Any]:
    """The numbers of a run; counts are images, but for patients_test."""
    return {
        "metric": spec.metric,
        "unit": spec.unit,
        "value": result.value,
        "low": result.low,
        "high": result.high,
        "patients_test": result.patients,
        "repeats": list(result.repeats),
        "n_train": repeats[0].facts["n_train"],
        "n_val": int((records["split"] == "val").sum()),
        "n_test": int((records["split"] == "test").sum()),
        "best_epoch": [repeat.facts["best_epoch"] for repeat in repeats],
        "epochs": [repeat.facts["epochs"] for repeat in repeats],
    }


def _config(config: ImageConfig, spec: Task, facts: dict[str, Any]) -> dict[str, Any]:
    """What a user of model.safetensors has to know."""
    return {
        **facts,
        "image": asdict(config),
        "labels": list(spec.labels),
        "kind": spec.kind,
        "repeat": 0,
        "load": f"timm.create_model({config.architecture!r}, num_classes={len(spec.labels)}, "
        "checkpoint_path='model.safetensors')",
    }


if __name__ == "__main__":
    app()
