"""The one error class whose message says what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any


class InputError(Exception):
    """Something that the user provided is not as required.

    Every message answers four questions in the same order: which file, what was expected,
    what was found, and which command or edit comes next.

    Attributes:
        path: The file, folder or parameter at fault.
        expected: What should have been there.
        found: What was there instead.
        hint: What to do next, preferably a command that can be pasted.
    """

    def __init__(self, path: Path | str, expected: str, found: str, hint: str) -> None:
        self.path, self.expected, self.found, self.hint = str(path), expected, found, hint
        super().__init__(f"{path}\n  expected: {expected}\n  found:    {found}\n  next:     {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        """For passing it between processes: plain pickle would rebuild it from the message."""
        return _made_anew, (type(self), self.args, vars(self))


def quoted(path: Path | str) -> str:
    """A path for a command that can be pasted, whatever characters it holds."""
    return shlex.quote(str(path))


def _made_anew(kind: type[InputError], args: tuple[Any, ...], values: dict[str, Any]) -> InputError:
    error = kind.__new__(kind, *args)
    vars(error).update(values)
    return error


class StoppedError(Exception):
    """A run was asked to stop; its progress is saved if it has a scratch folder."""
