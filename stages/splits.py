"""Draw the split of a set once and keep it as a list of ids; no part of the pipeline."""

from __future__ import annotations

from pathlib import Path

import typer

from convirt.errors import InputError
from stages._stage import PARAMS, Stage

READS = ["seed", "datasets.sources.{name}"]

# readers of sets whose ids are public
PUBLISHED = ("rsna", "rsna-release", "covidx", "chexpert", "mura")

WRITE: bool = typer.Option(False, "--write/--check", help="Write the list, or only compare.")
OUT: Path = typer.Option("splits", help="Folder for the lists.")

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: str = typer.Argument(help="A key of datasets.sources, such as rsna."),
    write: bool = WRITE,
    out: Path = OUT,
    params: Path = PARAMS,
) -> None:
    """Draw the split of one set by its rule, from the lists of your download.

    Reads seed and datasets.sources.NAME (reader, root, val, test, options; not split_file) and the
    lists of the set, but no image. With --write it writes OUT/NAME.csv (the ids drawn for
    validation and test) and OUT/NAME.json (rule, seed, counts, hashes). With --check (the default)
    exit code 1 means that the list there is a different one.
    """
    with Stage(__file__, reads=READS, names={"name": name}, params=params) as stage:
        from convirt.datasets import options, registry, split_lists
        from convirt.datasets.splits import Split

        source = stage.params.datasets.sources[name]
        split = Split(stage.params.seed, source.val, source.test)
        if not (split.val or split.test):
            key = f"datasets.sources.{name}"
            hint = "nothing is drawn for this set, so it needs no list"
            raise InputError(params, f"{key}.val or {key}.test above 0", "0 for both", hint)
        root = options.path(source.root, f"the download of {name}")
        tables = registry.read(source.reader, root, split, dict(source.options), name)
        drawn = split_lists.draw(tables, split, name)
        path = out / f"{name}.csv"
        for part, count in drawn.head["splits"].items():
            stage.say(f"{part}: {count['images']} images of {count['patients']} patients")
        for note in tables.funnel.note_lines():
            stage.note(note)
        if write:
            if source.reader not in PUBLISHED:
                stage.note("the list holds ids of images and patients: publish it only if you may")
            split_lists.write(path, drawn)
            stage.say(f"written: {path}, {path.with_suffix('.json')}. Use it with")
            stage.say(f"  datasets.sources.{name}.split_file: {path}@{drawn.pin}")
        else:
            split_lists.compare(path, drawn)
            stage.say(f"{path} matches the draw.")


if __name__ == "__main__":
    app()
