"""Errors of commands that are no stages of the pipeline, as messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from convirt.errors import InputError
from stages._faults import explained


@contextmanager
def told() -> Iterator[None]:
    """Turn an error that a user can mend into its message on stderr and exit code 1."""
    try:
        yield
    except (InputError, OSError) as error:
        found = explained(error, Path.cwd())
        if found is None:
            raise
        typer.echo(str(found), err=True)
        raise typer.Exit(1) from error
