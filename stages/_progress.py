"""Progress of a long loop: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Any

import rich.progress as bars
from rich.console import Console
from rich.text import Text

EVERY = 10.0  # seconds between two plain lines


class Progress:
    """Counts steps and shows rate, elapsed and remaining time, and the fields of the caller.

    Example:
        with stage.progress("pretrain chest", total=300, unit="pairs") as progress:
            for batch in batches:
                progress.update(advance=len(batch), loss=loss)
    """

    def __init__(self, console: Console, what: str, total: int, unit: str, done: int) -> None:
        """Prepare; an earlier, interrupted run completed `done` of `total`."""
        self._console, self._what, self._total, self._unit = console, what, total, unit
        self._first = self._done = done
        self._fields: dict[str, Any] = {}
        self._start = self._told = time.monotonic()
        self._bar: bars.Progress | None = None
        if console.is_terminal:
            self._bar = bars.Progress(
                bars.TextColumn("{task.description}", markup=False),
                bars.BarColumn(),
                bars.MofNCompleteColumn(),
                bars.TimeElapsedColumn(),
                bars.TextColumn("left"),
                bars.TimeRemainingColumn(),
                bars.TextColumn("{task.fields[line]}", markup=False),
                console=console,
            )

    def __enter__(self) -> Progress:
        self._start = self._told = time.monotonic()
        if self._bar:
            self._bar.start()
            self._bar.add_task(self._what, total=self._total, completed=self._done, line="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif kind is None:
            self._say()

    def update(self, advance: int = 1, **fields: Any) -> None:
        """Count `advance` more; `fields` (numbers or text) are shown until they are replaced."""
        self._done += advance
        self._fields |= fields
        if self._bar:
            line = f"{self._rate()}  {self._told_fields()}"
            self._bar.update(bars.TaskID(0), completed=self._done, line=line)
        elif time.monotonic() - self._told >= EVERY:
            self._say()

    def skip(self, count: int) -> None:
        """Count `count` more that took no time: done by an earlier run, or not needed."""
        self._first += count
        self._done += count
        if self._bar:
            self._bar.update(bars.TaskID(0), completed=self._done)

    def _say(self) -> None:
        self._told = time.monotonic()
        elapsed = self._told - self._start
        made = self._done - self._first
        left = _clock(elapsed / made * (self._total - self._done)) if made else "?"
        parts = [
            f"{self._what}: {self._done}/{self._total}",
            self._rate(),
            f"elapsed {_clock(elapsed)}",
            f"left {left}",
            self._told_fields(),
        ]
        self._console.print(Text("  ".join(part for part in parts if part)), soft_wrap=True)

    def _rate(self) -> str:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        return f"{(self._done - self._first) / elapsed:.3g} {self._unit}/s"

    def _told_fields(self) -> str:
        shown = (
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in self._fields.items()
        )
        return "  ".join(shown)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0.0))))
