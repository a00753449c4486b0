"""Transfer protocols on a tiny encoder: what is trained, what is not, and that it repeats."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from objective_runs import same, state
from torch import Tensor, nn

from convirt import checkpoint, labelled, transfer
from convirt import recipe as recipe_parts
from convirt.errors import InputError, StoppedError
from convirt.labelled import Features, Images, check_task, features, label_subset
from convirt.metrics import group
from convirt.recipe import Recipe, Score
from convirt.transfer import Classifier

RECIPE = Recipe(
    protocol="finetune",
    kind="binary",
    metric="auroc",
    lr=1e-3,
    batch_size=16,
    weight_decay=1e-6,
    dropout=0.2,
    head_steps=10,
    head_lr=1e-2,
    patience=3,
    factor=0.5,
    stop=10,
    max_epochs=4,
    seed=0,
)


class Encoder(nn.Module):
    """(N, 3, 8, 8) to (N, 6), with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.norm(self.conv(x)).relu().mean(dim=(2, 3))
        return h


def prepare(stored: Tensor) -> Tensor:
    """Grey bytes to three channels."""
    return (stored.unsqueeze(1).float() / 255 - 0.5).expand(-1, 3, -1, -1)


def split(n: int, seed: int, labels: int = 1, patients: bool = False) -> Images:
    """n noise images, of which those of a class are brighter on one side."""
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % max(2, labels)
    y = np.eye(labels)[truth] if labels > 1 else truth[:, None].astype(float)
    pixels = rng.integers(0, 120, (n + 5, 8, 8)).astype(np.uint8)
    rows = rng.permutation(n + 5)[:n]
    pixels[rows[truth == 1], :, :3] += 60
    pixels[rows[truth == 2], :3, :] += 60
    image = [f"i{i}" for i in range(n)]
    patient = [f"p{i // 4}" for i in range(n)]
    units = group(patient if patients else image, patient, y)
    return Images(pixels, rows, torch.from_numpy(y).float(), units, prepare, "cpu")


def classifier(recipe: Recipe = RECIPE, labels: int = 1) -> Classifier:
    return Classifier(Encoder(), 6, labels, recipe)


def ready(recipe: Recipe, *sources: Images, labels: int = 1) -> tuple[nn.Module, Any]:
    """A fresh model for the recipe's protocol, and its inputs from some images."""
    model = classifier(recipe, labels)
    if recipe.protocol == "finetune":
        return model, list(sources)
    return model.head, [features(model.encoder, source) for source in sources]


# ------------------------------------------------------------------------------ label fractions
def records(n: int, seed: int = 0) -> pd.DataFrame:
    """n images with three labels, of which c is rare."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"image": [f"img{i:05d}" for i in range(n)]})
    for name, share in (("a", 0.5), ("b", 0.2), ("c", 0.01)):
        frame[name] = (rng.random(n) < share).astype(float)
    frame.loc[n // 2, "c"] = 1.0
    return frame


LABELS = ["a", "b", "c"]


@pytest.mark.parametrize("seed", range(5))
def test_fractions_are_nested(seed: int) -> None:
    frame = records(700, seed)
    parts = [set(label_subset(frame, LABELS, f, seed)) for f in (1, 2, 5, 10, 33, 99, 100)]
    for smaller, larger in pairwise(parts):
        assert smaller < larger
    assert parts[-1] == set(range(700))


def test_fractions_are_stratified() -> None:
    frame = records(2000)
    part = frame.iloc[label_subset(frame, LABELS, 10, 0)]
    assert 200 <= len(part) <= 206  # at most one more for each class
    counts, whole = part.value_counts(LABELS), frame.value_counts(LABELS)
    for stratum, count in whole.items():
        assert abs(counts.get(stratum, 0) - count / 10) <= 1.01


def test_each_class_keeps_one_image() -> None:
    frame = records(300)
    part = frame.iloc[label_subset(frame, LABELS, 1, 3)]
    assert (part[LABELS].nunique() == 2).all()
    assert len(part) <= 3 + 6
    balanced = pd.DataFrame({"image": list("xyzw"), "a": [0.0, 1.0, 0.0, 1.0]})
    assert sorted(balanced["a"].iloc[label_subset(balanced, ["a"], 1, 0)]) == [0.0, 1.0]


def test_an_absent_label_keeps_one_image_as_well() -> None:
    frame = pd.DataFrame({"image": [f"i{i}" for i in range(300)], "a": 1.0})
    frame.loc[17, "a"] = 0.0
    for seed in range(5):
        assert 17 in label_subset(frame, ["a"], 1, seed)


@pytest.mark.parametrize(("n", "count"), [(270, 3), (230, 2), (40, 2)])
def test_a_fraction_is_rounded_to_whole_images(n: int, count: int) -> None:
    frame = pd.DataFrame({"image": [f"i{i}" for i in range(n)], "a": np.arange(n) % 2.0})
    assert len(label_subset(frame, ["a"], 1, 0)) == count


def test_fractions_depend_on_the_seed_and_not_on_the_order_of_rows() -> None:
    frame = records(500)
    first = label_subset(frame, LABELS, 10, 0)
    assert np.array_equal(first, label_subset(frame, LABELS, 10, 0))
    assert not np.array_equal(first, label_subset(frame, LABELS, 10, 1))
    shuffled = frame.sample(frac=1, random_state=5).reset_index(drop=True)
    again = shuffled["image"].iloc[label_subset(shuffled, LABELS, 10, 0)]
    assert set(again) == set(frame["image"].iloc[first])
    assert (np.diff(first) > 0).all()


def test_every_image_has_the_same_chance() -> None:
    frame = records(60)
    drawn = np.zeros(60)
    for seed in range(400):
        drawn[label_subset(frame, ["a"], 20, seed)] += 1 / 400
    assert drawn.min() > 0.1 and drawn.max() < 0.3


def test_a_rare_stratum_is_drawn_by_its_share() -> None:
    """Two of 100 images at 10%: one is among them in a fifth of the draws."""
    frame = pd.DataFrame({"image": [f"i{i}" for i in range(100)], "a": np.arange(100) % 2.0})
    frame["b"] = frame["a"]
    frame.loc[[10, 20], "b"] = 1.0
    drawn = [{10, 20} & set(label_subset(frame, ["a", "b"], 10, seed)) for seed in range(400)]
    assert np.mean([len(rare) for rare in drawn]) == pytest.approx(0.2, abs=0.08)


# ------------------------------------------------------------------------------ bad tasks
def task_records() -> pd.DataFrame:
    frame = pd.DataFrame({"image": [f"i{k}" for k in range(12)]})
    frame["patient"] = [f"p{k // 2}" for k in range(12)]
    frame["split"] = ["train"] * 4 + ["val"] * 4 + ["test"] * 4
    frame["x"] = [0.0, 1.0] * 6
    frame["y"] = 1 - frame["x"]
    return frame


def test_a_sound_task_is_accepted() -> None:
    check = partial(check_task, task_records(), ["x", "y"], where=Path("store"))
    check(kind="multiclass", metric="accuracy", unit="image")
    check(kind="multilabel", metric="auroc", unit="image")


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_one_class_only_in_a_split_is_an_error(name: str) -> None:
    frame = task_records()
    frame.loc[frame["split"] == name, "x"] = 1.0
    with pytest.raises(InputError, match=rf"store \({name}\)\n.*\n.*only one class of x"):
        check_task(frame, ["x"], "binary", "auroc", "image", Path("store"))


def test_one_class_only_after_gathering_by_patient_is_an_error() -> None:
    with pytest.raises(InputError, match=r"\(val\)\n.*\n.*only one class of x"):
        check_task(task_records(), ["x"], "binary", "auroc", "patient", Path("store"))


def test_an_unknown_label_names_the_nearest() -> None:
    frame = task_records().rename(columns={"x": "pneumonia"})
    with pytest.raises(InputError, match="nearest column is 'pneumonia'"):
        check_task(frame, ["Pneumonia"], "binary", "auroc", "image", Path("store"))


def test_a_unit_of_two_classes_is_an_error() -> None:
    with pytest.raises(InputError, match="2 classes for 'p0'"):
        check_task(task_records(), ["x", "y"], "multiclass", "accuracy", "patient", Path("s"))


# ------------------------------------------------------------------------------ pure pieces
def test_batches_are_a_permutation_in_even_parts() -> None:
    parts = recipe_parts.batches(65, 64, 0, 1)
    assert sorted(map(len, parts)) == [32, 33]
    assert sorted(np.concatenate(parts)) == list(range(65))
    assert [len(part) for part in recipe_parts.batches(3, 64, 0)] == [3]
    again = recipe_parts.batches(65, 64, 0, 1)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert not np.array_equal(parts[0], recipe_parts.batches(65, 64, 0, 2)[0])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], (0, 1.0, False)),
        ([0.5, 0.6, 0.7], (2, 1.0, False)),
        ([0.5, 0.4, 0.4], (0, 1.0, False)),
        ([0.5, 0.4, 0.4, 0.4], (0, 0.5, False)),
        ([0.5, 0.4, 0.4, 0.4, 0.6, 0.1, 0.1], (4, 0.5, False)),
        ([0.5, 0.4, 0.4, 0.4, 0.6, 0.1, 0.1, 0.1], (4, 0.25, False)),
        ([0.5, *[0.4] * 9], (0, 0.125, False)),
        ([0.5, *[0.4] * 10], (0, 0.125, True)),
    ],
)
def test_plan(values: list[float], expected: tuple[int, float, bool]) -> None:
    history = [Score(value, -1.0) for value in values]
    assert recipe_parts.plan(history, replace(RECIPE, lr=1.0)) == expected


def test_a_lower_loss_breaks_a_tie() -> None:
    history = [Score(0.5, -0.7), Score(0.5, -0.6), Score(0.5, -0.6), Score(0.4, -0.1)]
    assert recipe_parts.plan(history, RECIPE)[0] == 1


def test_losses_and_probabilities_in_closed_form() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0]])
    y = torch.tensor([[0.0, 1.0, 0.0]])
    assert float(recipe_parts.loss_of(logits, y, "multiclass")) == pytest.approx(np.log(3))
    assert float(recipe_parts.loss_of(logits, y, "multilabel")) == pytest.approx(np.log(2))
    assert recipe_parts.probabilities(logits, "multiclass").tolist() == [[pytest.approx(1 / 3)] * 3]
    confident = torch.tensor([[20.0], [21.0]])  # both are 1 in single precision
    p = recipe_parts.probabilities(confident, "binary")
    assert p[0, 0] < p[1, 0] < 1


def test_probabilities_are_averaged_over_a_unit_and_losses_taken_of_images() -> None:
    """a: 0.0001 and 0.73, b: 0.27 twice; by mean logits b would be ahead."""
    logits = torch.tensor([[-9.0], [1.0], [-1.0], [-1.0]])
    y = torch.tensor([[1.0], [1.0], [0.0], [0.0]])
    units = group(list("aabb"), list("aabb"), y.double().numpy())
    found = transfer.score(nn.Identity(), Features(logits, np.arange(4), y, units), RECIPE)
    assert found.value == 1.0
    loss = nn.functional.binary_cross_entropy_with_logits(logits, y)
    assert found.minus_loss == pytest.approx(-float(loss))


# ------------------------------------------------------------------------------ what is trained
def test_images_are_read_from_a_memory_map_by_row(tmp_path: Path) -> None:
    source = split(10, 0)
    np.save(tmp_path / "images.npy", source.pixels)
    mapped = replace(source, pixels=np.load(tmp_path / "images.npy", mmap_mode="r"))
    index = np.array([7, 2, 2])
    assert torch.equal(mapped.batch(index), source.batch(index))
    expected = prepare(torch.from_numpy(source.pixels[source.rows[index]]))
    assert torch.equal(source.batch(index), expected)


def test_features_are_what_the_encoder_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelled, "EVAL_BATCH", 3)
    source, encoder = split(10, 0), Encoder().train()
    cached = features(encoder, source, np.array([1, 4, 5, 9]))
    with torch.no_grad():
        expected = encoder.eval()(source.batch(np.array([9, 1])))
    assert torch.allclose(cached.batch(np.array([9, 1])), expected, atol=1e-6)
    assert cached.h.shape == (4, 6) and not cached.h.requires_grad


def test_the_head_phase_trains_the_head_and_nothing_else() -> None:
    model = classifier()
    encoder, head = state(model.encoder), state(model.head)
    transfer.train_head(model, split(40, 0), RECIPE)
    assert same(encoder, state(model.encoder))  # BatchNorm statistics among them
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.head.parameters())
    assert not same(head, state(model.head))


def test_the_head_phase_takes_exactly_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def count(model: nn.Module, source: object, index: np.ndarray, *rest: object) -> None:
        taken.append(len(index))

    monkeypatch.setattr(transfer, "step", count)
    transfer.train_head(classifier(), split(40, 0), replace(RECIPE, head_steps=7))
    assert taken == [14, 13, 13, 14, 13, 13, 14]
    transfer.train_head(classifier(), split(40, 0), replace(RECIPE, head_steps=0))
    assert len(taken) == 7


def test_fine_tuning_trains_everything() -> None:
    model, source = classifier(), split(40, 0)
    before = state(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    transfer.step(model, source, np.arange(16), optimizer, RECIPE, key=0)
    lone = {"encoder.conv.bias"}  # BatchNorm cancels it
    for name, parameter in model.named_parameters():
        assert name in lone or (parameter.grad is not None and parameter.grad.any())
    changed = [name for name, value in state(model).items() if not torch.equal(value, before[name])]
    assert set(before) - set(changed) <= lone
    assert "encoder.norm.running_mean" in changed


def test_features_leave_the_encoder_untouched() -> None:
    recipe = replace(RECIPE, protocol="linear", lr=1e-2)
    model = classifier(recipe).train()
    before, head = state(model.encoder), state(model.head)
    train, val = (features(model.encoder, split(n, seed)) for n, seed in ((40, 0), (20, 1)))
    outcome = transfer.transfer(model.head, train, val, recipe)
    assert same(before, state(model.encoder))  # BatchNorm statistics among them
    assert all(p.grad is None for p in model.encoder.parameters())
    assert not same(head, state(model.head))
    assert 1 <= outcome.best_epoch <= outcome.epochs == 4
    assert len(outcome.history) == 4


@pytest.mark.parametrize(("protocol", "other"), [("linear", "finetune"), ("finetune", "linear")])
def test_a_model_of_the_other_protocol_is_refused(protocol: str, other: str) -> None:
    model, (data,) = ready(replace(RECIPE, protocol=other), split(20, 0))
    with pytest.raises(ValueError, match=protocol):
        transfer.transfer(model, data, data, replace(RECIPE, protocol=protocol))


def test_the_head_phase_equals_training_through_the_frozen_encoder() -> None:
    # the slow way: no cached features, the encoder run in every step
    source, recipe = split(40, 0), replace(RECIPE, dropout=0.0)
    fast, slow = classifier(recipe), classifier(recipe)
    transfer.train_head(fast, source, recipe)
    slow.encoder.eval().requires_grad_(False)
    optimizer = torch.optim.Adam(slow.head.parameters(), lr=recipe.head_lr, weight_decay=1e-6)
    drawn = [b for k in (0, 3, 6, 9) for b in recipe_parts.batches(40, 16, 0, transfer.HEAD, k)]
    for index in drawn[:10]:
        optimizer.zero_grad()
        recipe_parts.loss_of(slow(source.batch(index)), source.y[index], "binary").backward()
        optimizer.step()
    for a, b in zip(fast.head.parameters(), slow.head.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(("protocol", "passes"), [("finetune", 2 + 4), ("linear", 4)])
def test_each_pass_has_an_order_and_each_step_a_key_of_its_own(
    protocol: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(RECIPE, protocol=protocol, head_steps=6, stop=99)
    model, (train, val) = ready(recipe, split(40, 0), split(20, 1))
    drawn: list[np.ndarray] = []
    keys: set[int] = set()

    def note(_: object, __: object, index: np.ndarray, *rest: Any) -> Tensor:
        drawn.append(index)
        keys.add(rest[-1])
        return torch.zeros(())

    monkeypatch.setattr(transfer, "step", note)
    transfer.transfer(model, train, val, recipe)
    assert len(drawn) == len(keys) == 3 * passes
    orders = {tuple(np.concatenate(drawn[i : i + 3])) for i in range(0, len(drawn), 3)}
    assert len(orders) == passes
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(40))}


# ------------------------------------------------------------------------------ whole runs
@pytest.mark.parametrize("protocol", ["finetune", "linear"])
@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass"])
def test_it_learns(protocol: str, kind: str) -> None:
    labels = 1 if kind == "binary" else 3
    metric = "accuracy" if kind == "multiclass" else "auroc"
    recipe = replace(RECIPE, protocol=protocol, kind=kind, metric=metric, lr=0.02, max_epochs=15)
    images = split(90, 0, labels), split(45, 1, labels, patients=False), split(45, 2, labels)
    model, (train, val, test) = ready(recipe, *images, labels=labels)
    told: list[transfer.EpochReport] = []
    outcome = transfer.transfer(model, train, val, recipe, told.append)
    assert transfer.score(model, test, recipe).value > 0.9
    assert told[-1].train_loss < told[0].train_loss
    assert told[-1].epoch == outcome.epochs and told[-1].best_epoch == outcome.best_epoch


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
def test_the_best_validated_state_is_left(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = [0.2, 0.9, 0.3, 0.4]
    scores = iter([Score(value, -1.0) for value in (0.1, *told)])
    if protocol == "linear":  # which has no head-only phase
        next(scores)
    recipe = replace(RECIPE, protocol=protocol, max_epochs=4, stop=99)
    model, (train, val) = ready(recipe, split(40, 0), split(20, 1))
    monkeypatch.setattr(transfer, "score", lambda *_: next(scores))
    seen: dict[int, dict[str, Tensor]] = {}
    outcome = transfer.transfer(
        model, train, val, recipe, lambda epoch: seen.update({epoch.epoch: state(model)})
    )
    assert (outcome.best_epoch, outcome.epochs) == (2, 4)
    assert same(state(model), seen[2]) and not same(seen[2], seen[4])


def test_the_head_only_state_is_a_candidate() -> None:
    recipe = replace(RECIPE, lr=1e-12, head_steps=60)
    model = classifier(recipe)
    outcome = transfer.transfer(model, split(40, 0), split(20, 1), replace(recipe, max_epochs=1))
    assert len(outcome.history) == 2
    alone = classifier(recipe)
    transfer.train_head(alone, split(40, 0), recipe)
    assert outcome.history[0] == transfer.score(alone, split(20, 1), recipe)


def test_it_stops_when_validation_is_flat() -> None:
    recipe = replace(RECIPE, protocol="linear", lr=1e-30, stop=2, patience=1, max_epochs=50)
    told: list[transfer.EpochReport] = []
    model, (train, val) = ready(recipe, split(20, 0), split(20, 1))
    outcome = transfer.transfer(model, train, val, recipe, told.append)
    assert outcome.epochs == 3 and outcome.best_epoch == 1
    assert [p.lr / recipe.lr for p in told] == [1.0, 1.0, 0.5]


def test_same_seed_same_bytes() -> None:
    states = []
    for seed in (0, 0, 1):
        recipe = replace(RECIPE, seed=seed)
        model = classifier(recipe)
        transfer.transfer(model, split(40, 0), split(20, 1), recipe)
        states.append(state(model))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
@pytest.mark.parametrize("when", [1, 2, 4])
def test_killed_and_resumed_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, when: int
) -> None:
    monkeypatch.setattr(transfer, "KEEP_EVERY", 0.0)
    recipe = replace(RECIPE, protocol=protocol, max_epochs=5, lr=0.05)

    def build() -> nn.Module:
        # convolutions laid out as in real runs: a state read back has to take up that layout
        return ready(recipe)[0].to(memory_format=torch.channels_last)

    whole, resumed = build(), build()
    train, val = ready(recipe, split(40, 0), split(20, 1))[1]
    expected = transfer.transfer(whole, train, val, recipe)

    def kill(progress: transfer.EpochReport) -> None:
        if progress.epoch == when:
            raise KilledError

    with pytest.raises(KilledError):
        transfer.transfer(build(), train, val, recipe, kill, tmp_path)
    seen: list[int] = []
    outcome = transfer.transfer(
        resumed, train, val, recipe, lambda p: seen.append(p.epoch), tmp_path
    )
    assert seen[0] == max(1, when)  # the epoch that was cut off is repeated, none before it
    assert outcome == expected
    assert same(state(whole), state(resumed))


class Counter:
    """Counts the batches of sources, and may stop instead of giving one."""

    def __init__(self, stop: int = 0) -> None:
        self.count, self.stop = 0, stop

    def of(self, source: labelled.Source) -> labelled.Source:
        """The same source, counted."""
        counted = copy.copy(source)
        object.__setattr__(counted, "batch", partial(self._batch, source))
        return counted

    def _batch(self, source: labelled.Source, index: np.ndarray) -> torch.Tensor:
        self.count += 1
        if self.count == self.stop:
            raise StoppedError
        return source.batch(index)


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
def test_stopped_at_any_batch_and_resumed_gives_the_same_bytes(
    tmp_path: Path, protocol: str
) -> None:
    """In the middle of a pass, in a validation, in the first steps of the head."""
    recipe = replace(RECIPE, protocol=protocol, max_epochs=3, lr=0.05)
    whole = ready(recipe)[0]
    train, val = ready(recipe, split(40, 0), split(20, 1))[1]
    counter = Counter()
    expected = transfer.transfer(whole, counter.of(train), counter.of(val), recipe)
    assert counter.count > 10
    stops = 0
    for when in [*range(1, counter.count, 3), counter.count]:
        cut, scratch = Counter(when), tmp_path / str(when)
        with pytest.raises(StoppedError):
            transfer.transfer(ready(recipe)[0], cut.of(train), cut.of(val), recipe, scratch=scratch)
        stops += (scratch / checkpoint.STATE).is_file()
        resumed = ready(recipe)[0]
        assert transfer.transfer(resumed, train, val, recipe, scratch=scratch) == expected
        assert same(state(whole), state(resumed))
    assert stops > 3  # the first steps of the head have nothing to keep


def test_a_loss_that_explodes_is_an_error() -> None:
    recipe = replace(RECIPE, protocol="linear", lr=1e38)
    model, (train, val) = ready(recipe, split(20, 0), split(20, 1))
    with pytest.raises(InputError, match="loss stays finite"):
        transfer.transfer(model, train, val, replace(recipe, weight_decay=1e30))


@pytest.mark.parametrize("stopped", [False, True])
def test_weights_that_are_not_finite_are_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    """A step may spoil them long before the epoch's loss shows it."""
    real, steps = transfer.step, 0

    def spoil(model: nn.Module, *args: Any) -> Tensor:
        nonlocal steps
        steps += 1
        loss = real(model, *args)
        if steps == 5:  # two passes have three steps each
            next(model.parameters()).data[0] = torch.inf
        return loss

    recipe = replace(RECIPE, protocol="linear")
    whole, (train, val) = ready(recipe, split(40, 0), split(20, 1))
    expected = transfer.transfer(whole, train, val, recipe)
    monkeypatch.setattr(transfer, "KEEP_EVERY", 1e9 if stopped else 0.0)
    with monkeypatch.context() as patched:
        patched.setattr(transfer, "step", spoil)
        cut = Counter(6 if stopped else 0)  # instead of the sixth batch
        with pytest.raises(InputError, match=r"weights that are not finite in epoch 2") as caught:
            model = ready(recipe)[0]
            transfer.transfer(model, cut.of(train), val, recipe, scratch=tmp_path)
    assert caught.value.path == "params.yaml: tasks.<name>.lr"
    kept = checkpoint.load_state(tmp_path)
    assert (kept is None) == stopped
    assert kept is None or all(tensor.isfinite().all() for tensor in kept[0].values())
    resumed = ready(recipe)[0]
    assert transfer.transfer(resumed, train, val, recipe, scratch=tmp_path) == expected
    assert same(state(whole), state(resumed))


def test_two_classifiers_of_one_seed_start_alike() -> None:
    first = classifier()
    torch.rand(3)
    assert same(state(first.head), state(classifier().head))
    assert not same(state(first.head), state(classifier(replace(RECIPE, seed=1)).head))
    assert not torch.equal(state(copy.deepcopy(first))["head.1.weight"], torch.zeros(1, 6))


# ------------------------------------------------------------------------------ what the loop does
def test_after_the_head_phase_every_weight_moves() -> None:
    recipe, seen = replace(RECIPE, max_epochs=1), list[dict[str, Tensor]]()
    model = classifier(recipe)
    before = state(model)
    transfer.transfer(
        model, split(40, 0), split(20, 1), recipe, lambda _: seen.append(state(model))
    )
    still = {n for n, _ in model.named_parameters() if torch.equal(seen[0][n], before[n])}
    assert still <= {"encoder.conv.bias"}  # BatchNorm cancels it


@pytest.fixture
def before_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Let a function see the optimiser before each step."""

    def install(look: Callable[[Any], None]) -> None:
        real = transfer.step

        def step(model: nn.Module, source: Any, index: Any, optimizer: Any, *rest: Any) -> Tensor:
            look(optimizer)
            return real(model, source, index, optimizer, *rest)

        monkeypatch.setattr(transfer, "step", step)

    return install


def test_the_phase_of_all_weights_has_an_adam_of_its_own(
    before_steps: Callable[[Callable[[Any], None]], None],
) -> None:
    seen = list[tuple[int, int]]()

    def note(optimizer: Any) -> None:
        sizes = sum(len(group["params"]) for group in optimizer.param_groups)
        seen.append((sizes, len(optimizer.state)))

    before_steps(note)
    model = classifier()
    transfer.transfer(model, split(40, 0), split(20, 1), replace(RECIPE, max_epochs=1))
    every = len(list(model.parameters()))
    assert seen[:2] == [(2, 0), (2, 2)] and seen[RECIPE.head_steps] == (every, 0)


def test_steps_are_taken_at_the_rate_of_the_plan(
    before_steps: Callable[[Callable[[Any], None]], None],
) -> None:
    recipe = replace(RECIPE, protocol="linear", lr=1e-30, stop=3, patience=1, batch_size=20)
    recipe = replace(recipe, max_epochs=9)
    model, (train, val) = ready(recipe, split(20, 0), split(20, 1))
    used = list[float]()
    before_steps(lambda optimizer: used.append(optimizer.param_groups[0]["lr"] / recipe.lr))
    transfer.transfer(model, train, val, recipe)
    assert used == [1.0, 1.0, 0.5, 0.25]


def test_the_head_drops_features_in_training_alone() -> None:
    drop, x = transfer.linear_head(1000, 1, RECIPE)[0], torch.ones(1, 1000)
    assert float((drop.train()(x) == 0).float().mean()) == pytest.approx(RECIPE.dropout, abs=0.05)
    assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_steps_may_be_in_bfloat16_and_scores_never_are(bfloat16: bool) -> None:
    recipe, seen = replace(RECIPE, bfloat16=bfloat16, max_epochs=1), set[tuple[bool, torch.dtype]]()
    model = classifier(recipe)

    def note(module: nn.Module, _: Any, out: Tensor) -> None:
        seen.add((torch.is_grad_enabled(), out.dtype))

    model.encoder.get_submodule("conv").register_forward_hook(note)
    transfer.transfer(model, split(40, 0), split(20, 1), recipe)
    transfer.predict(model, split(20, 2))
    step = torch.bfloat16 if bfloat16 else torch.float32
    assert (True, step) in seen and {dtype for grad, dtype in seen if grad} == {step}
    assert {dtype for grad, dtype in seen if not grad} == {torch.float32}
