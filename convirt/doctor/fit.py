"""Whether a set suits what the parameters use it for: its kind, its labels, its splits, its size.

What is refused here, a later stage would refuse too, perhaps after hours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from convirt.datasets.tables import SPLITS, Tables
from convirt.doctor.diagnosis import Diagnosis
from convirt.doctor.places import refuse
from convirt.doctor.request import Request, Use
from convirt.errors import InputError

if TYPE_CHECKING:
    from convirt.params import Task

NEEDED = {"pairs": ("train", "val"), "labels": SPLITS}


def fits(found: Diagnosis, request: Request, tables: Tables | None) -> None:
    """Note what a set lacks for its uses.

    Args:
        found: Gets the notes.
        request: What the parameters say about the set.
        tables: What the reader returned; None if it was not run, or refused the set.
    """
    facts = request.facts
    kind = tables.kind if tables else facts.kind if facts else ""
    labels = tables.labels if tables else getattr(request.module, "LABELS", None)
    refused = found.level == "stop"  # maybe by the reader, which then need not run again
    if labels is None and not refused and any(use.labels for use in request.uses):
        found.add("ok", "labels and splits: not checked; --full runs the reader")
    for use in request.uses:
        if kind and use.kind != kind:
            text = f"{use.key} needs a set of {use.kind}; this one holds {kind}"
            found.add("stop", text, f"name another set in {use.key}")
            continue
        lacking = [] if labels is None else sorted(set(use.labels) - set(labels))
        if labels is not None and lacking:
            text = f"{use.key}.labels has {', '.join(lacking)}; the set has {', '.join(labels)}"
            found.add("stop", text, f"correct {use.key}.labels")
        if tables is None:
            continue
        splits = list(_splits(found, request, use, tables))
        if use.kind == "pairs":
            _batches(found, request, use, tables, splits)
        elif use.task and not lacking:
            _classes(found, use, use.task, tables, splits)
        elif use.kind == "retrieval":
            _searches(found, use, tables)


def _splits(found: Diagnosis, request: Request, use: Use, tables: Tables) -> Iterator[str]:
    """The splits that a use needs and the set has; missing ones are noted."""
    for name in use.splits or NEEDED.get(use.kind, ()):
        if (tables.images["split"] == name).any():
            yield name
            continue
        source = f"datasets.sources.{request.name}"
        hint = f"set {source}.{name}"
        if name == "train":
            hint = f"lower {source}.val and {source}.test, or mark rows as train"
        found.add("stop", f"{use.key} needs {name} images; there are none", hint)


def _batches(
    found: Diagnosis, request: Request, use: Use, tables: Tables, splits: Iterable[str]
) -> None:
    """Validation takes whole batches; a train part smaller than one batch repeats studies."""
    key, size = use.batch
    source = f"datasets.sources.{request.name}"
    for name in splits:
        count = tables.images.loc[tables.images["split"] == name, "study"].nunique()
        text = f"{use.key} needs at least {key} = {size} {name} studies; there are {count}"
        if count < size and name == "val":
            found.add("stop", text, f"raise {source}.val or lower {key}")
        elif count < size:
            text += ", so a batch holds a study twice"
            found.add("check", text, f"lower {key}, or {source}.val and {source}.test")


def _classes(found: Diagnosis, use: Use, task: Task, tables: Tables, splits: Iterable[str]) -> None:
    """Note splits that cannot be scored, and classes that have no image."""
    from convirt.labelled import check_task

    images = tables.images
    for name in splits:
        try:
            check_task(
                images, use.labels, task.kind, task.metric, task.unit, tables.source, (name,)
            )
        except InputError as error:
            hint = error.hint.replace("tasks.<name>", use.key)
            refuse(found, InputError(error.path, error.expected, error.found, hint))
            continue
        own = images[images["split"] == name]
        never = [label for label in use.labels if not own[label].any()]
        if never and task.metric == "accuracy":
            text = f"{use.key}: none of {len(own):,} {name} images is {' or '.join(never)}"
            found.add("check", text, f"add some, or take the class out of {use.key}.labels")


def _searches(found: Diagnosis, use: Use, tables: Tables) -> None:
    """Note if there are too few candidates, or no queries."""
    key, most = use.most
    role = tables.images["role"]
    candidates, queries = int((role == "candidate").sum()), int((role == "query").sum())
    texts = 0 if tables.queries is None else len(tables.queries)
    if candidates < most:
        text = f"{key} asks for {most} candidates; there are {candidates}"
        found.add("stop", text, f"lower {key}, or add candidates")
    if not queries + texts:
        found.add("stop", f"{use.key} needs queries, images or texts; there are none", "add them")
    elif not queries and use.blind:
        names = ", ".join(use.blind)
        text = f"{use.key} needs image queries for {names}, without a text encoder; there are none"
        found.add("stop", text, f"take {names} out of retrieval.systems, or add image queries")
