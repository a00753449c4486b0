"""MIMIC-CXR on made-up files in its official layout: every known trap, one test each."""

from __future__ import annotations

import gzip
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import raw
from hypothesis import given, settings
from hypothesis import strategies as st

from convirt.datasets import mimic_reports, registry
from convirt.datasets.mimic_exceptions import MISNAMED, SPANS
from convirt.datasets.splits import Split
from convirt.datasets.tables import (
    EMPTY_REPORT,
    NO_REPORT,
    NO_SECTION,
    SHORT_REPORT,
    VIEW_NOT_CHOSEN,
    Tables,
)
from convirt.errors import InputError

LISTS = "mimic-cxr-2.0.0-"
RECORDS = "subject_id,study_id,dicom_id,path"


def read(root: Path, split: Split | None = None, **options: object) -> Tables:
    """Read, and check what holds for every set of pairs."""
    tables = registry.read("mimic-cxr", root, split or Split(0), options)
    images = tables.images
    assert list(images["image"]) == sorted(set(images["image"]))
    assert images["path"].map(lambda path: Path(path).is_absolute()).all()
    assert images.groupby("patient")["split"].nunique().max() == 1
    assert tables.reports is not None
    assert set(tables.reports["study"]) == set(images["study"])
    assert tables.funnel.images.kept == len(images)
    assert tables.funnel.studies.kept == len(tables.reports)
    return tables


def row(tables: Tables, image: str) -> pd.Series:
    """The row of the one image whose id ends with `image`."""
    found = tables.images[tables.images["image"].str.endswith(image)]
    assert len(found) == 1
    return found.iloc[0]


def texts(tables: Tables) -> dict[str, str]:
    """Study -> text."""
    assert tables.reports is not None
    return dict(zip(tables.reports["study"], tables.reports["text"], strict=True))


def refused(root: Path, **options: object) -> InputError:
    """The error; it has all of its four parts."""
    with pytest.raises(InputError) as caught:
        registry.read("mimic-cxr", root, Split(0), options)
    error = caught.value
    assert all((error.path, error.expected, error.found, error.hint))
    return error


def records(root: Path, packed: bool = True) -> Path:
    """The download of MIMIC-CXR: DICOM and a list of records, without MIMIC-CXR-JPG's lists."""
    raw.mimic(root, suffix=".dcm")
    for path in root.glob("mimic-cxr-2.0.0-*"):
        path.unlink()
    lines = [RECORDS] + [
        f"{subject},{study},{image},files/p{subject[:2]}/p{subject}/s{study}/{image}.dcm"
        for image, subject, study, _ in raw.MIMIC_ROWS
    ]
    ending = ".gz" if packed else ""
    raw.write(root / f"cxr-record-list.csv{ending}", "\n".join(lines) + "\n", packed)
    raw.write(root / f"cxr-study-list.csv{ending}", "subject_id,study_id,path\n", packed)
    return root


# ------------------------------------------------------------------------------ lists and trees


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_images_and_reports(tmp_path: Path, zipped: bool, packed: bool) -> None:
    """The text lies beside the study's folder; ids in the lists are bare numbers."""
    tables = read(raw.mimic(tmp_path, zipped=zipped, packed=packed), Split(0, 1))
    assert len(tables.images) == 6
    first = row(tables, "s50414267/aa-01.jpg")
    assert first["image"] == "files/p10/p10000032/s50414267/aa-01.jpg"
    assert (first["study"], first["patient"], first["view"]) == ("s50414267", "p10000032", "PA")
    assert row(tables, "cc-01.jpg")["view"] == ""
    assert all(Path(path).is_file() for path in tables.images["path"])
    text = texts(tables)["s50414267"]
    assert len(texts(tables)) == 5
    assert text.startswith("The heart is mildly enlarged.")
    assert "INDICATION" not in text
    assert tables.funnel.paper["studies"] == 217000
    assert (tables.images.groupby("split")["study"].nunique()["val"]) == 1


def test_laterals_are_part_of_their_study(tmp_path: Path) -> None:
    tables = read(raw.mimic(tmp_path))
    assert list(tables.images[tables.images["study"] == "s50414267"]["view"]) == ["PA", "LATERAL"]


def test_lists_named_after_the_release(tmp_path: Path) -> None:
    raw.mimic(tmp_path)
    for path in list(tmp_path.glob("mimic-cxr-2.0.0-*")):
        path.rename(tmp_path / path.name.replace("2.0.0", "2.1.0"))
    assert len(read(tmp_path, official_split=True).images) == 6


@pytest.mark.parametrize("packed", [True, False])
def test_records_where_the_jpg_lists_are_absent(tmp_path: Path, packed: bool) -> None:
    tables = read(records(tmp_path, packed))
    assert set(tables.images["view"]) == {""}
    assert row(tables, "aa-01.dcm")["study"] == "s50414267"
    assert all(Path(path).is_file() for path in tables.images["path"])


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("cell", ["..", "a/b", "s50414267.0", "", "٣٣٣"])
def test_ids_that_are_none(tmp_path: Path, column: int, cell: str) -> None:
    """Ids become paths; a list that went through a spreadsheet or was edited is refused."""
    line = ["aa-09", "10000032", "50414267", "CHEST", "PA", *[""] * 7]
    line[column] = cell
    raw.mimic(tmp_path, packed=False)
    with (tmp_path / f"{LISTS}metadata.csv").open("a") as handle:
        handle.write(",".join(line) + "\n")
    assert "bare ids" in refused(tmp_path).expected


def test_records_before_any_film_has_come(tmp_path: Path) -> None:
    root = records(tmp_path / "set")
    (root / "files").rename(tmp_path / "gone")
    assert read(root).images["image"].str.endswith(".dcm").all()


def test_records_tell_neither_views_nor_the_split(tmp_path: Path) -> None:
    records(tmp_path)
    assert "metadata.csv.gz" in refused(tmp_path, views=["PA"]).hint
    assert "split.csv.gz" in refused(tmp_path, official_split=True).hint
    (tmp_path / "cxr-record-list.csv.gz").unlink()
    assert "names no images" in refused(tmp_path).hint


def test_the_metadata_goes_before_the_records(tmp_path: Path) -> None:
    raw.mimic(tmp_path)
    raw.write(tmp_path / "cxr-record-list.csv", RECORDS + "\n")
    assert len(read(tmp_path, views=["PA"]).images) == 2


def test_dicom_tree_with_reports_elsewhere(tmp_path: Path) -> None:
    raw.mimic(tmp_path / "images", suffix=".dcm")
    (tmp_path / "images/mimic-cxr-reports.zip").rename(tmp_path / "reports.zip")
    tables = read(tmp_path / "images", reports=str(tmp_path / "reports.zip"))
    assert row(tables, "aa-01.dcm")["study"] == "s50414267"


def test_a_partial_download_of_dicom_files(tmp_path: Path) -> None:
    """A user who has fetched only the last folder must not be told that .jpg files are missing."""
    rows = [(f"x-{i:04d}", f"1{i:07d}", f"5{i:07d}", "AP") for i in range(1200)]
    lines = [raw.METADATA, *(f"{i},{p},{s},C,{v},1,1,1,1,C,," for i, p, s, v in rows)]
    raw.write(tmp_path / f"{LISTS}metadata.csv", "\n".join(lines) + "\n")
    for image, subject, study, _ in rows[1100:]:
        folder = tmp_path / f"files/p{subject[:2]}/p{subject}/s{study}"
        raw.write(folder / f"{image}.dcm", "")
        raw.write(folder.with_suffix(".txt"), raw.REPORT)
    tables = read(tmp_path)
    assert tables.images["image"].str.endswith(".dcm").all()
    assert tables.funnel.studies.dropped == {NO_REPORT: [f"s5{i:07d}" for i in range(1100)]}


def test_images_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw.mimic(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "a/files").rename(tmp_path / "b/files")
    monkeypatch.setenv("FILMS", str(tmp_path / "b"))
    for place in ("$FILMS", "$FILMS/files"):
        tables = read(tmp_path / "a", images=place)
        assert all(Path(path).is_file() for path in tables.images["path"])


def test_a_tree_of_links_is_fine(tmp_path: Path) -> None:
    """Large sets are often spread over disks; the ids cannot name anything outside."""
    raw.mimic(tmp_path / "a")
    (tmp_path / "a/files").rename(tmp_path / "disk")
    (tmp_path / "a/files").symlink_to(tmp_path / "disk")
    assert all(Path(path).is_file() for path in read(tmp_path / "a").images["path"])


# ------------------------------------------------------------------------------ where reports lie


@pytest.mark.parametrize(
    "folder",
    [
        "physionet.org/files/mimic-cxr-jpg/2.1.0/mimic-cxr-reports.zip",
        "physionet.org/files/mimic-cxr/2.0.0/mimic-cxr-reports.zip",  # as wget lays them out
        "physionet.org/files/mimic-cxr/2.0.0",
        "physionet.org/files/mimic-cxr/2.1.0/mimic-cxr-reports",
        "physionet.org/files/mimic-cxr-jpg/2.1.0/mimic-cxr-reports/mimic-cxr-reports",
    ],
)
def test_reports_are_found(tmp_path: Path, folder: str) -> None:
    """The JPG download holds no reports; the two are joined by subject and study."""
    root = raw.mimic(tmp_path / "physionet.org/files/mimic-cxr-jpg/2.1.0")
    source, place = root / "mimic-cxr-reports.zip", tmp_path / folder
    if place.suffix == ".zip":
        place.parent.mkdir(parents=True, exist_ok=True)
        source.rename(place)
    else:
        with zipfile.ZipFile(source) as archive:
            archive.extractall(place)
        source.unlink()
    assert len(texts(read(root))) == 5


def test_reports_by_option(tmp_path: Path) -> None:
    root = raw.mimic(tmp_path / "set")
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip") as archive:
        archive.extractall(tmp_path / "apart")
    (root / "mimic-cxr-reports.zip").unlink()
    for place in ("apart", "apart/files"):
        assert len(texts(read(root, reports=str(tmp_path / place)))) == 5
    assert "MIMIC-CXR-JPG holds none" in refused(root).hint


def test_a_report_that_cannot_be_unpacked(tmp_path: Path) -> None:
    raw.mimic(tmp_path)
    path = tmp_path / "mimic-cxr-reports.zip"
    path.write_bytes(path.read_bytes().replace(b"FINAL REPORT", b"FINAL REPoRT", 1))
    assert "download it again" in refused(tmp_path).hint


# ------------------------------------------------------------------------------ what is dropped


def test_studies_are_dropped_by_reason(tmp_path: Path) -> None:
    reports = {
        "50414267": " EXAMINATION:  CHEST\n \n Nothing else.\n",
        "53911762": "",
        "57375967": " IMPRESSION:  Normal\n",
    }
    root = raw.mimic(tmp_path, reports=reports, zipped=False)
    (root / "files/p12/p12000935/s50578979.txt").unlink()
    funnel = read(root).funnel.to_dict()
    assert funnel["studies"] == {
        "in": 5,
        "dropped": {EMPTY_REPORT: 1, NO_SECTION: 1, NO_REPORT: 1, SHORT_REPORT: 1},
        "kept": 1,
    }
    assert funnel["images"]["dropped"][NO_SECTION] == 2
    assert funnel["images"]["in"] == 6 == sum(funnel["images"]["dropped"].values()) + 1


def test_the_last_paragraph_is_an_option(tmp_path: Path) -> None:
    reports = {"50414267": " CHEST RADIOGRAPH\n \n COMPARISON:  None.\n \n Lungs are clear.\n"}
    root = raw.mimic(tmp_path, reports=reports)
    assert read(root).funnel.studies.dropped == {NO_SECTION: ["s50414267"]}
    tables = read(root, last_paragraph=True)
    assert texts(tables)["s50414267"] == "Lungs are clear."
    assert texts(tables)["s57375967"].startswith("The heart")


# ------------------------------------------------------------------------------ views and splits


def test_views(tmp_path: Path) -> None:
    tables = read(raw.mimic(tmp_path), views=["PA", "AP"])
    assert set(tables.images["view"]) == {"PA", "AP"}
    assert tables.funnel.to_dict()["images"]["dropped"] == {VIEW_NOT_CHOSEN: 2}
    assert tables.funnel.to_dict()["studies"]["dropped"] == {VIEW_NOT_CHOSEN: 1}
    assert tables.funnel.dropped_share == 0  # what is left out by choice is no loss
    assert set(read(tmp_path, views=[""]).images["view"]) == {""}


def test_the_view_is_not_what_the_procedure_says(tmp_path: Path) -> None:
    """22,043 AP films carry the procedure "CHEST (PA AND LAT)" (MIT-LCP/mimic-code #1513)."""
    raw.mimic(tmp_path, packed=False)
    path = tmp_path / f"{LISTS}metadata.csv"
    text = path.read_text().replace("CHEST,AP,", "CHEST (PA AND LAT),AP,")
    path.write_text(text.replace("CHEST,,Erect", "CHEST (PA AND LAT),postero-anterior,"))
    assert row(read(tmp_path), "aa-03.jpg")["view"] == "AP"


def test_the_official_split_says_validate(tmp_path: Path) -> None:
    tables = read(raw.mimic(tmp_path), official_split=True)
    assert row(tables, "aa-02.jpg")["split"] == "train"
    assert row(tables, "bb-01.jpg")["split"] == "val"
    assert row(tables, "cc-01.jpg")["split"] == "test"


def test_validation_is_drawn_by_patient(tmp_path: Path) -> None:
    """All films of a patient stay together, whatever the seed: otherwise one view leaks another."""
    rows = [
        (f"{p}-{s}-{i}", f"1000000{p}", f"5000000{p}{s}", "PA")
        for p in range(6) for s in range(2) for i in range(2)
    ]  # fmt: skip
    root = raw.mimic(tmp_path, rows)
    for seed in range(4):
        images = read(root, Split(seed, 4)).images
        val = images[images["split"] == "val"]
        assert val["study"].nunique() == 4 and val["patient"].nunique() == 2 and len(val) == 8


# ------------------------------------------------------------------------------ exceptions


def test_the_authors_exceptions_are_all_there() -> None:
    assert (len(MISNAMED), len(SPANS)) == (23, 31)
    assert not set(MISNAMED) & set(SPANS)
    assert all(len(study) == 9 and study.startswith("s5") for study in [*MISNAMED, *SPANS])
    assert sum(span == (0, 0) for span in SPANS.values()) == 8
    assert all(0 < end - start < 1000 for start, end in SPANS.values() if end)


@pytest.mark.parametrize("study", MISNAMED)
def test_a_reading_under_another_head(study: str) -> None:
    head = MISNAMED[study].upper()
    report = f" FINAL REPORT\n {head}:  The lungs\n are clear.\n\n COMPARISON:  None.\n"
    assert mimic_reports.choose(report, study) == "The lungs\nare clear."
    assert mimic_reports.choose(report, "s50000000") == NO_SECTION
    assert mimic_reports.choose(" IMPRESSION:  Another text.", study) == "Another text."


@pytest.mark.parametrize("study", SPANS)
def test_a_reading_at_a_known_place(study: str) -> None:
    start, end = SPANS[study]
    report = "\r\n".join(["Z" * 49] * (start // 50)) + "\r\n" if start >= 50 else ""
    report += "z" * (start - len(report.replace("\r", "")))
    report += "a" * (end - start) + " IMPRESSION: zzz zzz zzz"
    expected = "a" * (end - start) if end else NO_SECTION
    assert mimic_reports.choose(report, study) == expected
    if end:  # a text too short for the span is not the one that the authors saw
        assert mimic_reports.choose(" IMPRESSION: Yes, normal.", study) == "Yes, normal."


def test_exceptions_reach_the_tables(tmp_path: Path) -> None:
    rows = [*raw.MIMIC_ROWS, ("ee-01", "14000000", "58235663", "PA"),
            ("ff-01", "14000001", "51491012", "PA")]  # fmt: skip
    root = raw.mimic(tmp_path, rows, {"51491012": " HISTORY:  Effusion is present.\n"})
    tables = read(root)
    assert texts(tables)["s51491012"] == "Effusion is present."
    assert tables.funnel.studies.dropped == {NO_SECTION: ["s58235663"]}


# ------------------------------------------------------------------------------ whatever comes


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_any_bytes_as_a_report(data: bytes) -> None:
    text = mimic_reports.choose(data.decode("utf-8", errors="replace"), last_paragraph=True)
    assert isinstance(text, str)


@settings(max_examples=25)
@given(st.binary(max_size=200), st.sampled_from([*MISNAMED, *SPANS, "s50414267"]))
def test_any_bytes_in_the_tree(data: bytes, study: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = [*raw.MIMIC_ROWS[3:], ("xx-01", "10000032", study[1:], "PA")]
        root = raw.mimic(Path(folder), rows, zipped=False)
        (root / f"files/p10/p10000032/{study}.txt").write_bytes(data)
        assert 3 <= len(read(root).images) <= 4


CELLS = st.text(max_size=12) | st.sampled_from(
    ["10000032", "50414267", "aa-01", "", " 10000032", "10000032.0", "p10000032", "../x", "²²²",
     "1e7", "aa-01\n", "PA", "nan", '"', "\0"]
)  # fmt: skip


@settings(max_examples=60)
@given(cells=st.lists(CELLS, min_size=4, max_size=4), quote=st.booleans(), packed=st.booleans())
def test_any_cells_in_the_list(cells: list[str], quote: bool, packed: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = raw.mimic(Path(folder), raw.MIMIC_ROWS[:4], packed=packed)
        path = next(root.glob("*metadata*"))
        image, subject, study, view = [
            '"' + cell.replace('"', '""') + '"' if quote else cell for cell in cells
        ]
        line = f"{image},{subject},{study},CHEST,{view},1,1,1,1,,,\n".encode("utf-8", "replace")
        text = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        path.write_bytes(gzip.compress(text + line) if packed else text + line)
        try:
            tables = read(root)
        except InputError:
            return
        home = (root / "files").resolve()
        assert all(Path(p).resolve().is_relative_to(home) for p in tables.images["path"])


@settings(max_examples=25)
@given(st.binary(max_size=120))
def test_any_bytes_as_the_archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = raw.mimic(Path(folder), raw.MIMIC_ROWS[:2])
        (root / "mimic-cxr-reports.zip").write_bytes(data)
        with pytest.raises(InputError):
            read(root)
