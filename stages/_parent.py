"""A process that ends when the one that started it is gone, however that was killed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1  # from <sys/prctl.h>


def end_with_parent(by: signal.Signals) -> None:
    """Let the kernel send a signal to this process when its parent ends; only on Linux."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, by)


def end_with_dvc() -> None:
    """Send SIGTERM to this stage when DVC ends; else a killed `dvc repro` leaves a trainer behind.

    Only on Linux. The parent may be a shell or torchrun, which outlive DVC.
    """
    end_with_parent(signal.SIGTERM)
    with contextlib.suppress(AttributeError, OSError, ValueError):  # os.pidfd_open is of Linux
        watched = os.pidfd_open(_dvc())
        threading.Thread(target=_end_after, args=(watched, os.getpid()), daemon=True).start()


def _end_after(watched: int, own: int) -> None:
    """Wait for the end of a process, then ask this one to end."""
    ended = select.poll()
    ended.register(watched, select.POLLIN)
    ended.poll()
    os.kill(own, signal.SIGTERM)


def _dvc() -> int:
    """The DVC process that runs this stage: the nearest ancestor without DVC_STAGE.

    Raises:
        OSError: An ancestor is another user's, or has just ended.
        ValueError: The parent of an ancestor cannot be read.
    """
    number = os.getppid()
    while b"DVC_STAGE=" in Path(f"/proc/{number}/environ").read_bytes():
        status = Path(f"/proc/{number}/status").read_text(encoding="utf-8")
        number = int(status.partition("\nPPid:")[2].split()[0])
    return number
