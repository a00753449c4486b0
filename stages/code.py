"""The code that each stage runs, as one digest per stage, on which the stage then depends."""

from __future__ import annotations

from pathlib import Path

import typer

from convirt import files
from convirt.essence import digest_of
from convirt.objectives import available
from convirt.provenance import digest, import_closure
from stages._told import told

OUT = Path("metrics/code")
ENTRIES = (
    *("demo", "preprocess", "encoder", "finetune", "retrieve", "report"),
    *("supervised", "trajectory", "zeroshot", "tables"),
)
TRAINERS = ("pretrain", "vary")  # these have one digest per objective

app = typer.Typer(add_completion=False)


@app.command()
def main() -> None:
    """Compute a digest of the project files that each stage imports, directly or indirectly.

    Reads stages/ and convirt/. Writes metrics/code/<stage>.json, for pretraining
    metrics/code/<stage>-<objective>.json: the digest over all files, and one per file. Comments
    and docstrings do not count, so editing them reruns no other stage.
    """
    root = Path.cwd()
    with told(), files.fresh_directory(root / OUT) as folder:
        for name, entries in targets(root).items():
            files.write_json(folder / f"{name}.json", describe(entries, root))


def targets(root: Path) -> dict[str, list[Path]]:
    """By name of a digest, the files from which imports are followed."""
    stages, objectives = root / "stages", root / "convirt" / "objectives"
    found = {name: [stages / f"{name}.py"] for name in ENTRIES}
    for stage in TRAINERS:
        for name in available():
            found[f"{stage}-{name}"] = [stages / f"{stage}.py", objectives / f"{name}.py"]
    return found


def describe(entries: list[Path], root: Path) -> dict[str, object]:
    """The digest over all files that `entries` import, and that of each of them.

    The former is the `code` in the provenance of what the stage writes.
    """
    paths = sorted({path for entry in entries for path in import_closure(entry, root)})
    modules = {path.relative_to(root.resolve()).as_posix(): digest_of(path) for path in paths}
    return {"code": digest(modules), "modules": modules}


if __name__ == "__main__":
    app()
