"""Files of bench results: what a new call replaces and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import _measure
from convirt import files


def result(date: str, share: dict[str, float], *rows: tuple[str, int, float]) -> dict[str, Any]:
    told = [{"name": name, "batch": batch, "ours": ours} for name, batch, ours in rows]
    about = {"date": date, "versions": {"torch": "2"}, "compiled": False}
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


@pytest.mark.parametrize("key", ["date", "versions", "compiled"])
def test_rows_of_another_day_version_or_setting_go(tmp_path: Path, key: str) -> None:
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
    _measure.tell("some", "cpu", rows[2:], {}, beside=beside)
    path = _measure.tell("some", "cpu", rows[:2], {}, beside=beside)
    names = [row["name"] for row in json.loads(path.read_text())["rows"]]
    assert names == (["a", "b", "c"] if beside else ["b", "a"])
