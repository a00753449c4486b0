"""Metrics against closed forms, scikit-learn and a slow bootstrap."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, sem, t
from sklearn.metrics import accuracy_score, roc_auc_score

from convirt import bootstrap, metrics
from convirt.errors import InputError


def table(
    y: np.ndarray, p: np.ndarray, patient: list[str], unit: str = "image", repeat: int = 0
) -> pd.DataFrame:
    """Predictions in the layout of a run, labels a, b, ..."""
    image = [f"i{k:05d}" for k in range(len(y))]
    columns: dict[str, object] = {"repeat": repeat, "image": image, "patient": patient}
    columns["unit"] = image if unit == "image" else patient
    for i in range(y.shape[1]):
        columns[f"y_{'abcdef'[i]}"] = y[:, i].astype(float)
        columns[f"p_{'abcdef'[i]}"] = p[:, i]
    return pd.DataFrame(columns)


def made_up(
    n: int, labels: int, seed: int, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, informative scores and about n / 2 patients."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < 0.3).astype(float)
    p = rng.normal(size=(n, labels)) + strength * y
    return y, p, [f"p{k}" for k in rng.integers(0, n // 2, n)]


def test_auroc_closed_forms() -> None:
    y = np.array([0.0, 0.0, 1.0, 1.0])
    assert metrics.auroc(y, np.array([1.0, 2.0, 3.0, 4.0])) == [1.0]
    assert metrics.auroc(y, np.array([4.0, 3.0, 2.0, 1.0])) == [0.0]
    assert metrics.auroc(y, np.zeros(4)) == [0.5]
    # of the four pairs two are won, one is a tie, one is lost
    assert metrics.auroc(y, np.array([1.0, 3.0, 3.0, 2.0])) == [2.5 / 4]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=40))
def test_auroc_equals_scikit_learn_with_ties(items: list[tuple[bool, int]]) -> None:
    y = np.array([float(item[0]) for item in items])
    p = np.array([float(item[1]) for item in items])
    value = metrics.auroc(y, p)[0]
    if 0 < y.sum() < len(y):
        assert value == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    else:
        assert np.isnan(value)


def test_weighted_auroc_equals_repeating_the_items() -> None:
    rng = np.random.default_rng(0)
    y, p = (rng.random(30) < 0.4).astype(float), rng.integers(0, 6, 30).astype(float)
    weights = rng.integers(0, 4, (5, 30)).astype(float)
    for row, value in zip(weights, metrics.auroc(y, p, weights), strict=True):
        times = row.astype(int)
        assert value == pytest.approx(roc_auc_score(y.repeat(times), p.repeat(times)), abs=1e-12)


def test_mean_auroc_is_the_plain_mean_over_labels() -> None:
    y, p, _ = made_up(50, 3, seed=1)
    expected = np.mean([roc_auc_score(y[:, i], p[:, i]) for i in range(3)])
    assert metrics.mean_auroc(y, p)[0] == pytest.approx(expected, abs=1e-12)


def test_accuracy() -> None:
    rng = np.random.default_rng(2)
    truth, p = rng.integers(0, 3, 40), rng.random((40, 3))
    expected = accuracy_score(truth, p.argmax(axis=1))
    assert metrics.accuracy(np.eye(3)[truth], p)[0] == pytest.approx(expected)
    y = np.array([[1.0], [0.0], [1.0], [0.0]])
    assert metrics.accuracy(y, np.array([[0.9], [0.2], [0.4], [0.5]]))[0] == 0.5


def test_scores_are_averaged_before_the_metric() -> None:
    # patient a: 0.9 and 0.1 average to 0.5, below b's 0.6 and above c's 0.3
    y = np.array([[1.0], [1.0], [0.0], [0.0]])
    p = np.array([[0.9], [0.1], [0.6], [0.3]])
    frame = table(y, p, ["a", "a", "b", "c"], unit="patient")
    assert metrics.estimate(frame, "auroc", 10, 0).value == 0.5
    assert metrics.estimate(frame.assign(unit=frame["image"]), "auroc", 10, 0).value == 0.5
    units = metrics.group(["u", "t", "u"], ["q", "r", "q"], np.array([[1.0], [0.0], [0.0]]))
    assert units.y.tolist() == [[0.0], [1.0]]  # units are sorted: t, u
    assert units.average(np.array([[1.0], [5.0], [2.0]])).tolist() == [[5.0], [1.5]]
    assert units.patient.tolist() == [1, 0]


def slow_interval(frame: pd.DataFrame, resamples: int, seed: int) -> tuple[float, float]:
    """Resample patients one by one and copy their rows."""
    rng = np.random.default_rng(seed)
    names = sorted(set(frame["patient"]))
    rows = {name: np.flatnonzero(frame["patient"] == name) for name in names}
    y, p = frame["y_a"].to_numpy(), frame["p_a"].to_numpy()
    values = []
    for drawn in rng.integers(0, len(names), (resamples, len(names))):
        take = np.concatenate([rows[names[k]] for k in drawn])
        values.append(roc_auc_score(y[take], p[take]))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def test_bootstrap_equals_the_slow_one() -> None:
    frame = table(*made_up(60, 1, seed=3))
    result = metrics.estimate(frame, "auroc", 100, seed=7)
    assert (result.low, result.high) == pytest.approx(slow_interval(frame, 100, 7), abs=1e-12)
    assert result.patients == frame["patient"].nunique()
    assert result.value == pytest.approx(roc_auc_score(frame["y_a"], frame["p_a"]), abs=1e-12)


def test_bootstrap_is_seeded_and_ignores_the_order_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table(*made_up(80, 2, seed=4))
    first = metrics.estimate(frame, "auroc", 300, seed=1)
    assert metrics.estimate(frame.sample(frac=1, random_state=0), "auroc", 300, seed=1) == first
    assert metrics.estimate(frame, "auroc", 300, seed=2).low != first.low
    assert first.low < first.value < first.high


def test_a_resample_in_blocks_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = table(*made_up(40, 1, seed=5))
    monkeypatch.setattr(bootstrap, "BLOCK", 40 * 7)  # 100 resamples in blocks of 7
    result = metrics.estimate(frame, "auroc", 100, seed=7)
    assert (result.low, result.high) == pytest.approx(slow_interval(frame, 100, 7), abs=1e-12)


def test_coverage_is_near_95_percent() -> None:
    # normal scores one standard deviation apart have AUROC Phi(1 / sqrt 2) = 0.7602
    inside = 0
    for seed in range(100):
        y, p, _ = made_up(200, 1, seed=1000 + seed)
        result = metrics.estimate(table(y, p, [f"p{k}" for k in range(200)]), "auroc", 200, seed)
        inside += result.low <= 0.7602 <= result.high
    assert 88 <= inside <= 100


def test_repeats_are_averaged() -> None:
    y, p, patient = made_up(60, 1, seed=6)
    _, other, _ = made_up(60, 1, seed=8)
    both = pd.concat([table(y, p, patient), table(y, other + y, patient, repeat=1)])
    result = metrics.estimate(both, "auroc", 50, 0)
    expected = (roc_auc_score(y, p), roc_auc_score(y, other + y))
    assert result.repeats == pytest.approx(expected, abs=1e-12)
    assert result.value == pytest.approx(np.mean(expected), abs=1e-12)


# ------------------------------------------------------------------------------ repeats
def repeated(count: int, n: int = 60, seed: int = 20) -> pd.DataFrame:
    """The same patients scored by several repeats of different skill."""
    y, p, patient = made_up(n, 1, seed)
    noise = [made_up(n, 1, seed + 1 + r)[1] for r in range(count)]
    return pd.concat([table(y, p + noise[r] + r * y, patient, repeat=r) for r in range(count)])


def slow_draws(frame: pd.DataFrame, resamples: int, seed: int) -> np.ndarray:
    """Resample patients, copy their rows in each repeat: (resamples, R)."""
    tables = [rows for _, rows in frame.groupby("repeat")]
    names = sorted(set(frame["patient"]))
    values = []
    for drawn in np.random.default_rng(seed).integers(0, len(names), (resamples, len(names))):
        copies = [pd.concat([rows[rows["patient"] == names[k]] for k in drawn]) for rows in tables]
        values.append([roc_auc_score(copied["y_a"], copied["p_a"]) for copied in copies])
    return np.array(values)


def slow_noise(repeats: Sequence[float], resamples: int, seed: int, run: int = 0) -> np.ndarray:
    """Quantiles of Student's t, shuffled, times the standard error of the mean."""
    if len(repeats) == 1:
        return np.zeros(resamples)
    spots = (np.arange(resamples) + 0.5) / resamples
    order = np.random.default_rng([seed, 1, run]).permutation(resamples)
    noise: np.ndarray = t.ppf(spots, len(repeats) - 1)[order] * sem(repeats)
    return noise


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_interval_over_patients_and_repeats_equals_the_slow_one(count: int) -> None:
    frame = repeated(count, n=24)
    result = metrics.estimate(frame, "auroc", 40, seed=7)
    draws = slow_draws(frame, 40, 7).mean(axis=1) + slow_noise(result.repeats, 40, 7)
    expected = np.percentile(np.clip(draws, 0, 1), [2.5, 97.5])
    assert (result.low, result.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_a_single_repeat_has_the_interval_over_patients() -> None:
    frame = repeated(1)
    result = metrics.estimate(frame, "auroc", 100, seed=7)
    assert result.over_patients == (result.low, result.high)
    assert result.over_patients == pytest.approx(slow_interval(frame, 100, 7), abs=1e-12)
    assert result.over_repeats is None


def test_repeats_that_differ_widen_the_interval_and_equal_ones_do_not() -> None:
    frame = repeated(4)
    result = metrics.estimate(frame, "auroc", 500, seed=7)
    low, high = result.over_patients
    assert result.high - result.low > 1.2 * (high - low)
    y, p, patient = made_up(60, 1, 3)
    same = pd.concat([table(y, p, patient, repeat=r) for r in range(4)])
    result = metrics.estimate(same, "auroc", 500, seed=7)
    assert (result.low, result.high) == pytest.approx(result.over_patients, abs=1e-12)
    assert result.over_repeats is not None
    assert result.over_repeats.sd == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_noise_of_repeats_has_the_interval_of_students_t(count: int) -> None:
    values = np.random.default_rng(0).normal(size=count)
    noise = bootstrap.repeat_noise([values], 20_000, 0)
    assert noise.mean() == pytest.approx(0, abs=1e-6)
    expected = t.interval(0.95, count - 1, 0, sem(values))
    assert np.percentile(noise, [2.5, 97.5]) == pytest.approx(expected, rel=0.01)
    assert not np.array_equal(noise, np.sort(noise))
    two = bootstrap.repeat_noise([values, values], 20_000, 0)  # of two runs that are not paired
    if count == 20:  # with so many degrees of freedom, t has a stable variance
        assert two.var() == pytest.approx(2 * noise.var(), rel=0.05)
    assert not bootstrap.repeat_noise([values[:1], values[:1]], 10, 0).any()


@pytest.mark.parametrize("count", [2, 5])
def test_coverage_where_repeats_are_most_of_the_noise(count: int) -> None:
    # many patients, few repeats: drawing repeats with replacement would cover 49% and 88%
    rng = np.random.default_rng(5)
    truth, inside = 0.8, 0
    for seed in range(400):
        values = rng.normal(truth, 0.02, count)
        low, high = bootstrap.interval(values.mean() + bootstrap.repeat_noise([values], 200, seed))
        inside += low <= truth <= high
    assert 0.93 <= inside / 400 <= 0.97


def test_intervals_stay_where_metrics_are() -> None:
    y, p, patient = made_up(60, 1, 3)
    apart = pd.concat([table(y, s * y + p * (s == 0), patient, repeat=s) for s in (0, 1)])
    whole = metrics.estimate(apart, "auroc", 100, 0)
    assert 0 <= whole.low < whole.value < whole.high == 1
    lead = metrics.paired_difference(apart, apart.assign(p_a=-apart["p_a"]), "auroc", 100, 0)
    assert -1 <= lead.low < 0 < lead.value < lead.high == 1


def test_patients_of_the_class_that_has_the_fewest() -> None:
    y = np.zeros((8, 2))
    y[:3, 0], y[:6, 1] = 1, 1  # a: 2 patients are positive; b: 3 are, 1 is negative
    frame = table(y, np.arange(16.0).reshape(8, 2), list("00112233"))
    assert metrics.estimate(frame, "auroc", 2, 0).fewest == 1
    one = frame.drop(columns=["y_b", "p_b"])
    assert metrics.estimate(one, "auroc", 2, 0).fewest == 2
    assert metrics.estimate(one, "accuracy", 2, 0).fewest == 4
    assert metrics.as_json(metrics.estimate(one, "auroc", 2, 0), 2)["patients_fewest"] == 2


def test_coverage_over_patients_and_repeats() -> None:
    # each repeat has a skill of its own, so its AUROC is Phi(skill / sqrt 2); the mean is known
    skills = np.random.default_rng(0).normal(1.0, 0.3, (60, 5))
    truth = norm.cdf(np.random.default_rng(1).normal(1.0, 0.3, 200_000) / np.sqrt(2)).mean()
    inside = narrow = 0
    for seed, skill in enumerate(skills):
        rng = np.random.default_rng(2000 + seed)
        y = (rng.random((200, 1)) < 0.4).astype(float)
        names, easy = [f"p{k}" for k in range(200)], rng.normal(size=(200, 1))
        own = rng.normal(size=(5, 200, 1))
        tables = [
            table(y, (easy + own[r]) / np.sqrt(2) + skill[r] * y, names, repeat=r) for r in range(5)
        ]
        result = metrics.estimate(pd.concat(tables), "auroc", 200, seed)
        inside += result.low <= truth <= result.high
        narrow += result.over_patients[0] <= truth <= result.over_patients[1]
    assert inside >= 55  # of 60: near 95%
    assert narrow < inside


def test_the_spread_of_repeats_is_students() -> None:
    result = metrics.estimate(repeated(5), "auroc", 20, seed=0)
    spread, repeats = result.over_repeats, np.array(result.repeats)
    assert spread is not None
    assert (spread.mean, spread.sd) == pytest.approx((repeats.mean(), repeats.std(ddof=1)))
    expected = t.interval(0.95, 4, repeats.mean(), repeats.std(ddof=1) / np.sqrt(5))
    assert (spread.low, spread.high) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("mine", "theirs"), [(3, 3), (3, 1), (2, 4)])
def test_paired_repeats_equal_the_slow_ones(mine: int, theirs: int) -> None:
    a, b = repeated(mine, n=24), repeated(theirs, n=24)
    b["p_a"] += np.random.default_rng(9).normal(size=len(b))
    result = metrics.paired_difference(a, b, "auroc", 40, seed=3)
    # equally many repeats are paired; otherwise each run has noise of its own
    one, two = (metrics.estimate(x, "auroc", 2, 0).repeats for x in (a, b))
    noise = slow_noise(result.repeats, 40, 3)
    if mine != theirs:
        noise = slow_noise(one, 40, 3) + slow_noise(two, 40, 3, 1)
    draws = slow_draws(a, 40, 3).mean(axis=1) - slow_draws(b, 40, 3).mean(axis=1) + noise
    expected = np.percentile(np.clip(draws, -1, 1), [2.5, 97.5])
    assert (result.low, result.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert len(result.repeats) == (mine if mine == theirs else 1)
    assert (result.over_repeats is None) == (mine != theirs)


def test_an_estimate_tells_how_its_intervals_were_made() -> None:
    said = metrics.as_json(metrics.estimate(repeated(3), "auroc", 20, 0), 20)
    assert json.loads(json.dumps(said)) == said
    assert "20 resamples of the test patients, with Student's t of the 3 repeats" in said["how"]
    assert "2 degrees of freedom" in said["over_repeats"]["how"]
    one = metrics.as_json(metrics.estimate(repeated(1), "auroc", 20, 0), 20)
    assert one["over_repeats"] is None and one["how"].endswith("one repeat")


def test_paired_difference() -> None:
    y, p, patient = made_up(200, 2, seed=9)
    a, b = table(y, p, patient), table(y, p + 0.5 * y, patient)
    none = metrics.paired_difference(a, a, "auroc", 100, 0)
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)
    up = metrics.paired_difference(b, a.sample(frac=1, random_state=1), "auroc", 300, 0)
    down = metrics.paired_difference(a, b, "auroc", 300, 0)
    assert up.value == pytest.approx(-down.value) and up.low == pytest.approx(-down.high)
    one, two = (metrics.estimate(x, "auroc", 300, 0) for x in (a, b))
    assert up.value == pytest.approx(two.value - one.value)
    assert up.low > 0  # the runs' own intervals are far wider than that of their difference
    assert up.high - up.low < min(one.high - one.low, two.high - two.low)


def test_paired_runs_on_other_images_are_refused() -> None:
    y, p, patient = made_up(30, 1, seed=10)
    a = table(y, p, patient)
    with pytest.raises(ValueError, match="same images"):
        metrics.paired_difference(a, a.iloc[:-1], "auroc", 10, 0)
    with pytest.raises(ValueError, match="same images"):
        metrics.paired_difference(a, a.assign(y_a=1 - a["y_a"]), "auroc", 10, 0)
    with pytest.raises(ValueError, match="same images"):
        metrics.paired_difference(a, a.rename(columns={"y_a": "y_b"}), "auroc", 10, 0)


@pytest.mark.parametrize(("rare", "value"), [(1.0, 5 / 11), (0.0, 6 / 11)])
def test_a_resample_without_a_class_is_drawn_anew(rare: float, value: float) -> None:
    y, p = np.full((12, 1), 1 - rare), np.arange(12.0)[:, None]
    y[5] = rare  # about 1 resample in 3 lacks it
    result = metrics.estimate(table(y, p, [f"p{k}" for k in range(12)]), "auroc", 500, 0)
    assert result.value == pytest.approx(value)
    assert 0 <= result.low <= result.value <= result.high <= 1


def test_a_class_too_rare_to_resample_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "REDRAWS", 1)
    y, p = np.array([[0.0], [0.0], [1.0]]), np.array([[0.1], [0.2], [0.3]])
    with pytest.raises(InputError, match="without both classes"):
        metrics.estimate(table(y, p, ["a", "b", "c"]), "auroc", 50, 0)


@pytest.mark.parametrize(
    ("y", "metric", "fine"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], "auroc", True),
        ([[1.0, 0.0], [0.0, 0.0]], "auroc", False),
        ([[1.0], [1.0]], "auroc", False),
        ([[1.0], [1.0]], "accuracy", False),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "accuracy", True),
        ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "auroc", False),
        ([[1.0, 0.0], [1.0, 0.0]], "accuracy", False),
    ],
)
def test_one_class_only_is_an_error(y: list[list[float]], metric: str, fine: bool) -> None:
    labels = list("abc")[: len(y[0])]
    if fine:
        metrics.check_classes(np.array(y), labels, metric, "here")
        return
    with pytest.raises(InputError, match="only one class of"):
        metrics.check_classes(np.array(y), labels, metric, "here")


def test_no_image_is_an_error() -> None:
    with pytest.raises(InputError, match="no image"):
        metrics.check_classes(np.empty((0, 1)), ["a"], "auroc", "here")


def test_two_thousand_resamples_take_a_moment() -> None:
    frame = table(*made_up(500, 5, seed=11))
    start = time.process_time()
    metrics.estimate(frame, "auroc", 2000, 0)
    assert time.process_time() - start < 5  # about 1 s on a quiet core
