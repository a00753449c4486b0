"""SIGTERM as a request: stages that train save their state, end, and resume when run again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

RESUMABLE = 75  # EX_TEMPFAIL of <sysexits.h>: run the same command again
IMPATIENT = 5.0  # seconds after which another SIGTERM counts as a second one


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether SIGTERM has come; a second one ends the process.

    One request may arrive twice within moments (sent to the whole group, and by a parent that dies
    of it), so a second one counts only after `IMPATIENT` seconds.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(time.monotonic())
        if came[-1] - came[0] > IMPATIENT:
            raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
