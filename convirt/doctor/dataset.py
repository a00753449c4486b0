"""What is there of a data set, what is missing, and where to get it, without opening an image.

For sets with short lists the reader itself is run and decides. Of larger sets only the lists are
read, and a sample of the files that they name is looked for.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from convirt.datasets import registry
from convirt.datasets.tables import SPLITS, Tables
from convirt.doctor import presence
from convirt.doctor.catalogue import YOURS, Facts
from convirt.doctor.diagnosis import Diagnosis
from convirt.doctor.fit import fits
from convirt.doctor.listings import NAMED, Lists
from convirt.doctor.places import find_path, options_of, refuse, steps_into
from convirt.doctor.presence import Files
from convirt.doctor.request import Request
from convirt.errors import InputError

SAMPLE = 200  # files of each sort that are looked for
READ_WHOLE = 20_000  # up to so many rows the reader itself is run: seconds, not minutes


def diagnose(request: Request, full: bool = False) -> Diagnosis:
    """Look at one set.

    Args:
        request: The set.
        full: Run the reader whatever the size of the set, and look for every file.
    """
    found = Diagnosis(request.name, f"reader {request.reader}")
    facts = request.facts
    if request.reader not in registry.READERS:
        known = ", ".join(registry.READERS)
        near = difflib.get_close_matches(request.reader, registry.READERS, n=1)
        text = f"no reader `{request.reader}`; there are {known}"
        key = f"datasets.sources.{request.name}.reader"
        found.add("stop", text, f"set {key} to {near[0] if near else 'one of these'}")
        return found
    if facts and not request.made_up:
        found.images = facts.images  # until it is counted
    root = find_path(found, request, request.root, "root", steps_into(facts, request.root))
    options = options_of(found, request)
    if request.fault:
        refuse(found, request.fault)
    if root is None or options is None or request.fault:
        return found
    if request.made_up or facts is None:
        found.add("ok", f"{'made-up, ' * request.made_up}in {root}")
    elif facts.access == YOURS:
        found.add("ok", f"{facts.title}, in {root}")
    else:
        found.add("ok", f"{facts.title}, in {root}; from {facts.page} ({facts.access})")
    _look(found, request, root, options, full)
    return found


# ------------------------------------------------------------------------------ lists and files


def _look(
    found: Diagnosis, request: Request, root: Path, options: dict[str, Any], full: bool
) -> None:
    facts = request.facts
    lists = Lists(facts, root, options) if facts else None
    if lists and lists.problems:
        for problem in lists.problems:
            refuse(found, problem)
        return
    files: list[Files] = []
    named = NAMED.get(request.reader)
    if lists and lists.whole and lists.home and named:
        files = named(lists.home, lists.rows, options)
    strange = bool(facts and facts.quick) and any(not _any(sort) for sort in files)
    tables = None
    if full or strange or lists is None or not files or lists.size <= READ_WHOLE:
        tables = _run_reader(found, request, root, lists)
    if tables is not None:
        images = Files("images", Path(), tables.images["path"].tolist())
        files = [images, *(sort for sort in files if sort.what != "images")]
    if facts and lists:
        _tell(found, lists, official=not request.made_up)
        _count_folders(found, facts, lists.home or root, official=not request.made_up)
    for sort in files:
        _look_for(found, sort, full, request.max_dropped, steps_into(facts, root, sort.what))
        if sort.what == "images":
            found.images = len(sort.names)
    fits(found, request, tables)


def _any(files: Files) -> bool:
    """Whether any of a few of the files exists; if not, only the reader may know the layout."""
    return any(map(presence.there, presence.probes(files)))


def _run_reader(
    found: Diagnosis, request: Request, root: Path, lists: Lists | None
) -> Tables | None:
    """The reader's tables; None, with a note, if it refuses the set or fails."""
    try:
        tables = registry.read(
            request.reader, root, request.split, dict(request.options), request.name
        )
    except InputError as error:
        if lists and lists.lacking:
            steps = steps_into(lists.facts, root)
            found.add("stop", f"{' and '.join(lists.lacking)} not in {root}", *steps)
        else:
            refuse(found, error)
        return None
    except Exception as error:  # a fault of the reader must not stop the check of other sets
        text = f"the reader `{request.reader}` failed: {type(error).__name__}: {error}"
        found.add("stop", text, f"python -m stages.preprocess {request.name}")
        return None
    sizes = tables.images["split"].value_counts()
    text = ", ".join(f"{sizes.get(name, 0):,} {name}" for name in SPLITS)
    found.add("ok", f"read: {len(tables.images):,} images, {text}")
    dropped = tables.funnel.images.dropped.items()
    reasons = ", ".join(f"{len(ids):,} {reason}" for reason, ids in sorted(dropped))
    if tables.funnel.dropped_share > request.max_dropped:
        text = f"left out: {reasons}; max_dropped is {request.max_dropped:.1%}"
        found.add("stop", text, "complete the set, or raise max_dropped")
    elif reasons:
        found.add("ok", f"left out: {reasons}")
    for note in [] if request.made_up else tables.funnel.note_lines():
        found.add("check", note)
    return tables


def _tell(found: Diagnosis, lists: Lists, official: bool) -> None:
    """Note how many rows the lists have, compared with the official numbers."""
    for name, table in lists.rows.items():
        wanted = lists.official[name] if official else 0
        _count(found, f"{name}: {len(table):,} rows", len(table), wanted, lists.facts)


def _count_folders(found: Diagnosis, facts: Facts, home: Path, official: bool) -> None:
    for folder in facts.folders:
        count = sum(name.endswith(folder.suffix) for name in presence.names(home / folder.name))
        if count:  # none at all: the files may be elsewhere, as the sample will show
            text = f"{folder.name}/: {count:,} {folder.suffix} files"
            _count(found, text, count, folder.files if official else 0, facts)


def _count(found: Diagnosis, text: str, count: int, official: int, facts: Facts) -> None:
    if not official:
        found.add("ok", text)
    elif count == official:
        found.add("ok", f"{text}, the official number")
    else:
        hint = f"another release, or incomplete? compare with {facts.page}"
        found.add("check", f"{text}, officially {official:,}", hint)


def _look_for(
    found: Diagnosis, files: Files, full: bool, max_dropped: float, steps: tuple[str, ...]
) -> None:
    """Look for the files; if they are many, for a sample of them unless `full`."""
    total = len(files.names)
    full = full or total <= READ_WHOLE
    looked = presence.spread(total, total if full else SAMPLE)
    missing = presence.absent_of_all(files) if full else presence.absent(files, looked)
    scope = f"all {total:,}" if len(looked) == total else f"a sample of {len(looked)} of {total:,}"
    text = f"{files.what}: looked for {scope}"
    if not missing:
        found.add("ok", f"{text}, none missing")
        return
    if near := presence.nearly(missing[0]):
        steps = (f"did you mean {near}?", *steps)
    share = len(missing) / len(looked)
    text += f", {len(missing):,} missing ({share:.1%}), such as {missing[0]}"
    if share > max_dropped:
        found.add("stop", f"{text}; max_dropped is {max_dropped:.1%}", *steps)
    else:
        found.add("check", f"{text}; they will be dropped and counted", *steps)
