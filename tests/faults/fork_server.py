"""Runs stages in forks of one process that has imported everything, so that a start costs nothing.

Started with `python -m faults.fork_server` in a copy of the code. It reads one JSON object per
line and answers with one:

    {"stage": "pretrain", "arguments": [...], "project": "/...", "log": "/...", "fault": {...}}
        -> {"pid": 123}
    {"poll": 123} -> {"code": null}, {"code": "stopped"}, or the exit code, -9 after SIGKILL

A fork ends as `python -m stages.<stage>` would, with its exit code, its handlers and its traceback.
Only imports happen before: no thread, no computation.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import sys
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NoReturn

from faults.injection import Fault, install
from stages._forks import LIBRARIES, end_of

PACKAGES = [*LIBRARIES, "imagecodecs", "matplotlib.backends.backend_agg", "matplotlib.pyplot"]
PACKAGES += ["pyarrow.dataset", "ruamel.yaml", "sklearn.manifold"]
# Several blocks where a tiny set would be one; a state at each chance, not once a minute; and code
# and parameters looked at in each step, not once a second.
SMALLER: dict[str, Any] = {
    "convirt.image_encoder:BLOCK": 8,
    "convirt.feature_cache:KEEP_EVERY": 0.0,
    "convirt.pieces:BLOCK": 4,
    "convirt.results.plots:DPI": 40,
    "convirt.transfer:KEEP_EVERY": 0.0,
    "stages._stage:EACH": 0.0,
}


def main() -> None:
    """Serve until the other end closes; in a fork, run the stage that was asked for."""
    load()
    make_small()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    children: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "poll" in request:
            answer: dict[str, Any] = {"code": poll(request["poll"], children)}
        else:
            parse(Path(request["project"]))
            pid = fork()
            if pid == 0:
                become(request)
            children.add(pid)
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def load() -> None:
    """Import what stages import."""
    import torch._dynamo
    import transformers

    for name in PACKAGES:
        importlib.import_module(name)
    _ = transformers.BertModel, transformers.BertTokenizerFast  # loaded lazily
    with suppress(ImportError):  # a table of patterns, slower than a whole tiny encoder
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("bert")
    for path in sorted([*Path("convirt").rglob("*.py"), *Path("stages").rglob("*.py")]):
        importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))
    atexit.unregister(torch._dynamo.utils.dump_compile_times)  # a table that nobody reads
    remember_code()
    gc.collect()
    gc.freeze()  # the collector leaves all of it alone, so that forks share its memory


def make_small() -> None:
    """Make blocks small, and spare pictures their layout, half of the time they take."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    ConstrainedLayoutEngine.execute = lambda *_: None  # type: ignore[method-assign]
    for name, value in SMALLER.items():
        module, _, attribute = name.partition(":")
        loaded = importlib.import_module(module)
        assert hasattr(loaded, attribute), f"{name} is gone: change SMALLER"
        setattr(loaded, attribute, value)


def remember_code() -> None:
    """Read and cut down all code once; the result depends on the contents of files alone."""
    from convirt import essence, params, provenance

    essence.essence = lru_cache(maxsize=None)(essence.essence)
    provenance.import_closure = lru_cache(maxsize=None)(provenance.import_closure)
    parsed = lru_cache(maxsize=None)(partial(params.from_yaml, source="params.yaml"))
    params.from_yaml = lambda text, source: parsed(text)
    root = Path.cwd()
    for path in [*root.glob("stages/[a-z]*.py"), *root.glob("convirt/objectives/[a-z]*.py")]:
        for imported in provenance.import_closure(path, root):
            essence.digest_of(imported)


def parse(project: Path) -> None:
    """Parse the parameters of a project, which takes longer than most stages; forks remember it."""
    from convirt import params

    with suppress(params.ParamsError):
        params.read_yaml(project / "params.yaml")


def fork() -> int:
    """Fork, which is safe as long as nothing but imports has happened."""
    tasks = list(Path("/proc/self/task").iterdir())
    assert len(tasks) == 1, "a thread was started by an import: its locks would be copied"
    sys.stdout.flush()
    return os.fork()


def become(request: dict[str, Any]) -> NoReturn:
    """Turn this process into the stage."""
    project = Path(request["project"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, null), (1, null), (2, log)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    os.chdir(project)
    module = importlib.import_module(f"stages.{request['stage']}")
    sys.argv = [str(module.__file__), *request["arguments"]]
    install(Fault(**request["fault"]), project)
    os._exit(end_of(module.app))


def poll(pid: int, children: set[int]) -> int | str | None:
    """A child's exit code, "stopped" if it stands still, None while it runs."""
    found, status = os.waitpid(pid, os.WNOHANG | os.WUNTRACED)
    if found == 0:
        return None
    if os.WIFSTOPPED(status):
        return "stopped"
    children.discard(pid)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    main()
