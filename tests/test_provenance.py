"""What counts as the maker of an output: imported code, parameters, versions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from convirt.errors import InputError
from convirt.provenance import Guard, digest, import_closure, lookup, make_deterministic, versions

Project = Callable[[dict[str, str]], Path]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """`project({"convirt/a.py": text, ...})` writes files, with an `__init__.py` per folder."""

    def write(sources: dict[str, str]) -> Path:
        for name, text in sources.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            for folder in path.relative_to(tmp_path).parents:
                if folder.name:
                    (tmp_path / folder / "__init__.py").touch()
        return tmp_path

    return write


def closure(root: Path, entry: str = "stages/run.py") -> set[str]:
    return {path.relative_to(root).as_posix() for path in import_closure(root / entry, root)}


PLAIN = {"stages/run.py", "stages/__init__.py", "convirt/__init__.py"}


@pytest.mark.parametrize(
    ("line", "modules"),
    [
        ("import convirt.a", {"convirt/a.py"}),
        ("import convirt.a as other", {"convirt/a.py"}),
        ("from convirt import a", {"convirt/a.py"}),
        ("from convirt import a, deep", {"convirt/a.py", "convirt/deep/__init__.py"}),
        ("from convirt.a import x", {"convirt/a.py"}),
        ("from convirt.deep.b import f", {"convirt/deep/__init__.py", "convirt/deep/b.py"}),
        ("from convirt.deep import b", {"convirt/deep/__init__.py", "convirt/deep/b.py"}),
        ("def f():\n    from convirt import a", {"convirt/a.py"}),
        ("try:\n    import convirt.a\nexcept ImportError:\n    pass", {"convirt/a.py"}),
        ("from convirt.a import *", {"convirt/a.py"}),
        ("if TYPE_CHECKING:\n    import convirt.a\nimport convirt", set()),
        (
            "if typing.TYPE_CHECKING:\n    import convirt.a\nelse:\n    import convirt.deep",
            {"convirt/deep/__init__.py"},
        ),
        ("importlib.import_module('convirt.a')", {"convirt/a.py"}),
        (
            "R = {'b': 'convirt.deep.b:f'}\nimport_module(R[k].split(':')[0])",
            {"convirt/deep/__init__.py", "convirt/deep/b.py"},
        ),
        ("'convirt.a'\nimport convirt", set()),
    ],
)
def test_import_is_followed(project: Project, line: str, modules: set[str]) -> None:
    root = project({"convirt/a.py": "x = 1", "convirt/deep/b.py": "f = 1", "stages/run.py": line})
    assert closure(root) == PLAIN | modules


def test_imports_are_followed_through_modules_and_circles(project: Project) -> None:
    root = project(
        {
            "stages/run.py": "import convirt.a\nimport json, numpy",
            "convirt/a.py": "from . import b\nfrom .deep import c",
            "convirt/b.py": "from convirt import a",
            "convirt/deep/c.py": "from ..d import x\nimportlib.import_module('.e', __package__)",
            "convirt/deep/e.py": "",
            "convirt/d.py": "",
            "convirt/unused.py": "",
        }
    )
    found = {f"convirt/{name}.py" for name in ("a", "b", "d", "deep/c", "deep/e", "deep/__init__")}
    assert closure(root) == PLAIN | found


def test_imports_of_a_package_count(project: Project) -> None:
    root = project({"stages/run.py": "import convirt.deep.c", "convirt/deep/c.py": ""})
    (root / "convirt/deep/__init__.py").write_text("from .registry import READERS")
    (root / "convirt/deep/registry.py").write_text("READERS = {}")
    assert "convirt/deep/registry.py" in closure(root)


def test_broken_python_is_named(project: Project) -> None:
    root = project({"stages/run.py": "import convirt.a", "convirt/a.py": "x = = 1"})
    with pytest.raises(InputError, match=r"a\.py") as caught:
        import_closure(root / "stages/run.py", root)
    assert "line 1" in caught.value.found
    with pytest.raises(InputError, match=r"none\.py"):
        import_closure(root / "stages/none.py", root)


@pytest.mark.parametrize("stage", sorted((ROOT / "stages").glob("[a-z]*.py")), ids=lambda p: p.stem)
def test_closure_holds_all_that_a_real_import_loads(stage: Path) -> None:
    code = (
        f"import sys, json, importlib; importlib.import_module('stages.{stage.stem}'); "
        "print(json.dumps([m.__file__ for n, m in sys.modules.items() "
        "if n.split('.')[0] in ('convirt', 'stages')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {Path(name) for name in json.loads(done.stdout)}
    assert loaded <= set(import_closure(stage, ROOT))


# ------------------------------------------------------------------------------ digests
def test_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_lookup() -> None:
    data = {"a": {"b-c": [1]}}
    assert (lookup(data, "a.b-c"), lookup(data, "a.x"), lookup(data, "a.b-c.d")) == (
        [1],
        None,
        None,
    )


def test_versions_are_read_without_importing() -> None:
    code = (
        "import sys; from convirt.provenance import versions; v = versions(); "
        "assert v['torch'][0].isdigit() and v['python'][0] == '3', v; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'pandas', 'pydantic')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    assert all(versions().values())


# ------------------------------------------------------------------------------ the guard
@pytest.fixture
def guarded(tmp_path: Path) -> tuple[Guard, Path, Path]:
    code, params = tmp_path / "a.py", tmp_path / "params.yaml"
    code.write_text("x = 1\n")
    params.write_text("train:\n  lr: 1e-05\n  tau: 0.1\nseed: 0\n")
    return Guard(tmp_path, [code], params, ["train.lr", "seed"]), code, params


def test_guard_at_rest(guarded: tuple[Guard, Path, Path]) -> None:
    guard, _, _ = guarded
    assert not guard.touched()
    assert guard.changes() == []


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("train: {lr: 0.00001, tau: 0.1}\nseed: 0", []),
        ("train: {lr: 1e-05, tau: 0.2}\nseed: 0\nnew: 1  # unread", []),
        ("train: {lr: 1e-05, tau: invalid}\nseed: 0", []),
        ("train: {lr: 1e-04, tau: 0.1}\nseed: 0", ["params.yaml: train.lr"]),
        ("train: {tau: 0.1}\nseed: 1", ["params.yaml: train.lr", "params.yaml: seed"]),
        ("train: [", ["params.yaml (unreadable)"]),
    ],
)
def test_guard_of_parameters(
    guarded: tuple[Guard, Path, Path], text: str, changes: list[str]
) -> None:
    guard, _, params = guarded
    params.write_text(text)
    assert guard.touched()
    assert guard.changes() == changes


def test_guard_of_code(guarded: tuple[Guard, Path, Path]) -> None:
    guard, code, _ = guarded
    code.write_text("x = 22\n")
    assert guard.touched()
    assert not guard.touched()  # asked already
    assert guard.changes() == ["a.py"]
    code.write_text("x = 1\n")
    assert guard.touched()
    assert guard.changes() == []
    code.unlink()
    assert guard.touched()
    assert guard.changes() == ["a.py"]


def test_code_digest_tells_names_and_contents_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for part in ("x", "y"):
            (tmp_path / name / f"{part}.py").write_text(part)
    params = tmp_path / "params.yaml"

    def code(root: str, *parts: str) -> str:
        files = [tmp_path / root / f"{part}.py" for part in parts]
        return Guard(tmp_path / root, files, params, []).code

    assert code("a", "x", "y") == code("b", "x", "y")  # where the repository is does not matter
    assert code("a", "x") != code("a", "y")
    assert code("a", "x") != code("a", "x", "y")


# ------------------------------------------------------------------------------ determinism
def test_deterministic_torch_gives_the_same_draws() -> None:
    import random

    import numpy as np
    import torch

    threads = torch.get_num_threads()
    # as in containers that ask for it in their environment
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        draws = []
        for seed in (7, 7, 8):
            make_deterministic(1, seed)
            draws.append((random.random(), np.random.rand(), torch.rand(1).item()))
        make_deterministic(2, 7)  # tests start with one thread, so one would show nothing
        assert torch.get_num_threads() == 2
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert draws[0] == draws[1] != draws[2]
    finally:
        torch.set_num_threads(threads)
