"""Hold the module dependencies of `dvc.yaml` against what each stage really imports."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import typer

from convirt import files
from convirt.errors import InputError
from convirt.provenance import PACKAGES, import_closure

DVC_FILE: Path = typer.Option("dvc.yaml", help="The pipeline file.")
WRITE: bool = typer.Option(False, "--write/--check", help="Correct the file, or only compare.")


def main(write: bool = WRITE, dvc_file: Path = DVC_FILE) -> None:
    """List every project module that a stage imports, itself or through others, in its deps.

    Reads dvc.yaml, stages/ and convirt/. Writes dvc.yaml with --write, where comments stay.
    With --check (the default) exit code 1 tells that a list is wrong.
    """
    document = read(dvc_file)
    try:
        wrong = differences(document, dvc_file.parent)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    for stage, (lacking, needless) in wrong.items():
        told = [*(f"+ {name}" for name in lacking), *(f"- {name}" for name in needless)]
        typer.echo(f"{stage}:\n  " + "\n  ".join(told), err=True)
    if not wrong:
        typer.echo("The deps of dvc.yaml are what the stages import.", err=True)
    elif write:
        for stage in wrong:
            _rewrite(_body(document["stages"][stage]), dvc_file.parent)
        files.write_text(dvc_file, dump(document))
    else:
        typer.echo("Correct it: python -m stages.deps --write", err=True)
        raise typer.Exit(1)


def read(path: Path) -> Any:
    """The pipeline file, with its comments."""
    return _yaml().load(path.read_text(encoding="utf-8"))


def dump(document: Any) -> str:
    """The text of what `read` gave."""
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def differences(document: Any, root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """By stage: the modules that its deps lack, and those that it does not import."""
    found = {}
    for name, stage in document["stages"].items():
        body = _body(stage)
        listed = {dep for dep in body.get("deps", []) if _is_module(dep)}
        wanted = set(modules(body, root))
        if listed != wanted:
            found[name] = (sorted(wanted - listed), sorted(listed - wanted))
    return found


def modules(body: Any, root: Path) -> list[str]:
    """The modules behind a stage's `python -m stages.<name>`, relative to `root`, sorted."""
    entry = root / "stages" / f"{entry_name(body)}.py"
    return [path.relative_to(root.resolve()).as_posix() for path in import_closure(entry, root)]


def entry_name(body: Any) -> str:
    """The <name> in a stage's `python -m stages.<name>`."""
    match = re.search(r"-m stages\.(\w+)", body["cmd"])
    if match is None:
        raise ValueError(f"no `python -m stages.<name>` in {body['cmd']!r}")
    return match[1]


def _body(stage: Any) -> Any:
    return stage.get("do", stage)


def _is_module(dep: Any) -> bool:
    return isinstance(dep, str) and dep.endswith(".py") and dep.split("/")[0] in PACKAGES


def _rewrite(body: Any, root: Path) -> None:
    """Drop the modules from a stage's deps and add the right ones at the end."""
    deps = body.setdefault("deps", [])
    wanted = modules(body, root)
    for i in reversed(range(len(deps))):
        if _is_module(deps[i]) and deps[i] not in wanted:
            del deps[i]
    for name in wanted:
        if name not in deps:
            after = [i for i, dep in enumerate(deps) if not _is_module(dep) or dep < name]
            deps.insert(after[-1] + 1 if after else 0, name)


def _yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml


if __name__ == "__main__":
    typer.run(main)
