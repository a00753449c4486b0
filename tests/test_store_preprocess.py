"""The preprocess stage, from params.yaml to a store and its funnel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw
from typer.testing import CliRunner

from convirt import packing
from convirt.datasets import squares
from convirt.store import Store
from stages import preprocess


def outputs(root: Path) -> dict[str, bytes]:
    """The store and the funnel."""
    paths = [*(root / "data/stores/bone").iterdir(), root / "metrics/funnel/bone.json"]
    return {path.name: path.read_bytes() for path in paths}


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_params: dict[str, Any],
    write_params: Callable[..., Path],
) -> Callable[..., Any]:
    """`run(root=..., image_size=8)` preprocesses the set `bone` in a folder of its own."""

    def invoke(*more: str, max_dropped: float = 0.02, image_size: int = 8, **source: Any) -> Any:
        datasets = default_params["datasets"]
        datasets |= {"max_dropped": max_dropped, "image_size": image_size}
        datasets["sources"]["bone"] |= {"val": 2, "root": "raw", **source}
        write_params(default_params)
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("DVC_ROOT", raising=False)
        return CliRunner().invoke(preprocess.app, ["bone", *more])

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
    assert set(funnel["provenance"]) == {"code", "params", "versions", "inputs"}
    before = outputs(tmp_path)
    assert run().exit_code == 0
    assert outputs(tmp_path) == before


def test_the_seed_draws_the_split(
    run: Callable[..., Any], tmp_path: Path, default_params: dict[str, Any]
) -> None:
    drawn = []
    for seed in range(4):
        default_params["seed"] = seed
        assert run().exit_code == 0
        records = Store.open(tmp_path / "data/stores/bone").records
        drawn.append(tuple(records.loc[records["split"] == "val", "image"]))
    assert len(set(drawn)) > 1


def test_the_root_may_hold_a_variable(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(root="$FILMS/raw")
    assert result.exit_code == 1
    assert "export the variable" in result.output
    monkeypatch.setenv("FILMS", str(tmp_path))
    assert run(root="$FILMS/raw").exit_code == 0


def test_a_source_may_have_a_limit_of_its_own(
    run: Callable[..., Any], tmp_path: Path, default_params: dict[str, Any]
) -> None:
    (tmp_path / "raw/f/3.png").unlink()
    own = default_params["datasets"]["sources"]["bone"]
    own["max_dropped"] = 0.05
    assert "at most 5.0% of the images" in run(max_dropped=0.5).output
    own["max_dropped"] = 0.2
    assert run(max_dropped=0.0).exit_code == 0


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


# ------------------------------------------------------------------------------ resume, division


def test_an_interrupted_run_keeps_what_it_decoded(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run().exit_code == 0
    expected = outputs(tmp_path)
    assert list((tmp_path / ".scratch").iterdir()) == []
    shutil.rmtree(tmp_path / "data")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(packing, "merge", interrupt)
        result = run()
    assert result.exit_code == 130
    assert "resume state" in result.output
    with monkeypatch.context() as patch:
        patch.setattr(squares, "pack", lambda *_: pytest.fail("decoded again"))
        assert run().exit_code == 0
    assert outputs(tmp_path) == expected
    assert list((tmp_path / ".scratch").iterdir()) == []


def test_pieces_of_two_machines(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "raw/f/3.png").write_bytes(b"")
    assert run(max_dropped=0.2).exit_code == 0
    expected = outputs(tmp_path)
    shutil.rmtree(tmp_path / "data")

    result = run("--shard", "1/2", max_dropped=0.2)
    assert result.exit_code == 0, result.output
    assert "5 images decoded, 1 of them unusable" in result.output
    assert not (tmp_path / "data/stores").exists()
    result = run(max_dropped=0.2)
    assert result.exit_code == 1
    assert "lacking 2/2" in result.output
    assert run("--shard", "2/2", max_dropped=0.2).exit_code == 0
    shutil.rmtree(tmp_path / "raw/f")
    result = run(max_dropped=0.2)
    assert result.exit_code == 0, result.output
    assert "made of 2 pieces" in result.output
    assert outputs(tmp_path) == expected

    result = run(max_dropped=0.3)  # other parameters
    assert result.exit_code == 1
    assert "a piece with params" in result.output
    assert "rm -r" in result.output
    assert "such as 2/8" in run("--shard", "3/2").output
