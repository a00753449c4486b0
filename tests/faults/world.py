"""A project so small that every stage takes a moment, in which all stages have run undisturbed."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import tiny_models
from conftest import ROOT, set_key

from convirt.checkpoint import STATE
from faults.injection import Fault
from faults.processes import NOTHING, Process, Server
from faults.steps import CHANGES, KEPT, STEPS, Step
from stages._scratch import SCRATCH

LOCK = "lock"  # it holds the number of a process
SPOKEN = 2_000  # bytes, more than a stage prints


@dataclass(frozen=True)
class Truth:
    """How a step goes when nothing disturbs it.

    Attributes:
        tree: All files and folders of the project afterwards, see `tree`.
        changes: Every change to a file that it made, in order.
        seconds: How long it took.
    """

    tree: dict[str, bytes]
    changes: tuple[str, ...]
    seconds: float


class World:
    """The project, and what each step makes of it."""

    def __init__(self, server: Server, home: Path, params: dict[str, Any]) -> None:
        """Run all steps, each in a folder that holds no more than it reads."""
        self.server, self._home, self._all = server, home, home / "all"
        self._all.mkdir()
        self._write_params(params)
        tiny_models.write_bert(self._all / "bert")
        write_code(self._all)
        self.truth = {step.name: self._undisturbed(step) for step in STEPS}

    def _write_params(self, params: dict[str, Any]) -> None:
        params = copy.deepcopy(params)
        for key, value in CHANGES.items():
            set_key(params, key, value)
        for table, names in KEPT.items():
            *parents, last = table.split(".")
            at = reduce(dict.__getitem__, parents, params)
            at[last] = {name: at[last][name] for name in names}
        self._all.joinpath("params.yaml").write_text(json.dumps(params, indent=1))

    def _undisturbed(self, step: Step) -> Truth:
        project = self.project(step, self._home / step.name)
        record = self._home / f"{step.name}.changes"
        process = self.run(project, step, Fault(record=str(record)))
        assert process.code == 0, f"{step.name}\n{process.said}"
        copy_over(step.writes, project, self._all)
        changes = tuple(record.read_text(encoding="utf-8").splitlines())
        return Truth(tree(project), changes, process.seconds)

    def project(self, step: Step, folder: Path) -> Path:
        """A new project in `folder`, with no more than the step reads."""
        copy_over(("params.yaml", *step.reads), self._all, folder)
        return folder

    def length(self, step: Step, share: float) -> int:
        """A length that some output exceeds, `share` of the way from stderr's to the longest's."""
        whole = self.truth[step.name].tree
        longest = max(len(data) for name, data in whole.items() if name.startswith(step.writes))
        shortest = min(SPOKEN, longest - 1)
        return int(shortest * (longest / shortest) ** share)

    def after_second_state(self, step: Step) -> int:
        """The change to a file right after the second resume state in some folder."""
        changes, seen = self.truth[step.name].changes, set()
        for at, told in enumerate(changes, start=1):
            found = re.fullmatch(rf"os\.rename .* (\S+)/{re.escape(STATE)}", told)
            if found and found[1] in seen:
                return at + 1
            if found:
                seen.add(found[1])
        raise AssertionError(f"no folder with two states: {changes}")

    def run(self, project: Path, step: Step, fault: Fault = NOTHING) -> Process:
        """Run the step until it ends, in whatever way."""
        return self.server.run(project, step.command, fault)

    def finish(self, project: Path, step: Step) -> Process:
        """Run the step once more; all is then as if nothing had ever disturbed it."""
        process = self.run(project, step)
        assert process.code == 0, process.said
        assert_same(tree(project), self.truth[step.name].tree)
        return process


def copy_over(names: Iterable[str], source: Path, target: Path) -> None:
    """Copy files and folders from one project to another."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
        copy(source / name, target / name)


def copy_code(folder: Path) -> None:
    """The packages that run: a copy, so that an edit of the repository does not reach them."""
    for package in ("convirt", "stages"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, folder / package, ignore=ignore)


def write_code(folder: Path) -> None:
    """Write packages with the names of all modules and next to no code, to be digested."""
    for package in ("convirt", "stages"):
        for path in (ROOT / package).rglob("*.py"):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"name = {path.stem!r}\n")


def change_params(project: Path, **values: Any) -> None:
    """Set values at dotted keys of params.yaml."""
    path = project / "params.yaml"
    params = json.loads(path.read_text())
    for key, value in values.items():
        set_key(params, key, value)
    path.write_text(json.dumps(params, indent=1))


def tree(project: Path) -> dict[str, bytes]:
    """Every file below a folder by name, hidden ones too, and every folder, with a slash."""
    found = {}
    for path in sorted(project.rglob("*")):
        name = path.relative_to(project).as_posix()
        if path.is_dir():
            found[f"{name}/"] = b""
        else:
            found[name] = b"" if path.name == LOCK else path.read_bytes()
    return found


def written(project: Path, step: Step) -> dict[str, bytes]:
    """What there is of a step's outputs."""
    return {name: data for name, data in tree(project).items() if name.startswith(step.writes)}


def torn(project: Path, step: Step, truth: Truth) -> list[str]:
    """The outputs of a step that are there, but not as they are when nothing disturbs it."""
    found = tree(project)
    return [name for name in step.writes if part(found, name) not in ({}, part(truth.tree, name))]


def part(whole: dict[str, bytes], name: str) -> dict[str, bytes]:
    """What a tree holds of one file or folder."""
    inside = f"{name}/"
    return {key: data for key, data in whole.items() if key == name or key.startswith(inside)}


def leftovers(project: Path) -> list[str]:
    """Names of files that were being written, in the folders where outputs are."""
    names = (path.relative_to(project) for path in project.rglob(".*"))
    return sorted(str(name) for name in names if name.parts[0] != SCRATCH)


def assert_same(found: dict[str, bytes], wanted: dict[str, bytes]) -> None:
    """The same names, and the same bytes."""
    names = found.keys() | wanted.keys()
    other = [name for name in sorted(names) if found.get(name) != wanted.get(name)]
    assert not other, f"not as in an undisturbed run: {', '.join(other)}"
