"""Bad input is refused: the message names the file, the expectation, the finding, the next step."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw

from convirt.datasets import archives, registry
from convirt.datasets.splits import Split
from convirt.errors import InputError


def refused(name: str, root: Path, split: Split | None = None, **options: object) -> InputError:
    """The error, which has all of its four parts."""
    with pytest.raises(InputError) as caught:
        registry.read(name, root, split or Split(0), options)
    error = caught.value
    assert all((error.path, error.expected, error.found, error.hint))
    return error


def replace(path: Path, old: str, new: str) -> None:
    """Change a list; the old text must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# ------------------------------------------------------------------------------ files and columns

MAKERS: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "mimic-cxr": (lambda p: raw.mimic(p, packed=False), "mimic-cxr-2.0.0-metadata.csv", "study_id"),
    "chexpert": (raw.chexpert, "train.csv", "Edema"),
    "rsna": (raw.rsna, "stage_2_train_labels.csv", "Target"),
    "pairs": (raw.ten_pairs, "pairs.csv", "patient"),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_column_is_lacking(tmp_path: Path, name: str) -> None:
    make, file, column = MAKERS[name]
    make(tmp_path)
    replace(tmp_path / file, column, column[:-1])
    error = refused(name, tmp_path)
    assert file in error.path
    assert f"`{column}`" in error.expected
    assert error.hint == f"rename `{column[:-1]}` to `{column}`"


@pytest.mark.parametrize("header", ["patient", " patient ", "view,view"])
def test_a_column_twice(tmp_path: Path, header: str) -> None:
    """Otherwise the second would be read as another column, or be used for both."""
    raw.pairs(tmp_path, ["a.png,Some text here.,p1,x,y"], f"image,text,patient,{header},z")
    assert refused("pairs", tmp_path).found == f"`{header.split(',')[0].strip()}` 2 times"


@pytest.mark.parametrize("name", MAKERS)
def test_a_list_is_missing(tmp_path: Path, name: str) -> None:
    make, file, _ = MAKERS[name]
    make(tmp_path)
    (tmp_path / file).rename(tmp_path / "other.txt")
    error = refused(name, tmp_path)
    assert file in error.path + error.expected


def test_a_misspelt_list_is_suggested(tmp_path: Path) -> None:
    raw.ten_pairs(tmp_path)
    (tmp_path / "pairs.csv").rename(tmp_path / "pair.csv")
    assert refused("pairs", tmp_path).hint.startswith("did you mean pair.csv?; or")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"", "No columns"),
        (b"image,text,patient\na.png,One, two, three.,p1\n", "5 in the row at line 2"),
        (b"image,text,patient\na.png,\xff\xfe,p1\n", "byte 0xff in line 2, which is not UTF-8"),
        (b'image,text,patient\na.png,"never closed,p1\n', "in the row that begins at line 2"),
        (b"image,text,patient\n", "empty list"),
    ],
)
def test_no_csv(tmp_path: Path, text: bytes, found: str) -> None:
    (tmp_path / "pairs.csv").write_bytes(text)
    assert found in refused("pairs", tmp_path).found


def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path) -> None:
    """Pandas would read the four rows as one, whose text runs on to the quote in the last."""
    rows = ['a.png,"One, two.,p1', "b.png,Three.,p2", "c.png,Four.,p3", 'd.png,"Five, six.",p4']
    raw.write(tmp_path / "pairs.csv", "\n".join(["image,text,patient", *rows]))
    error = refused("pairs", tmp_path)
    assert "quotes are closed" in error.expected and "line 2" in error.found
    raw.write(tmp_path / "labels.csv.gz", "\n".join(["image,patient,y", 'a,"p,1', 'b,"q",1']), True)
    assert "line 2" in refused("labels", tmp_path, file="labels.csv.gz").found


@pytest.mark.parametrize(
    ("file", "head", "name", "found"),
    [
        ("pairs", "image,text,patient,Split", "split", "Split"),
        ("pairs", "image,text,patient,splits", "split", "splits"),
        ("pairs", "image,text,patient,study_id", "study", "study_id"),
        ("pairs", "image,text,patient,Views", "view", "Views"),
        ("labels", "image,y,patient,Split", "split", "Split"),
        ("candidates", "image,label,text,PatientID", "patient", "PatientID"),
        ("queries", "image,label,txt", "text", "txt"),
    ],
)
def test_a_column_that_is_nearly_known(
    tmp_path: Path, file: str, head: str, name: str, found: str
) -> None:
    lists = {"candidates": "image,label\nb.png,0\n", "queries": "image,label\nc.png,0\n"}
    lists |= {file: f"{head}\na.png,0,0,0\n" if head.count(",") == 3 else f"{head}\na.png,0,0\n"}
    for one, text in lists.items():
        raw.write(tmp_path / f"{one}.csv", text)
    reader = file if file in ("pairs", "labels") else "retrieval"
    options: dict[str, Any] = {"columns": ["y"]} if file == "labels" else {}
    error = refused(reader, tmp_path, **options)
    assert f"`{name}`" in error.expected and error.found == f"`{found}`"
    assert error.path == str(tmp_path / f"{file}.csv")


def test_a_label_may_be_called_nearly_so(tmp_path: Path) -> None:
    raw.write(tmp_path / "labels.csv", "image,patient,splint,splits\na.png,p,1,0\nb.png,q,0,1\n")
    options: dict[str, Any] = {"columns": ["splint", "splits"]}
    tables = registry.read("labels", tmp_path, Split(0), options)
    assert tables.labels == ("splint", "splits")
    options = {"columns": ["splint"]}
    assert refused("labels", tmp_path, **options).found == "`splits`"


def test_csv_of_other_habits_is_read(tmp_path: Path) -> None:
    """A blank first line, a cell of a million letters, a comma at the end of each row."""
    long = "word " * 200_000
    rows = ["   ", "image,text,patient,", f'a.png,"One, {long}",p,', "b.png,Two words there.,q,"]
    raw.write(tmp_path / "pairs.csv", "\n".join(rows))
    tables = registry.read("pairs", tmp_path, Split(0), {})
    assert tables.reports is not None and tables.reports["text"].str.len().max() > 900_000
    raw.write(tmp_path / "candidates.csv", "image,label,age\na.png,x,40\n")
    raw.write(tmp_path / "queries.csv", "image,label,foo\nb.png,x,1\n")
    notes = registry.read("retrieval", tmp_path, Split(0), {}).funnel.notes
    assert notes == ["columns that are not read: `age`", "columns that are not read: `foo`"]


def test_columns_that_are_not_read_are_noted(tmp_path: Path) -> None:
    raw.write(tmp_path / "labels.csv", "image,patient,y,age,fold\na.png,p,1,40,2\nb.png,q,0,50,1\n")
    found = registry.read("labels", tmp_path, Split(0), {"columns": ["y"]})
    notes = found.funnel.notes
    assert notes == ["columns that are not read: `age`, `fold`"]
    raw.write(tmp_path / "labels.csv", "image,patient,y,view\na.png,p,1,PA\n")
    assert not registry.read("labels", tmp_path, Split(0), {}).funnel.notes


def test_messages_name_the_source_and_its_options(tmp_path: Path) -> None:
    raw.write(tmp_path / "labels.csv", "image,patient,finding,text\na.png,p,A,Words here.\n")
    with pytest.raises(InputError, match=r"options: columns, or column and classes"):
        registry.read("labels", tmp_path, Split(0), {})
    options = {"column": "diagnosis", "classes": ["A"]}
    with pytest.raises(InputError, match=r"(?s)`diagnosis`, which datasets.sources.mine.*finding"):
        registry.read("labels", tmp_path, Split(0), options, "mine")
    with pytest.raises(InputError, match=r"datasets.sources.mine.options.file"):
        registry.read("pairs", tmp_path, Split(0), {}, "mine")
    raw.write(tmp_path / "pairs.csv", "image,text,patient\na.png,Two words,p\n")
    with pytest.raises(InputError, match=r"look at the texts: each needs at least 3 words"):
        registry.read("pairs", tmp_path, Split(0), {}, "mine")


@pytest.mark.parametrize("between", [";", "\t"])
def test_other_separators_are_told(tmp_path: Path, between: str) -> None:
    text = "image,text,patient\na.png,There is a text.,p\n".replace(",", between)
    raw.write(tmp_path / "pairs.csv", text)
    name = "tabs" if between == "\t" else "`;`"
    hint = f"its cells are separated by {name}: save it with commas"
    assert refused("pairs", tmp_path).hint == hint
    for row in ("a.png;One, two.;p", '"a.png";"One, two.";"p"'):  # a cell too many, an odd quote
        head = "image;text;patient" if row.startswith("a") else '"image";"text";"patient"'
        raw.write(tmp_path / "pairs.csv", f"{head}\n{row}\n".replace(";", between))
        assert refused("pairs", tmp_path).hint == hint


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_other_encodings_are_told(tmp_path: Path, encoding: str) -> None:
    text = "image,text,patient\na.png,Röntgen of the knee.,p\n"
    (tmp_path / "pairs.csv").write_bytes(text.encode(encoding))
    assert refused("pairs", tmp_path).hint == "save it as CSV in UTF-8"


def test_a_gz_that_is_none(tmp_path: Path) -> None:
    raw.mimic(tmp_path)
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz").write_text("plain")
    assert "gzip" in refused("mimic-cxr", tmp_path).found.lower()


def test_a_gz_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.mimic(tmp_path)
    path = tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz"
    path.write_bytes(gzip.compress(b"dicom_id\n" + bytes(200_000)))
    monkeypatch.setattr(archives, "MAX_BYTES", 100_000)
    assert refused("mimic-cxr", tmp_path).found == "more than 100000 bytes"


REPORT = "Sentinel Smith has a large effusion"


def test_messages_hold_no_name_from_a_list_without_a_header(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("films/a.PNG,Sentinel Smith,1\nfilms/b.PNG,Some One,0\n")
    assert refused("labels", tmp_path).found.startswith("a first row of 3 cells")


@pytest.mark.parametrize("lacking", ["header", "label", "class", "column"])
def test_messages_hold_no_text_of_a_report(tmp_path: Path, lacking: str) -> None:
    """They may end up in a log."""
    head = "" if lacking == "header" else "image,patient,report\n"
    (tmp_path / "labels.csv").write_text(f"{head}a.png,p1,{REPORT}\n")
    choices: dict[str, dict[str, Any]] = {
        "class": {"column": "report", "classes": ["yes", "no"]},
        "column": {"columns": ["edema"]},
    }
    error = refused("labels", tmp_path, **choices.get(lacking, {}))
    assert "Sentinel" not in str(error) and "Smith" not in str(error)
    if lacking in ("label", "class"):
        assert error.found.startswith(f"a text of {len(REPORT)} characters in data row 1")
    if lacking == "column":
        assert error.found == "columns image, patient, report"


# ------------------------------------------------------------------------------ paths that leave

OUTSIDE = ["../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png", "C:\\x.png"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_leaves_its_folder(tmp_path: Path, path: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    raw.save(tmp_path / "secret.png")
    (root / "pairs.csv").write_text(f"image,text,patient\n{path},Some text here.,p1\n")
    error = refused("pairs", root)
    assert "stay inside" in error.expected
    assert f"`{path}`" in error.found


@pytest.mark.parametrize("link", ["file", "folder"])
def test_a_link_leaves_its_folder(tmp_path: Path, link: str) -> None:
    root = tmp_path / "set"
    root.mkdir()
    secret = raw.save(tmp_path / "out/secret.png")
    if link == "file":
        (root / "secret.png").symlink_to(secret)
    else:
        (root / "in").symlink_to(secret.parent)
    name = "secret.png" if link == "file" else "in/secret.png"
    (root / "pairs.csv").write_text(f"image,text,patient\n{name},Some text here.,p1\n")
    error = refused("pairs", root)
    assert "stay inside" in error.expected
    assert error.found == f"`{name}`, by a link to {secret.resolve()}"


def test_a_link_by_dvc_tells_how_to_be_without(tmp_path: Path) -> None:
    cached = raw.save(tmp_path / "cache/files/md5/40/2b.png")
    root = tmp_path / "set"
    root.mkdir()
    (root / "a.png").symlink_to(cached)
    (root / "pairs.csv").write_text("image,text,patient\na.png,Some text here.,p1\n")
    assert "dvc checkout --relink" in refused("pairs", root).hint


@pytest.mark.parametrize("name", ["loop", "loop/a.png"])
def test_a_loop_of_links(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "pairs.csv").write_text(f"image,text,patient\n{name},Some text here.,p1\n")
    assert name in refused("pairs", tmp_path).found


@pytest.mark.filterwarnings("error")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    """Opened, it would be waited for without end."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(FileNotFoundError):
        archives.open_binary(tmp_path / "a.png")


def test_a_root_that_is_a_link_is_fine(tmp_path: Path) -> None:
    raw.ten_pairs(tmp_path / "real")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert len(registry.read("pairs", tmp_path / "link", Split(0), {}).images) == 10


def test_official_lists_may_not_leave_either(tmp_path: Path) -> None:
    raw.chexpert(tmp_path / "c")
    replace(tmp_path / "c/train.csv", "train/patient00001/study1", "../../..")
    assert "stay inside" in refused("chexpert", tmp_path / "c").expected
    raw.rsna(tmp_path / "r")
    replace(tmp_path / "r/stage_2_train_labels.csv", "id-00", "../../id-00")
    assert "stay inside" in refused("rsna", tmp_path / "r").expected
    raw.covidx(tmp_path / "x", train=["1 ../../a.png normal"])
    assert "stay inside" in refused("covidx", tmp_path / "x").expected
    raw.mura(tmp_path / "m")
    for name in ("image_paths", "labeled_studies"):
        replace(tmp_path / f"m/MURA-v1.1/train_{name}.csv", "XR_HAND/patient00002", "../..")
    assert "stay inside" in refused("mura", tmp_path / "m").expected
    raw.mimic(tmp_path / "i", packed=False)
    replace(tmp_path / "i/mimic-cxr-2.0.0-metadata.csv", "aa-01", "../aa-01")
    assert "bare ids" in refused("mimic-cxr", tmp_path / "i").expected


# ------------------------------------------------------------------------------ ids and splits


def test_duplicate_ids(tmp_path: Path) -> None:
    raw.pairs(tmp_path, ["a.png,One text here.,p1", "./a.png,Other text here.,p1"])
    error = refused("pairs", tmp_path)
    assert "`a.png`" in error.found
    raw.chexpert(tmp_path / "c")
    train = tmp_path / "c/train.csv"
    train.write_text(train.read_text() + train.read_text().splitlines()[1] + "\n")
    assert "duplicate" in refused("chexpert", tmp_path / "c", exclude="none").found


def test_one_patient_in_two_splits(tmp_path: Path) -> None:
    rows = ["a.png,One text here.,p1,train", "b.png,Other text here.,p1,test"]
    raw.pairs(tmp_path, rows, "image,text,patient,split")
    assert "`p1` in test and train" in refused("pairs", tmp_path).found
    raw.covidx(tmp_path / "x", test=["55 z.png normal"])
    assert "`55`" in refused("covidx", tmp_path / "x").found


@pytest.mark.parametrize("name", ["pairs", "labels"])
def test_one_patient_in_a_named_split_and_a_blank(tmp_path: Path, name: str) -> None:
    cell, column = {"pairs": ("Some text here.", "text"), "labels": ("1", "y")}[name]
    rows = [f"a.png,{cell},p1,test", f"b.png,{cell},p1,", f"c.png,{cell},p2,train"]
    raw.write(tmp_path / f"{name}.csv", "\n".join([f"image,{column},patient,split", *rows]))
    error = refused(name, tmp_path)
    assert error.found == "patient `p1` in test and train (a blank means train)"


def test_one_patient_in_two_spellings_of_unicode(tmp_path: Path) -> None:
    """An accented letter as one character and as two, which look the same."""
    rows = ["a.png,One text here.,Jos\u00e9,train", "b.png,Other text here.,Jose\u0301,test"]
    raw.pairs(tmp_path, rows, "image,text,patient,split")
    assert refused("pairs", tmp_path).found == "patient `Jos\u00e9` in test and train"


def test_one_study_of_two_patients(tmp_path: Path) -> None:
    rows = ["a.png,One text here.,p1,s", "b.png,One text here.,p2,s"]
    raw.pairs(tmp_path, rows, "image,text,patient,study")
    assert "patients p1, p2" in refused("pairs", tmp_path).found


@pytest.mark.parametrize("split", ["train", "val", ""])
def test_one_study_in_two_splits(tmp_path: Path, split: str) -> None:
    rows = [f"a.png,One text here.,p1,s,{split}", "b.png,One text here.,p1,s,test"]
    raw.pairs(tmp_path, rows, "image,text,patient,study,split")
    assert "`s` in several" in refused("pairs", tmp_path).found


def test_a_blank_beside_train_is_train(tmp_path: Path) -> None:
    rows = ["a.png,One text here.,p1,s,train", "b.png,One text here.,p1,s,"]
    raw.pairs(tmp_path, rows, "image,text,patient,study,split")
    tables = registry.read("pairs", tmp_path, Split(0), {})
    assert tables.images["split"].tolist() == ["train", "train"]


def test_a_blank_patient(tmp_path: Path) -> None:
    raw.pairs(tmp_path, ["a.png,One text here.,"])
    assert "data row 1" in refused("pairs", tmp_path).found


@pytest.mark.parametrize("name", ["pairs", "labels", "candidates"])
def test_rows_without_an_image(tmp_path: Path, name: str) -> None:
    """Spreadsheet programs leave such rows at the end."""
    column = {"pairs": "text", "labels": "y", "candidates": "label"}[name]
    head = f"image,{column},patient"
    raw.write(tmp_path / f"{name}.csv", f"{head}\na.png,1,p1\n,,\n,,\n")
    error = refused("retrieval" if name == "candidates" else name, tmp_path)
    assert error.path == str(tmp_path / f"{name}.csv") and error.expected == "`image` in every row"
    assert error.found == "a blank in data row 2 (2 such rows)" and "remove the row" in error.hint


def test_two_texts_of_one_study(tmp_path: Path) -> None:
    rows = ["a.png,One text here.,p1,s", "b.png,Other text here.,p1,s"]
    raw.pairs(tmp_path, rows, "image,text,patient,study")
    assert "two different texts" in refused("pairs", tmp_path).found


@pytest.mark.parametrize("name", ["chexpert", "covidx", "mura"])
def test_layouts_with_a_test_set_take_no_other(tmp_path: Path, name: str) -> None:
    getattr(raw, name)(tmp_path)
    options = {"exclude": "none"} if name == "chexpert" else {}
    assert "own test split" in refused(name, tmp_path, Split(0, 0, 1), **options).expected


def test_an_unknown_view(tmp_path: Path) -> None:
    raw.mimic(tmp_path)
    error = refused("mimic-cxr", tmp_path, views=["FRONTAL"])
    assert "`PA`" in error.expected


def test_views_of_a_list_without_any(tmp_path: Path) -> None:
    error = refused("pairs", raw.ten_pairs(tmp_path), views=["PA"])
    assert "a filled column `view`" in error.expected and error.hint.startswith("add it, or remove")


# ------------------------------------------------------------------------------ labels


def labels(root: Path, cell: str) -> Path:
    """labels.csv with one odd cell."""
    raw.write(root / "labels.csv", f"image,patient,label\na.png,p1,0\nb.png,p2,{cell}\n")
    return root


@pytest.mark.parametrize("cell", ["2", "yes", "", "-1"])
def test_a_label_that_is_neither_0_nor_1(tmp_path: Path, cell: str) -> None:
    assert f"`{cell}` in data row 2" in refused("labels", labels(tmp_path, cell)).found


def test_a_label_that_is_no_declared_class(tmp_path: Path) -> None:
    root = labels(tmp_path, "normla")
    replace(root / "labels.csv", "p1,0", "p1,normal")
    error = refused("labels", root, column="label", classes=["normal", "covid"])
    assert "normal, covid" in error.expected
    assert "`normla` in data row 2" in error.found
    assert error.hint == "did you mean `normal`?"
    replace(root / "labels.csv", "normla", "COVID")
    assert refused("labels", root, column="label", classes=["normal", "covid"]).hint == (
        "did you mean `covid`?"
    )


def test_labels_options_that_contradict(tmp_path: Path) -> None:
    root = labels(tmp_path, "1")
    refused("labels", root, column="label")
    refused("labels", root, classes=["a"])
    refused("labels", root, column="label", classes=["0", "1"], columns=["label"])
    assert "of type list" in refused("labels", root, columns="label").expected
    replace(root / "labels.csv", "label", "top")
    assert "`top`" in refused("labels", root).found
    raw.write(root / "labels.csv", "image,patient\na.png,p1\n")
    assert "no label column" in refused("labels", root).found


def test_chexpert_labels(tmp_path: Path) -> None:
    raw.chexpert(tmp_path)
    refused("chexpert", tmp_path, uncertain="maybe")
    refused("chexpert", tmp_path, exclude=str(tmp_path / "none"))
    raw.retrieval_lists(tmp_path / "convirt", (99998,), (99999,))
    error = refused("chexpert", tmp_path, exclude=str(tmp_path / "convirt"))
    assert "no image in common" in error.found
    replace(tmp_path / "train.csv", "1.0,-1.0", "1.0,3.0")
    assert "`3.0`" in refused("chexpert", tmp_path).found


def test_retrieval_lists_are_checked(tmp_path: Path) -> None:
    home = raw.chexpert(tmp_path / "chexpert")
    root = raw.retrieval_lists(tmp_path / "convirt")
    assert "options.images" in refused("chexpert-8x200", root).expected
    replace(root / "text-retrieval/query.csv", "Fracture,", "Fractur,")
    error = refused("chexpert-8x200", root, images=str(home))
    assert error.hint == "did you mean `Fracture`?"
    replace(root / "text-retrieval/query.csv", "Fractur,", "Fracture,")
    replace(root / "image-retrieval/candidate.csv", "1.0", "0.0")
    assert "0 for" in refused("chexpert-8x200", root, images=str(home)).found
    raw.retrieval_lists(root, (1,), (1, 2))
    assert "duplicate" in refused("chexpert-8x200", root, images=str(home)).found


def test_own_retrieval_lists_are_checked(tmp_path: Path) -> None:
    raw.write(tmp_path / "candidates.csv", "image,label\na.png,A\nb.png, \n")
    error = refused("retrieval", tmp_path)
    assert error.expected == "`label` in every row" and error.found == "a blank in data row 2"
    assert error.path == str(tmp_path / "candidates.csv")
    raw.write(tmp_path / "candidates.csv", "image,label\na.png,A\n")
    raw.write(tmp_path / "queries.csv", "label,image,text\nA,q.png,both\n")
    assert "both" in refused("retrieval", tmp_path).found
    raw.write(tmp_path / "queries.csv", "label,image\nA,\n")
    assert "neither" in refused("retrieval", tmp_path).found
    raw.write(tmp_path / "queries.csv", "label,text\nB,words\n")
    assert "`B`" in refused("retrieval", tmp_path).found
    raw.write(tmp_path / "queries.csv", "label,image\nA,a.png\n")
    assert "`a.png` in both" in refused("retrieval", tmp_path).found


def test_mura_contradictions(tmp_path: Path) -> None:
    raw.mura(tmp_path / "a")
    studies = tmp_path / "a/MURA-v1.1/train_labeled_studies.csv"
    replace(
        studies,
        "XR_HAND/patient00002/study1_negative/,0",
        "XR_HAND/patient00002/study1_negative/,1",
    )
    assert "folder's name" in refused("mura", tmp_path / "a").expected
    raw.mura(tmp_path / "b")
    studies = tmp_path / "b/MURA-v1.1/train_labeled_studies.csv"
    replace(studies, "XR_HAND/patient00002", "XR_HAND/patient00009")
    assert "patient00002" in refused("mura", tmp_path / "b").found


# ------------------------------------------------------------------------------ reports


def test_mimic_without_any_report(tmp_path: Path) -> None:
    raw.mimic(tmp_path)
    (tmp_path / "mimic-cxr-reports.zip").unlink()
    assert "MIMIC-CXR-JPG holds none" in refused("mimic-cxr", tmp_path).hint
    (tmp_path / "mimic-cxr-reports.zip").write_text("no zip")
    assert "download it again" in refused("mimic-cxr", tmp_path).hint
    refused("mimic-cxr", tmp_path, reports=str(tmp_path / "none.zip"))


def test_only_empty_reports(tmp_path: Path) -> None:
    raw.pairs(tmp_path, ["a.png,,p1", "b.png, ,p2"])
    assert "empty report" in refused("pairs", tmp_path).found


def test_no_report_has_a_section(tmp_path: Path) -> None:
    raw.pairs(tmp_path, ["a.png,Clear. FINDINGS: None.,p1", "b.png, ,p2"])
    error = refused("pairs", tmp_path, sections=True)
    assert "at the start of a line" in error.expected and error.found == "none in 1 texts"
    assert "options.sections: false" in error.hint
    raw.mimic(tmp_path, reports={study: "Nothing of use." for _, _, study, _ in raw.MIMIC_ROWS})
    assert "only their findings and impression are used" in refused("mimic-cxr", tmp_path).hint


def test_mimic_split_list_with_a_hole(tmp_path: Path) -> None:
    raw.mimic(tmp_path, packed=False)
    replace(tmp_path / "mimic-cxr-2.0.0-split.csv", "dd-01", "dd-02")
    assert "`dd-01`" in refused("mimic-cxr", tmp_path, official_split=True).found
