"""Splits that are kept as lists of ids: drawn, written, read, and refused for other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import raw
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from convirt.datasets import alike, registry, split_lists
from convirt.datasets.splits import Listed, Split
from convirt.datasets.tables import PERSON_HELD_OUT, Funnel, Tables
from convirt.errors import InputError
from convirt.params import read_yaml
from stages import preprocess, splits

COMMITTED = sorted((ROOT / "splits").glob("*.csv"))


def keep(tables: Tables, split: Split, path: Path) -> str:
    """Write the list of a split; returns how params.yaml refers to it."""
    drawn = split_lists.draw(tables, split, "some")
    split_lists.write(path, drawn)
    return f"{path}@{drawn.pin}"


def apply(images: pd.DataFrame, listed: Listed, funnel: Funnel | None = None) -> pd.DataFrame:
    """Divide by a list with the sizes that it was drawn with."""
    split = Split(9, listed.val, listed.test)
    return split_lists.apply(images, split, listed, Path("set.csv"), funnel or Funnel())


def table(images: dict[str, str], **columns: str) -> pd.DataFrame:
    """Images with their patients."""
    rows = {"image": list(images), "study": list(images), "patient": list(images.values())}
    return pd.DataFrame(rows | {"split": ""} | columns, dtype=object)


def listed(parts: dict[str, str], people: dict[str, str], ids: Any, **fields: Any) -> Listed:
    """A list that was drawn from `ids`."""
    base = Listed(Path("splits/s.csv"), parts, people, len(ids), split_lists.digest(ids), 1, 1)
    return replace(base, **fields)


# ------------------------------------------------------------------------------ the committed lists
def test_lists_are_found() -> None:
    assert [path.stem for path in COMMITTED] == ["chexpert", "covidx", "mura", "rsna"]
    heads = [path.stem for path in (ROOT / "splits").glob("*.json")]
    assert sorted(heads) == [path.stem for path in COMMITTED]


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_no_patient_is_in_two_splits(path: Path) -> None:
    listed = split_lists.read(str(path))
    rows = pd.DataFrame({"part": listed.parts, "patient": listed.people})
    assert rows.groupby("patient")["part"].nunique().max() == 1
    head = json.loads(path.with_suffix(".json").read_text())
    for part, found in rows.groupby("part"):
        assert len(found) == head["splits"][part]["images"] == head[part]
        assert found["patient"].nunique() == head["splits"][part]["patients"]
    assert sum(part["images"] for part in head["splits"].values()) == listed.images
    assert list(listed.parts) == sorted(listed.parts)


def test_committed_counts_are_those_of_the_paper() -> None:
    def sizes(name: str) -> list[int]:
        head = json.loads((ROOT / f"splits/{name}.json").read_text())
        return [head["splits"][part]["images"] for part in ("train", "val", "test")]

    assert sizes("rsna") == [22184, 1500, 3000]  # the paper's 25,184 hold those 3,000
    assert sizes("covidx") == [13597, 300, 300]  # one file is listed twice
    assert sizes("mura") == [33078, 3730, 3197]
    assert sizes("chexpert") == [218414 - 1680, 5000, 234]  # without the retrieval films


def test_the_paper_profile_uses_them() -> None:
    sources = read_yaml(ROOT / "profiles/paper.yaml")["datasets"]["sources"]
    used = {name: source for name, source in sources.items() if source["split_file"]}
    assert sorted(used) == [path.stem for path in COMMITTED]
    for source in used.values():
        path, at, pin = source["split_file"].partition("@")
        assert at
        found = split_lists.read(f"{ROOT / path}@{pin}")
        assert (found.val, found.test) == (source["val"], source["test"])


# ------------------------------------------------------------------------------ draw, write, read
SETS: dict[str, tuple[Callable[[Path], Path], Split]] = {
    "rsna": (raw.rsna, Split(0, 2, 3)),
    "covidx": (raw.covidx, Split(0, 1)),
    "mura": (raw.mura, Split(0, 1)),
    "chexpert": (raw.chexpert, Split(0, 2)),
    "pairs": (raw.ten_pairs, Split(0, 0.2, 1)),
    "mimic-cxr": (raw.mimic, Split(0, 1, 2)),
}


@pytest.mark.parametrize("name", SETS)
def test_a_list_gives_the_split_that_was_drawn(tmp_path: Path, name: str) -> None:
    make, split = SETS[name]
    root = make(tmp_path / "set")
    options = {"exclude": "none"} if name == "chexpert" else {}
    tables = registry.read(name, root, split, options)
    reference = keep(tables, split, tmp_path / "some.csv")
    again = Split(99, split.val, split.test, split_lists.read(reference))  # another seed
    divided = registry.read(name, root, again, options)
    pd.testing.assert_frame_equal(divided.images, tables.images, check_dtype=False)
    if tables.reports is not None:
        assert divided.reports is not None
        pd.testing.assert_frame_equal(divided.reports, tables.reports)
    assert "train" not in (tmp_path / "some.csv").read_text().replace("train/", "")


def test_a_head_tells_how_it_was_drawn(tmp_path: Path) -> None:
    split = Split(3, 2, 3)
    tables = registry.read("rsna", raw.rsna(tmp_path / "set"), split, {})
    keep(tables, split, tmp_path / "some.csv")
    head = json.loads((tmp_path / "some.json").read_text())
    assert (head["seed"], head["val"], head["test"], head["unit"]) == (3, 2, 3, "image")
    assert head["drawn_from"] == {
        "images": 8,
        "sha256": split_lists.digest(f"id-{i:02d}" for i in range(8)),
    }
    assert head["splits"]["test"]["images"] == 3
    assert sum(part["labels"]["pneumonia"] for part in head["splits"].values()) == 5
    assert str(tmp_path) not in (tmp_path / "some.json").read_text()


def test_the_digest_does_not_see_the_order() -> None:
    assert split_lists.digest(["b", "a"]) == split_lists.digest(["a", "b"])
    assert split_lists.digest(["ab"]) != split_lists.digest(["a", "b"])
    # sha256sum of the file "a\nb\n"
    assert split_lists.digest(["a", "b"]).startswith("911169ddaaf146af")


NAME = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8)


@settings(max_examples=30)
@given(st.dictionaries(NAME.filter(str.strip), st.sampled_from("abcdef"), min_size=12, max_size=30))
def test_any_ids_survive(tmp_path_factory: pytest.TempPathFactory, images: dict[str, str]) -> None:
    people = pd.Series(images)
    parts = people.map({"a": "val", "b": "test"}).fillna("train")
    whole = table(images).assign(split=list(parts))
    tables = Tables(whole, None, None, (), Funnel())
    path = tmp_path_factory.getbasetemp() / "any.csv"
    found = split_lists.read(keep(tables, Split(0, 1, 1), path))
    assert list(apply(table(images), found)["split"]) == list(parts)


# ------------------------------------------------------------------------------ refusals
@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, str]:
    """A set of films and the reference of its list."""
    split = Split(0, 2, 3)
    root = raw.rsna(tmp_path / "set")
    return root, keep(registry.read("rsna", root, split, {}), split, tmp_path / "some.csv")


def use(kept: tuple[Path, str], val: float = 2, test: float = 3) -> Tables:
    root, reference = kept
    return registry.read("rsna", root, Split(0, val, test, split_lists.read(reference)), {})


def test_other_images_are_refused(kept: tuple[Path, str]) -> None:
    labels = kept[0] / "stage_2_train_labels.csv"
    text = labels.read_text()
    labels.write_text(text + "id-09,,,,,0\n")
    with pytest.raises(InputError, match="9 images with other ids") as caught:
        use(kept)
    assert "the 8 images that" in caught.value.expected
    assert "python -m stages.splits" in caught.value.hint
    labels.write_text("\n".join(line for line in text.splitlines() if "id-0" not in line[:4]))
    labels.write_text(text.replace("id-", "ID-"))
    with pytest.raises(InputError, match="5 of the list's are not among them, such as `id-"):
        use(kept)


@pytest.mark.parametrize(("val", "test"), [(1, 3), (2, 0), (0.25, 3)])
def test_other_sizes_are_refused(kept: tuple[Path, str], val: float, test: float) -> None:
    with pytest.raises(InputError, match="the size that"):
        use(kept, val, test)


def test_an_edited_list_is_refused(kept: tuple[Path, str]) -> None:
    path = Path(kept[1].partition("@")[0])
    text = path.read_text()
    path.write_text(text.replace("val", "test", 1))
    with pytest.raises(InputError, match="sha256"):
        use(kept)
    with pytest.raises(InputError, match="an edited one"):
        split_lists.read(str(path))
    path.write_bytes(text.replace("\n", "\r\n").encode())  # git on Windows
    assert use(kept).images["split"].nunique() == 3


def test_another_pin_is_refused(kept: tuple[Path, str]) -> None:
    name, _, right = kept[1].partition("@")
    assert len(split_lists.read(name).parts) == 5  # without a pin
    for pin in ("0" * 12, right[:4]):
        with pytest.raises(InputError) as caught:
            split_lists.read(f"{name}@{pin}")
        assert f"{name}@{right}" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [
        lambda head: None,
        lambda head: [],
        lambda head: {},
        lambda head: head | {"val": "2"},
        lambda head: head | {"val": True},
        lambda head: head | {"drawn_from": {"images": 8}},
        lambda head: head | {"list": None},
    ],
)
def test_heads_that_are_none(kept: tuple[Path, str], change: Callable[[Any], Any]) -> None:
    path = Path(kept[1].partition("@")[0]).with_suffix(".json")
    head = change(json.loads(path.read_text()))
    path.write_text(json.dumps(head) if head is not None else "{")
    with pytest.raises(InputError, match="the head of a split list"):
        use(kept)


def test_a_list_without_its_head(kept: tuple[Path, str]) -> None:
    path = Path(kept[1].partition("@")[0])
    path.with_suffix(".json").unlink()
    with pytest.raises(InputError, match="nothing there"):
        use(kept)
    path.unlink()
    with pytest.raises(InputError, match="a CSV file"):
        use(kept)


@pytest.mark.parametrize("rows", ["a,train,p", "a,val,p\na,val,p"])
def test_lists_that_are_none(kept: tuple[Path, str], rows: str) -> None:
    path = Path(kept[1].partition("@")[0])
    path.write_text(f"id,split,patient\n{rows}\n")
    head = json.loads(path.with_suffix(".json").read_text())
    head["list"]["sha256"] = split_lists._checksum(path)
    path.with_suffix(".json").write_text(json.dumps(head))
    with pytest.raises(InputError, match="draw the list again"):
        split_lists.read(str(path))


def test_what_the_layout_gives_stays() -> None:
    images = table({"a": "1", "b": "2", "c": "3"}).assign(split=["train", "test", "train"])
    found = apply(images, listed({"a": "val"}, {"a": "1"}, "abc"))
    assert list(found["split"]) == ["val", "test", "train"]
    with pytest.raises(InputError, match="`b`, which it puts in test"):
        apply(images, listed({"b": "val"}, {"b": "2"}, "abc"))


# ------------------------------------------------------------------------------ people
def test_the_list_knows_people_where_the_reader_does_not() -> None:
    images = table({"a": "a", "b": "b", "c": "c"})
    found = apply(images, listed({"a": "val", "b": "val"}, {"a": "p", "b": "p"}, "abc"))
    assert list(found["patient"]) == ["p", "p", "c"]


def test_relatives_of_held_out_films_leave_the_train_part() -> None:
    images = table({"a": "p", "b": "p", "c": "q", "d": "r"})
    funnel = Funnel()
    found = apply(images, listed({"a": "test"}, {"a": "a"}, "abcd"), funnel)
    assert list(found["image"]) == ["a", "c", "d"]
    assert found["patient"].tolist() == ["p", "q", "r"]  # the reader knows better than the list
    assert funnel.images.dropped == {PERSON_HELD_OUT: ["b"]}
    assert funnel.studies.dropped == {PERSON_HELD_OUT: ["b"]}
    funnel.images.found = 4
    assert funnel.dropped_share == 0  # no fault of the files


def test_one_person_in_val_and_test_is_refused() -> None:
    images = table({"a": "p", "b": "p", "c": "q"})
    with pytest.raises(InputError, match="patient `p` in test and val"):
        apply(images, listed({"a": "val", "b": "test"}, {"a": "a", "b": "b"}, "abc"))


# ------------------------------------------------------------------------------ the tool
@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_params: dict[str, Any],
    write_params: Callable[..., Path],
) -> Callable[..., Any]:
    """`run("--write", val=2)` draws the list of ten pairs in a folder of its own."""
    raw.ten_pairs(tmp_path / "raw")
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, app: Any = splits.app, **source: Any) -> Any:
        default_params["datasets"]["sources"]["bone"] |= {"val": 2, "root": "raw", **source}
        write_params(default_params, **{"datasets.image_size": 8})
        return CliRunner().invoke(app, ["bone", *arguments])

    return invoke


def test_the_tool_writes_and_checks(run: Callable[..., Any], tmp_path: Path) -> None:
    assert run("--check").exit_code == 1
    done = run("--write")
    assert done.exit_code == 0, done.output
    assert "val: 2 images of 2 patients" in done.output
    assert "publish it only if you may" in done.output  # the ids of somebody's own patients
    assert run("--check").exit_code == 0
    before = (tmp_path / "splits/bone.csv").read_bytes()
    differs = run("--check", val=3)
    assert differs.exit_code == 1
    assert "if the list should change" in differs.output
    assert (tmp_path / "splits/bone.csv").read_bytes() == before
    assert "0 for both" in run("--check", val=0).output


def test_the_tool_replaces_no_list_of_another_reader(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    assert run("--write").exit_code == 0
    before = (tmp_path / "splits/bone.csv").read_bytes()
    head = json.loads((tmp_path / "splits/bone.json").read_text())
    raw.write(tmp_path / "splits/bone.json", json.dumps(head | {"reader": "rsna"}))
    refusal = run("--write", val=3)
    assert refusal.exit_code == 1 and "--out FOLDER" in refusal.output
    assert (tmp_path / "splits/bone.csv").read_bytes() == before
    assert run("--write", "--out", "own", val=3).exit_code == 0
    raw.write(tmp_path / "splits/bone.json", "no head")  # is drawn again
    assert run("--write", val=3).exit_code == 0


def test_the_tool_names_the_patients_of_a_note(run: Callable[..., Any], tmp_path: Path) -> None:
    rows = [f"{i}.png,1,{patient}" for i, patient in enumerate(("07", "7", "08", "8", "09", "9"))]
    raw.write(tmp_path / "set/labels.csv", "\n".join(["image,y,patient", *rows]))
    done = run("--write", reader="labels", root="set", val=1)
    assert "(train) and `" in done.output or "(val) and `" in done.output
    head = json.loads((tmp_path / "splits/bone.json").read_text())
    assert head["notes"] == [f"1 {alike.PERSONS}"]  # committed, so without ids


def test_the_tool_finds_a_root_by_the_environment(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "export the variable" in run("--write", root="$FILMS/raw").output
    monkeypatch.setenv("FILMS", str(tmp_path))
    assert run("--write", root="$FILMS/raw").exit_code == 0


def test_preprocessing_takes_the_list(run: Callable[..., Any], tmp_path: Path) -> None:
    written = run("--write").output
    reference = written.split("split_file: ")[1].strip()
    assert reference.startswith("splits/bone.csv@")
    done = run(app=preprocess.app, split_file=reference)
    assert done.exit_code == 0, done.output
    records = pd.read_parquet(tmp_path / "data/stores/bone/records.parquet")
    rows = pd.read_csv(tmp_path / "splits/bone.csv")
    assert sorted(records.loc[records["split"] == "val", "image"]) == list(rows["id"])
    refused = run(app=preprocess.app, split_file=reference, val=3)
    assert refused.exit_code == 1
    assert "val: 2" in refused.output


def test_preprocessing_tells_its_notes(run: Callable[..., Any], tmp_path: Path) -> None:
    names = [f"{i:08x}-14fd-4e49-80ba-63a80b6bddd6" for i in range(6)]
    lines = ["patientId,Target", *(f"{name},0" for name in names)]
    raw.write(tmp_path / "set/stage_2_train_labels.csv", "\n".join(lines))
    for i, name in enumerate(names):
        raw.dicom(tmp_path / f"set/stage_2_train_images/{name}.dcm", raw.film(i))
    done = run(app=preprocess.app, reader="rsna", root="set", val=1)
    assert done.exit_code == 0, done.output
    assert "note: The challenge's patientId is one a film" in done.output
    funnel = json.loads((tmp_path / "metrics/funnel/bone.json").read_text())
    assert "patientId is one a film" in funnel["notes"][0]


def test_what_was_left_out_is_told_with_where_it_is_named(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raw/f/3.png").write_bytes(b"")
    told = "left out: 1 studies (no usable image), 1 images (image of zero size); listed in data"
    for check in ("check_dropped", "_check_parts"):  # a tenth is more than may be lost
        monkeypatch.setattr(f"convirt.packing.{check}", lambda *_: None)
    assert f"note: {told}" in run(app=preprocess.app, val=2).output
    (tmp_path / "data/demo").mkdir(parents=True)
    (tmp_path / "raw").rename(tmp_path / "data/demo/raw")
    shown = run(app=preprocess.app, val=2, root="data/demo/raw").output
    assert told in shown and "note: left out" not in shown
