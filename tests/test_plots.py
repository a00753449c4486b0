"""Figures: the same input gives the same bytes, and what is drawn is what was measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from convirt.results import plots


def curves() -> dict[str, pd.DataFrame]:
    step = np.arange(0, 100, 25)
    columns = {"step": step, "train_loss": 4.1 - step / 90, "val_loss": 4 - step / 99}
    return {
        name: pd.DataFrame(columns | {"chance": np.log(64)})
        for name in ("convirt-chest", "convirt-bone")
    }


def efficiency_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for task in ("rsna", "mura"):
        for init, value in (("imagenet", 0.7), ("convirt", 0.8), ("mine", 0.75)):
            for fraction in (10, 100):
                row: dict[str, Any] = {
                    "protocol": "finetune",
                    "task": task,
                    "metric": "auroc",
                    "init": init,
                }
                row |= {"fraction": fraction, "source": "here", "value": value}
                rows.append(row | {"low": value - 0.02, "high": value + 0.03})
                if init != "mine" and task == "rsna":
                    paper = {"source": "paper", "value": 0.9, "low": None, "high": None}
                    rows.append(row | paper)
    return rows


def retrieval_rows() -> list[dict[str, Any]]:
    return [
        {"source": s, "direction": d, "init": "convirt", "k": k, "value": 0.5, "chance": 0.125}
        for s in ("here", "paper")
        for d in ("image_image", "text_image")
        for k in (5, 10, 50)
    ]


def sheet() -> Figure:
    images = [np.full((8, 6 + i), 30 * i, np.uint8) for i in range(5)]
    return plots.contact_sheet(images, list("abcde"), 3)


FIGURES: dict[str, Callable[[], Figure]] = {
    "loss": lambda: plots.loss(curves(), "made-up data"),
    "efficiency": lambda: plots.efficiency(
        efficiency_rows(), {"rsna": "given data", "mura": "made-up data"}
    ),
    "retrieval": lambda: plots.retrieval(retrieval_rows(), "made-up data"),
    "sheet": sheet,
}


def texts(figure: Figure) -> str:
    """Everything that is written on a figure."""
    return "\n".join(text.get_text() for text in figure.findobj(matplotlib.text.Text))


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_input_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    plots.save(FIGURES[name](), tmp_path / "a.png")
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.dpi": 31}):
        plots.save(FIGURES[name](), tmp_path / "b.png")  # whatever the user's matplotlibrc says
        assert matplotlib.rcParams["font.size"] == 20
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in first
    assert b"Date" not in first


def test_loss_shows_the_chance_level() -> None:
    figure = FIGURES["loss"]()
    assert len(figure.axes) == 2
    assert "chance = 4.16" in texts(figure)
    assert "made-up data" in texts(figure)
    level = figure.axes[0].lines[0].get_ydata()
    assert np.allclose(np.asarray(level), np.log(64))


def test_retrieval_is_written_in_percent_as_the_tables_write_it() -> None:
    rows = [{**row, "value": 0.7575} for row in retrieval_rows()]
    figure = plots.retrieval(rows, "made-up data")
    assert "75.8" in texts(figure)
    assert "recall" not in texts(figure)


def test_an_approximate_search_is_not_drawn_without_its_recall() -> None:
    rows = [{**row, "recall": 0.987} for row in retrieval_rows() if row["source"] == "here"]
    assert (
        texts(plots.retrieval(rows, "made-up data")).count("approximate, recall: ConVIRT 98.7") == 2
    )


def test_ours_and_the_papers_never_share_a_panel() -> None:
    figure = FIGURES["efficiency"]()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == [
        "rsna, AUROC\n(given data)",
        "mura, AUROC\n(made-up data)",
        "rsna, AUROC\n(paper's data)",
        "mura\n(not in the paper)",
    ]
    here, there = figure.axes[0], figure.axes[2]
    assert {line.get_linestyle() for line in here.lines} == {"-"}
    assert {line.get_linestyle() for line in there.lines} == {"--"}
    assert len(here.collections) == 3  # an interval for each initialisation
    assert not there.collections


def test_retrieval_shows_chance_and_hatches_the_paper() -> None:
    figure = FIGURES["retrieval"]()
    assert "chance, 12.5" in texts(figure)
    assert [axes.get_title() for axes in figure.axes] == ["image → image", "text → image"]
    bars = {bar.get_label(): bar[0].get_hatch() for bar in figure.axes[0].containers}
    assert bars == {"ConVIRT, made-up data": None, "ConVIRT, paper (CheXpert 8x200)": "///"}


def test_contact_sheet_fills_rows() -> None:
    figure = sheet()
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c", "d", "e", ""]
    assert [len(axes.get_images()) for axes in figure.axes] == [1, 1, 1, 1, 1, 0]
    with pytest.raises(ValueError, match="as many titles as images"):
        plots.contact_sheet([np.zeros((4, 4), np.uint8)], [], 3)


def test_the_usual_initialisations_keep_their_colours() -> None:
    assert plots.colours(["mine", "convirt"])["convirt"] == plots.colours(["convirt"])["convirt"]
    assert len(set(plots.colours(["a", "b", "c", "d", "e"]).values())) == 8


def test_losses_are_drawn_from_their_own_columns() -> None:
    curve = curves()["convirt-chest"]
    drawn = {line.get_label(): line for line in FIGURES["loss"]().axes[0].lines}
    for label, column in (("training", "train_loss"), ("validation", "val_loss")):
        np.testing.assert_array_equal(drawn[label].get_xdata(), curve["step"])
        np.testing.assert_array_equal(drawn[label].get_ydata(), curve[column])


def test_efficiency_is_drawn_as_it_was_measured() -> None:
    rows = [{**row, "value": row["value"] + row["fraction"] / 1000} for row in efficiency_rows()]
    figure = plots.efficiency(rows, {"rsna": "given data", "mura": "made-up data"})
    here, there = figure.axes[0], figure.axes[2]
    intervals: Any = here.collections
    starts = {"ImageNet": 0.7, "ConVIRT": 0.8, "mine": 0.75}
    assert [line.get_label() for line in here.lines] == list(starts)
    for line, bars, value in zip(here.lines, intervals, starts.values(), strict=True):
        x = np.asarray(line.get_xdata())
        assert x == pytest.approx([10, 100], rel=0.15)
        assert np.asarray(line.get_ydata()) == pytest.approx([value + 0.01, value + 0.1])
        for i, (low, high) in enumerate(bars.get_segments()):
            assert (*low, *high) == pytest.approx((x[i], value - 0.02, x[i], value + 0.03))
    assert [line.get_label() for line in there.lines] == ["ImageNet, paper", "ConVIRT, paper"]
    for line in there.lines:
        assert np.asarray(line.get_ydata()) == pytest.approx([0.91, 1.0])


def test_bars_are_as_high_as_the_precision_and_stand_over_their_k() -> None:
    at, rows = {5: 0.3, 10: 0.2, 50: 0.1}, retrieval_rows()
    for row in rows:
        row["value"] = at[row["k"]] + 0.4 * (row["source"] == "paper")
        row["value"] += 0.05 * (row["direction"] == "text_image")
    figure = plots.retrieval(rows, "made-up data")
    for axes, more in zip(figure.axes, (0.0, 0.05), strict=True):
        assert [tick.get_text() for tick in axes.get_xticklabels()] == ["P@5", "P@10", "P@50"]
        for bars, base in zip(axes.containers, (0.0, 0.4), strict=True):
            assert [bar.get_height() for bar in bars] == pytest.approx(
                [base + more + value for value in at.values()]
            )
            middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
            assert [round(middle) for middle in middles] == [0, 1, 2]
