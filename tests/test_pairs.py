"""Batches of pairs: passes, draws from seed and step alone, matching studies, ragged tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from torch import Tensor

from convirt.errors import InputError
from convirt.pairs import AUGMENT, ORDER, Batch, Groups, Pairs, Sentences, generator, tokenize


class World:
    """Studies with their images and sentences; every sentence is a row of its own."""

    def __init__(self, train: int = 7, val: int = 5) -> None:
        self.records, said = tiny_models.tables(train, val)
        self.said = pd.DataFrame({"study": said["study"], "row": np.arange(len(said))})
        self.train = Pairs(self.records, self.said, "train")
        self.val = Pairs(self.records, self.said, "val")

    def studies(self, batch: Batch) -> list[str]:
        """The study of each pair, which image and sentence must agree on."""
        of_images = self.records["study"].to_numpy()[batch.images]
        of_sentences = self.said["study"].to_numpy()[batch.sentences]
        assert list(of_images) == list(of_sentences)
        return [str(study) for study in of_images]


@pytest.fixture
def world() -> World:
    return World()


# ------------------------------------------------------------------------------ drawing
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 20])
def test_every_pass_visits_every_study_once(world: World, size: int) -> None:
    steps = -(-3 * 7 // size)  # three passes; batches straddle them, one may hold several
    drawn: list[str] = []
    for step in range(steps):
        batch = world.train.draw(0, step, size)
        assert len(batch.images) == len(batch.sentences) == size
        drawn += world.studies(batch)
    passes = [drawn[i : i + 7] for i in (0, 7, 14)]
    for one in passes:
        assert sorted(one) == [f"s{i:03d}" for i in range(7)]
    assert passes[0] != passes[1] != passes[2]


def test_draw_is_a_function_of_seed_and_step(world: World) -> None:
    steps = [5, 0, 3, 3, 1, 9]
    there = {step: world.train.draw(4, step, 5) for step in steps}
    for step in sorted(steps, reverse=True):
        again = World().train.draw(4, step, 5)  # a new object, as after a restart
        assert np.array_equal(there[step].images, again.images)
        assert np.array_equal(there[step].sentences, again.sentences)
    other = world.train.draw(5, 3, 5)
    assert world.studies(other) != world.studies(there[3])


def test_all_views_and_sentences_of_a_study_come_up(world: World) -> None:
    images: set[int] = set()
    sentences: set[int] = set()
    for step in range(200):
        batch = world.train.draw(0, step, 7)
        images |= set(batch.images.tolist())
        sentences |= set(batch.sentences.tolist())
    mine = world.records["split"] == "train"
    assert images == set(np.flatnonzero(mine).tolist())
    here = world.said["study"].isin(set(world.records.loc[mine, "study"]))
    assert sentences == set(world.said.loc[here, "row"].tolist())


def test_choice_within_a_study_is_uniform() -> None:
    records = pd.DataFrame({"study": ["a", "a", "a", "b"], "split": "train"})
    said = pd.DataFrame({"study": ["b", "a", "b"], "row": [5, 6, 7]})
    pairs = Pairs(records, said, "train")
    batches = [pairs.draw(0, step, 2) for step in range(3000)]
    images = np.concatenate([batch.images for batch in batches])
    counts = np.bincount(images, minlength=4) / 3000
    assert counts[:3] == pytest.approx([1 / 3] * 3, abs=0.03)
    assert counts[3] == 1.0
    sentences = np.concatenate([batch.sentences for batch in batches])
    counts = np.bincount(sentences, minlength=8) / 3000
    assert counts[[5, 7]] == pytest.approx([0.5] * 2, abs=0.03)


@pytest.mark.parametrize("fixed", [False, True])
def test_image_and_sentence_of_a_study_are_drawn_apart(fixed: bool) -> None:
    """Otherwise some would never be paired."""
    names = np.repeat([f"s{i:04d}" for i in range(1000)], 2)
    records = pd.DataFrame({"study": names, "split": "train"})
    pairs = Pairs(records, pd.DataFrame({"study": names, "row": np.arange(2000)}), "train")
    batch = pairs.fixed(0, 1000)[0] if fixed else pairs.draw(0, 0, 1000)
    met = np.bincount(2 * (batch.images % 2) + batch.sentences % 2, minlength=4)
    assert met.sum() == 1000
    assert (np.abs(met - 250) < 70).all()  # 5 standard deviations


def test_streams_of_randomness_are_apart() -> None:
    def first(*key: int) -> float:
        return float(generator(*key).random())

    assert first(0, ORDER, 1) == first(0, ORDER, 1)
    keys = [(0, ORDER, 1), (0, AUGMENT, 1), (1, ORDER, 1), (0, ORDER, 2)]
    assert len({first(*key) for key in keys}) == len(keys)


def test_order_of_the_rows_of_another_split_is_no_matter(world: World) -> None:
    """Adding validation studies leaves the training batches as they were."""
    records, said = world.records, world.said
    more = pd.DataFrame({"study": ["zz"], "split": ["val"]})
    grown = Pairs(
        pd.concat([records, more], ignore_index=True),
        pd.concat([said, pd.DataFrame({"study": ["zz"], "row": [99]})], ignore_index=True),
        "train",
    )
    for step in range(4):
        old, new = world.train.draw(0, step, 5), grown.draw(0, step, 5)
        assert np.array_equal(old.images, new.images)
        assert np.array_equal(old.sentences, new.sentences)


def test_studies_without_image_or_sentence_are_left_out() -> None:
    records = pd.DataFrame({"study": ["mute", "b", "c"], "split": ["train", "train", "train"]})
    said = pd.DataFrame({"study": ["b", "blind", "c"], "row": [0, 1, 2]})
    pairs = Pairs(records, said, "train")
    assert pairs.count == 2
    batch = pairs.draw(0, 0, 2)
    assert sorted(zip(batch.images.tolist(), batch.sentences.tolist(), strict=True)) == [
        (1, 0),
        (2, 2),
    ]


@pytest.mark.parametrize("split", ["val", "train"])
def test_split_without_pairs_is_an_error(split: str) -> None:
    records = pd.DataFrame({"study": ["a"], "split": ["test"]})
    said = pd.DataFrame({"study": ["a"], "row": [0]})
    with pytest.raises(InputError, match=f"split '{split}'") as caught:
        Pairs(records, said, split)
    assert "datasets.sources" in caught.value.hint


# ------------------------------------------------------------------------------ validation
@pytest.mark.parametrize(("size", "batches"), [(1, 5), (2, 2), (3, 1), (5, 1)])
def test_fixed_batches_are_full_and_hold_no_study_twice(
    world: World, size: int, batches: int
) -> None:
    found = world.val.fixed(0, size)
    assert [len(batch.images) for batch in found] == [size] * batches
    drawn = [study for batch in found for study in world.studies(batch)]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= {f"s{i:03d}" for i in range(7, 12)}


def test_fixed_batches_are_fixed(world: World) -> None:
    one, same, other = world.val.fixed(0, 2), World().val.fixed(0, 2), world.val.fixed(1, 2)
    for a, b in zip(one, same, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.sentences, b.sentences)
    assert [world.studies(b) for b in one] != [world.studies(b) for b in other]


def test_fixed_needs_a_full_batch(world: World) -> None:
    with pytest.raises(InputError, match=r"at least train\.batch_size = 6 studies") as caught:
        world.val.fixed(0, 6)
    assert caught.value.found == "5"


# ------------------------------------------------------------------------------ groups, tokens
def test_groups_hold_their_members_in_order() -> None:
    groups = Groups.of(np.array([2, 0, 2, 1, 0]), np.array([10, 11, 12, 13, 14]), 3)
    held = [groups.members[groups.starts[g] : groups.starts[g + 1]].tolist() for g in range(3)]
    assert held == [[11, 14], [13], [10, 12]]
    asked = np.array([0, 0, 1, 2, 2])
    where = np.array([0.0, 0.5, 0.999, 0.49, np.nextafter(1.0, 0.0)])
    assert groups.pick(asked, where).tolist() == [11, 14, 13, 10, 12]


SENTENCES = Sentences(np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 3, 4, 6]))


def test_token_batch_is_padded_to_its_longest() -> None:
    tokens, mask = SENTENCES.batch(np.array([1, 2, 1]))
    assert tokens.tolist() == [[4, 0], [5, 6], [4, 0]]
    assert mask.tolist() == [[True, False], [True, True], [True, False]]
    assert (tokens.dtype, mask.dtype) == (torch.int64, torch.bool)
    tokens, mask = SENTENCES.batch(np.array([2, 0]))
    assert tokens.tolist() == [[5, 6, 0], [1, 2, 3]]
    assert mask.sum(dim=1).tolist() == [2, 3]


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_tokens_come_back_without_their_padding(chunk: int) -> None:
    sizes: list[int] = []

    def tokenizer(sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
        sizes.append(len(sentences))
        rows = [torch.tensor([ord(letter) for letter in sentence]) for sentence in sentences]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return tokens, tokens > 0

    texts = ["heart", "a", "lungs", "no"]
    made = tokenize(texts, tokenizer, chunk)
    assert made.starts.tolist() == [0, 5, 6, 11, 13]
    assert "".join(chr(token) for token in made.tokens) == "".join(texts)
    assert max(sizes) == min(chunk, 4)
