"""Which stages have to run, and which of them next: a graph and arithmetic, without DVC."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

Upstream = Mapping[str, Collection[str]]  # for each stage, the stages whose outputs it reads


def outdated(
    order: Sequence[str], upstream: Upstream, changed: Callable[[str], bool]
) -> dict[str, bool]:
    """The stages of `order` that changed, and all stages below them, in the same order.

    Args:
        order: Stage names, each after its upstream.
        upstream: Names that are not in `order` count as up to date.
        changed: Called once for each stage whose upstream is up to date, and for no other: looking
            at a stage's files takes time, and says little below an outdated stage.

    Returns:
        True for a stage that changed; False for one below it, which may turn out up to date.
    """
    found: dict[str, bool] = {}
    for name in order:
        below = any(above in found for above in upstream[name])
        if below or changed(name):
            found[name] = not below
    return found


class Schedule:
    """Knows which stages may start: those for which every stage above is done.

    Of these, the one with the longest chain of stages below it comes first; ties go to the one
    with the most stages below it, then to the earlier one. So pretraining comes before transfers
    that could start as well.

    Attributes:
        running: Stages that were handed out and have not ended, in the order of their start.
    """

    def __init__(self, names: Collection[str], upstream: Upstream) -> None:
        """Plan `names`, each after its upstream; an upstream outside of them counts as done."""
        self._above = {name: {a for a in upstream[name] if a in names} for name in names}
        self._below: dict[str, list[str]] = {name: [] for name in names}
        for name, above in self._above.items():
            for other in above:
                self._below[other].append(name)
        height: dict[str, int] = {}
        for name in reversed(list(names)):
            height[name] = 1 + max((height[below] for below in self._below[name]), default=0)
        self._rank = {
            name: (-height[name], -len(self._all_below(name)), i) for i, name in enumerate(names)
        }
        self._waiting = set(names)
        self.running: list[str] = []

    @property
    def waiting(self) -> list[str]:
        """Stages that were neither handed out nor dropped, in the order of preference."""
        return sorted(self._waiting, key=self._rank.__getitem__)

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self._waiting

    def ready(self) -> list[str]:
        """The stages that may start, in the order of preference."""
        return [name for name in self.waiting if not self._above[name]]

    def start(self, name: str) -> None:
        """Record that a ready stage has started."""
        self._waiting.remove(name)
        self.running.append(name)

    def done(self, name: str) -> None:
        """Record that a stage succeeded, or was ready and need not run."""
        self._waiting.discard(name)
        if name in self.running:
            self.running.remove(name)
        for below in self._below[name]:
            self._above[below].discard(name)

    def failed(self, name: str) -> list[str]:
        """Record that a stage failed; return the stages below it, which are dropped."""
        self.running.remove(name)
        dropped = [below for below in self.waiting if below in self._all_below(name)]
        self._waiting.difference_update(dropped)
        return dropped

    def _all_below(self, name: str) -> set[str]:
        found: set[str] = set()
        heap = [name]
        while heap:
            for below in self._below[heap.pop()]:
                if below not in found:
                    found.add(below)
                    heap.append(below)
        return found


class Left(NamedTuple):
    """An estimate of the time that the rest takes.

    Attributes:
        seconds: Of the stages for which it can be estimated.
        whole: Whether these are all that is left.
    """

    seconds: float
    whole: bool


def seconds_left(
    waiting: Sequence[str],
    running: Mapping[str, float],
    taken: Mapping[str, float],
    jobs: int,
) -> Left:
    """Estimate how long the rest takes.

    Args:
        waiting: Stages that have not started.
        running: Seconds for which each stage has been running.
        taken: Seconds that each ended stage took.
        jobs: How many run at a time.

    Returns:
        Seconds, as if the rest could be split evenly among the jobs, but at least those of its
        longest stage. A stage is expected to take the mean time of the ended stages whose names
        are most like its own: for finetune@a-convirt-10, those of finetune@ that share most of a,
        convirt and 10. A stage is left out if none of its kind has ended: a pretraining tells
        nothing of a retrieval.
    """
    ended = [(*_parts(name), seconds) for name, seconds in taken.items()]

    def usual(name: str) -> float | None:
        kind, own = _parts(name)
        alike: dict[int, list[float]] = {}
        for other, parts, seconds in ended:
            if other == kind:
                alike.setdefault(len(own & parts), []).append(seconds)
        return statistics.mean(alike[max(alike)]) if alike else None

    since = dict.fromkeys(waiting, 0.0) | dict(running)
    rest = [
        max(expected - gone, 0.0)
        for name, gone in since.items()
        if (expected := usual(name)) is not None
    ]
    return Left(max(sum(rest) / jobs, max(rest, default=0.0)), len(rest) == len(since))


def _parts(name: str) -> tuple[str, frozenset[str]]:
    """The stage that a member of a matrix belongs to, and the parts of the member's name."""
    kind, _, member = name.partition("@")
    return kind, frozenset(member.split("-"))
