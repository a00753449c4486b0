"""Weight gradients deferred to other threads: the same bits as without deferring."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import Tensor

from convirt import image_encoder
from convirt.deferred import Deferred, of_weight


def shared(work: Callable[[], None], helpers: int = 1) -> None:
    """Run `work`; its thread and `helpers` others compute the gradients that it defers."""
    deferred = Deferred()

    def leave() -> None:
        with deferred.leaving():
            work()
        deferred.help()

    with ThreadPoolExecutor(1 + helpers) as pool:
        for future in [pool.submit(leave), *(pool.submit(deferred.help) for _ in range(helpers))]:
            future.result(timeout=60)
    deferred.add()


def left(jobs: Sequence[tuple[Tensor, Callable[[], Tensor]]], helpers: int = 1) -> None:
    """Let one thread defer the jobs; it and `helpers` others do them."""

    def work() -> None:
        for weight, job in jobs:
            assert of_weight(weight, job) is None

    shared(work, helpers)


def test_nobody_leaves_any() -> None:
    weight = torch.ones(2, requires_grad=True)
    found = of_weight(weight, lambda: torch.tensor([3.0, 4.0]))
    assert found is not None and found.tolist() == [3, 4] and weight.grad is None


@pytest.mark.parametrize("helpers", [0, 1, 5])
def test_gradients_are_added_in_order(helpers: int) -> None:
    one, two = (torch.zeros(1, requires_grad=True) for _ in range(2))
    two.grad = torch.tensor([1e8])
    values = [1.0, 1e8, -1e8, 0.5]  # in single precision their sum depends on the order
    jobs = [(w, partial(torch.tensor, [x])) for x in values for w in (one, two)]
    left(jobs, helpers)
    wanted = torch.tensor([0.0]), torch.tensor([1e8])
    for total in wanted:
        for x in values:
            total += x
    assert one.grad is not None and one.grad.item() == wanted[0].item() == 0.5
    assert two.grad.item() == wanted[1].item()


def test_a_gradient_lies_in_memory_as_its_weight() -> None:
    weight = torch.zeros(4, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    gradient = torch.arange(48.0).view(4, 3, 2, 2)
    assert gradient.stride() != weight.stride()
    left([(weight, lambda: gradient)])
    assert weight.grad is not None and weight.grad.stride() == weight.stride()
    assert torch.equal(weight.grad, gradient)


def test_one_of_an_axis_may_have_any_stride() -> None:
    weight = torch.zeros(4, 3, 1, 1).contiguous(memory_format=torch.channels_last)
    gradient = torch.arange(12.0).view(4, 3, 1, 1)
    left([(weight, lambda: gradient)])
    assert weight.grad is not None and weight.grad.data_ptr() == gradient.data_ptr()


def test_helpers_wait_for_one_who_still_leaves() -> None:
    deferred, weight, go = Deferred(), torch.zeros(1), threading.Event()
    doers = []

    def job() -> Tensor:
        doers.append(threading.current_thread().name)
        return torch.ones(1)

    def leave() -> None:
        with deferred.leaving():
            go.wait(30)
            of_weight(weight, job)

    with ThreadPoolExecutor(1, "helper") as helper, ThreadPoolExecutor(1, "leaver") as leaver:
        helping, leaving = helper.submit(deferred.help), leaver.submit(leave)
        assert not helping.done()
        go.set()
        leaving.result(timeout=30)
        helping.result(timeout=30)
    deferred.add()
    assert weight.grad is not None and weight.grad.item() == 1
    assert doers == ["helper_0"]


@pytest.mark.parametrize("where", ["leaving", "job"])
def test_an_error_keeps_nobody_waiting(where: str) -> None:
    deferred = Deferred()

    def fail() -> Tensor:
        raise RuntimeError("no gradient")

    def leave() -> None:
        with deferred.leaving():
            of_weight(torch.zeros(1), fail if where == "job" else lambda: torch.ones(1))
            if where == "leaving":
                fail()

    with ThreadPoolExecutor(2) as pool:
        leaving, helping = pool.submit(leave), pool.submit(deferred.help)
        failed = leaving if where == "leaving" else helping
        with pytest.raises(RuntimeError, match="no gradient"):
            failed.result(timeout=30)
        (helping if where == "leaving" else leaving).result(timeout=30)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_resnet"])
def test_a_whole_encoder(name: str) -> None:
    encoder, _ = image_encoder.create_image_encoder(name, "random", 64, seed=1)
    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)

    def gradients(back: Callable[[Tensor], None]) -> dict[str, Tensor]:
        encoder.zero_grad()
        h = encoder.train()(x)
        back((h * torch.arange(h.numel()).view_as(h).cos()).sum())
        return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.grad is not None}

    alone, together = gradients(Tensor.backward), gradients(lambda loss: shared(loss.backward))
    assert alone.keys() == together.keys() == dict(encoder.named_parameters()).keys()
    for key, value in alone.items():
        assert torch.equal(value, together[key]), key
