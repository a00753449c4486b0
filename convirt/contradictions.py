"""Checks of parameters against each other: finetuned, zeroshot, ablation and tables.

Those of pretraining and of the tasks are in `params.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from convirt.faults import Problem, one_of

if TYPE_CHECKING:
    from convirt.params import Params

# keys that the summary has beside the tasks in its `claim`
RESERVED = frozenset({"equal_fraction", "linear", "mean"})
RUN = re.compile(r"(.+)-([1-9]\d*)-(finetune|linear)")  # <task>-<init>, percent, protocol


def finetuned(p: Params) -> Iterator[Problem]:
    """Encoders from fine-tuned runs: whether the run exists and its encoder can be made at all."""
    m = p.matrix
    pairs = {f"{task}-{init}": (task, init) for task in m.task for init in m.init}
    start: dict[str, str] = {}  # for each name, what its run starts from
    for name, run in p.finetuned.items():
        key = f"finetuned.{name}"
        if name in p.model.baselines or name in p.objectives:
            yield Problem(key, "a name of its own", name, "such as convirt_supervised")
            continue
        parts = RUN.fullmatch(run)
        if parts is None:
            expected = "<task>-<init>-<percent>-<protocol>"
            yield Problem(key, expected, run, "such as chexpert-convirt-100-finetune")
            continue
        first, percent, protocol = parts.groups()
        if protocol != "finetune":
            found = f"{run}, which leaves the encoder unchanged"
            yield Problem(key, "a fine-tuned run", found, f"{first}-{percent}-finetune")
            continue
        if first not in pairs or int(percent) not in m.fraction or protocol not in m.protocol:
            hint = "name one of them, or add it to the axes of matrix"
            yield Problem(key, "one of the runs in matrix", run, hint)
            continue
        task, start[name] = pairs[first]
        if start[name] in p.model.baselines:
            hint = f"name a run of {', '.join(p.objectives) or 'an objective'}"
            yield Problem(key, "a run that starts from a pretrained encoder", run, hint)
        yield from _of_another_corpus(p, name, p.tasks[task].corpus if task in p.tasks else "")
    for name in start:
        way = [name]
        while (before := start.get(way[-1])) is not None and before not in way:
            way.append(before)
        if before == name:
            circle = " from ".join([*way, name])
            hint = "let one of them start from an objective"
            yield Problem(
                f"finetuned.{name}", "a run that does not depend on this encoder", circle, hint
            )


def _of_another_corpus(p: Params, name: str, corpus: str) -> Iterator[Problem]:
    """Uses of an encoder of `corpus` where encoders of another corpus are expected."""
    users = {"retrieval.corpus": p.retrieval.corpus} if name in p.retrieval.systems else {}
    if name in p.matrix.init:
        users |= {f"tasks.{t}.corpus": p.tasks[t].corpus for t in p.matrix.task if t in p.tasks}
    for key, other in users.items():
        if other != corpus:
            hint = f"take {name} out of {'matrix.init' if 'tasks' in key else 'retrieval.systems'}"
            expected = f"{corpus}, the only corpus that {name} has an encoder for"
            yield Problem(key, expected, other, hint)


def zeroshot(p: Params) -> Iterator[Problem]:
    """Zero-shot classification: systems need a text encoder, and tasks need sentences."""
    own = p.zeroshot
    for i, name in enumerate(own.system):
        key = f"zeroshot.system.{i}"
        if name in (*p.model.baselines, *p.finetuned):
            hint = f"name one of {', '.join(p.objectives)}"
            yield Problem(key, "an objective with a text encoder", name, hint)
        else:
            yield from one_of(key, name, p.objectives)
    for axis, other in (("task", "system"), ("system", "task")):
        if getattr(own, axis) and not getattr(own, other):
            hint = f"fill it, or empty zeroshot.{axis}"
            yield Problem(
                f"zeroshot.{other}", f"at least one, since zeroshot.{axis} has one", "[]", hint
            )
    for i, name in enumerate(own.task):
        key = f"zeroshot.task.{i}"
        yield from one_of(key, name, p.tasks)
        if name not in p.tasks:
            continue
        yield from one_of(f"{key} (its store)", name, p.datasets.sources)
        yield from one_of(f"tasks.{name}.corpus", p.tasks[name].corpus, p.corpora)
        yield from _prompts(p, name)


def _prompts(p: Params, name: str) -> Iterator[Problem]:
    """The prompts of a task have to match its labels, and to separate yes from no."""
    task, prompts, key = p.tasks[name], p.zeroshot.prompts.get(name, {}), f"zeroshot.prompts.{name}"
    for label in task.labels:
        if label not in prompts:
            yield Problem(f"{key}.{label}", "sentences for this label", "none", "write some")
        elif bool(prompts[label].negative) == (task.kind == "multiclass"):
            wanted = (
                "[], since the classes are mutually exclusive"
                if prompts[label].negative
                else "sentences"
            )
            found = f"{len(prompts[label].negative)} sentences in a {task.kind} task"
            yield Problem(f"{key}.{label}.negative", wanted, found, "correct the list")
    for label in prompts:
        yield from one_of(f"{key}.{label}", label, task.labels)


def reserved(p: Params) -> Iterator[Problem]:
    """Tasks whose names the summary uses for something else."""
    for name in sorted(RESERVED & set(p.tasks)):
        expected = f"a task name other than {', '.join(sorted(RESERVED))}"
        hint = "rename the task, its data set and its entry in matrix.task"
        yield Problem(f"tasks.{name}", expected, name, hint)


def compared(p: Params) -> Iterator[Problem]:
    """The variants of Table 4: the encoders that are trained have to be those that are scored."""
    own = p.ablation
    if not own.variants or own.corpus not in p.corpora:
        return  # `params` reports an unknown corpus
    users = {"retrieval.corpus": p.retrieval.corpus}
    if own.task in p.tasks:
        users[f"tasks.{own.task}.corpus"] = p.tasks[own.task].corpus
    for key, corpus in users.items():
        if corpus != own.corpus:
            expected = f"{corpus}, as in {key}: the variants are scored with it"
            yield Problem(
                "ablation.corpus", expected, own.corpus, f"set it to {corpus}, or change {key}"
            )


def tabled(p: Params) -> Iterator[Problem]:
    """The paper's tables: they need rankings, and exact ones."""
    users = {"tables": p.tables, "ablation.variants": p.ablation.variants}
    if p.tables and not p.retrieval.systems:
        hint = "name one, such as convirt, or set tables: []"
        yield Problem("retrieval.systems", "at least one, as tables is on", "[]", hint)
    if p.tables and p.ablation.variants and p.ablation.k not in p.retrieval.k:
        expected = f"one of retrieval.k ({', '.join(map(str, p.retrieval.k))}), as tables is on"
        yield Problem("ablation.k", expected, str(p.ablation.k), "add it to retrieval.k")
    for key in [key for key, asked in users.items() if asked and p.retrieval.index != "exact"]:
        expected = f"exact, as {key} compares precisions"
        yield Problem("retrieval.index", expected, p.retrieval.index, f"set exact, or empty {key}")
