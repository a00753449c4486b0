"""A full disk, and folders that cannot be written: a message, nothing torn, and the run can go on.

The kernel itself refuses the writes of the process (`injection.fill_disk`), so that this holds for
safetensors and arrow as for Python. Tested elsewhere: the error of a full disk becomes a message,
however it is worded (test_stage).
"""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from faults import moments
from faults.injection import SYSCALLS, Fault
from faults.processes import Process
from faults.steps import BY_NAME, TESTED, Step
from faults.world import World, leftovers, written

STEPS = pytest.mark.parametrize("step", TESTED, ids=lambda step: step.name)


# ------------------------------------------------------------------------------ a full disk
@pytest.mark.skipif(platform.machine() not in SYSCALLS, reason="unknown system calls")
@STEPS
@pytest.mark.parametrize("number", range(moments.count(1)))
def test_disk_full(world: World, folder: Path, step: Step, number: int) -> None:
    """The disk is full from some moment on; once there is room, the same command completes."""
    project, truth = world.project(step, folder), world.truth[step.name]
    rng = moments.generator("full", step.name, number)
    if number % 2:
        fault = Fault("full", after=max(1e-3, rng.random() * truth.seconds))
    else:
        fault = Fault("full", at=moments.change(rng, truth))
    process = world.run(project, step, fault)
    if process.code != 0:  # 0: all was written
        assert_told(process, "room to write")
        assert "free some space" in process.said
        assert "then run the same command" in process.said
    assert leftovers(project) == []
    assert written(project, step).items() <= truth.tree.items()
    world.finish(project, step)


def assert_told(process: Process, *what: str) -> None:
    """A message with a next step, and no traceback."""
    assert "Traceback" not in process.said, process.said
    assert process.code == 1, process.said
    for text in (*what, "next:"):
        assert text in process.said


# ------------------------------------------------------------------------------ no way to write
def places(step: Step) -> list[str]:
    """The folders in which a step makes its outputs."""
    return sorted({Path(name).parent.as_posix() for name in step.writes})


def own_places(step: Step) -> list[str]:
    """Those of them that hold none of its inputs."""
    return [p for p in places(step) if not any(name.startswith(p) for name in step.reads)]


EVERYWHERE = [(step, place) for step in TESTED for place in places(step)]
OWN = [(step, place) for step in TESTED for place in own_places(step)]


def chosen(cases: list[tuple[Step, str]], every: int) -> pytest.MarkDecorator:
    """A share of the cases by default."""
    cases = list(moments.share(cases, every))
    names = [f"{step.name}-{place}" for step, place in cases]
    return pytest.mark.parametrize(("step", "place"), cases, ids=names)


@chosen(EVERYWHERE, 4)
def test_folder_is_read_only(world: World, folder: Path, step: Step, place: str) -> None:
    project = world.project(step, folder)
    target = project / place
    target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o555)
    process = world.run(project, step, Fault(powerless=True))
    target.chmod(0o755)
    assert_told(process, str(target))
    assert leftovers(project) == []
    assert written(project, step).items() <= world.truth[step.name].tree.items()
    world.finish(project, step)


@chosen(OWN, 6)
def test_a_file_in_the_place_of_a_folder(
    world: World, folder: Path, step: Step, place: str
) -> None:
    project = world.project(step, folder)
    target = project / place
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("no folder")
    process = world.run(project, step)
    assert_told(process, str(target))
    assert target.read_text() == "no folder"
    target.unlink()
    world.finish(project, step)


def test_scratch_folder_is_read_only(world: World, folder: Path) -> None:
    step = BY_NAME["preprocess-chest"]
    project = world.project(step, folder)
    target = project / ".scratch"
    target.mkdir(mode=0o555)
    process = world.run(project, step, Fault(powerless=True))
    target.chmod(0o755)
    assert_told(process, str(target))
    world.finish(project, step)
