"""What all stages share: declared parameters, the guard, the scratch folder, readable errors.

A stage is a thin typer program in this form, which `tests/test_dvc.py` compares with `dvc.yaml`:

    READS = ["seed", "compute.threads", "tasks.{task}"]   # module level, a plain list of texts

    def main(task: str, params: Path = PARAMS) -> None:
        with Stage(__file__, reads=READS, names={"task": task}, params=params) as stage:
            lr = stage.params.tasks[task].lr        # a key outside READS raises
            with stage.scratch({"store": store.meta["digest"]}) as scratch:
                ...                                 # resume from and save to `scratch`
                stage.poll()                        # in the loop
                stage.confirm()                     # before the first output
                ...                                 # write outputs
                stage.scratch_done()

`READS` has to be a literal: it is read without running the module. `{task}` is filled from
`names`; in `dvc.yaml` the same key reads `tasks.${item.task}`.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from convirt import files, provenance
from convirt.errors import InputError
from convirt.params import Params, load
from stages import _faults, _parent, _scratch
from stages._progress import Progress
from stages._scope import scoped

PARAMS: Path = typer.Option("params.yaml", help="The parameter file.")
# parameters that are read but do not affect outputs: neither digested nor guarded
FREE = ("compute.workers", "compute.store")
EACH = 1.0  # seconds between two checks of code and parameters
NOTE = "note: "  # prefix of a line that `stages.runs` passes on


class StageError(InputError):
    """A stage may not go on, through no fault of its input."""


class Stage:
    """One run of a stage, as a context manager.

    On exit, an error that a user can fix becomes a message on stderr and exit code 1.

    Attributes:
        name: Such as "finetune".
        root: The folder that relative paths start from (where DVC runs the command).
        params: The parameters, restricted to `reads`.
        console: Writes to stderr.
    """

    params: Params

    def __init__(
        self,
        entry: str | Path,
        *,
        reads: Sequence[str],
        params: Path,
        names: Mapping[str, object] | None = None,
        code: Sequence[str] = (),
    ) -> None:
        """Describe the run; nothing is read before the `with` block begins.

        Args:
            entry: `__file__` of the stage.
            reads: Dotted keys of all parameters that it reads, with `{name}` for each of `names`.
            params: The parameter file.
            names: The arguments that distinguish this run from the others of its stage.
            code: Files that it loads by name beside its imports, relative to the repository.
        """
        self.name = Path(entry).stem
        self.root = Path.cwd()
        self.console = Console(stderr=True, highlight=False)
        self._entry = Path(entry).resolve()
        self._code = list(code)
        self._names = {key: str(value) for key, value in (names or {}).items()}
        self._reads = [key.format(**self._names) for key in reads]
        self._params_file = params if params.is_absolute() else self.root / params
        self._scratch: Path | None = None
        self._resumes_in: Path | None = None
        self._warned = False
        self._looked = -math.inf
        self._ended: int | None = None

    # -------------------------------------------------------------------------- in and out
    def __enter__(self) -> Stage:
        if "DVC_STAGE" in os.environ:
            _parent.end_with_dvc()
        _say_where_it_crashed()
        self._handler = self._exit_on_sigterm()
        try:
            code_root = self._entry.parent.parent
            entries = [self._entry, *(code_root / name for name in self._code)]
            closures = [provenance.import_closure(entry, code_root) for entry in entries]
            modules = sorted({path for closure in closures for path in closure})
            tracked = [key for key in self._reads if key not in FREE]
            # the guard first: an edit between the two reads is then seen as a change
            self._guard = provenance.Guard(code_root, modules, self._params_file, tracked)
            params = load(self._params_file)
            values = {key: params.get(key) for key in self._reads}
            self._params_digest = provenance.digest({key: values[key] for key in tracked})
            self._versions = provenance.versions()
            self.params = scoped(params, self._reads)
            self._require_digested()
        except InputError as error:
            self._fail(error)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGTERM, self._handler)
        if self._ended is not None and not isinstance(error, SystemExit):
            raise SystemExit(self._ended) from None
        if error is None:
            # DVC hashes code only now: an edit while the outputs were written counts as well
            try:
                self.confirm()
            except StageError as late:
                self._fail(late)
        elif isinstance(error, KeyboardInterrupt):
            self.say(f"{self.name} interrupted; {self._kept()}", style="yellow")
            raise typer.Exit(130) from error
        elif explained := _faults.explained(error, self.root):
            self._fail(explained, error)

    def say(self, message: str, style: str = "") -> None:
        """Print a message for the user on stderr."""
        self.console.print(Text(message, style=style), soft_wrap=True)

    def note(self, message: str) -> None:
        """Print what a user should look at although the run goes on; `stages.runs` repeats it."""
        self.say(f"{NOTE}{message}", style="yellow")

    def _fail(self, error: InputError, cause: BaseException | None = None) -> NoReturn:
        self.say(f"{self.name} failed", style="bold red")
        self.say(str(error))
        raise typer.Exit(1) from cause or error

    def _require_digested(self) -> None:
        """Under DVC, require that the digest this stage depends on is that of the running code.

        `dvc repro -s` does not update anything upstream, so DVC would record a former digest.
        """
        if "DVC_STAGE" not in os.environ:
            return
        name = "-".join([self.name, *(Path(path).stem for path in self._code)])
        path = self.root / "metrics" / "code" / f"{name}.json"
        found = json.loads(path.read_text(encoding="utf-8"))["code"] if path.is_file() else "none"
        if found != self._guard.code:
            raise StageError(
                path,
                f"the digest of the code, {self._guard.code[:12]}",
                f"{found[:12]}",
                "dvc repro code, then the same command",
            )

    def _exit_on_sigterm(self) -> Any:
        """Let SIGTERM unwind the stack, so that temporary files go; return the former handler."""
        if threading.current_thread() is not threading.main_thread():
            return None
        owner = os.getpid()

        def leave(number: int, frame: FrameType | None) -> None:
            self._ended = 128 + number
            if os.getpid() == owner:
                raise SystemExit(128 + number)
            os._exit(128 + number)  # a forked worker

        return signal.signal(signal.SIGTERM, leave)

    def _leave_if_told(self) -> None:
        """Exit if SIGTERM came: its exception may be lost in a destructor or in a C extension."""
        if self._ended is not None:
            raise SystemExit(self._ended)

    def encoder_of(self, system: str, corpus: str) -> Path:
        """The folder of a system's encoder: a baseline has one, an objective one per corpus.

        A stage that calls it reads `model.baselines`.
        """
        folder = self.root / "models" / "encoders" / system
        return folder if system in self.params.model.baselines else folder / corpus

    # -------------------------------------------------------------------------- the guard
    def poll(self) -> None:
        """Warn once if code or parameters differ from the start; cheap enough for a loop."""
        self._leave_if_told()
        # a check asks for the state of each file, which a network disk is slow to answer
        if self._warned or time.monotonic() < self._looked + EACH:
            return
        self._looked = time.monotonic()
        if not self._guard.touched():
            return
        try:
            changes = self._guard.changes()
        except OSError:  # a network disk that does not answer: `confirm` asks again
            return
        if changes:
            self._warned = True
            self.say(
                f"changed since the start: {', '.join(changes)}. This run goes on with the earlier "
                "code and parameters, but cannot write its outputs unless the edit is undone.",
                style="yellow",
            )

    def confirm(self) -> None:
        """Make sure that code and parameters are those of the start; call it before writing.

        Raises:
            StageError: They are not. DVC would record the new ones as the origin of outputs that
                the former ones produced.
        """
        self._leave_if_told()
        if changes := self._guard.changes():
            raise StageError(
                ", ".join(changes),
                "the code and parameters that this run started with",
                "edited meanwhile, so the outputs are refused",
                f"undo the edit (git diff) and run the same command: {self._kept()}. "
                "Or keep the edit and run the same command, which then starts over",
            )

    def provenance(self, inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The origin of outputs: digests of code, parameters and `inputs`, package versions."""
        return {
            "code": self._guard.code,
            "params": self._params_digest,
            "versions": self._versions,
            "inputs": dict(inputs or {}),
        }

    # -------------------------------------------------------------------------- the scratch folder
    @contextmanager
    def scratch(self, inputs: Mapping[str, str] | None = None) -> Iterator[Path]:
        """Yield a locked folder for resume states, the same only for an identical run.

        It is outside the outputs, which DVC deletes before a stage runs. It is in the original
        repository even when DVC runs an experiment in a copy.

        Args:
            inputs: Digests of what is read in addition to code and parameters.

        Raises:
            InputError: Another run holds the folder.
        """
        from convirt import checkpoint

        key = {"names": self._names, **self.provenance(inputs)}
        base = Path(os.environ.get("DVC_ROOT") or self.root)
        folder = base / _scratch.SCRATCH / f"{self.name}-{provenance.digest(key)[:24]}"
        _scratch.sweep(base)
        with checkpoint.locked(folder):
            self._scratch = folder
            self.resumes_in(folder)
            _scratch.unmark(folder)
            files.sweep(folder)
            for state in sorted({path.parent for path in folder.rglob("*.safetensors")}):
                if told := checkpoint.recover(state):
                    self.say(told, style="yellow")
            yield folder

    def scratch_done(self, keep: bool = True) -> None:
        """The outputs are written: delete the scratch folder.

        Under DVC only mark it to be deleted, unless `keep` is False: DVC has yet to record the
        outputs. If it cannot, it runs the stage again, which then goes on from this state.
        """
        if self._scratch is None:
            return
        stage = os.environ.get("DVC_STAGE")
        if keep and stage is not None:
            _scratch.mark(self._scratch, stage, self.root)
        else:
            _scratch.delete(self._scratch)
            self._resumes_in = None
        self._scratch = None

    def resumes_in(self, folder: Path) -> None:
        """Tell whoever interrupts this run that it goes on from what is in `folder`."""
        self._resumes_in = folder

    def _kept(self) -> str:
        if self._resumes_in is None:
            return "this stage has no resume state and starts over"
        where = os.path.relpath(self._resumes_in, self.root)
        return f"the resume state in {where} is kept, so only seconds are lost"

    def progress(self, what: str, total: int, unit: str = "steps", done: int = 0) -> Progress:
        """A context manager whose `update(advance, **fields)` shows rate, elapsed and time left."""
        return Progress(self.console, what, total, unit, done)


def _say_where_it_crashed() -> None:
    """If the kernel ends the run, as when a mapped file is truncated, print the line it was at."""
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__, all_threads=False)
