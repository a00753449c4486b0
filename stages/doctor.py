"""Before a run: what is there, what is missing, where to get it, what to type next."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from convirt.doctor.diagnosis import Diagnosis
from convirt.errors import InputError, quoted

if TYPE_CHECKING:
    from rich.console import Console

    from convirt.doctor.request import Request, Use
    from convirt.params import Params

PARAMS: Path = typer.Option("params.yaml", help="The parameter file, or a profile.")
FULL: bool = typer.Option(
    False, "--full", help="Run every reader, look for every file, compare all pictures (minutes)."
)
DEMO = Path("data/demo")
STORES = Path("data/stores")
STORE_FILES = ("store.json", "records.parquet", "images.npy")
QUICK = 1_000_000_000  # bytes of pictures that are compared without --full, in seconds
COLOURS = {"ok": "green", "later": "cyan", "check": "yellow", "stop": "bold red"}

app = typer.Typer(add_completion=False)


@app.command()
def main(params: Path = PARAMS, full: bool = FULL) -> None:
    """Report what is there and what is missing: data sets, weights, GPU and disk space.

    Reads PARAMS, the lists of the sets in datasets.sources and the names of their files; no image
    is decoded. Without --full, only a sample of a large set's files is looked for. Pictures of
    packed sets (with more than 1 GB only with --full) are compared, to report test images that are
    also pretrained on. Writes nothing. Exit code 1 if a run could not start.
    """
    from rich.console import Console

    from convirt.params import load

    console = Console(highlight=False)
    try:
        values = load(params)
    except InputError as error:
        console.print(str(error), markup=False, soft_wrap=True)
        raise typer.Exit(1) from error
    with console.status("looking ...") if console.is_terminal else nullcontext():
        found = list(examine(values, full=full, profile=is_profile(params)))
    show(found, console)
    levels = [one.level for one in found]
    if "stop" in levels:
        count = levels.count("stop")
        text = f"A run could not start: {count} of {len(levels)} items say stop."
    elif is_profile(params):
        text = f"A run could start; next: make use PROFILE={quoted(params)}"
    else:
        text = "A run could start; next: make repro"
    console.print(text, markup=False, soft_wrap=True)
    if "stop" in levels:
        raise typer.Exit(1)


def is_profile(params: Path) -> bool:
    """Whether `make use` still has to put the file in the place of params.yaml."""
    return params.resolve().parent.name == "profiles"


# ------------------------------------------------------------------------------ looking
def examine(params: Params, *, full: bool, profile: bool) -> Iterator[Diagnosis]:
    """One diagnosis per set, then of packed pictures, weights, resolution, device and disk.

    Args:
        params: All of the parameters.
        full: Look for every file, and compare all pictures.
        profile: Whether `make use` still has to fill variables in `depends`.
    """
    from convirt.doctor import preflight
    from convirt.doctor.dataset import diagnose

    counts = []
    for request in requests(params):
        found = diagnose(request, full=full)
        _depends(found, request, params, profile)
        _used(found, request, params)
        yield found
        if not (STORES / request.name / "store.json").is_file():
            drawn = sum(params.demo.sets.get(set_of(request.root), {}).values())
            official = request.facts.images if request.facts else 0
            counts.append(found.images or drawn or official)
    if seen := _seen(params, full):
        yield seen
    model = params.model
    yield preflight.architecture(model.image.architecture)
    yield preflight.objectives({name: own.options for name, own in params.objectives.items()})
    yield preflight.image_weights(model.image.architecture, model.image.weights)
    yield preflight.text_weights(model.text.weights)
    yield preflight.resolution(params.datasets.image_size, model.image.size)
    yield preflight.device(params.compute.device)
    yield preflight.disk(STORES, counts, params.datasets.image_size)


def _seen(params: Params, full: bool) -> Diagnosis | None:
    """Whether packed test images are among those pretrained on; None until both are packed."""
    from convirt.doctor.overlap import overlaps

    names = list(params.datasets.sources)
    tested = [n for n in names if any(use.kind != "pairs" for use in uses(params, n))]
    corpora, tested = (
        [name for name in some if all((STORES / name / file).is_file() for file in STORE_FILES)]
        for some in (params.corpora, tested)
    )
    if not (corpora and tested):
        return None
    found = Diagnosis("pictures", "of packed sets")
    size = sum((STORES / name / "images.npy").stat().st_size for name in (*corpora, *tested))
    if size > QUICK and not full:
        text = f"{size / 1e9:.0f} GB of pictures were not compared: --full compares them"
        found.add("ok", text)
        return found
    for one in overlaps(STORES, corpora, tested):
        if one.images is None:
            text = f"{one.tested} and {one.corpus} were packed at different sizes: not compared"
            step = f"dvc repro preprocess@{one.tested} preprocess@{one.corpus}, then run this again"
            found.add("check", text, step)
        elif one.images:
            text = f"{len(one.images)} of the {one.of} test images of {one.tested} are train images"
            step = f"give their studies the split `test` in {one.corpus} (docs/your-data.md)"
            found.add("check", f"{text} of {one.corpus}, such as {one.images[0]}", step)
    if not found.notes:
        found.add("ok", "no test image is identical, pixel by pixel, to one that is pretrained on")
    return found


def requests(params: Params) -> Iterator[Request]:
    """What the parameters say about each set."""
    from convirt.datasets import split_lists
    from convirt.datasets.splits import Split
    from convirt.doctor.request import Request

    def maker(text: str) -> str | None:
        return made_by(text, params.demo.sets)

    for name, source in params.datasets.sources.items():
        listed, fault = None, None
        try:
            listed = split_lists.read(source.split_file) if source.split_file else None
        except InputError as error:
            fault = error
        yield Request(
            name=name,
            reader=source.reader,
            root=source.root,
            split=Split(params.seed, source.val, source.test, listed),
            options=dict(source.options),
            uses=tuple(uses(params, name)),
            made_up=maker(source.root) is not None,
            maker=maker,
            max_dropped=source.most_dropped(params.datasets.max_dropped),
            fault=fault,
        )


def made_by(text: str, sets: Iterable[str]) -> str | None:
    """The command that draws a path in data/demo, "" if none does; None for other paths."""
    name = set_of(text)
    return (f"dvc repro demo@{name}" if name in sets else "") if name else None


def set_of(text: str) -> str:
    """The made-up set that a path belongs to, "" if it is in none of data/demo."""
    path = Path(os.path.normpath(text))
    if not path.is_relative_to(DEMO) or path == DEMO:
        return ""
    return path.relative_to(DEMO).parts[0]


def uses(params: Params, name: str) -> Iterator[Use]:
    """The parameters that use a set: corpora, tasks of any kind of transfer, the retrieval."""
    from convirt.doctor.request import Use

    own = params.ablation
    varied = [own.task] if own.variants or own.trajectory else []
    if name in params.corpora:
        yield Use("corpora", "pairs", batch=_largest_batch(params, name))
    if name in params.zeroshot.task and name not in (*params.matrix.task, *varied):
        task = params.tasks[name]
        yield Use(f"tasks.{name}", "labels", task.labels, ("test",), task=task)
    if name in (*params.matrix.task, *varied):
        task = params.tasks[name]
        yield Use(f"tasks.{name}", "labels", task.labels, task=task)
    searched = params.retrieval.systems or own.variants or own.trajectory
    if params.retrieval.dataset == name and searched:
        blind = [one for one in params.retrieval.systems if one not in params.objectives]
        yield Use("retrieval", "retrieval", most=_most_candidates(params), blind=tuple(blind))


def _largest_batch(params: Params, corpus: str) -> tuple[str, int]:
    """The key and the size of the largest batch in all pretraining on a corpus."""
    from convirt.params import pretraining

    own = params.ablation
    runs: list[tuple[str, str | None]] = [(name, None) for name in params.objectives]
    if corpus == own.corpus:
        runs += [(own.objective, variant) for variant in own.variants]
    sizes = {}
    for objective, variant in runs:
        key = "train.batch_size"
        if "batch_size" in params.objectives[objective].train:
            key = f"objectives.{objective}.train.batch_size"
        if variant is not None and "batch_size" in own.variants[variant].train:
            key = f"ablation.variants.{variant}.train.batch_size"
        sizes[key] = pretraining(params, objective, variant).train.batch_size
    return max(sizes.items(), key=lambda item: item[1], default=("train.batch_size", 0))


def _most_candidates(params: Params) -> tuple[str, int]:
    """The key and the value of the largest number of candidates that a search asks for."""
    own, numbers = params.ablation, {}
    if params.retrieval.systems or own.variants:
        numbers["retrieval.k"] = max(params.retrieval.k)
    if own.trajectory:
        numbers["ablation.k"] = own.k
    return max(numbers.items(), key=lambda item: item[1])


def _depends(found: Diagnosis, request: Request, params: Params, profile: bool) -> None:
    """Check that the path that DVC hashes is there; DVC takes variables literally."""
    from convirt.datasets.options import expanded
    from convirt.doctor.presence import exists

    text = params.datasets.sources[request.name].depends
    key = f"datasets.sources.{request.name}.depends"
    path, unset = expanded(text)
    root, unset_too = expanded(request.root)
    if not (unset or unset_too) and _apart(root, path):
        text = f"depends {path} is not in the root {root}: changes to the set go unnoticed"
        found.add("check", text, f"set {key} to the root, or to the list in it")
    if not profile and "$" in text:
        hint = f"write the path itself, or start from a profile: {_USE}"
        found.add("stop", f"depends is {text}, but DVC does not expand variables", hint)
    elif text.startswith("~"):
        found.add("stop", f"depends is {text}, but DVC does not expand ~", "write the path itself")
    elif unset or exists(path) or found.level in ("later", "stop"):
        return  # reported for the root, or nothing to report
    elif request.maker(text):
        found.add("later", f"depends {path} is not there yet; `dvc repro` creates it")
    else:
        found.add("stop", f"depends {path} is not there, so `dvc repro` stops", f"correct {key}")


def _apart(one: Path, two: Path) -> bool:
    """Whether neither of two paths lies in the other."""
    try:
        one, two = Path(os.path.realpath(one)), Path(os.path.realpath(two))
    except (OSError, ValueError):  # no disk can hold such a name, which is reported elsewhere
        return False
    return not (one.is_relative_to(two) or two.is_relative_to(one))


def _used(found: Diagnosis, request: Request, params: Params) -> None:
    """Check that something uses a set of the user's; `dvc repro` packs unused sets as well."""
    if request.uses or request.made_up:
        return
    hint = "name it in corpora, in tasks and matrix.task, or in retrieval.dataset"
    if params.retrieval.dataset == request.name:
        hint = "name a system in retrieval.systems"
    found.add("check", "nothing uses it", hint)


_USE = "make use PROFILE=profiles/paper.yaml"


# ------------------------------------------------------------------------------ printing
def show(found: list[Diagnosis], console: Console) -> None:
    """Print a table on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        for one in found:
            console.print(f"{one.level:5}  {_title(one)}", markup=False, soft_wrap=True)
            for line in _lines(one):
                console.print(f"       {line}", markup=False, soft_wrap=True)
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_lines=False)
    for name in ("", "what", "found"):
        table.add_column(name, overflow="fold")
    for one in found:
        level = Text(one.level, style=COLOURS[one.level])
        table.add_row(level, Text(_title(one, "\n")), Text("\n".join(_lines(one))))
        table.add_section()
    console.print(table)


def _title(one: Diagnosis, between: str = " ") -> str:
    return one.subject + (f"{between}({one.about})" if one.about else "")


def _lines(one: Diagnosis) -> Iterator[str]:
    """The notes and what to do next; a note that is worse than ok begins with its level."""
    for note in one.notes:
        yield note.text if note.level == "ok" else f"{note.level}: {note.text}"
        for step in note.steps:
            yield f"  next: {step}"


if __name__ == "__main__":
    app()
