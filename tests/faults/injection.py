"""What can go wrong around a process: installed in a fork before the stage starts in it.

Nothing here needs special rights, and all of it works on any writer, be it Python, Rust
(safetensors) or C++ (arrow): the kernel itself refuses or kills. Linux only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")
CALLS = ("fsync", "pwrite", "ftruncate")  # of os; these have no audit events
DAY = 86_400.0


@dataclass(frozen=True)
class Fault:
    """What happens to a stage, and when.

    Attributes:
        do: "SIGKILL" or another signal that the process sends itself; "unheard", SIGTERM at a place
            where Python prints and forgets what a handler raises, such as a destructor; "mistaken",
            SIGTERM where a C extension turns the handler's error into another; "full", the disk is
            full from then on; "limit", from then on the process is killed when a file grows beyond
            `limit` bytes, after these are written; "clock", the date goes back by a day, while
            other clocks jump forward by one.
        at: The change to a file at which it happens, counted from 1 in the process.
        after: Seconds after the start at which it happens, if `at` is 0; both 0: at the start.
        limit: Bytes.
        powerless: Drop a superuser's rights, so that permissions of files hold for one, too.
        nan: The pretraining loss of this step, counted from 1, is not a number.
        record: A file to which every change is written, one per line.
    """

    do: str = ""
    at: int = 0
    after: float = 0.0
    limit: int = 0
    powerless: bool = False
    nan: int = 0
    record: str = ""


def install(fault: Fault, project: Path) -> None:
    """Prepare the fault in this process; changes to files below `project` count."""
    if fault.powerless:
        give_up_rights()
    if fault.nan:
        _break_loss(fault.nan)
    if fault.at or fault.record:
        _watch(fault, project)
    elif fault.after:
        _after(fault.after, lambda: happen(fault))
    elif fault.do:
        happen(fault)


def happen(fault: Fault) -> None:
    """Let it happen now."""
    if fault.do == "full":
        fill_disk()
    elif fault.do == "limit":
        limit_files(fault.limit)
    elif fault.do == "clock":
        turn_clock_back()
    elif fault.do == "unheard":
        Destroyed()
    elif fault.do == "mistaken":
        mistake()
    else:
        os.kill(os.getpid(), signal.Signals[fault.do])


class Destroyed:
    """Sends SIGTERM from its destructor, in which a handler then runs."""

    def __del__(self) -> None:
        terminate()


def mistake() -> None:
    """Turn the handler's error into another, as torch does when asked for a storage's length."""
    try:
        terminate()
    except SystemExit:
        raise ValueError("could not determine the shape of object type") from None


def terminate() -> None:
    """Send SIGTERM to oneself, and let the handler run."""
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000):  # the handler runs somewhere in here
        pass


# ------------------------------------------------------------------------------ moments
def _watch(fault: Fault, project: Path) -> None:
    """Count changes to files, write them to `fault.record`, and let the fault happen when due."""
    count, home = 0, str(project)
    log = os.open(fault.record, os.O_WRONLY | os.O_CREAT) if fault.record else None

    def changed(name: str) -> None:
        nonlocal count
        count += 1
        if log is not None:
            told = name.replace(home + os.sep, "").replace(f".{os.getpid()}", ".PID")
            os.write(log, told.encode() + b"\n")
        if count == fault.at:
            happen(fault)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and _opens_to_write(arguments, home):
            changed(f"open {arguments[0]}")
        elif event in CHANGES:
            changed(f"{event} {' '.join(str(a) for a in arguments if isinstance(a, (str, Path)))}")

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            changed(f"os.{name}")
            return call(*arguments, **named)

        return wrapper

    for name in CALLS:
        setattr(os, name, counted(name, getattr(os, name)))
    sys.addaudithook(audit)


def _opens_to_write(arguments: tuple[Any, ...], home: str) -> bool:
    path, _, flags = arguments
    if not flags & WRITING or not isinstance(path, str | os.PathLike):
        return False
    return str(Path(path).absolute()).startswith(home + os.sep)


def _after(seconds: float, action: Callable[[], None]) -> None:
    """Do it after so many seconds, between two instructions of the main thread."""

    def handler(number: int, frame: FrameType | None) -> None:
        action()

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


# ------------------------------------------------------------------------------ the kernel
class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.POINTER(_Instruction)))


LOAD, EQUAL, GREATER, RETURN = 0x20, 0x15, 0x25, 0x06  # classic BPF, <linux/bpf_common.h>
ALLOW, FAIL = 0x7FFF0000, 0x00050000  # <linux/seccomp.h>
NUMBER, FIRST_ARGUMENT = 0, 16  # where they lie in struct seccomp_data
# seccomp; write, pwrite64, writev, pwritev, pwritev2, sendfile, copy_file_range
SYSCALLS = {
    "x86_64": (317, (1, 18, 20, 296, 328, 40, 326)),
    "aarch64": (277, (64, 68, 66, 70, 287, 71, 285)),
}


def fill_disk() -> None:
    """Let every write to a file fail with ENOSPC; standard streams stay as they are.

    The kernel refuses the system calls (seccomp), so that it is the same for every library.
    """
    seccomp, writers = SYSCALLS[platform.machine()]
    code = [(LOAD, 0, 0, NUMBER)]
    code += [(EQUAL, len(writers) - i, 0, number) for i, number in enumerate(writers)]
    code += [(RETURN, 0, 0, ALLOW), (LOAD, 0, 0, FIRST_ARGUMENT), (GREATER, 0, 1, 2)]
    code += [(RETURN, 0, 0, FAIL | errno.ENOSPC), (RETURN, 0, 0, ALLOW)]
    instructions = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    program = _Program(len(code), instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privileges, set_mode_filter, all_threads = 38, 1, 1
    _require(libc.prctl(set_no_new_privileges, 1, 0, 0, 0))
    _require(libc.syscall(seccomp, set_mode_filter, all_threads, ctypes.byref(program)))


def limit_files(size: int) -> None:
    """Let the kernel kill the process when a file grows beyond `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def give_up_rights() -> None:
    """Drop all capabilities: permissions of files then hold for a superuser as for anyone."""
    version_3, this_process = 0x20080522, 0
    header = (ctypes.c_uint32 * 2)(version_3, this_process)
    nothing = (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    _require(libc.capset(ctypes.byref(header), ctypes.byref(nothing)))


def _require(status: int) -> None:
    if status != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# ------------------------------------------------------------------------------ clock and numbers
def turn_clock_back() -> None:
    """Set the date back by a day; monotonic clocks jump forward by one, as after a sleep."""
    for name, seconds in (("time", -DAY), ("monotonic", DAY), ("perf_counter", DAY)):
        setattr(time, name, _shifted(getattr(time, name), seconds))
    time.time_ns = _shifted(time.time_ns, round(-DAY * 1e9))


def _shifted(clock: Callable[[], Any], by: float) -> Callable[[], Any]:
    return lambda: clock() + by


def _break_loss(step: int) -> None:
    from convirt.objectives import convirt

    count, plain = 0, convirt.convirt_loss

    def broken(*arguments: Any) -> Any:
        nonlocal count
        loss = plain(*arguments)
        count += loss.requires_grad
        return loss * float("nan") if count == step and loss.requires_grad else loss

    setattr(convirt, plain.__name__, broken)
