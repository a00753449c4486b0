"""RSNA's own release: two JSON files, and films named by their UIDs, zipped or not."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import raw
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import refused
from test_readers import read
from test_rsna import zip_folder

from convirt.datasets import images, rsna_files
from convirt.datasets.rsna_files import ANNOTATIONS, MAPPING
from convirt.datasets.rsna_release import FILMS, FROM
from convirt.datasets.splits import Split
from convirt.doctor.catalogue import FACTS
from convirt.doctor.dataset import diagnose
from convirt.doctor.request import Request
from convirt.errors import InputError

READER = "rsna-release"
EXPORT = "mdai_rsna_project_x9N20BZa_images_2018-07-20-153330/"
LABELS = [1, 0, 0, 1, 0, 0, 1]  # opacity, normal, neither


def changed(file: Path, change: Any) -> None:
    """Apply `change` to what a JSON file holds."""
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def test_films_with_a_final_label_are_read(tmp_path: Path) -> None:
    tables = read(READER, raw.rsna_release(tmp_path), Split(0, 1, 2))
    assert list(tables.images["image"]) == [f"id-{i:02d}" for i in range(7)]
    assert list(tables.images["pneumonia"]) == LABELS
    assert all(Path(path).is_file() for path in tables.images["path"])
    found = tables.funnel.to_dict()
    assert found["images"] == {"in": 8, "dropped": {"without a final label": 1}, "kept": 7}
    assert tables.funnel.dropped_share == 0  # RSNA's choice, not a loss
    assert found["paper"] == {"train": 25184, "val": 1500, "test": 3000}


def test_splits_are_drawn_by_person(tmp_path: Path) -> None:
    tables = read(READER, raw.rsna_release(tmp_path), Split(0, 1, 2))
    people = tables.images.groupby("patient")["split"]
    assert set(people.groups) == {f"0000000{i}" for i in (1, 2, 3, 4)}
    assert (people.nunique() == 1).all()
    (note,) = tables.funnel.notes
    assert note.startswith(f"7 films are of 4 people by {MAPPING}; none is in two parts.")


@pytest.mark.parametrize(
    "inner", ["", EXPORT, f"{FILMS}/{EXPORT}", f"{FILMS}/", "images/", f"extracted/{EXPORT}"]
)
@pytest.mark.parametrize(
    "zipped", ["", f"{FILMS}.zip", f"{FILMS} (1).zip", "elsewhere.zip", "elsewhere"]
)
def test_where_the_films_can_be(tmp_path: Path, inner: str, zipped: str) -> None:
    """In the root or elsewhere, in the archive or unpacked, under each folder's name."""
    root = raw.rsna_release(tmp_path / "set", inner)
    options = {}
    if zipped:
        films = tmp_path / "films"
        films.mkdir()
        for path in [*root.iterdir()]:
            if path.is_dir():
                path.rename(films / path.name)
        if zipped.endswith(".zip"):
            zip_folder(films, root / zipped)
            options = {"images": str(root / zipped)} if "else" in zipped else {}
        else:
            options = {"images": str(films)}
    tables = read(READER, root, Split(0), **options)
    assert list(tables.images["pneumonia"]) == LABELS
    assert images.decode(Path(tables.images["path"][2])).pixels.shape == (24, 20)


def test_the_archive_as_the_root(tmp_path: Path) -> None:
    root = raw.rsna_release(tmp_path / "set", EXPORT)
    for name in (MAPPING, ANNOTATIONS):
        (root / name).rename(tmp_path / name)
    archive = zip_folder(root, tmp_path / f"{FILMS}.zip")
    assert len(read(READER, archive).images) == 7
    assert len(read(READER, tmp_path).images) == 7
    packed = tmp_path / "all.zip"
    with zipfile.ZipFile(packed, "w") as target:
        for name in (MAPPING, ANNOTATIONS):
            target.write(tmp_path / name, name)
            (tmp_path / name).unlink()
        with zipfile.ZipFile(archive) as source:
            for name in source.namelist():
                target.writestr(name, source.read(name))
    assert len(read(READER, packed).images) == 7


def test_an_archive_beside_a_part_of_it_that_was_unpacked(tmp_path: Path) -> None:
    root = raw.rsna_release(tmp_path / "set", EXPORT)
    shutil.copytree(root / EXPORT, tmp_path / "whole")
    zip_folder(tmp_path / "whole", root / f"{FILMS}.zip", EXPORT)
    for number in (1, 2, 3, 5, 6):
        shutil.rmtree(root / EXPORT / f"1.2.{number}")
    tables = read(READER, root)
    assert all(f"{FILMS}.zip" in path for path in tables.images["path"])
    assert len(tables.images) == 7


def test_an_archive_that_is_a_link_to_a_file_of_another_name(tmp_path: Path) -> None:
    """As DVC's cache makes them; in capitals, as some systems do."""
    root = raw.rsna_release(tmp_path / "set", EXPORT)
    archive = zip_folder(root / EXPORT, tmp_path / "blob.zip", EXPORT)
    archive.rename(tmp_path / "blob")
    link = root / f"{FILMS}.ZIP"
    link.symlink_to(tmp_path / "blob")
    for place in (root, link):
        tables = read(READER, place)
        assert images.decode(Path(tables.images["path"][2])).pixels.shape == (24, 20)


@pytest.mark.parametrize("name", [MAPPING, ANNOTATIONS])
def test_a_missing_file_is_named_with_the_command_that_gets_it(tmp_path: Path, name: str) -> None:
    root = raw.rsna_release(tmp_path)
    (root / name).unlink()
    error = refused(READER, root)
    assert error.expected == name and error.hint == f"wget -N -c -P {root} {FROM}/{name}"
    assert "1.2.0" in error.found
    file = raw.write(tmp_path / "a file.json", "{}")
    error = refused(READER, file)
    assert error.found == "a file" and f"-P {tmp_path} " in error.hint


def test_missing_films(tmp_path: Path) -> None:
    root = raw.rsna_release(tmp_path)
    (root / "1.2.3/1.3.3/1.4.3.dcm").unlink()
    assert Path(read(READER, root).images["path"][3]).name == "1.4.3.dcm"  # packing counts it
    for path in [*root.rglob("*.dcm")]:
        path.unlink()
    error = refused(READER, root)
    assert f"1.2.0/1.3.0/1.4.0.dcm in {FILMS}.zip" in error.expected
    assert f"wget -N -c -P {root} {FROM}/{FILMS}.zip" in error.hint
    assert "options.images" in error.hint
    raw.write(root / f"{FILMS}.zip", "no archive")
    assert "a zip archive" in refused(READER, root).expected


@pytest.mark.parametrize("uid", ["..", "1..2", "/etc", "1.2/3", "9" * 65, "1.\0"])
@pytest.mark.parametrize("level", ["StudyInstanceUID", "SOPInstanceUID"])
def test_uids_that_lead_elsewhere(tmp_path: Path, uid: str, level: str) -> None:
    root = raw.rsna_release(tmp_path)
    changed(root / MAPPING, lambda rows: rows[2].update({level: uid}))
    assert f"`{uid}` of id-02" in refused(READER, root).found


def test_a_label_of_a_study_and_another_of_its_film(tmp_path: Path) -> None:
    root = raw.rsna_release(tmp_path)
    more = {"labelId": "O", "SOPInstanceUID": "1.4.1"}
    changed(root / ANNOTATIONS, lambda export: export["datasets"][0]["annotations"].append(more))
    assert "two for " in refused(READER, root).found


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        (MAPPING, "{", "JSONDecodeError"),
        (MAPPING, '[{"subset_img_id": "a", "img_id": "00000001_000.png"}]', "KeyError"),
        (MAPPING, "[]", "none"),
        (ANNOTATIONS, "[]", "TypeError"),
    ],
)
def test_files_that_are_others(tmp_path: Path, file: str, text: str, words: str) -> None:
    root = raw.rsna_release(tmp_path)
    raw.write(root / file, text)
    assert words in refused(READER, root).found


def test_the_commands_of_the_catalogue_are_those_of_the_messages() -> None:
    steps = FACTS[READER].steps
    assert [step.split()[-1] for step in steps] == [
        f"{FROM}/{name}" for name in (f"{FILMS}.zip", ANNOTATIONS, MAPPING)
    ]


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", " ", "a", "1", "1.2.0", "1.4.0", "id-00", "O", "Mass", 1, 2.5, True, [], {}, ["a"]]
)


def places_in(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The place of every value in JSON."""
    found = [at] if at else []
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            found += places_in(part, (*at, key))
    return found


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return raw.rsna_release(tmp_path_factory.mktemp("released"))


@pytest.mark.parametrize("name", [MAPPING, ANNOTATIONS])
@settings(max_examples=60)
@given(data=st.data())
def test_any_value_in_a_file_is_read_or_refused(
    released: Path, name: str, data: st.DataObject
) -> None:
    """One value replaced or removed: what is read then is still films, people and labels."""
    value = json.loads((released / name).read_text())
    *above, last = data.draw(st.sampled_from(places_in(value)))
    holder = value
    for key in above:
        holder = holder[key]
    if data.draw(st.booleans()):
        del holder[last]
    else:
        holder[last] = data.draw(ODD)
    own = raw.write(released / "any" / name, json.dumps(value))
    mapping, annotations = (
        own if each == name else released / each for each in (MAPPING, ANNOTATIONS)
    )
    try:
        places, people = rsna_files.places(mapping), rsna_files.people(mapping)
        labels = rsna_files.labels(annotations, mapping)
    except InputError as error:
        assert all((error.expected, error.found, error.hint))
        return
    assert places.keys() == people.keys() >= labels.keys() and labels
    assert len(set(places.values())) == len(places) >= 7
    assert all(re.fullmatch(r"[0-9.]+/[0-9.]+/[0-9.]+\.dcm", place) for place in places.values())
    assert all(patient.isdecimal() for patient in people.values())
    assert set(labels.values()) <= {0, 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"StudyInstanceUID": "1.2.2"}, "2 for 1.2.2"),  # whose label is one of the study
        ({"subset_img_id": "id-00"}, "for id-00, and another"),
        ({"StudyInstanceUID": "1.2.0", "SeriesInstanceUID": "1.3.0", "SOPInstanceUID": "1.4.0"},
         "for id-01, and another"),
        ({"subset_img_id": None}, "`None` as subset_img_id"),
        ({"img_id": 3}, "`3` as img_id"),
        ({"SeriesInstanceUID": ""}, "`` as SeriesInstanceUID"),
    ],
)  # fmt: skip
def test_a_mapping_that_is_not_one_to_one(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    root = raw.rsna_release(tmp_path)
    changed(root / MAPPING, lambda rows: rows[1].update(change))
    error = refused(READER, root)
    assert words in error.found and MAPPING in error.path


def test_classes_that_no_film_has_do_not_matter(tmp_path: Path) -> None:
    root = raw.rsna_release(tmp_path)
    other = {"id": "E", "name": "Exclude"}
    changed(root / ANNOTATIONS, lambda export: export["labelGroups"][0]["labels"].append(other))
    assert len(read(READER, root).images) == 7
    used = {"labelId": "E", "SOPInstanceUID": "1.4.7"}
    changed(root / ANNOTATIONS, lambda export: export["datasets"][0]["annotations"].append(used))
    assert "KeyError: 'Exclude'" in refused(READER, root).found


# ------------------------------------------------------------------------------ the doctor
def test_the_doctor_knows_the_set(tmp_path: Path) -> None:
    root = raw.rsna_release(tmp_path)
    asked = Request(name="rsna", reader=READER, root=str(root), split=Split(0, 1, 2))
    found = diagnose(asked)
    told = [note.text for note in found.notes]
    assert any("read: 7 images, 4 train, 1 val, 2 test" in text for text in told)
    assert any("images: looked for all 7, none missing" in text for text in told)
    (root / ANNOTATIONS).unlink()
    (stop,) = (note for note in diagnose(asked).notes if note.level == "stop")
    assert stop.steps == (f"wget -N -c -P {root} {FROM}/{ANNOTATIONS}",)
    gone = diagnose(Request(name="rsna", reader=READER, root=str(tmp_path / "nowhere")))
    steps = [step for note in gone.notes for step in note.steps]
    assert sum(FROM in step for step in steps) == 3 and gone.level == "stop"
