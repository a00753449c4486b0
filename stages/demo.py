"""The embedded default data: made-up radiographs and reports in the official layouts."""

from __future__ import annotations

from pathlib import Path

import typer

from convirt import files
from stages._stage import PARAMS, Stage

READS = ["compute.workers", "demo.seed", "demo.side", "demo.sets.{name}"]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: str = typer.Argument(
        help="A key of demo.sets: mimic-cxr, bone, rsna, chexpert, covidx or mura."
    ),
    params: Path = PARAMS,
) -> None:
    """Draw one made-up set, file for file in the layout in which the real one is published.

    Reads only params.yaml (demo.*). Writes data/demo/NAME: the same bytes for the same parameters,
    for any compute.workers. A set that is enlarged keeps its first films.
    """
    with Stage(__file__, reads=READS, names={"name": name}, params=params) as stage:
        from convirt.datasets import layouts

        demo, workers = stage.params.demo, stage.params.compute.workers
        counts = demo.sets[name]
        layouts.check(name, counts, where=f"{params}: demo.sets.{name}")
        total = layouts.units(name, demo.seed, counts)
        with (
            files.fresh_directory(stage.root / "data" / "demo" / name) as folder,
            stage.progress(f"draw {name}", total=total, unit="units") as progress,
        ):
            layouts.write(
                name,
                folder,
                seed=demo.seed,
                side=demo.side,
                counts=counts,
                workers=workers,
                tick=progress.update,
            )
            stage.confirm()


if __name__ == "__main__":
    app()
