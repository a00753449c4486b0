"""From the files of a data set, in its published layout, to one packed store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from convirt import files
from convirt.errors import InputError
from stages._results import is_made_up
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    from convirt.datasets.tables import Funnel, Tables
    from convirt.pieces import Belongs, Piece

READS = [
    "seed",
    "compute.workers",
    "datasets.image_size",
    "datasets.max_dropped",
    "datasets.sources.{name}",
]
# The decoders: pieces made with different versions of these do not fit together.
DECODERS = ("imagecodecs", "numpy", "pillow", "pydicom")

app = typer.Typer(add_completion=False)


@app.command()
def main(
    name: str = typer.Argument(help="A key of datasets.sources, such as chest."),
    shard: str = typer.Option("", help="Decode only piece i of n, such as 2/8, for a later run."),
    params: Path = PARAMS,
) -> None:
    """Read one set and pack it: images scaled into one array, reports cut into sentences.

    Reads datasets.sources.NAME (its root holds the files). Writes data/stores/NAME, and the counts
    of what came in, was dropped and was kept to metrics/funnel/NAME.json. If killed and run again,
    it resumes where it stopped.

    With --shard i/n it writes data/pieces/NAME/i-of-n instead; the pieces may be made on several
    machines. Once all n are in data/pieces/NAME, a run without --shard joins them to the store: the
    same bytes as without pieces.
    """
    with Stage(__file__, reads=READS, names={"name": name}, params=params) as stage:
        from convirt import packing, pieces
        from convirt.datasets import registry, split_lists
        from convirt.datasets.splits import Split
        from convirt.errors import quoted

        source, datasets = stage.params.datasets.sources[name], stage.params.datasets
        listed = split_lists.read(source.split_file) if source.split_file else None
        split = Split(stage.params.seed, source.val, source.test, listed)
        tables = registry.read(source.reader, _root(source.root), split, dict(source.options), name)
        most = source.most_dropped(datasets.max_dropped)
        packing.check_dropped(tables, most)
        made = stage.provenance()
        versions = {package: made["versions"][package] for package in DECODERS}
        made_by = {"code": made["code"], "params": made["params"], **versions}
        belongs = pieces.belongs(tables.images, datasets.image_size, made_by)
        stage.confirm()  # from here on images are decoded by the code of the start
        # like the scratch folder, in the original repository even when DVC runs in a copy
        home = Path(os.environ.get("DVC_ROOT") or stage.root) / "data" / "pieces" / name
        if shard:
            _one_piece(stage, tables, home, shard, belongs)
            return
        out = stage.root / "data" / "stores" / name
        if parts := pieces.complete(home, len(tables.images), belongs):
            funnel = packing.merge(tables, parts, out, most, stage.confirm)
            stage.say(
                f"made of {len(parts)} pieces, which are no longer needed: rm -r {quoted(home)}"
            )
            _tell(stage, name, funnel, belongs)
            return
        with stage.scratch({"images": str(belongs["images"])}) as scratch:
            piece = packing.start(tables, scratch, pieces.Share(), belongs, out)
            _decode(stage, f"pack {name}", piece, tables)
            funnel = packing.merge(tables, [piece], out, most, stage.confirm)
            _tell(stage, name, funnel, belongs)
            stage.scratch_done(keep=False)  # decoded again rather than kept twice


def _one_piece(stage: Stage, tables: Tables, home: Path, shard: str, belongs: Belongs) -> None:
    """Decode one share of the images into its folder."""
    from convirt import checkpoint, packing, pieces

    share = pieces.Share.parse(shard)
    folder = home / share.folder
    with checkpoint.locked(folder):
        stage.resumes_in(folder)
        piece = packing.start(tables, folder, share, belongs)
        _decode(stage, f"piece {shard} of {home.name}", piece, tables)
    lost = sum(bool(result.reason) for result in piece.results)
    stage.say(f"{piece.count} images decoded, {lost} of them unusable: {folder}")


def _decode(stage: Stage, what: str, piece: Piece, tables: Tables) -> None:
    from convirt import pieces

    with stage.progress(what, total=piece.count, unit="images", done=piece.done) as progress:

        def tick(count: int) -> None:
            progress.update(count)
            stage.poll()

        pieces.decode(piece, tables.images, stage.params.compute.workers, tick)


def _tell(stage: Stage, name: str, funnel: Funnel, belongs: Belongs) -> None:
    """Write the funnel, and print it."""
    counts = funnel.to_dict()
    made = stage.provenance({"images": str(belongs["images"])})
    path = stage.root / "metrics" / "funnel" / f"{name}.json"
    files.write_json(path, counts | {"provenance": made})
    for what in ("studies", "images", "sentences"):
        count = counts[what]
        lost = ", ".join(f"{n} {reason}" for reason, n in count["dropped"].items())
        stage.say(f"{what}: {count['in']} in, {count['kept']} kept" + f"; {lost}" * bool(lost))
    # nobody has to check a made-up set: what is odd about it is intended
    tell = stage.say if is_made_up(stage.root, stage.params.datasets.sources[name]) else stage.note
    dropped = [
        f"{count} {what} ({reason})"
        for what in ("studies", "images")
        for reason, count in counts[what]["dropped"].items()
    ]
    if dropped:
        tell(f"left out: {', '.join(dropped)}; listed in data/stores/{name}/dropped.parquet")
    for note in funnel.note_lines():
        tell(note)


def _root(text: str) -> Path:
    """The root, with environment variables and ~ filled in."""
    from convirt.datasets.options import expanded

    path, unset = expanded(text)
    if unset:
        hint = "export the variable, or write the folder into params.yaml"
        raise InputError(text, "a folder, or variables that are set", "an unset variable", hint)
    return path


if __name__ == "__main__":
    app()
