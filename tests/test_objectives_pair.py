"""The objectives that compare images with sentences beside ConVIRT."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import objective_runs
import pytest
import tiny_models
import torch
from objective_runs import Case, embeddings
from tiny_models import CONFIG
from torch import Tensor
from torch.nn.functional import normalize

from convirt.errors import InputError
from convirt.objectives.base import Inputs
from convirt.objectives.binary import binary_loss, partners
from convirt.objectives.convirt import convirt_loss
from convirt.objectives.convirt_soft import convirt_soft_loss
from convirt.objectives.siglip import sigmoid_chance, sigmoid_loss

pytestmark = pytest.mark.usefixtures("deterministic")


def dot(a: Tensor, b: Tensor) -> float:
    return sum(float(x) * float(y) for x, y in zip(a.detach(), b.detach(), strict=True))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ------------------------------------------------------------------------------ binary: the loss
def slow_binary(true: Tensor, fake: Tensor, is_fake: list[bool]) -> float:
    """Minus the logarithm of the probability of the right answer, one pair after the other."""
    of_true = [-math.log(sigmoid(float(x))) for x in true.detach()]
    of_fake = [
        -math.log(1 - sigmoid(float(x))) for x, f in zip(fake.detach(), is_fake, strict=True) if f
    ]
    if not of_fake:
        return sum(of_true) / len(of_true)
    return 0.5 * sum(of_true) / len(of_true) + 0.5 * sum(of_fake) / len(of_fake)


@pytest.mark.parametrize(
    "is_fake", [[True] * 4, [True, False, True, True], [False, False, True, False], [False] * 4]
)
@pytest.mark.parametrize("size", [0.1, 1.0, 10.0])
def test_binary_loss_is_the_mean_over_pairs(is_fake: list[bool], size: float) -> None:
    true, fake = (size * x[:, 0] for x in embeddings(4, 2))
    found = float(binary_loss(true, fake, torch.tensor(is_fake)))
    assert found == pytest.approx(slow_binary(true, fake, is_fake), abs=1e-9)


def test_binary_loss_is_the_usual_one_when_all_fakes_are_fake() -> None:
    true, fake = (5 * x[:, 0] for x in embeddings(6, 2))
    usual = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.cat([true, fake]), torch.tensor([1.0] * 6 + [0.0] * 6, dtype=torch.float64)
    )
    found = binary_loss(true, fake, torch.ones(6, dtype=torch.bool))
    assert float(found) == pytest.approx(float(usual))


@pytest.mark.parametrize("fakes", [0, 1, 5])
def test_binary_loss_without_an_opinion_is_at_chance(fakes: int) -> None:
    zero = torch.zeros(5)
    assert float(binary_loss(zero, zero, torch.arange(5) < fakes)) == pytest.approx(math.log(2))


def test_what_is_no_fake_has_no_say() -> None:
    true, fake = torch.ones(3).requires_grad_(), torch.zeros(3).requires_grad_()
    binary_loss(true, fake, torch.tensor([True, False, True])).backward()
    assert true.grad is not None and fake.grad is not None
    assert bool((true.grad < 0).all())
    assert fake.grad.tolist() == pytest.approx([0.125, 0.0, 0.125])


def test_binary_loss_is_finite_for_the_surest_mistake() -> None:
    wrong = torch.tensor([-1e4]).requires_grad_()
    loss = binary_loss(wrong, -wrong, torch.tensor([True]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1e4)
    assert wrong.grad is not None
    assert wrong.grad.isfinite().all()


# ------------------------------------------------------------------------------ binary: the fakes
@pytest.mark.parametrize("count", [2, 3, 8])
def test_partners_are_a_derangement(count: int) -> None:
    drawn = set()
    for seed in range(100):
        torch.manual_seed(seed)
        other = partners(count, draw=True)
        assert sorted(other.tolist()) == list(range(count))
        assert not bool((other == torch.arange(count)).any())
        drawn.add(tuple(other.tolist()))
    assert len(drawn) == {2: 1, 3: 2}.get(count, 100)  # of 1, 2 and 5040 cycles


def test_each_other_text_is_as_likely() -> None:
    counts = torch.zeros(5, 5)
    torch.manual_seed(0)
    for _ in range(2000):
        counts[torch.arange(5), partners(5, draw=True)] += 1
    assert counts.diagonal().sum() == 0
    off = counts[~torch.eye(5, dtype=torch.bool)]
    assert 400 < float(off.min()) <= float(off.max()) < 600  # 500 expected; 5 sigma are 97


def test_partners_without_a_draw() -> None:
    before = torch.get_rng_state()
    assert partners(4, draw=False).tolist() == [1, 2, 3, 0]
    assert torch.equal(torch.get_rng_state(), before)
    assert partners(1, draw=False).tolist() == [0]
    assert partners(1, draw=True).tolist() == [0]


# ------------------------------------------------------------------------------ siglip: the loss
def slow_sigmoid(v: Tensor, u: Tensor, scale: float, bias: float) -> float:
    """Equation 1 of the SigLIP paper, one pairing after the other."""
    n, total = len(v), 0.0
    for i in range(n):
        for j in range(n):
            z = 1 if i == j else -1
            total += math.log(1 / (1 + math.exp(z * (-scale * dot(v[i], u[j]) - bias))))
    return -total / n


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (1.0, 0.0), (3.0, 2.0)])
def test_sigmoid_loss_is_that_of_the_equation(n: int, scale: float, bias: float) -> None:
    v, u = embeddings(n, 3, seed=n)
    found = float(sigmoid_loss(v, u, scale, bias))
    assert found == pytest.approx(slow_sigmoid(v, u, scale, bias), abs=1e-9)


@pytest.mark.parametrize("n", [2, 32])
def test_sigmoid_loss_of_equal_embeddings(n: int) -> None:
    """All logits are scale + bias: n^2 answers of which n are yes."""
    one = normalize(torch.ones(1, 4, dtype=torch.float64), dim=-1).expand(n, 4)
    yes, no = math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(2.0))
    assert float(sigmoid_loss(one, one, 3.0, -1.0)) == pytest.approx(yes + (n - 1) * no)


@pytest.mark.parametrize("n", [1, 2, 32])
def test_sigmoid_chance_is_the_best_that_a_bias_can_do(n: int) -> None:
    v, u = embeddings(n, 3)
    losses = [float(sigmoid_loss(v, u, 0.0, bias / 100)) for bias in range(-2000, 2001)]
    assert min(losses) == pytest.approx(sigmoid_chance(n), abs=1e-4)
    if n > 1:  # at odds of 1 to n - 1
        at = float(sigmoid_loss(v, u, 0.0, -math.log(n - 1)))
        assert at == pytest.approx(sigmoid_chance(n), abs=1e-12)


def test_sigmoid_loss_knows_no_sides() -> None:
    v, u = embeddings(6, 4)
    assert float(sigmoid_loss(v, u, 5.0, -2.0)) == pytest.approx(
        float(sigmoid_loss(u, v, 5.0, -2.0))
    )


def test_sigmoid_gradient_is_that_of_the_definition() -> None:
    v, u = (x.requires_grad_() for x in embeddings(4, 3))
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (2.0, -1.0))
    assert torch.autograd.gradcheck(sigmoid_loss, (v, u, scale, bias))


# ------------------------------------------------------------------------------ soft: the loss
def slow_soft(v: Tensor, u: Tensor, rows: list[int], tau: float, lam: float) -> float:
    """The mean over all right answers of minus the logarithm of their probability."""
    n, total = len(v), 0.0
    for i in range(n):
        right = [j for j in range(n) if rows[j] == rows[i]]
        over_texts = sum(math.exp(dot(v[i], u[k]) / tau) for k in range(n))
        over_images = sum(math.exp(dot(u[i], v[k]) / tau) for k in range(n))
        for j in right:
            image_to_text = -math.log(math.exp(dot(v[i], u[j]) / tau) / over_texts)
            text_to_image = -math.log(math.exp(dot(u[i], v[j]) / tau) / over_images)
            total += (lam * image_to_text + (1 - lam) * text_to_image) / len(right)
    return total / n


@pytest.mark.parametrize("rows", [[0], [0, 0], [3, 1, 3], [0, 1, 2, 3, 4], [7, 7, 2, 7, 2]])
@pytest.mark.parametrize("tau", [0.1, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.75, 1.0])
def test_soft_loss_is_that_of_the_definition(rows: list[int], tau: float, lam: float) -> None:
    v, u = embeddings(len(rows), 3, seed=len(rows))
    found = float(convirt_soft_loss(v, u, torch.tensor(rows), tau, lam))
    assert found == pytest.approx(slow_soft(v, u, rows, tau, lam), abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 32])
@pytest.mark.parametrize("lam", [0.3, 0.75])
def test_soft_loss_is_convirts_where_all_sentences_differ(n: int, lam: float) -> None:
    """So are their gradients."""
    gradients, losses = [], []
    rows = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:n]
    for soft in (False, True):
        v, u = (x.requires_grad_() for x in embeddings(n, 8))
        loss = convirt_soft_loss(v, u, rows, 0.1, lam) if soft else convirt_loss(v, u, 0.1, lam)
        gradients.append(torch.cat(torch.autograd.grad(loss, (v, u))))
        losses.append(loss.detach())
    assert float(losses[0]) == pytest.approx(float(losses[1]), abs=1e-14)
    assert torch.allclose(gradients[0], gradients[1], rtol=0, atol=1e-14)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 0, 1, 1], [5, 5, 5, 5]])
def test_soft_loss_of_equal_embeddings_is_at_chance(rows: list[int]) -> None:
    one = normalize(torch.ones(1, 4, dtype=torch.float64), dim=-1).expand(4, 4)
    found = convirt_soft_loss(one, one, torch.tensor(rows), 0.1, 0.75)
    assert float(found) == pytest.approx(math.log(4))


def test_soft_loss_cannot_fall_below_what_is_shared() -> None:
    """Perfect embeddings, one axis a sentence: a pair keeps ln m if m pairs share its sentence."""
    rows = torch.tensor([0, 0, 1, 1, 1, 2])
    v = torch.eye(3, dtype=torch.float64)[rows]
    found = float(convirt_soft_loss(v, v, rows, 0.01, 0.75))
    assert found == pytest.approx((2 * math.log(2) + 3 * math.log(3)) / 6)
    assert float(convirt_loss(v, v, 0.01, 0.75)) == pytest.approx(found)  # the paper's as well


def test_the_same_sentence_is_not_pushed_away() -> None:
    """Equal cosines with two equal sentences have no gradient here, unlike in the paper's loss."""
    v = torch.eye(2, dtype=torch.float64)
    u = normalize(torch.ones(2, 2, dtype=torch.float64), dim=-1).requires_grad_()
    (rest,) = torch.autograd.grad(convirt_soft_loss(v, u, torch.tensor([4, 4]), 0.1, 0.75), u)
    (push,) = torch.autograd.grad(convirt_loss(v, u, 0.1, 0.75), u)
    assert float(rest.abs().max()) == pytest.approx(0, abs=1e-12)
    assert float(push.abs().max()) > 1


# ------------------------------------------------------------------------------ in the loop
CASES: dict[str, tuple[dict[str, Any], int]] = {  # options, layers of the projections
    "binary": ({"hidden": 0}, 1),
    "siglip": ({"scale": 10.0, "bias": -10.0}, 2),
    "convirt_soft": ({}, 2),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, bert: Path) -> Case:
    return made(request.param, bert)


def made(name: str, bert: Path, **changes: Any) -> Case:
    options, layers = CASES[name]
    return Case(name, options | changes, bert, layers)


def test_gradients_reach_what_is_trained(case: Case) -> None:
    silent, moved = objective_runs.silent_parameters(case)
    # a shift of all keys leaves attention as it is
    assert {name for name in silent if not name.endswith(".key.bias")} == set()
    assert moved == set()
    objective = case.build()
    frozen = {name for name, p in objective.named_parameters() if not p.requires_grad}
    assert {name.split(".")[1] for name in frozen} == {"text_encoder"}
    assert len(frozen) == 5 + 16


@pytest.mark.parametrize("name", CASES)
def test_loss_falls_on_a_fixed_batch(name: str, bert: Path) -> None:
    losses = objective_runs.losses_on(made(name, bert), batches=1, steps=80)
    chance = made(name, bert).build().chance()
    assert sum(losses[-5:]) / 5 < 0.75 * min(chance, losses[0])


def test_killed_and_resumed(case: Case, tmp_path: Path) -> None:
    objective_runs.assert_killed_is_unbroken(case, tmp_path)


def test_same_seed_same_bytes(case: Case, tmp_path: Path) -> None:
    written = objective_runs.assert_same_bytes(case, tmp_path)
    wanted = {"config.json", "image_encoder.safetensors", "projections.safetensors"}
    wanted |= {"classifier.safetensors"} if case.name == "binary" else set()
    assert {name for name in written if not name.startswith("text_encoder/")} == wanted


def test_evaluation_draws_and_changes_nothing(case: Case) -> None:
    objective_runs.assert_evaluation_is_still(case)


def test_loss_is_taken_in_full_precision(case: Case) -> None:
    objective_runs.assert_loss_in_full_precision(case)


def test_the_loss_of_convirt_is_taken_in_full_precision(bert: Path) -> None:
    objective_runs.assert_loss_in_full_precision(Case("convirt", {}, bert))


def test_options_are_strict(case: Case) -> None:
    with pytest.raises(InputError, match="unheard"):
        Case(case.name, {**case.options, "unheard": 1}, case.bert).build()
    for name in case.options:
        with pytest.raises(InputError, match=name):
            replace(case, options={**case.options, name: "much"}).build()


def test_loss_is_that_of_the_embeddings(case: Case) -> None:
    """The objective against its parts put together by hand, in evaluation mode."""
    objective, (inputs,) = case.inputs(1)
    objective.eval()
    model, rows = objective.model, inputs.batch.sentences
    h_v, h_u = (
        model.image_encoder(inputs.views[0]),
        model.text_encoder(*model.tokenizer([objective_texts(case)[row] for row in rows])),
    )
    v, u = model.project_image(h_v), model.project_text(h_u)
    if case.name == "binary":
        a, b = h_v @ weight(model.image_projection), h_u @ weight(model.text_projection)
        a, b = a + model.image_projection.output.bias, b + model.text_projection.output.bias
        assert torch.allclose(normalize(a, dim=-1), v, atol=1e-5)  # what retrieval uses
        true = objective.classifier(torch.cat([a, b], dim=1))[:, 0]
        fake = objective.classifier(torch.cat([a, b.roll(-1, dims=0)], dim=1))[:, 0]
        wanted = slow_binary(true, fake, [rows[i] != rows[(i + 1) % 4] for i in range(4)])
    elif case.name == "siglip":
        wanted = slow_sigmoid(v, u, 10.0, -10.0)
    else:
        wanted = slow_soft(v, u, rows.tolist(), CONFIG.tau, CONFIG.lam)
    assert float(objective(inputs)[0].detach()) == pytest.approx(wanted, abs=1e-4)


def objective_texts(case: Case) -> Sequence[str]:
    return tiny_models.corpus().texts


def weight(projection: Any) -> Tensor:
    """The weight of a linear projection, as a right factor."""
    assert projection.hidden is None
    found: Tensor = projection.output.weight.T
    return found


def test_binary_leaves_out_what_is_no_fake(bert: Path) -> None:
    """All sentences the same: only the true pairs are left, and the partner does not matter."""
    objective, (inputs,) = made("binary", bert).inputs(1)
    rows = np.full(4, 2)
    alike = Inputs(inputs.views, replace(inputs.batch, sentences=rows))
    objective.eval()
    loss, logs = objective(alike)
    v = objective.model.image_projection(objective.h_v(alike))
    u = objective.model.text_projection(objective.h_u(alike))
    true = objective.judge(v, u)
    assert float(loss.detach()) == pytest.approx(slow_binary(true, true, [False] * 4), abs=1e-5)
    assert float(logs["accuracy"]) == float((true > 0).float().mean())


@pytest.mark.parametrize(
    ("rows", "accuracy"), [([2, 2, 2, 2], 0.0), ([2, 2, 2, 1], 2 / 6), ([0, 1, 2, 3], 0.5)]
)
def test_binary_accuracy_counts_fakes_alone_beside_the_true(
    rows: list[int], accuracy: float, bert: Path
) -> None:
    """A network that denies everything is right about the fakes."""
    objective, (inputs,) = made("binary", bert).inputs(1)
    objective.eval()
    with torch.no_grad():
        objective.classifier.output.bias.fill_(-100.0)
    told = Inputs(inputs.views, replace(inputs.batch, sentences=np.array(rows)))
    assert float(objective(told)[1]["accuracy"]) == pytest.approx(accuracy)


def test_binary_learns_from_fakes_on_both_sides(bert: Path) -> None:
    """The gradients are those of the loss put together by hand."""
    objective, (inputs,) = made("binary", bert).inputs(1)
    objective.eval()
    heads = [*objective.model.image_projection.parameters()]
    heads += [*objective.model.text_projection.parameters(), *objective.classifier.parameters()]
    v = objective.model.image_projection(objective.h_v(inputs))
    u = objective.model.text_projection(objective.h_u(inputs))
    rows = torch.from_numpy(inputs.batch.sentences)
    wanted = binary_loss(
        objective.judge(v, u), objective.judge(v, u.roll(-1, dims=0)), rows != rows.roll(-1)
    )
    found = torch.autograd.grad(objective(inputs)[0], heads)
    for one, two in zip(found, torch.autograd.grad(wanted, heads), strict=True):
        assert torch.allclose(one, two, atol=1e-6)
        assert bool(one.any())


def test_binary_draws_other_fakes_in_training(bert: Path) -> None:
    objective, (inputs,) = made("binary", bert).inputs(1)
    objective.model.text_encoder.eval()
    objective.training = True  # the objective alone: its model stays without dropout
    losses = []
    for seed in range(8):
        torch.manual_seed(seed)
        objective.model.eval()
        losses.append(float(objective(inputs)[0].detach()))
    assert len({round(loss, 6) for loss in losses}) > 1


def test_siglip_starts_as_told_and_learns_both(bert: Path) -> None:
    objective, (inputs,) = made("siglip", bert, scale=4.0, bias=-3.0).inputs(1)
    loss, logs = objective(inputs)
    assert float(logs["scale"]) == pytest.approx(4.0)
    assert float(logs["bias"]) == -3.0
    loss.backward()
    assert float(objective.log_scale.grad.abs()) > 0
    assert float(objective.bias.grad.abs()) > 0
    assert {"log_scale", "bias"} <= set(objective.state_dict())


def test_siglip_needs_a_scale_above_zero(bert: Path) -> None:
    with pytest.raises(InputError, match="scale has to be above 0") as caught:
        made("siglip", bert, scale=0.0).build()
    assert "objectives.siglip.options" in str(caught.value)


def test_soft_tells_how_many_share(bert: Path) -> None:
    objective, (inputs,) = made("convirt_soft", bert).inputs(1)
    rows = np.array([3, 0, 3, 1])
    alike = Inputs(inputs.views, replace(inputs.batch, sentences=rows))
    objective.eval()
    loss, logs = objective(alike)
    assert float(logs["shared"]) == 0.5
    v, u = objective.v(alike), objective.u(alike)
    wanted = slow_soft(v, u, rows.tolist(), CONFIG.tau, CONFIG.lam)
    assert float(loss.detach()) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "chance"),
    [("binary", math.log(2)), ("siglip", sigmoid_chance(4)), ("convirt_soft", math.log(4))],
)
def test_chance(name: str, chance: float, bert: Path) -> None:
    assert made(name, bert).build().chance() == chance
