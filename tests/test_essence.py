"""What counts in a source file: code does, comments and docstrings do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from convirt.errors import InputError
from convirt.essence import DOCUMENTED, digest_of, essence

CODE = b"""import os

def f(x):
    y = x + 1  # why
    return "# no comment", '''two

lines   ''', y
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"x = 1\n", b"x = 1  # a word\n"),
        (b"x = 1\n", b"# a word\nx = 1\n\n\n"),
        (b"x = 1\n", b'"""Head."""\n\nx = 1\n'),
        (b'"""Head."""\nx = 1\n', b'"""Another\n\nhead.\n"""\nx = 1\n'),
        (b"def f():\n    return 1\n", b'def f():\n    """Say."""\n    # so\n    return 1\n'),
        (b"class A:\n    x = 1\n", b'class A:\n    """An A."""\n\n    x = 1\n'),
        (b"x = 1\n", b"x = 1   \r\n"),
        ("x = 'é'\n".encode(), "x = 'é'  # été\n".encode()),
        (b"async def f():\n    pass\n", b"async def f():\n    'words'\n    pass\n"),
    ],
)
def test_words_do_not_count(before: bytes, after: bytes) -> None:
    assert essence(before) == essence(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"x + 1", b"x + 2"),
        (b"# no comment", b"# no  comment"),
        (b"two\n\nlines", b"two\n\n\nlines"),
        (b"lines   '", b"lines  '"),
        (b"def f", b"def g"),
    ],
)
def test_code_counts(before: bytes, after: bytes) -> None:
    changed = CODE.replace(before, after)
    assert changed != CODE
    assert essence(changed) != essence(CODE)


def test_strings_keep_their_blanks() -> None:
    assert b'"# no comment"' in essence(CODE)
    assert b"two\n\nlines   '''" in essence(CODE)
    assert b"# why" not in essence(CODE)


def test_text_of_a_function_that_is_only_words() -> None:
    assert b"Say" not in essence(b'def f():\n    """Say."""\n')


@given(st.text(alphabet="ab \n\t#'\"\\()=:é", max_size=40))
def test_any_text_is_an_essence_or_no_python(text: str) -> None:
    try:
        once = essence(text.encode())
    except Exception as error:
        assert isinstance(error, (SyntaxError, ValueError)) or "Token" in type(error).__name__
        return
    assert len(once) <= len(text.encode())


def test_own_sources_keep_their_meaning() -> None:
    """Cut down as text, then parsed: the syntax tree is that of the source without docstrings."""
    import ast

    class Drop(ast.NodeTransformer):
        def generic_visit(self, node: ast.AST) -> ast.AST:
            super().generic_visit(node)
            if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:]
            return node

    for path in sorted((ROOT / "convirt").rglob("*.py")):
        source = path.read_bytes()
        wanted = Drop().visit(ast.parse(source))
        cut = essence(source).decode()
        try:
            found = ast.parse(cut)
        except SyntaxError:
            continue  # a class or function that was nothing but its docstring
        assert ast.dump(found) == ast.dump(wanted), path


def test_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a Python file"):
        digest_of(tmp_path / "a.py")
    (tmp_path / "a.py").write_text("def (")
    with pytest.raises(InputError, match="Python"):
        digest_of(tmp_path / "a.py")
