"""Zero-shot classification: a task solved with sentences, without any label."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer

from convirt import files
from convirt.errors import InputError
from stages._stage import PARAMS, Stage

READS = [
    "seed",
    "compute.device",
    "compute.threads",
    "finetune.bootstrap",
    "model.baselines",
    "tasks.{task}.corpus",
    "tasks.{task}.kind",
    "tasks.{task}.labels",
    "tasks.{task}.metric",
    "tasks.{task}.unit",
    "zeroshot.tau",
    "zeroshot.prompts.{task}",
]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    task: str = typer.Argument(help="A key of tasks that has prompts, such as rsna."),
    system: str = typer.Argument(help="An objective that has a text encoder, such as convirt."),
    params: Path = PARAMS,
) -> None:
    """Classify the test images of a task by their similarity to sentences, and score the result.

    Reads the test part of data/stores/TASK and models/encoders/SYSTEM/<tasks.TASK.corpus>. Writes
    data/zeroshot/TASK-SYSTEM/predictions.parquet (in the format of transfer runs, with one repeat)
    and metrics/zeroshot/TASK-SYSTEM.json.
    """
    names = {"task": task, "system": system}
    key = f"{task}-{system}"
    with Stage(__file__, reads=READS, names=names, params=params) as stage:
        from convirt import devices, labelled, metrics, provenance
        from convirt.image_encoder import to_input
        from convirt.pair_encoder import is_pair_encoder, load_pair_encoder
        from convirt.recipe import probabilities
        from convirt.store import Store
        from convirt.transfer import predict
        from convirt.zeroshot import Prompts, ZeroShot

        p, spec = stage.params, stage.params.tasks[task]
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        where = Path("data") / "stores" / task
        store = Store.open(stage.root / where)
        labelled.check_task(
            store.records,
            spec.labels,
            spec.kind,
            spec.metric,
            spec.unit,
            where / "records.parquet",
            splits=("test",),
        )
        folder = stage.encoder_of(system, spec.corpus)
        if not is_pair_encoder(folder):
            hint = "name an objective that has one, such as convirt"
            raise InputError(folder, "a text encoder", "an image encoder only", hint)
        pair = load_pair_encoder(folder).to(p.compute.device)
        inputs = {"store": store.meta["digest"], "encoder": files.sha256_of_folder(folder)}
        prompts = {
            label: Prompts(own.positive, own.negative)
            for label, own in p.zeroshot.prompts[task].items()
        }
        classifier = ZeroShot(pair, prompts, spec.labels, spec.kind, p.zeroshot.tau)
        prepare = partial(to_input, config=pair.image_config)
        test = labelled.split_of(
            store.images,
            store.records,
            spec.labels,
            spec.unit,
            "test",
            prepare,
            p.compute.device,
        )
        scores = probabilities(predict(classifier, test), spec.kind)
        records = store.records.iloc[test.rows]
        table = labelled.prediction_table(records, spec.labels, spec.unit, [scores])
        result = metrics.estimate(table, spec.metric, p.finetune.bootstrap, p.seed)
        stage.confirm()
        with files.fresh_directory(stage.root / "data" / "zeroshot" / key) as out:
            files.write_parquet(out / "predictions.parquet", table)
        files.write_json(
            stage.root / "metrics" / "zeroshot" / f"{key}.json",
            {
                **names,
                "corpus": spec.corpus,
                "metric": spec.metric,
                "unit": spec.unit,
                **metrics.as_json(result, p.finetune.bootstrap),
                "n_test": len(test.rows),
                "provenance": stage.provenance(inputs),
            },
        )
        stage.say(
            f"{key}: {spec.metric} {result.value:.3f} [{result.low:.3f}, {result.high:.3f}] "
            "without labels"
        )


if __name__ == "__main__":
    app()
