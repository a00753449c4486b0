"""The part of a Python file that can change a result: all but comments, docstrings, blank lines.

Its digest stays the same when only comments or docstrings are edited, so such an edit reruns
nothing.
"""

from __future__ import annotations

import ast
import hashlib
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from convirt.errors import InputError

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def essence(source: bytes) -> bytes:
    """The source without comments, docstrings, trailing blanks and blank lines.

    These are cut from the text, not left out of a printed syntax tree, so that every version of
    Python gives the same. The inside of a multi-line string stays as it is.

    Args:
        source: A Python file in UTF-8.

    Raises:
        SyntaxError: It is not valid Python.
    """
    source = source.replace(b"\r\n", b"\n")
    tree = ast.parse(source)
    lines = source.split(b"\n")
    cuts = [*_docstrings(tree), *_comments(source, lines)]
    inside = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno is not None
        for line in range(node.lineno, node.end_lineno)  # its last line may be stripped
    }
    for (first, start), (last, end) in sorted(cuts, reverse=True):
        lines[first - 1] = lines[first - 1][:start] + lines[last - 1][end:]
        for line in range(first + 1, last + 1):
            lines[line - 1] = b""
            inside.discard(line - 1)
        inside.discard(first)
        inside.discard(last)
    numbered = enumerate(lines, start=1)
    kept = [line if number in inside else line.rstrip() for number, line in numbered]
    return b"\n".join(line for number, line in enumerate(kept, start=1) if line or number in inside)


Place = tuple[int, int]  # line, counted from 1, and byte within it


def _docstrings(tree: ast.AST) -> Iterator[tuple[Place, Place]]:
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            text = node.body[0]
            assert text.end_lineno is not None and text.end_col_offset is not None
            yield (text.lineno, text.col_offset), (text.end_lineno, text.end_col_offset)


def _comments(source: bytes, lines: list[bytes]) -> Iterator[tuple[Place, Place]]:
    for token in tokenize.tokenize(io.BytesIO(source).readline):
        if token.type == tokenize.COMMENT:
            line, column = token.start
            start = len(token.line[:column].encode())
            yield (line, start), (line, len(lines[line - 1]))


@cache  # a stage needs it at its start and before it writes, `stages.code` for all stages
def _digest(source: bytes) -> str:
    return hashlib.sha256(essence(source)).hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 digest of the essence of a Python file, in hex.

    Raises:
        InputError: The file is missing or not valid Python.
    """
    try:
        return _digest(path.read_bytes())
    except FileNotFoundError:
        raise InputError(path, "a Python file", "none", "git checkout it") from None
    except (SyntaxError, tokenize.TokenError, ValueError) as error:
        raise InputError(path, "Python", str(error), "correct it") from None
