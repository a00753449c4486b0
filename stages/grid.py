"""Every system, table and figure of the paper on the demo data, in a copy of this checkout.

    python -m stages.grid run --jobs 2                 # all of it: .tables/, then metrics/tables/
    python -m stages.grid check rsna-convirt-1-linear  # one committed result, computed again

The parameters are those of profiles/tables.yaml. It runs in a copy so that params.yaml, dvc.lock
and the results of this checkout stay as they are.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import typer

from convirt import files
from convirt.errors import InputError
from stages import profile as profiles
from stages._results import read_json
from stages._told import told

PROFILE = Path("profiles/tables.yaml")
TABLES = Path("metrics/tables")
DIGITS = 1e-12  # a mean of 80 precisions may be added up in another order
KEPT = ("dvc.lock", "metrics/", "params.yaml")  # what an existing copy keeps of its own
STAGES = {"finetune": ("finetune", "vary-probe"), "retrieval": ("retrieve", "vary-retrieve")}

JOBS: int = typer.Option(2, min=1, help="Stages at a time, one CPU thread each.")
CELL: str = typer.Argument(help="A result's name: rsna-convirt-1-linear, or retrieval/convirt.")

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def run(jobs: int = JOBS) -> None:
    """Run all of profiles/tables.yaml in .tables/ and copy its tables here.

    Reads the tracked files of this checkout. Writes .tables/ and metrics/tables/. Safe to kill and
    run again: stages that ended are kept, and an edit reruns only the stages that it affects.
    """
    with told():
        copy = beside(Path.cwd(), Path(".tables"))
        _reproduce(copy, [], jobs)
        with files.fresh_directory(TABLES) as folder:
            shutil.copytree(copy / TABLES, folder, dirs_exist_ok=True)
    typer.echo(f"{TABLES} is up to date; look at {TABLES / 'index.html'}", err=True)


@app.command()
def check(cell: str = CELL, jobs: int = JOBS) -> None:
    """Compute one committed result again, with everything that it depends on, and compare.

    Reads metrics/tables/cells.json. Writes .tables-check/: the first check draws the data and
    pretrains there (minutes), and later checks reuse both; the named result is computed each time.
    Exit code 1 if a value differs. Another type of machine may give other last bits.
    """
    with told():
        cells = cells_of(Path.cwd(), cell)
        copy = beside(Path.cwd(), Path(".tables-check"))
        source = cells[0]["source"]
        (copy / source).unlink(missing_ok=True)  # so that DVC makes it again
        stage = stage_of(copy, source)
        _reproduce(copy, [stage], jobs)
        result = read_json(copy, source, stage)
    same = True
    for known in cells:
        column = ", ".join(f"{key} {value}" for key, value in known["column"].items())
        for what, value in values(result, known).items():
            equal = math.isclose(value, known[what], rel_tol=0, abs_tol=DIGITS)
            same &= equal
            found = "the same" if equal else f"NOT {known[what]!r}, which was committed"
            typer.echo(f"{known['table']}, {column}: {what} {value!r}, {found}")
    for digest in ("code", "params"):
        if result["provenance"][digest] != cells[0][digest]:
            typer.echo(f"the committed result comes from different {digest}: run `make tables`")
    if not same:
        raise typer.Exit(1)


# ------------------------------------------------------------------------------ the copy
def beside(root: Path, folder: Path) -> Path:
    """A clone of the checkout `root` with its current files and the parameters of the profile.

    What the clone has computed stays: dvc.lock, metrics and everything that git does not track.

    Raises:
        InputError: A git command fails, or the profile is not valid.
    """
    new = not folder.exists()
    if new:
        with files.atomic(folder) as clone:  # half a clone would pass for a whole one
            _git(root, "clone", "--quiet", "--local", ".", str(clone.resolve()))
    tracked = set(_git(root, "ls-files", "-z").split("\0")) - {""}
    for name in sorted(tracked | set(_git(folder, "ls-files", "-z").split("\0")) - {""}):
        ours, theirs = root / name, folder / name
        if not new and name.startswith(KEPT):
            continue
        if name not in tracked or not ours.is_file():
            theirs.unlink(missing_ok=True)
        elif not theirs.is_file() or ours.read_bytes() != theirs.read_bytes():
            theirs.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ours, theirs)
    profiles.install(folder / PROFILE, folder / "params.yaml", os.environ)
    return folder


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, check=True, capture_output=True, text=True
        )
    except FileNotFoundError:
        raise InputError("git", "a command", "none", "install git") from None
    except subprocess.CalledProcessError as error:
        hint = "run this in a clone of the repository"
        raise InputError(folder, "a git repository", error.stderr.strip(), hint) from error
    return done.stdout


def _reproduce(copy: Path, targets: list[str], jobs: int) -> None:
    """Run `stages.runs` in the copy, with this Python; pass SIGTERM on to it."""
    command = [sys.executable, "-m", "stages.runs", *targets, "--jobs", str(jobs)]
    with subprocess.Popen(command, cwd=copy) as process:
        before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the runner got it as well, and its stages are saving
            code = process.wait()
        finally:
            signal.signal(signal.SIGTERM, before)
    if code:
        raise typer.Exit(code)


# ------------------------------------------------------------------------------ one cell
def cells_of(root: Path, name: str) -> list[dict[str, Any]]:
    """The committed cells that come from one result.

    Raises:
        InputError: There is no such result; the message names similar ones.
    """
    path = TABLES / "cells.json"
    if not (root / path).is_file():
        raise InputError(path, "the committed tables", "no such file", "make tables")
    cells = json.loads((root / path).read_text(encoding="utf-8"))["cells"]
    wanted = name if "/" in name else f"finetune/{name}"
    if found := [c for c in cells if c["source"] == f"metrics/{wanted}.json"]:
        return found
    known = sorted({c["source"].removeprefix("metrics/").removesuffix(".json") for c in cells})
    alike = [k for k in known if name.split("-")[0] in k] or known
    hint = "name one of these: " + ", ".join(alike[:8])
    raise InputError(path, f"cells of {name}", "none", hint)


def stage_of(root: Path, source: str) -> str:
    """The DVC stage that writes `source`, under the parameters of `root`."""
    from convirt.params import load
    from convirt.results.summary import run_key

    _, kind, name = source.removesuffix(".json").split("/")
    plain, varied = STAGES.get(kind, (kind, kind))
    own = load(root / "params.yaml").ablation
    for variant in own.variants:
        if name in (variant, run_key(own.task, variant, own.fraction, own.protocol)):
            return f"{varied}@{variant}"
    return f"{plain}@{name}"


def values(result: dict[str, Any], cell: dict[str, Any]) -> dict[str, float]:
    """What a result's JSON says of a cell; a search has no interval, which the tables compute."""
    if not cell["source"].startswith("metrics/retrieval/"):
        return {key: result[key] for key in ("value", "low", "high")}
    column = cell["column"]
    if "column" in column:  # Tables 3 and 4: image_image_p_at_10
        direction, k = column["column"].split("_p_at_")
    else:
        direction, k = column["direction"], column["k"]
    return {"value": result[direction][f"p_at_{k}"]}


if __name__ == "__main__":
    app()
