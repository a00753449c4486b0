"""The tables: cells, marks, intervals, verdicts, pictures and the stage, on a made-up grid."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pandas as pd
import pytest
import table_world
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from torch import nn
from typer.testing import CliRunner, Result

from convirt import compare, embedding_map, saliency
from convirt.compare import Interval
from convirt.errors import InputError
from convirt.metrics import paired_difference
from convirt.params import read_yaml
from convirt.results import html, paper, table_layout, table_plots, verdict
from convirt.results.markdown import points
from convirt.results.tables import (
    AGREES,
    CONTRADICTS,
    OPEN,
    Cell,
    Order,
    csv_rows,
    dashed,
    image_only_cells,
    retrieval_cell,
    setting_cell,
    transfer_cells,
)
from stages.tables import app

HEADS = {
    "table1": "system,corpus,protocol,task,fraction,n_train,metric,value,low,high,repeats,paper",
    "table2": "system,direction,k,value,low,high,paper",
    "table3": "system,column,value,low,high,paper",
    "table4": "variant,column,value,low,high,paper",
    "zeroshot": "system,task,metric,value,low,high",
    "figure5": "objective,score,states,pearson,spearman,paper",
}
PNGS = ["table1-linear", "table1-finetune", "table2", "table3", "table4", "zeroshot"]
PNGS += ["figure3", "figure4", "figure5", "curves"]


# ------------------------------------------------------------------------------ the stage
@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up grid on which the stage has run."""
    folder = tmp_path_factory.mktemp("world")
    data = table_world.params(read_yaml(ROOT / "params.yaml"))
    table_world.build(folder, data)
    result = run(folder, data)
    assert result.exit_code == 0, result.output
    return folder


def run(folder: Path, data: dict[str, Any]) -> Result:
    from ruamel.yaml import YAML

    with (folder / "params.yaml").open("w") as handle:
        YAML(typ="safe", pure=True).dump(data, handle)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return CliRunner().invoke(app, [])


def few(data: dict[str, Any], **matrix: Any) -> dict[str, Any]:
    """The parameters `data`, asking for two systems and one task."""
    data = copy.deepcopy(data)
    data["matrix"] |= {"task": ["rsna"], "init": ["imagenet", "convirt"], "fraction": [10, 100]}
    data["matrix"] |= matrix
    data["retrieval"]["systems"] = ["imagenet", "convirt"]
    data["finetune"]["bootstrap"] = 20
    data["corpora"] = ["chest"]
    return data


@pytest.fixture(scope="module")
def two_systems(
    tmp_path_factory: pytest.TempPathFactory, committed_params: dict[str, Any]
) -> tuple[Path, dict[str, Any]]:
    """A grid of two systems and one task, to be copied; and its parameters."""
    folder, data = tmp_path_factory.mktemp("two"), few(committed_params)
    table_world.build(folder, data, patients=40, per_class=6)
    return folder, data


@pytest.fixture
def small(
    two_systems: tuple[Path, dict[str, Any]], tmp_path: Path
) -> Callable[..., tuple[Path, Result]]:
    """Run the stage on two systems and one task, after a change."""
    source, data = two_systems

    def go(change: Callable[[Path], None] = lambda folder: None) -> Any:
        shutil.copytree(source, tmp_path, dirs_exist_ok=True)
        change(tmp_path)
        return tmp_path, run(tmp_path, data)

    return go


@pytest.fixture(scope="module")
def done(
    two_systems: tuple[Path, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A grid of two systems and one task on which the stage has run."""
    source, data = two_systems
    folder = tmp_path_factory.mktemp("done") / "grid"
    shutil.copytree(source, folder)
    result = run(folder, data)
    assert result.exit_code == 0, result.output
    return folder


def rows(world: Path, table: str) -> list[dict[str, str]]:
    with (world / f"metrics/tables/{table}.csv").open() as handle:
        return list(csv.DictReader(handle))


def cells(world: Path) -> list[dict[str, Any]]:
    found = json.loads((world / "metrics/tables/cells.json").read_text())["cells"]
    return list(found)


@pytest.mark.parametrize("table", HEADS)
def test_files_have_the_agreed_columns(world: Path, table: str) -> None:
    text = (world / f"metrics/tables/{table}.csv").read_text()
    assert text.splitlines()[0] == HEADS[table]
    assert rows(world, table)


def test_every_wanted_cell_is_there_once(world: Path) -> None:
    found = rows(world, "table1")
    keys = {(r["system"], r["protocol"], r["task"], r["fraction"]) for r in found}
    assert len(found) == len(keys) == 11 * 2 * 4 * 3
    assert ("caption-lstm", "linear", "covidx", "1") in keys  # no column of the paper, yet kept
    supervised = {"convirt-supervised"}  # used in retrieval, not in transfer
    assert {r["system"] for r in found} == {dashed(s) for s in table_world.SYSTEMS} - supervised
    assert {r["repeats"] for r in found if r["protocol"] == "linear"} == {"3"}
    assert len(rows(world, "table2")) == 12 * 3 + 4 * 3
    assert len(rows(world, "table4")) == 6 * 3
    assert len(rows(world, "zeroshot")) == 4


def assert_differences_are_of_the_cells(world: Path) -> None:
    """Each is what the row is compared with, minus the row."""
    held = {(c["table"], c["system"], *c["column"].values()): c for c in cells(world)}
    told = [c for c in held.values() if c["order"]]
    assert told
    for c in told:
        other = held[c["table"], c["order"]["against"], *c["column"].values()]
        assert c["order"]["value"] == pytest.approx(other["value"] - c["value"])


def test_differences_are_the_reference_minus_the_system(world: Path) -> None:
    assert_differences_are_of_the_cells(world)


def test_the_claim_compares_a_tenth_of_the_labels_with_all(done: Path) -> None:
    assert_differences_are_of_the_cells(done)
    ours, theirs = (
        pd.read_parquet(done / f"models/finetune/rsna-{key}-finetune/predictions.parquet")
        for key in ("convirt-10", "imagenet-100")
    )
    d = paired_difference(ours, theirs, "auroc", 20, 0)
    claim = f"RSNA: {points(d.value)}\u00a0[{points(d.low)},\u00a0{points(d.high)}]"
    assert claim in (done / "metrics/tables/index.html").read_text()


def test_too_few_patients_decide_nothing(
    tmp_path: Path, two_systems: tuple[Path, dict[str, Any]]
) -> None:
    """As in the report, which prints no interval there."""
    data = two_systems[1]
    table_world.build(tmp_path, data, patients=20, per_class=6)
    result = run(tmp_path, data)
    assert result.exit_code == 0, result.output
    orders = [c["order"] for c in cells(tmp_path) if c["table"] == "table1" and c["order"]]
    assert [(order["low"], order["high"]) for order in orders] == [(-1, 1)] * 2
    assert {order["mark"] for order in orders} == {"open"}
    assert any(order["value"] > 0.01 for order in orders)
    assert "[−100.0,\u00a0+100.0]" in (tmp_path / "metrics/tables/index.html").read_text()


def test_scores_that_rise_as_the_loss_falls_are_correlated(world: Path) -> None:
    assert all(float(row["pearson"]) > 0.5 for row in rows(world, "figure5"))


def the(world: Path, table: str, **wanted: str) -> dict[str, str]:
    """The one row that has these values."""
    (row,) = (row for row in rows(world, table) if wanted.items() <= row.items())
    return row


def test_numbers_are_those_of_the_results_and_of_the_paper(world: Path) -> None:
    made = json.loads((world / "metrics/finetune/rsna-caption_lstm-10-linear.json").read_text())
    place = {"protocol": "linear", "task": "rsna", "fraction": "10"}
    row = the(world, "table1", system="caption-lstm", **place)
    assert all(float(row[key]) == made[key] for key in ("value", "low", "high"))
    assert float(row["paper"]) == paper.transfer("linear", "rsna", "caption_lstm", 10) == 0.908
    found = the(world, "table2", system="convirt", direction="text_image", k="10")
    search = json.loads((world / "metrics/retrieval/convirt.json").read_text())
    assert float(found["value"]) == pytest.approx(search["text_image"]["p_at_10"])
    assert float(found["low"]) < float(found["value"]) < float(found["high"])
    tau = the(world, "table4", variant="tau-0-01", column="text_image_p_at_10")
    assert float(tau["paper"]) == 0.21


def test_cells_say_what_made_them(world: Path) -> None:
    for cell in cells(world):
        assert (world / cell["source"]).is_file()
        made_by = json.loads((world / cell["source"]).read_text())["provenance"]
        assert (cell["code"], cell["params"]) == (made_by["code"], made_by["params"])
    orders = [cell["order"] for cell in cells(world) if cell["order"]]
    assert len(orders) > 300
    assert {order["against"] for order in orders} == {"convirt", "default"}


def test_every_picture_is_there_and_the_figures_are_on_the_page(world: Path) -> None:
    folder = world / "metrics/tables"
    assert sorted(p.stem for p in folder.glob("*.png")) == sorted(PNGS)
    text = (folder / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 4
    assert len(re.findall(r"<table>", text)) == 6
    for outside in ("http://", "https://", "<script", '<link rel="stylesheet', 'src="./'):
        assert outside not in text
    assert "Measured on made-up data." in text
    assert "excludes the paper’s order" in text
    assert str(world) not in text


def test_the_page_is_the_same_every_time(
    done: Path, small: Callable[..., tuple[Path, Result]]
) -> None:
    before = {p.name: p.read_bytes() for p in (done / "metrics/tables").iterdir()}
    folder, again = small()
    assert again.exit_code == 0, again.output
    assert {p.name: p.read_bytes() for p in (folder / "metrics/tables").iterdir()} == before
    text = before["index.html"].decode()
    assert "Not here, with what it takes in params.yaml" in text
    assert "Figure 5 (ablation.trajectory" in text


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("metrics/finetune/rsna-imagenet-10-finetune.json", "finetune@rsna-imagenet-10-finetune"),
        ("models/finetune/rsna-convirt-100-finetune/predictions.parquet", "finetune@rsna-convirt"),
        ("metrics/retrieval/convirt.json", "retrieve@convirt"),
        ("data/retrieval/imagenet/rankings.parquet", "retrieve@imagenet"),
        ("data/retrieval/convirt/embeddings.safetensors", "retrieve@convirt"),
        ("metrics/pretrain/convirt-chest.csv", "pretrain@convirt-chest"),
        ("data/stores/chexpert-8x200/images.npy", "preprocess@chexpert-8x200"),
    ],
)
def test_a_missing_result_names_the_command(
    small: Callable[..., tuple[Path, Result]], missing: str, command: str
) -> None:
    folder, result = small(lambda folder: (folder / missing).unlink())
    assert result.exit_code == 1
    assert f"dvc repro {command}" in result.output
    assert not (folder / "metrics/tables").exists()


def test_rankings_of_another_run_are_refused(
    small: Callable[..., tuple[Path, Result]],
) -> None:
    def stale(folder: Path) -> None:
        path = folder / "metrics/retrieval/convirt.json"
        found = json.loads(path.read_text())
        found["text_image"]["p_at_10"] += 0.01
        path.write_text(json.dumps(found))

    _, result = small(stale)
    assert result.exit_code == 1
    assert "Precision@10" in result.output
    assert "dvc repro -f retrieve@convirt" in result.output


def test_a_broken_result_of_a_variant_names_its_stage(
    tmp_path: Path, committed_params: dict[str, Any]
) -> None:
    folder, data = tmp_path, few(committed_params, fraction=[1], protocol=["linear"])
    data["ablation"]["variants"] = {"tau-1": {}}
    table_world.build(folder, data, patients=40, per_class=6)
    probe = folder / "models/finetune/rsna-tau-1-1-linear/predictions.parquet"
    whole = pd.read_parquet(probe)
    probe.unlink()
    assert "dvc repro vary-probe@tau-1\n" in run(folder, data).output
    whole.iloc[:-1].to_parquet(probe)
    told = "dvc repro -f finetune@rsna-convirt-1-linear vary-probe@tau-1\n"
    assert told in run(folder, data).output
    whole.to_parquet(probe)
    rankings = folder / "data/retrieval/tau-1/rankings.parquet"
    pd.read_parquet(rankings).iloc[:-1].to_parquet(rankings)
    assert "dvc repro -f vary-retrieve@tau-1\n" in run(folder, data).output


def test_table_4_of_another_objective_bears_its_name() -> None:
    columns = {"rsna_linear_1": ("RSNA", "linear, 1%")}
    ours = [cell("default", 0.5), cell("tau-1", 0.4)]
    ours = [replace(one, table="table4", column=("rsna_linear_1",)) for one in ours]
    grid = table_layout.settings(ours, columns, "siglip")
    assert [row[0] for row in grid.rows] == ["SigLIP (default)", "τ = 1"]
    assert not grid.notes and "SigLIP" in grid.title
    grid = table_layout.settings(ours, columns)
    assert grid.rows[0][0] == "ConVIRT (default)" and grid.notes


def test_images_of_patients_stay_out_of_metrics(
    tmp_path: Path, default_params: dict[str, Any]
) -> None:
    data = default_params
    data["matrix"] = {"task": ["chexpert"], "init": ["imagenet", "convirt"], "fraction": [1]}
    data["matrix"] |= {"protocol": ["linear"]}
    data["retrieval"]["systems"] = ["imagenet", "convirt"]
    data["finetune"]["bootstrap"], data["corpora"] = 20, ["chest"]
    data["datasets"]["sources"]["chexpert-8x200"]["root"] = str(tmp_path / "elsewhere")
    table_world.build(tmp_path, data, patients=40, per_class=6)
    weights = tmp_path / "models/encoders/convirt/chest/image_encoder.safetensors"
    shutil.copy(weights, tmp_path / "kept")
    shutil.copy(weights.parents[2] / "imagenet/chest" / weights.name, weights)
    other = run(tmp_path, data)
    assert other.exit_code == 1
    assert "dvc repro finetune@chexpert-convirt-1-linear" in other.output
    shutil.copy(tmp_path / "kept", weights)
    result = run(tmp_path, data)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "data/tables/figure4.png").is_file()
    assert not (tmp_path / "metrics/tables/figure4.png").exists()
    private = (tmp_path / "data/tables/figure4.png").read_bytes()
    import base64

    page = (tmp_path / "metrics/tables/index.html").read_text()
    assert base64.b64encode(private).decode()[:400] not in page
    assert "only in data/tables/figure4.png" in page


# ------------------------------------------------------------------------------ marks
@pytest.mark.parametrize(
    ("low", "high", "printed", "mark"),
    [
        (0.01, 0.05, 0.02, AGREES),
        (-0.05, -0.01, 0.02, CONTRADICTS),
        (-0.01, 0.02, 0.02, OPEN),
        (0.01, 0.05, -0.001, CONTRADICTS),
        (-0.05, -0.01, -0.001, AGREES),
        (0.01, 0.05, 0.0, None),  # the paper prints equal numbers
        (0.01, 0.05, None, None),
        (0.0, 0.05, 0.02, OPEN),  # an interval that touches 0 holds it
    ],
)
def test_marks(low: float, high: float, printed: float | None, mark: str | None) -> None:
    assert Order("convirt", (low + high) / 2, low, high, printed).mark == mark


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(-1, 1))
def test_turning_a_comparison_round_keeps_its_mark(
    low: float, width: float, printed: float
) -> None:
    order = Order("convirt", low, low, low + width, printed)
    turned = Order("convirt", -low, -low - width, -low, -printed)
    assert order.mark == turned.mark


# ------------------------------------------------------------------------------ intervals
def rankings() -> pd.DataFrame:
    hits = [[1, 0, 1], [0, 0, 0], [1, 1, 1]]
    return pd.DataFrame(
        {
            "direction": "text_image",
            "query": np.repeat(["same", "same", "other"], 3),
            "rank": [1, 2, 3] * 3,
            "right": np.array(hits, bool).ravel(),
        }
    )


def test_precision_of_each_query_though_two_have_one_name() -> None:
    found = compare.queries(rankings(), "text_image", "x", "retrieve@s")
    assert found.names == ("same", "same", "other")
    assert compare.precision(found, 2, 0.5, "x", "retrieve@s").tolist() == [0.5, 0.0, 1.0]
    with pytest.raises(InputError, match=r"(?s)depth 3.*retrieve@s"):
        compare.precision(found, 5, 0.5, "x", "retrieve@s")
    with pytest.raises(InputError, match="one block of ranks"):
        compare.queries(rankings().iloc[:-1], "text_image", "x", "retrieve@s")
    with pytest.raises(InputError, match="one block of ranks"):
        compare.queries(rankings(), "image_image", "x", "retrieve@s")


def test_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, 400)
    found = compare.interval(values, 4000, 1)
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(found.value - half, abs=half / 10)
    assert found.high == pytest.approx(found.value + half, abs=half / 10)


@pytest.mark.parametrize("block", [1, 123, 1000])
def test_blocks_of_draws_do_not_change_an_interval(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).random(81)
    whole = compare.interval(values, 50, 1)
    monkeypatch.setattr("convirt.bootstrap.BLOCK", block)
    assert compare.interval(values, 50, 1) == whole


def test_pairs_share_their_draws() -> None:
    a = np.random.default_rng(0).normal(size=50)
    paired = compare.interval(a + 0.1 - a, 200, 3)
    assert paired.low == pytest.approx(0.1) and paired.high == pytest.approx(0.1)


def test_correlation() -> None:
    x = np.array([1.0, 2, 3, 4, np.nan])
    assert compare.correlation(x, np.exp(x)) == pytest.approx((0.92, 1.0), abs=0.01)
    assert compare.correlation(x, np.full(5, 2.0)) is None
    assert compare.correlation(x[:2], x[:2]) is None


# ------------------------------------------------------------------------------ verdicts
def cell(system: str, value: float, lead: tuple[float, float] | None = None, **more: Any) -> Cell:
    column = more.get("column", ("linear", "rsna", 1))
    order = lead and Order("convirt", sum(lead) / 2, *lead, 0.01)
    table = "table2" if len(column) == 2 else "table1"
    return Cell(
        table,
        system,
        column,
        "auroc",
        value,
        value - 0.01,
        value + 0.01,
        1,
        None,
        order,
        "",
        "",
        "",
    )


MURA: dict[str, Any] = {"column": ("linear", "mura", 1)}


@pytest.mark.parametrize(
    ("others", "answer", "text"),
    [
        ([cell("imagenet", 0.7, (0.05, 0.2))], verdict.YES, "first by interval in 1"),
        ([cell("imagenet", 0.7, (-0.05, 0.2))], verdict.LEVEL, "in 1 an interval leaves open"),
        ([cell("imagenet", 0.7)], verdict.LEVEL, "in 1 an interval leaves open"),
        ([cell("binary", 0.85, (-0.1, 0.01))], verdict.LEVEL, "in 1 an interval leaves open"),
        ([cell("binary", 0.9, (-0.2, -0.05))], verdict.NO, "behind in 1"),
        (
            [cell("binary", 0.9, (-0.2, -0.05)), cell("imagenet", 0.7, (0.05, 0.2))],
            verdict.NO,
            "behind in 1",
        ),
        (
            [
                *(cell("binary", 0.9, (-0.2, -0.05)), cell("imagenet", 0.7, (0.05, 0.2), **MURA)),
                cell("convirt", 0.8, **MURA),
            ],
            verdict.PARTLY,
            "Of the 2 linear cells, ConVIRT is first by interval in 1 and behind in 1; in 0",
        ),
        ([cell("siglip", 0.9, (-0.2, -0.05))], verdict.UNKNOWN, "another system"),
        ([], verdict.UNKNOWN, "another system"),
    ],
)
def test_first_among_the_papers_systems(others: list[Cell], answer: str, text: str) -> None:
    found = verdict.first([cell("convirt", 0.8), *others], "linear")
    assert found.answer == answer
    assert text in found.text


@pytest.mark.parametrize(
    ("lead", "answer", "text"),
    [
        ((0.05, 0.2), verdict.YES, "first by interval"),
        ((-0.1, 0.2), verdict.LEVEL, "not told apart from the best"),
        ((-0.3, -0.1), verdict.NO, "not first"),
    ],
)
def test_first_in_finding_images(lead: tuple[float, float], answer: str, text: str) -> None:
    column = ("image_image", 10)
    pair = [cell("convirt", 0.5, column=column), cell("binary", 0.4, lead, column=column)]
    found = verdict.images(pair)
    assert found.answer == answer and text in found.text
    assert "Not compared" not in found.text


def test_systems_outside_a_comparison_are_told_if_they_are_ahead() -> None:
    column = ("image_image", 10)
    pair = [cell("convirt", 0.5, column=column), cell("binary", 0.4, (0.05, 0.2), column=column)]
    leads = {"convirt_supervised": (-0.3, -0.1), "report_labels": (-0.3, -0.1), "siglip": (0, 0.1)}
    others = [cell(name, 0.6, lead, column=column) for name, lead in leads.items()]
    found = verdict.images([*pair, *others])
    assert found.answer == verdict.YES and len(found.points) == 5
    names = " and ".join(table_layout.label(name) for name in list(leads)[:2])
    assert found.text.endswith(
        f" Not compared here, and ahead of it: {names.replace(' and', ',')}."
    )
    linear = [cell("convirt", 0.8), cell("imagenet", 0.7, (0.05, 0.2))]
    linear += [cell("convirt", 0.8, **MURA), cell("imagenet", 0.7, (0.05, 0.2), **MURA)]
    linear += [
        cell("report_labels", 0.9, (-0.2, -0.05)),
        cell("report_labels", 0.8, (-0.1, 0.1), **MURA),
    ]
    told = verdict.first(linear, "linear").text
    assert f"ahead of it: {table_layout.label('report_labels')} (1 of 2)." in told


def test_covidx_with_1_percent_is_not_among_the_11() -> None:
    extra = [
        cell("convirt", 0.8, column=("linear", "covidx", 1)),
        cell("imagenet", 0.7, (0.05, 0.2), column=("linear", "covidx", 1)),
    ]
    assert verdict.first(extra, "linear").answer == verdict.UNKNOWN
    assert table_layout.transfer(extra, "linear").measured() == 0
    assert len(csv_rows("table1", extra)) == 2


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(0.01, 0.1, verdict.YES), (-0.1, 0.1, verdict.LEVEL), (-0.1, -0.01, verdict.NO)],
)
def test_label_efficiency(low: float, high: float, answer: str) -> None:
    found = verdict.efficiency({"rsna": Interval((low + high) / 2, low, high)}, "finetune")
    assert found.answer == answer
    assert ("may be up to 10.0 points worse" in found.text) == (answer == verdict.LEVEL)
    assert "paper\u00a0+0.7" in found.points[0]
    assert verdict.efficiency({}, "finetune").answer == verdict.UNKNOWN


def test_text_retrieval_has_to_beat_chance() -> None:
    column = ("text_image", 10)
    assert verdict.retrieval([cell("convirt", 0.5, column=column)], 0.125).answer == verdict.YES
    assert verdict.retrieval([cell("convirt", 0.1, column=column)], 0.125).answer == verdict.NO
    assert verdict.retrieval([cell("convirt", 0.13, column=column)], 0.125).answer == verdict.LEVEL
    for system, answer in (("binary", verdict.PARTLY), ("siglip", verdict.YES)):
        better = cell(system, 0.7, (-0.3, -0.1), column=column)
        found = verdict.retrieval([cell("convirt", 0.5, column=column), better], 0.125)
        assert found.answer == answer  # nothing is asked of systems that the paper lacks
        assert ("Ahead of ConVIRT" in found.text) == (answer == verdict.PARTLY)
        assert ("Not compared here, and ahead of it: SigLIP" in found.text) == (system == "siglip")


@pytest.mark.parametrize("open_", [0, 1, 3])
def test_behind_somewhere_and_ahead_nowhere_is_no(open_: int) -> None:
    spots = ["rsna", "mura", "covidx", "chexpert"]
    level = {task: Interval(0.0, -0.1, 0.1) for task in spots[:open_]}
    behind = {task: Interval(-0.1, -0.2, -0.05) for task in spots[open_:]}
    assert verdict.efficiency(level | behind, "finetune").answer == verdict.NO


def test_level_somewhere_and_ahead_elsewhere_is_partly() -> None:
    differences = {"rsna": Interval(0.1, 0.05, 0.15), "mura": Interval(0.0, -0.1, 0.1)}
    found = verdict.efficiency(differences, "finetune")
    assert found.answer == verdict.PARTLY
    assert "ahead of ImageNet with 100% on 1 of 2 tasks, behind on 0, undecided on 1" in (
        found.short
    )


def one(**changes: Any) -> dict[str, Any]:
    """The JSON of a transfer run."""
    return {
        **{"protocol": "linear", "task": "rsna", "init": "convirt", "fraction": 1},
        **{"metric": "auroc", "value": 0.8, "low": 0.7, "high": 0.9, "repeats": [0.8]},
        **{"unit": "image", "corpus": "chest", "n_train": [40], "source": "one.json"},
        **{"provenance": {"code": "", "params": ""}, **changes},
    }


def test_numbers_of_the_paper_stand_beside_the_same_score_only() -> None:
    scores: tuple[dict[str, str], ...] = ({}, {"metric": "accuracy"}, {"unit": "patient"})
    imagenet = [one(init="imagenet", **score) for score in scores]
    paired = {"one.json": Interval(0.1, 0.05, 0.15)}
    alike, metric, unit = transfer_cells(imagenet, paired)
    assert alike.paper == 0.828 and alike.order and alike.order.mark == "agrees"
    for other in (metric, unit):
        assert other.paper is None and other.order and other.order.mark is None
        grid = table_layout.transfer([other], "linear")
        printed = [[entry.paper for entry in row] for _, row in grid.rows]
        assert all(row[0] is None for row in printed)  # for all systems in this column
        assert any(row[1] is not None for row in printed)
    mura = {"task": "mura", "corpus": "bone"}
    assert transfer_cells([one(**mura, unit="patient")], {})[0].paper == 0.812
    assert transfer_cells([one(**mura, unit="study")], {})[0].paper is None


def test_another_set_that_is_searched_has_no_number_of_the_paper() -> None:
    own, found = Interval(0.5, 0.4, 0.6), one(init="imagenet")
    for alike in (True, False):
        made = retrieval_cell("imagenet", ("image_image", 10), own, own, found, alike)
        assert made.order is not None
        assert (made.paper is not None) == (made.order.mark is not None) == alike
        (moved,) = image_only_cells([made])
        assert (moved.paper is not None) == alike
        for grid in (table_layout.retrieval([made]), table_layout.image_only([moved])):
            column = 1 if grid.key == "table2" else 2
            assert any(row[column].paper is not None for _, row in grid.rows) == alike


@pytest.mark.parametrize(
    ("repeats", "count", "decides"), [(1, 19, False), (1, 20, True), (5, 19, True)]
)
def test_a_single_run_on_few_images_decides_nothing(
    repeats: int, count: int, decides: bool
) -> None:
    """Another draw of so few would change the order, which its interval does not cover."""
    facts = {"repeats": [0.8] * repeats, "n_train": [count] * repeats}
    made = transfer_cells(
        [one(init="imagenet", **facts), one(source="two.json", **facts)],
        {"one.json": Interval(0.1, 0.05, 0.15)},
    )
    assert made[0].order is not None
    assert made[0].order.mark == ("agrees" if decides else "open")
    assert verdict.first(made, "linear").answer == (verdict.YES if decides else verdict.LEVEL)
    notes = " ".join(table_layout.transfer(made, "linear").notes)
    assert f"Training images: {count} with 1% of the labels." in notes
    assert ("gets no mark" in notes) == (not decides)
    assert "Pretrained on chest pairs for RSNA." in notes


def test_a_table_says_which_cells_are_single_runs() -> None:
    def told(*repeats: int) -> str:
        runs = [
            one(fraction=share, repeats=[0.8] * count, n_train=[40] * count)
            for share, count in zip((1, 10, 100), repeats, strict=True)
        ]
        return table_layout.transfer(transfer_cells(runs, {}), "linear").notes[0]

    assert told(1, 1, 1).startswith("Each cell is a single run")
    assert told(5, 5, 5).startswith("Each cell is the mean of 5 runs")
    mixed = told(5, 1, 1)
    assert mixed.startswith("A cell with 10% and 100% of the labels is a single run")
    assert "Any other cell is the mean of 5 runs" in mixed


def test_table_3_takes_its_cells_from_where_it_says() -> None:
    held = [cell("imagenet", 0.1), cell("imagenet", 0.2, column=("linear", "chexpert", 1))]
    held.append(cell("imagenet", 0.3, column=("image_image", 10)))
    found = {one.column[0]: (one.value, one.paper) for one in image_only_cells(held)}
    assert found == {
        "rsna_linear_1": (0.1, 0.828),
        "chexpert_linear_1": (0.2, 0.757),
        "image_image_p_at_10": (0.3, 0.144),
    }


@pytest.mark.parametrize(("protocol", "first"), [("linear", 0.907), ("finetune", 0.888)])
def test_a_grid_has_the_papers_numbers_of_its_protocol(protocol: str, first: float) -> None:
    assert dict(table_layout.transfer([], protocol).rows)["ConVIRT"][0].paper == first


# ------------------------------------------------------------------------------ pictures
def test_saliency_is_the_gradient_of_the_asked_logit() -> None:
    head = nn.Linear(3 * 4, 2, bias=False)
    model = nn.Sequential(nn.Flatten(), head)
    x = torch.randn(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = saliency.saliency(model, x, torch.tensor([1, 0]))
    weight = head.weight.detach().reshape(2, 3, 2, 2).abs().amax(dim=1).numpy()
    np.testing.assert_allclose(found, weight[[1, 0]])


def test_neighbours_of_one_class() -> None:
    h = np.repeat(np.eye(2), 20, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(40, 2))
    labels = np.repeat(["a", "b"], 20)
    assert embedding_map.purity(h, labels) == 1.0
    points = embedding_map.tsne(h, 0)
    assert points.shape == (40, 2)
    assert np.array_equal(points, embedding_map.tsne(h, 0))
    centres = [points[labels == c].mean(axis=0) for c in "ab"]
    spread = max(points[labels == c].std() for c in "ab")
    assert np.linalg.norm(centres[0] - centres[1]) > spread


def test_names_with_markup_stay_text() -> None:
    claim = verdict.Claim("a < b?", verdict.YES, '<img src="x">', ("&",))
    page = html.Page("made-up data", "", [claim], [], [], html.marks(), [])
    text = html.render(page)
    assert "<img" not in text and "a &lt; b?" in text and "<li>&amp;</li>" in text


# ------------------------------------------------------------------------------ in a browser
SIZES = {"phone": (390, 844), "desk": (1280, 900)}


@pytest.mark.skipif(browser.find() is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_the_page_in_a_browser(world: Path, tmp_path: Path, size: str, dark: bool) -> None:
    width, height = SIZES[size]
    executable = browser.find()
    assert executable is not None
    with browser.browser(executable, tmp_path) as window:
        window.open(world / "metrics/tables/index.html", width, height, dark)
        assert window.value("document.documentElement.scrollWidth") <= width
        assert window.value("window.innerWidth") == width  # no zooming out to fit
        loaded = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
        assert window.value(loaded) == [True] * 4
        # what is too wide scrolls in its own box
        boxes = (
            "[...document.querySelectorAll('.scroll')].map(e => e.getBoundingClientRect().right)"
        )
        assert all(right <= width for right in window.value(boxes))
        clipped = "[...document.querySelectorAll('p, h1, h2, h3, li, figcaption')]"
        clipped += ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent)"
        assert window.value(clipped) == []
        background = window.value("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        assert window.complaints == []
        window.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 50_000


def marked() -> table_layout.Grid:
    """Table 1(a), of which one column was measured; every mark occurs."""
    leads = {"imagenet": (0.05, 0.2), "binary": (-0.2, -0.05), "caption_lstm": (-0.1, 0.1)}
    values = {"imagenet": 0.7, "binary": 0.9, "caption_lstm": 0.75}
    cells = [cell("convirt", 0.8), *(cell(s, values[s], leads[s]) for s in leads)]
    return table_layout.transfer(cells, "linear")


def test_the_page_shows_each_number_in_its_place() -> None:
    page = html.render(html.Page("made-up data", "", [], [marked()], [], html.marks(), []))
    rows = re.findall(r'<th scope="row">([^<]*)</th>(<td.*?</td>)', page)
    shown = {name: " ".join(re.sub(r"<[^>]*>", " ", first).split()) for name, first in rows}
    assert shown == {
        "Random Init.": "– paper 55.0",
        "ImageNet Init.": "70.0 ● [69.0, 71.0] Δ +12.5 [+5.0, +20.0] paper 82.8",
        "Caption-Transformer": "– paper 84.8",
        "Caption-LSTM": "75.0 [74.0, 76.0] Δ 0.0 [−10.0, +10.0] paper 89.8",
        "Contrastive-Binary-Loss": "90.0 , highest here ▼ [89.0, 91.0] "
        "Δ −12.5 [−20.0, −5.0] paper 88.9",
        "ConVIRT": "80.0 [79.0, 81.0] paper 90.7",
    }
    told = dict(re.findall(r'aria-label="(\w+) the paper’s order: ([^"]*)"', page))
    assert told == {
        "confirms": "convirt minus this system is +12.5 [+5.0, +20.0] here, +1.0 in the paper",
        "contradicts": "convirt minus this system is −12.5 [−20.0, −5.0] here, +1.0 in the paper",
    }


def test_the_picture_of_a_table_marks_the_rows_that_the_page_marks() -> None:
    written: dict[str, list[Text]] = {}
    for text in table_plots.table(marked()).findobj(Text):
        written.setdefault(text.get_text(), []).append(text)
    (highest,), (lower,) = written["90.0"], written["70.0"]
    assert (highest.get_fontweight(), lower.get_fontweight()) == ("bold", "normal")
    for glyph, value in (("▼", highest), ("●", lower)):
        (mark,) = written[glyph]
        assert mark.get_position()[1] == value.get_position()[1]
    for number in ("[89.0, 91.0]", "[69.0, 71.0]", "[74.0, 76.0]", "88.9", "82.8"):
        assert number in written


def test_a_mark_is_about_the_papers_difference_in_every_table() -> None:
    """The paper has ConVIRT ahead of ImageNet, and the default ahead of the variant."""
    lead, own = Interval(0.1, 0.05, 0.15), Interval(0.5, 0.4, 0.6)
    made = retrieval_cell("imagenet", ("image_image", 10), own, lead, one(init="imagenet"))
    (moved,) = image_only_cells([made])
    varied = setting_cell(made, "tau-0-01", "image_image_p_at_10", lead)
    for found, printed, ahead in (
        (made, 0.144, 0.285),
        (moved, 0.144, 0.285),
        (varied, 0.405, 0.024),
    ):
        assert found.order is not None
        assert (found.paper, found.order.paper) == (printed, ahead), found.table
        assert found.order.mark == AGREES, found.table
    behind = Interval(-0.1, -0.15, -0.05)
    made = retrieval_cell("binary", ("text_image", 5), own, behind, one(init="binary"))
    assert made.order is not None and made.order.mark == CONTRADICTS
    assert (made.paper, made.order.paper) == (0.155, 0.445)


def test_an_image_is_no_neighbour_of_itself() -> None:
    """Against loops, on classes that mix."""
    rng = np.random.default_rng(0)
    h, labels = rng.normal(size=(30, 4)), np.array(list("abc") * 10)
    shares = []
    for i in range(30):
        length = np.linalg.norm(h[i])
        cosine = {j: h[i] @ h[j] / length / np.linalg.norm(h[j]) for j in range(30) if j != i}
        nearest = sorted(cosine, key=cosine.__getitem__, reverse=True)[:10]
        shares.append(np.mean(labels[nearest] == labels[i]))
    assert embedding_map.purity(h, labels) == pytest.approx(np.mean(shares))
