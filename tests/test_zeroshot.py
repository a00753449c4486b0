"""Zero-shot classification: against a slow reference, and the stage on tiny stores and encoders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import test_transfer_stages as tiny
import torch
from conftest import set_key

from convirt import files, metrics
from convirt.pair_encoder import PairEncoder, load_pair_encoder
from convirt.params import ParamsError, parse, read_yaml
from convirt.recipe import probabilities
from convirt.zeroshot import Prompts, ZeroShot
from stages import zeroshot

repo, pair = tiny.repo, tiny.pair  # fixtures
Data = dict[str, Any]
KEY = "rsna-convirt"


@pytest.fixture
def encoder(pair: Path) -> PairEncoder:
    return load_pair_encoder(pair / "models/encoders/convirt/chest").eval()


# ------------------------------------------------------------------------------ the classifier
PROMPTS = {
    "a": Prompts(("edema is seen", "the lung"), ("normal", "the heart is normal", "lung")),
    "b": Prompts(("pneumonia",), ("no",)),
    "c": Prompts(("heart", "the heart", "seen"), ("edema",)),
}


def slow(encoder: PairEncoder, x: torch.Tensor, labels: list[str], kind: str, tau: float) -> Any:
    """Probabilities by the definition: one image, one sentence at a time."""

    def cosine(image: torch.Tensor, sentence: str) -> float:
        v = encoder.image_projection(encoder.image_encoder(image[None]))[0]
        u = encoder.text_projection(encoder.encode_sentences([sentence]))[0]
        return float((v @ u) / (v.norm() * u.norm()))

    def near(image: torch.Tensor, sentences: tuple[str, ...]) -> float:
        return float(np.mean([cosine(image, sentence) for sentence in sentences]))

    rows = []
    for image in x:
        yes = [np.exp(near(image, PROMPTS[label].positive) / tau) for label in labels]
        if kind == "multiclass":
            rows.append([value / sum(yes) for value in yes])
            continue
        no = [np.exp(near(image, PROMPTS[label].negative) / tau) for label in labels]
        rows.append([a / (a + b) for a, b in zip(yes, no, strict=True)])
    return np.array(rows)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("binary", ["a"]), ("multilabel", ["c", "a"]), ("multiclass", ["b", "a", "c"])],
)
@pytest.mark.parametrize("tau", [0.1, 1.0])
@torch.no_grad()
def test_probabilities_are_those_of_the_definition(
    encoder: PairEncoder, kind: str, labels: list[str], tau: float
) -> None:
    x = torch.randn(5, 3, tiny.SIDE, tiny.SIDE, generator=torch.Generator().manual_seed(0))
    classifier = ZeroShot(encoder, PROMPTS, labels, kind, tau).eval()
    found = probabilities(classifier(x), kind)
    expected = slow(encoder, x, labels, kind, tau)
    assert np.ptp(expected) > 1e-4  # something to tell apart
    assert np.allclose(found, expected, atol=1e-4)


def test_the_encoders_are_left_in_evaluation_mode(encoder: PairEncoder) -> None:
    encoder.train()
    ZeroShot(encoder, PROMPTS, ["a"], "binary", 0.1)
    assert not any(module.training for module in encoder.modules())


# ------------------------------------------------------------------------------ the stage
def test_the_stage_writes_predictions_and_numbers(pair: Path) -> None:
    result = tiny.run("rsna", "convirt", stage=zeroshot)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(pair / f"data/zeroshot/{KEY}/predictions.parquet")
    assert list(table) == ["repeat", "image", "patient", "unit", "y_pneumonia", "p_pneumonia"]
    assert table["image"].tolist() == [f"{k:02d}.png" for k in range(32, 48)]
    written = (pair / f"metrics/zeroshot/{KEY}.json").read_bytes()
    numbers = json.loads(written)
    expected = metrics.estimate(table, "auroc", 50, 0)
    assert numbers["value"] == expected.value
    assert (numbers["low"], numbers["high"]) == (expected.low, expected.high)
    assert numbers["n_test"] == 16 and numbers["patients_test"] == 8
    assert (numbers["task"], numbers["system"], numbers["corpus"]) == ("rsna", "convirt", "chest")

    assert tiny.run("rsna", "convirt", stage=zeroshot).exit_code == 0
    assert (pair / f"metrics/zeroshot/{KEY}.json").read_bytes() == written


def test_patients_are_scored_where_the_task_says_so(
    pair: Path, write_params: Callable[..., Path]
) -> None:
    tiny.hard_task(pair)
    tiny.change(pair, "tasks.rsna.unit", "patient", write_params)
    assert tiny.run("rsna", "convirt", stage=zeroshot).exit_code == 0
    table = pd.read_parquet(pair / "data/zeroshot" / KEY / "predictions.parquet")
    assert table["unit"].equals(table["patient"]) and table["unit"].nunique() == 4
    numbers = json.loads((pair / "metrics/zeroshot" / f"{KEY}.json").read_text())
    expected = metrics.estimate(table, "auroc", 50, 0)
    told = {name: numbers[name] for name in ("value", "low", "high")}
    assert told == {name: getattr(expected, name) for name in told}
    assert numbers["low"] < numbers["high"]


def test_what_affirms_and_what_denies_exchanged(
    pair: Path, write_params: Callable[..., Path]
) -> None:
    own = read_yaml(pair / "params.yaml")["zeroshot"]["prompts"]["rsna"]["pneumonia"]
    values = []
    for prompts in (own, {"positive": own["negative"], "negative": own["positive"]}):
        tiny.change(pair, "zeroshot.prompts.rsna.pneumonia", prompts, write_params)
        assert tiny.run("rsna", "convirt", stage=zeroshot).exit_code == 0
        told = json.loads((pair / f"metrics/zeroshot/{KEY}.json").read_text())
        values.append(told["value"])
    assert values[0] == pytest.approx(1 - values[1])
    assert values[0] != 0.5


def test_classes_that_exclude_each_other(pair: Path) -> None:
    result = tiny.run("covidx", "convirt", stage=zeroshot)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(pair / "data/zeroshot/covidx-convirt/predictions.parquet")
    p = table[["p_normal", "p_pneumonia", "p_COVID-19"]].to_numpy()
    assert np.allclose(p.sum(axis=1), 1)
    told = json.loads((pair / "metrics/zeroshot/covidx-convirt.json").read_text())
    assert told["metric"] == "accuracy" and 0 <= told["value"] <= 1


def test_a_store_of_test_images_alone_is_enough(pair: Path) -> None:
    path = pair / "data/stores/rsna/records.parquet"
    records = pd.read_parquet(path)
    files.write_parquet(path, records.assign(split="test"))
    assert tiny.run("rsna", "convirt", stage=zeroshot).exit_code == 0
    told = json.loads((pair / f"metrics/zeroshot/{KEY}.json").read_text())
    assert told["n_test"] == 48


def test_test_images_of_one_class_are_refused(pair: Path) -> None:
    path = pair / "data/stores/rsna/records.parquet"
    files.write_parquet(path, pd.read_parquet(path).assign(pneumonia=1.0))
    result = tiny.run("rsna", "convirt", stage=zeroshot)
    assert result.exit_code == 1 and "only one class of pneumonia" in result.output
    assert not (pair / "metrics/zeroshot").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rsna", "imagenet"), "a text encoder"),
        (("rsna", "simclr"), "a text encoder"),
        (("rsna", "siglip"), "no config.json"),
        (("mura", "convirt"), "dvc repro preprocess@mura"),
        (("rsnaa", "convirt"), "no such key"),
    ],
)
def test_what_is_missing_is_named(pair: Path, arguments: tuple[str, str], message: str) -> None:
    imagenet = pair / "models/encoders/imagenet"
    for name in ("config.json", "image_encoder.safetensors"):  # an objective without text
        target = pair / "models/encoders/simclr/chest" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((imagenet / name).read_bytes())
    result = tiny.run(*arguments, stage=zeroshot)
    assert result.exit_code == 1
    assert message in result.output


# ------------------------------------------------------------------------------ the parameters
ON = {"zeroshot.task": ["rsna", "covidx"], "zeroshot.system": ["convirt"]}


def test_the_committed_prompts_can_be_used(default_params: Data) -> None:
    set_key(default_params, "zeroshot.task", list(default_params["tasks"]))
    set_key(default_params, "zeroshot.system", ["convirt"])
    parse(default_params)


@pytest.mark.parametrize(
    ("key", "value", "at", "told"),
    [
        ("zeroshot.system", ["imagenet"], "zeroshot.system.0", "with a text encoder"),
        ("zeroshot.system", ["convrt"], "zeroshot.system.0", "one of convirt"),
        ("zeroshot.system", [], "zeroshot.system", "at least one"),
        ("zeroshot.task", [], "zeroshot.task", "at least one"),
        ("zeroshot.task", ["rsnaa"], "zeroshot.task.0", "one of rsna"),
        ("zeroshot.tau", 0.0, "zeroshot.tau", "greater than 0"),
        ("zeroshot.prompts", {}, "zeroshot.prompts.rsna.pneumonia", "sentences"),
        ("zeroshot.prompts.rsna.pneumonia.positive", [], "zeroshot.prompts.rsna", "not empty"),
        ("zeroshot.prompts.rsna.pneumonia.negative", [], "zeroshot.prompts.rsna", "sentences"),
        ("zeroshot.prompts.covidx.normal.negative", ["x"], "zeroshot.prompts.covidx", "exclusive"),
        (
            "zeroshot.prompts.rsna.pneumonai",
            {"positive": ["x"], "negative": ["y"]},
            "zeroshot.prompts.rsna.pneumonai",
            "one of pneumonia",
        ),
    ],
)
def test_parameters_that_are_refused(
    default_params: Data, key: str, value: Any, at: str, told: str
) -> None:
    for name, lists in ON.items():
        set_key(default_params, name, lists)
    set_key(default_params, key, value)
    if key == "zeroshot.prompts":
        set_key(default_params, "zeroshot.task", ["rsna"])
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    (problem,) = caught.value.problems
    assert problem.key.startswith(at)
    assert told in problem.expected
