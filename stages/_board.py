"""What `stages.runs` shows: a table that stays in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stages._crew import Crew, Ended
from stages._plan import Schedule, seconds_left

EVERY = 60.0  # seconds between two plain lines when nothing happens
WORDS = {"done": "done", "cached": "taken from DVC's cache", "unchanged": "is up to date"}


class Board:
    """Counts the stages that ended and shows them on stderr.

    Attributes:
        failures: For each stage that failed, how it ended and its log.
    """

    def __init__(self) -> None:
        """Show nothing yet."""
        self.failures: list[tuple[Ended, Path]] = []
        self._console = Console(stderr=True, highlight=False)
        self._ended: dict[str, Ended] = {}
        self._dropped: list[str] = []
        self._begin = self._told = time.monotonic()
        self._live: Live | None = None

    @contextmanager
    def over(self, schedule: Schedule, crew: Crew) -> Iterator[None]:
        """Show the work on a schedule while the block runs."""
        self._schedule, self._crew = schedule, crew
        self._total = len(schedule.waiting)
        self._begin = time.monotonic()
        self.say(f"{self._total} stages to check, {len(crew.workers)} at a time")
        if not (self._console.is_terminal and self._console.file.isatty()):  # despite FORCE_COLOR
            yield
            return
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=2, transient=True
        )
        with self._live:
            yield
        self._live = None

    def say(self, message: str, style: str = "") -> None:
        """Print a line that stays."""
        self._told = time.monotonic()
        self._console.print(Text(message, style=style), soft_wrap=True)

    def started(self, stage: str, slot: str) -> None:
        """Report that a stage was given to a worker."""
        if self._live is None:
            self.say(f"start {stage}{f' on GPU {slot}' if slot else ''}")

    def done(self, ended: Ended, notes: list[str]) -> None:
        """Report a stage that succeeded, with its notes."""
        self._ended[ended.stage] = ended
        for note in notes:
            self.say(f"{ended.stage}: {note}", style="yellow")
        self.say(f"{ended.stage} {WORDS[ended.outcome]} ({_clock(ended.seconds)}){self._tail()}")

    def up_to_date(self, stages: list[str]) -> None:
        """Report waiting stages that need not run after all."""
        self._ended |= {stage: Ended(stage, "unchanged", 0.0) for stage in stages}
        if stages:
            self.say(f"{len(stages)} stages are up to date after all{self._tail()}")

    def failed(self, ended: Ended, log: Path, dropped: list[str]) -> None:
        """Report a stage that failed, and how many stages below it were dropped."""
        self.failures.append((ended, log))
        self._dropped += dropped
        below = f"; {len(dropped)} below it will not run" if dropped else ""
        text = f"{ended.stage} failed ({_clock(ended.seconds)}){below}{self._tail()}"
        self.say(text, style="red")

    def refresh(self) -> None:
        """Where there is no table, list the running stages after `EVERY` seconds without a line."""
        if self._live is None and time.monotonic() - self._told >= EVERY:
            names = ", ".join(worker.stage or "" for worker in self._crew.busy())
            self.say(f"running {names}{self._tail()}")

    def summary(self) -> None:
        """Print how many stages ran, and the logs of those that failed."""
        counts = dict.fromkeys(WORDS, 0)
        for ended in self._ended.values():
            counts[ended.outcome] += 1
        parts = [f"{counts['done']} ran", f"{counts['cached']} from the cache"]
        parts += [f"{counts['unchanged']} up to date", f"{len(self.failures)} failed"]
        if self._dropped:
            parts.append(f"{len(self._dropped)} not run")
        taken = _clock(time.monotonic() - self._begin)
        self.say(f"{', '.join(parts)}, in {taken}", style="red" if self.failures else "green")
        for ended, log in self.failures:
            self.say(f"  {ended.stage}: {log}{f' ({ended.why})' if ended.why else ''}", "red")

    def _tail(self) -> str:
        gone = len(self._ended) + len(self.failures) + len(self._dropped)
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"  {gone}/{self._total}{failed}  left {self._left()}"

    def _left(self) -> str:
        now = time.monotonic()
        running = {w.stage: now - w.since for w in self._crew.busy() if w.stage}
        taken = {e.stage: e.seconds for e in self._ended.values() if e.outcome == "done"}
        jobs = len(self._crew.workers)
        left = seconds_left(self._schedule.waiting, running, taken, jobs)
        if left.whole:
            return _clock(left.seconds)
        return f"at least {_clock(left.seconds)}" if left.seconds else "?"

    def _table(self) -> Group:
        gone = len(self._ended) + len(self.failures) + len(self._dropped)
        table = Table("slot", "stage", "for", box=None, padding=(0, 2, 0, 0))
        for i, worker in enumerate(self._crew.workers):
            slot = f"GPU {worker.slot}" if worker.slot else f"CPU {i}"
            since = _clock(time.monotonic() - worker.since) if worker.stage else ""
            table.add_row(slot, Text(worker.stage or "idle"), since)
        elapsed = _clock(time.monotonic() - self._begin)
        head = Table.grid(padding=(0, 2, 0, 0))
        head.add_row(
            ProgressBar(total=self._total, completed=gone, width=40), f"{elapsed}{self._tail()}"
        )
        return Group(table, head)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(seconds, 0.0))))
