"""The preprocess stage, from params.yaml to a store and its funnel."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw
from typer.testing import CliRunner

from convirt.store import Store
from stages import preprocess


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_params: dict[str, Any],
    write_params: Callable[..., Path],
) -> Callable[..., Any]:
    """`run(root=..., image_size=8)` preprocesses the set `bone` in a folder of its own."""

    def invoke(max_dropped: float = 0.02, image_size: int = 8, **source: Any) -> Any:
        datasets = default_params["datasets"]
        datasets |= {"max_dropped": max_dropped, "image_size": image_size}
        datasets["sources"]["bone"] |= {"val": 2, "root": "raw", **source}
        write_params(default_params)
        monkeypatch.chdir(tmp_path)
        return CliRunner().invoke(preprocess.app, ["bone"])

    raw.ten_pairs(tmp_path / "raw")
    return invoke


def test_store_and_funnel(run: Callable[..., Any], tmp_path: Path) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    store = Store.open(tmp_path / "data/stores/bone")
    assert store.images.shape == (10, 8, 8)
    funnel = json.loads((tmp_path / "metrics/funnel/bone.json").read_text())
    assert funnel["images"] == {"in": 10, "dropped": {}, "kept": 10}
    assert funnel["split"]["val"]["studies"] == 2
    assert str(tmp_path) not in (tmp_path / "metrics/funnel/bone.json").read_text()


def test_the_root_may_hold_a_variable(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(root="$FILMS/raw")
    assert result.exit_code == 1
    assert "export the variable" in result.output
    monkeypatch.setenv("FILMS", str(tmp_path))
    assert run(root="$FILMS/raw").exit_code == 0


def test_too_much_dropped_fails_readably(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "raw/f/3.png").unlink()
    result = run()
    assert result.exit_code == 1
    assert "image missing (such as f/3.png)" in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "data/stores").exists() or not list((tmp_path / "data/stores").iterdir())
    assert not (tmp_path / "metrics/funnel/bone.json").exists()
    assert run(max_dropped=0.2).exit_code == 0


def test_an_unknown_option_and_reader(run: Callable[..., Any]) -> None:
    assert "did you mean `sections`" in run(options={"section": True}).output
    assert "did you mean `pairs`" in run(options={}, reader="pair").output
