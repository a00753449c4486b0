"""Every stage is killed, told to end or interrupted, and run again: the bytes are the same.

Two kinds of moment: a random time within the stage's undisturbed duration, which mostly hits
computation, and an exact change to a file (`Fault.at`), which hits what is between two changes.

FAULT_MOMENTS=20 disturbs each stage 20 times in each way. Tested elsewhere: pretraining in a
process of its own, told to end and killed between its checkpoints (test_pretrain_kill);
workers that outlive a killed parent (test_store_pieces, test_runs); a stage under DVC that outlives
DVC (test_stage); every step of the training loop (test_training).
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults import moments
from faults.injection import Fault
from faults.processes import Process
from faults.steps import BY_NAME, TESTED, Step
from faults.world import World, assert_same, leftovers, torn, tree, written

RESUMABLE = 75
SOON = 5.0  # seconds
STEPS = pytest.mark.parametrize("step", TESTED, ids=lambda step: step.name)
TRAINING = [step for step in TESTED if step.command[0] in ("pretrain", "vary")]
TRAINING += [step for step in TESTED if step.command[0] == "finetune" and "linear" not in step.name]


def test_a_fork_ends_as_a_process_of_its_own(world: World, folder: Path) -> None:
    """All these tests rely on this; a process of its own has another seed for hashes of strings."""
    step = BY_NAME["pretrain-convirt-chest"]
    project = world.project(step, folder)
    stage, *arguments = step.command
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    subprocess.run(command, cwd=project, env=world.server.environment, check=True)
    assert_same(tree(project), world.truth[step.name].tree)


def repeated(default: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("number", range(moments.count(default)))


def disturbed(world: World, project: Path, step: Step, by: signal.Signals, *key: object) -> Process:
    """Run a step and send it a signal at a random time within its duration, drawn by `key`."""
    share = moments.generator(*key).random()
    with world.server.started(project, step.command) as process:
        time.sleep(share * world.truth[step.name].seconds)
        process.send(by)
        sent = time.monotonic()
        process.end()
        assert time.monotonic() - sent < SOON
    return process


@STEPS
@repeated(1)
def test_killed_at_a_random_time(world: World, folder: Path, step: Step, number: int) -> None:
    project = world.project(step, folder)
    process = disturbed(world, project, step, signal.SIGKILL, "kill", step.name, number)
    assert process.code in (-signal.SIGKILL, 0), process.said  # 0: it was over
    assert torn(project, step, world.truth[step.name]) == []
    world.finish(project, step)


@STEPS
@repeated(1)
def test_told_to_end_at_a_random_time(world: World, folder: Path, step: Step, number: int) -> None:
    project = world.project(step, folder)
    process = disturbed(world, project, step, signal.SIGTERM, "term", step.name, number)
    assert_ended_in_order(process, project)
    world.finish(project, step)


def assert_ended_in_order(process: Process, project: Path) -> None:
    """After SIGTERM: no traceback and nothing temporary, or death before the stage had begun."""
    before = -signal.SIGTERM
    assert process.code in (before, 128 + signal.SIGTERM, RESUMABLE, 0), process.said
    assert "Traceback" not in process.said or "Exception ignored" in process.said  # in a destructor
    assert process.code == before or leftovers(project) == []


@STEPS
@repeated(1)
def test_killed_at_a_change_to_a_file(world: World, folder: Path, step: Step, number: int) -> None:
    project = world.project(step, folder)
    rng = moments.generator("kill at", step.name, number)
    at = moments.change(rng, world.truth[step.name])
    process = world.run(project, step, Fault("SIGKILL", at))
    assert process.code == -signal.SIGKILL, process.said
    assert torn(project, step, world.truth[step.name]) == []
    world.finish(project, step)


@STEPS
@repeated(1)
def test_killed_inside_a_file(world: World, folder: Path, step: Step, number: int) -> None:
    """Some file is torn: the first one, or one that is written later."""
    project, truth = world.project(step, folder), world.truth[step.name]
    rng = moments.generator("torn", step.name, number)
    length = world.length(step, rng.random())
    at = moments.change(rng, truth) if number % 2 else 0
    process = world.run(project, step, Fault("limit", at, limit=length))
    ended = (-signal.SIGXFSZ, 0) if at else (-signal.SIGXFSZ,)  # 0: only short ones came later
    assert process.code in ended, process.said
    assert torn(project, step, truth) == []
    world.finish(project, step)


@STEPS
@repeated(1)
def test_interrupted_at_a_change_to_a_file(
    world: World, folder: Path, step: Step, number: int
) -> None:
    """Ctrl-C."""
    project = world.project(step, folder)
    rng = moments.generator("interrupted", step.name, number)
    at = moments.change(rng, world.truth[step.name])
    process = world.run(project, step, Fault("SIGINT", at))
    assert "Traceback" not in process.said
    assert process.code == 130, process.said
    assert leftovers(project) == []
    world.finish(project, step)


@pytest.mark.parametrize("step", TRAINING, ids=lambda step: step.name)
@repeated(1)
def test_told_to_end_while_it_trains(world: World, folder: Path, step: Step, number: int) -> None:
    """The state is saved, and the exit code says to run the same command again."""
    project = world.project(step, folder)
    state = re.compile(r"os\.rename .* \.scratch/[^/]+/(repeat-\d/)?state\.safetensors")
    changes = enumerate(world.truth[step.name].changes, start=1)
    *saves, _ = (at for at, told in changes if state.fullmatch(told))  # then it is over anyway
    at = moments.generator("training", step.name, number).choice(saves)
    process = world.run(project, step, Fault("SIGTERM", at))
    assert process.code == RESUMABLE, process.said
    assert "run the same command" in process.said
    assert "Traceback" not in process.said
    assert leftovers(project) == []
    assert list(project.glob(".scratch/*/**/state.safetensors"))
    world.finish(project, step)


# ------------------------------------------------------------------------------ the narrow moments
def test_killed_inside_a_later_state(world: World, folder: Path) -> None:
    """Only half of a state is written; the run resumes from the one before it."""
    step = BY_NAME["pretrain-convirt-chest"]
    project = world.project(step, folder)
    at = world.after_second_state(step)
    process = world.run(project, step, Fault("limit", at, limit=world.length(step, 0.5)))
    assert process.code == -signal.SIGXFSZ, process.said
    assert list(project.glob(".scratch/*/*.safetensors"))
    world.finish(project, step)


def test_killed_while_its_scratch_folder_is_deleted(world: World, folder: Path) -> None:
    step = BY_NAME["trajectory-convirt-chest-rsna"]
    project = world.project(step, folder)
    changes = world.truth[step.name].changes
    away = re.compile(r"os\.rename \.scratch/[^/ ]+ \.scratch/[^/ ]+")
    (doomed,) = (at for at, told in enumerate(changes, start=1) if away.fullmatch(told))
    process = world.run(project, step, Fault("SIGKILL", doomed + 1))
    assert process.code == -signal.SIGKILL, process.said
    world.finish(project, step)


@pytest.mark.parametrize("before", [0, 1])
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT], ids=lambda by: by.name)
def test_ended_while_it_replaces_its_outputs(
    world: World, folder: Path, by: signal.Signals, before: int
) -> None:
    """Run again by hand, a stage replaces outputs; they are the old or the new ones, or gone."""
    step = BY_NAME["encoder-imagenet"]
    project = world.project(step, folder)
    world.finish(project, step)
    record = folder.with_name("changes")
    world.run(project, step, Fault(record=str(record)))
    changes = record.read_text().splitlines()
    (at,) = (at for at, told in enumerate(changes, 1) if told.endswith(f"tmp {step.writes[0]}"))
    process = world.run(project, step, Fault(by.name, at - before))
    assert process.code == (130 if by == signal.SIGINT else -by), process.said
    assert torn(project, step, world.truth[step.name]) == []
    assert by == signal.SIGKILL or leftovers(project) == []
    world.finish(project, step)


def test_killed_between_features_and_their_mark(world: World, folder: Path) -> None:
    step = BY_NAME["finetune-rsna-convirt-100-linear"]
    project = world.project(step, folder)
    changes = enumerate(world.truth[step.name].changes, start=1)
    (placed,) = (
        at for at, told in changes if re.fullmatch(r"os\.rename .* \S+/features.npy", told)
    )
    process = world.run(project, step, Fault("SIGKILL", placed + 1))
    assert process.code == -signal.SIGKILL, process.said
    world.finish(project, step)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("preprocess-chest", "unheard"),
        ("trajectory-convirt-chest-rsna", "unheard"),
        ("preprocess-chest", "mistaken"),
        ("retrieve-convirt", "mistaken"),
    ],
)
def test_told_to_end_where_what_a_handler_raises_is_lost(
    world: World, folder: Path, name: str, how: str
) -> None:
    """It has to end soon all the same, and not with a traceback of its own."""
    step = BY_NAME[name]
    project = world.project(step, folder)
    process = world.run(project, step, Fault(how, at=1))
    assert process.code == 128 + signal.SIGTERM, process.said
    assert "Traceback" not in process.said or "Exception ignored" in process.said
    assert written(project, step) == {}
    world.finish(project, step)
