"""Several processes on parts of each batch: the same losses and weights as one alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import process_runs
import pytest
import tiny_models
import torch
import torch.multiprocessing
from conftest import ROOT
from test_pretrain_kill import outputs, started, template, write_params  # noqa: F401

from convirt import checkpoint, processes
from convirt.errors import InputError
from convirt.training import resumed_step

COUNTS = (2, 4)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write_bert(tmp_path_factory.mktemp("bert") / "bert", dropout=0.0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> Iterator[None]:
    """Processes are forks of one that has imported torch and nothing else has happened in."""
    torch.multiprocessing.set_forkserver_preload([process_runs.__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT / "tests"), str(ROOT))))
        yield


@pytest.fixture(scope="module", params=COUNTS)
def folder(request: pytest.FixtureRequest, bert: Path, tmp_path_factory: Any) -> Path:
    """The folder with what several processes ended with."""
    out: Path = tmp_path_factory.mktemp(f"of-{request.param}")
    arguments = (request.param, free_port(), bert, out)
    torch.multiprocessing.start_processes(  # type: ignore[attr-defined]
        process_runs.work, arguments, nprocs=request.param, start_method="forkserver"
    )
    return out


@pytest.mark.parametrize(
    ("name", "chunk"), [*((name, 0) for name in sorted(process_runs.OPTIONS)), ("convirt", 1)]
)
def test_ends_as_one_alone(name: str, chunk: int, folder: Path, bert: Path) -> None:
    """Also if each process encodes its part pair by pair."""
    alone, told = process_runs.run(name, bert)
    found = json.loads((folder / f"{name}-{chunk}.json").read_text())
    assert found["best_step"] == told["best_step"]
    for theirs, ours in zip(found["history"], told["history"], strict=True):
        assert theirs.keys() == ours.keys()
        for key, value in ours.items():
            assert theirs[key] == (value if value is None else pytest.approx(value, rel=2e-4)), key
    initial = process_runs.fresh(name, bert).state_dict()
    weights = checkpoint.load_safetensors(folder / f"{name}-{chunk}.safetensors")
    assert weights.keys() == alone.keys() == initial.keys()
    for key, value in alone.items():
        torch.testing.assert_close(weights[key], value, rtol=1e-3, atol=2e-5, msg=key)
    # otherwise nothing was compared
    assert max(float((alone[key] - initial[key]).abs().max()) for key in alone) > 1e-3


def test_killed_and_resumed_ends_with_the_same_bits(folder: Path) -> None:
    """Of two numbers the sum is the same in any order; of four it is not."""
    whole, again = (
        (checkpoint.load_safetensors(folder / f"{name}.safetensors"), folder / f"{name}.json")
        for name in ("convirt-0", "resumed")
    )
    for key, value in whole[0].items():
        assert torch.equal(again[0][key], value), key
    assert json.loads(whole[1].read_text()) == json.loads(again[1].read_text())


def test_each_process_draws_its_own_dropout(folder: Path) -> None:
    drawn = [set(json.loads(path.read_text())) for path in sorted(folder.glob("seeds-*.json"))]
    assert len(drawn) in COUNTS and all(drawn)
    assert len(set().union(*drawn)) == sum(map(len, drawn))


def test_every_objective_is_tried() -> None:
    from convirt import objectives

    assert set(process_runs.OPTIONS) == set(objectives.available())


def test_alone_nothing_happens() -> None:
    x = torch.arange(6.0).view(3, 2)
    assert processes.count() == 1
    assert processes.rank() == 0
    assert processes.gather(x) is x
    assert processes.broadcast(x) is x
    assert processes.broadcast_object("a") == "a"
    assert processes.mean({"loss": x[0, 0]}) == {"loss": x[0, 0]}
    assert processes.any_of(True) and not processes.any_of(False)
    assert processes.minimum(7) == 7
    assert processes.part(8) == slice(0, 8)
    module = torch.nn.Linear(2, 2)
    assert processes.data_parallel(module, torch.device("cpu")) is module


def test_batch_that_cannot_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(InputError, match="batch_size") as caught:
        processes.part(32)
    assert "try 30" in str(caught.value)


def test_state_of_another_number_of_processes(bert: Path, tmp_path: Path) -> None:
    process_runs.run("convirt", bert, tmp_path)
    found = checkpoint.load_state(tmp_path)
    assert found is not None
    tensors, state = found
    checkpoint.save_state(tmp_path, tensors, state | {"processes": 2})
    with pytest.raises(InputError, match="2 processes, as before") as caught:
        process_runs.run("convirt", bert, tmp_path)
    assert "rm -r" in str(caught.value)


def torchrun(count: int) -> tuple[str, ...]:
    """The part of the command before the stage, as the documents start it."""
    return ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count))


@pytest.fixture(scope="module")
def shared(
    template: Path,  # noqa: F811
    committed_params: dict[str, Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A project to run by two processes, for longer than it takes to send a signal."""
    project: Path = tmp_path_factory.mktemp("torchrun") / "project"
    shutil.copytree(template, project)
    write_params(project, committed_params, **{"train.evaluations": 20})
    return project


@pytest.fixture(scope="module")
def undisturbed(shared: Path) -> Path:
    """The project after a run by two processes."""
    project = shared.with_name("undisturbed")
    shutil.copytree(shared, project)
    with started(project, torchrun(2)) as process:
        assert process.end() == 0, process.said
        assert process.said.count("waiting for data") == 1  # only the first process prints
    return project


def test_stage_under_torchrun(undisturbed: Path) -> None:
    written = outputs(undisturbed)
    assert {"models/encoders/convirt/chest/image_encoder.safetensors"} <= written.keys()
    metrics = json.loads((undisturbed / "metrics/pretrain/convirt-chest.json").read_text())
    assert metrics["processes"] == 2
    assert list((undisturbed / ".scratch").glob("pretrain-*")) == []


def test_sigterm_under_torchrun(shared: Path, undisturbed: Path, tmp_path: Path) -> None:
    """All stop at the same step, which the first saves; as many processes resume there, and end
    with the bytes of those that nothing disturbed.
    """
    project = tmp_path / "stopped"
    shutil.copytree(shared, project)
    with started(project, torchrun(2)) as process:
        process.wait_for_checkpoints()
        (scratch,) = project.glob(".scratch/pretrain-*")
        due = resumed_step(scratch)
        process.popen.terminate()
        process.end()
        assert "all steps are saved" in process.said
    saved = resumed_step(scratch)
    assert saved > due  # wherever they asked each other, which depends on their speed
    assert not (project / "models").exists()
    with started(project, torchrun(2)) as process:
        process.wait_for_checkpoints(2)  # the state that is there, and a new one
        assert resumed_step(scratch) > saved
        assert process.end() == 0, process.said
    assert outputs(project) == outputs(undisturbed)


def test_refusal_under_torchrun(
    template: Path,  # noqa: F811
    committed_params: dict[str, Any],
    tmp_path: Path,
) -> None:
    project = tmp_path / "odd"
    shutil.copytree(template, project)
    write_params(project, committed_params, **{"train.batch_size": 5})
    with started(project, torchrun(2)) as process:
        assert process.end() != 0
        assert "a multiple of 2, the number of processes" in process.said
    assert not (project / "models").exists()
