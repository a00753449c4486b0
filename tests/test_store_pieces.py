"""Pieces of a store: a kill at any moment and a division among machines change no byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import raw
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_store import contents

from convirt import journal, packing, pieces, workers
from convirt.datasets import archives, registry, squares
from convirt.datasets.splits import Split
from convirt.datasets.tables import Tables
from convirt.errors import InputError
from convirt.pieces import Piece, Share
from convirt.store import Store

SIZE, COUNT = 16, 10
MADE_BY = {"code": "c0de", "params": "9a", "pillow": "13.0.0"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten pairs, one image missing and one of one value; blocks of two images."""
    monkeypatch.setattr(pieces, "BLOCK", 2)
    root = raw.ten_pairs(tmp_path / "raw")
    (root / "f/4.png").unlink()
    Image.new("L", (9, 9), 5).save(root / "f/7.png")
    return root


def read(root: Path) -> Tables:
    return registry.read("pairs", root, Split(0, 2), {})


def begin(tables: Tables, folder: Path, share: Share | None = None, **other: str) -> Piece:
    belongs = pieces.belongs(tables.images, SIZE, {**MADE_BY, **other})
    return pieces.start(folder, tables.images, share or Share(), belongs)


def make(
    root: Path, folder: Path, out: Path, progress: Callable[[int], None] | None = None
) -> dict[str, bytes]:
    """Begin or resume the one piece of a set and write its store."""
    tables = read(root)
    piece = begin(tables, folder)
    pieces.decode(piece, tables.images, 1, progress)
    packing.merge(tables, [piece], out, 0.5)
    return contents(out)


def whole(root: Path, out: Path) -> dict[str, bytes]:
    """The store of an uninterrupted run."""
    packing.build(read(root), out, SIZE, max_dropped=0.5)
    return contents(out)


class Killed(BaseException):
    """Ends a run in a way that no handler expects."""


# ------------------------------------------------------------------------------ resume


@pytest.mark.parametrize("after", [0, 1, 3, 4])
def test_a_stopped_run_goes_on_where_it_was(home: Path, tmp_path: Path, after: int) -> None:
    expected = whole(home, tmp_path / "whole")
    done: list[int] = []

    def stop(count: int) -> None:
        done.append(count)
        if len(done) > after:
            raise Killed

    with pytest.raises(Killed):
        make(home, tmp_path / "piece", tmp_path / "store", stop)
    assert not (tmp_path / "store").exists()
    again: list[int] = []
    assert make(home, tmp_path / "piece", tmp_path / "store", again.append) == expected
    assert sum(done) + sum(again) == COUNT  # nothing was decoded twice


@pytest.mark.parametrize("cut", [1, 40, 10_000])
def test_a_torn_journal(home: Path, tmp_path: Path, cut: int) -> None:
    expected = make(home, tmp_path / "piece", tmp_path / "store")
    path = tmp_path / "piece" / journal.NAME
    path.write_bytes(path.read_bytes()[:-cut])
    assert make(home, tmp_path / "piece", tmp_path / "store") == expected
    again: list[int] = []  # this run finds what the last one wrote behind the torn line
    make(home, tmp_path / "piece", tmp_path / "store", again.append)
    assert again == []


@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_rows_that_a_dying_machine_lost_are_decoded_again(
    home: Path, tmp_path: Path, harm: str
) -> None:
    expected = make(home, tmp_path / "piece", tmp_path / "store")
    rows = tmp_path / "piece" / pieces.ROWS
    data = bytearray(rows.read_bytes())
    if harm == "flip":
        data[-1] ^= 1
        rows.write_bytes(data)
    elif harm == "cut":
        rows.write_bytes(data[:-9])
    else:
        rows.unlink()
    again: list[int] = []
    assert make(home, tmp_path / "piece", tmp_path / "store", again.append) == expected
    assert sum(again) == (2 if harm == "flip" else COUNT)


def test_a_changed_image_is_decoded_again(home: Path, tmp_path: Path) -> None:
    make(home, tmp_path / "piece", tmp_path / "store")
    raw.save(home / "f/3.png", 77)
    raw.save(home / "f/4.png", 78)  # was missing
    again: list[int] = []
    found = make(home, tmp_path / "piece", tmp_path / "store", again.append)
    assert again == [2, 2]
    assert found == whole(home, tmp_path / "whole")


def test_a_changed_member_of_an_archive_is_noticed(tmp_path: Path) -> None:
    raw.save(tmp_path / "a/1.png", 1)
    stamps = set()
    for seed in (1, 2, 2):
        raw.save(tmp_path / "a/1.png", seed)
        os.utime(tmp_path / "a/1.png", (1e9, 1e9))
        packed = shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path / "a")
        stamps.add(squares.stamp([f"{packed}/1.png"]))
    assert len(stamps) == 2  # the content decides, so an archive that is copied is the same
    assert squares.stamp([f"{packed}/none.png"]) not in stamps


def test_another_set_or_size_is_refused(home: Path, tmp_path: Path) -> None:
    make(home, tmp_path / "piece", tmp_path / "store")
    tables = read(home)
    with pytest.raises(InputError, match="a piece with code other") as caught:
        begin(tables, tmp_path / "piece", code="other")
    assert caught.value.found == "one with code c0de"
    assert "rm -r" in caught.value.hint
    with pytest.raises(InputError, match="end 5"):
        begin(tables, tmp_path / "piece", Share(1, 2))
    tables.images.loc[0, "image"] = "f/other.png"
    with pytest.raises(InputError, match="images"):
        begin(tables, tmp_path / "piece")
    (tmp_path / "piece" / pieces.ABOUT).write_text("{}")
    with pytest.raises(InputError, match="what a piece belongs to"):
        begin(read(home), tmp_path / "piece")


# ------------------------------------------------------------------------------ division


@pytest.mark.parametrize("parts", [1, 2, 3, 13])  # 13: more pieces than images
def test_pieces_merge_to_the_same_bytes(home: Path, tmp_path: Path, parts: int) -> None:
    expected = whole(home, tmp_path / "whole")
    for number in range(parts, 0, -1):
        tables = read(home)
        share = Share(number, parts)
        piece = begin(tables, tmp_path / "here" / share.folder, share)
        pieces.decode(piece, tables.images, 1)
    shutil.copytree(tmp_path / "here", tmp_path / "pieces/bone")  # times of files differ there
    tables = read(home)
    shutil.rmtree(home / "f")  # the machine that merges needs the lists only
    belongs = pieces.belongs(tables.images, SIZE, MADE_BY)
    found = pieces.complete(tmp_path / "pieces/bone", COUNT, belongs)
    assert [piece.count for piece in found] == [
        len(range(*Share(i, parts).bounds(COUNT))) for i in range(1, parts + 1)
    ]
    packing.merge(tables, found, tmp_path / "store", 0.5)
    assert contents(tmp_path / "store") == expected


@pytest.fixture
def divided(home: Path, tmp_path: Path) -> Callable[[], list[Piece]]:
    """Three pieces on disk, and a way to collect them."""
    tables = read(home)
    for number in (1, 2, 3):
        share = Share(number, 3)
        pieces.decode(begin(tables, tmp_path / "bone" / share.folder, share), tables.images, 1)
    belongs = pieces.belongs(tables.images, SIZE, MADE_BY)
    return lambda: pieces.complete(tmp_path / "bone", COUNT, belongs)


def test_no_pieces_and_other_folders(divided: Callable[[], Any], tmp_path: Path) -> None:
    (tmp_path / "bone/notes").mkdir()
    assert len(divided()) == 3
    assert pieces.complete(tmp_path / "nowhere", COUNT, {"size": SIZE}) == []


def test_a_missing_or_unfinished_piece_is_named(divided: Callable[[], Any], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "bone/1-of-3")
    path = tmp_path / "bone/3-of-3" / journal.NAME
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:1]))
    with pytest.raises(InputError) as caught:
        divided()
    assert caught.value.found == "lacking 1/3 (0 of 3 images), 3/3 (2 of 4 images)"
    assert "python -m stages.preprocess bone --shard" in caught.value.hint


def test_a_foreign_piece_is_refused(divided: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "bone/2-of-3" / pieces.ABOUT
    about = json.loads(path.read_text())
    about["belongs"]["pillow"] = "9.0.0"
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match=r"one with pillow 9\.0\.0"):
        divided()
    (tmp_path / "bone/2-of-3").rename(tmp_path / "bone/2-of-4")
    with pytest.raises(InputError, match="2 of 3 and 1 of 4"):
        divided()


def test_a_piece_that_was_damaged_on_the_way(
    home: Path, divided: Callable[[], Any], tmp_path: Path
) -> None:
    path = tmp_path / "bone/2-of-3" / pieces.ROWS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="other bytes in rows 2 to 2"):
        packing.merge(read(home), divided(), tmp_path / "store", 0.5)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/2/3", "a/b", "1.5/2"])
def test_no_share(text: str) -> None:
    with pytest.raises(InputError, match="such as 2/8"):
        Share.parse(text)


@given(st.integers(0, 500), st.integers(1, 40))
def test_shares_cover_all_rows_once(count: int, parts: int) -> None:
    rows = [row for i in range(parts) for row in range(*Share(i + 1, parts).bounds(count))]
    assert rows == list(range(count))


# ------------------------------------------------------------------------------ processes

_PACK = """
import sys
from pathlib import Path
from convirt import packing, pieces, workers
from convirt.datasets import registry
from convirt.datasets.splits import Split
if __name__ == "__main__":
    pieces.BLOCK, workers.ALONE = 2, float(sys.argv[4])
    root, folder, out = map(Path, sys.argv[1:4])
    tables = registry.read("pairs", root, Split(0, 2), {})
    made_by = {"code": "c0de", "params": "9a", "pillow": "13.0.0"}
    piece = pieces.start(folder, tables.images, pieces.Share(), pieces.belongs(tables.images, 16, made_by))
    print(piece.done, flush=True)
    pieces.decode(piece, tables.images, 2)
    packing.merge(tables, [piece], out, 0.5)
"""  # noqa: E501


@pytest.mark.parametrize("alone", [1e9, 0.0])  # decoding here, and in two processes
def test_kill_9_at_any_moment(tmp_path: Path, alone: float) -> None:
    root = tmp_path / "raw"
    rows = [f"f/{i:03d}.png,There is finding number {i}.,p{i}" for i in range(120)]
    raw.pairs(root, rows)
    for i in range(120):
        raw.save(root / f"f/{i:03d}.png", i, height=150, width=120)
    (root / "f/090.png").write_bytes(b"")
    expected = whole(root, tmp_path / "whole")
    (tmp_path / "pack.py").write_text(_PACK)
    command = [sys.executable, str(tmp_path / "pack.py"), str(root), str(tmp_path / "piece"),
               str(tmp_path / "store"), str(alone)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(packing.__file__).parents[1])}
    found = [0]
    path = tmp_path / "piece" / journal.NAME
    for wanted in (1, 25):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        while process.poll() is None and (
            not path.exists() or path.read_bytes().count(b"\n") < wanted
        ):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        # workers that went on alone would hold the pipe open
        found.append(int(process.communicate(timeout=60)[0] or 0))
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found.append(int(result.stdout))
    assert found == sorted(found)
    assert found[-1] >= 50
    assert contents(tmp_path / "store") == expected


def die(code: int) -> None:
    os._exit(code)


def test_a_worker_that_dies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ALONE", 0.0)
    with pytest.raises(InputError, match=r"lower compute\.workers"):
        list(workers.run(die, [(1,)] * 2, 2))


def refuse(name: str) -> None:
    raise archives.MemberError(Path(name), "nonsense")


def test_an_error_of_a_worker_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "ALONE", 0.0)
    with pytest.raises(archives.MemberError) as caught:
        list(workers.run(refuse, [("set.zip/a.png",)] * 2, 2))
    assert (caught.value.path, caught.value.found) == ("set.zip/a.png", "nonsense")
    assert str(caught.value) == str(archives.MemberError(Path("set.zip/a.png"), "nonsense"))


def test_code_that_was_edited_before_a_worker_could_read_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(workers, "ALONE", 0.0)
    monkeypatch.setattr(workers, "_code", lambda _: "as it was at the start")
    squares.create(tmp_path / "rows", 1, SIZE)
    with pytest.raises(InputError, match="edited while processes were being started"):
        list(workers.run(squares.pack, [([], 0, SIZE, tmp_path / "rows", 0)], 2))


# ------------------------------------------------------------------------------ the funnel

_IMAGES = ("good", "missing", "truncated", "empty", "constant", "colour")
_TEXTS = ("No acute process. ___. Heart is normal.", "", "Clear.", ". . . .", "___ ___ ___ ___")


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@example([("good", 0, 0), ("empty", 0, 1), ("missing", 0, 1)])
@given(
    st.lists(
        st.tuples(st.sampled_from(_IMAGES), st.integers(0, len(_TEXTS) - 1), st.integers(0, 4)),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_comes_in_is_kept_or_counted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int, int]]
) -> None:
    home = tmp_path_factory.mktemp("funnel")
    lines, said = [], {study: text for _, text, study in rows}
    for i, (kind, _, study) in enumerate(rows):
        lines.append(f"{i}.png,{_TEXTS[said[study]]},p{study},s{study}")
        if kind == "constant":
            Image.new("L", (9, 9), 5).save(home / f"{i}.png")
        elif kind != "missing":
            raw.save(home / f"{i}.png", i, "RGB" if kind == "colour" else "L", 60, 60)
        if kind in ("truncated", "empty"):
            data = (home / f"{i}.png").read_bytes()
            (home / f"{i}.png").write_bytes(data[: len(data) // 2 * (kind == "truncated")])
    text = "\n".join(["image,text,patient,study", *lines]) + "\n"
    (home / "pairs.csv").write_text(text)
    try:
        tables = registry.read("pairs", home, Split(0), {})
        funnel = packing.build(tables, home / "store", SIZE, max_dropped=1.0)
    except InputError as error:
        assert "at least one usable image" in str(error) or "some left" in str(error)
        return
    store, counts = Store.open(home / "store"), funnel.to_dict()
    assert counts["images"]["in"] == len(rows)
    assert counts["studies"]["in"] == len(said)
    for what in ("images", "studies", "sentences"):
        count = counts[what]
        assert count["in"] == count["kept"] + sum(count["dropped"].values())
        assert all(count["dropped"].values())
        assert sum(part[what] for part in counts["split"].values()) == count["kept"]
    assert store.sentences is not None
    assert counts["images"]["kept"] == len(store.records) == len(store.images)
    assert counts["studies"]["kept"] == store.records["study"].nunique()
    assert counts["sentences"]["kept"] == len(store.sentences)
    assert set(store.sentences["study"]) == set(store.records["study"])
    good = [i for i, (kind, _, s) in enumerate(rows) if kind in ("good", "colour") and said[s] == 0]
    assert sorted(store.records["image"]) == sorted(f"{i}.png" for i in good)
    for row, name in zip(store.images, store.records["image"], strict=True):
        grey = np.asarray(Image.open(home / name).convert("L"))
        np.testing.assert_array_equal(row, squares.fit(grey, SIZE)[0])
