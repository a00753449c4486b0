"""The objectives without text: simclr and moco_v2."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import objective_runs
import pytest
import tiny_models
import torch
from objective_runs import NO_TEXT, Case
from tiny_models import CONFIG
from torch import Tensor, nn
from torch.nn.functional import normalize

from convirt.errors import InputError
from convirt.objectives.base import find
from convirt.objectives.moco_v2 import queue_loss
from convirt.objectives.simclr import nt_xent
from convirt.pair_encoder import ProjectionConfig

pytestmark = pytest.mark.usefixtures("deterministic")


def embeddings(*shape: int, seed: int = 0) -> Tensor:
    """Random unit vectors, float64."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.detach(), b.detach()
    product = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return product / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


# ------------------------------------------------------------------------------ simclr: the loss
def slow_nt_xent(one: Tensor, two: Tensor, tau: float) -> float:
    """Equation 1 and algorithm 1 of the SimCLR paper: views 2k - 1 and 2k are of one film."""
    z = [view for pair in zip(one, two, strict=True) for view in pair]
    total = 0.0
    for i in range(len(z)):
        j = i + 1 if i % 2 == 0 else i - 1
        others = sum(math.exp(cosine(z[i], z[k]) / tau) for k in range(len(z)) if k != i)
        total += -math.log(math.exp(cosine(z[i], z[j]) / tau) / others)
    return total / len(z)


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_nt_xent_is_that_of_the_equation(n: int, dim: int, tau: float) -> None:
    one, two = embeddings(2, n, dim, seed=n)
    found = float(nt_xent(one, two, tau))
    assert found == pytest.approx(slow_nt_xent(one, two, tau), abs=1e-9)
    assert float(nt_xent(two, one, tau)) == pytest.approx(found)


@pytest.mark.parametrize("n", [1, 2, 32])
def test_nt_xent_of_equal_embeddings_is_at_chance(n: int) -> None:
    same = embeddings(1, 4).expand(n, 4)
    assert float(nt_xent(same, same, 0.1)) == pytest.approx(math.log(2 * n - 1))


def test_nt_xent_of_perfect_views() -> None:
    """N orthogonal films whose views agree: 2N - 2 wrong candidates at cosine 0."""
    z = torch.eye(4, dtype=torch.float64)
    tau = 1 / math.log(7)  # exp(1 / tau) = 7
    assert float(nt_xent(z, z, tau)) == pytest.approx(math.log((7 + 6) / 7))


def test_nt_xent_gradient() -> None:
    one, two = embeddings(2, 4, 3)
    one, two = one.clone().requires_grad_(), two.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.1), (one, two))


# ------------------------------------------------------------------------------ moco: the loss
def slow_queue_loss(q: Tensor, k: Tensor, queue: Tensor, filled: int, tau: float) -> float:
    """Equation 1 of the MoCo paper, one query after the other."""
    total = 0.0
    for query, key in zip(q.detach(), k, strict=True):
        own = math.exp(cosine(query, key) / tau)
        others = sum(math.exp(cosine(query, queue[j]) / tau) for j in range(filled))
        total += -math.log(own / (own + others))
    return total / len(q)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("filled", [0, 1, 4, 6])
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_queue_loss_is_that_of_the_equation(n: int, filled: int, tau: float) -> None:
    q, k = embeddings(2, n, 3, seed=n)
    queue = embeddings(6, 3, seed=9)
    found = float(queue_loss(q, k, queue, torch.tensor(filled), tau))
    assert found == pytest.approx(slow_queue_loss(q, k, queue, filled, tau), abs=1e-9)


def test_more_than_a_queue_of_keys_is_a_full_queue() -> None:
    """`filled` counts all keys that ever came."""
    q, k = embeddings(2, 3, 4)
    queue = embeddings(5, 4, seed=1)
    full, more = (float(queue_loss(q, k, queue, torch.tensor(n), 0.1)) for n in (5, 1000))
    assert full == more


def test_queue_loss_of_equal_embeddings_is_at_chance() -> None:
    same = embeddings(1, 4)
    loss = queue_loss(
        same.expand(3, 4), same.expand(3, 4), same.expand(8, 4), torch.tensor(8), 0.07
    )
    assert float(loss) == pytest.approx(math.log(1 + 8))


def test_empty_queue_teaches_nothing() -> None:
    q, k = embeddings(2, 3, 4)
    q = q.clone().requires_grad_()
    loss = queue_loss(q, k, torch.zeros(8, 4, dtype=torch.float64), torch.tensor(0), 0.07)
    loss.backward()
    assert float(loss.detach()) == 0
    assert q.grad is not None
    assert not bool(q.grad.any())


def test_queue_loss_gradient() -> None:
    q, k = embeddings(2, 3, 4)
    queue = embeddings(5, 4, seed=1)
    for filled in (2, 5):
        inputs = (q.clone().requires_grad_(), k.clone().requires_grad_())
        count = torch.tensor(filled)
        assert torch.autograd.gradcheck(
            lambda a, b, c=count: queue_loss(a, b, queue, c, 0.1), inputs
        )


# ------------------------------------------------------------------------------ in the loop
CASES: dict[str, dict[str, Any]] = {
    "simclr": {},
    "moco_v2": {"queue": 8, "momentum": 0.9, "groups": 2},
}


def made(name: str, **changes: Any) -> Case:
    """A case without a text encoder: asking for one is an error."""
    return Case(name, CASES[name] | changes)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return made(request.param)


def test_gradients_reach_what_is_trained(case: Case) -> None:
    silent, moved = objective_runs.silent_parameters(case)
    assert silent == set()
    assert {name.split(".")[0] for name in moved} <= {"key_encoder", "key_head"}
    objective = case.build()
    trained = {name.split(".")[0] for name, p in objective.named_parameters() if p.requires_grad}
    assert trained == {"image_encoder", "head"}


def test_simclr_loss_falls_on_a_fixed_batch() -> None:
    losses = objective_runs.losses_on(made("simclr"), batches=1, steps=40)
    assert sum(losses[-5:]) / 5 < 0.5 * min(losses[0], math.log(7))


def test_moco_loss_falls_on_fixed_batches() -> None:
    """Three batches, so that the queue holds the two that are not the current one.

    In one group: normalising two films at a time would leave only a sign of their colours.
    """
    losses = objective_runs.losses_on(made("moco_v2", groups=1), batches=3, steps=60)
    assert losses[0] == 0
    assert sum(losses[-6:]) / 6 < 0.5 * min(losses[2], math.log(9))


def test_killed_and_resumed(case: Case, tmp_path: Path) -> None:
    objective_runs.assert_killed_is_unbroken(case, tmp_path)


def test_same_seed_same_bytes(case: Case, tmp_path: Path) -> None:
    written = objective_runs.assert_same_bytes(case, tmp_path)
    assert set(written) == {"config.json", "image_encoder.safetensors"}


def test_evaluation_draws_and_changes_nothing(case: Case) -> None:
    objective_runs.assert_evaluation_is_still(case)


def test_loss_is_taken_in_full_precision(case: Case) -> None:
    objective_runs.assert_loss_in_full_precision(case)


@pytest.mark.parametrize(("hidden", "width"), [(0, 8), (5, 5)])
def test_hidden_layer_of_the_head_is_as_wide_as_h_or_as_told(
    case: Case, hidden: int, width: int
) -> None:
    parts = tiny_models.parts(NO_TEXT, tiny_models.corpus(), options=dict(case.options))
    projection = ProjectionConfig(dim=6, hidden=hidden)
    head: Any = find(case.name)(replace(parts, projection=projection)).head
    assert (head.hidden.out_features, head.output.out_features) == (width, 6)


def test_options_are_strict(case: Case) -> None:
    with pytest.raises(InputError, match="unheard"):
        made(case.name, unheard=1).build()
    for name in case.options:
        with pytest.raises(InputError, match=name):
            replace(case, options={**case.options, name: "much"}).build()


def test_simclr_is_the_loss_of_both_views() -> None:
    objective, (inputs,) = made("simclr").inputs(1)
    assert len(inputs.views) == 2
    assert not torch.equal(*inputs.views)
    objective.eval()
    one, two = (normalize(objective.head(objective.image_encoder(x)), dim=-1) for x in inputs.views)
    wanted = slow_nt_xent(one, two, CONFIG.tau)
    assert float(objective(inputs)[0].detach()) == pytest.approx(wanted, abs=1e-5)


def test_simclr_normalises_both_views_together() -> None:
    objective, (inputs,) = made("simclr").inputs(1)
    before = objective.image_encoder.norm.running_mean.clone()
    objective.train()
    objective(inputs)
    norm = objective.image_encoder.norm
    assert int(norm.num_batches_tracked) == 1
    mean = objective.image_encoder.one(torch.cat(inputs.views)).mean(dim=(0, 2, 3))
    assert torch.allclose(norm.running_mean, 0.9 * before + 0.1 * mean, atol=1e-6)


# ------------------------------------------------------------------------------ moco
def test_moco_starts_with_equal_encoders_of_their_own() -> None:
    objective = made("moco_v2").build()
    for name, value in objective.image_encoder.state_dict().items():
        key = objective.key_encoder.state_dict()[name]
        assert torch.equal(key, value)
        assert key.data_ptr() != value.data_ptr()
    assert not bool(objective.queue.any())
    assert int(objective.enqueued) == 0


def test_moco_key_encoder_follows() -> None:
    """Each weight becomes m k + (1 - m) q, q after the optimiser's step; no gradient moves it."""
    objective, batches = made("moco_v2", momentum=0.75).inputs(2)
    objective.train()
    objective(batches[0])
    with torch.no_grad():
        for p in (*objective.image_encoder.parameters(), *objective.head.parameters()):
            p += torch.randn_like(p)
    pairs = [
        (objective.key_encoder, objective.image_encoder),
        (objective.key_head, objective.head),
    ]
    wanted = [
        0.75 * key.detach() + 0.25 * query.detach()
        for keys, queries in pairs
        for key, query in zip(keys.parameters(), queries.parameters(), strict=True)
    ]
    objective(batches[1])[0].backward()
    found = [key for keys, _ in pairs for key in keys.parameters()]
    assert len(found) == 9
    for key, value in zip(found, wanted, strict=True):
        assert torch.allclose(key, value, atol=1e-6)
        assert key.grad is None
        assert not key.requires_grad


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_moco_ends_of_momentum(momentum: float) -> None:
    objective, batches = made("moco_v2", momentum=momentum).inputs(1)
    start = [p.clone() for p in objective.key_encoder.parameters()]
    with torch.no_grad():
        for p in objective.image_encoder.parameters():
            p += 1
    objective.train()
    objective(batches[0])
    wanted = start if momentum == 1 else list(objective.image_encoder.parameters())
    for key, value in zip(objective.key_encoder.parameters(), wanted, strict=True):
        assert torch.allclose(key, value, atol=1e-6)


class Still(nn.Module):
    """An image encoder without BatchNorm: the means of a 2 x 4 grid, over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * nn.functional.adaptive_avg_pool2d(x, (2, 4)).mean(dim=1).flatten(1)


def test_moco_queue_is_a_ring_of_keys() -> None:
    """Twelve keys go into eight places, four per step, each in its own row whatever the order."""
    objective, batches = made("moco_v2").inputs(3)
    objective.image_encoder, objective.key_encoder = Still(), Still()
    objective.key_encoder.requires_grad_(False)
    objective.train()
    keys = []
    for number, inputs in enumerate(batches):
        before = objective.queue.clone()
        torch.manual_seed(number)
        loss, _ = objective(inputs)
        q, k = (
            normalize(head(Still()(view)), dim=-1).detach()
            for head, view in zip((objective.head, objective.key_head), inputs.views, strict=True)
        )
        wanted = slow_queue_loss(q, k, before, min(4 * number, 8), CONFIG.tau)
        assert float(loss.detach()) == pytest.approx(wanted, abs=1e-4)
        keys.append(k)
        assert int(objective.enqueued) == 4 * number + 4
    assert torch.allclose(objective.queue, torch.cat([keys[2], keys[1]]), atol=1e-6)
    loss.backward()  # the queue has been overwritten since; the backward pass has a copy


def test_moco_keys_are_those_of_the_encoder_that_has_followed() -> None:
    objective, (inputs,) = made("moco_v2", momentum=0.0).inputs(1)
    objective.image_encoder, objective.key_encoder = Still(), Still()
    with torch.no_grad():
        objective.image_encoder.weight.fill_(3.0)
    objective.train()
    objective(inputs)
    k = normalize(objective.head(objective.image_encoder(inputs.views[1])), dim=-1)
    assert torch.allclose(objective.queue[:4], k, atol=1e-6)


def test_moco_queue_that_the_batch_does_not_divide() -> None:
    objective, batches = made("moco_v2", queue=6).inputs(2)
    objective.train()
    objective(batches[0])
    first = objective.queue.clone()
    objective(batches[1])
    assert bool((first[4:] == 0).all())
    norms = objective.queue.norm(dim=1)
    assert torch.allclose(norms, torch.ones(6), atol=1e-5)
    kept = [torch.equal(objective.queue[i], first[i]) for i in range(4)]
    assert kept == [False, False, True, True]


@pytest.mark.parametrize("groups", [1, 2])
def test_moco_normalises_in_groups(groups: int) -> None:
    """Queries in their order, keys in a random one; each group has its own mean and deviation."""
    objective, (inputs,) = made("moco_v2", groups=groups).inputs(1)
    reference = copy.deepcopy(objective).train()
    objective.train()
    objective(inputs)
    assert int(objective.image_encoder.norm.num_batches_tracked) == groups
    assert int(objective.key_encoder.norm.num_batches_tracked) == groups

    def keys(order: list[int]) -> Tensor:
        size, rows = 4 // groups, torch.empty(4, 6)
        for i in range(groups):
            part = order[i * size : (i + 1) * size]
            rows[part] = reference.key_head(reference.key_encoder(inputs.views[1][part])).detach()
        return normalize(rows, dim=-1)

    found = objective.queue[:4]
    fits = {
        tuple(order)
        for order in itertools.permutations(range(4))
        if torch.allclose(keys(list(order)), found, atol=1e-4)
    }
    # the order within a group and that of the groups do not matter
    assert len(fits) == {1: 24, 2: 8}[groups]


def test_moco_shuffles_anew_at_each_step() -> None:
    objective, (inputs,) = made("moco_v2", queue=16).inputs(1)
    found = set()
    for seed in range(12):
        one = copy.deepcopy(objective).train()
        torch.manual_seed(seed)
        one(inputs)
        found.add(tuple(round(float(x), 4) for x in one.queue[:4, 0]))
    assert len(found) == 3  # ways to halve four


@torch.no_grad()
def test_moco_validation_before_the_queue_is_full_counts_as_chance() -> None:
    objective, batches = made("moco_v2").inputs(2)
    objective.eval()
    assert objective.validate(iter(batches))["val_loss"] == math.log(9)
    objective.train()
    objective(batches[0])
    assert objective.eval().validate(iter(batches))["val_loss"] == math.log(9)
    objective.train()
    objective(batches[1])
    objective.eval()
    losses = [float(objective(inputs)[0].detach()) for inputs in batches]
    assert objective.validate(iter(batches))["val_loss"] == pytest.approx(sum(losses) / 2)
    assert sum(losses) / 2 != pytest.approx(math.log(9))


@torch.no_grad()
def test_moco_is_chosen_by_keys_of_one_encoder() -> None:
    """The criterion is each query's loss among the keys of all films, whatever the queue holds."""
    objective, batches = made("moco_v2").inputs(2)
    objective.eval()
    assert objective.criterion == "val_keys"
    found = objective.validate(iter(batches))["val_keys"]
    q, k = (
        torch.cat([normalize(head(encoder(b.views[i])), dim=-1) for b in batches])
        for i, (head, encoder) in enumerate(
            [(objective.head, objective.image_encoder), (objective.key_head, objective.key_encoder)]
        )
    )
    others = [torch.cat([k[:i], k[i + 1 :]]) for i in range(8)]
    wanted = [
        slow_queue_loss(q[i : i + 1], k[i : i + 1], others[i].detach(), 7, CONFIG.tau)
        for i in range(8)
    ]
    assert found == pytest.approx(sum(wanted) / 8, abs=1e-4)
    objective.queue.normal_()
    objective.enqueued.fill_(100)
    assert objective.validate(iter(batches))["val_keys"] == found


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"queue": 3}, "options.queue"),  # less than a batch
        ({"queue": 17}, "options.queue"),  # not full after 4 steps of 4
        ({"momentum": 1.5}, "momentum has to be between 0 and 1"),
        ({"momentum": -0.1}, "momentum has to be between 0 and 1"),
        ({"groups": 3}, "options.groups"),
        ({"groups": 0}, "groups has to be at least 1"),
    ],
)
def test_moco_settings_that_do_not_go_together(changes: dict[str, Any], where: str) -> None:
    with pytest.raises(InputError) as caught:
        made("moco_v2", **changes).build()
    assert where in str(caught.value)


@pytest.mark.parametrize(("name", "chance"), [("simclr", math.log(7)), ("moco_v2", math.log(9))])
def test_chance(name: str, chance: float) -> None:
    assert made(name).build().chance() == chance
