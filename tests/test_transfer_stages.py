"""The stages finetune and retrieve on tiny stores and encoders: what they write, and refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import tiny_models
import torch
from conftest import ROOT, set_key
from typer.testing import CliRunner, Result

from convirt import (
    checkpoint,
    files,
    gallery,
    image_encoder,
    metrics,
    pair_encoder,
    search,
    text_encoder,
    transfer,
)
from convirt.pair_encoder import PairEncoder
from convirt.params import load, pretraining
from stages import _parent, _scratch, code, encoder, finetune, pretrain, retrieve
from stages import _protocols as protocols
from stages._stage import Stage

SIDE = 32
RUN = ["rsna", "imagenet", "50", "finetune"]
KEY = "-".join(RUN)


def write_store(root: Path, name: str, records: pd.DataFrame, images: np.ndarray) -> Path:
    """A store as preprocess leaves it, as far as these stages read it."""
    folder = root / "data" / "stores" / name
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "images.npy", images)
    files.write_parquet(folder / "records.parquet", records)
    kind = "retrieval" if "role" in records else "labels"
    meta = {"format": 1, "images": len(images), "size": SIDE, "kind": kind, "digest": name}
    files.write_json(folder / "store.json", meta)
    return folder


def films(classes: np.ndarray, seed: int) -> np.ndarray:
    """Noise, brighter in a band that tells the class."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (len(classes), SIDE, SIDE)).astype(np.uint8)
    for image, label in zip(images, classes, strict=True):
        image[8 * label : 8 * label + 8] += 120
    return images


def write_task(root: Path, name: str, labels: list[str]) -> Path:
    """20 training, 12 validation and 16 test images, two a patient."""
    split = ["train"] * 20 + ["val"] * 12 + ["test"] * 16
    classes = np.arange(48) // 2 % max(2, len(labels))
    records = pd.DataFrame({"image": [f"{k:02d}.png" for k in range(48)], "split": split})
    records["patient"] = records["study"] = [f"p{k // 2}" for k in range(48)]
    for i, label in enumerate(labels):
        records[label] = (classes == (i if len(labels) > 1 else 1)).astype(float)
    return write_store(root, name, records, films(classes, 0))


@pytest.fixture
def repo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    default_params: dict[str, Any],
    write_params: Callable[..., Path],
) -> Path:
    """A working folder with parameters, two tasks and an encoder; the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    changes: dict[str, Any] = {"compute.threads": 1, "finetune.finetune.head_steps": 4}
    changes |= {"finetune.batch_size": 8}
    changes |= {"finetune.finetune.max_epochs": 3, "finetune.linear.max_epochs": 3}
    changes |= {"finetune.linear.repeats": 1, "finetune.bootstrap": 50, "retrieval.k": [1, 2, 4]}
    for key, value in changes.items():
        set_key(default_params, key, value)
    write_params(default_params, tmp_path)
    write_task(tmp_path, "rsna", ["pneumonia"])
    write_task(tmp_path, "covidx", ["normal", "pneumonia", "COVID-19"])
    encoder, config = image_encoder.create_image_encoder("test_efficientnet", "random", SIDE, 0)
    folder = tmp_path / "models" / "encoders" / "imagenet"
    folder.mkdir(parents=True)
    image_encoder.save_image_encoder(encoder, config, folder)
    return tmp_path


def change(repo: Path, key: str, value: Any, write_params: Callable[..., Path]) -> None:
    from convirt.params import read_yaml

    write_params(read_yaml(repo / "params.yaml"), repo, **{key: value})


def run(*arguments: str, stage: Any = finetune) -> Result:
    return CliRunner().invoke(stage.app, list(arguments))


def outputs(repo: Path, key: str = KEY) -> dict[str, bytes]:
    """The bytes of every output of a run."""
    found = [p for p in sorted((repo / "models/finetune" / key).rglob("*")) if p.is_file()]
    found.append(repo / "metrics/finetune" / f"{key}.json")
    return {path.name: path.read_bytes() for path in found}


# ------------------------------------------------------------------------------ finetune
def test_finetune_writes_predictions_weights_and_numbers(repo: Path) -> None:
    result = run(*RUN)
    assert result.exit_code == 0, result.output
    written = outputs(repo)
    assert set(written) == {
        "config.json",
        "model.safetensors",
        "predictions.parquet",
        f"{KEY}.json",
    }
    numbers = json.loads(written[f"{KEY}.json"])
    table = pd.read_parquet(repo / "models/finetune" / KEY / "predictions.parquet")
    assert list(table) == ["repeat", "image", "patient", "unit", "y_pneumonia", "p_pneumonia"]
    assert table["image"].tolist() == [f"{k:02d}.png" for k in range(32, 48)]
    assert numbers["value"] == metrics.estimate(table, "auroc", 50, 0).value
    assert numbers["low"] <= numbers["value"] <= numbers["high"]
    counts = {name: numbers[name] for name in ("n_train", "n_val", "n_test", "patients_test")}
    assert counts == {"n_train": [10], "n_val": 12, "n_test": 16, "patients_test": 8}
    assert numbers["max_epochs"] >= numbers["epochs"][0] and numbers["encoder_finetuned"] is None
    assert len(numbers["repeats"]) == len(numbers["best_epoch"]) == len(numbers["epochs"]) == 1
    assert numbers["corpus"] is None and numbers["fraction"] == 50
    assert numbers["provenance"]["inputs"]["store"] == "rsna"
    assert str(repo) not in written[f"{KEY}.json"].decode()
    assert not list((repo / ".scratch").iterdir())


def test_the_saved_classifier_loads_in_timm_and_predicts_the_same(repo: Path) -> None:
    import timm

    assert run("covidx", "imagenet", "100", "finetune").exit_code == 0
    folder = repo / "models/finetune/covidx-imagenet-100-finetune"
    config = json.loads((folder / "config.json").read_text())
    assert config["labels"] == ["normal", "pneumonia", "COVID-19"]
    model = timm.create_model(
        config["image"]["architecture"],
        num_classes=len(config["labels"]),
        checkpoint_path=str(folder / "model.safetensors"),
    ).eval()
    image = config["image"]
    image_config = image_encoder.ImageConfig(
        **{**image, "mean": tuple(image["mean"]), "std": tuple(image["std"])}
    )
    stored = np.load(repo / "data/stores/covidx/images.npy")[32:]
    with torch.no_grad():
        logits = model(image_encoder.to_input(torch.from_numpy(stored), image_config))
    table = pd.read_parquet(folder / "predictions.parquet")
    columns = [f"p_{label}" for label in config["labels"]]
    assert np.allclose(logits.softmax(dim=1).numpy(), table[columns].to_numpy(), atol=1e-5)


def test_same_bytes_twice_and_after_a_kill(
    repo: Path, monkeypatch: pytest.MonkeyPatch, write_params: Callable[..., Path]
) -> None:
    change(repo, "finetune.finetune.repeats", 2, write_params)
    assert run(*RUN).exit_code == 0
    first = outputs(repo)
    assert json.loads(first[f"{KEY}.json"])["repeats"] != []
    assert run(*RUN).exit_code == 0
    assert outputs(repo) == first

    monkeypatch.setattr(transfer, "KEEP_EVERY", 0.0)
    for when in (2, 5):  # an epoch of the first repeat, then one of the second
        seen: list[int] = []

        def kill(stage: Stage, seen: list[int] = seen, when: int = when) -> None:
            seen.append(1)
            if len(seen) == when:
                raise SystemExit(143)

        with monkeypatch.context() as patch:
            patch.setattr(Stage, "poll", kill)
            assert run(*RUN).exit_code == 143
        assert list((repo / ".scratch").rglob("state.safetensors"))
        kept = [len(list((repo / ".scratch").rglob(f"repeat-{i}/*.safetensors"))) for i in (0, 1)]
        assert (kept[0] > 0, kept[1] > 0) == (
            when == 2,
            when == 5,
        )  # a repeat that is done needs none
        assert run(*RUN).exit_code == 0
        assert outputs(repo) == first


def test_repeats_are_independent_and_averaged(
    repo: Path, write_params: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(repo, "finetune.finetune.repeats", 3, write_params)
    assert run(*RUN).exit_code == 0
    numbers = json.loads(outputs(repo)[f"{KEY}.json"])
    assert len(numbers["repeats"]) == 3
    assert numbers["value"] == pytest.approx(np.mean(numbers["repeats"]))
    table = pd.read_parquet(repo / "models/finetune" / KEY / "predictions.parquet")
    wide = table.pivot(index="image", columns="repeat", values="p_pneumonia")
    assert (wide[0] != wide[1]).any() and (wide[1] != wide[2]).any()
    # repeat i has seed * APART + i, so that runs of other seeds do not share repeats
    assert protocols.APART >= 1000
    monkeypatch.setattr(protocols, "APART", 1)
    change(repo, "finetune.finetune.repeats", 1, write_params)
    change(repo, "seed", 1, write_params)
    assert run(*RUN).exit_code == 0
    again = pd.read_parquet(repo / "models/finetune" / KEY / "predictions.parquet")
    assert again.set_index("image")["p_pneumonia"].equals(wide[1].rename("p_pneumonia"))


@pytest.mark.parametrize(
    ("protocol", "solver", "loop"),
    [
        ("finetune", "adam", "transfer"),
        ("linear", "adam", "transfer"),
        ("linear", "lbfgs", "probe"),
    ],
)
def test_a_run_starts_from_the_encoder_and_is_chosen_on_validation(
    repo: Path,
    protocol: str,
    solver: str,
    loop: str,
    monkeypatch: pytest.MonkeyPatch,
    write_params: Callable[..., Path],
) -> None:
    change(repo, "finetune.linear.solver", solver, write_params)
    start, _ = image_encoder.load_image_encoder(repo / "models/encoders/imagenet")
    seen, real = list[tuple[int, int]](), getattr(transfer, loop)

    def watch(model: Any, train: Any, val: Any, *rest: Any) -> Any:
        seen.append((len(train.y), len(val.y)))
        if protocol == "finetune":
            own = model.encoder.state_dict()
            assert all(torch.equal(own[k], v) for k, v in start.state_dict().items())
        return real(model, train, val, *rest)

    monkeypatch.setattr(transfer, loop, watch)
    assert run("rsna", "imagenet", "50", protocol).exit_code == 0
    assert seen == [(10, 12)]


def hard_task(repo: Path) -> None:
    """The task rsna with films that tell nothing, and three units: 4 films a patient, 2 a study."""
    folder = repo / "data/stores/rsna"
    records = pd.read_parquet(folder / "records.parquet")
    records["patient"] = [f"p{k // 4}" for k in range(48)]
    records["study"] = [f"s{k // 2}" for k in range(48)]
    told = np.random.default_rng(0).permutation(12) % 2
    records["pneumonia"] = told[np.arange(48) // 4].astype(float)
    write_store(repo, "rsna", records, films(np.zeros(48, dtype=int), 1))


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
@pytest.mark.parametrize(
    ("unit", "val", "test"), [("image", 12, 16), ("study", 6, 8), ("patient", 3, 4)]
)
def test_the_unit_is_what_is_chosen_by_and_scored(
    repo: Path,
    protocol: str,
    unit: str,
    val: int,
    test: int,
    monkeypatch: pytest.MonkeyPatch,
    write_params: Callable[..., Path],
) -> None:
    hard_task(repo)
    change(repo, "tasks.rsna.unit", unit, write_params)
    change(repo, "finetune.bootstrap", 70, write_params)
    seen, real = list[int](), transfer.transfer

    def watch(model: Any, train: Any, val: Any, *rest: Any) -> Any:
        seen.append(len(val.units.y))
        return real(model, train, val, *rest)

    monkeypatch.setattr(transfer, "transfer", watch)
    assert run("rsna", "imagenet", "100", protocol).exit_code == 0
    assert seen == [val]
    key = f"rsna-imagenet-100-{protocol}"
    table = pd.read_parquet(repo / "models/finetune" / key / "predictions.parquet")
    records = pd.read_parquet(repo / "data/stores/rsna/records.parquet").tail(16)
    assert table["unit"].tolist() == records[unit].tolist() and table["unit"].nunique() == test
    numbers = json.loads((repo / "metrics/finetune" / f"{key}.json").read_text())
    expected = metrics.estimate(table, "auroc", 70, 0)
    told = {name: numbers[name] for name in ("value", "low", "high")}
    assert told == {name: getattr(expected, name) for name in told}
    assert unit != "image" or numbers["low"] < numbers["high"]  # few patients can be told apart


def test_where_encoders_start(repo: Path, write_params: Callable[..., Path]) -> None:
    """From the named weights, the row Random from none."""
    source = timm.create_model("test_efficientnet", pretrained=False).state_dict()
    checkpoint.save_safetensors(repo / "w.safetensors", source)
    weights = f"file:{repo / 'w.safetensors'}"
    for key, value in (("architecture", "test_efficientnet"), ("size", SIDE), ("weights", weights)):
        change(repo, f"model.image.{key}", value, write_params)
    stem = {}
    for name in ("imagenet", "random"):
        assert run(name, stage=encoder).exit_code == 0
        made, _ = image_encoder.load_image_encoder(repo / "models/encoders" / name)
        stem[name] = made.state_dict()["conv_stem.weight"]
    wanted = source["conv_stem.weight"]
    assert torch.equal(stem["imagenet"], wanted) and not torch.equal(stem["random"], wanted)
    p = load(repo / "params.yaml")
    own, data = pretraining(p, "convirt"), tiny_models.corpus()
    parts = pretrain._parts(p, own, tiny_models.CONFIG, data, "chest")
    assert torch.equal(parts.image.state_dict()["conv_stem.weight"], wanted)


def test_a_share_of_the_labels_can_have_its_own_number_of_repeats(
    repo: Path, write_params: Callable[..., Path]
) -> None:
    change(repo, "finetune.finetune.repeats_at", {10: 2, 1: 3}, write_params)
    for fraction, count in ((10, 2), (100, 1)):
        assert run("rsna", "imagenet", str(fraction), "finetune").exit_code == 0
        path = repo / f"metrics/finetune/rsna-imagenet-{fraction}-finetune.json"
        assert len(json.loads(path.read_text())["repeats"]) == count


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_outputs_that_dvc_loses_are_made_again_from_the_state(
    repo: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If DVC dies while it records them, it deletes them when the stage runs again."""
    monkeypatch.setattr(_parent, "end_with_dvc", lambda: None)
    monkeypatch.setenv("DVC_STAGE", "finetune@one")
    digest = code.describe([ROOT / "stages/finetune.py"], ROOT)
    files.write_json(repo / "metrics/code/finetune.json", digest)
    place = f"rsna-imagenet-10-{protocol}"
    outputs = repo / "models/finetune" / place, repo / f"metrics/finetune/{place}.json"

    def made() -> dict[str, bytes]:
        folder, told = outputs
        assert run("rsna", "imagenet", "10", protocol).exit_code == 0
        return {path.name: path.read_bytes() for path in (told, *folder.iterdir())}

    first = made()
    for path in outputs:
        files.remove(path)
    with monkeypatch.context() as patch:
        patch.setattr(transfer, "transfer", None)  # trains
        assert made() == first
    (state,) = (path.parent for path in repo.glob(f".scratch/*/{_scratch.WRITTEN}"))
    _scratch.recorded("finetune@other", repo)
    _scratch.recorded("finetune@one", repo.parent)  # an experiment in a copy
    _scratch.sweep(repo)
    assert state.exists()
    _scratch.recorded("finetune@one", repo)
    assert not state.exists()


def test_the_test_set_does_not_change_with_the_fraction(repo: Path) -> None:
    tables = []
    for fraction in ("10", "100"):
        assert run("rsna", "imagenet", fraction, "linear").exit_code == 0
        folder = repo / f"models/finetune/rsna-imagenet-{fraction}-linear"
        tables.append(pd.read_parquet(folder / "predictions.parquet"))
    keys = ["repeat", "image", "patient", "unit", "y_pneumonia"]
    assert tables[0][keys].equals(tables[1][keys])


def test_one_class_only_in_the_test_set_is_a_clear_error(repo: Path) -> None:
    path = repo / "data/stores/rsna/records.parquet"
    records = pd.read_parquet(path)
    records.loc[records["split"] == "test", "pneumonia"] = 0.0
    files.write_parquet(path, records)
    result = run(*RUN)
    assert result.exit_code == 1
    assert "records.parquet (test)" in result.output
    assert "only one class of pneumonia" in result.output
    assert not (repo / "metrics/finetune").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rsna", "imagnet", "10", "linear"), "models/encoders/imagnet/chest"),
        (("rsna", "convirt", "10", "linear"), "config.json"),
        (("mura", "imagenet", "10", "linear"), "dvc repro preprocess@mura"),
        (("rsnaa", "imagenet", "10", "linear"), "tasks.rsna"),
    ],
)
def test_what_is_missing_is_named(repo: Path, arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error(repo: Path, write_params: Callable[..., Path]) -> None:
    change(repo, "compute.device", "cuda", write_params)
    result = run(*RUN)
    assert result.exit_code == 1 and "compute.device" in result.output


# ------------------------------------------------------------------------------ retrieve
NAMES = ["Edema", "No Finding", "Pneumonia"]
WORDS = ["the", "lung", "heart", "edema", "normal", "pneumonia", "is", "seen"]


@pytest.fixture
def pair(repo: Path) -> Path:
    """A ConVIRT encoder with a tiny BERT, and a retrieval store."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert = repo / "bert"
    bert.mkdir()
    (bert / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n"
    )
    BertTokenizerFast(vocab=str(bert / "vocab.txt")).save_pretrained(bert)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(bert)
    text, tokenizer = text_encoder.create_text_encoder(f"file:{bert}", 1, 16)
    image, image_config = image_encoder.create_image_encoder("test_efficientnet", "random", SIDE, 1)
    model = pair_encoder.PairEncoder(
        image, image_config, text, tokenizer, pair_encoder.ProjectionConfig(8)
    )
    folder = repo / "models/encoders/convirt/chest"
    folder.mkdir(parents=True)
    pair_encoder.save_pair_encoder(model, folder)

    classes = np.arange(18) % 3
    records = pd.DataFrame({"image": [f"{k}.png" for k in range(18)]})
    records["patient"], records["split"] = records["image"], "test"
    records["role"] = ["query"] * 3 + ["candidate"] * 15
    records["label"] = [NAMES[k] for k in classes]
    store = write_store(repo, "chexpert-8x200", records, films(classes, 1))
    queries = pd.DataFrame({"text": ["edema is seen", "pneumonia"], "label": ["Edema", NAMES[2]]})
    files.write_parquet(store / "queries.parquet", queries)
    return repo


def test_retrieve_writes_numbers_rankings_and_a_gallery(pair: Path) -> None:
    folder, values = pair / "data/retrieval/convirt", {}
    for system in ("imagenet", "convirt"):
        result = run(system, stage=retrieve)
        assert result.exit_code == 0, result.output
        values[system] = json.loads((pair / f"metrics/retrieval/{system}.json").read_text())
    assert "text_image" not in values["imagenet"]
    baseline = values["imagenet"]["image_image"]
    values = values["convirt"]
    for cell in (values["image_image"], values["text_image"], baseline):
        assert cell["chance"] == pytest.approx(1 / 3) and cell["candidates"] == 15
        assert all(0 <= cell[f"p_at_{k}"] <= 1 for k in (1, 2, 4))
    assert values["image_image"]["queries"] == 3 and values["text_image"]["queries"] == 2
    assert values["image_image"]["p_at_1"] == 1.0  # the bands are easy to tell apart

    table = pd.read_parquet(folder / "rankings.parquet")
    assert len(table) == (3 + 2) * 4
    cell = values
    for direction, rows in table.groupby("direction"):
        assert rows["right"].mean() == pytest.approx(cell[direction]["p_at_4"])
        assert rows[rows["rank"] <= 2]["right"].mean() == pytest.approx(cell[direction]["p_at_2"])
    assert not set(table["candidate"]) & {"0.png", "1.png", "2.png"}
    files_made = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(files_made) == {"embeddings.safetensors", "gallery.png", "rankings.parquet"}

    assert run("convirt", stage=retrieve).exit_code == 0
    assert files_made == {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_gallery_shows_what_was_found(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(gallery, "draw", lambda rows, out: drawn.extend(rows))
    result = run("convirt", stage=retrieve)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(pair / "data/retrieval/convirt/rankings.parquet")
    images = np.load(pair / "data/stores/chexpert-8x200/images.npy")
    shown = [
        (direction, row)
        for both in drawn
        for direction, row in zip(("image_image", "text_image"), both, strict=True)
        if row is not None
    ]
    assert len(shown) == 3 + 2
    for direction, row in shown:
        own = table[(table["direction"] == direction) & (table["query_label"] == row.label)]
        found = images[[int(Path(name).stem) for name in own["candidate"]]]
        assert np.array_equal(np.stack(row.found), found)
        assert list(row.right) == own["right"].tolist()


def test_retrieve_by_an_index_tells_its_recall(
    pair: Path, write_params: Callable[..., Path]
) -> None:
    path = pair / "metrics/retrieval/convirt.json"
    table = pair / "data/retrieval/convirt/rankings.parquet"
    assert run("convirt", stage=retrieve).exit_code == 0
    exact, rankings = json.loads(path.read_text()), table.read_bytes()
    change(pair, "retrieval.index", "hnsw", write_params)
    result = run("convirt", stage=retrieve)
    assert result.exit_code == 0, result.output
    assert "recall@4 1.000" in result.output
    found = json.loads(path.read_text())
    for direction in ("image_image", "text_image"):
        assert found[direction].pop("recall_at_4") == 1.0  # of so few candidates all are found
        assert found[direction] == exact[direction]
    assert set(found) == set(exact)
    assert table.read_bytes() == rankings


def test_sentences_are_encoded_some_at_a_time(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked = pair / "data/retrieval/convirt/rankings.parquet"
    numbers = pair / "metrics/retrieval/convirt.json"
    assert run("convirt", stage=retrieve).exit_code == 0
    before = ranked.read_bytes(), numbers.read_bytes()
    sizes: list[int] = []
    whole = PairEncoder.encode_sentences

    def counted(self: PairEncoder, sentences: Sequence[str]) -> torch.Tensor:
        sizes.append(len(sentences))
        return whole(self, sentences)

    monkeypatch.setattr(search, "SENTENCES", 1)
    monkeypatch.setattr(PairEncoder, "encode_sentences", counted)
    assert run("convirt", stage=retrieve).exit_code == 0
    assert sizes == [1, 1]
    assert (ranked.read_bytes(), numbers.read_bytes()) == before


def test_retrieve_names_the_encoder_by_all_of_its_files(pair: Path) -> None:
    def digest() -> str:
        assert run("convirt", stage=retrieve).exit_code == 0
        found = json.loads((pair / "metrics/retrieval/convirt.json").read_text())
        return str(found["provenance"]["inputs"]["encoder"])

    before = digest()
    path = pair / "models/encoders/convirt/chest/text_encoder/config.json"
    path.write_text(path.read_text() + "\n")
    assert digest() != before


def test_retrieve_without_sentences_measures_images_alone(pair: Path) -> None:
    (pair / "data/stores/chexpert-8x200/queries.parquet").unlink()
    result = run("convirt", stage=retrieve)
    assert result.exit_code == 0, result.output
    values = json.loads((pair / "metrics/retrieval/convirt.json").read_text())
    assert "image_image" in values and "text_image" not in values


def test_retrieve_refuses_sentences_alone_where_nothing_reads_them(
    pair: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pair / "data/stores/chexpert-8x200/records.parquet"
    records = pd.read_parquet(path)
    files.write_parquet(path, records.assign(role="candidate"))
    assert run("convirt", stage=retrieve).exit_code == 0
    monkeypatch.setattr(search, "encode", None)  # nothing is encoded in vain
    result = run("imagenet", stage=retrieve)
    assert result.exit_code == 1 and "since imagenet has no text encoder" in result.output
    assert "take imagenet out of retrieval.systems" in result.output
    assert not (pair / "data/retrieval/imagenet").exists()


def test_retrieve_refuses_a_set_of_another_kind(
    pair: Path, write_params: Callable[..., Path]
) -> None:
    change(pair, "retrieval.dataset", "rsna", write_params)
    result = run("convirt", stage=retrieve)
    assert result.exit_code == 1 and "a store of kind labels" in result.output


def test_retrieve_refuses_more_than_there_are(
    pair: Path, write_params: Callable[..., Path]
) -> None:
    change(pair, "retrieval.k", [5, 50], write_params)
    result = run("convirt", stage=retrieve)
    assert result.exit_code == 1 and "at most 15" in result.output
