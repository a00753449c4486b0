"""Pretraining of encoders on the pairs of one corpus, by one objective."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from convirt import files
from convirt.params import pretraining
from stages._stage import PARAMS, Stage
from stages._stopping import RESUMABLE, stoppable

if TYPE_CHECKING:
    from convirt.feed import Corpus
    from convirt.objectives.base import Objective, Parts
    from convirt.params import Model, Params, Pretraining
    from convirt.schedule import TrainConfig
    from convirt.store import Store
    from convirt.text_encoder import TextEncoder, Tokenizer
    from convirt.training import Result

READS = [
    "seed",
    "compute.compile",
    "compute.device",
    "compute.graphs",
    "compute.precision",
    "compute.store",
    "compute.threads",
    "model.image",
    "model.projection",
    "model.text",
    "augment",
    "train",
    "objectives.{objective}",
]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    objective: str = typer.Argument(help="A key of objectives, such as convirt."),
    corpus: str = typer.Argument(help="One of corpora, such as chest."),
    params: Path = PARAMS,
) -> None:
    """Pretrain an image encoder, and a text encoder where the objective has one.

    Reads data/stores/CORPUS and the initial weights. Writes models/encoders/OBJECTIVE/CORPUS (the
    encoders, their projections and config.json), models/kept/OBJECTIVE/CORPUS (states along the
    way, if train.keep_every asks for them) and metrics/pretrain/OBJECTIVE-CORPUS.json and .csv (one
    row per evaluation, the first before any step). If killed and run again, it resumes where it
    stopped; on SIGTERM it saves its state first and ends with exit code 75.

    Under torchrun several processes, one per GPU, share every batch; the first of them writes.
    """
    names = {"objective": objective, "corpus": corpus}
    own = [f"convirt/objectives/{objective}.py"]
    with Stage(__file__, reads=READS, names=names, params=params, code=own) as stage:
        run(stage, objective, corpus, pretraining(stage.params, objective))


def run(
    stage: Stage, objective: str, corpus: str, blocks: Pretraining, variant: str | None = None
) -> None:
    """Pretrain and write everything under the variant's name, or else the objective's."""
    from convirt import devices, processes

    devices.require(stage.params.compute.device)
    with processes.joined(stage.params.compute.device):
        _run(stage, objective, corpus, blocks, variant)


def _run(
    stage: Stage, objective: str, corpus: str, blocks: Pretraining, variant: str | None
) -> None:
    from convirt import processes, provenance, resident, schedule, training
    from convirt.augment import Augmentation
    from convirt.errors import StoppedError
    from convirt.objectives.base import find
    from convirt.store import Store

    p, system = stage.params, variant or objective
    first = processes.rank() == 0
    kind = find(objective)
    provenance.make_deterministic(p.compute.threads, p.seed)
    store = Store.open(stage.root / "data" / "stores" / corpus)
    config, unrecorded = _config(p, blocks, kind)
    if unrecorded and first:
        stage.note(f"steps are launched kernel by kernel, not as CUDA graphs: {unrecorded}")
    data = _corpus(store)
    data.images = resident.placed(store.images, p.compute.store, p.compute.device)
    model = kind(_parts(p, blocks, config, data, corpus))
    inputs = {"store": store.meta["digest"]}
    name = f"{system}-{corpus}"
    with stage.scratch(inputs) if first else nullcontext(Path()) as own:
        scratch = Path(processes.broadcast_object(str(own)))
        done = training.resumed_step(scratch)
        total = schedule.total_steps(config, data.train.count)
        if first:
            for doubt in schedule.doubts(config, data.train.count):
                stage.note(doubt)
            if told := training.moved(scratch, p.compute.device):
                stage.note(told)
        bar = stage.progress(f"pretrain {name}", total, "steps", done) if first else nullcontext()
        with bar as progress:

            def report(status: dict[str, float]) -> None:
                if progress is None:
                    return
                shown: dict[str, Any] = {k: v for k, v in status.items() if k not in NOT_SHOWN}
                waiting = f"{status['waiting']:.1%}"
                progress.update(pairs_per_s=status["rate"], waiting=waiting, **shown)
                stage.poll()

            spec = Augmentation(**blocks.augment.model_dump())
            device = p.compute.device
            try:
                with stoppable() as stop:
                    result = training.pretrain(
                        model, data, spec, config, scratch, report, device, stop
                    )
            except StoppedError as error:
                if first:
                    stage.say("stopped; all steps are saved, run the same command to go on")
                raise typer.Exit(RESUMABLE) from error
        if not first:
            return
        stage.confirm()
        models = stage.root / "models"
        with files.fresh_directory(models / "encoders" / system / corpus) as folder:
            model.cpu().save(folder)
        with files.fresh_directory(models / "kept" / system / corpus) as folder:
            _keep(folder, scratch, result)
        about = {"objective": objective, "variant": variant, "corpus": corpus}
        _metrics(
            stage.root / "metrics" / "pretrain" / name,
            {**about, "criterion": model.criterion},
            result,
            data,
            stage.provenance(inputs),
        )
        stage.scratch_done()
    stage.say(f"{name}: {result.rate:.3g} pairs/s, {result.waiting:.1%} of it waiting for data")
    if result.best_step == 0:
        stage.note(
            "no state was better than the first, so what is written is the encoder before "
            f"pretraining. Look at the losses in metrics/pretrain/{name}.csv, then lower train.lr "
            "or train for longer"
        )


NOT_SHOWN = {"step", "steps", "rate", "waiting"}


def _config(
    p: Params, blocks: Pretraining, kind: type[Objective]
) -> tuple[TrainConfig, str | None]:
    """How to train; if CUDA graphs are requested but impossible, without them, and the reason."""
    from convirt import recorded
    from convirt.schedule import TrainConfig

    config = TrainConfig(
        **blocks.train.model_dump(exclude={"launcher"}),
        seed=p.seed,
        precision=p.compute.precision,
        compile=p.compute.compile,
        graphs=p.compute.graphs,
        cache_frozen=p.model.text.cache_frozen,
    )
    reason = recorded.obstacle(kind, config) if config.graphs else None
    return replace(config, graphs=config.graphs and reason is None), reason


def _parts(p: Params, blocks: Pretraining, config: TrainConfig, data: Corpus, corpus: str) -> Parts:
    """The encoders with their initial weights, and what else an objective is built from."""
    from convirt import image_encoder
    from convirt.objectives.base import Parts
    from convirt.pair_encoder import ProjectionConfig

    image = p.model.image
    encoder, image_config = image_encoder.create_image_encoder(
        image.architecture, image.weights, image.size, p.seed
    )
    return Parts(
        image=encoder,
        image_config=image_config,
        text=lambda: _text(p.model),
        tokenizer=lambda: _tokenizer(p.model),
        texts=data.texts,
        train=data.train,
        val=data.val,
        config=config,
        projection=ProjectionConfig(**blocks.projection.model_dump()),
        options=blocks.options,
        corpus=corpus,
    )


def _text(model: Model) -> tuple[TextEncoder, Tokenizer]:
    from convirt.text_encoder import create_text_encoder

    text = model.text
    return create_text_encoder(text.weights, text.frozen_layers, text.max_tokens)


def _tokenizer(model: Model) -> Tokenizer:
    from convirt.text_encoder import create_tokenizer

    return create_tokenizer(model.text.weights, model.text.max_tokens)


def _corpus(store: Store) -> Corpus:
    """The store as distinct sentences, and studies by split."""
    import pandas as pd

    from convirt import pairs
    from convirt.errors import InputError
    from convirt.feed import Corpus

    if store.sentences is None:
        raise InputError(
            "params.yaml: corpora",
            "sets with reports",
            f"a store of kind {store.meta['kind']}",
            "name pretraining sets in corpora",
        )
    codes, distinct = pd.factorize(store.sentences["sentence"])
    sentences = pd.DataFrame({"study": store.sentences["study"], "row": codes})
    return Corpus(
        images=store.images,
        boxes=store.records[["top", "left", "height", "width"]].to_numpy(),
        texts=list(distinct),
        train=pairs.Pairs(store.records, sentences, "train"),
        val=pairs.Pairs(store.records, sentences, "val"),
    )


def _keep(folder: Path, scratch: Path, result: Result) -> None:
    """Put the kept states into `folder`, with a list of them."""
    from convirt.kept import INDEX
    from convirt.training import KEPT

    rows = []
    for row in result.history:
        source = scratch / KEPT.format(row["step"])
        if source.is_file():
            files.link(source, folder / source.name)
            rows.append({"file": source.name, "step": row["step"], "val_loss": row["val_loss"]})
    files.write_json(folder / INDEX, {"states": rows})


def _metrics(
    path: Path,
    about: dict[str, Any],
    result: Result,
    data: Corpus,
    provenance: dict[str, object],
) -> None:
    import pandas as pd

    from convirt import processes

    first, best = result.history[0], result.best()
    criterion = about["criterion"]
    files.write_json(
        path.with_name(path.name + ".json"),
        {
            **about,
            "start": first[criterion],
            "best": best[criterion],
            "val_loss": best["val_loss"],
            "chance": best["chance"],
            "pairs": data.train.count,
            "pairs_val": data.val.count,
            "sentences": len(data.texts),
            "steps": result.steps,
            "best_step": result.best_step,
            "processes": processes.count(),
            "provenance": provenance,
        },
    )
    # columns are named, since rows that come from a resume state have their keys sorted
    known = ["step", "train_loss", "val_loss", "lr", "chance"]
    more = sorted({key for row in result.history for key in row} - set(known))
    table = pd.DataFrame(result.history, columns=[*known, *more]).astype({"step": int})
    text = table.to_csv(index=False, lineterminator="\n")
    files.write_text(path.with_name(path.name + ".csv"), text)


if __name__ == "__main__":
    app()
