"""Which stages have to run, and which of them next: a graph and arithmetic, nothing of DVC."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Mapping, Sequence

Upstream = Mapping[str, Collection[str]]  # of each stage: the stages whose outputs it reads


def outdated(
    order: Sequence[str], upstream: Upstream, changed: Callable[[str], bool]
) -> dict[str, bool]:
    """The stages of `order` that changed, and all below them, in that order.

    Args:
        order: Names, each after its upstream.
        upstream: Names that are not in `order` are taken for up to date.
        changed: Asked, once, about stages whose upstream is up to date only: to look at a stage's
            files costs time, and below an outdated stage it would not tell much.

    Returns:
        True for a stage that changed; False for one below, which may turn out to be up to date.
    """
    found: dict[str, bool] = {}
    for name in order:
        below = any(above in found for above in upstream[name])
        if below or changed(name):
            found[name] = not below
    return found


class Schedule:
    """Knows which stages may start: those for which all that is above them is done.

    Of those that may start, the one with the longest chain of stages below comes first, then the
    one with the most stages below, then the earlier one: pretraining before transfers that could
    start as well.

    Attributes:
        running: Handed out and not ended, in the order of their start.
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
        """Neither handed out nor dropped, in the order of preference."""
        return sorted(self._waiting, key=self._rank.__getitem__)

    @property
    def finished(self) -> bool:
        """Nothing runs and nothing waits."""
        return not self.running and not self._waiting

    def ready(self) -> list[str]:
        """Those that may start, in the order of preference."""
        return [name for name in self.waiting if not self._above[name]]

    def start(self, name: str) -> None:
        """A stage that was ready begins to run."""
        self._waiting.remove(name)
        self.running.append(name)

    def done(self, name: str) -> None:
        """A stage has ended well, or was ready and need not run."""
        self._waiting.discard(name)
        if name in self.running:
            self.running.remove(name)
        for below in self._below[name]:
            self._above[below].discard(name)

    def failed(self, name: str) -> list[str]:
        """A stage has not; returns the stages below it, which are dropped."""
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


def seconds_left(
    waiting: Sequence[str],
    running: Mapping[str, float],
    taken: Mapping[str, float],
    jobs: int,
) -> float | None:
    """Estimate how long the rest takes.

    Args:
        waiting: Stages that have not started.
        running: Seconds for which stages have been running.
        taken: Seconds that ended stages took.
        jobs: How many run at a time.

    Returns:
        Seconds, as if the rest could be dealt out evenly; None if no stage has ended. A stage is
        expected to take the mean of those whose name is most like its own: of finetune@a-convirt-10
        those of finetune@ that have most of a, convirt and 10; of all where none of its kind ended.
    """
    if not taken:
        return None
    ended = [(*_parts(name), seconds) for name, seconds in taken.items()]

    def usual(name: str) -> float:
        kind, own = _parts(name)
        alike: dict[int, list[float]] = {}
        for other, parts, seconds in ended:
            alike.setdefault(len(own & parts) if other == kind else -1, []).append(seconds)
        return statistics.mean(alike[max(alike)])

    rest = [usual(name) for name in waiting]
    rest += [max(usual(name) - told, 0.0) for name, told in running.items()]
    return max(sum(rest) / jobs, max(rest, default=0.0))


def _parts(name: str) -> tuple[str, frozenset[str]]:
    """The stage that a member of a matrix belongs to, and what the member is made up of."""
    kind, _, member = name.partition("@")
    return kind, frozenset(member.split("-"))
