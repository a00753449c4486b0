"""params.yaml is read strictly: no guess, no silent conversion, errors that name the next edit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from conftest import ROOT, drop_key, set_key

from convirt.errors import InputError
from convirt.params import (
    Params,
    ParamsError,
    from_yaml,
    load,
    parse,
    pretraining,
    read_yaml,
)
from stages.profile import expand, install
from stages.profile import main as use

Data = dict[str, Any]


class AnyVariable(dict[str, str]):
    """An environment in which every variable is set."""

    def __missing__(self, name: str) -> str:
        return f"/somewhere/{name.lower()}"


def only_problem(data: Data) -> Any:
    with pytest.raises(ParamsError) as caught:
        parse(data)
    assert len(caught.value.problems) == 1, str(caught.value)
    return caught.value.problems[0]


def test_committed_parameters_are_valid() -> None:
    params = load(ROOT / "params.yaml")
    task, init, fraction, protocol = (
        len(getattr(params.matrix, axis)) for axis in ("task", "init", "fraction", "protocol")
    )
    assert task * init * fraction * protocol == 16


def test_every_profile_is_valid() -> None:
    profiles = sorted((ROOT / "profiles").glob("*.yaml"))
    assert "paper.yaml" in [path.name for path in profiles]
    for path in profiles:
        parse(from_yaml(expand(path, AnyVariable()), path), path)


@pytest.mark.parametrize("text", ["1e-05", "1e-5", "5e-06", "1.5e-5", "0.00001", "1E-5", "1"])
def test_every_spelling_of_a_number_is_a_float(text: str, tmp_path: Path) -> None:
    lines = (ROOT / "params.yaml").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("train:")) + 1
    assert lines[at].startswith("  lr:")
    lines[at] = f"  lr: {text}"
    path = tmp_path / "params.yaml"
    path.write_text("\n".join(lines))
    lr = load(path).train.lr
    assert isinstance(lr, float)
    assert lr == float(text)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("train.lr", "1e-05", "a valid number"),
        ("train.lr", True, "a valid number"),
        ("train.lr", 0, "greater than 0"),
        ("train.lr", float("nan"), "a finite number"),
        ("train.lr", None, "a valid number"),
        ("train.tau", 0.0, "greater than 0"),
        ("train.lam", 0.0, "greater than 0"),
        ("finetune.linear.repeats", 1001, "less than or equal to 1000"),
        ("train.lam", 1.01, "less than or equal to 1"),
        ("train.batch_size", 32.0, "a valid integer"),
        ("train.batch_size", 1, "greater than or equal to 2"),
        ("train.batch_size", True, "a valid integer"),
        ("train.schedule", "step", "'plateau', 'cosine' or 'steps'"),
        ("compute.device", "mps", "'cpu' or 'cuda'"),
        ("compute.precision", "float16", "'float32' or 'bfloat16'"),
        ("compute.precision", "bfloat16", "float32 without a GPU"),
        ("compute.graphs", True, "false without a GPU"),
        ("augment.crop", [0.6, 1.2], "less than or equal to 1"),
        ("augment.crop", [0, 1], "greater than 0"),
        ("augment.crop", [1.0, 0.6], "ascending"),
        ("augment.crop", [0.6], "tuple_too_short"),
        ("augment.crop", 0.6, "a list"),
        ("augment.blur_kernel", 4, "odd"),
        ("augment.blur_kernel", 129, "at most 127"),
        ("seed", 2**63, "less than"),
        ("model.text.cache_frozen", 1, "a valid boolean"),
        ("model.text.cache_frozen", "yes", "a valid boolean"),
        ("model.baselines", ["random", "imagenet", "convirt"], "without pretraining"),
        ("datasets.max_dropped", 1.5, "less than or equal to 1"),
        ("datasets.sources.rsna.val", 1.5, "a share below 1 or a whole number"),
        ("datasets.sources.rsna.val", -1, "greater than or equal to 0"),
        ("datasets.sources.rsna.options", [], "keys with values"),
        ("demo.sets.rsna.train", -1, "greater than or equal to 0"),
        ("demo.sets.rsna.train", 2.5, "a valid integer"),
        ("matrix.fraction", [0], "greater than or equal to 1"),
        ("matrix.fraction", [101], "less than or equal to 100"),
        ("matrix.fraction", [0.1], "a valid integer"),
        ("matrix.fraction", [], "not empty"),
        ("matrix.task", ["rsna", "rsna"], "without duplicates"),
        ("matrix.protocol", ["full"], "'finetune' or 'linear'"),
        ("tasks.rsna.kind", "regression", "'multiclass'"),
        ("tasks.rsna.metric", "auc", "'auroc' or 'accuracy'"),
        ("tasks.rsna.unit", "film", "'image', 'study' or 'patient'"),
        ("tasks.rsna.labels", ["a", "b"], "one label"),
        ("tasks.covidx.labels", ["a"], "two classes"),
        ("tasks.chexpert.metric", "accuracy", "auroc"),
        ("retrieval.k", [10, 5], "ascending"),
        ("retrieval.index", "ivf", "'exact' or 'hnsw'"),
    ],
)
def test_value_that_is_refused(default_params: Data, key: str, value: Any, expected: str) -> None:
    set_key(default_params, key, value)
    problem = only_problem(default_params)
    assert problem.key.startswith(key)
    if expected == "tuple_too_short":
        assert "Field required" in problem.expected or "key" in problem.expected
    else:
        assert expected in problem.expected


@pytest.mark.parametrize(
    ("old", "new", "near"),
    [
        ("train.lr", "train.lrr", "train.lr (which is missing)"),
        ("tasks.rsna.metric", "tasks.rsna.metrics", "tasks.rsna.metric (which is missing)"),
        (None, "train.lamda", "train.lam"),
        (None, "tau", "train.tau"),
        (None, "datasets.sources.chest.readers", "datasets.sources.chest.reader"),
        (None, "model.txt", "model.text"),
    ],
)
def test_unknown_key_names_the_nearest_by_full_name(
    default_params: Data, old: str | None, new: str, near: str
) -> None:
    if old:
        drop_key(default_params, old)
    set_key(default_params, new, 1)
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    (unknown,) = [p for p in caught.value.problems if p.found == "an unknown one"]
    assert unknown.key == new
    assert f"nearest known key: {near};" in unknown.hint
    if old:
        (missing,) = [p for p in caught.value.problems if p.found == "no such key"]
        assert (missing.key, new in missing.hint) == (old, True)


@pytest.mark.parametrize(
    "key", ["seed", "train", "train.tau", "tasks.mura.lr", "model.text.weights"]
)
def test_missing_key_is_named(default_params: Data, key: str) -> None:
    drop_key(default_params, key)
    problem = only_problem(default_params)
    assert (problem.key, problem.found) == (key, "no such key")


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("matrix.task", ["rsan"], "rsna"),
        ("matrix.init", ["convrt"], "convirt"),
        ("corpora", ["chest", "bone", "chst"], "chest"),
        ("tasks.rsna.corpus", "chst", "chest"),
        ("retrieval.dataset", "chexpert-5x200", "chexpert-8x200"),
        ("retrieval.corpus", "bones", "bone"),
    ],
)
def test_reference_to_nothing(default_params: Data, key: str, value: Any, near: str) -> None:
    set_key(default_params, key, value)
    problem = only_problem(default_params)
    assert problem.key.startswith(key)
    assert problem.hint == f"nearest: {near}"


def test_task_without_a_store(default_params: Data) -> None:
    del default_params["datasets"]["sources"]["mura"]
    assert "its store" in only_problem(default_params).key


def test_no_corpus_is_needed_where_nothing_is_pretrained(default_params: Data) -> None:
    default_params["tasks"]["rsna"]["corpus"] = "none-yet"
    default_params["matrix"]["init"] = ["imagenet"]
    parse(default_params)


def test_own_values_of_an_objective(default_params: Data) -> None:
    default_params["objectives"]["simclr"] = {"train": {"lr": 3e-4, "batch_size": 128}}
    default_params["objectives"]["simclr"] |= {"projection": {"dim": 128}, "options": {"a": 1}}
    params = parse(default_params)
    own, general = pretraining(params, "simclr"), pretraining(params, "convirt")
    assert (own.train.lr, own.train.batch_size, own.projection.dim) == (3e-4, 128, 128)
    assert own.options == {"a": 1}
    assert own.train.model_copy(update={"lr": 5e-4, "batch_size": 32}) == params.train
    assert (general.train, general.augment) == (params.train, params.augment)
    assert general.projection == params.model.projection


def test_variant_comes_on_top_of_its_objective(default_params: Data) -> None:
    default_params["objectives"]["convirt"] = {"train": {"tau": 0.2, "lam": 0.5}}
    default_params["ablation"]["variants"] = {"tau-1": {"train": {"tau": 1.0}}}
    own = pretraining(parse(default_params), "convirt", "tau-1")
    assert (own.train.tau, own.train.lam) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("objectives.convirt", {"train": {"lrr": 1.0}}, "objectives.convirt.train.lrr"),
        ("objectives.convirt", {"augment": {"flip": 2.0}}, "objectives.convirt.augment.flip"),
        (
            "objectives.convirt",
            {"train": {"launcher": "torchrun"}},
            "objectives.convirt.train.launcher",
        ),
        ("objectives.convirt", {"trains": {}}, "objectives.convirt.trains"),
        ("ablation.variants", {"a": {"train": {"tau": -1.0}}}, "ablation.variants.a.train.tau"),
        ("ablation.variants", {"imagenet": {}}, "ablation.variants.imagenet"),
        ("ablation.trajectory", ["simclr"], "ablation.trajectory.0"),
        ("model.baselines", ["imagenet", "convirt"], "model.baselines"),
        ("objectives.convirtt", {}, "objectives.convirtt"),
        ("objectives.my-own", {}, "objectives.my-own"),
    ],
)
def test_own_values_that_are_refused(default_params: Data, key: str, value: Any, told: str) -> None:
    set_key(default_params, key, value)
    assert only_problem(default_params).key == told


@pytest.mark.parametrize("launcher", ["python", "torchrun", "torchrun --nproc-per-node 4"])
def test_launcher(default_params: Data, launcher: str) -> None:
    default_params["train"]["launcher"] = launcher
    assert parse(default_params).train.launcher == launcher


@pytest.mark.parametrize(
    "launcher", ["", "python3", "torchrun; rm -r /", "torchrun $(id)", "torchrun  -x", "python -m"]
)
def test_launcher_that_is_refused(default_params: Data, launcher: str) -> None:
    """The launcher becomes part of a command."""
    default_params["train"]["launcher"] = launcher
    problem = only_problem(default_params)
    assert problem.key == "train.launcher" and problem.expected.startswith("python, or torchrun")


def test_store_on_a_gpu_that_is_not_asked_for(default_params: Data) -> None:
    set_key(default_params, "compute.store", "gpu")
    assert only_problem(default_params).key == "compute.store"


@pytest.mark.parametrize(
    ("key", "value"), [("tables", ["tables"]), ("ablation.variants", {"tau-1": {}})]
)
def test_what_compares_precisions_searches_exactly(
    default_params: Data, key: str, value: Any
) -> None:
    default_params["retrieval"]["index"] = "hnsw"
    parse(default_params)
    set_key(default_params, key, value)
    problem = only_problem(default_params)
    assert problem.key == "retrieval.index" and key in problem.expected


@pytest.mark.parametrize("name", ["mean", "linear", "equal_fraction"])
def test_task_names_that_the_summary_needs(default_params: Data, name: str) -> None:
    for block in (default_params["tasks"], default_params["datasets"]["sources"]):
        block[name] = block["rsna"]
    assert only_problem(default_params).key == f"tasks.{name}"


@pytest.mark.parametrize(
    ("edit", "key", "expected"),
    [
        ({"ablation.corpus": "bone"}, "ablation.corpus", "chest, as in retrieval.corpus"),
        ({"tasks.rsna.corpus": "bone"}, "ablation.corpus", "bone, as in tasks.rsna.corpus"),
        ({"retrieval.corpus": "bone"}, "ablation.corpus", "bone, as in retrieval.corpus"),
        ({"tables": ["tables"], "ablation.k": 11}, "ablation.k", "one of retrieval.k (5, 10, 50)"),
        ({"tables": ["tables"], "retrieval.systems": []}, "retrieval.systems", "at least one"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_runs(
    default_params: Data, edit: Data, key: str, expected: str
) -> None:
    default_params["ablation"]["variants"] = {"tau-1": {"train": {"tau": 1.0}}}
    parse(default_params)
    for changed, value in edit.items():
        set_key(default_params, changed, value)
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    problem = caught.value.problems[0]
    assert problem.key == key and problem.expected.startswith(expected)


@pytest.mark.parametrize("axis", ["variants", "trajectory"])
def test_ablation_of_a_task_without_a_store(default_params: Data, axis: str) -> None:
    default_params["tasks"]["other"] = default_params["tasks"]["rsna"]
    default_params["train"]["keep_every"] = 1
    default_params["ablation"] |= {"task": "other", "variants": {}, "trajectory": []}
    parse(default_params)  # nothing is varied
    default_params["ablation"][axis] = {"variants": {"tau-1": {}}, "trajectory": ["convirt"]}[axis]
    assert only_problem(default_params).key == "ablation.task (its store)"


def test_all_faults_are_told_at_once(default_params: Data) -> None:
    set_key(default_params, "train.lr", "fast")
    set_key(default_params, "seed", -1)
    with pytest.raises(ParamsError) as caught:
        parse(default_params, "mine.yaml")
    assert "mine.yaml: train.lr" in str(caught.value)
    assert "mine.yaml: seed" in str(caught.value)
    assert caught.value.path == "mine.yaml: seed"


def test_name_that_cannot_be_a_folder(default_params: Data) -> None:
    default_params["corpora"].append("../up")
    problem = only_problem(default_params)
    assert problem.expected == "a name of letters, digits, - and _, starting with a letter or digit"


def test_names_with_hyphens_and_labels_with_spaces(default_params: Data) -> None:
    params = parse(default_params)
    assert params.datasets.sources["chest"].reader == "mimic-cxr"
    assert params.get("datasets.sources.chexpert-8x200.options.images") == "data/demo/chexpert"
    assert "Pleural Effusion" in params.tasks["chexpert"].labels
    assert "Pleural Effusion" in params.get("tasks.chexpert.labels")


def test_get_gives_plain_values(default_params: Data) -> None:
    params = parse(default_params)
    whole = {name: params.get(name) for name in Params.model_fields}
    assert json.loads(json.dumps(whole)) == whole
    empty: Data = {"train": {}, "augment": {}, "projection": {}, "options": {}}
    default_params["objectives"] = dict.fromkeys(default_params["objectives"], empty)
    for source in default_params["datasets"]["sources"].values():
        source["max_dropped"] = None  # the general one
    assert whole == default_params  # ints where floats are meant compare equal
    assert params.get("augment.crop") == default_params["augment"]["crop"]
    with pytest.raises(ParamsError, match=r"nearest known key: tasks\.rsna"):
        params.get("tasks.rsnaa")


def test_an_empty_demo(default_params: Data) -> None:
    default_params["demo"]["sets"] = {}
    assert parse(default_params).get("demo.sets") == {}


def test_params_are_frozen(default_params: Data) -> None:
    with pytest.raises(Exception, match="frozen"):
        parse(default_params).train.lr = 1.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: [1", "expected"),
        ("seed: 0\nseed: 1", "duplicate key"),
        ("- 1", "list"),
        ("", "None"),
    ],
)
def test_text_that_is_no_parameter_file(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load(path)
    assert found in caught.value.found


def test_no_file_and_no_text(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="git checkout"):
        load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ParamsError):
        read_yaml(tmp_path / "binary.yaml")


# ------------------------------------------------------------------------------ profiles
def test_profile_is_copied_byte_for_byte_but_for_variables(
    default_params: Data, tmp_path: Path
) -> None:
    text = (ROOT / "params.yaml").read_text() + "# $COMMENT is left alone, and costs $5\n"
    text = text.replace("root: data/demo/bone", "root: ${BONE}/$PART  # here", 1)
    profile, out = tmp_path / "mine.yaml", tmp_path / "params.yaml"
    profile.write_text(text)
    install(profile, out, {"BONE": '/data: "x" #1', "PART": "ü"})
    assert out.read_text() == text.replace("${BONE}/$PART", '"/data: \\"x\\" #1/ü"')
    assert load(out).datasets.sources["bone"].root == '/data: "x" #1/ü'


def test_a_replaced_parameter_file_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "params.yaml"
    demo = ROOT / "profiles/demo.yaml"
    assert install(demo, out, {}) is None
    assert install(demo, out, {}) is None  # the same again
    edited = out.read_text().replace("lr: 0.0005", "lr: 0.0007")
    out.write_text(edited)
    kept = install(demo, out, {})
    assert kept is not None and kept.read_text() == edited
    assert kept.parent == tmp_path / ".scratch" and out.read_text() == demo.read_text()
    assert install(ROOT / "profiles/tables.yaml", out, {}) != kept  # whatever comes after
    assert kept.read_text() == edited


@pytest.mark.parametrize(("value", "match"), [("$NOPE/x", "NOPE"), ("a$", r"\$\$")])
def test_profile_with_an_unset_variable_writes_nothing(
    value: str, match: str, tmp_path: Path
) -> None:
    text = (ROOT / "params.yaml").read_text()
    profile, out = tmp_path / "mine.yaml", tmp_path / "params.yaml"
    profile.write_text(text.replace("root: data/demo/bone", f"root: {value}"))
    out.write_text("old")
    with pytest.raises(Exception, match=match):
        install(profile, out, {})
    assert out.read_text() == "old"


@pytest.mark.parametrize("text", ["seed: 2024-13-45", "seed: !!int x", "seed: " + "[" * 5_000])
def test_text_that_is_no_yaml(text: str) -> None:
    with pytest.raises(ParamsError, match="expected: YAML"):
        from_yaml(text, "params.yaml")


def test_profile_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_bytes("seed: 0  # für mich".encode("latin-1"))
    with pytest.raises(InputError, match="expected: YAML"):
        install(profile, tmp_path / "params.yaml", {})


def test_invalid_profile_writes_nothing(
    default_params: Data, write_params: Callable[..., Path], tmp_path: Path
) -> None:
    profile = write_params(default_params, **{"train.lam": 2})
    out = tmp_path / "out.yaml"
    with pytest.raises(ParamsError, match=r"train\.lam"):
        install(profile, out, {})
    assert not out.exists()


def test_a_place_for_a_profile_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(typer.Exit):
        use(ROOT / "profiles/demo.yaml", tmp_path / "file/params.yaml")
    told = capsys.readouterr().err
    assert "expected: a file or folder that this stage may read and write" in told
