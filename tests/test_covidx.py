"""COVIDx by its text lists: fields counted from the right, versions, renamed and missing files."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import raw
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import refused
from test_readers import read, row

from convirt.datasets import archives, covidx
from convirt.datasets.splits import Split
from convirt.datasets.tables import LISTED_TWICE
from convirt.errors import InputError

SOURCE = Path("train_COVIDx4.txt")


@pytest.fixture
def official(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the tests' lists count as the official ones."""
    checksums = []
    for lines in (raw.COVIDX_TRAIN, raw.COVIDX_TEST):
        checksums.append(hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()[:16])
    release = covidx.Release(len(raw.COVIDX_TRAIN), len(raw.COVIDX_TEST), *checksums)
    monkeypatch.setitem(covidx.RELEASES, "COVIDx4", release)


@pytest.mark.parametrize(("data", "lists"), [("data/", "labels/"), ("", "")])
def test_covidx(tmp_path: Path, data: str, lists: str, official: None) -> None:
    tables = read("covidx", raw.covidx(tmp_path, data=data, lists=lists), Split(0, 1))
    assert tables.labels == ("normal", "pneumonia", "COVID-19")
    spaced = row(tables, "train/COVID(1).png")
    assert spaced["patient"] == "COVID 1"
    assert list(spaced[list(tables.labels)]) == [0, 0, 1]
    assert row(tables, "test/t1.png")["split"] == "test"
    assert tables.funnel.to_dict()["images"] == {"in": 9, "dropped": {LISTED_TWICE: 1}, "kept": 8}
    assert (tables.images[list(tables.labels)].sum(axis=1) == 1).all()
    assert all(Path(path).is_file() for path in tables.images["path"])
    assert "notes" not in tables.funnel.to_dict()


# ------------------------------------------------------------------------------ lines
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("a a.png normal", ("a", "a.png", "normal")),
        ("a a.png normal rsna", ("a", "a.png", "normal")),
        ("COVID 1 COVID(1).png COVID-19 sirm", ("COVID 1", "COVID(1).png", "COVID-19")),
        ("COVID 1 COVID(1).png COVID-19", ("COVID 1", "COVID(1).png", "COVID-19")),
        ("a a.png  normal rsna \r", ("a", "a.png", "normal")),
        ("\ufeffa a.png normal", ("a", "a.png", "normal")),
        ("normal normal.png pneumonia x", ("normal", "normal.png", "pneumonia")),
    ],
)
def test_fields_are_counted_from_the_right(line: str, wanted: tuple[str, str, str]) -> None:
    rows = covidx.parse_list(f"{line}\n\n".encode(), SOURCE)
    assert [tuple(fields) for fields in rows.to_numpy()] == [wanted]


@pytest.mark.parametrize(
    "line", ["normal", "a normal", "normal rsna", "a.png normal rsna x", "a a.png positive ricord"]
)
def test_lines_without_a_label_in_its_place(line: str) -> None:
    with pytest.raises(InputError, match="line 2"):
        covidx.parse_list(f"b b.png normal\n{line}".encode(), SOURCE)


WORD = st.text("aZ09().-_é", min_size=1, max_size=6)


@given(
    st.lists(
        st.tuples(
            st.lists(WORD, min_size=1, max_size=3),
            WORD.map(lambda name: f"{name}.png"),
            st.sampled_from(covidx.LABELS),
            st.none() | WORD,
        ),
        max_size=8,
    )
)
def test_lines_survive(lines: list[tuple[list[str], str, str, str | None]]) -> None:
    text = "\n".join(" ".join([*patient, *filter(None, rest)]) for patient, *rest in lines)
    rows = covidx.parse_list(text.encode(), SOURCE)
    wanted = [(" ".join(patient), file, label) for patient, file, label, _ in lines]
    assert [tuple(fields) for fields in rows.to_numpy()] == wanted


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(["a", "a.png", "normal", "rsna", "\n", "\r\n", "\u2028", "\x1c"]))
    .map(" ".join)
    .map(str.encode)
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        rows = covidx.parse_list(data, SOURCE)
    except InputError:
        return
    assert rows["label"].isin(covidx.LABELS).all()
    assert (rows[["patient", "image"]] != "").all(axis=None)


# ------------------------------------------------------------------------------ versions
def test_a_list_that_is_not_the_official_one(tmp_path: Path, official: None) -> None:
    raw.covidx(tmp_path, train=[*raw.COVIDX_TRAIN, "56 b.png normal rsna"])
    (note,) = read("covidx", tmp_path).funnel.notes
    assert note.startswith("train_COVIDx4.txt is not the official list: 7 lines, sha256 ")
    assert "official 6 lines" in note


def test_other_line_ends_are_the_same_list(tmp_path: Path, official: None) -> None:
    raw.covidx(tmp_path)
    for path in (tmp_path / "labels").iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read("covidx", tmp_path).funnel.notes == []


def test_releases_are_pinned() -> None:
    assert covidx.RELEASES["COVIDx4"][:2] == (13898, 300)
    assert covidx.RELEASES["COVIDx4"].train_sha256 == "81615cb5480c074c"
    assert all(len(text) == 16 for release in covidx.RELEASES.values() for text in release[2:])


@pytest.mark.parametrize("version", covidx.TWO_CLASSES)
def test_versions_of_two_classes_are_refused(tmp_path: Path, version: str) -> None:
    error = refused("covidx", raw.covidx(tmp_path), version=version)
    assert "negative and positive" in error.found
    assert covidx.TWO_CLASSES[version] in error.hint
    assert covidx.TWO_CLASSES[version] in covidx.RELEASES


def test_another_version_by_its_name(tmp_path: Path) -> None:
    raw.covidx(tmp_path)
    assert "COVIDx9" in refused("covidx", tmp_path, version="COVIDx9").expected
    for part in ("train", "test"):
        path = tmp_path / f"labels/{part}_COVIDx4.txt"
        path.rename(path.with_name(f"{part}_COVIDx5.txt"))
    assert "13958 lines" in read("covidx", tmp_path, version="COVIDx5").funnel.notes[0]
    for part in ("train", "test"):
        path = tmp_path / f"labels/{part}_COVIDx5.txt"
        path.rename(path.with_name(f"{part}_mine.txt"))
    assert "no version with known" in read("covidx", tmp_path, version="mine").funnel.notes[0]


def test_lists_of_other_classes(tmp_path: Path) -> None:
    raw.covidx(tmp_path / "a", train=["1 a.png positive ricord"])
    error = refused("covidx", tmp_path / "a")
    assert "line 1" in error.found
    assert "COVIDx4" in error.hint
    raw.covidx(tmp_path / "b", train=["1 a.png normal", "2 a.png pneumonia"])
    assert "two for `train/a.png`" in refused("covidx", tmp_path / "b").found


# ------------------------------------------------------------------------------ files
@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("COVID(1).png", "COVID-1.png"),
        ("COVID-19(69).png", "COVID-19-69.png"),
        ("COVID(1).png", "COVID (1).png"),
        ("COVID-1.png", "COVID(1).png"),
        ("mild.JPG", "mild.jpg"),
    ],
)
def test_renamed_files_are_found(tmp_path: Path, official: None, listed: str, there: str) -> None:
    raw.covidx(tmp_path, test=[*raw.COVIDX_TEST, f"9 {listed} COVID-19 sirm"])
    (tmp_path / "data/test" / listed).unlink(missing_ok=True)
    raw.save(tmp_path / "data/test" / there)
    tables = read("covidx", tmp_path)
    found = row(tables, f"test/{listed}")  # the id is the listed name: splits hold either way
    assert Path(found["path"]).name == there
    assert Path(found["path"]).is_file()
    note = "1 files of test_COVIDx4.txt were found under another name"
    assert note in tables.funnel.notes  # without the name, which may hold a patient's id
    assert f"{note}; for example {listed} as {there}" in tables.funnel.note_lines()


def test_the_listed_name_comes_first(tmp_path: Path, official: None) -> None:
    raw.covidx(tmp_path)
    raw.save(tmp_path / "data/train/COVID-1.png")
    tables = read("covidx", tmp_path)
    assert Path(row(tables, "COVID(1).png")["path"]).name == "COVID(1).png"
    assert tables.funnel.notes == []


def test_two_candidates_are_none(tmp_path: Path, official: None) -> None:
    raw.covidx(tmp_path)
    (tmp_path / "data/train/COVID(1).png").unlink()
    for name in ("COVID-1.png", "COVID (1).png"):
        raw.save(tmp_path / "data/train" / name)
    tables = read("covidx", tmp_path)
    assert Path(row(tables, "COVID(1).png")["path"]).name == "COVID(1).png"
    (note,) = tables.funnel.notes
    assert note == "1 of 6 files of train_COVIDx4.txt are not there"
    assert tables.funnel.note_lines() == [f"{note}; for example COVID(1).png"]


def test_lists_alone_say_nothing_of_missing_files(tmp_path: Path, official: None) -> None:
    raw.covidx(tmp_path)
    for path in (tmp_path / "data").rglob("*.*"):
        path.unlink()
    assert read("covidx", tmp_path).funnel.notes == []  # a split can be drawn from the lists


def test_the_set_in_an_archive(tmp_path: Path, official: None) -> None:
    raw.covidx(tmp_path / "set")
    archive = tmp_path / "COVIDx4.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted((tmp_path / "set").rglob("*.*")):
            target.write(path, path.relative_to(tmp_path / "set").as_posix())
    tables = read("covidx", archive)
    assert tables.funnel.notes == []
    assert all(archives.is_file(Path(path)) for path in tables.images["path"])
    archive.write_bytes(archive.read_bytes().replace(b"t1.png normal", b"t1.png nermal"))
    assert "CRC" in refused("covidx", archive).found


def test_no_utf_8(tmp_path: Path) -> None:
    raw.covidx(tmp_path)
    (tmp_path / "labels/train_COVIDx4.txt").write_bytes(b"\xff\xfea b.png normal")
    assert "UTF-8" in refused("covidx", tmp_path).expected
