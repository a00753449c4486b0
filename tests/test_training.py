"""The pretraining loop: what learns, the schedule, and killed runs that end as unbroken ones."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from objective_runs import same, state
from tiny_models import CONFIG, PAPER, KilledError, assert_same_run, killed_at
from torch import Tensor, nn
from torch.nn.functional import interpolate

from convirt import augment, checkpoint, devices, processes, training
from convirt.errors import InputError, StoppedError
from convirt.feed import Corpus, Feed
from convirt.frozen_text import FrozenText
from convirt.image_encoder import normalise
from convirt.objectives import base, convirt
from convirt.objectives.convirt import convirt_loss
from convirt.pairs import AUGMENT, DROPOUT, Pairs, generator, tokenize
from convirt.schedule import (
    Progress,
    TrainConfig,
    doubts,
    learning_rate,
    note_validation,
    total_steps,
)
from convirt.training import Result, moved, optimiser_of, pretrain, resumed_step

pytestmark = pytest.mark.usefixtures("deterministic")

FROZEN = ("embeddings", "encoder.layer.0", "encoder.layer.1")
ALL = {"image_encoder", "text_encoder", "image_projection", "text_projection"}


def quiet(_: dict[str, float]) -> None:
    """Report nothing."""


def run(
    bert: Path,
    config: TrainConfig = CONFIG,
    scratch: Path | None = None,
    report: Callable[[dict[str, float]], None] = quiet,
) -> tuple[base.PairObjective, Result]:
    """One pretraining with ConVIRT from the initial weights."""
    model, result = tiny_models.train("convirt", bert, config, scratch, report)
    assert isinstance(model, base.PairObjective)
    return model, result


def fresh(bert: Path, data: Corpus, **changes: Any) -> base.PairObjective:
    """ConVIRT with its initial weights."""
    model = tiny_models.objective("convirt", bert, data, **changes)
    assert isinstance(model, base.PairObjective)
    return model


def validate(model: base.Objective, data: Corpus, config: TrainConfig) -> float:
    """The validation of the loop."""
    model.eval()
    with torch.no_grad():
        feed = Feed(data, PAPER, config, model, torch.device("cpu"))
        return model.validate(feed.validation())["val_loss"]


# ------------------------------------------------------------------------------ what learns
def test_gradients_reach_every_trainable_and_no_frozen_parameter(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a real step: what Adam is about to be given."""
    data = tiny_models.corpus()
    model = fresh(bert, data, frozen=2)
    before = state(model)
    gradients: dict[str, float] = {}
    step = torch.optim.Adam.step

    def look(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        for name, p in model.named_parameters():
            if p.grad is not None:
                gradients[name] = float(p.grad.abs().max())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", look)
    config = replace(CONFIG, eval_every=1, evaluations=1, warmup=0)
    after: dict[str, Tensor] = {}
    pretrain(model, data, PAPER, config, None, lambda _: after.update(state(model)))

    names = {name for name, _ in model.named_parameters()}
    lower = tuple(f"model.text_encoder.bert.{part}." for part in FROZEN)
    frozen = {name for name in names if name.startswith(lower)}
    assert len(frozen) == 5 + 2 * 16
    assert set(gradients) == names - frozen
    assert {name.split(".")[1] for name in gradients} == ALL
    # A shift of all keys leaves a softmax as it is: the key's bias has no gradient by nature.
    silent = {name for name, size in gradients.items() if size < 1e-7}
    assert silent <= {name for name in gradients if name.endswith(".key.bias")}
    for name in frozen:
        assert torch.equal(after[name], before[name]), name
    for name in names - frozen - silent:
        assert not torch.equal(after[name], before[name]), name


def test_first_step_is_adam_on_the_loss_of_the_drawn_batch(bert: Path) -> None:
    """The loop against the same step put together by hand."""
    config = replace(CONFIG, eval_every=1, evaluations=1, warmup=0, lr=0.01)
    trained, result = run(bert, config)

    data = tiny_models.corpus()
    model = tiny_models.pair_encoder(bert).train()
    tokens = tokenize(data.texts, model.tokenizer)
    batch = data.train.draw(config.seed, 0, 4)
    rng = generator(config.seed, AUGMENT, 0)
    draws = augment.draw(rng, data.boxes[batch.images], tiny_models.SIDE, PAPER)
    images = torch.from_numpy(data.images[batch.images])
    x = augment.apply(images, draws, tiny_models.SIDE, PAPER.blur_kernel)
    mean, std = torch.tensor([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]])[:, :, None, None]
    x = (x - mean) / std
    torch.manual_seed(int(generator(config.seed, DROPOUT, 0).integers(2**63)))
    v = model.project_image(model.image_encoder(x))
    u = model.project_text(model.text_encoder(*tokens.batch(batch.sentences)))
    loss = convirt_loss(v, u, 0.1, 0.75)
    loss.backward()
    parameters = [p for p in model.parameters() if p.requires_grad]
    torch.optim.Adam(parameters, lr=0.01, weight_decay=1e-6).step()

    assert result.history[1]["train_loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    for (name, one), (_, two) in zip(
        trained.model.named_parameters(), model.named_parameters(), strict=True
    ):
        if not name.endswith(".key.bias"):  # its gradient is rounding, blown up by Adam
            assert torch.allclose(one, two, atol=2e-4), name


def test_adam_is_the_usual_one_with_an_l2_term() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimiser = optimiser_of([p], replace(CONFIG, lr=0.1, weight_decay=0.5))
    w, m, v = p.detach().clone(), torch.zeros(2), torch.zeros(2)
    for t, gradient in enumerate(([1.0, 2.0], [-1.0, 0.5], [0.3, -0.2]), 1):
        p.grad = torch.tensor(gradient)
        optimiser.step()
        g = p.grad + 0.5 * w
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g.square()
        w = w - 0.1 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        torch.testing.assert_close(p.detach(), w)


def test_sgd_has_momentum_and_weight_decay() -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0]))
    config = replace(CONFIG, optimiser="sgd", lr=0.1, weight_decay=0.5)
    optimiser = optimiser_of([p], config)
    wanted, velocity = p.detach().clone(), torch.zeros(2)
    for gradient in ([1.0, 2.0], [-1.0, 0.5]):
        p.grad = torch.tensor(gradient)
        optimiser.step()
        velocity = 0.9 * velocity + p.grad + 0.5 * wanted
        wanted = wanted - 0.1 * velocity
        torch.testing.assert_close(p.detach(), wanted)


def test_loss_falls_on_a_corpus_that_can_be_learnt(bert: Path) -> None:
    """Bright films are said to be large, dark ones small, and so on for four kinds."""
    kinds = ["no acute finding .", "large left opacity", "small right effusion", "the heart is ."]
    images = np.empty((40, tiny_models.SIDE, tiny_models.SIDE), np.uint8)
    images[:] = (np.arange(40) % 4 * 70 + 20)[:, None, None]
    images[1::4, 8:], images[2::4, :, 8:] = 255, 255
    records = pd.DataFrame({"study": [f"{i:02d}" for i in range(40)]})
    records["split"] = ["train" if i < 32 else "val" for i in range(40)]
    said = pd.DataFrame({"study": records["study"], "row": np.arange(40) % 4})
    data = Corpus(
        images,
        np.tile([0, 0, 16, 16], (40, 1)),
        kinds,
        Pairs(records, said, "train"),
        Pairs(records, said, "val"),
    )
    spec = replace(PAPER, brightness=0.1, contrast=0.1, degrees=5.0, flip=0.0)
    config = replace(CONFIG, lr=3e-3, batch_size=8, eval_every=15, evaluations=6)
    result = pretrain(fresh(bert, data, config=config), data, spec, config, None, quiet)
    losses = [row["val_loss"] or 0.0 for row in result.history]
    assert losses[-1] < 0.85 * math.log(8)
    assert losses[-1] < losses[0]


# ------------------------------------------------------------------------------ schedule
@pytest.mark.parametrize(
    ("changes", "pairs", "steps"),
    [
        ({}, 10_000, 16),  # 4 evaluations of 4 steps
        ({"max_passes": 2}, 21, 8),  # 2 x 21 / 4 = 10.5 steps hold 2 evaluations
        ({"max_passes": 2}, 24, 12),  # exactly 12 steps
        ({"max_passes": 3}, 22, 16),  # 16.5 steps; in each pass a part of a batch is left
        ({"max_passes": 1}, 4, 4),  # one evaluation at least
        ({"max_passes": 1, "batch_size": 1000}, 4, 4),
        ({"eval_every": 5000, "evaluations": 200, "max_passes": 10**6}, 217_000, 10**6),
    ],
)
def test_total_steps(changes: dict[str, Any], pairs: int, steps: int) -> None:
    assert total_steps(replace(CONFIG, **changes), pairs) == steps


def test_plateau_rate() -> None:
    config = replace(CONFIG, lr=0.1, warmup=4, factor=0.5, schedule="plateau")
    rates = [learning_rate(config, step, 100, 0) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert [learning_rate(config, 50, 100, d) for d in range(4)] == pytest.approx(
        [0.1, 0.05, 0.025, 0.0125]
    )
    assert learning_rate(config, 1, 100, 1) == pytest.approx(0.025)
    paper = replace(config, warmup=0)
    assert learning_rate(paper, 0, 100, 0) == 0.1


def test_cosine_rate() -> None:
    config = replace(CONFIG, lr=0.1, warmup=0, schedule="cosine")
    assert learning_rate(config, 0, 100, 0) == pytest.approx(0.1)
    assert learning_rate(config, 50, 100, 0) == pytest.approx(0.05)
    assert learning_rate(config, 25, 100, 0) == pytest.approx(0.1 * (0.5 + math.sqrt(0.125)))
    rates = [learning_rate(config, step, 100, 0) for step in range(100)]
    assert rates == sorted(rates, reverse=True)
    assert 0 < rates[-1] < 1e-4
    assert learning_rate(config, 10, 100, 3) == rates[10]  # flat validations do not count
    warm = replace(config, warmup=10)
    assert learning_rate(warm, 4, 100, 0) == pytest.approx(0.5 * rates[4])
    assert learning_rate(warm, 10, 100, 0) == rates[10]


def test_rate_by_milestones() -> None:
    config = replace(CONFIG, lr=0.1, warmup=0, factor=0.1, schedule="steps", milestones=(0.6, 0.8))
    rates = [learning_rate(config, step, 10, 0) for step in range(10)]
    assert rates == pytest.approx([0.1] * 6 + [0.01] * 2 + [0.001] * 2)


def test_rates_of_the_loop_are_the_schedules(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [3.0, 4.0, 2.0, 2.5, 1.0, 1.5]
    config = replace(CONFIG, lr=0.1, warmup=0, evaluations=6)

    def rates(config: TrainConfig) -> list[float]:
        coming = iter([9.0, *losses])
        monkeypatch.setattr(base.Objective, "validate", lambda *_: {"val_loss": next(coming)})
        _, result = run(bert, config)
        assert [row["val_loss"] for row in result.history] == [9.0, *losses]
        assert (result.best()["val_loss"], result.best_step) == (1.0, 20)
        return [row["lr"] or 0.0 for row in result.history[1:]]

    # patience 1: after the 2nd and the 4th evaluation the rate falls
    assert rates(config) == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])
    cosine = replace(config, schedule="cosine")
    ends = (4, 8, 12, 16, 20, 24)
    assert rates(cosine) == [learning_rate(cosine, step - 1, 24, 0) for step in ends]


def test_steps_are_taken_at_the_rate_of_the_schedule(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two steps of warm-up, and half the rate after two flat validations."""
    losses, used = iter([9.0, 3.0, 4.0, 2.0, 2.5]), list[float]()
    monkeypatch.setattr(base.Objective, "validate", lambda *_: {"val_loss": next(losses)})
    step = torch.optim.Adam.step

    def look(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        used.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", look)
    run(bert, replace(CONFIG, lr=0.1))
    assert used == pytest.approx([0.05] + [0.1] * 7 + [0.05] * 8)


def test_doubts() -> None:
    config = replace(CONFIG, batch_size=4, eval_every=10, evaluations=3, max_passes=6, warmup=9)
    assert not list(doubts(config, 20))
    (told,) = doubts(replace(config, max_passes=1), 20)
    assert "the run of 10 steps is 2.0 passes over 20 pairs" in told and "eval_every" in told
    (told,) = doubts(replace(config, warmup=30), 20)
    assert "train.warmup (30) is not below the 30 steps" in told


def test_note_validation() -> None:
    config = replace(CONFIG, patience=2)
    progress = Progress()
    told = []
    for number, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.9, 2.0, 2.0, 2.0, 2.0, 1.0]):
        progress.step = 10 * number
        told.append((note_validation(progress, loss, loss, config), progress.flat, progress.decays))
    assert told == [
        (True, 0, 0),
        (True, 0, 0),
        (False, 1, 0),  # an equal loss is no improvement
        (False, 0, 1),
        (True, 0, 1),
        (False, 1, 1),
        (False, 0, 2),
        (False, 1, 2),
        (False, 0, 3),
        (True, 0, 3),
    ]
    assert (progress.best_cost, progress.best_step) == (1.0, 90)


def test_the_rate_goes_by_the_loss_whatever_chooses() -> None:
    config, progress = replace(CONFIG, patience=2), Progress()
    for number, (cost, loss) in enumerate([(5.0, 3.0), (6.0, 2.0), (6.0, 1.0), (6.0, 0.5)]):
        progress.step = 10 * number
        assert note_validation(progress, cost, loss, config) is (number == 0)
    assert progress.decays == 0  # the loss fell each time
    for cost in (4.0, 3.0):
        progress.step += 10
        assert note_validation(progress, cost, 0.5, config)
    assert (progress.decays, progress.best_cost) == (1, 3.0)


# ------------------------------------------------------------------------------ validation
def test_the_state_of_the_best_validation_is_left(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([9.0, 3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(base.Objective, "validate", lambda *_: {"val_loss": next(losses)})
    data, seen = tiny_models.corpus(), dict[float, dict[str, Tensor]]()
    model = fresh(bert, data)

    def note(told: dict[str, float]) -> None:
        seen[told["step"]] = state(model)

    pretrain(model, data, PAPER, CONFIG, None, note)
    assert same(state(model), seen[8]) and not same(seen[8], seen[16])


def test_best_weights_are_kept_and_measured_alike(bert: Path) -> None:
    model, result = run(bert)
    losses = [row["val_loss"] or 0.0 for row in result.history]
    assert result.best()["val_loss"] == min(losses)
    assert result.best_step == CONFIG.eval_every * losses.index(min(losses))
    assert [row["step"] for row in result.history] == [0, 4, 8, 12, 16]
    assert {row["chance"] for row in result.history} == {math.log(4)}
    assert result.history[0]["train_loss"] is None
    data = tiny_models.corpus()
    assert validate(fresh(bert, data), data, CONFIG) == losses[0]
    assert validate(model, data, CONFIG) == pytest.approx(min(losses), abs=1e-5)


def test_validation_loss_is_the_mean_over_whole_films(bert: Path) -> None:
    data = tiny_models.corpus()
    assert data.boxes[0].tolist() == [1, 0, tiny_models.SIDE - 2, tiny_models.SIDE]
    images = np.asarray(data.images)
    images[:, [0, -1]] = images[:, [1, -2]]  # its edges are read beside the padding
    model = tiny_models.pair_encoder(bert).eval()
    tokens = tokenize(data.texts, model.tokenizer)
    config = replace(CONFIG, batch_size=3)
    batches = data.val.fixed(CONFIG.seed, 3)
    assert len(batches) == 3
    losses = []
    for batch in batches:
        films = torch.from_numpy(data.images[batch.images])[:, 1:-1].unsqueeze(1) / 255
        side = (tiny_models.SIDE, tiny_models.SIDE)
        x = normalise(interpolate(films, side, mode="bilinear"), model.image_config)
        v = model.project_image(model.image_encoder(x))
        u = model.project_text(model.text_encoder(*tokens.batch(batch.sentences)))
        losses.append(float(convirt_loss(v, u, 0.1, 0.75).detach()))
    for keep in (False, True):
        changed = replace(config, cache_frozen=keep)
        found = validate(fresh(bert, data, config=changed), data, changed)
        assert found == pytest.approx(float(np.mean(losses)), abs=1e-5)


@pytest.mark.parametrize("part", ["train", "val"])
def test_every_film_is_read_inside_its_own_box(bert: Path, part: str) -> None:
    """White films, some upright and some lying, on black."""
    data = tiny_models.corpus()
    upright = np.arange(len(data.images))[:, None] % 2 == 0
    boxes = np.where(upright, [0, 5, 16, 6], [5, 0, 6, 16])
    images = np.zeros_like(data.images)
    for image, (top, left, height, width) in zip(images, boxes, strict=True):
        image[top : top + height, left : left + width] = 255
    data = replace(data, images=images, boxes=boxes)
    still = replace(PAPER, degrees=0.0, translate=0.0, scale=(1.0, 1.0))
    still = replace(still, brightness=0.0, contrast=0.0, blur_kernel=1)
    model = fresh(bert, data)
    feed = Feed(data, still, CONFIG, model, torch.device("cpu"))
    steps = (inputs for _, inputs, _ in feed.steps(0, 3))
    white = normalise(torch.ones(1, 1, 1, 1), model.image_config)
    for inputs in feed.validation() if part == "val" else steps:
        inner = inputs.views[0][:, :, 3:-3, 3:-3]
        assert torch.allclose(inner, white.expand_as(inner), atol=1e-3)


def test_several_views_are_drawn_apart_and_stay_the_same_in_validation(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_models.corpus()
    one = fresh(bert, data)
    single = Feed(data, PAPER, CONFIG, one, torch.device("cpu"))
    monkeypatch.setattr(type(one), "views", 2)
    double = Feed(data, PAPER, CONFIG, one, torch.device("cpu"))
    first, second = (next(feed.steps(3, 4))[1] for feed in (single, double))
    assert len(first.views) == 1 and len(second.views) == 2
    assert torch.equal(first.views[0], second.views[0])  # a second view changes nothing else
    assert not torch.equal(second.views[0], second.views[1])
    for once, again in zip(double.validation(), double.validation(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(once.views, again.views, strict=True))
        assert not torch.equal(once.views[0], once.views[1])


def test_every_batch_has_draws_of_its_own(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one film only, each view of it in training and validation is still different."""
    data = tiny_models.corpus()
    data = replace(data, images=np.repeat(data.images[:1], len(data.images), axis=0))
    model = fresh(bert, data)
    monkeypatch.setattr(type(model), "views", 2)
    feed = Feed(data, PAPER, CONFIG, model, torch.device("cpu"))
    steps = (inputs for _, inputs, _ in feed.steps(0, 2))
    views = [view for inputs in (*steps, *feed.validation()) for view in inputs.views]
    assert len(views) == 2 * (2 + 2)
    films = {film.numpy().tobytes() for film in torch.cat(views)}
    assert len(films) == len(views) * CONFIG.batch_size


@pytest.mark.parametrize("name", ["convirt", "simclr"])
def test_films_are_the_same_in_every_precision(name: str, bert: Path) -> None:
    """Autocast is for networks: under it, positions at which films are read would be rounded."""

    def seen(precision: str) -> list[Tensor]:
        data, config = tiny_models.corpus(), replace(CONFIG, precision=precision, evaluations=1)
        model = tiny_models.objective(name, bert, data, config=config)
        views: list[Tensor] = []
        model.image_encoder.register_forward_pre_hook(lambda _, given: views.append(given[0]))
        pretrain(model, data, PAPER, config, None, quiet)
        return views

    exact, coarse = seen("float32"), seen("bfloat16")
    assert len(exact) == len(coarse) > CONFIG.eval_every
    for one, other in zip(exact, coarse, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)


@pytest.mark.parametrize("views", [1, 2])
def test_a_batch_transformed_ahead_is_the_same_batch(
    views: int, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_models.corpus()
    model = fresh(bert, data)
    monkeypatch.setattr(type(model), "views", views)
    feed, other = (Feed(data, PAPER, CONFIG, model, torch.device("cpu")) for _ in range(2))
    for first in (0, 2):  # nothing of one run is left over for the next
        for mine, theirs in zip(feed.steps(first, 5), other.steps(first, 5), strict=True):
            assert mine[0] == theirs[0]
            assert np.array_equal(mine[1].batch.images, theirs[1].batch.images)
            assert len(mine[1].views) == views
            for x, y in zip(mine[1].views, theirs[1].views, strict=True):
                assert torch.equal(x, y)
            more = mine[0] < 4
            if more:
                feed.settle()
            feed.ahead()
            assert (feed._ready is not None) == more


def test_reports_of_a_batch_are_the_sentences_of_its_studies(bert: Path) -> None:
    data = tiny_models.corpus()
    batch = data.train.draw(0, 0, 5)
    for report, sentence, study in zip(
        batch.reports(), batch.sentences, batch.studies, strict=True
    ):
        assert sentence in report
        assert report.tolist() == data.train.reports()[study].tolist()


def test_higher_criterion_wins_where_large_is_good(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.0, 0.1, 0.4, 0.3, 0.4])
    data = tiny_models.corpus()
    model = fresh(bert, data)
    monkeypatch.setattr(type(model), "criterion", "cider")
    monkeypatch.setattr(type(model), "larger_is_better", True)
    monkeypatch.setattr(
        base.Objective, "validate", lambda *_: {"val_loss": 1.0, "cider": next(scores)}
    )
    result = pretrain(model, data, PAPER, CONFIG, None, quiet)
    assert result.best_step == 8
    assert result.best()["cider"] == 0.4


def test_the_loss_sets_the_rate_where_something_else_chooses(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    falling, worse = iter([5.0, 4.0, 3.0, 2.0, 1.0]), iter([0.5, 0.4, 0.3, 0.2, 0.1])
    data = tiny_models.corpus()
    model = fresh(bert, data)
    monkeypatch.setattr(type(model), "criterion", "cider")
    monkeypatch.setattr(type(model), "larger_is_better", True)
    monkeypatch.setattr(
        base.Objective, "validate", lambda *_: {"val_loss": next(falling), "cider": next(worse)}
    )
    result = pretrain(model, data, PAPER, CONFIG, None, quiet)
    assert result.best_step == 0
    assert [row["lr"] for row in result.history[1:]] == [CONFIG.lr] * 4


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_states_along_the_way_are_kept(bert: Path, tmp_path: Path, optimiser: str) -> None:
    config = replace(CONFIG, keep_every=2, optimiser=optimiser)
    model, _, _ = tiny_models.killed_and_resumed("convirt", bert, config, tmp_path, [9])
    found = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert found == ["step-000000008.safetensors", "step-000000016.safetensors"]
    kept = checkpoint.load_safetensors(tmp_path / "kept" / found[0])
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and kept.keys() == model.state_dict().keys() - frozen


def test_validation_set_smaller_than_a_batch(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"at least train\.batch_size = 10 studies"):
        run(bert, replace(CONFIG, batch_size=10), tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ frozen text
def test_kept_text_is_what_would_be_computed(bert: Path) -> None:
    encoder, tokenizer = tiny_models.text_encoder(bert, frozen=2)
    sentences = tokenize(tiny_models.corpus().texts, tokenizer)
    kept = FrozenText(encoder.eval(), sentences, True)
    fresh = FrozenText(encoder, sentences, False)
    rng = np.random.default_rng(0)
    for size in (1, 4, 9):
        rows = rng.integers(0, len(sentences.starts) - 1, size)
        (one, packing), (two, same) = kept(rows), fresh(rows)
        assert torch.equal(packing.mask, same.mask)
        assert len(one) == int(packing.mask.sum())
        assert torch.allclose(one, two, atol=1e-5)
    assert kept.kept is not None
    assert kept.kept.shape == (len(sentences.tokens), 32)
    assert not kept.kept.requires_grad


def test_chunks_of_the_cache_do_not_matter(bert: Path) -> None:
    encoder, tokenizer = tiny_models.text_encoder(bert)
    text = FrozenText(encoder.eval(), tokenize(tiny_models.corpus().texts, tokenizer), True)
    text(np.array([0]))
    assert text.kept is not None
    assert torch.allclose(text._compute(torch.device("cpu"), chunk=3), text.kept, atol=1e-6)


def test_cache_does_not_change_the_loss(bert: Path) -> None:
    """With rates low enough that rounding does not grow: the loss of every step, within 1e-5."""

    def losses(cache: bool) -> list[float]:
        seen: list[float] = []
        config = replace(CONFIG, lr=1e-5, eval_every=1, evaluations=8, cache_frozen=cache)
        run(bert, config, report=lambda status: seen.extend((status["loss"], status["val_loss"])))
        return seen

    one, two = losses(True), losses(False)
    assert len(one) == 16
    assert one == pytest.approx(two, abs=1e-5)


# ------------------------------------------------------------------------------ resume
@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_killed_anywhere_ends_as_never_killed(
    bert: Path, tmp_path: Path, cache: bool, schedule: str
) -> None:
    """Checkpoints every 3 steps, evaluations every 4: it dies between the two as well."""
    config = replace(CONFIG, cache_frozen=cache, schedule=schedule)
    whole = run(bert, config)
    assert whole[1].steps == 16
    rng = random.Random()  # another place at each run of the tests
    for trial, steps in enumerate([[rng.randint(1, 16)], [7, rng.randint(8, 16)], [2, 8, 10, 16]]):
        print("killed after steps", steps)  # shown on failure
        scratch = tmp_path / str(trial)
        model, result, taken_up = tiny_models.killed_and_resumed(
            "convirt", bert, config, scratch, steps
        )
        assert taken_up == [step // 3 * 3 for step in steps]
        assert_same_run(whole, (model, result))


def test_a_state_of_another_chip_is_told(bert: Path, tmp_path: Path) -> None:
    """The run goes on, as its work is worth more than its last bits, but it reports the change."""
    run(bert, CONFIG, tmp_path)
    assert moved(tmp_path / "none", "cpu") is None
    assert moved(tmp_path, "cpu") is None
    found = checkpoint.load_state(tmp_path)
    assert found is not None
    tensors, state = found
    checkpoint.save_state(tmp_path, tensors, state | {"hardware": "an abacus"})
    told = moved(tmp_path, "cpu")
    assert told is not None
    assert "step 15 was reached on an abacus, and this is" in told


def test_scratch_does_not_change_the_run(bert: Path, tmp_path: Path) -> None:
    whole = run(bert)
    assert_same_run(whole, run(bert, CONFIG, tmp_path))
    assert resumed_step(tmp_path) == 15


@pytest.mark.parametrize("every", [1, 5, 16, 100])
def test_rhythm_of_checkpoints_does_not_matter(bert: Path, tmp_path: Path, every: int) -> None:
    """Neither to the weights nor to what is reported."""
    whole = run(bert)
    assert_same_run(whole, run(bert, replace(CONFIG, checkpoint_every=every), tmp_path))


@pytest.mark.parametrize("moment", range(0, 26, 3))
def test_asked_to_stop_anywhere_ends_as_never_stopped(
    bert: Path, tmp_path: Path, moment: int
) -> None:
    """After a step or inside of a validation; no step is lost."""
    whole, asked, seen = run(bert), [0], [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > moment

    def stopped() -> None:
        data = tiny_models.corpus()
        model = tiny_models.objective("convirt", bert, data)

        def note(status: dict[str, float]) -> None:
            seen.append(int(status["step"]))

        pretrain(model, data, tiny_models.PAPER, CONFIG, tmp_path, note, stop=stop)

    with pytest.raises(StoppedError):
        stopped()
    # the step in which the stop was asked for is saved, though not reported
    assert resumed_step(tmp_path) - seen[-1] in (0, 1)
    assert_same_run(whole, run(bert, CONFIG, tmp_path))


@pytest.mark.parametrize(("seconds", "often"), [(0.01, 20), (0.5, 6), (2.0, 1), (60.0, 1)])
def test_processes_ask_each_other_in_time(
    seconds: float, often: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps of a large batch would outlast what a scheduler waits after SIGTERM."""
    now, asked_at = [0.0], list[int]()
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "minimum", lambda value: value)
    monkeypatch.setattr(processes, "any_of", lambda answer: answer)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def stop() -> bool:
        asked_at.append(step)
        return False

    asked = training._Asked(stop, 100)
    for step in range(101, 200):
        now[0] += seconds
        assert not asked(step)
    assert asked_at[0] == 101
    assert set(np.diff(asked_at)) == {often}


def test_stopped_without_a_scratch_folder(bert: Path) -> None:
    data = tiny_models.corpus()
    model = tiny_models.objective("convirt", bert, data)
    with pytest.raises(StoppedError):
        pretrain(model, data, tiny_models.PAPER, CONFIG, None, lambda _: None, stop=lambda: True)


def test_finished_run_is_taken_up_at_its_end(bert: Path, tmp_path: Path) -> None:
    """Killed after the last checkpoint, while outputs were written."""
    config = replace(CONFIG, checkpoint_every=4)
    first = run(bert, config, tmp_path)
    steps: list[float] = []
    again = run(bert, config, tmp_path, lambda status: steps.append(status["step"]))
    assert steps == []
    assert_same_run(first, again)
    assert again[1].rate == 0


def test_moments_of_adam_come_back_in_the_layout_of_their_weights(
    bert: Path, tmp_path: Path
) -> None:
    """The fused kernel walks memory and would pair moments and weights wrongly."""
    config = replace(CONFIG, checkpoint_every=1, eval_every=1, evaluations=3)
    with pytest.raises(KilledError):
        run(bert, config, tmp_path, killed_at(2))
    model = fresh(bert, tiny_models.corpus())
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimiser = torch.optim.Adam([p for _, p in trained], fused=True)
    training._resume(tmp_path, model, optimiser, model.constant())
    convolutions = 0
    for name, p in trained:
        for key in ("exp_avg", "exp_avg_sq"):
            assert optimiser.state[p][key].stride() == p.stride(), name
        convolutions += p.dim() == 4
        assert optimiser.state[p]["step"] == 2
    assert convolutions == 2


def test_torn_state_is_an_error(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(KilledError):
        run(bert, CONFIG, tmp_path, killed_at(7))
    path = tmp_path / checkpoint.STATE
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="a resume state"):
        run(bert, CONFIG, tmp_path)


def test_runs_repeat_and_depend_on_the_seed(bert: Path) -> None:
    one, two, other = run(bert), run(bert), run(bert, replace(CONFIG, seed=6))
    assert_same_run(one, two)
    assert not same(state(one[0]), state(other[0]))


PLATEAU: dict[str, Any] = {"schedule": "plateau", "lr": 0.05, "evaluations": 8}  # soon flat
STEPS: dict[str, Any] = {"schedule": "steps", "milestones": (0.3, 0.6)}
SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [  # a run, and a change that it must show
    ({}, {"lr": 2e-3}),
    ({}, {"weight_decay": 0.1}),
    ({}, {"batch_size": 5}),
    ({}, {"tau": 0.2}),
    ({}, {"lam": 0.5}),
    ({}, {"eval_every": 3}),
    ({}, {"evaluations": 3}),
    ({}, {"max_passes": 1}),
    ({}, {"warmup": 1}),
    ({}, {"schedule": "cosine"}),
    (PLATEAU, {"patience": 2}),
    (PLATEAU, {"factor": 0.25}),
    (STEPS, {"factor": 0.25}),
    (STEPS, {"milestones": (0.3, 0.9)}),
    ({}, {"optimiser": "sgd"}),
    ({}, {"chunk": 2}),
]


@pytest.mark.parametrize(("usual", "change"), SETTINGS)
def test_every_setting_of_a_run_changes_it(
    bert: Path, usual: dict[str, Any], change: dict[str, Any]
) -> None:
    base = replace(CONFIG, **usual)
    (one, first), (other, second) = run(bert, base), run(bert, replace(base, **change))
    rates = [[row["lr"] for row in result.history] for result in (first, second)]
    assert rates[0] != rates[1] or not same(state(one), state(other))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop", (0.9, 1.0)),
        ("flip", 0.1),
        ("degrees", 5.0),
        ("translate", 0.3),
        ("scale", (0.5, 0.6)),
        ("brightness", 0.1),
        ("contrast", 0.1),
        ("blur_sigma", (0.1, 0.2)),
        ("blur_kernel", 3),
    ],
)
def test_every_setting_of_the_transforms_changes_a_run(bert: Path, field: str, value: Any) -> None:
    spec = replace(PAPER, **{field: value})
    usual, _ = tiny_models.train("convirt", bert)
    changed, _ = tiny_models.train("convirt", bert, spec=spec)
    assert not same(state(usual), state(changed))


def test_randomness_outside_does_not_matter(bert: Path) -> None:
    """Dropout is drawn from (seed, step), whatever else has drawn before."""

    def disturb(_: dict[str, float]) -> None:
        torch.manual_seed(random.randrange(1000))
        np.random.seed(random.randrange(1000))

    assert_same_run(run(bert), run(bert, report=disturb))


@pytest.mark.parametrize("chunk", [0, 2])
def test_every_step_of_every_seed_draws_anew(
    chunk: int, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(devices, "seed", lambda _, seed: seeds.append(seed))
    for seed in (5, 6):
        run(bert, replace(CONFIG, seed=seed, chunk=chunk))
    # one for each of two chunks, and one for the comparison
    assert len(set(seeds)) == 2 * 16 * (3 if chunk else 1)


# ------------------------------------------------------------------------------ the rest
def test_reports_of_every_step(bert: Path) -> None:
    seen: list[dict[str, float]] = []
    _, result = run(bert, report=lambda status: seen.append(dict(status)))
    assert [status["step"] for status in seen] == list(range(1, 17))
    assert {status["steps"] for status in seen} == {16}
    assert [s["step"] for s in seen if "val_loss" in s] == [4, 8, 12, 16]
    assert [s["step"] for s in seen if "loss" in s] == [3, 4, 6, 8, 9, 12, 15, 16]
    assert all(s["rate"] > 0 and 0 <= s["waiting"] <= 1 for s in seen)
    assert 0 <= result.waiting <= 1
    assert result.rate > 0


@pytest.mark.parametrize("where", ["training", "validation"])
def test_loss_that_is_not_finite(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls: list[int] = []

    def broken(*args: Any) -> Any:
        loss = convirt_loss(*args)
        calls.append(0)
        if len(calls) <= 3:  # the initial validation and one step
            return loss
        return loss * float("nan") if loss.requires_grad == (where == "training") else loss

    monkeypatch.setattr(convirt, "convirt_loss", broken)
    with pytest.raises(InputError, match=r"(?s)nan.*lower train\.lr") as caught:
        run(bert, CONFIG, tmp_path)
    batch = tiny_models.corpus().train.draw(CONFIG.seed, 1, CONFIG.batch_size)
    rows = ", ".join(map(str, batch.images))
    told = {"training": f"at step 2, on rows {rows} of records.parquet", "validation": "at step 4"}
    assert f"{where} loss {told[where]}" in str(caught.value)
    kept = checkpoint.load_state(tmp_path)  # the first one falls due at step 3
    assert (kept is None) == (where == "training")
    assert kept is None or all(tensor.isfinite().all() for tensor in kept[0].values())


class Spoilt(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return gradients[0] * float("nan")


@pytest.mark.parametrize("stopped", [False, True])
def test_weights_that_are_not_finite_are_not_saved(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """The loss of the step that spoils them is finite, yet its state must not be saved."""
    at = 5 if stopped else 6  # a state falls due at 3, 6, 9, and where a run is told to stop
    steps: list[int] = []

    def spoilt(*args: Any) -> Any:
        loss = convirt_loss(*args)
        if loss.requires_grad:
            steps.append(0)
        return Spoilt.apply(loss) if len(steps) == at else loss

    with monkeypatch.context() as patched:
        patched.setattr(convirt, "convirt_loss", spoilt)
        with pytest.raises(InputError, match="weights that are not finite") as caught:
            data = tiny_models.corpus()
            told = (lambda: len(steps) == at) if stopped else (lambda: False)
            pretrain(fresh(bert, data), data, PAPER, CONFIG, tmp_path, quiet, stop=told)
    batch = tiny_models.corpus().train.draw(CONFIG.seed, at - 1, CONFIG.batch_size)
    rows = ", ".join(map(str, batch.images))
    assert f"weights after step {at}, on rows {rows} of records.parquet" in str(caught.value)
    kept = checkpoint.load_state(tmp_path)
    assert kept is not None
    assert all(tensor.isfinite().all() for tensor in kept[0].values())
    assert_same_run(run(bert, CONFIG, tmp_path), run(bert))  # from the state before


def test_images_may_be_a_memory_map(bert: Path, tmp_path: Path) -> None:
    data = tiny_models.corpus()
    model = fresh(bert, data)
    np.save(tmp_path / "images.npy", data.images)
    mapped = replace(data, images=np.load(tmp_path / "images.npy", mmap_mode="r"))
    result = pretrain(model, mapped, PAPER, CONFIG, None, quiet)
    assert_same_run((model, result), run(bert))


def test_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.require("cpu") == "cpu"
    with pytest.raises(InputError, match=r"compute\.device") as caught:
        devices.require("cuda")
    assert "set compute.device: cpu" in caught.value.hint
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    assert devices.require("cuda") == "cuda"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
    with pytest.raises(InputError, match=r"Old GPU, of compute capability 7\.0"):
        devices.require("cuda")


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((7, 0), False),  # Volta: older than the oldest
        ((7, 5), True),
        ((8, 0), False),  # machine code of another major version does not run
        ((8, 9), True),
        ((9, 0), True),
        ((10, 3), False),
        ((12, 1), True),
        ((13, 0), True),  # newer: compiled from the intermediate code
    ],
)
def test_kernels_of_an_architecture(capability: tuple[int, int], runs: bool) -> None:
    built = ["sm_75", "sm_86", "sm_90a", "sm_120", "compute_120"]
    assert devices.has_kernels(capability, built) == runs


@pytest.mark.parametrize("told", ["two", "0", "-1", "\u0663"])
def test_cores_that_are_no_number(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(devices.CORES, told)
    with pytest.raises(InputError, match="CONVIRT_CORES"):
        devices.cores()
    monkeypatch.setenv(devices.CORES, "3")
    assert devices.cores() == 3


@pytest.mark.parametrize(("name", "left_out"), [("convirt", 5 + 16), ("moco_v2", 0)])
def test_a_resume_state_leaves_out_what_never_changes(
    name: str, left_out: int, bert: Path, tmp_path: Path
) -> None:
    """The frozen layers, but not MoCo's key encoder, which needs no gradient and still changes."""
    data = tiny_models.corpus()
    options = {"queue": 8, "groups": 1} if name == "moco_v2" else {}
    model = tiny_models.objective(name, bert, data, options=options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(KilledError):
        pretrain(model, data, PAPER, CONFIG, tmp_path, killed_at(7))
    saved = checkpoint.load_state(tmp_path)
    assert saved is not None
    for part in ("model/", "best/"):
        written = {key.removeprefix(part) for key in saved[0] if key.startswith(part)}
        constant = before.keys() - written
        assert constant == model.constant() and len(constant) == left_out
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]) or key not in constant


@pytest.mark.parametrize(("processes", "at_once"), [(1, 0), (2, 4)])
def test_one_of_several_processes_validates_with_the_memory_of_its_part(
    processes: int, at_once: int, bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convirt.processes.count", lambda: processes)
    model, config = fresh(bert, tiny_models.corpus()), replace(CONFIG, batch_size=8)
    assert training._validated_at_once(model, config) == at_once
    assert training._validated_at_once(model, replace(config, chunk=2)) == 2
    options = {"queue": 8, "groups": 1}
    whole = tiny_models.objective("moco_v2", bert, tiny_models.corpus(), options=options)
    assert training._validated_at_once(whole, config) == 0


def test_a_resumed_run_knows_its_best_state_and_how_long_it_was_flat(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Validation is best at step 4 and then worse, so that the rate decays after two more."""
    losses = {0: 9.0, 4: 3.0, 8: 4.0, 12: 5.0, 16: 6.0}

    def told(progress: Progress, cost: float, loss: float, config: TrainConfig) -> bool:
        return note_validation(progress, losses[progress.step], losses[progress.step], config)

    monkeypatch.setattr(training, "note_validation", told)
    config = replace(CONFIG, patience=2)
    whole = tiny_models.train("convirt", bert, config)
    assert (whole[1].best_step, whole[1].history[-1]["lr"]) == (4, CONFIG.lr / 2)
    model, result, taken_up = tiny_models.killed_and_resumed(
        "convirt", bert, config, tmp_path, [10]
    )
    assert taken_up == [9]
    assert_same_run(whole, (model, result))
