"""The packed store: the same bytes however it is made, whole or not at all, every loss counted."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import raw
from PIL import Image

from convirt import packing, pieces
from convirt import workers as processes
from convirt.datasets import images, registry, squares
from convirt.datasets.splits import Split
from convirt.datasets.tables import EMPTY_REPORT, Funnel
from convirt.errors import InputError
from convirt.store import Store


def pack(
    root: Path, out: Path, name: str = "pairs", split: Split | None = None, **how: object
) -> Funnel:
    """Read and build with a small size."""
    options = how.pop("options", {})
    tables = registry.read(name, root, split or Split(0, 2), options)  # type: ignore[arg-type]
    return packing.build(tables, out, **{"size": 16, "max_dropped": 0.5, **how})  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """Ten pairs: one image missing, one truncated, one empty, one of one value, two reports bad."""
    root = raw.ten_pairs(tmp_path / "raw")
    (root / "f/0.png").unlink()
    raw.save(root / "f/1.png", height=200, width=200)
    data = (root / "f/1.png").read_bytes()
    (root / "f/1.png").write_bytes(data[: len(data) // 2])
    (root / "f/2.png").write_bytes(b"")
    Image.new("L", (9, 9), 5).save(root / "f/3.png")
    text = (root / "pairs.csv").read_text().replace("There is finding number 4.", "")
    (root / "pairs.csv").write_text(text)
    raw.save(root / "f/9.png", 9, "RGBA")
    return root


def test_what_is_in_it(tmp_path: Path) -> None:
    root = raw.ten_pairs(tmp_path / "raw")
    raw.save(root / "f/5.png", 5, height=40, width=10)
    funnel = pack(root, tmp_path / "store")
    store = Store.open(tmp_path / "store")
    assert store.images.shape == (10, 16, 16)
    assert isinstance(store.images, np.memmap)
    assert not store.images.flags.writeable
    assert list(store.records.columns) == [
        "image", "study", "patient", "split", "view", "top", "left", "height", "width",
    ]  # fmt: skip
    record = store.records.iloc[5]
    assert (record["image"], record["patient"]) == ("f/5.png", "p5")
    assert list(record[["top", "left", "height", "width"]]) == [0, 6, 16, 4]
    expected, _ = squares.fit(raw.film(5, 40, 10), 16)
    np.testing.assert_array_equal(store.images[5], expected)
    assert store.sentences is not None
    assert store.sentences.iloc[3].tolist() == ["f/3.png", "There is finding number 3."]
    assert store.meta["kind"] == "pairs"
    assert store.meta["reader"] == "pairs"
    assert funnel.split["val"] == {"images": 2, "studies": 2, "patients": 2, "sentences": 2}


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(
    damaged: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "BLOCK", 2)
    pack(damaged, tmp_path / "one", workers=1)
    monkeypatch.setattr(processes, "ALONE", 0.0)  # start the processes at once
    monkeypatch.setattr(pieces, "BLOCK", 3)
    pack(damaged, tmp_path / "many", workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


def test_every_loss_is_counted(damaged: Path, tmp_path: Path) -> None:
    done: list[int] = []
    funnel = pack(damaged, tmp_path / "store", progress=done.append).to_dict()
    reasons = {images.MISSING: 1, images.TRUNCATED: 1, images.EMPTY: 1, images.CONSTANT: 1}
    assert funnel["images"] == {"in": 10, "dropped": {**reasons, EMPTY_REPORT: 1}, "kept": 5}
    assert funnel["studies"]["dropped"] == {EMPTY_REPORT: 1, packing.NO_IMAGE: 4}
    assert funnel["sentences"] == {"in": 9, "dropped": {packing.NO_IMAGE: 4}, "kept": 5}
    assert funnel["converted"] == {"RGBA": 1}
    for count in (funnel[what] for what in ("studies", "images", "sentences")):
        assert count["in"] == count["kept"] + sum(count["dropped"].values())
    assert sum(done) == 9  # those whose reports were usable
    json.dumps(funnel, allow_nan=False)

    store = Store.open(tmp_path / "store")
    assert list(store.records["image"]) == [f"f/{i}.png" for i in range(5, 10)]
    for row, i in enumerate(range(5, 9)):  # the gaps are closed
        np.testing.assert_array_equal(store.images[row], squares.fit(raw.film(i), 16)[0])
    assert store.sentences is not None
    assert set(store.sentences["study"]) == set(store.records["study"])
    dropped = pd.read_parquet(tmp_path / "store/dropped.parquet")
    assert ["image", "f/0.png", images.MISSING] in dropped.to_numpy().tolist()


def test_pieces_without_a_word_are_counted(tmp_path: Path) -> None:
    raw.pairs(tmp_path / "raw", ["a.png,Compared to it. ___. No change.,p1", "b.png,. . . .,p2"])
    funnel = pack(tmp_path / "raw", tmp_path / "store", split=Split(0)).to_dict()
    assert funnel["sentences"] == {"in": 3, "dropped": {packing.NO_WORD: 1}, "kept": 2}
    assert funnel["studies"]["dropped"] == {EMPTY_REPORT: 1}


def test_too_much_dropped(damaged: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        pack(damaged, tmp_path / "store", max_dropped=0.4)
    error = caught.value
    assert error.path.endswith("pairs.csv")
    assert "40.0%" in error.expected
    assert error.found.startswith("50.0% of 10: ")
    assert "1 image missing (such as f/0.png)" in error.found
    assert "max_dropped" in error.hint
    assert not (tmp_path / "store").exists()
    assert list(tmp_path.iterdir()) == [damaged]
    assert pack(damaged, tmp_path / "store", max_dropped=0.5).images.kept == 5


def test_a_part_that_lost_too_much(tmp_path: Path) -> None:
    """One film of four in the test part is little among all twenty, but much among the four."""
    splits = ["test"] * 4 + ["val"] * 4 + ["train"] * 12
    lines = [f"{i}.png,p{i},{i % 2},{split}" for i, split in enumerate(splits)]
    raw.write(tmp_path / "raw/labels.csv", "\n".join(["image,patient,y,split", *lines]))
    for i in range(1, 20):
        raw.save(tmp_path / f"raw/{i}.png", i)
    with pytest.raises(InputError) as caught:
        pack(tmp_path / "raw", tmp_path / "store", "labels", Split(0), max_dropped=0.1)
    assert caught.value.found == "1 of the 4 of test, such as 0.png"
    assert "10.0% of the images of each part" in caught.value.expected
    assert not (tmp_path / "store").exists()
    funnel = pack(tmp_path / "raw", tmp_path / "store", "labels", Split(0), max_dropped=0.25)
    assert funnel.images.kept == 19


def test_nothing_left(tmp_path: Path) -> None:
    raw.pairs(tmp_path / "raw", ["a.png,Some text here.,p1"])
    (tmp_path / "raw/a.png").unlink()
    with pytest.raises(InputError, match="some left"):
        pack(tmp_path / "raw", tmp_path / "store", split=Split(0), max_dropped=1.0)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = raw.ten_pairs(tmp_path / "raw")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            pack(root, tmp_path / "store")
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="MiB needed") as caught:
        pack(root, tmp_path / "store")
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == [root]


def test_a_refusal_at_the_end_keeps_the_former_store(tmp_path: Path) -> None:
    root = raw.ten_pairs(tmp_path / "raw")
    pack(root, tmp_path / "store")
    before = contents(tmp_path / "store")

    def refuse() -> None:
        raise InputError("code", "as at the start", "edited", "undo")

    with pytest.raises(InputError):
        pack(root, tmp_path / "store", size=8, confirm=refuse)
    assert contents(tmp_path / "store") == before
    pack(root, tmp_path / "store", size=8)
    assert Store.open(tmp_path / "store").images.shape == (10, 8, 8)


def test_labels_and_retrieval(tmp_path: Path) -> None:
    pack(raw.covidx(tmp_path / "covidx"), tmp_path / "a", "covidx", Split(0, 1))
    store = Store.open(tmp_path / "a")
    assert store.meta["labels"] == ["normal", "pneumonia", "COVID-19"]
    assert store.meta["kind"] == "labels"
    assert store.records["COVID-19"].dtype == np.float32
    assert store.sentences is None
    assert store.queries is None

    home = raw.chexpert(tmp_path / "chexpert")
    root = raw.retrieval_lists(tmp_path / "lists")
    pack(root, tmp_path / "b", "chexpert-8x200", Split(0), options={"images": str(home)})
    store = Store.open(tmp_path / "b")
    assert store.meta["kind"] == "retrieval"
    assert list(store.records["role"]) == ["query", "candidate", "candidate"]
    assert store.queries is not None
    assert list(store.queries.columns) == ["text", "label"]


def test_rsna_film_is_turned_around(tmp_path: Path) -> None:
    funnel = pack(raw.rsna(tmp_path / "rsna"), tmp_path / "store", "rsna", Split(0, 1, 1))
    assert funnel.converted == {"MONOCHROME1": 1}
    store = Store.open(tmp_path / "store")
    expected, _ = squares.fit(255 - raw.film(1), 16)
    np.testing.assert_array_equal(store.images[1], expected)


def test_films_that_a_marker_made_black_are_noted(tmp_path: Path) -> None:
    """12 bits of tissue and one pixel of 16 in one film; a small hand on black is none."""
    root = raw.ten_pairs(tmp_path / "raw")
    tissue = np.random.default_rng(0).integers(0, 4096, (48, 40)).astype(np.uint16)
    tissue[0, 0] = 65535
    Image.fromarray(tissue).save(root / "f/4.png")
    hand = np.zeros((48, 40), dtype=np.uint8)
    hand[:8, :10] = 200
    Image.fromarray(hand).save(root / "f/5.png")
    funnel = pack(root, tmp_path / "store", size=48)
    (note,) = funnel.note_lines()
    assert note.startswith(f"1 {packing.DARK}; for example `f/4.png`")
    assert funnel.images.kept == 10


@pytest.mark.parametrize(("bright", "noted"), [(5, True), (6, False)])
def test_how_many_bright_pixels_make_a_film(bright: int, noted: bool) -> None:
    """Padding does not count: 500 pixels of a square of 625."""
    square = np.zeros((25, 25), dtype=np.uint8)
    square[:20] = squares.DIM
    square.reshape(-1)[:bright] = squares.DIM + 1
    assert squares._is_dark(square, 20 * 25) == noted


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    root = raw.ten_pairs(tmp_path / "raw")
    digests = set()
    for i in range(3):
        if i == 1:
            raw.save(root / "f/0.png", 99)
        if i == 2:
            (root / "pairs.csv").write_text((root / "pairs.csv").read_text().replace("9.", "ten."))
        pack(root, tmp_path / "store")
        digests.add(Store.open(tmp_path / "store").meta["digest"])
    assert len(digests) == 3


def test_opening_what_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dvc repro preprocess@rsna"):
        Store.open(tmp_path / "rsna")
    store = tmp_path / "store"
    pack(raw.ten_pairs(tmp_path / "raw"), store)
    meta = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**meta, "format": 2}))
    with pytest.raises(InputError, match="format 1"):
        Store.open(store)
    (store / "store.json").write_text(json.dumps({**meta, "images": 11}))
    with pytest.raises(InputError, match="10 records"):
        Store.open(store)
    (store / "store.json").write_text(json.dumps(meta))
    for rest in ((store / "images.npy").read_bytes()[:-9], b""):
        (store / "images.npy").write_bytes(rest)
        with pytest.raises(InputError, match="an intact store"):
            Store.open(store)
    (store / "store.json").write_text("[1]")
    with pytest.raises(InputError, match="format 1"):
        Store.open(store)
