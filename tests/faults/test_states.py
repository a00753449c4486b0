"""Resume states that are damaged, and a loss that is not a number.

Tested elsewhere: damaged rows and journals of preprocessing (test_store_pieces), damaged
features (test_feature_cache), a loss that breaks in validation (test_training).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from convirt.checkpoint import PREVIOUS, STATE
from faults.injection import Fault
from faults.steps import BY_NAME, Step
from faults.world import World, change_params, leftovers, written

PRETRAIN = BY_NAME["pretrain-convirt-chest"]
FINETUNE = BY_NAME["finetune-rsna-convirt-100-finetune"]


# ------------------------------------------------------------------------------ damaged states
def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    """Flip one byte in the middle, which is among the weights."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def empty(data: bytes) -> bytes:
    return b""


def killed(world: World, project: Path, step: Step) -> Path:
    """Kill the step after its second state; returns the path of that state."""
    process = world.run(project, step, Fault("SIGKILL", world.after_second_state(step)))
    assert process.code == -9, process.said
    (state,) = project.glob(f".scratch/*/**/{STATE}")
    return state


def cases(*pairs: tuple[Step, Callable[[bytes], bytes]]) -> pytest.MarkDecorator:
    names = [f"{step.command[0]}-{damage.__name__}" for step, damage in pairs]
    return pytest.mark.parametrize(("step", "damage"), pairs, ids=names)


@cases((PRETRAIN, cut), (PRETRAIN, flip), (PRETRAIN, empty), (FINETUNE, flip))
def test_goes_back_to_the_state_before(
    world: World, folder: Path, step: Step, damage: Callable[[bytes], bytes]
) -> None:
    project = world.project(step, folder)
    state = killed(world, project, step)
    state.write_bytes(damage(state.read_bytes()))
    process = world.finish(project, step)
    assert "resuming from the previous state" in process.said


@cases((PRETRAIN, flip), (FINETUNE, cut))
def test_both_states_are_damaged(
    world: World, folder: Path, step: Step, damage: Callable[[bytes], bytes]
) -> None:
    project = world.project(step, folder)
    state = killed(world, project, step)
    for path in (state, state.with_name(PREVIOUS)):
        path.write_bytes(damage(path.read_bytes()))
    process = world.run(project, step)
    assert process.code == 1, process.said
    assert "Traceback" not in process.said
    hint = re.search(r"rm -r (\S+)", process.said)
    assert hint is not None
    assert written(project, step) == {}
    shutil.rmtree(hint[1])
    world.finish(project, step)


# ------------------------------------------------------------------------------ not a number
def test_last_good_state_is_kept_where_the_loss_breaks(world: World, folder: Path) -> None:
    """Without what broke the loss, the run resumes from that state and ends with the same bytes."""
    project = world.project(PRETRAIN, folder)
    process = world.run(project, PRETRAIN, Fault(nan=8))
    assert process.code == 1, process.said
    assert "Traceback" not in process.said
    assert re.search(
        r"training loss at step 8, on rows \d+(, \d+)+ of records.parquet", process.said
    )
    assert list(project.glob(f".scratch/*/{STATE}"))
    assert written(project, PRETRAIN) == {}
    world.finish(project, PRETRAIN)


@pytest.mark.parametrize(
    ("step", "key", "told"),
    [
        (PRETRAIN, "train.lr", "lower train.lr"),
        (FINETUNE, "tasks.rsna.lr", "params.yaml: tasks"),
    ],
    ids=["pretrain", "finetune"],
)
def test_rate_that_is_far_too_high(
    world: World, folder: Path, step: Step, key: str, told: str
) -> None:
    project = world.project(step, folder)
    change_params(project, **{key: 1e30})
    for _ in range(2):  # also when it is resumed
        process = world.run(project, step)
        assert process.code == 1, process.said
        assert "Traceback" not in process.said
        assert told in process.said
        assert leftovers(project) == []
        assert written(project, step) == {}
