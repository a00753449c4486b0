"""Faults that lie between the keys of `zeroshot` and those of other blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from convirt.faults import Problem, one_of

if TYPE_CHECKING:
    from convirt.params import Params


def zeroshot(p: Params) -> Iterator[Problem]:
    """Zero-shot classification: systems that have a text encoder, tasks that have sentences."""
    own = p.zeroshot
    for i, name in enumerate(own.system):
        key = f"zeroshot.system.{i}"
        if name in p.model.baselines:
            hint = f"name one of {', '.join(p.objectives)}"
            yield Problem(key, "an objective with a text encoder", name, hint)
        else:
            yield from one_of(key, name, p.objectives)
    for axis, other in (("task", "system"), ("system", "task")):
        if getattr(own, axis) and not getattr(own, other):
            hint = f"fill it, or empty zeroshot.{axis}"
            yield Problem(f"zeroshot.{other}", f"a list, as zeroshot.{axis} is one", "[]", hint)
    for i, name in enumerate(own.task):
        key = f"zeroshot.task.{i}"
        yield from one_of(key, name, p.tasks)
        if name not in p.tasks:
            continue
        yield from one_of(f"{key} (its store)", name, p.datasets.sources)
        yield from one_of(f"tasks.{name}.corpus", p.tasks[name].corpus, p.corpora)
        yield from _prompts(p, name)


def _prompts(p: Params, name: str) -> Iterator[Problem]:
    """The prompts of a task have to be of its labels, and to tell yes from no."""
    task, prompts, key = p.tasks[name], p.zeroshot.prompts.get(name, {}), f"zeroshot.prompts.{name}"
    for label in task.labels:
        if label not in prompts:
            yield Problem(f"{key}.{label}", "sentences for this label", "none", "write some")
        elif bool(prompts[label].negative) == (task.kind == "multiclass"):
            wanted = "[], as classes exclude each other" if prompts[label].negative else "sentences"
            found = f"{len(prompts[label].negative)} sentences of a {task.kind} task"
            yield Problem(f"{key}.{label}.negative", wanted, found, "correct the list")
    for label in prompts:
        yield from one_of(f"{key}.{label}", label, task.labels)
