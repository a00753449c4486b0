"""The doctor: its findings in each layout, whole and broken; how little it reads; exit codes."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import raw
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner

from convirt import packing
from convirt.datasets import archives, registry
from convirt.datasets.splits import Split
from convirt.doctor import catalogue, dataset, listings, preflight
from convirt.doctor.dataset import diagnose
from convirt.doctor.diagnosis import Diagnosis
from convirt.doctor.overlap import Overlap, overlaps
from convirt.doctor.places import steps_into
from convirt.doctor.presence import Files, spread
from convirt.doctor.request import Request, Use
from convirt.params import Task, parse, read_yaml
from stages.doctor import app, made_by, requests, set_of

RETRIEVAL = "chexpert-8x200"


def labels(root: Path) -> Path:
    """labels.csv of six films; each patient has one of each class."""
    rows = [f"f/{i}.png,p{i // 2},{i % 2}" for i in range(6)]
    raw.write(root / "labels.csv", "\n".join(["image,patient,edema", *rows]))
    for i in range(6):
        raw.save(root / f"f/{i}.png", i)
    return root


def retrieval(root: Path) -> Path:
    """Two candidates, an image query and a text query."""
    raw.write(root / "candidates.csv", "image,label\na.png,Edema\nb.png,Fracture\n")
    raw.write(root / "queries.csv", "label,image,text\nEdema,q.png,\nFracture,,A break.\n")
    for i, name in enumerate("abq"):
        raw.save(root / f"{name}.png", i)
    return root


def chexpert_8x200(root: Path) -> Path:
    """The lists in the root, the films of CheXpert beside them."""
    raw.chexpert(root / "films")
    return raw.retrieval_lists(root)


MAKERS: dict[str, tuple[Callable[[Path], Path], str]] = {  # the set, and one of its lists
    "mimic-cxr": (raw.mimic, "mimic-cxr-2.0.0-metadata.csv.gz"),
    "chexpert": (raw.chexpert, "train.csv"),
    RETRIEVAL: (chexpert_8x200, "image-retrieval/candidate.csv"),
    "rsna": (raw.rsna, "stage_2_train_labels.csv"),
    "covidx": (raw.covidx, "labels/train_COVIDx4.txt"),
    "mura": (lambda root: raw.mura(root, nested=False), "train_image_paths.csv"),
    "pairs": (raw.ten_pairs, "pairs.csv"),
    "labels": (labels, "labels.csv"),
    "retrieval": (retrieval, "candidates.csv"),
}
OFFICIAL = [name for name in MAKERS if catalogue.FACTS[name].access != catalogue.YOURS]
NAMED = [name for name in MAKERS if name in listings.NAMED]


def request(name: str, root: Path, **changes: Any) -> Request:
    """What the parameters say of a set at `root`."""
    options: dict[str, Any] = {}
    if name == RETRIEVAL:
        options["images"] = str(root / "films")  # without it nothing can be read
    if name == "chexpert" and "test_set" in vars(registry_options(name)):
        options["exclude"] = "none"
    given: dict[str, Any] = {"options": options, "split": Split(0)} | changes
    return Request(name="it", reader=name, root=str(root), **given)


def registry_options(name: str) -> Any:
    """The options of a reader with their defaults."""
    return Request("it", name, "").module.Options()


def look(name: str, root: Path, full: bool = False, **changes: Any) -> Diagnosis:
    """The diagnosis of a set."""
    return diagnose(request(name, root, **changes), full=full)


def task(metric: str, *classes: str) -> Task:
    """A task of one label, or of classes."""
    given = {"corpus": "it", "labels": classes or ("edema",), "metric": metric, "lr": 0.1}
    kind = "multiclass" if classes else "binary"
    return Task.model_validate(given | {"kind": kind, "unit": "image"})


def said(found: Diagnosis, level: str = "") -> str:
    """All notes of a level, with their steps, as one text."""
    notes = [note for note in found.notes if level in ("", note.level)]
    return "\n".join(line for note in notes for line in (note.text, *note.steps))


def drop_films(root: Path) -> None:
    """Delete every image."""
    for path in [*root.rglob("*")]:
        if path.suffix in (".png", ".jpg", ".jpeg", ".dcm"):
            path.unlink()


# ------------------------------------------------------------------------------ each layout


def test_every_reader_is_in_the_catalogue() -> None:
    missing = set(registry.READERS) - set(catalogue.FACTS)
    assert not missing, "tell convirt/doctor/catalogue.py where they come from"
    assert len(registry.READERS) >= 9 and set(MAKERS) <= set(registry.READERS)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_a_whole_set_is_fine(tmp_path: Path, name: str, full: bool) -> None:
    root = MAKERS[name][0](tmp_path)
    found = look(name, root, full=full, made_up=True)
    assert found.level == "ok", said(found)
    assert "images: looked for all" in said(found) and "none missing" in said(found)
    assert found.images > 2


@pytest.mark.parametrize("limit", [0, dataset.READ_WHOLE])
@pytest.mark.parametrize("name", MAKERS)
def test_a_list_is_missing(
    tmp_path: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "READ_WHOLE", limit)
    make, file = MAKERS[name]
    root = make(tmp_path)
    (root / file).unlink()
    found = look(name, root)
    assert found.level == "stop"
    assert Path(file).name in said(found, "stop")
    if name in OFFICIAL:
        assert catalogue.FACTS[name].steps[0] in said(found, "stop").replace(str(root), "{root}")


@pytest.mark.parametrize("limit", [0, dataset.READ_WHOLE])
@pytest.mark.parametrize("name", MAKERS)
def test_images_are_missing(
    tmp_path: Path, name: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "READ_WHOLE", limit)
    root = MAKERS[name][0](tmp_path)
    drop_films(root)
    found = look(name, root, max_dropped=0.06)
    assert found.level == "stop"
    text = said(found, "stop")
    assert "missing (100.0%)" in text and "max_dropped is 6.0%" in text
    note = next(note for note in found.notes if note.level == "stop")
    assert note.steps


def test_some_images_are_missing_and_may_be(tmp_path: Path) -> None:
    root = raw.ten_pairs(tmp_path)
    (root / "f/3.png").unlink()
    found = look("pairs", root, max_dropped=0.1)
    assert found.level == "check" and "1 missing (10.0%), such as" in said(found, "check")
    assert look("pairs", root, max_dropped=0.05).level == "stop"


@pytest.mark.parametrize("made_up", [False, True])
def test_what_a_reader_notes_is_told(tmp_path: Path, made_up: bool) -> None:
    rows = [f'{i}.png,"FINDINGS: Clear lungs.",p{i}' for i in range(3)]
    found = look("pairs", raw.pairs(tmp_path, rows), made_up=made_up)
    assert ("heads such as FINDINGS" in said(found, "check")) != made_up
    assert found.level == ("ok" if made_up else "check")


@pytest.mark.parametrize("limit", [0, dataset.READ_WHOLE])
@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("Films/A.PNG", "films/a.png"),
        ("films\\a.png", "films/a.png"),
        ("films/\u00e9.png", "films/e\u0301.png"),
        ("films/a.png", "films/b.png"),
        ("x" * 300 + "/a.png", "films/a.png"),
    ],
)
def test_a_missing_image_under_a_name_that_is_nearly_its(
    tmp_path: Path, listed: str, there: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "READ_WHOLE", limit)
    raw.save(tmp_path / there)
    raw.write(tmp_path / "pairs.csv", f"image,text,patient\n{listed},Some text here.,p\n")
    text = said(look("pairs", tmp_path), "stop")
    near = there != "films/b.png" and "x" not in listed
    assert (f"did you mean {tmp_path / there}?" in text) == near
    assert "did you mean" not in text or near
    if len(listed) < 300:
        assert "1 missing (100.0%)" in text


def test_reports_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = raw.mimic(tmp_path)
    (root / "mimic-cxr-reports.zip").unlink()
    for limit in (0, dataset.READ_WHOLE):
        monkeypatch.setattr(dataset, "READ_WHOLE", limit)
        text = said(look("mimic-cxr", root), "stop")
        assert "reports: looked for all 5, 5 missing" in text
        assert f"wget -N -c -P {root} --user YOU" in text and "mimic-cxr-reports.zip" in text


@pytest.mark.parametrize("option", ["reports", "reports/files", "."])
def test_reports_elsewhere_are_found_as_the_reader_finds_them(tmp_path: Path, option: str) -> None:
    root = raw.mimic(tmp_path / "set")
    home = tmp_path / "elsewhere"
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip") as packed:
        packed.extractall(home / "reports")
    (root / "mimic-cxr-reports.zip").unlink()
    found = look("mimic-cxr", root, options={"reports": str(home / option)})
    assert "reports: looked for all 5" in said(found) and found.level != "stop", said(found)


@pytest.mark.parametrize("name", OFFICIAL)
def test_counts_stand_against_the_official_ones(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = MAKERS[name][0](tmp_path)
    found = look(name, root)
    facts = catalogue.FACTS[name]
    assert found.level == "check"
    assert f"rows, officially {facts.lists[0].rows:,}" in said(found, "check")
    assert facts.page in said(found, "check")

    lists = listings.Lists(facts, root, vars(registry_options(name)))
    rows = [len(table) for table in lists.rows.values()]
    wanted = [one for one in facts.lists if not one.when]
    right = tuple(dataclasses.replace(one, rows=n) for one, n in zip(wanted, rows, strict=True))
    monkeypatch.setitem(
        catalogue.FACTS,
        name,
        dataclasses.replace(facts, lists=right, folders=()),
    )
    found = look(name, root)
    assert said(found).count("the official number") == len(rows)
    asked = request(name, root)
    notes = registry.read(name, root, Split(0), dict(asked.options)).funnel.note_lines()
    assert [note.text for note in found.notes if note.level != "ok"] == notes


def test_another_version_of_covidx_has_other_counts(tmp_path: Path) -> None:
    root = raw.covidx(tmp_path)
    for part in ("train", "test"):
        (root / f"labels/{part}_COVIDx4.txt").rename(root / f"labels/{part}_mine.txt")
    assert "officially" not in said(look("covidx", root, options={"version": "mine"}))


@pytest.mark.parametrize("name", MAKERS)
def test_the_root_is_missing(tmp_path: Path, name: str) -> None:
    facts = catalogue.FACTS[name]
    for maker, level in ((None, "stop"), ("", "stop"), ("dvc repro demo@it", "later")):
        found = look(
            name,
            tmp_path / "nowhere",
            options={},
            uses=(Use("tasks.it", facts.kind),),
            maker=lambda text, maker=maker: maker,
        )
        text = said(found, level)
        assert found.level == level and str(tmp_path / "nowhere") in text
        if maker is None:
            assert facts.holds in text and "remove datasets.sources.it, tasks.it" in text
            assert name not in OFFICIAL or (facts.page in text and facts.access in text)
        else:
            assert maker in text or "demo.sets" in text


def test_a_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WHERE", raising=False)
    found = look("mura", Path("$WHERE/it"))
    assert found.level == "stop" and "export WHERE=..." in said(found)
    raw.mura(tmp_path / "it", nested=False)
    monkeypatch.setenv("WHERE", str(tmp_path))
    assert look("mura", Path("$WHERE/it"), made_up=True).level == "ok"


@pytest.mark.parametrize(
    ("name", "option", "source"),
    [
        ("chexpert", "exclude", "github.com/yuhaozhang/convirt"),
        (RETRIEVAL, "images", "stanfordaimi"),
        ("mimic-cxr", "reports", "options.reports"),
        ("rsna", "patients", "options.patients"),
        ("rsna", "annotations", "options.annotations"),
    ],
)
def test_an_option_names_nothing(tmp_path: Path, name: str, option: str, source: str) -> None:
    root = MAKERS[name][0](tmp_path / "set")
    found = look(name, root, options={option: str(tmp_path / "nowhere")})
    assert found.level == "stop"
    assert f"options.{option} {tmp_path / 'nowhere'} is not there" in said(found)
    assert source in said(found, "stop")


def test_a_split_list_is_not_there() -> None:
    values = read_yaml(ROOT / "params.yaml")
    values["datasets"]["sources"]["covidx"]["split_file"] = "splits/nowhere.csv"
    (covidx,) = (one for one in requests(parse(values)) if one.name == "covidx")
    assert "nowhere.csv" in said(diagnose(covidx), "stop")


def test_an_unknown_option_and_an_unknown_reader(tmp_path: Path) -> None:
    root = raw.mura(tmp_path)
    assert "did you mean `views`?" in said(look("pairs", root, options={"view": []}), "stop")
    assert "to mura" in said(look("murra", root, options={}), "stop")


def test_a_reader_without_facts_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = raw.ten_pairs(tmp_path)
    monkeypatch.setattr(catalogue, "FACTS", {})
    found = look("pairs", root)
    assert found.level == "ok" and "read: 10 images" in said(found)
    drop_films(root)
    assert look("pairs", root).level == "stop"


def test_a_fault_of_a_reader_does_not_stop_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(registry, "read", fail)
    text = said(look("pairs", raw.ten_pairs(tmp_path)), "stop")
    assert "failed: ZeroDivisionError: a fault" in text and "stages.preprocess it" in text


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (Use("corpora", "pairs"), "corpora needs a set of pairs"),
        (Use("retrieval", "retrieval"), "retrieval needs a set of retrieval"),
        (Use("tasks.it", "labels", ("edema", "Edmea")), "tasks.it.labels has Edmea"),
        (Use("tasks.it", "labels", ("edema",)), "tasks.it needs val images"),
        (Use("tasks.it", "labels", ("edema",), ("test",)), "tasks.it needs test images"),
    ],
)
def test_a_set_does_not_fit_its_use(tmp_path: Path, use: Use, expected: str) -> None:
    found = look("labels", labels(tmp_path), uses=(use,))
    assert expected in said(found, "stop")


def test_a_set_fits_its_use(tmp_path: Path) -> None:
    uses = (Use("tasks.it", "labels", ("edema",), task=task("auroc")),)
    found = look("labels", labels(tmp_path), uses=uses, split=Split(0, 2, 2))
    assert found.level == "ok" and "read: 6 images, 2 train, 2 val, 2 test" in said(found)


def test_a_split_has_one_class_only(tmp_path: Path) -> None:
    rows = [f"{i}.png,p{i},{int(i < 6)},{'val' if i > 6 else 'train'}" for i in range(9)]
    raw.write(tmp_path / "labels.csv", "\n".join(["image,patient,edema,split", *rows]))
    uses = (Use("tasks.it", "labels", ("edema",), ("train", "val"), task=task("auroc")),)
    text = said(look("labels", tmp_path, uses=uses), "stop")
    assert f"{tmp_path}/labels.csv (val): expected both classes of each label (edema)" in text
    assert "only one class of edema in 2 images" in text and "out of tasks.it.labels" in text
    assert "(train)" not in text and "(test)" not in text


@pytest.mark.parametrize(("metric", "level"), [("accuracy", "check"), ("auroc", "stop")])
def test_a_class_never_occurs(tmp_path: Path, metric: str, level: str) -> None:
    rows = [f"{i}.png,p{i},{'AB'[i % 2]}" for i in range(6)]
    raw.write(tmp_path / "labels.csv", "\n".join(["image,patient,finding", *rows]))
    for i in range(6):
        raw.save(tmp_path / f"{i}.png", i)
    own = task(metric, "A", "B", "C")
    uses = (Use("tasks.it", "labels", own.labels, ("train",), task=own),)
    options = {"column": "finding", "classes": list(own.labels)}
    found = look("labels", tmp_path, uses=uses, options=options)
    assert found.level == level
    expected = "none of 6 train images is C" if level == "check" else "only one class of C in 6"
    assert expected in said(found, level)


def test_a_batch_needs_as_many_validation_studies(tmp_path: Path) -> None:
    def level(size: int) -> str:
        use = Use("corpora", "pairs", batch=("objectives.it.train.batch_size", size))
        found = look("pairs", root, uses=(use,), split=Split(0, 4))
        assert found.level == "ok" or f"at least objectives.it.train.batch_size = {size}" in said(
            found, found.level
        )
        return found.level

    root = raw.ten_pairs(tmp_path)  # 6 to train on
    assert [level(size) for size in (0, 4, 5, 7)] == ["ok", "ok", "stop", "stop"]
    use = Use("corpora", "pairs", batch=("train.batch_size", 4))
    found = look("pairs", root, uses=(use,), split=Split(0, 7))
    assert found.level == "check"  # with 3 train studies, a batch holds one twice but is formed
    assert "train.batch_size = 4 train studies; there are 3" in said(found, "check")
    assert "raise" not in said(found)


@pytest.mark.parametrize(
    ("queries", "use", "expected"),
    [
        ("A,q.png,", Use("retrieval", "retrieval", most=("retrieval.k", 2)), ""),
        ("A,q.png,", Use("retrieval", "retrieval", blind=("random",)), ""),
        ("A,,Words.", Use("retrieval", "retrieval"), ""),
        ("A,q.png,", Use("retrieval", "retrieval", most=("retrieval.k", 3)),
         "retrieval.k asks for 3 candidates; there are 2\nlower retrieval.k"),
        ("", Use("retrieval", "retrieval", blind=("random",)), "needs queries, images or texts"),
        ("A,,Words.", Use("retrieval", "retrieval", blind=("random", "it")),
         "image queries for random, it, without a text encoder; there are none\ntake random, it"),
    ],
)  # fmt: skip
def test_what_a_search_needs(tmp_path: Path, queries: str, use: Use, expected: str) -> None:
    raw.write(tmp_path / "candidates.csv", "image,label\na.png,A\nb.png,B\n")
    raw.write(tmp_path / "queries.csv", f"label,image,text\n{queries}\n")
    for i, name in enumerate("abq"):
        raw.save(tmp_path / f"{name}.png", i)
    found = look("retrieval", tmp_path, uses=(use,))
    assert found.level == ("stop" if expected else "ok"), said(found)
    assert expected in said(found, "stop")


def test_what_a_reader_drops_counts(tmp_path: Path) -> None:
    root = raw.ten_pairs(tmp_path)
    path = root / "pairs.csv"
    path.write_text(path.read_text().replace("There is finding number 3.", "No."))
    assert "left out: 1 report under 3 tokens" in said(look("pairs", root, max_dropped=0.1), "ok")
    assert "left out: 1" in said(look("pairs", root, max_dropped=0.05), "stop")


@pytest.mark.parametrize("name", ["chexpert", "mura", "rsna"])
def test_a_root_may_be_a_zip_file(tmp_path: Path, name: str) -> None:
    root = MAKERS[name][0](tmp_path / "set")
    packed = Path(shutil.make_archive(str(tmp_path / "it"), "zip", root))
    assert look(name, packed, made_up=True, full=True).level == "ok"
    raw.write(packed, "no archive")
    found = look(name, packed)
    assert found.level == "stop" and "a zip archive" in said(found)


# ------------------------------------------------------------------------------ large sets


@pytest.mark.parametrize("name", NAMED)
def test_the_lists_name_the_files_that_the_reader_finds(tmp_path: Path, name: str) -> None:
    root = MAKERS[name][0](tmp_path)
    asked = request(name, root)
    options = vars(registry_options(name)) | dict(asked.options)
    facts = catalogue.FACTS[name]
    lists = listings.Lists(facts, root, options)
    assert lists.whole and lists.home is not None
    images = listings.NAMED[name](lists.home, lists.rows, options)[0]
    tables = registry.read(name, root, Split(0), dict(asked.options))
    assert {str(images.path(i)) for i in range(len(images.names))} == set(tables.images["path"])


@pytest.mark.parametrize("name", ["chexpert", "mura"])
def test_every_home_of_the_catalogue_is_one_of_the_reader(tmp_path: Path, name: str) -> None:
    homes = catalogue.FACTS[name].homes
    assert len(homes) >= 3
    for i, home in enumerate(homes):
        root = tmp_path / str(i)
        made = MAKERS[name][0](tmp_path / f"made{i}")
        archive, _, inside = home.partition(".zip/")
        if inside:
            root.mkdir()
            with zipfile.ZipFile(root / f"{archive}.zip", "w") as packed:
                for path in made.rglob("*.*"):
                    packed.write(path, f"{inside}/{path.relative_to(made)}")
        else:
            (root / home).parent.mkdir(parents=True, exist_ok=True)
            shutil.move(made, root / home)
        found = look(name, root, made_up=True)
        assert found.level == "ok" and "read: " in said(found), said(found)


def test_dicom_is_found_where_the_lists_do_not_tell(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(dataset, "READ_WHOLE", 0)
    root = raw.mimic(tmp_path, suffix=".dcm", zipped=False)
    assert look("mimic-cxr", root, made_up=True).level == "ok"


def test_another_layout_than_the_known_one_is_left_to_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = raw.rsna(tmp_path)
    monkeypatch.setattr(dataset, "READ_WHOLE", 0)
    assert "read: " not in said(look("rsna", root, made_up=True))
    monkeypatch.setitem(listings.NAMED, "rsna", lambda home, rows, options: [
        Files("images", home / "elsewhere", ["a"])
    ])  # fmt: skip
    found = look("rsna", root, made_up=True)
    assert found.level == "ok" and "read: 8 images" in said(found)


def many_pairs(root: Path, count: int) -> Path:
    """A pairs.csv of `count` rows in folders of their own, without the films."""
    lines = [f"f{i}/{i}.png,There is finding number {i}.,p{i}" for i in range(count)]
    raw.write(root / "pairs.csv", "\n".join(["image,text,patient", *lines]))
    return root


def many_mimic(root: Path, count: int) -> Path:
    """The metadata of `count` images, without images or reports."""
    lines = [f"aa-{i},{10_000_000 + i // 4},{50_000_000 + i // 2},PA" for i in range(count)]
    header = "dicom_id,subject_id,study_id,ViewPosition"
    raw.write(root / "mimic-cxr-2.0.0-metadata.csv", "\n".join([header, *lines]))
    return root


@pytest.mark.parametrize(("name", "make"), [("pairs", many_pairs), ("mimic-cxr", many_mimic)])
def test_400_000_images_are_not_looked_for_one_by_one(
    tmp_path: Path, name: str, make: Callable[[Path, int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, looks = make(tmp_path, 400_000), [0]

    def count(function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            looks[0] += 1
            return function(*args, **kwargs)

        return counted

    for module, function in (("os", "stat"), ("os", "lstat"), ("os", "scandir"), ("os", "listdir")):
        monkeypatch.setattr(f"{module}.{function}", count(getattr(__import__(module), function)))
    for function in ("is_file", "is_dir", "exists", "open_binary"):
        monkeypatch.setattr(archives, function, count(getattr(archives, function)))
    found = look(name, root)
    assert "a sample of 200 of 400,000, 200 missing" in said(found, "stop")
    assert found.images == 400_000
    assert 200 < looks[0] < 3_000


@pytest.mark.parametrize("count", [0, 1, 2, 199, 200, 201, 5_000])
def test_a_sample_is_spread_from_the_first_to_the_last(count: int) -> None:
    chosen = list(spread(count, 200))
    assert len(set(chosen)) == len(chosen) == min(count, 200)
    assert chosen == sorted(chosen) and all(0 <= i < count for i in chosen)
    assert not count or (chosen[0], chosen[-1]) == (0, count - 1)


def test_full_finds_the_one_that_a_sample_passes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = raw.ten_pairs(tmp_path)
    (root / "f/3.png").unlink()
    monkeypatch.setattr(dataset, "SAMPLE", 2)
    assert "looked for all 10, 1 missing" in said(look("pairs", root), "stop")  # of so few
    monkeypatch.setattr(dataset, "READ_WHOLE", 9)
    assert look("pairs", root).level == "ok"
    found = look("pairs", root, full=True)
    assert "looked for all 10, 1 missing" in said(found, "stop")


# ------------------------------------------------------------------------------ any cells

METRICS = ["auroc", "accuracy"]
CELL = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["", "0", "1", "-1.0", "a/b/c", "../x", "/", "x" * 300, "p/q/r/s/t.png", "\0", "NaN", '"', ","]
)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=15)
@given(data=st.data())
def test_any_cells_give_a_diagnosis(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("any")
    MAKERS[name][0](root)
    file = root / MAKERS[name][1]
    facts = catalogue.FACTS[name]
    columns = max((one.columns for one in facts.lists), key=len) or ("line",)
    quoted = st.lists(CELL, min_size=len(columns), max_size=len(columns)).map(
        lambda cells: ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    )
    lines = data.draw(st.lists(quoted | CELL, max_size=4))
    text = "\n".join([",".join(columns), *lines])
    raw.write(file, text, packed=file.suffix == ".gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "READ_WHOLE", data.draw(st.sampled_from([0, 100])))
        uses = (
            Use("corpora", "pairs", batch=("train.batch_size", 2)),
            Use("tasks.it", "labels", ("edema",), task=task(data.draw(st.sampled_from(METRICS)))),
            Use("retrieval", "retrieval", most=("retrieval.k", 2), blind=("imagenet",)),
        )
        found = look(name, root, full=data.draw(st.booleans()), uses=uses)
    assert found.level in ("ok", "check", "stop") and found.notes


# ------------------------------------------------------------------------------ weights, GPU, disk


def test_image_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def level(weights: str) -> str:
        return preflight.image_weights("resnet50", weights).level

    assert level("random") == level("package:json") == "ok"
    assert level("package:no_such") == level("package:no.such") == level("package:") == "stop"
    raw.write(tmp_path / "w.pth", "w")
    assert level(f"file:{tmp_path / 'w.pth'}") == "ok"
    assert level(f"file:{tmp_path / 'v.pth'}") == level("other:x") == "stop"
    assert level("timm:resnet18.tv_in1k") == "stop"


def test_an_architecture_that_timm_does_not_have() -> None:
    assert preflight.architecture("tf_efficientnet_lite0").level == "ok"
    assert "did you mean resnet50" in said(preflight.architecture("resnet5o"), "stop")
    assert "list_models" in said(preflight.architecture("nothing like it"), "stop")


def test_options_of_objectives() -> None:
    assert preflight.objectives({}).level == "ok"
    assert preflight.objectives({"convirt": {}, "moco_v2": {"queue": 64}}).level == "ok"
    wrong = preflight.objectives({"convirt": {}, "moco_v2": {"quere": 2}})
    assert "objectives.moco_v2.options.quere" in said(wrong, "stop")
    assert "options.queue" in said(preflight.objectives({"moco_v2": {"queue": "long"}}), "stop")
    assert "above 0" in said(preflight.objectives({"siglip": {"scale": -1.0}}), "stop")


def test_an_objective_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> object:
        raise AttributeError(f"module {name} has no attribute 'Objective'")

    monkeypatch.setattr("convirt.objectives.base.find", find)
    text = said(preflight.objectives({"mine": {}}), "stop")
    assert "convirt/objectives/mine.py cannot be used: AttributeError" in text


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("offline", [True, False])
def test_weights_of_the_hub(cached: bool, offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "somewhere" if cached else None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    expected = "ok" if cached else "stop" if offline else "check"
    for found in (
        preflight.image_weights("resnet50", "timm:resnet50.tv_in1k"),
        preflight.text_weights("emilyalsentzer/Bio_ClinicalBERT"),
    ):
        assert found.level == expected
        assert cached or "from_pretrained" in said(found) or "create_model" in said(found)


def test_text_weights(tmp_path: Path) -> None:
    def level(weights: str) -> str:
        return preflight.text_weights(weights).level

    assert level("package:json") == "ok" and level("package:no_such") == "stop"
    assert level(f"file:{tmp_path}") == "stop"
    raw.write(tmp_path / "config.json", "{}")
    assert level(f"file:{tmp_path}") == level(str(tmp_path)) == "ok"
    assert level("no such name at all") == "stop"


def test_films_that_are_smaller_than_the_input_are_told() -> None:
    assert preflight.resolution(256, 224).level == preflight.resolution(64, 64).level == "ok"
    small = preflight.resolution(64, 224)
    assert small.level == "check"
    assert small.notes[0].text == "films are stored at 64 pixels: an input of 224 adds no detail"
    assert small.notes[0].steps == ("datasets.image_size: 224 or more",)
    large = preflight.resolution(512, 224)
    assert large.level == "check" and "without antialiasing" in large.notes[0].text
    assert large.notes[0].steps == ("datasets.image_size: 256, in the ratio of 256 to 224",)


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.device("cpu").level == "ok"
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_90"])
    for available, level in ((True, "ok"), (False, "stop")):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        assert preflight.device("cuda").level == level


@pytest.mark.parametrize(("free", "level"), [(2_000, "ok"), (1_999, "check"), (1_599, "stop")])
def test_disk(tmp_path: Path, free: int, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    found = preflight.disk(tmp_path / "not/yet", [6, 4], size=10)
    assert found.level == level and "10 images of 10 x 10" in said(found)


# ------------------------------------------------------------------------------ the command


def run(params: Path, *args: str) -> tuple[int, str]:
    """Exit code and output of the command."""
    done = CliRunner().invoke(app, ["--params", str(params), *args], catch_exceptions=False)
    return done.exit_code, done.output


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_default_starts_before_anything_is_drawn(here: Path) -> None:
    code, output = run(ROOT / "params.yaml")
    assert code == 0, output
    assert "later  chest (reader mimic-cxr)" in output and "demo@mimic-cxr" in output
    assert "A run could start" in output and not list(here.iterdir())


def test_the_profiles_need_their_variables(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONVIRT_DATA", "CONVIRT_PAIRS", "CONVIRT_LABELS"):
        monkeypatch.delenv(name, raising=False)
    code, output = run(ROOT / "profiles/paper.yaml")
    assert code == 1 and output.count("export CONVIRT_DATA=...") >= 7
    for name in OFFICIAL:
        assert catalogue.FACTS[name].page in output
    code, output = run(ROOT / "profiles/small-real.yaml")
    assert code == 1 and "export CONVIRT_PAIRS=..." in output
    assert "later  chexpert-8x200" in output


def small(
    here: Path, data: dict[str, Any], monkeypatch: pytest.MonkeyPatch, profile: bool = False
) -> Path:
    """A profile of own pairs, labels and a retrieval set, all of which are there."""
    raw.ten_pairs(here / "pairs")
    labels(here / "labels")
    retrieval(here / "mine")
    monkeypatch.setenv("ALL", str(here))
    sources = data["datasets"]["sources"] = {
        name: {"reader": name, "root": f"$ALL/{folder}", "depends": f"{here}/{folder}"}
        | {"val": val, "test": test, "options": {}}
        for name, folder, val, test in [
            ("pairs", "pairs", 2, 0), ("labels", "labels", 2, 2), ("retrieval", "mine", 0, 0)
        ]
    }  # fmt: skip
    assert len(sources) == 3
    data["corpora"] = ["pairs"]
    task = data["tasks"].pop("rsna") | {"labels": ["edema"], "corpus": "pairs"}
    data["tasks"] = {"labels": task}
    data["matrix"]["task"] = ["labels"]
    data["retrieval"] |= {"dataset": "retrieval", "corpus": "pairs", "k": [1, 2]}
    data["train"]["batch_size"] = 2
    path = here / ("profiles/it.yaml" if profile else "params.yaml")
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as handle:
        YAML(typ="safe").dump(data, handle)
    return path


def test_exit_codes(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(here, default_params, monkeypatch)
    code, output = run(path)
    assert code == 0 and "next: make repro" in output, output
    assert "read: 10 images, 8 train, 2 val, 0 test" in output
    assert run(path, "--full")[0] == 0
    drop_films(here / "labels")
    code, output = run(path)
    assert code == 1 and "A run could not start: 1 of 10 items" in output
    assert "stop   labels (reader labels)" in output


def test_a_set_of_pairs_may_be_named_where_nothing_is_searched(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(here, default_params, monkeypatch)
    data = read_yaml(path)
    del data["datasets"]["sources"]["retrieval"]
    for systems, code, text in (["convirt"], 1, "this one holds pairs"), ([], 0, "could start"):
        data["retrieval"] |= {"dataset": "pairs", "systems": systems}
        with path.open("w") as handle:
            YAML(typ="safe").dump(data, handle)
        found, output = run(path)
        assert found == code and text in output


def test_labels_that_were_not_looked_at_are_told(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "READ_WHOLE", 0)
    path = small(here, default_params, monkeypatch)
    path.write_text(path.read_text().replace("edema", "oedema"))
    code, output = run(path)
    assert code == 0 and "labels and splits: not checked; --full runs the reader" in output
    code, output = run(path, "--full")
    assert code == 1 and "tasks.labels.labels has oedema" in output
    assert "not checked" not in output


def test_params_that_do_not_hold_together_are_told(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    default = small(here, default_params, monkeypatch)
    data = read_yaml(default)
    data["corpora"] = ["pairs", "pears"]
    data["retrieval"]["dataset"] = "mine"
    with default.open("w") as handle:
        YAML(typ="safe").dump(data, handle)
    code, output = run(default)
    assert code == 1
    assert "corpora.1" in output and "nearest: pairs" in output
    assert "retrieval.dataset" in output
    assert run(here / "none.yaml")[0] == 1


@pytest.mark.parametrize("profile", [False, True])
def test_depends_is_what_dvc_will_find(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch, profile: bool
) -> None:
    path = small(here, default_params, monkeypatch, profile=profile)
    data = read_yaml(path)
    monkeypatch.setenv("HOME", str(here))
    for depends, expected in (
        ("$ALL/pairs", 0 if profile else 1),
        ("~/pairs", 1),
        (f"{here}/nowhere", 1),
        (str(here), 0),
    ):
        data["datasets"]["sources"]["pairs"]["depends"] = depends
        with path.open("w") as handle:
            YAML(typ="safe").dump(data, handle)
        code, output = run(path)
        assert code == expected, output
        assert expected == 0 or f"depends {depends}" in output or f"depends is {depends}" in output


def test_depends_of_another_set_is_told(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(here, default_params, monkeypatch)
    (here / "link").symlink_to(here / "pairs")
    data = read_yaml(path)
    own = data["datasets"]["sources"]["pairs"]
    for depends, told in (("labels", True), ("link/pairs.csv", False), (".", False)):
        own["depends"] = str(here / depends)
        with path.open("w") as handle:
            YAML(typ="safe").dump(data, handle)
        code, output = run(path)
        assert code == 0 and ("check  pairs (reader pairs)" in output) == told, output
        assert ("is not in the root" in output) == told
    own["depends"] = "data/demo/\0"
    with path.open("w") as handle:
        YAML(typ="safe").dump(data, handle)
    assert run(path)[0] == 1
    for name in ("CONVIRT_DATA", "CONVIRT_PAIRS", "CONVIRT_LABELS", "OPENI", "RSNA", "KERMANY"):
        monkeypatch.setenv(name, str(here / name))
    for profile in (ROOT / "profiles").glob("*.yaml"):
        assert "is not in the root" not in run(profile)[1]


def test_a_set_that_nothing_uses_is_told(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(here, default_params, monkeypatch)
    assert "nothing uses it" not in run(path)[1]
    data = read_yaml(path)
    data["datasets"]["sources"]["more"] = data["datasets"]["sources"]["labels"]
    data["retrieval"]["systems"] = []
    with path.open("w") as handle:
        YAML(typ="safe").dump(data, handle)
    code, output = run(path)
    assert code == 0 and output.count("check: nothing uses it") == 2
    assert "next: name it in corpora, in tasks and matrix.task, or in" in output
    assert "next: name a system in retrieval.systems" in output


def test_what_the_demo_draws() -> None:
    assert made_by("data/demo/bone", ["bone"]) == "dvc repro demo@bone"
    assert made_by("data/demo/chexpert/convirt", ["chexpert"]) == "dvc repro demo@chexpert"
    assert made_by("./data//demo/bone", ["bone"]) == "dvc repro demo@bone"
    assert made_by("data/demo/bone", []) == ""
    assert made_by("/data/demo/bone", ["bone"]) is made_by("data/raw", ["raw"]) is None
    assert made_by("data/demo", ["data"]) is None


def test_every_use_of_a_set(default_params: dict[str, Any]) -> None:
    data = default_params
    data["matrix"]["task"] = ["covidx"]
    data["zeroshot"] |= {"task": ["rsna", "chexpert"], "system": ["convirt"]}
    data["ablation"] |= {"task": "chexpert", "variants": {"tau-1": {"train": {"tau": 1.0}}}}
    found = {request.name: request.uses for request in requests(parse(data))}
    labels = parse(data).tasks["chexpert"].labels
    own = parse(data).tasks["chexpert"]
    assert found["chexpert"] == (Use("tasks.chexpert", "labels", labels, task=own),)
    assert [use.splits for use in found["rsna"]] == [("test",)]
    assert [use.key for use in found["covidx"]] == ["tasks.covidx"] and not found["mura"]


def test_the_sizes_that_a_use_asks_for(default_params: dict[str, Any]) -> None:
    def asked(name: str) -> Use:
        return next(one.uses[0] for one in requests(parse(default_params)) if one.name == name)

    assert asked("chest").batch == ("train.batch_size", 32)
    assert asked(RETRIEVAL).most == ("retrieval.k", 50) and asked(RETRIEVAL).blind == ("imagenet",)
    default_params["objectives"] |= {"simclr": {"train": {"batch_size": 128}}, "moco_v2": {}}
    default_params["ablation"]["variants"] = {"b": {"train": {"batch_size": 512}}}
    assert asked("chest").batch == ("ablation.variants.b.train.batch_size", 512)
    assert asked("bone").batch == ("objectives.simclr.train.batch_size", 128)
    default_params["retrieval"]["systems"] = []
    assert asked(RETRIEVAL).most == ("retrieval.k", 50)  # variants are used in retrieval as well
    default_params["ablation"] |= {"variants": {}, "trajectory": ["convirt"]}
    default_params["objectives"]["convirt"] = {"train": {"keep_every": 1}}
    assert asked(RETRIEVAL).most == ("ablation.k", 10) and not asked(RETRIEVAL).blind


def test_test_images_that_are_pretrained_on(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = small(here, default_params, monkeypatch)
    splits = {0: "train", 1: "train", 2: "val", 3: "test", 4: "test", 5: "test"}
    lists = {"pairs": "image,text,patient,split", "labels": "image,edema,patient,split"}
    for name, head in lists.items():
        lines = [f"f/{i}.png,{'There is a text.' if name == 'pairs' else i % 2},p{i}"
                 for i in splits]  # fmt: skip
        own = (
            splits if name == "pairs" else dict(zip(splits, reversed(splits.values()), strict=True))
        )
        rows = [f"{line},{split}" for line, split in zip(lines, own.values(), strict=True)]
        raw.write(here / name / f"{name}.csv", "\n".join([head, *rows]))
        for i in splits:
            raw.save(here / name / f"f/{i}.png", i)
        assert "pictures" not in run(params)[1]
        packing.build(
            registry.read(name, here / name, Split(0), {}), here / "data/stores" / name, 16
        )
    # tested on 0, 1 and 2; of these the pairs train on 0 and 1
    found = list(overlaps(here / "data/stores", ["pairs"], ["labels", "pairs"]))
    assert found == [Overlap("labels", "pairs", ("f/0.png", "f/1.png"), 3),
                     Overlap("pairs", "pairs", (), 3)]  # fmt: skip
    told = "2 of the 3 test images of labels are train images of pairs, such as f/0.png"
    assert told in run(params)[1]
    monkeypatch.setattr("stages.doctor.QUICK", 0)
    assert told not in run(params)[1] and "were not compared: --full" in run(params)[1]
    assert told in run(params, "--full")[1]
    packing.build(
        registry.read("pairs", here / "pairs", Split(0), {}), here / "data/stores/pairs", 8
    )
    found = list(overlaps(here / "data/stores", ["pairs"], ["labels", "pairs"]))
    assert found == [Overlap("labels", "pairs", None, 3), Overlap("pairs", "pairs", (), 3)]
    output = run(params, "--full")[1]
    assert told not in output and "labels and pairs were packed at different sizes" in output


def test_the_disk_holds_what_the_demo_will_draw(here: Path) -> None:
    params = parse(read_yaml(ROOT / "params.yaml"))
    sources, drawn = params.datasets.sources.values(), params.demo.sets
    count = sum(sum(drawn[set_of(source.root)].values()) for source in sources)
    assert f"{count:,} images" in run(ROOT / "params.yaml")[1]


def test_a_terminal_gets_a_table(
    here: Path, default_params: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = small(here, default_params, monkeypatch)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    output = run(path)[1]
    assert "\x1b[" in output and "──" in output and "(reader pairs)" in output


def test_the_page_tells_the_facts() -> None:
    page = (ROOT / "docs/datasets/README.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("| ")]
    for name, facts in catalogue.FACTS.items():
        row = next((line for line in lines if f"`{name}`" in line), "")
        assert row, f"docs/datasets/README.md: a row for `{name}`"
        for fact in (facts.page, facts.access, facts.size):
            assert fact in row or facts.access == catalogue.YOURS, f"{name}: {fact}"
        for one in facts.lists:
            assert not one.rows or f"{one.rows:,}" in row, f"{name}: {one.names[0]}"


# ------------------------------------------------------------------------------ steps
@pytest.mark.parametrize(
    ("folder", "release"), [("2.1.0", "2.1.0"), ("2.0.0", "2.0.0"), ("my films", "2.0.0")]
)
def test_steps_get_the_release_that_the_folder_is_named_after(folder: str, release: str) -> None:
    root = Path("/data/mimic-cxr-jpg") / folder
    steps = steps_into(catalogue.FACTS["mimic-cxr"], root)
    assert any(f"mimic-cxr-jpg/{release}/" in step.split()[-1] for step in steps)
    assert any(f"mimic-cxr/{release}/mimic-cxr-reports.zip" in step for step in steps)
    for step in steps[1:]:
        assert str(root) in shlex.split(step)  # one word, blanks or not


def test_steps_leave_variables_that_are_not_set_to_the_shell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("FILMS", raising=False)
    facts = catalogue.FACTS["mimic-cxr"]
    assert all('-P "$FILMS/2.0.0" ' in step for step in steps_into(facts, "$FILMS/2.0.0")[1:])
    monkeypatch.setenv("FILMS", "/my films")
    assert all("-P '/my films/2.0.0' " in step for step in steps_into(facts, "$FILMS/2.0.0")[1:])
