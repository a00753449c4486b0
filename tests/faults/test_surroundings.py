"""The surroundings of a stage change: inputs vanish, another one starts, the clock goes back.

Tested elsewhere: image files of a set that are missing or damaged (test_bad_input, test_readers);
processes that need the same features at once (test_feature_cache).
"""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from convirt.checkpoint import STATE
from faults import moments
from faults.injection import Fault
from faults.steps import TESTED, Step
from faults.world import World, assert_same, change_params, leftovers, tree, written

PRETRAIN = next(step for step in TESTED if step.command[0] == "pretrain")
IMAGES = "data/stores/chest/images.npy"
HOLDING = ("preprocess", "pretrain", "vary", "finetune", "trajectory")
LOCKED = [step for step in TESTED if step.command[0] in HOLDING]
FREE = [step for step in TESTED if step not in LOCKED]
INPUTS = [(step, name) for step in TESTED for name in step.reads]


# ------------------------------------------------------------------------------ inputs
@pytest.mark.parametrize(
    ("step", "name"), INPUTS, ids=[f"{step.name}-{name}" for step, name in INPUTS]
)
def test_input_is_gone(world: World, folder: Path, step: Step, name: str) -> None:
    project = world.project(step, folder)
    (project / name).rename(project / "gone")
    process = world.run(project, step)
    assert "Traceback" not in process.said, process.said
    assert process.code == 1, process.said
    assert name in process.said
    assert "next:" in process.said
    assert leftovers(project) == []
    assert written(project, step) == {}


def test_images_were_cut_off(world: World, folder: Path) -> None:
    project = world.project(PRETRAIN, folder)
    whole = (project / IMAGES).read_bytes()
    (project / IMAGES).write_bytes(whole[: len(whole) // 2])
    process = world.run(project, PRETRAIN)
    assert process.code == 1, process.said
    assert "Traceback" not in process.said
    assert "dvc repro preprocess@chest" in process.said
    (project / IMAGES).write_bytes(whole)
    world.finish(project, PRETRAIN)


def test_images_are_cut_off_during_the_run(world: World, folder: Path) -> None:
    """They are memory-mapped: the kernel may kill the run, but nothing wrong is learnt or kept."""
    project = world.project(PRETRAIN, folder)
    whole = (project / IMAGES).read_bytes()
    at = world.truth[PRETRAIN.name].changes.index(first_state(world)) + 1
    with world.server.started(project, PRETRAIN.command, Fault("SIGSTOP", at)) as process:
        assert process.stand()
        (project / IMAGES).write_bytes(b"")
        process.send(signal.SIGCONT)
        assert process.end() in (1, -signal.SIGBUS), process.said
    assert "next:" in process.said or "Bus error" in process.said
    assert written(project, PRETRAIN) == {}
    (project / IMAGES).write_bytes(whole)
    world.finish(project, PRETRAIN)


def first_state(world: World) -> str:
    """The change that put the first resume state of pretraining in its place."""
    changes = world.truth[PRETRAIN.name].changes
    return next(told for told in changes if re.match(r"os\.rename .*/state\.safetensors$", told))


@pytest.mark.parametrize("edited", ["convirt/augment.py", "params.yaml"])
def test_edit_during_the_run_is_refused(world: World, folder: Path, edited: str) -> None:
    """Of an imported module, and of a parameter that is read; once undone, the run resumes."""
    project = world.project(PRETRAIN, folder)
    path = (project if edited == "params.yaml" else world.server.code) / edited
    before = path.read_bytes()
    at = world.truth[PRETRAIN.name].changes.index(first_state(world)) + 1
    with world.server.started(project, PRETRAIN.command, Fault("SIGSTOP", at)) as process:
        assert process.stand()
        try:
            if edited == "params.yaml":
                change_params(project, **{"train.lr": 0.1})
            else:
                path.write_bytes(before + b"edited = 1\n")
            process.send(signal.SIGCONT)
            assert process.end() == 1, process.said
        finally:
            path.write_bytes(before)
    named = {"params.yaml": "params.yaml: train"}.get(edited, edited)
    assert f"changed since the start: {named}." in process.said  # as soon as seen
    assert "edited meanwhile, so the outputs are refused" in process.said
    assert "Traceback" not in process.said
    assert written(project, PRETRAIN) == {}
    assert list(project.glob(f".scratch/*/{STATE}"))
    world.finish(project, PRETRAIN)


# ------------------------------------------------------------------------------ two at once
@pytest.mark.parametrize("step", LOCKED, ids=lambda step: step.name)
def test_started_twice_at_once(world: World, folder: Path, step: Step) -> None:
    """The second is refused, and the first takes no harm."""
    project, truth = world.project(step, folder), world.truth[step.name]
    rng = moments.generator("twice", step.name)
    at = moments.change(rng, truth, r"rename .*\.scratch|open .*\.scratch.*journal")
    with world.server.started(project, step.command, Fault("SIGSTOP", at)) as first:
        assert first.stand()
        second = world.run(project, step)
        assert second.code == 1, second.said
        assert "Traceback" not in second.said
        assert f"held by process {first.pid}" in second.said
        first.send(signal.SIGCONT)
        assert first.end() == 0, first.said
    assert_same(tree(project), truth.tree)


@pytest.mark.parametrize("step", moments.share(FREE, 3), ids=lambda step: step.name)
def test_overtaken_by_another(world: World, folder: Path, step: Step) -> None:
    """Stages that take minutes hold no lock: whichever ends last, nothing is torn, nothing left."""
    project, truth = world.project(step, folder), world.truth[step.name]
    targets = "|".join(re.escape(name) for name in step.writes)
    at = moments.change(moments.generator("overtaken", step.name), truth, f"rename .* ({targets})$")
    with world.server.started(project, step.command, Fault("SIGSTOP", at)) as first:
        assert first.stand()
        second = world.run(project, step)
        assert second.code == 0, second.said
        assert_same(written(project, step), written_of(truth.tree, step))
        first.send(signal.SIGCONT)
        first.end()
    assert "Traceback" not in first.said, first.said
    assert first.code in (0, 1)
    world.finish(project, step)


def written_of(whole: dict[str, bytes], step: Step) -> dict[str, bytes]:
    return {name: data for name, data in whole.items() if name.startswith(step.writes)}


# ------------------------------------------------------------------------------ the clock
@pytest.mark.parametrize("step", moments.share(TESTED, 3), ids=lambda step: step.name)
def test_clock_goes_back_by_a_day(world: World, folder: Path, step: Step) -> None:
    """Clocks for time spans jump forward, as after a sleep; no output depends on either clock."""
    project, truth = world.project(step, folder), world.truth[step.name]
    at = moments.change(moments.generator("clock", step.name), truth)
    process = world.run(project, step, Fault("clock", at))
    assert process.code == 0, process.said
    assert_same(tree(project), truth.tree)
