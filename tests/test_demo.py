"""The made-up sets: the same bytes on any number of processes, growth, refusals, the stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from demo_sets import COUNTS, SEED, SIDE, digests, is_image, lines, rows, unpack, write, write_all
from PIL import Image
from typer.testing import CliRunner

from convirt import workers
from convirt.datasets import layouts
from convirt.errors import InputError


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small set of each layout."""
    return write_all(tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def trees(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sets, unpacked."""
    return unpack(shutil.copytree(sets, tmp_path_factory.mktemp("trees") / "demo"))


@pytest.mark.parametrize("name", COUNTS)
def test_two_processes_write_the_same_bytes_as_one(
    name: str, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "ALONE", 0.0)  # start the processes at once
    assert digests(write(name, tmp_path / name, workers=2)) == digests(sets / name)


@pytest.mark.parametrize("name", COUNTS)
def test_another_seed_draws_another_set(name: str, trees: Path, tmp_path: Path) -> None:
    layouts.write(name, tmp_path, seed=SEED + 1, side=SIDE, counts=COUNTS[name])
    images = {digest for path, digest in digests(unpack(tmp_path)).items() if is_image(path)}
    assert images and images.isdisjoint(digests(trees / name).values())


@pytest.mark.parametrize("name", COUNTS)
def test_a_set_that_grows_keeps_its_first_items(name: str, trees: Path, tmp_path: Path) -> None:
    fewer = {key: value - value // 3 for key, value in COUNTS[name].items() if key != "texts"}
    small = digests(unpack(write(name, tmp_path / name, **fewer)))
    large = digests(trees / name)
    images = {path: digest for path, digest in small.items() if is_image(path)}
    assert len(images) >= 20
    assert images.items() <= large.items()
    for path in filter(lambda path: path.endswith((".csv", ".gz", ".txt", "FILENAMES")), small):
        if "detailed" not in path:  # the rows of one film may repeat
            assert set(lines(tmp_path / name / path)) <= set(lines(trees / name / path)), path


@pytest.mark.parametrize("name", COUNTS)
def test_films_have_the_side_asked_for(name: str, trees: Path) -> None:
    paths = [path for path in (trees / name).rglob("*") if is_image(path.as_posix())]
    assert paths
    for path in paths[:20]:
        if path.suffix == ".dcm":
            shape = pydicom.dcmread(path).pixel_array.shape
        else:
            with Image.open(path) as image:
                shape = image.size
        assert max(shape) == SIDE


@pytest.mark.parametrize("name", COUNTS)
def test_ticks_once_a_unit(name: str, tmp_path: Path) -> None:
    ticks: list[None] = []
    layouts.write(
        name,
        tmp_path,
        seed=SEED,
        side=SIDE,
        counts=dict.fromkeys(COUNTS[name], 1),
        tick=lambda: ticks.append(None),
    )
    assert len(ticks) == layouts.units(name, SEED, dict.fromkeys(COUNTS[name], 1))


@pytest.mark.parametrize(
    ("name", "counts", "told"),
    [
        ("mimic", {"studies": 3}, "try mimic-cxr"),
        ("bone", {"train": 3}, "the keys studies"),
        ("bone", {"studies": -1}, "at least 0"),
        ("chexpert", COUNTS["chexpert"] | {"texts": 6}, "texts of at most 5"),
    ],
)
def test_wrong_counts_are_refused(
    name: str, counts: dict[str, int], told: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=told):
        layouts.write(name, tmp_path, seed=SEED, side=SIDE, counts=counts)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ the stage


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_params: dict[str, Any],
    write_params: Callable[..., Path],
) -> Callable[[str], Any]:
    """Run the stage in a folder of its own, with small sets."""
    from stages import demo

    monkeypatch.chdir(tmp_path)
    write_params(tiny_params)
    return lambda name: CliRunner().invoke(demo.app, [name])


def test_stage_writes_the_set(run: Callable[[str], Any], tmp_path: Path) -> None:
    assert run("bone").exit_code == 0
    assert len({row["study"] for row in rows(tmp_path / "data/demo/bone/pairs.csv")}) == 24
    assert [path.name for path in (tmp_path / "data/demo").iterdir()] == ["bone"]


def test_stage_names_an_unknown_set(run: Callable[[str], Any]) -> None:
    result = run("bonne")
    assert result.exit_code == 1 and "demo.sets.bone" in result.output


def test_stage_leaves_the_former_set_when_it_fails(
    run: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("bone").exit_code == 0
    before = digests(tmp_path / "data/demo")

    def full(*arguments: object, **words: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("convirt.datasets.layouts.write", full)
    result = run("bone")
    assert result.exit_code == 1 and "No space left" in result.output
    assert digests(tmp_path / "data/demo") == before
