"""Run many jobs in several processes, none of which outlives the one that started it."""

from __future__ import annotations

import inspect
import itertools
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from convirt import files
from convirt.errors import InputError

Result = TypeVar("Result")
ALONE = 4.0  # seconds of work before other processes start: their imports take as long
AHEAD = 3  # jobs per process that are handed out in advance


def run(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], processes: int
) -> Iterator[Result]:
    """Call `function` with each of `jobs`, here or in other processes.

    Args:
        function: At the top level of a module; its results do not depend on the calling process.
        jobs: Arguments of the calls.
        processes: How many work in parallel.

    Yields:
        Results, in the order in which they are finished.

    Raises:
        InputError: A process was killed, or the code was edited before it could start.
    """
    start, done, code = time.monotonic(), 0, _code(function)
    while done < len(jobs) and (processes <= 1 or time.monotonic() - start < ALONE):
        yield function(*jobs[done])
        done += 1
    if done < len(jobs):
        yield from _in_pool(function, jobs[done:], min(processes, len(jobs) - done), code)


def _in_pool(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], processes: int, code: str
) -> Iterator[Result]:
    # Spawned, not forked: the caller may run threads (a progress bar), whose locks a fork copies.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_end_with_parent)
    queue = iter(jobs)
    try:
        waiting: set[Future[tuple[str, Result]]] = set()
        while True:
            for job in itertools.islice(queue, processes * AHEAD - len(waiting)):
                waiting.add(pool.submit(_call, function, job))
            if not waiting:
                return
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                theirs, result = future.result()
                if theirs != code:
                    raise InputError(
                        inspect.getfile(function),
                        "the code that this run started with",
                        "edited while processes were being started",
                        "run the same command again",
                    )
                yield result
    except BrokenProcessPool as error:
        raise InputError(
            f"{function.__module__}.{function.__name__}",
            "processes that survive until the work is done",
            "one was killed: too little memory, or a decoder crashed on a damaged file",
            "run the same command again with a lower compute.workers; finished work is kept",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _call(function: Callable[..., Result], job: tuple[Any, ...]) -> tuple[str, Result]:
    """A digest of the code in use, since a process imports when it starts, and the result."""
    return _code(function), function(*job)


@lru_cache(maxsize=1)
def _code(function: Callable[..., Any]) -> str:
    """Digest of the module of `function` and of the modules beside it."""
    return files.sha256(*sorted(Path(inspect.getfile(function)).parent.glob("*.py")))


def _end_with_parent() -> None:
    """Let a process end when its parent is killed, so that it does not go on writing alone."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
