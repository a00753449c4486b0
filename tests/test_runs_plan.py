"""The planning of the parallel runner, and its slots, without DVC."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from convirt.errors import InputError
from stages import _crew, runs
from stages._plan import Schedule, outdated, seconds_left


def test_second_runner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_crew, "PATIENCE", 0.0)
    folder = tmp_path / "runs"
    with (
        _crew.alone(folder, print),
        pytest.raises(InputError, match=f"process {os.getpid()} on "),
        _crew.alone(folder, print),
    ):
        raise AssertionError
    with _crew.alone(folder, print):  # free again
        pass


# ------------------------------------------------------------------------------ slots
def test_slots() -> None:
    assert runs.slots(0, "") == ["", ""]
    assert runs.slots(3, "") == ["", "", ""]
    assert runs.slots(0, "0,1,5") == ["0", "1", "5"]
    assert runs.slots(2, "0, 1,5") == ["0", "1"]
    assert runs.slots(2, "0,0") == ["0", "0"]
    with pytest.raises(InputError, match=r"(?s)at most 1, .* --gpus 0,0,0,0$"):
        runs.slots(4, "0")
    with pytest.raises(InputError, match="commas"):
        runs.slots(0, "0,,1")


def test_what_the_parameters_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    assert runs.Wanted.read(path) == ("cpu", 1, False)
    path.write_text("compute: {device: cuda, threads: 8}\ntrain: {launcher: python}\n")
    assert runs.Wanted.read(path) == ("cuda", 8, False)
    path.write_text("train: {launcher: torchrun --nproc-per-node 2}\n")
    assert runs.Wanted.read(path).shared


def test_mistaken_parameters_are_told_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    path.write_text(text)
    assert runs.Wanted.read(path) == ("cpu", 1, False)
    path.write_text(text.replace("finetuned: {}", "finetuned: {mine: rsna-nobody-100-finetune}"))
    with pytest.raises(InputError, match="rsna-nobody-100-finetune"):
        runs.Wanted.read(path)


def test_all_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert runs.every_gpu() == "2,5"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for count, told in ((1, "0"), (4, "0,1,2,3")):
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        assert runs.every_gpu() == told
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(InputError, match="no GPU"):
        runs.every_gpu()


# ------------------------------------------------------------------------------ planning
def graphs() -> st.SearchStrategy[dict[str, tuple[str, ...]]]:
    """Graphs without cycles: a stage reads from earlier ones only."""

    def build(masks: list[int]) -> dict[str, tuple[str, ...]]:
        return {
            f"s{i}": tuple(f"s{j}" for j in range(i) if mask >> j & 1)
            for i, mask in enumerate(masks)
        }

    return st.lists(st.integers(0, 2**12 - 1), min_size=1, max_size=12).map(build)


@given(graphs(), st.sets(st.integers(0, 11)))
def test_outdated_is_closed_and_asks_as_little_as_it_can(
    graph: dict[str, tuple[str, ...]], numbers: set[int]
) -> None:
    changed = {f"s{i}" for i in numbers}
    asked: list[str] = []

    def ask(name: str) -> bool:
        asked.append(name)
        return name in changed

    found = outdated(list(graph), graph, ask)
    for name in graph:
        below = any(above in found for above in graph[name])
        assert found.get(name) == (False if below else True if name in changed else None)
    assert len(asked) == len(set(asked))
    assert not any(above in found for name in asked for above in graph[name])


@given(graphs(), st.integers(), st.integers(1, 4), st.sets(st.integers(0, 11)))
def test_schedule_keeps_the_order_and_ends(
    graph: dict[str, tuple[str, ...]], seed: int, jobs: int, numbers: set[int]
) -> None:
    rng = random.Random(seed)
    bad = {f"s{i}" for i in numbers}
    schedule = Schedule(list(graph), graph)
    well: set[str] = set()
    taken: list[str] = []
    dropped: list[str] = []
    while not schedule.finished:
        for name in schedule.ready()[: jobs - len(schedule.running)]:
            assert set(graph[name]) <= well
            schedule.start(name)
            taken.append(name)
        name = rng.choice(schedule.running)  # never empty: a graph without cycles goes on
        if name in bad:
            dropped += schedule.failed(name)
        else:
            schedule.done(name)
            well.add(name)
    assert len(taken) == len(set(taken))
    assert sorted(taken + dropped) == sorted(graph)
    for name in dropped:
        assert any(above in bad or above in dropped for above in graph[name])


def test_the_longest_chain_goes_first() -> None:
    upstream: dict[str, tuple[str, ...]] = {
        "probe": (),
        "encoder": (),
        "train": (),
        "tune1": ("train",),
        "tune2": ("train",),
    }
    upstream |= {"report": ("probe", "encoder", "tune1", "tune2")}
    schedule = Schedule(list(upstream), upstream)
    assert schedule.ready() == ["train", "probe", "encoder"]
    schedule.done("probe")  # which need not run
    schedule.start("train")
    assert schedule.ready() == ["encoder"]
    schedule.done("train")
    assert schedule.ready() == ["encoder", "tune1", "tune2"]


def test_seconds_left() -> None:
    assert seconds_left(["a@1"], {}, {}, 2) == (0.0, False)
    taken = {"a@1": 10.0, "a@2": 20.0, "b": 3.0}
    assert seconds_left(["a@3", "a@4"], {}, taken, 2) == (15.0, True)
    assert seconds_left(["a@3"], {}, taken, 8) == (15.0, True)  # a stage is not divided
    # nothing is known of c, and b takes longer than it should
    assert seconds_left(["c@1"], {"a@5": 14.0, "b": 9.0}, taken, 1) == (1.0, False)
    assert seconds_left([], {}, taken, 2) == (0.0, True)
    taken = {"a@x-10-all": 8.0, "a@y-10-all": 6.0, "a@x-1-head": 1.0, "a@x-10-head": 2.0}
    assert seconds_left(["a@z-10-all"], {}, taken, 1) == (7.0, True)
    assert seconds_left(["a@z-1-head"], {}, taken, 1) == (1.0, True)
    assert seconds_left(["a@z-100-head"], {}, taken, 1) == (1.5, True)
