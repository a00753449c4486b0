"""One transfer run: an encoder, a task, a share of its labels, a protocol."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from convirt import checkpoint, files
from stages import _protocols as protocols
from stages._protocols import Protocol
from stages._stage import PARAMS, Stage
from stages._stopping import RESUMABLE, stoppable

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from convirt.image_encoder import ImageConfig
    from convirt.params import Task
    from convirt.store import Store
    from convirt.transfer import EpochReport
    from stages._progress import Progress
    from stages._protocols import Setting

READS = [
    "seed",
    "compute.device",
    "compute.precision",
    "compute.store",
    "compute.threads",
    "model.baselines",
    "finetune.batch_size",
    "finetune.weight_decay",
    "finetune.dropout",
    "finetune.patience",
    "finetune.factor",
    "finetune.stop",
    "finetune.bootstrap",
    "finetune.{protocol}",
    "tasks.{task}",
]

app = typer.Typer(add_completion=False)


class Repeat(NamedTuple):
    """The results of one repeat: test logits, facts about it and, for the first, the weights."""

    logits: Tensor
    weights: dict[str, Tensor]
    facts: dict[str, float]


@app.command()
def main(
    task: str = typer.Argument(help="A key of tasks, such as rsna."),
    init: str = typer.Argument(help="An objective, or one of model.baselines."),
    fraction: int = typer.Argument(min=1, max=100, help="Percent of the training labels."),
    protocol: Protocol = typer.Argument(help="All weights, or a linear head alone."),
    params: Path = PARAMS,
) -> None:
    """Train a classifier on an encoder, choose its epoch on validation, and test it once.

    Reads data/stores/TASK and models/encoders/INIT (for an objective, the encoder for the corpus
    that tasks.TASK.corpus names). Writes models/finetune/TASK-INIT-FRACTION-PROTOCOL (the raw test
    predictions and, from the first repeat, the classifier, which timm can load, or the linear head
    alone) and metrics/finetune/TASK-INIT-FRACTION-PROTOCOL.json. If killed and run again, it
    resumes where it stopped; on SIGTERM it saves its state first and ends with exit code 75. Linear
    runs of one task and encoder share their features, in .scratch/features-DIGEST.
    """
    names = {"task": task, "init": init, "fraction": fraction, "protocol": protocol.value}
    key = "-".join(str(name) for name in names.values())
    with Stage(__file__, reads=READS, names=names, params=params) as stage:
        from convirt import devices, image_encoder, labelled, metrics, provenance
        from convirt.store import Store

        p, spec = stage.params, stage.params.tasks[task]
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        encoder = stage.encoder_of(init, spec.corpus)
        where = Path("data") / "stores" / task
        store = Store.open(stage.root / where)
        records = store.records
        labelled.check_task(
            records, spec.labels, spec.kind, spec.metric, spec.unit, where / "records.parquet"
        )
        config = image_encoder.read_image_config(encoder)
        weights = files.sha256(encoder / "config.json", encoder / "image_encoder.safetensors")
        inputs = {"store": store.meta["digest"], "encoder": weights}
        with stage.scratch(inputs) as scratch:
            repeats = _repeats(stage, store, encoder, inputs, names, scratch)
            predictions = _predictions(records, spec, [repeat.logits for repeat in repeats])
            result = metrics.estimate(predictions, spec.metric, p.finetune.bootstrap, p.seed)
            stage.confirm()
            facts = {**names, "corpus": None if init in p.model.baselines else spec.corpus}
            about = {
                "folder": encoder.relative_to(stage.root).as_posix(),
                "sha256": files.sha256(encoder / "image_encoder.safetensors"),
            }
            with files.fresh_directory(stage.root / "models" / "finetune" / key) as folder:
                files.write_parquet(folder / "predictions.parquet", predictions)
                checkpoint.save_safetensors(
                    folder / protocols.WEIGHTS[protocol], repeats[0].weights
                )
                files.write_json(folder / "config.json", _config(config, spec, facts, about))
            files.write_json(
                stage.root / "metrics" / "finetune" / f"{key}.json",
                {
                    **facts,
                    "metric": spec.metric,
                    "unit": spec.unit,
                    **metrics.as_json(result, p.finetune.bootstrap),
                    **_counts(records, repeats),
                    "max_epochs": protocols.own(p, protocol).max_epochs,
                    # the run that the encoder was fine-tuned in, whose labels it has seen
                    "encoder_finetuned": image_encoder.read_config(encoder).get("finetuned"),
                    "provenance": stage.provenance(inputs),
                },
            )
            stage.scratch_done()
        stage.say(f"{key}: {spec.metric} {result.value:.3f} [{result.low:.3f}, {result.high:.3f}]")


def _repeats(
    stage: Stage,
    store: Store,
    encoder: Path,
    inputs: dict[str, str],
    names: dict[str, Any],
    scratch: Path,
) -> list[Repeat]:
    """All repeats, one after the other; SIGTERM ends them once their state is saved."""
    from convirt.errors import StoppedError

    protocol, spec = Protocol(names["protocol"]), stage.params.tasks[names["task"]]
    own = protocols.own(stage.params, protocol)
    count = own.repeats_with(names["fraction"])
    try:
        with stoppable() as stop:

            def check() -> None:
                if stop():
                    raise StoppedError

            given = protocols.Given(stage, store, encoder, spec, inputs, scratch.parent, check)
            setting = protocols.setting(protocol, given)
            key = "-".join(str(name) for name in names.values())
            with stage.progress(key, count * own.max_epochs, "epochs") as bar:
                return [
                    _repeat(stage, setting, names, scratch / f"repeat-{i}", i, bar)
                    for i in range(count)
                ]
    except StoppedError as error:
        stage.say("stopped; run the same command to go on from the last state")
        raise typer.Exit(RESUMABLE) from error


def _repeat(
    stage: Stage, setting: Setting, names: dict[str, Any], scratch: Path, index: int, bar: Progress
) -> Repeat:
    """One run with its own draw of labels, head and order; resumed where it was interrupted."""
    from convirt import labelled, transfer

    spec = stage.params.tasks[names["task"]]
    recipe = protocols.recipe(stage.params, spec, names["protocol"], index)
    done = checkpoint.load_state(scratch / "done")
    if done is not None:
        tensors, facts = done
        bar.skip(recipe.max_epochs)
        return Repeat(tensors.pop("logits"), tensors, facts)
    model = setting.build(recipe)
    train, val, test = (setting.part(split) for split in labelled.SPLITS)
    rows = setting.records.iloc[train.rows]
    train = train.take(labelled.label_subset(rows, spec.labels, names["fraction"], recipe.seed))

    told = 0  # epochs

    def report(epoch: EpochReport) -> None:
        nonlocal told
        bar.skip(epoch.epoch - 1 - told)  # a resumed run goes on behind those that it has done
        bar.update(repeat=index, loss=epoch.train_loss, val=epoch.val.value)
        told = epoch.epoch
        stage.poll()

    studies = setting.records["study"].iloc[train.rows].nunique()
    facts = {"n_train": len(train.rows), "n_train_studies": studies}
    facts |= setting.train(model, train, val, recipe, report, scratch)
    logits = transfer.predict(model, test)
    weights = setting.weights(model) if index == 0 else {}
    checkpoint.save_state(scratch / "done", {"logits": logits, **weights}, facts)
    for path in scratch.glob("*.safetensors"):  # epoch states: twice the weights and their moments
        path.unlink()
    bar.skip(recipe.max_epochs - told)  # those that it did not need
    return Repeat(logits, weights, facts)


# ------------------------------------------------------------------------------ what is written
def _predictions(records: pd.DataFrame, spec: Task, logits: list[Tensor]) -> pd.DataFrame:
    """The table of the raw test predictions, one set of logits per repeat."""
    from convirt.labelled import prediction_table
    from convirt.recipe import probabilities

    p = [probabilities(values, spec.kind) for values in logits]
    return prediction_table(records[records["split"] == "test"], spec.labels, spec.unit, p)


def _counts(records: pd.DataFrame, repeats: list[Repeat]) -> dict[str, Any]:
    """The numbers of images and, for each repeat, what it trained on and how it went."""
    went = {name for repeat in repeats for name in repeat.facts}
    return {
        "n_val": int((records["split"] == "val").sum()),
        "n_test": int((records["split"] == "test").sum()),
        **{name: [repeat.facts[name] for repeat in repeats] for name in sorted(went)},
    }


def _config(
    config: ImageConfig, spec: Task, facts: dict[str, Any], encoder: dict[str, str]
) -> dict[str, Any]:
    """What a user of the weights has to know."""
    if facts["protocol"] == Protocol.linear:
        load = f"logits = h @ weight.T + bias, h the output of the encoder in {encoder['folder']}"
    else:
        load = (
            f"timm.create_model({config.architecture!r}, num_classes={len(spec.labels)}, "
            f"checkpoint_path={protocols.WEIGHTS[Protocol.finetune]!r})"
        )
    return {
        **facts,
        "encoder": encoder,
        "image": asdict(config),
        "labels": list(spec.labels),
        "kind": spec.kind,
        "repeat": 0,
        "load": load,
    }


if __name__ == "__main__":
    app()
