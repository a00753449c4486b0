"""The Markdown page: our results beside the paper's, never mixed up with them.

What was measured here and what the paper printed are in separate columns, whose heads name the
data. Nothing on the page depends on the time or on absolute paths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convirt.results import paper, report_origin
from convirt.results.markdown import (
    above_zero,
    between,
    data_name,
    interval,
    name,
    percent,
    points,
    points_interval,
    table,
)
from convirt.results.summary import (
    ALL,
    DIRECTIONS,
    ENOUGH,
    FEW,
    Comparison,
    Run,
    comparisons,
    key_of,
    recall_key,
    retrieval_rows,
)

Cells = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """What the page is written from.

    Attributes:
        summary: See `convirt.results.summary.summarise`.
        runs: The JSON of each run of the matrix, in the matrix's order.
        retrieval: The retrieval JSON of each system.
        retrieval_set: The data set that was searched.
        pretrain: The JSON of each pretrained encoder.
        funnels: The funnel JSON of each data set.
        readers: The reader of each data set.
        made_up: Names of the data sets that the demo drew.
        settings: The settings worth comparing: name, value here and value in the paper.
    """

    summary: Cells
    runs: Sequence[Run]
    retrieval: Mapping[str, Cells]
    retrieval_set: str
    pretrain: Sequence[Cells]
    funnels: Mapping[str, Cells]
    readers: Mapping[str, str]
    made_up: frozenset[str]
    settings: Sequence[tuple[str, str, str]] = ()


def render(results: Results) -> str:
    """The whole page, as Markdown."""
    sections: list[Callable[[Results], list[str]]] = [
        _head,
        _transfer,
        _claim,
        _equal_fraction,
        _retrieval,
        _pretraining,
        _data,
        _run,
    ]
    return "\n\n".join(block for section in sections for block in section(results)) + "\n"


def _head(results: Results) -> list[str]:
    given = [
        f"`{s}` (reader `{r}`)" for s, r in results.readers.items() if s not in results.made_up
    ]
    if not given:
        what = (
            "**All data behind the columns called “here” is made up**: radiographs and reports "
            "drawn by `stages/demo.py`. These numbers show that the code runs the method and its "
            "protocols from end to end; they say nothing about patients, and their level cannot be "
            "compared with the paper's. The data was designed so that reports help, and changed "
            "after full runs had been seen: a lead of ConVIRT here would be no evidence for the "
            "method."
        )
    else:
        what = f"In the columns called “here”, the sets {', '.join(given)} are **given data**."
        if results.made_up:
            drawn = ", ".join(f"`{s}`" for s in results.readers if s in results.made_up)
            what += f" **Made up, drawn by `stages/demo.py`**: {drawn}."
    theirs = (
        f"Columns called “paper” repeat the numbers printed in {paper.SOURCE}, measured by its "
        "authors on MIMIC-CXR, RSNA, CheXpert, COVIDx, MURA and private bone radiographs. Each "
        "cell of its Table 1 is the mean of five runs, without an interval."
    )
    units = "AUROC, accuracy and precision are in percent; square brackets hold 95% intervals."
    return [
        "# Results",
        f"{what}\n{theirs}\n{units}",
        "Written by `dvc repro report`; do not edit.",
    ]


def _transfer(results: Results) -> list[str]:
    if not results.runs:
        return []
    blocks = ["## Transfer"]
    for protocol in dict.fromkeys(run["protocol"] for run in results.runs):
        runs = [run for run in results.runs if run["protocol"] == protocol]
        here = data_name((run["task"] for run in runs), results.made_up)
        head = ["task", "metric", "data here", "start", "labels", "train images", "test images"]
        head += ["test patients"]
        head += [f"here, {here}", f"paper, {paper.PROTOCOLS.get(protocol, 'none')}, its real data"]
        rows = []
        for run in runs:
            drawn = run["task"] in results.made_up
            cell = (protocol, run["task"], run["init"], run["fraction"])
            published = paper.transfer(*cell, run["metric"], run["unit"])
            rows.append(
                [
                    run["task"],
                    name(run["metric"]),
                    "made up" if drawn else f"`{results.readers.get(run['task'], '?')}`",
                    _start(run),
                    f"{run['fraction']}%",
                    between(run["n_train"]),
                    f"{run['n_test']:,}",
                    f"{run['patients_test']:,}",
                    interval(run["value"], run["low"], run["high"]),
                    percent(published),
                ]
            )
        blocks += [f"### {_protocol(protocol)}", table(head, rows), *_notes(runs)]
    if results.runs:
        blocks.append("![Label efficiency](figures/efficiency.png)")
    return blocks


def _notes(runs: Sequence[Run]) -> list[str]:
    """The notes that apply to the table of one protocol."""
    notes = (_chosen, _shares, _heads_alone, _cut_off, _few, _taught)
    return [text for note in notes if (text := note(runs))]


def _chosen(runs: Sequence[Run]) -> str:
    counts = {run["task"]: f"{run['n_val']:,} of {run['task']}" for run in runs}
    return (
        "Label fractions apply to the train images only. The state of each run was chosen on all "
        "validation images, whose labels are not counted (the paper does not say on how many): "
        f"{', '.join(counts.values())}."
    )


def _shares(runs: Sequence[Run]) -> str:
    whole = {run["task"]: run for run in runs if run["fraction"] == ALL}
    found = {}
    for run in runs:
        task, fraction = run["task"], run["fraction"]
        images, studies = (
            max(run[count]) / max(whole.get(task, run)[count])
            for count in ("n_train", "n_train_studies")
        )
        if studies > 1.25 * images:
            share = percent(studies)
            found[task, fraction] = f"{fraction}% of {task} comes from {share}% of its studies"
    listed = "; ".join(found.values())
    return listed and (
        "Fractions are drawn by image, not by study. Where the images of a study share one label, "
        "a fraction of the images needs the labels of a larger fraction of the studies: "
        f"{listed}."
    )


def _heads_alone(runs: Sequence[Run]) -> str:
    found = [r for r in runs if r["protocol"] == "finetune" and 0 in r.get("best_epoch", ())]
    return _told(
        found,
        f"In {len(found)} of these {len(runs)} cells, the best validation score of a run came "
        "before its encoder was trained, after the head-only steps (epoch 0)",
    )


def _cut_off(runs: Sequence[Run]) -> str:
    found = [r for r in runs if r["max_epochs"] in r.get("best_epoch", ())]
    return _told(
        found,
        f"In {len(found)} of these {len(runs)} cells, the best validation score of a run came in "
        "the last epoch allowed, so more epochs might improve it",
    )


def _few(runs: Sequence[Run]) -> str:
    few = {run["task"]: run["patients_fewest"] for run in runs if run["patients_fewest"] < ENOUGH}
    listed = ", ".join(f"{count} in {task}" for task, count in few.items())
    return listed and (
        f"Fewer than {ENOUGH} test patients of a class ({listed}): intervals there are too narrow."
    )


def _taught(runs: Sequence[Run]) -> str:
    found = [
        run
        for run in runs
        if (source := run["encoder_finetuned"])
        and source["task"] == run["task"]
        and source["fraction"] > run["fraction"]
    ]
    return _told(found, "The encoder of these runs was fine-tuned with more labels than they have")


def _told(runs: Sequence[Run], what: str) -> str:
    """A sentence about some cells of one protocol; "" if there are none."""
    names = (f"{run['task']} {_start(run)} {run['fraction']}%" for run in runs)
    return f"{what}: {', '.join(names)}." if runs else ""


def _start(run: Run) -> str:
    """The initialisation, and the corpus that it was pretrained on, if any."""
    return name(run["init"]) + (f" ({run['corpus']} pairs)" if run["corpus"] else "")


def _claim(results: Results) -> list[str]:
    pairs = [pair for pair in comparisons(results.runs) if pair.fraction != FEW]
    if not pairs:
        return []
    blocks = [
        "## The claim",
        "The paper's abstract: with 10% of the labels, ConVIRT is as good as or better than "
        "ImageNet weights with all of them. Each difference is paired: both runs are scored on the "
        "same resamples of the same test patients.",
    ]
    for protocol in dict.fromkeys(pair.protocol for pair in pairs):
        mine = [pair for pair in pairs if pair.protocol == protocol]
        blocks += _single_runs(results.runs, mine, _protocol(protocol).lower())
    return blocks + _sentences(results, pairs)


def _single_runs(runs: Sequence[Run], pairs: Sequence[Comparison], protocol: str) -> list[str]:
    """What the intervals of single runs leave out, if some of the compared runs are single."""
    compared = {key for pair in pairs for key in (pair.ours, pair.baseline)}
    single = [r for r in runs if key_of(r) in compared and len(r["repeats"]) == 1]
    limit = (
        "comes from one run, so its interval covers the sampling of test patients, but not another "
        "seed or another pretraining"
    )
    if len(single) == len(compared):
        return [f"Each number for {protocol} {limit}."]
    told = _told(single, f"Each of these numbers for {protocol} {limit}")
    return [told] if told else []


def _sentences(results: Results, pairs: Sequence[Comparison]) -> list[str]:
    """One plain sentence per comparison, and the mean; one list per protocol."""
    blocks = []
    for protocol in dict.fromkeys(pair.protocol for pair in pairs):
        lines = []
        mine = [pair for pair in pairs if pair.protocol == protocol]
        for pair in mine:
            cell = _get(results.summary, pair.path)
            published = paper.difference(protocol, pair.task, pair.fraction, pair.metric, pair.unit)
            lines.append(
                f"- **{pair.task}** ({data_name([pair.task], results.made_up)}): ConVIRT with "
                f"{FEW}% of the labels minus ImageNet with {pair.fraction}% is "
                f"{points_interval(cell)} points: {_sure(cell)}."
                + ("" if published is None else f" Paper, on its data: {points(published)}.")
            )
        mean = _get(results.summary, (*mine[0].path[:-1], "mean"))["difference"]
        if len(mine) > 1:
            lines.append(
                f"- Mean over {len(mine)} tasks: {points(mean)} points, without an interval."
            )
        blocks += [f"{_protocol(protocol)}:", "\n".join(lines)]
    return blocks


def _sure(cell: Cells) -> str:
    """What the interval says about the claim, or that there are too few patients for one."""
    if "low" not in cell:
        return f"no interval, fewer than {ENOUGH} test patients of a class"
    if cell["low"] > 0:
        return "**better**, by its interval"
    if cell["high"] < 0:
        return "**worse**, by its interval"
    return f"**undecided**, at most {points(-cell['low']).removeprefix('+')} points worse"


def _equal_fraction(results: Results) -> list[str]:
    pairs = [pair for pair in comparisons(results.runs) if pair.fraction == FEW]
    if not pairs:
        return []
    here = data_name((pair.task for pair in pairs), results.made_up)
    head = ["protocol", "task", f"ConVIRT − ImageNet, points, here, {here}", "above 0"]
    rows = []
    for pair in pairs:
        cell = _get(results.summary, pair.path)
        published = paper.difference(pair.protocol, pair.task, FEW, pair.metric, pair.unit)
        rows.append(
            [
                _protocol(pair.protocol),
                pair.task,
                points_interval(cell),
                above_zero(cell) or "–",
                "–" if published is None else points(published),
            ]
        )
    title = "## Equal fraction: both with 10% of the labels"
    return [title, table([*head, "paper, its real data"], rows)]


def _retrieval(results: Results) -> list[str]:
    if not results.retrieval:
        return []
    rows = retrieval_rows(results.summary)
    sources = list(dict.fromkeys(row["source"] for row in rows))
    here = data_name([results.retrieval_set], results.made_up)
    ks = sorted({row["k"] for row in rows})
    head = ["direction", "encoder", "queries", "candidates"]
    head += [f"P@{k} here, {here}" for k in ks]
    head += [f"P@{k} paper, CheXpert 8x200" for k in ks] * (len(sources) > 1) + ["chance here"]
    recall = recall_key(results.summary["retrieval"])
    head += [recall.replace("_at_", "@")] if recall else []
    lines = []
    for direction, init in dict.fromkeys((row["direction"], row["init"]) for row in rows):
        found = {
            (r["source"], r["k"]): r["value"]
            for r in rows
            if (r["direction"], r["init"]) == (direction, init)
        }
        cell = results.retrieval[init][direction]
        counts = [f"{cell['queries']:,}", f"{cell['candidates']:,}"]
        values = [percent(found.get((source, k))) for source in sources for k in ks]
        values += [percent(cell.get(key)) for key in ("chance", recall) if key]
        lines.append([name(direction), name(init), *counts, *values])
    figure = "![Retrieval](figures/retrieval.png)"
    text = (
        "Precision is that of an **approximate** search (`retrieval.index`); recall is the share "
        "of the exact nearest neighbours that it found."
    )
    limit = {  # the same for all systems that have the direction
        (direction, key.removeprefix("highest_at_")): value
        for system in results.retrieval.values()
        for direction, cell in system.items()
        if direction in DIRECTIONS
        for key, value in cell.items()
        if key.startswith("highest_at_")
    }
    highest = [f"{k} of {name(direction)}: {percent(x)}" for (direction, k), x in limit.items()]
    limits = (
        "Some classes have fewer candidates than k, so no ranking can exceed these precisions "
        f"(k of direction: percent): {'; '.join(highest)}."
    )
    before = [*([text] if recall else []), *([limits] if highest else [])]
    if "random" in results.retrieval and len(sources) > 1:
        before.append(paper.RANDOM)
    return ["## Zero-shot retrieval", *before, table(head, lines), figure]


def _pretraining(results: Results) -> list[str]:
    if not results.pretrain:
        return []
    head = ["objective", "corpus", "data", "pairs", "steps", "best step", "validation loss"]
    head += ["chance"]
    rows = []
    for result in results.pretrain:
        corpus = result["corpus"]
        below = _get(results.summary, ("pretrain", result["objective"], corpus)).get("below_chance")
        rows.append(
            [
                name(result["objective"]),
                corpus,
                data_name([corpus], results.made_up),
                f"{result['pairs']:,}",
                f"{result['steps']:,}",
                f"{result['best_step']:,}",
                f"{result['val_loss']:.3f}",
                "–" if result["chance"] is None else f"{result['chance']:.3f}",
                "–" if below is None else f"{percent(below)}%",
            ]
        )
    text = (
        "ConVIRT's loss is the paper's equation 4, in nats; a model that cannot tell pairs apart "
        "has the loss ln N, with N pairs in a batch. Losses of other objectives are on other "
        "scales. In the paper's figure 5 the validation loss falls to about 2.3, in batches of 32."
    )
    figure = "![Pretraining loss](figures/loss.png)"
    return ["## Pretraining", text, table([*head, "below chance"], rows), figure]


def _data(results: Results) -> list[str]:
    return report_origin.data(results.funnels, results.readers, results.made_up)


def _run(results: Results) -> list[str]:
    made: dict[str, Cells] = {f"preprocess@{key}": cell for key, cell in results.funnels.items()}
    made |= {f"pretrain@{cell['objective']}-{cell['corpus']}": cell for cell in results.pretrain}
    made |= {f"finetune@{key_of(run)}": run for run in results.runs}
    made |= {f"retrieve@{system}": cell for system, cell in results.retrieval.items()}
    known = {stage: cell["provenance"] for stage, cell in made.items() if "provenance" in cell}
    return report_origin.run(known, results.settings)


def _protocol(protocol: str) -> str:
    return {"finetune": "Fine-tuning", "linear": "Linear probe"}.get(protocol, protocol)


def _get(cells: Cells, path: Sequence[str]) -> Cells:
    for part in path:
        cells = cells[part]
    return cells
