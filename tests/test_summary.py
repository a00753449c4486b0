"""The summary: its keys, what is absent, which run is subtracted from which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convirt.errors import InputError
from convirt.metrics import paired_difference
from convirt.results.markdown import percent, points
from convirt.results.summary import (
    comparisons,
    efficiency_rows,
    key_of,
    matrix_keys,
    recall_key,
    retrieval_rows,
    summarise,
)

INITS = ("imagenet", "convirt")
SKILL = {("imagenet", 10): 0.4, ("convirt", 10): 2.0, ("imagenet", 100): 0.9, ("convirt", 100): 2.2}


def run(task: str, init: str, fraction: int, protocol: str = "finetune") -> dict[str, Any]:
    cell = {"task": task, "init": init, "fraction": fraction, "protocol": protocol}
    cell |= {"unit": "patient" if task == "mura" else "image"}
    return cell | {"metric": "auroc", "value": 0.7, "low": 0.6, "high": 0.8, "n_test": 60}


def predictions(init: str, fraction: int) -> pd.DataFrame:
    """Test scores that separate the classes better, the larger the run's `SKILL` is."""
    rng = np.random.default_rng(0)
    y = np.tile([0.0, 1.0], 30)
    names = [f"p{i:02}" for i in range(60)]
    score = rng.normal(size=60) + SKILL.get((init, fraction), 1.0) * y
    rows = {"repeat": 0, "image": names, "patient": names, "unit": names}
    return pd.DataFrame(rows | {"y_sick": y, "p_sick": score})


def build(runs: Sequence[Mapping[str, Any]], **changes: Any) -> dict[str, Any]:
    tables = {key_of(r): predictions(r["init"], r["fraction"]) for r in runs}
    inputs: dict[str, Any] = {
        "runs": runs,
        "predictions": tables,
        "retrieval": {},
        "pretrain": [],
        "made_up": {"rsna": True, "mura": False},
        "searched": {"found": True},
        "resamples": 50,
        "seed": 0,
    }
    return summarise(**(inputs | changes))


def flat(cells: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in cells.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


RETRIEVAL = {
    "convirt": {
        "image_image": {"p_at_5": 0.4, "p_at_10": 0.3, "chance": 0.125, "queries": 80},
        "text_image": {"p_at_5": 0.6, "p_at_10": 0.5, "chance": 0.125, "queries": 40},
        "provenance": {"code": "c", "versions": {"torch": "2"}},
    },
    "imagenet": {"image_image": {"p_at_5": 0.2, "p_at_10": 0.2, "chance": 0.125, "queries": 80}},
}


def test_the_keys_are_those_that_the_issue_names() -> None:
    runs = [run(t, i, f) for t in ("rsna", "mura") for i in INITS for f in (10, 100)]
    about = {"objective": "convirt", "corpus": "chest", "steps": 3, "start": 4.1, "best": 2.5}
    caption = about | {"objective": "caption_lstm", "val_loss": 2.0, "chance": None, "pairs": 9}
    pretrain = [about | {"val_loss": 3.0, "chance": 4.0, "pairs": 9}, caption]
    cells = flat(build(runs, retrieval=RETRIEVAL, pretrain=pretrain))
    expected = {
        f"finetune.{t}.{i}.{f}.{part}"
        for t in ("rsna", "mura")
        for i in INITS
        for f in (10, 100)
        for part in ("value", "low", "high")
    }
    expected |= {
        f"claim.{equal}{t}.{part}"
        for equal in ("", "equal_fraction.")
        for t in ("rsna", "mura")
        for part in ("difference", "low", "high")
    }
    expected |= {"claim.mean.difference", "claim.equal_fraction.mean.difference"}
    expected |= {"data.made_up.rsna", "data.made_up.mura", "data.searched.found"}
    expected |= {
        f"retrieval.{d}.{part}"
        for d in ("convirt.image_image", "convirt.text_image", "imagenet.image_image")
        for part in ("p_at_5", "p_at_10", "chance")
    }
    always = ("val_loss", "start", "best", "pairs")
    expected |= {f"pretrain.{o}.chest.{p}" for o in ("convirt", "caption_lstm") for p in always}
    expected |= {f"pretrain.convirt.chest.{part}" for part in ("chance", "below_chance")}
    assert set(cells) == expected
    assert all(type(value) in (int, float) for value in cells.values())
    assert cells["pretrain.convirt.chest.below_chance"] == 0.25
    fractions = {k: v for k, v in cells.items() if not k.startswith("pretrain.")}
    assert all(-1 <= value <= 1 for value in fractions.values())


def test_the_claim_is_convirt_minus_imagenet() -> None:
    cells = build([run("rsna", i, f) for i in INITS for f in (10, 100)])["claim"]
    assert cells["rsna"]["difference"] > 0.1
    assert cells["rsna"]["low"] > 0
    direct = paired_difference(
        predictions("convirt", 10), predictions("imagenet", 100), "auroc", 50, 0
    )
    assert cells["rsna"] == {"difference": direct.value, "low": direct.low, "high": direct.high}
    # the weaker the baseline, the larger the difference: at 10% it had fewer labels
    assert cells["equal_fraction"]["rsna"]["difference"] > cells["rsna"]["difference"]
    assert cells["mean"] == {"difference": cells["rsna"]["difference"]}


def test_the_mean_of_the_claim_is_plain() -> None:
    ours = {"rsna": ("convirt", 10), "mura": ("imagenet", 100), "chexpert": ("imagenet", 10)}
    runs = [run(task, *start) for task in ours for start in (("convirt", 10), ("imagenet", 100))]
    tables = {
        key_of(r): predictions(*(ours[r["task"]] if r["init"] == "convirt" else ("imagenet", 100)))
        for r in runs
    }
    cells = build(runs, predictions=tables)["claim"]
    differences = [cells[task]["difference"] for task in ours]
    assert cells["mean"]["difference"] == pytest.approx(np.mean(differences))
    assert np.mean(differences) != pytest.approx(np.median(differences))


def test_what_was_not_run_is_absent() -> None:
    assert "claim" not in build([run("rsna", i, 100) for i in INITS])
    assert "claim" not in build([run("rsna", i, f) for i in INITS for f in (1, 50)])
    assert "claim" not in build([run("rsna", "convirt", f) for f in (10, 100)])
    cells = build([run("rsna", i, 10) for i in INITS])
    assert set(cells) == {"finetune", "claim", "data"}
    assert set(cells["claim"]) == {"equal_fraction"}


def test_linear_probes_have_a_claim_of_their_own() -> None:
    runs = [run("rsna", i, f, p) for i in INITS for f in (10, 100) for p in ("finetune", "linear")]
    cells = build(runs)
    assert set(cells["claim"]) == {"rsna", "mean", "equal_fraction", "linear"}
    assert set(cells["claim"]["linear"]) == {"rsna", "mean", "equal_fraction"}
    only = build([run("rsna", i, f, "linear") for i in INITS for f in (10, 100)])
    assert set(only["claim"]) == {"linear"}


def test_a_task_may_not_be_called_like_a_part_of_the_claim() -> None:
    with pytest.raises(InputError, match=r"tasks\.mean"):
        comparisons([run("mean", i, 10) for i in INITS])


def test_runs_with_other_test_images_are_not_paired() -> None:
    runs = [run("rsna", i, 10) for i in INITS]
    tables = {key_of(r): predictions(r["init"], 10) for r in runs}
    tables["rsna-imagenet-10-finetune"] = tables["rsna-imagenet-10-finetune"].iloc[2:]
    with pytest.raises(
        InputError, match=r"same images.*\n.*\n.*dvc repro -f finetune@rsna-convirt-10"
    ):
        build(runs, predictions=tables)


def test_matrix_keys_name_the_stages_of_dvc() -> None:
    keys = matrix_keys(["rsna", "mura"], ["convirt"], [10, 100], ["linear"])
    assert keys == [
        "rsna-convirt-10-linear",
        "rsna-convirt-100-linear",
        "mura-convirt-10-linear",
        "mura-convirt-100-linear",
    ]


def test_efficiency_rows_hold_the_papers_cells_of_the_same_fractions() -> None:
    rows = efficiency_rows(
        [run("rsna", "convirt", f) for f in (10, 100)] + [run("new", "mine", 10)]
    )
    kept = [(r["source"], r["task"], r["init"], r["fraction"], r["value"], r["low"]) for r in rows]
    assert kept == [
        ("here", "rsna", "convirt", 10, 0.7, 0.6),
        ("here", "rsna", "convirt", 100, 0.7, 0.6),
        ("paper", "rsna", "convirt", 10, 0.915, None),
        ("paper", "rsna", "convirt", 100, 0.927, None),
        ("here", "new", "mine", 10, 0.7, 0.6),
    ]


def test_retrieval_rows_hold_the_papers_cells_of_the_same_k() -> None:
    summary = build([run("rsna", "convirt", 10)], retrieval=RETRIEVAL)
    rows = retrieval_rows(summary)
    values = {(r["source"], r["direction"], r["init"], r["k"]): r["value"] for r in rows}
    assert values["here", "text_image", "convirt", 5] == 0.6
    assert values["paper", "text_image", "convirt", 5] == 0.6
    assert values["paper", "image_image", "imagenet", 10] == 0.144
    assert ("paper", "image_image", "convirt", 50) not in values
    assert len(values) == 12
    summary["data"]["searched"] = {"another": 0.0}
    rows = retrieval_rows(summary)
    assert {row["source"] for row in rows} == {"here"} and len(rows) == 6


def test_the_recall_of_an_approximate_ranking_stands_beside_its_precision() -> None:
    directions = {"image_image": {"p_at_5": 0.4, "chance": 0.1, "recall_at_5": 0.98, "queries": 80}}
    summary = build([run("rsna", "convirt", 10)], retrieval={"convirt": directions})
    cells = summary["retrieval"]
    assert cells["convirt"]["image_image"] == {"p_at_5": 0.4, "chance": 0.1, "recall_at_5": 0.98}
    assert recall_key(cells) == "recall_at_5"
    rows = retrieval_rows(summary)
    assert rows[0]["recall"] == 0.98
    assert {row["k"] for row in rows if row["source"] == "here"} == {5}
    exact = build([run("rsna", "convirt", 10)], retrieval=RETRIEVAL)["retrieval"]
    assert recall_key(exact) is None


def test_numbers_are_written_like_the_papers() -> None:
    assert percent(0.915) == "91.5"
    assert percent(None) == "–"
    assert [points(x) for x in (0.007, -0.005, 0.0)] == ["+0.7", "−0.5", "0.0"]
    assert [points(x) for x in (0.0004, -0.0001)] == ["+0.0", "−0.0"]  # beside "yes", and "no"
