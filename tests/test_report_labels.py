"""Pretraining on rule-based labels: targets, loss and chance against loops, and the real loop."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from tiny_models import CONFIG, assert_same_run
from torch import Tensor

from convirt import labeler
from convirt.errors import InputError
from convirt.feed import Corpus
from convirt.label_rules import CHEXPERT, VOCABULARIES
from convirt.labeler import BLANK, NEGATIVE, POSITIVE, UNCERTAIN
from convirt.objectives import base
from convirt.objectives.report_labels import (
    Objective,
    Options,
    masked_bce,
    prevalence_entropy,
    targets,
)
from convirt.pairs import Batch

OPTIONS: dict[str, Any] = {"vocabulary": {"tiny": "chexpert"}}
NOWHERE = Path("/nonexistent")  # text weights are never read


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """One thread, so that sums are always in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def fresh(data: Corpus, **options: Any) -> Objective:
    """The objective with its initial weights."""
    model = tiny_models.objective("report_labels", NOWHERE, data, options=OPTIONS | options)
    assert isinstance(model, Objective)
    return model


def inputs(batch: Batch, seed: int = 0) -> base.Inputs:
    """Noise films for a batch."""
    generator = torch.Generator().manual_seed(seed)
    side = tiny_models.SIDE
    return base.Inputs(
        (torch.randn(len(batch.studies), 3, side, side, generator=generator),), batch
    )


# ------------------------------------------------------------------------------ targets

STATES = np.array([[POSITIVE, NEGATIVE], [UNCERTAIN, BLANK], [BLANK, UNCERTAIN]], np.int8)


@pytest.mark.parametrize(
    ("policy", "present", "known"),
    [
        ("ones", [[1, 0], [1, 0], [0, 1]], [[1, 1], [1, 1], [1, 1]]),
        ("zeros", [[1, 0], [0, 0], [0, 0]], [[1, 1], [1, 1], [1, 1]]),
        ("ignore", [[1, 0], [0, 0], [0, 0]], [[1, 1], [0, 1], [1, 0]]),
    ],
)
def test_policies(policy: str, present: list[list[int]], known: list[list[int]]) -> None:
    found = targets(STATES, policy)
    assert found[0].tolist() == present and found[1].astype(int).tolist() == known


def random_cells(seed: int, n: int = 7, labels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, targets and a mask."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(n, labels, generator=generator, dtype=torch.float64)
    present, known = (torch.rand(2, n, labels, generator=generator) < 0.5).unbind()
    return logits, present.double(), known


@pytest.mark.parametrize("seed", range(5))
def test_loss_is_that_of_a_loop(seed: int) -> None:
    logits, present, known = random_cells(seed)
    terms = []
    for z, y, use in zip(logits.flatten(), present.flatten(), known.flatten(), strict=True):
        p = 1 / (1 + math.exp(-float(z)))
        if use:
            terms.append(-math.log(p if y else 1 - p))
    assert float(masked_bce(logits, present, known)) == pytest.approx(np.mean(terms))


def test_nothing_known_costs_nothing() -> None:
    logits, present, known = random_cells(0)
    assert float(masked_bce(logits, present, torch.zeros_like(known))) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_the_least_loss_that_ignores_the_film(seed: int) -> None:
    _, present, known = random_cells(seed, n=40)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([bias], max_iter=100)

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = masked_bce(bias.expand(40, 3), present, known)
        value.backward()
        return value

    optimiser.step(loss)
    assert prevalence_entropy(present.numpy(), known.numpy()) == pytest.approx(loss().item())


def test_chance_in_closed_form() -> None:
    present = np.array([[1, 1], [0, 1], [0, 1], [0, 1]], np.float32)
    everything = np.ones((4, 2), bool)
    quarter = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert prevalence_entropy(present, everything) == pytest.approx(quarter / 2)
    only_first_known = np.array([[1, 0]] * 4, bool)
    assert prevalence_entropy(present, only_first_known) == pytest.approx(quarter)


# ------------------------------------------------------------------------------ the objective


def test_labels_are_those_of_whole_reports() -> None:
    data = tiny_models.corpus()
    model = fresh(data)
    batch = data.train.draw(0, 0, 6)
    seen: list[Tensor] = []
    model.head.register_forward_hook(lambda _, __, out: seen.append(out))
    loss, logs = model(inputs(batch))
    states = labeler.label(data.texts, CHEXPERT)
    rows = [CHEXPERT.labels.index(name) for name in model.labels]
    told = labeler.combine(states, batch.reports(), CHEXPERT)[:, rows]
    present, known = (torch.from_numpy(x) for x in targets(told, "ones"))
    expected = masked_bce(seen[0], present, known)
    assert loss.item() == pytest.approx(expected.item())
    assert logs == {} and set(np.unique(present)) == {0.0, 1.0}


def test_only_labels_that_occur_in_train_are_learnt() -> None:
    data = tiny_models.corpus()
    model = fresh(data)
    said = " ".join(data.texts)
    assert "opacity" in said and "effusion" in said
    assert set(model.labels) == {"No Finding", "Lung Opacity", "Pleural Effusion"}
    assert model.head.out_features == 3
    quiet = replace(data, texts=["the heart is there"] * len(data.texts))
    assert fresh(quiet).labels == ("No Finding",)


@pytest.mark.parametrize("uncertain", ["zeros", "ignore"])
def test_chance_is_that_of_the_training_reports(uncertain: str) -> None:
    data = tiny_models.corpus(train=60)
    texts = list(data.texts)
    texts[1::2] = [text.replace("effusion", "possible effusion") for text in texts[1::2]]
    told = labeler.combine(labeler.label(texts, CHEXPERT), data.train.reports(), CHEXPERT)
    model = fresh(replace(data, texts=texts), uncertain=uncertain)
    effusion = told[:, CHEXPERT.labels.index("Pleural Effusion")]
    assert {POSITIVE, UNCERTAIN, BLANK} <= set(effusion)
    total, count = 0.0, 0
    for name in model.labels:
        states = told[:, CHEXPERT.labels.index(name)]
        known = states[states != UNCERTAIN] if uncertain == "ignore" else states
        p = float((known == POSITIVE).mean())
        total -= len(known) * (p * math.log(p) + (1 - p) * math.log(1 - p))
        count += len(known)
    assert model.chance() == pytest.approx(total / count)


def test_the_policy_is_used() -> None:
    data = tiny_models.corpus()
    doubted = replace(data, texts=[f"possible effusion {i}" for i in range(len(data.texts))])
    assert fresh(doubted).labels == ("Pleural Effusion",)
    for policy in ("zeros", "ignore"):
        with pytest.raises(InputError, match="none in 21 training reports"):
            fresh(doubted, uncertain=policy)


def test_gradients_reach_every_parameter() -> None:
    data = tiny_models.corpus()
    model = fresh(data)
    model(inputs(data.train.draw(0, 0, 8)))[0].backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and float(p.grad.abs().sum()) > 0, name


def test_head_depends_on_the_seed_alone() -> None:
    heads = []
    for before in (1, 2):
        parts = tiny_models.parts(NOWHERE, tiny_models.corpus(), options=OPTIONS)
        torch.manual_seed(before)
        heads.append(Objective(parts).head.weight)
    assert torch.equal(*heads)


def test_loss_falls_on_a_fixed_batch() -> None:
    data = tiny_models.corpus()
    model = fresh(data)
    given = inputs(data.train.draw(0, 0, 8))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = model(given)[0]
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_killed_and_resumed_ends_as_a_whole_run(tmp_path: Path) -> None:
    whole = tiny_models.train("report_labels", NOWHERE, options=OPTIONS)
    model, result, taken_up = tiny_models.killed_and_resumed(
        "report_labels", NOWHERE, CONFIG, tmp_path, [5, 10], options=OPTIONS
    )
    assert taken_up == [3, 9]
    assert_same_run(whole, (model, result))
    assert_same_run(whole, tiny_models.train("report_labels", NOWHERE, options=OPTIONS))
    assert result.history[0]["chance"] == whole[0].chance()


def test_saved_folder_holds_the_encoder_and_the_counts(tmp_path: Path) -> None:
    data = tiny_models.corpus()
    model = fresh(data)
    model.save(tmp_path)
    counts = json.loads((tmp_path / "labels.json").read_text(encoding="utf-8"))
    assert set(counts) == set(model.labels)
    assert all(sum(states.values()) == data.train.count for states in counts.values())
    assert (tmp_path / "config.json").is_file()


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vocabulary": {"chest": "chexpert"}}, r"vocabulary\.tiny.*"),
        ({"vocabulary": {"tiny": "chest"}}, "'chexpert' or 'limb'"),
        ({**OPTIONS, "uncertain": "maybe"}, "maybe"),
        ({**OPTIONS, "policy": "ones"}, "policy"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], told: str) -> None:
    data = tiny_models.corpus()
    with pytest.raises(InputError, match=told):
        tiny_models.objective("report_labels", NOWHERE, data, options=options)


def test_every_vocabulary_can_be_chosen() -> None:
    for name in VOCABULARIES:
        options = base.options_of(Options, {"vocabulary": {"tiny": name}})
        assert options.vocabulary == {"tiny": name}
