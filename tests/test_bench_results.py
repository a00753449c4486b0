"""Files of bench results: what a new call replaces and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import _measure, pretrain
from convirt import files


def result(date: str, share: dict[str, float], *rows: tuple[str, int, float]) -> dict[str, Any]:
    told = [{"name": name, "batch": batch, "ours": ours} for name, batch, ours in rows]
    about = {"date": date, "code": "abc", "versions": {"torch": "2"}, "compiled": False}
    return {**about, "load": 0.1 * len(rows), "share": share, "rows": told}


def test_rows_of_other_batches_stay(tmp_path: Path) -> None:
    path = tmp_path / "pretrain.json"
    first = result("2026-11-26", {"32": 0.1}, ("a", 32, 1.0), ("b", 32, 2.0))
    files.write_json(path, _measure._beside(first, path))
    second = result("2026-11-26", {"512": 0.5}, ("a", 512, 4.0), ("a", 32, 3.0))
    whole = _measure._beside(second, path)
    assert whole["share"] == {"32": 0.1, "512": 0.5}
    rates = {(row["name"], row["batch"]): row["ours"] for row in whole["rows"]}
    assert rates == {("a", 32): 3.0, ("a", 512): 4.0, ("b", 32): 2.0}


@pytest.mark.parametrize("key", ["date", "code", "versions", "compiled"])
def test_rows_of_another_day_code_version_or_setting_go(tmp_path: Path, key: str) -> None:
    path = tmp_path / "pretrain.json"
    before = result("2026-11-26", {}, ("a", 32, 1.0))
    files.write_json(path, {**before, key: "another"})
    after = result("2026-11-26", {}, ("a", 512, 2.0))
    assert _measure._beside(after, path) == after


@pytest.mark.parametrize("beside", [True, False])
def test_a_call_replaces_a_file_unless_it_joins_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: bool
) -> None:
    monkeypatch.setattr(_measure, "RESULTS", tmp_path)
    rows = [_measure.Row(name, 1, "s", 1.0, None, None, 0.1) for name in ("b", "a", "c")]
    _measure.tell("growth", "cpu", rows[2:], {}, beside=beside)
    path = _measure.tell("growth", "cpu", rows[:2], {}, beside=beside)
    names = [row["name"] for row in json.loads(path.read_text())["rows"]]
    assert names == (["a", "b", "c"] if beside else ["b", "a"])


def test_the_code_of_a_bench_is_all_that_it_runs() -> None:
    digests = {name: _measure.code_of(name) for name in ("pretrain-demo", "pretrain", "growth")}
    assert digests["pretrain-demo"] == digests["pretrain"] != digests["growth"]


def test_a_row_holds_the_seconds_that_its_rates_are_medians_of() -> None:
    taken = {"ours": [2.0, 1.0, 4.0], "plain": [8.0]}
    row = _measure.row(("a", 32, "pairs/s"), {"ours": 32, "plain": 32}, taken, 0.5)
    assert (row.ours, row.plain, row.compute_only) == (16.0, 4.0, None)
    assert row.seconds == taken


@pytest.mark.parametrize("large", ["plain", "ours"])
def test_a_plain_way_that_does_not_fit_is_left_out(large: str) -> None:
    def run(way: str) -> float:
        if way == large:
            raise torch.OutOfMemoryError
        return 1.0

    ways: dict[str, Callable[[], float]] = {
        way: partial(run, way) for way in ("ours", "compute", "plain")
    }
    taken: dict[str, list[float]] = {way: [] for way in ways}
    if large == "ours":
        with pytest.raises(torch.OutOfMemoryError):
            pretrain.one_round(ways, taken)
        return
    for _ in range(2):
        pretrain.one_round(ways, taken)
    assert taken == {"ours": [1.0, 1.0], "compute": [1.0, 1.0]}
