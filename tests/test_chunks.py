"""Batches encoded in chunks: the same gradient as when all is held in memory at once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import process_runs
import pytest
import tiny_models
import torch
from process_runs import with_batches
from tiny_models import CONFIG, assert_same_run, gradients

from convirt import chunks
from convirt.errors import InputError

DIVISIBLE = ("convirt", "convirt_soft", "siglip", "binary", "simclr")
WHOLE = sorted(process_runs.OPTIONS.keys() - set(DIVISIBLE))


def seed(number: int) -> None:
    torch.manual_seed(100 + number)


@pytest.mark.parametrize("name", DIVISIBLE)
@pytest.mark.parametrize("size", [1, 3, 4, 8, 20])
def test_gradient_is_that_of_one_graph(name: str, size: int, bert: Path) -> None:
    """The reference holds one graph of all chunks, with BatchNorm and dropout per chunk."""
    objective, (inputs,) = with_batches(name, bert)
    pieces = []
    for number, first in enumerate(range(0, 8, size)):
        seed(number)
        pieces.append(objective.embed(inputs.part(slice(first, first + size))))
    seed(len(pieces))
    whole = tuple(torch.cat(parts) for parts in zip(*pieces, strict=True))
    expected, expected_logs = objective.compare(whole, inputs)
    expected.backward()
    wanted, buffers = gradients(objective), [b.clone() for b in objective.buffers()]

    other, (inputs,) = with_batches(name, bert)
    loss, logs = chunks.backward(other, inputs, size, seed, nullcontext)
    assert loss.item() == expected.item()
    assert not loss.requires_grad
    assert logs.keys() == expected_logs.keys()
    found = gradients(other)
    assert found.keys() == wanted.keys()
    assert len(found) > 4
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=key)
    for mine, theirs in zip(other.buffers(), buffers, strict=True):
        assert torch.equal(mine, theirs)  # running statistics are not updated twice


@pytest.mark.parametrize("name", DIVISIBLE)
def test_gradient_is_that_of_the_batch(name: str, bert: Path) -> None:
    """Without BatchNorm's statistics and dropout it does not matter how a batch is cut."""
    objective, (inputs,) = with_batches(name, bert)
    objective.eval()
    seed(0)
    expected, _ = objective(inputs)
    expected.backward()
    wanted = gradients(objective)
    objective.zero_grad()
    loss, _ = chunks.backward(objective, inputs, 3, lambda _: seed(0), nullcontext)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for key, value in gradients(objective).items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-4, atol=1e-6, msg=key)


def test_gradient_under_autocast(bert: Path) -> None:
    """Weights that autocast cast (and cached) without gradients must not be reused with them."""
    objective, (inputs,) = with_batches("convirt", bert)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    chunks.backward(objective, inputs, 4, seed, autocast)
    trained = {n for n, p in objective.named_parameters() if p.requires_grad}
    found = gradients(objective)
    assert found.keys() == trained
    assert all(float(g.abs().max()) > 0 for n, g in found.items() if n.endswith("weight"))


def test_training_in_chunks(bert: Path, tmp_path: Path) -> None:
    """It learns, and a run that is killed and resumed ends with the same bits."""
    config = replace(CONFIG, chunk=2)
    whole = tiny_models.train("convirt", bert, config)
    again = tiny_models.killed_and_resumed("convirt", bert, config, tmp_path, [3, 10])
    assert_same_run(whole, again[:2])
    losses = [float(row["val_loss"] or 0) for row in whole[1].history]
    assert losses[-1] < losses[0]
    other = tiny_models.train("convirt", bert, CONFIG)[1]
    assert losses[0] == pytest.approx(other.history[0]["val_loss"], rel=1e-6)
    assert losses[-1] != other.history[-1]["val_loss"]


@pytest.mark.parametrize("name", DIVISIBLE)
def test_validation_takes_no_more_at_a_time(name: str, bert: Path) -> None:
    """Validation comes first, so a batch that does not fit would end the run there."""
    objective, batches = with_batches(name, bert, 2)
    sizes: list[int] = []
    objective.image_encoder.register_forward_hook(lambda _, x, y: sizes.append(len(y)))
    objective.eval()
    with torch.no_grad():
        whole = objective.validate(batches)
        (all_at_once,) = set(sizes)
        objective.chunk = 3
        sizes.clear()
        cut = objective.validate(batches)
    assert {size * 8 // all_at_once for size in sizes} == {2, 3}
    assert cut == {key: pytest.approx(value, rel=1e-5) for key, value in whole.items()}


@pytest.mark.parametrize("name", WHOLE)
def test_objective_that_cannot_be_cut(name: str, bert: Path) -> None:
    with pytest.raises(InputError, match=name) as caught:
        tiny_models.train(name, bert, replace(CONFIG, chunk=2), options=process_runs.OPTIONS[name])
    assert "train.chunk" in str(caught.value)
