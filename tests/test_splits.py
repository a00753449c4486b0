"""Splits are drawn by patient, from the seed alone, and given ones are respected."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convirt.datasets.splits import Split, assign
from convirt.errors import InputError

SOURCE = Path("list.csv")


def table(counts: list[int], given: str | list[str] = "") -> pd.DataFrame:
    """Patient p<i> with counts[i] units."""
    patients = [f"p{i}" for i, count in enumerate(counts) for _ in range(count)]
    return pd.DataFrame({"patient": patients, "given": given}, dtype=object)


@given(
    counts=st.lists(st.integers(1, 5), min_size=6, max_size=40),
    seed=st.integers(0, 9),
    val=st.sampled_from([0, 1, 0.1, 0.3]),
    test=st.sampled_from([0, 2, 0.2]),
)
def test_no_patient_in_two_splits(counts: list[int], seed: int, val: float, test: float) -> None:
    rows = table(counts)
    try:
        split = assign(rows, Split(seed, val, test), SOURCE)
    except InputError:
        assert sum(counts) < 12  # only a set too small may be refused
        return
    assert set(split) <= {"train", "val", "test"}
    assert split.groupby(rows["patient"]).nunique().max() == 1
    for name, size in (("val", val), ("test", test)):
        wanted = max(1, round(size * len(rows))) if 0 < size < 1 else size
        assert (split == name).sum() >= wanted
        assert (split == name).sum() < wanted + 5  # whole patients overshoot by under one patient


def test_exact_counts_while_small_patients_remain() -> None:
    split = assign(table([3] * 20 + [1] * 5), Split(0, 10, 20), SOURCE)
    assert split.value_counts().to_dict() == {"train": 35, "test": 20, "val": 10}


def test_overshoots_by_the_smallest_patient() -> None:
    split = assign(table([4] * 10), Split(0, 10), SOURCE)
    assert (split == "val").sum() == 12


@pytest.mark.parametrize("seed", range(5))
def test_the_smallest_patient_left_completes_a_count(seed: int) -> None:
    split = assign(table([5, 1, 3, 4]), Split(seed, 2), SOURCE)
    assert (split == "val").sum() == 1 + 3


def test_rows_in_another_order_give_the_same_split() -> None:
    rows = table([1, 2, 3, 1, 2, 3, 1, 1, 1])
    shuffled = rows.sample(frac=1, random_state=3)
    one, other = (assign(t, Split(5, 3, 4), SOURCE) for t in (rows, shuffled))
    pd.testing.assert_series_equal(one, other.sort_index())


def test_the_seed_matters() -> None:
    rows = table([1] * 50)
    draws = {tuple(assign(rows, Split(seed, 10), SOURCE)) for seed in range(5)}
    assert len(draws) == 5


def test_who_is_tested_does_not_depend_on_how_many_validate() -> None:
    few, many = (assign(table([1] * 100), Split(3, val, 0.1), SOURCE) for val in (0.1, 0.3))
    assert (few == "test").sum() == 10
    assert (few == "test").equals(many == "test")


def test_given_splits_stay_and_val_is_drawn_from_train() -> None:
    rows = table([1] * 30, ["train"] * 20 + ["test"] * 10)
    split = assign(rows, Split(0, 5), SOURCE)
    assert (split[20:] == "test").all()
    assert (split[:20] == "val").sum() == 5


def test_a_share_counts_the_pool_only() -> None:
    rows = table([1] * 30, ["train"] * 20 + ["test"] * 10)
    assert (assign(rows, Split(0, 0.5), SOURCE) == "val").sum() == 10


def test_one_patient_cannot_be_split() -> None:
    with pytest.raises(InputError, match="9 units of 1 patients") as caught:
        assign(table([9]), Split(0, 1), SOURCE)
    assert "patient column" in caught.value.hint


def test_a_patient_with_train_and_blank_rows_is_in_train() -> None:
    assert list(assign(table([2, 1], ["train", "", "test"]), Split(0), SOURCE)) == [
        "train",
        "train",
        "test",
    ]


def test_names_of_other_layouts() -> None:
    split = assign(table([1] * 3, ["Train", "validate", "TEST"]), Split(0), SOURCE)
    assert list(split) == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("given", "split", "words"),
    [
        (["train", "test", "train"], Split(0), "patient `p0` in test and train"),
        (
            ["test", "", "train"],
            Split(0),
            r"patient `p0` in test and train \(a blank means train\)",
        ),
        (["", "val", ""], Split(0), r"patient `p0` in train and val \(a blank means train\)"),
        (["", "test", "train"], Split(0, val=1), "patient `p0` in test and train"),
        (["train", "dev", "test"], Split(0), "`dev`"),
        (["train", "train", "test"], Split(0, test=1), "brings its own test split"),
        ("", Split(0, val=2.5), "whole count"),
        ("", Split(0, val=-1), "share below 1"),
        ("", Split(0, val=3), "left to train"),
        ("", Split(0, val=99), "3 units"),
    ],
)
def test_refusals(given: str | list[str], split: Split, words: str) -> None:
    with pytest.raises(InputError, match=words):
        assign(table([2, 1], given), split, SOURCE)


def test_the_draw_is_that_of_the_rule_which_the_lists_state() -> None:
    """`split_lists.RULE`: only then can a committed list be drawn again."""
    rows = table([1] * 12)
    names = sorted(set(rows["patient"]))  # p0, p1, p10, p11, p2 ...
    order = [names[i] for i in np.random.default_rng([7, 12]).permutation(12)]
    split = assign(rows, Split(7, val=3, test=2), SOURCE)
    assert set(rows["patient"][split == "test"]) == set(order[:2])
    assert set(rows["patient"][split == "val"]) == set(order[2:5])
