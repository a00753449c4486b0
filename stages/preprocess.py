"""From files in the layout in which a set is published to one packed store."""

from __future__ import annotations

import os
from pathlib import Path

import typer

from convirt import files
from convirt.errors import InputError
from stages._stage import PARAMS, Stage

READS = [
    "seed",
    "compute.workers",
    "datasets.image_size",
    "datasets.max_dropped",
    "datasets.sources.{name}",
]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: str = typer.Argument(help="A key of datasets.sources, such as mimic-cxr."),
    params: Path = PARAMS,
) -> None:
    """Read one set and pack it: images scaled into one array, reports cut into sentences.

    Reads datasets.sources.NAME (its root holds the files). Writes data/stores/NAME and the counts
    of what came in, was dropped and was kept to metrics/funnel/NAME.json.
    """
    with Stage(__file__, reads=READS, names={"name": name}, params=params) as stage:
        from convirt import packing
        from convirt.datasets import registry, split_lists
        from convirt.datasets.splits import Split

        source, datasets = stage.params.datasets.sources[name], stage.params.datasets
        listed = split_lists.read(source.split_file) if source.split_file else None
        split = Split(stage.params.seed, source.val, source.test, listed)
        tables = registry.read(source.reader, _root(source.root), split, dict(source.options))
        with stage.progress(f"pack {name}", total=len(tables.images), unit="images") as progress:

            def tick(count: int) -> None:
                progress.update(count)
                stage.poll()

            funnel = packing.build(
                tables,
                stage.root / "data" / "stores" / name,
                datasets.image_size,
                stage.params.compute.workers,
                datasets.max_dropped,
                tick,
                confirm=stage.confirm,
            )
        files.write_json(stage.root / "metrics" / "funnel" / f"{name}.json", funnel.to_dict())
        for what in ("studies", "images", "sentences"):
            count = funnel.to_dict()[what]
            lost = ", ".join(f"{n} {reason}" for reason, n in count["dropped"].items())
            stage.say(f"{what}: {count['in']} in, {count['kept']} kept" + f"; {lost}" * bool(lost))
        for note in funnel.notes:
            stage.say(f"note: {note}", style="yellow")


def _root(text: str) -> Path:
    """The root, with environment variables and ~ filled in."""
    path = os.path.expandvars(text)
    if "$" in path:
        hint = "export the variable, or write the folder into params.yaml"
        raise InputError(text, "a folder, or variables that are set", "an unset variable", hint)
    return Path(path).expanduser()


if __name__ == "__main__":
    app()
