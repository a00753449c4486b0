"""Open-i in all its layouts, its traps, what it refuses; the commands of docs/datasets."""

from __future__ import annotations

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape

import pandas as pd
import pytest
import raw
from conftest import ROOT, memory_below
from hypothesis import given, settings
from hypothesis import strategies as st

from convirt.datasets import archives, openi, openi_report, registry, sentences
from convirt.datasets import images as decoding
from convirt.datasets.splits import Split
from convirt.datasets.tables import EMPTY_REPORT, NO_SECTION, SHORT_REPORT, Tables
from convirt.errors import InputError
from convirt.params import from_yaml, parse
from stages.profile import expand

# file, uId, findings, impression, images as the XML writes them
REPORTS = [
    ("1", "1", "The heart is normal. No XXXX.", "Normal chest x-XXXX.",
     ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
    ("10", "10", "", "Left effusion. XXXX XXXX.", ["CXR10_IM-0002-1001"]),
    ("11", "11", "Heart &gt; normal.<BR>Lungs clear.", "", ["CXR11_IM-0067-1001-0001"]),
    ("12", "12", "No image here.", "None.", []),
    ("13", "13", "", "  ", ["CXR13_IM-0198-1001", "CXR13_IM-0198-2001"]),
    ("14", "14", "", "Normal", ["CXR14_IM-0256-1001"]),
    ("15", "15", "XXXX XXXX.", "XXXX.", ["CXR15_IM-0360-1001"]),
    # the numbers of a file, a report and an image may differ
    ("17", "16", "Report sixteen is here.", "", ["CXR2_IM-0652-1001"]),
    ("16", "17", "Report seventeen is here.", "", ["CXR3_IM-1384-1001"]),
]  # fmt: skip
STUDIES = {"CXR1", "CXR10", "CXR11", "CXR16", "CXR17"}
IMAGES = {"CXR1_IM-0001-3001", "CXR1_IM-0001-4001", "CXR10_IM-0002-1001"}
IMAGES |= {"CXR11_IM-0067-1001-0001", "CXR2_IM-0652-1001", "CXR3_IM-1384-1001"}
LATERAL = {"CXR1_IM-0001-4001", "CXR13_IM-0198-2001"}


def xml(uid: str, findings: str, impression: str, names: list[str]) -> str:
    """A report as distributed, reduced to what is read of it."""
    texts = {"COMPARISON": "None.", "INDICATION": "Cough", "FINDINGS": findings}
    texts["IMPRESSION"] = impression
    abstract = "\n".join(
        f'<AbstractText Label="{label}">{escape(text)}</AbstractText>'
        if text
        else f'<AbstractText Label="{label}"/>'
        for label, text in texts.items()
    )
    parents = "\n".join(
        f'<parentImage id="{name}"><figureId>F{i}</figureId><caption>Chest</caption>'
        f'<panel type="single"><url>/hadoop/{name}.jpg</url></panel></parentImage>'
        for i, name in enumerate(names, 1)
    )
    return f"""<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/><uId id="CXR{uid}"/><pmcId id="{uid}"/>
   <MedlineCitation Owner="Indiana University"><Article><Abstract>{abstract}</Abstract></Article>
   </MedlineCitation><MeSH><major>normal</major></MeSH>
   {parents}
</eCitation>
"""


def official(root: Path, packed: bool = True, dicom: bool = False) -> Path:
    """The downloads of Open-i, with a file of macOS among the reports."""
    files = {f"{row[0]}.xml": xml(*row[1:]) for row in REPORTS}
    files["._1.xml"] = "no report"
    root.mkdir(parents=True, exist_ok=True)
    if packed:
        with tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as archive:
            for name, text in files.items():
                member = tarfile.TarInfo(f"ecgen-radiology/{name}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
    else:
        for name, text in files.items():
            raw.write(root / "ecgen-radiology" / name, text)
    for i, name in enumerate(name for row in REPORTS for name in row[4]):
        if dicom:
            films(root, name, i)
        else:
            raw.save(root / f"NLMCXR_png/{name}.png", i)
    raw.save(root / "NLMCXR_png/CXR9999_IM-0001-1001.png") if not dicom else None
    return root


def films(root: Path, name: str, seed: int) -> Path:
    """One DICOM file; every second is MONOCHROME1."""
    short = openi_report.image_id(name)
    assert short is not None
    short = short.removeprefix("CXR")
    view = "LL" if f"CXR{short}" in LATERAL else "PA"
    path = root / f"NLMCXR_dcm/{short.split('_')[0]}/{short}.dcm"
    photometric = "MONOCHROME1" if seed % 2 else "MONOCHROME2"
    if short.startswith("3_"):
        return raw.dicom(path, raw.film(seed), photometric)
    return raw.dicom(path, raw.film(seed), photometric, ViewPosition=view)


def kaggle(root: Path) -> Path:
    """The Kaggle copy: reports without an image are not in it."""
    reports, listed = [], []
    for i, (_, uid, findings, impression, names) in enumerate(REPORTS):
        if names:
            cells = (uid, "normal", "normal", "Chest", "Cough", "None.", findings, impression)
            reports.append(cells)
        for name in names:
            image = openi_report.image_id(name)
            assert image is not None
            file = f"{image.removeprefix('CXR')}.dcm.png"
            listed.append((uid, file, "Lateral" if image in LATERAL else "Frontal"))
            raw.save(root / "images/images_normalized" / file, i)
    header = ["uid", "MeSH", "Problems", "image", "indication", "comparison", "findings"]
    reports_table = pd.DataFrame(reports, columns=[*header, "impression"])
    reports_table.to_csv(root / "indiana_reports.csv", index=False)
    listed_table = pd.DataFrame(listed, columns=["uid", "filename", "projection"])
    listed_table.to_csv(root / "indiana_projections.csv", index=False)
    return root


def read(root: Path, **options: object) -> Tables:
    return registry.read("open-i", root, Split(0), options)


def texts(tables: Tables) -> dict[str, str]:
    assert tables.reports is not None
    return dict(zip(tables.reports["study"], tables.reports["text"], strict=True))


def column(tables: Tables, name: str) -> dict[str, str]:
    return dict(zip(tables.images["image"], tables.images[name], strict=True))


def refused(root: Path, **options: object) -> InputError:
    with pytest.raises(InputError) as caught:
        read(root, **options)
    error = caught.value
    assert all((error.path, error.expected, error.found, error.hint))
    return error


# ------------------------------------------------------------------------------ layouts


@pytest.mark.parametrize("packed", [True, False])
def test_official(tmp_path: Path, packed: bool) -> None:
    tables = read(official(tmp_path, packed))
    assert set(tables.images["image"]) == IMAGES
    assert set(texts(tables)) == STUDIES
    assert column(tables, "study")["CXR1_IM-0001-3001"] == "CXR1"
    assert (tables.images["study"] == tables.images["patient"]).all()
    assert all(Path(path).is_file() for path in tables.images["path"])
    assert set(tables.images["view"]) == {""}
    path = column(tables, "path")["CXR1_IM-0001-3001"]
    assert path.endswith("NLMCXR_png/CXR1_1_IM-0001-3001.png")


def test_image_belongs_to_the_report_that_lists_it(tmp_path: Path) -> None:
    tables = read(official(tmp_path))
    owners = column(tables, "study")
    assert owners["CXR2_IM-0652-1001"] == "CXR16"
    assert owners["CXR3_IM-1384-1001"] == "CXR17"
    assert texts(tables)["CXR16"] == "Report sixteen is here."


def test_dropped_by_reason(tmp_path: Path) -> None:
    funnel = read(official(tmp_path)).funnel.to_dict()
    reasons = {openi.NO_IMAGE: 1, NO_SECTION: 1, SHORT_REPORT: 1, EMPTY_REPORT: 1}
    assert funnel["studies"] == {"in": 9, "dropped": reasons, "kept": 5}
    assert funnel["images"]["in"] == 10
    assert funnel["images"]["dropped"] == {NO_SECTION: 2, SHORT_REPORT: 1, EMPTY_REPORT: 1}


def test_dicom_gives_views_and_turns_films_around(tmp_path: Path) -> None:
    tables = read(official(tmp_path, dicom=True))
    assert set(tables.images["image"]) == IMAGES
    views = column(tables, "view")
    assert views["CXR1_IM-0001-3001"] == "PA"
    assert views["CXR1_IM-0001-4001"] == "LL"
    assert views["CXR3_IM-1384-1001"] == ""
    converted = {decoding.decode(Path(path)).converted for path in tables.images["path"]}
    assert converted == {"", "MONOCHROME1"}
    assert len(read(tmp_path, views=["LL"]).images) == 1


def test_views_are_read_without_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counting(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            count.append(len(data))
            return data

    count: list[int] = []
    path = raw.dicom(tmp_path / "1.dcm", raw.film(0, 400, 400), ViewPosition="PA")
    content = Counting(path.read_bytes())
    monkeypatch.setattr(archives, "open_binary", lambda _: content)
    assert openi._header_view(path) == "PA"
    assert sum(count) < 10_000


def test_headers_serve_the_png_files_beside_them(tmp_path: Path) -> None:
    official(tmp_path)
    films(tmp_path, "CXR1_1_IM-0001-4001", 0)
    raw.write(tmp_path / "NLMCXR_dcm/10/10_IM-0002-1001.dcm", "no header")
    tables = read(tmp_path)
    assert column(tables, "path")["CXR1_IM-0001-4001"].endswith(".png")
    assert column(tables, "view")["CXR1_IM-0001-4001"] == "LL"
    assert column(tables, "view")["CXR10_IM-0002-1001"] == ""


def test_the_list_of_views_goes_before_the_headers(tmp_path: Path) -> None:
    official(tmp_path, dicom=True)
    raw.write(
        tmp_path / "indiana_projections.csv",
        "uid,filename,projection\n1,1_IM-0001-3001.dcm.png,Lateral\n",
    )
    views = column(read(tmp_path), "view")
    assert views["CXR1_IM-0001-3001"] == "Lateral"
    assert views["CXR1_IM-0001-4001"] == ""  # not mixed with the headers' names


@pytest.mark.parametrize("zipped", [False, True])
def test_kaggle(tmp_path: Path, zipped: bool) -> None:
    root = kaggle(tmp_path / "set")
    if zipped:
        root = tmp_path / "archive.zip"
        with zipfile.ZipFile(root, "w") as archive:
            for path in (tmp_path / "set").rglob("*.*"):
                archive.write(path, path.relative_to(tmp_path / "set"))
    tables = read(root)
    assert set(tables.images["image"]) == IMAGES
    assert {name for name, view in column(tables, "view").items() if view == "Lateral"} == {
        "CXR1_IM-0001-4001"
    }
    assert tables.funnel.studies.found == 8
    assert len(read(root, views=["Frontal"]).images) == 5
    assert all(decoding.decode(Path(path)) for path in tables.images["path"])


def test_every_layout_gives_the_same_pairs_and_splits(tmp_path: Path) -> None:
    sets = [
        official(tmp_path / "png"),
        official(tmp_path / "dicom", packed=False, dicom=True),
        kaggle(tmp_path / "kaggle"),
    ]
    first, *others = [registry.read("open-i", root, Split(3, val=2), {}) for root in sets]
    assert set(first.images["split"]) == {"train", "val"}
    for other in others:
        names = ["image", "study", "patient", "split"]
        pd.testing.assert_frame_equal(first.images[names], other.images[names])
        assert texts(first) == texts(other)


def test_parts_elsewhere(tmp_path: Path) -> None:
    root = official(tmp_path / "a")
    (root / "NLMCXR_png").rename(tmp_path / "films")
    (root / "NLMCXR_reports.tgz").rename(tmp_path / "r.tgz")
    places = {"reports": str(tmp_path / "r.tgz"), "images": str(tmp_path / "films")}
    assert set(read(root, **places).images["image"]) == IMAGES
    (tmp_path / "a/films").mkdir()
    for path in (tmp_path / "films").iterdir():
        path.rename(tmp_path / "a/films" / path.name)
    assert set(read(root, reports=places["reports"]).images["image"]) == IMAGES  # any name will do
    bare = official(tmp_path / "b", packed=False)
    (bare / "NLMCXR_png").rename(bare / "x")
    assert len(read(bare / "ecgen-radiology", images=str(bare / "x")).images) == 6


def test_an_image_without_a_file_is_left_to_the_packing(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "NLMCXR_png/CXR10_IM-0002-1001.png").unlink()
    path = Path(column(read(tmp_path), "path")["CXR10_IM-0002-1001"])
    with pytest.raises(decoding.BadImageError, match=decoding.MISSING):
        decoding.decode(path)


# ------------------------------------------------------------------------------ texts


@pytest.mark.parametrize(
    ("mark", "text"),
    [
        ("___", "The heart is normal. No ___.\n\nNormal chest ___."),
        ("XXXX", "The heart is normal. No XXXX.\n\nNormal chest x-XXXX."),
        ("", "The heart is normal. No .\n\nNormal chest ."),
        ("\\1", "The heart is normal. No \\1.\n\nNormal chest \\1."),
    ],
)
def test_removed_words(tmp_path: Path, mark: str, text: str) -> None:
    assert texts(read(official(tmp_path), mark=mark))["CXR1"] == text


def test_a_sentence_of_marks_is_none(tmp_path: Path) -> None:
    text = texts(read(official(tmp_path)))["CXR10"]
    assert sentences.split(text) == ["Left effusion."]
    assert "CXR15" not in texts(read(tmp_path))
    assert "CXR15" in texts(read(tmp_path, mark="XXXX"))


def test_text_that_was_escaped_twice(tmp_path: Path) -> None:
    assert texts(read(official(tmp_path)))["CXR11"] == "Heart > normal. Lungs clear."


# ------------------------------------------------------------------------------ refusals

LAUGHS = """<?xml version="1.0"?><!DOCTYPE eCitation [<!ENTITY a "ha">
<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">
]><eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">&c;</AbstractText></eCitation>"""
OUTSIDE = """<!DOCTYPE e [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<eCitation><uId id="CXR1"/><AbstractText Label="FINDINGS">&x;</AbstractText></eCitation>"""


@pytest.mark.parametrize("text", [LAUGHS, OUTSIDE, "<!DOCTYPE a SYSTEM 'http://x/a.dtd'><a/>"])
def test_document_types_are_refused(tmp_path: Path, text: str) -> None:
    official(tmp_path, packed=False)
    raw.write(tmp_path / "ecgen-radiology/99.xml", text)
    error = refused(tmp_path)
    assert "document type" in error.expected
    assert error.path.endswith("99.xml")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no element"),
        ("<eCitation>", "no element"),
        ("<eCitation/>", "uId ``"),
        ('<eCitation><uId id="../x"/></eCitation>', "`../x`"),
        ('<e><uId id="CXR1"/><parentImage id="CXR1_../../IM-1"/></e>', "`CXR1_../../IM-1`"),
        ('<e><uId id="CXR1"/><parentImage id="CXR1_2_IM-1-1"/></e>', "`CXR1_2_IM-1-1`"),
        ('<?xml version="1.0" encoding="rot13"?><e/>', ""),
        ('<?xml version="1.0" encoding="shift-jis"?><e/>', "encoding"),
    ],
)
def test_no_report(text: str, found: str) -> None:
    with pytest.raises(InputError) as caught:
        openi_report.parse(text.encode(), Path("9.xml"))
    assert found in caught.value.found
    assert "NLMCXR_reports.tgz" in caught.value.hint


def test_large_and_deep_files_end_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    deep = b"<a>" * 100_000
    start = time.monotonic()
    with pytest.raises(InputError):
        openi_report.parse(deep, Path("9.xml"))
    with pytest.raises(InputError, match="uId"):
        openi_report.parse(deep + b"</a>" * 100_000, Path("9.xml"))
    assert time.monotonic() - start < 10
    monkeypatch.setattr(openi_report, "MAX_BYTES", 10)
    with pytest.raises(InputError, match="10 bytes"):
        openi_report.parse(b"<a>12345678</a>", Path("9.xml"))


def test_twice_the_same(tmp_path: Path) -> None:
    official(tmp_path / "a", packed=False)
    raw.write(tmp_path / "a/ecgen-radiology/98.xml", xml("1", "Again.", "", []))
    assert "`CXR1` again" in refused(tmp_path / "a").found
    official(tmp_path / "b", packed=False)
    raw.write(
        tmp_path / "b/ecgen-radiology/98.xml", xml("98", "Stolen image.", "", ["CXR1_IM-0001-3001"])
    )
    assert "`CXR1_IM-0001-3001`" in refused(tmp_path / "b").found


def test_parts_that_are_missing(tmp_path: Path) -> None:
    official(tmp_path)
    assert "nothing there" in refused(tmp_path, images=str(tmp_path / "none")).found
    (tmp_path / "far/away").mkdir(parents=True)
    (tmp_path / "NLMCXR_png").rename(tmp_path / "far/away/films")
    assert "NLMCXR_png" in refused(tmp_path).hint
    (tmp_path / "NLMCXR_reports.tgz").unlink()
    assert "NLMCXR_reports.tgz" in refused(tmp_path).expected
    (tmp_path / "ecgen-radiology").mkdir()
    assert "no .xml file" in refused(tmp_path).found


def test_a_link_leaves_its_folder(tmp_path: Path) -> None:
    official(tmp_path / "set", packed=False)
    secret = raw.save(tmp_path / "secret.png")
    film = tmp_path / "set/NLMCXR_png/CXR10_IM-0002-1001.png"
    film.unlink()
    film.symlink_to(secret)
    assert "stay inside" in refused(tmp_path / "set").expected
    film.unlink()
    (tmp_path / "set/ecgen-radiology/99.xml").symlink_to(raw.write(tmp_path / "s.xml", "<e/>"))
    assert "stay inside" in refused(tmp_path / "set").expected


def test_a_broken_archive(tmp_path: Path) -> None:
    official(tmp_path)
    place = tmp_path / "NLMCXR_reports.tgz"
    whole = place.read_bytes()
    for data in (b"", b"no archive", whole[: len(whole) // 2], gzip.compress(b"no tar" * 200)):
        place.write_bytes(data)
        assert "download" in refused(tmp_path).hint or not data


def test_an_archive_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header of a .tar may claim any size, and is read into memory whole."""
    official(tmp_path)
    place = tmp_path / "NLMCXR_reports.tgz"
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 27
    with gzip.open(place, "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        file.write(bytes(1 << 27))
    monkeypatch.setattr(openi_report, "MAX_ARCHIVE", 1 << 22)
    with memory_below(1 << 25):
        assert "larger than any report" in refused(tmp_path).found


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        ("reports", "\n10,", "\n1,", "`1` again"),
        ("reports", "\n10,", "\n../10,", "`../10`"),
        ("reports", "\n10,", "\n20,", "none for uid `10`"),
        ("reports", "impression", "impresion", "impresion"),
        ("projections", "10_IM-0002-1001.dcm.png", "../../a.png", "`../../a.png`"),
        ("projections", "10_IM-0002-1001", "1_IM-0001-3001", "duplicate"),
        ("projections", "\n10,", "\nten,", "`ten`"),
    ],
)
def test_kaggle_lists_are_checked(
    tmp_path: Path, file: str, old: str, new: str, found: str
) -> None:
    path = kaggle(tmp_path) / f"indiana_{file}.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert found in refused(tmp_path).found


# ------------------------------------------------------------------------------ anything at all

_WHOLE = re.findall(r"<[^>]*>|[^<]+", xml("1", "Clear.", "None.", ["CXR1_IM-1-1"]))
_ODD = ["&amp;", "&x;", "<!DOCTYPE a>", "<![CDATA[", "]]>", "<!--", "-->", "\0", "\ufeff", "<?p ?>"]
_PIECES = st.sampled_from([*_WHOLE, *_ODD])


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.lists(_PIECES, max_size=40).map(lambda s: "".join(s).encode()))
def test_any_bytes_are_a_report_or_refused(data: bytes) -> None:
    try:
        report = openi_report.parse(data, Path("9.xml"))
    except InputError:
        return
    assert re.fullmatch(r"CXR\d+", report.study)
    assert isinstance(openi.text_of(report, "___"), str)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_archive_is_read_or_refused(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        place = official(Path(folder)) / "NLMCXR_reports.tgz"
        packed = data.draw(st.booleans())
        content = bytearray(place.read_bytes() if packed else gzip.decompress(place.read_bytes()))
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        place.write_bytes(bytes(content) if packed else gzip.compress(bytes(content)))
        try:
            openi_report.read_all(place)
        except InputError:
            return


_CELLS = st.text(max_size=8) | st.sampled_from(["1", "2", "Normal chest.", "1_IM-1-1.dcm.png", '"'])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(_CELLS, _CELLS, _CELLS), max_size=4), st.data())
def test_any_cells_are_tables_or_refused(
    rows: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    quoted = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        raw.save(root / "images/1_IM-1-1.dcm.png")
        lists = {
            "reports": [("uid", "findings", "impression"), *rows],
            "projections": [
                ("uid", "filename", "projection"),
                ("1", "1_IM-1-1.dcm.png", ""),
                *data.draw(st.lists(st.tuples(_CELLS, _CELLS, _CELLS), max_size=2)),
            ],
        }
        for name, lines in lists.items():
            path = root / f"indiana_{name}.csv"
            if quoted:
                pd.DataFrame(lines).to_csv(path, index=False, header=False)
            else:
                path.write_bytes("\n".join(",".join(line) for line in lines).encode())
        try:
            tables = read(root)
        except InputError:
            return
        assert len(tables.images) == tables.funnel.images.kept


# ------------------------------------------------------------------------------ the real files


@pytest.mark.skipif("OPENI" not in os.environ, reason="$OPENI names no download")
def test_official_counts() -> None:
    reports = openi_report.read_all(openi._reports_place(Path(os.environ["OPENI"]), ""))
    names = [image for report in reports for image in report.images]
    assert (len(reports), len(names), len(set(names))) == (3955, 7470, 7470)
    assert sum(not report.images for report in reports) == 104
    assert sum(not report.findings for report in reports) == 530
    assert sum(not report.impression for report in reports) == 34
    assert sum(not report.findings and not report.impression for report in reports) == 28


# ------------------------------------------------------------------------------ docs and profile


def command(page: str, number: int, **environment: str) -> str:
    """Run the Python part of one of a page's commands; returns its output."""
    blocks = re.findall(
        r"python - <<'END'\n(.*?)\nEND\n", (ROOT / "docs/datasets" / page).read_text(), re.S
    )
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", blocks[number]],
        env={**os.environ, **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_roco_command(tmp_path: Path) -> None:
    lines = {
        "train": ['ROCO_00001\t Axial "MRI", coronal view.', "ROCO_00002\t Dead link here."],
        "validation": ["ROCO_00003\t A film of the chest."],
        "test": ["ROCO_00004\t Ultrasound of the liver.", ""],
    }
    number = 0
    for part, captions in lines.items():
        folder = tmp_path / "data" / part / "radiology"
        raw.write(folder / "captions.txt", "\n".join(captions))
        articles = ["ROCO_ID,PMC_ID,CC"]
        for line in filter(None, captions):
            number += 1
            name = line.split("\t")[0]
            article = 7 if number != 4 else 8
            articles.append(f"{name},PMC{article}_Fig{number}_HTML.jpg,CC BY")
            if "Dead" not in line:
                raw.save(folder / f"images/{name}.jpg", number, "RGB")
        raw.write(folder / "licences.txt", "\n".join(articles) + "\n")
    assert "1 captions without" in command("roco.md", 0, ROCO=str(tmp_path))
    tables = registry.read("pairs", tmp_path, Split(0, val=1), {})
    assert sorted(tables.images["patient"]) == ["PMC7", "PMC7", "PMC8"]
    assert texts(tables)["data/train/radiology/images/ROCO_00001.jpg"] == (
        'Axial "MRI", coronal view.'
    )
    assert tables.images.set_index("patient")["split"]["PMC8"] == "val"


def test_rocov2_command(tmp_path: Path) -> None:
    licences = ["ID,PMCID,Attribution,Link"]
    for part in ("train", "valid", "test"):
        name = f"ROCOv2_2023_{part}_00000"
        rows = [f'{name}1,"CT, axial, with contrast"', f"{name}2,Gone"]
        raw.write(tmp_path / f"{part}_captions.csv", "\n".join(["\ufeffID,Caption", *rows]) + "\n")
        raw.save(tmp_path / part / f"{name}1.jpg", 1, "RGB")
        licences += [f"{name}{i},PMC12,CC BY [X et al.],https://x/PMC13" for i in (1, 2)]
    raw.write(tmp_path / "license_information.csv", "\n".join(licences) + "\n")
    assert "3 captions without" in command("roco.md", 1, ROCO=str(tmp_path))
    tables = registry.read("pairs", tmp_path, Split(0), {})
    assert set(tables.images["patient"]) == {"PMC12"}
    assert texts(tables)["train/ROCOv2_2023_train_000001.jpg"] == "CT, axial, with contrast"


def test_profile_reads_what_the_page_prepares(tmp_path: Path) -> None:
    films = tmp_path / "chest_xray"
    names = ["NORMAL/IM-0115-0001", "NORMAL/NORMAL2-IM-0005-0001-0002", "NORMAL/IM-0115-0002"]
    names += [f"PNEUMONIA/person{i}_virus_{i}" for i in range(8)]
    for i, name in enumerate(names):
        raw.save(films / f"train/{name}.jpeg", i)
    raw.save(films / "test/NORMAL/IM-0001-0001.jpeg")
    raw.save(films / "test/PNEUMONIA/person1_bacteria_2.jpeg")
    command("open-i.md", 0, KERMANY=str(films))
    profile = ROOT / "profiles/open-i.yaml"
    roots = {name: str(tmp_path / name.lower()) for name in ("OPENI", "RSNA")}
    roots["KERMANY"] = str(films)
    sources = parse(from_yaml(expand(profile, roots), profile), profile).datasets.sources
    official(tmp_path / "openi")
    raw.rsna_release(tmp_path / "rsna")
    for name in ("chest", "rsna", "kermany"):
        assert Path(sources[name].depends).is_file()
    pairs = registry.read(sources["chest"].reader, Path(sources["chest"].root), Split(0), {})
    assert len(pairs.images) == 6
    released = registry.read(sources["rsna"].reader, Path(sources["rsna"].root), Split(0), {})
    assert released.labels == ("pneumonia",) and len(released.images) == 7
    source = sources["kermany"]
    labels = registry.read("labels", Path(source.root), Split(0, source.val), source.options)
    assert labels.labels == ("NORMAL", "PNEUMONIA")
    assert labels.images["split"].value_counts()["test"] == 2
    patients = column(labels, "patient")
    assert patients["train/NORMAL/IM-0115-0001.jpeg"] == patients["train/NORMAL/IM-0115-0002.jpeg"]
    assert patients["train/NORMAL/NORMAL2-IM-0005-0001-0002.jpeg"] == "NORMAL2-IM-0005"
    assert patients["test/PNEUMONIA/person1_bacteria_2.jpeg"] == "person1_bacteria"


@pytest.mark.parametrize("page", ["open-i.md", "roco.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / "docs/datasets" / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not target.startswith(("http", "#")):
            assert (path.parent / target.partition("#")[0]).exists(), target
