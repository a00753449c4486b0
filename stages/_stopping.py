"""SIGTERM as a wish: stages that train save their state, end, and go on when they are run again."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

RESUMABLE = 75  # EX_TEMPFAIL of <sysexits.h>: run the same command again
IMPATIENT = 5.0  # seconds after which another SIGTERM is meant as one


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM has come; one that comes later still ends the process where it stands.

    One stop may come twice at once: to the whole group, and from a parent that dies of it.
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
