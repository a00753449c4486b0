"""Pretraining with one thing changed: a row of the paper's Table 4."""

from __future__ import annotations

from pathlib import Path

import typer

from convirt.params import pretraining
from stages import pretrain
from stages._stage import PARAMS, Stage

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
    "ablation.variants.{variant}",
]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    variant: str = typer.Argument(help="A key of ablation.variants, such as tau-1."),
    objective: str = typer.Argument(help="ablation.objective."),
    corpus: str = typer.Argument(help="ablation.corpus."),
    params: Path = PARAMS,
) -> None:
    """Pretrain as `pretrain` does, with the values of ablation.variants.VARIANT on top.

    Reads data/stores/CORPUS. Writes what `pretrain` writes, under the variant's name in place of
    the objective's: models/encoders/VARIANT/CORPUS, models/kept/VARIANT/CORPUS and
    metrics/pretrain/VARIANT-CORPUS.json and .csv.
    """
    names = {"variant": variant, "objective": objective, "corpus": corpus}
    own = [f"convirt/objectives/{objective}.py"]
    with Stage(__file__, reads=READS, names=names, params=params, code=own) as stage:
        blocks = pretraining(stage.params, objective, variant)
        pretrain.run(stage, objective, corpus, blocks, variant)


if __name__ == "__main__":
    app()
