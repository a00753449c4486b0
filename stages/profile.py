"""Put a profile in the place of `params.yaml`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import typer

from convirt import files, provenance
from convirt.errors import InputError
from stages._scratch import SCRATCH
from stages._told import told

PROFILE: Path = typer.Argument(help="The profile, such as profiles/paper.yaml.")
OUT: Path = typer.Option("params.yaml", help="The parameter file to replace.")


def main(profile: Path = PROFILE, out: Path = OUT) -> None:
    """Copy a profile over params.yaml, with $NAME and ${NAME} filled from the environment.

    Reads the profile. Writes params.yaml, but only if every variable is set and the result is a
    complete, valid parameter file. Comments are kept; `$$` stands for a dollar sign.
    """
    with told():
        if not profile.is_file():
            raise InputError(profile, "a profile", "no such file", "ls profiles")
        kept = install(profile, out, os.environ)
    before = f" (the previous one is now {kept})" if kept else ""
    typer.echo(f"{out} now holds {profile}{before}; next: dvc repro", err=True)


def install(profile: Path, out: Path, environment: Mapping[str, str]) -> Path | None:
    """Expand, check, and only then write.

    Returns:
        Where a copy of the former file is, as it may hold edits; None if nothing was replaced.

    Raises:
        InputError: A variable is not set, or the result is not a valid parameter file.
    """
    from convirt.params import from_yaml, parse

    text = expand(profile, environment)
    parse(from_yaml(text, profile), profile)
    kept = None
    if out.is_file() and (former := out.read_text(encoding="utf-8")) != text:
        # by content, so that no later call replaces it; `make clean` leaves it
        name = f"{out.stem}-{provenance.digest(former)[:8]}{out.suffix}"
        kept = out.parent / SCRATCH / name
        files.write_text(kept, former)
    files.write_text(out, text)
    return kept


def expand(profile: Path, environment: Mapping[str, str]) -> str:
    """The text of a profile with the variables in its values filled, all else byte for byte.

    Raises:
        InputError: A variable is not set, a `$` stands alone, or the profile is not YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    pieces, end = [], 0
    try:
        text = profile.read_text(encoding="utf-8")
        # tokens tell values from comments, in which a `$` means nothing
        for token in YAML(typ="safe", pure=True).scan(text):
            value = getattr(token, "value", None)
            if isinstance(value, str) and "$" in value:
                start = token.start_mark.index
                pieces += [text[end:start], _fill(profile, token, environment)]
                end = token.end_mark.index
    except (YAMLError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())
        raise InputError(profile, "YAML", found, "correct that line") from None
    return "".join([*pieces, text[end:]])


def _fill(profile: Path, token: Any, environment: Mapping[str, str]) -> str:
    place = f"{profile}, line {token.start_mark.line + 1}"
    try:
        # JSON is YAML: a quoted text, whatever the variable holds
        return json.dumps(Template(token.value).substitute(environment), ensure_ascii=False)
    except KeyError as error:
        name = error.args[0]
        hint = f"export {name}=... and run the same command again"
        raise InputError(place, f"the environment variable {name}", "not set", hint) from None
    except ValueError:
        hint = "write $$ for a dollar sign"
        raise InputError(place, "$NAME or ${NAME}", token.value, hint) from None


if __name__ == "__main__":
    typer.run(main)
