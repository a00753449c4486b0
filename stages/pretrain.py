"""ConVIRT pretraining on the pairs of one corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from convirt import files
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    from convirt.pair_encoder import PairEncoder
    from convirt.params import Model
    from convirt.store import Store
    from convirt.training import Corpus, Result

READS = [
    "seed",
    "compute.device",
    "compute.precision",
    "compute.threads",
    "model.image",
    "model.projection",
    "model.text",
    "augment",
    "train",
    "corpora.{corpus}",
]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    corpus: str = typer.Argument(help="A key of corpora, such as chest."),
    params: Path = PARAMS,
) -> None:
    """Pretrain an image and a text encoder on pairs of images and reports.

    Reads data/stores/<corpora.CORPUS.dataset>. Writes models/encoders/convirt/CORPUS (the
    encoders, their projections and config.json), metrics/pretrain/CORPUS.json and .csv (one row
    an evaluation). Killed and run again it goes on where it was.
    """
    with Stage(__file__, reads=READS, names={"corpus": corpus}, params=params) as stage:
        from convirt import devices, pair_encoder, provenance, training
        from convirt.augment import Augmentation
        from convirt.store import Store

        p = stage.params
        provenance.make_deterministic(p.compute.threads, p.seed)
        devices.require(p.compute.device)
        store = Store.open(stage.root / "data" / "stores" / p.corpora[corpus].dataset)
        model = _model(p.model, p.seed)
        config = training.TrainConfig(
            **p.train.model_dump(),
            seed=p.seed,
            precision=p.compute.precision,
            cache_frozen=p.model.text.cache_frozen,
        )
        data = _corpus(store, model)
        inputs = {"store": store.meta["digest"]}
        with stage.scratch(inputs) as scratch:
            done = training.resumed_step(scratch)
            total = training.total_steps(config, data.train.count)
            with stage.progress(f"pretrain {corpus}", total, "steps", done) as progress:

                def report(status: dict[str, float]) -> None:
                    losses: dict[str, Any] = {
                        k: status[k] for k in ("loss", "val_loss") if k in status
                    }
                    progress.update(
                        pairs_per_s=status["rate"], waiting=f"{status['waiting']:.1%}", **losses
                    )
                    stage.poll()

                result = training.pretrain(
                    model,
                    data,
                    Augmentation(**p.augment.model_dump()),
                    config,
                    scratch,
                    report,
                    p.compute.device,
                )
            stage.confirm()
            name = f"pretrain/{corpus}"
            with files.fresh_directory(
                stage.root / "models" / "encoders" / "convirt" / corpus
            ) as folder:
                pair_encoder.save_pair_encoder(model.cpu(), folder)
            _metrics(stage.root / "metrics" / name, corpus, result, data, stage.provenance(inputs))
            stage.scratch_done()
        stage.say(
            f"{corpus}: {result.rate:.3g} pairs/s, {result.waiting:.1%} of it waiting for data"
        )


def _model(model: Model, seed: int) -> PairEncoder:
    """Both encoders with their initial weights, and new projections drawn from the seed."""
    import torch

    from convirt import image_encoder, pair_encoder, text_encoder

    image, config = image_encoder.create_image_encoder(
        model.image.architecture, model.image.weights, model.image.size, seed
    )
    text, tokenizer = text_encoder.create_text_encoder(
        model.text.weights, model.text.frozen_layers, model.text.max_tokens
    )
    torch.manual_seed(seed)
    return pair_encoder.PairEncoder(
        image,
        config,
        text,
        tokenizer,
        model.projection.dim,
        model.projection.hidden,
    )


def _corpus(store: Store, model: PairEncoder) -> Corpus:
    """The store as batches: distinct sentences tokenized once, studies by split."""
    import pandas as pd

    from convirt import pairs, training
    from convirt.errors import InputError

    if store.sentences is None:
        raise InputError(
            "params.yaml: corpora",
            "a set with reports",
            f"a store of kind {store.meta['kind']}",
            "name a pretraining set in corpora.<name>.dataset",
        )
    codes, distinct = pd.factorize(store.sentences["sentence"])
    sentences = pd.DataFrame({"study": store.sentences["study"], "row": codes})
    return training.Corpus(
        images=store.images,
        boxes=store.records[["top", "left", "height", "width"]].to_numpy(),
        sentences=pairs.tokenize(list(distinct), model.tokenizer),
        train=pairs.Pairs(store.records, sentences, "train"),
        val=pairs.Pairs(store.records, sentences, "val"),
    )


def _metrics(
    path: Path, corpus: str, result: Result, data: Corpus, provenance: dict[str, object]
) -> None:
    import pandas as pd

    last = result.history[-1]
    files.write_json(
        path.with_suffix(".json"),
        {
            "corpus": corpus,
            "val_loss": result.best_loss,
            "chance": last["chance"],
            "pairs": data.train.count,
            "pairs_val": data.val.count,
            "sentences": len(data.sentences.starts) - 1,
            "steps": result.steps,
            "best_step": result.best_step,
            "provenance": provenance,
        },
    )
    # named, since rows that come from a resume state have their keys sorted
    columns = ["step", "train_loss", "val_loss", "lr", "chance"]
    table = pd.DataFrame(result.history, columns=columns).astype({"step": int})
    files.write_text(path.with_suffix(".csv"), table.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    app()
