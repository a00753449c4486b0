"""The paper's figures 3 to 5, and the curves of every objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from convirt.results import paper
from convirt.results.markdown import name
from convirt.results.plots import (
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    VERMILION,
    grid,
    legend,
    styled,
)
from convirt.results.table_layout import ORDER, label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

CLASS_COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE)
CORPUS_COLOURS = (BLUE, VERMILION, GREEN, PURPLE)
SCORES = {
    "linear": "linear probe",
    "image_image": "image → image",
    "text_image": "text → image",
}
CRITERIA = {"val_loss": "validation loss", "cider": "CIDEr"}
SHARP = 99.5  # percentile of a map that is drawn at full brightness


class Curve(NamedTuple):
    """One pretraining run: its history, and the column that selects the state to keep."""

    corpus: str
    history: pd.DataFrame
    criterion: str
    best_step: int


@styled
def embeddings(
    maps: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.str_],
    purity: Mapping[str, float],
    data: str,
) -> Figure:
    """Figure 3: one panel per system, one point per image; colour and shape show its class.

    Args:
        maps: System -> (N, 2) coordinates.
        labels: (N,) class names.
        purity: System -> mean share of an image's nearest neighbours that are of its class.
        data: For the title ("made-up data").
    """
    classes = list(dict.fromkeys(labels.tolist()))
    figure, panels = grid(1, len(maps), 4.6, 4.7)
    for axes, (system, points) in zip(panels[0], maps.items(), strict=True):
        for i, kind in enumerate(classes):
            xy = points[labels == kind]
            axes.scatter(
                xy[:, 0],
                xy[:, 1],
                s=13,
                marker=MARKERS[i % len(MARKERS)],
                color=CLASS_COLOURS[i % len(CLASS_COLOURS)],
                alpha=0.75,
                linewidths=0,
                label=kind,
            )
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set(visible=True, color="#B0B0B0")
        same = f"{100 * purity[system]:.0f}% of the 10 nearest are of the same class"
        axes.set_title(f"{label(system)}\n{same}", fontsize=10.5)
    figure.suptitle(f"t-SNE of the image embeddings h ({data})", fontsize=12)
    legend(figure, panels, 5)
    return figure


@styled
def saliency(
    images: Mapping[str, NDArray[np.uint8]], maps: Mapping[str, NDArray[np.float32]], data: str
) -> Figure:
    """Figure 4: one row per class, one map per system, and the image itself on the right.

    Args:
        images: Class -> (S, S) image.
        maps: System -> (number of classes, S, S), in the order of `images`.
        data: For the title ("made-up data").
    """
    figure, panels = grid(len(images), len(maps) + 1, 1.75, 1.75)
    for i, (line, (kind, image)) in enumerate(zip(panels, images.items(), strict=True)):
        for axes, (system, found) in zip(line[:-1], maps.items(), strict=True):
            high = float(np.percentile(found[i], SHARP)) or 1.0
            axes.imshow(found[i], cmap="inferno", vmin=0, vmax=high, interpolation="nearest")
            if i == 0:
                axes.set_title(label(system), fontsize=10)
        line[-1].imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="antialiased")
        line[0].set_ylabel(kind, fontsize=10)
        if i == 0:
            line[-1].set_title("image", fontsize=10)
        for axes in line:
            axes.grid(visible=False)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    figure.suptitle(f"Saliency by class, linear probes on 1% ({data})", fontsize=11)
    return figure


@styled
def trajectory(
    states: Mapping[str, pd.DataFrame], correlations: Sequence[Mapping[str, Any]], data: str
) -> Figure:
    """Figure 5: validation loss over the steps, then each score over minus that loss.

    Args:
        states: Objective -> columns step, val_loss, linear, image_image, text_image.
        correlations: Keys objective, score, pearson (None where it is undefined).
        data: For the title ("made-up data").
    """
    figure, panels = grid(len(states), 1 + len(SCORES), 3.0, 3.0)
    r = {(row["objective"], row["score"]): row["pearson"] for row in correlations}
    for line, (objective, rows) in zip(panels, states.items(), strict=True):
        line[0].plot(rows["step"], rows["val_loss"], color=BLUE, marker="o", markersize=3.5)
        line[0].set(title="validation loss", xlabel="step", ylabel=label(objective))
        _steps(line[0])
        for axes, (score, what) in zip(line[1:], SCORES.items(), strict=True):
            axes.scatter(-rows["val_loss"], rows[score], s=22, color=BLUE, alpha=0.8, linewidths=0)
            value = r.get((objective, score))
            told = "" if value is None else f", r = {value:.2f}".replace("-", "−")
            axes.set(title=f"{what}{told}", xlabel="− validation loss")
            axes.xaxis.set_major_locator(MaxNLocator(4))
            if rows[score].isna().all():
                axes.text(0.5, 0.5, "no text encoder", transform=axes.transAxes, ha="center")
    figure.suptitle(f"Pretraining loss and downstream scores ({data})", fontsize=12)
    return figure


@styled
def curves(runs: Mapping[str, Sequence[Curve]], data: str) -> Figure:
    """The criterion over the steps: one panel per objective, one line per corpus.

    Args:
        runs: Objective or variant -> its runs.
        data: What they were trained on, for the title ("made-up data").
    """
    columns = min(4, len(runs))
    figure, panels = grid(-(-len(runs) // columns), columns, 3.1, 2.6)
    flat = [axes for line in panels for axes in line]
    for axes in flat[len(runs) :]:
        axes.set_visible(False)
    corpora = list(dict.fromkeys(run.corpus for own in runs.values() for run in own))
    place = {key: i for i, key in enumerate((*ORDER, *paper.VARIANTS))}
    ordered = sorted(runs.items(), key=lambda item: place.get(item[0], len(place)))
    for axes, (objective, own) in zip(flat, ordered, strict=False):
        for run in own:
            i = corpora.index(run.corpus)
            rows = run.history
            colour = CORPUS_COLOURS[i % len(CORPUS_COLOURS)]
            y = rows[run.criterion]
            axes.plot(rows["step"], y, color=colour, lw=1.6, label=f"{run.corpus} pairs")
            best = rows["step"] == run.best_step
            mark = MARKERS[i % len(MARKERS)]
            axes.plot(rows["step"][best], y[best], mark, color=colour, ms=6, label="_best")
        known = [r.history["chance"].iloc[0] for r in own if r.criterion == "val_loss"]
        for chance in sorted({c for c in known if c == c}):  # not NaN
            axes.axhline(chance, color=GREY, linestyle="--", lw=1, label="chance")
        what = CRITERIA.get(own[0].criterion, own[0].criterion)
        axes.set(title=paper.VARIANTS.get(objective, name(objective)), ylabel=what)
        _steps(axes)
    for axes in flat[max(0, len(runs) - columns) : len(runs)]:
        axes.set_xlabel("step")
    figure.suptitle(f"Pretraining: the criterion of every objective ({data})", fontsize=12)
    legend(figure, panels, 4)
    return figure


def _steps(axes: Axes) -> None:
    """A few round ticks: 400, 800; 200k, 400k."""
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: f"{x / 1000:g}k" if abs(x) >= 10_000 else f"{x:g}")
    )
