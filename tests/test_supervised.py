"""An encoder taken from a fine-tuned run: the same weights, and what is refused."""

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
from safetensors.torch import load_file

from convirt import checkpoint
from convirt.classifier import encoder_of
from convirt.errors import InputError
from convirt.image_encoder import load_image_encoder, to_input
from convirt.params import ParamsError, parse
from convirt.recipe import probabilities
from stages import finetune, retrieve, supervised

repo, pair = tiny.repo, tiny.pair  # fixtures
Data = dict[str, Any]
NAME, RUN = "convirt_supervised", "rsna-convirt-100-finetune"


@pytest.fixture
def tuned(pair: Path, write_params: Callable[..., Path]) -> Path:
    """A project in which the run is done, and the encoder named in the parameters."""
    tiny.change(pair, "finetuned", {NAME: RUN}, write_params)
    result = tiny.run(*RUN.split("-"), stage=finetune)
    assert result.exit_code == 0, result.output
    return pair


def test_the_encoder_is_that_of_the_classifier(tuned: Path) -> None:
    result = tiny.run(NAME, stage=supervised)
    assert result.exit_code == 0, result.output
    made = tuned / "models/encoders" / NAME / "chest"
    assert sorted(p.name for p in made.iterdir()) == ["config.json", "image_encoder.safetensors"]
    run = tuned / "models/finetune" / RUN
    whole, own = load_file(run / "model.safetensors"), load_file(made / "image_encoder.safetensors")
    head = whole.keys() - own.keys()
    assert head == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(whole[name], value) for name, value in own.items())
    about = json.loads((made / "config.json").read_text())
    assert about["finetuned"]["run"] == RUN and about["finetuned"]["corpus"] == "chest"

    encoder, config = load_image_encoder(made)
    start, _ = load_image_encoder(tuned / "models/encoders/convirt/chest")
    moved = [
        not torch.equal(a, b) for a, b in zip(start.parameters(), encoder.parameters(), strict=True)
    ]
    assert any(moved)  # it is not the encoder that the run started from
    films = np.load(tuned / "data/stores/rsna/images.npy")[32:]
    with torch.no_grad():
        h = encoder.eval()(to_input(torch.from_numpy(films), config))
        logits = h @ whole["classifier.weight"].T + whole["classifier.bias"]
    table = pd.read_parquet(run / "predictions.parquet")
    assert np.allclose(probabilities(logits, "binary")[:, 0], table["p_pneumonia"], atol=1e-5)


def test_same_bytes_twice(tuned: Path) -> None:
    folder, seen = tuned / "models/encoders" / NAME, []
    for _ in range(2):
        assert tiny.run(NAME, stage=supervised).exit_code == 0
        seen.append([p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()])
    assert seen[0] == seen[1]


def test_it_is_a_system_like_any_other(tuned: Path) -> None:
    assert tiny.run(NAME, stage=supervised).exit_code == 0
    result = tiny.run(NAME, stage=retrieve)
    assert result.exit_code == 0, result.output
    told = json.loads((tuned / f"metrics/retrieval/{NAME}.json").read_text())
    assert "image_image" in told and "text_image" not in told
    result = tiny.run("covidx", NAME, "50", "finetune", stage=finetune)
    assert result.exit_code == 0, result.output
    told = json.loads((tuned / f"metrics/finetune/covidx-{NAME}-50-finetune.json").read_text())
    assert told["corpus"] == "chest"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tuned: Path, name: str) -> None:
    (tuned / "models/finetune" / RUN / name).unlink()
    result = tiny.run(NAME, stage=supervised)
    assert result.exit_code == 1 and name in result.output and "dvc repro" in result.output
    assert not (tuned / "models/encoders" / NAME).exists()


def test_folders_that_are_refused(tuned: Path) -> None:
    folder = tuned / "models/finetune" / RUN
    path, config = folder / "model.safetensors", folder / "config.json"
    tensors, about = load_file(path), json.loads(config.read_text())

    def refused(told: str) -> None:
        with pytest.raises(InputError) as caught:
            encoder_of(folder)
        assert told in str(caught.value)

    config.write_text(json.dumps({**about, "protocol": "linear"}))
    refused("leaves the encoder unchanged")
    config.write_text("{")
    refused("the JSON that finetune writes")
    config.write_text(json.dumps({"protocol": "finetune", "corpus": "chest", "image": None}))
    refused("the JSON that finetune writes")
    config.write_text(json.dumps(about))
    body = {k: v for k, v in tensors.items() if not k.startswith("classifier.")}
    checkpoint.save_safetensors(path, body)
    refused("none of them classifier.*")
    last = sorted(body)[-1]
    checkpoint.save_safetensors(path, {k: v for k, v in tensors.items() if k != last})
    refused(f"missing: {last}")
    path.write_bytes(b"torn")
    refused("a safetensors file")


def test_a_run_without_pretraining_is_refused(tuned: Path) -> None:
    config = tuned / "models/finetune" / RUN / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "corpus": None}))
    result = tiny.run(NAME, stage=supervised)
    assert result.exit_code == 1 and "pretrained on a corpus" in result.output


# ------------------------------------------------------------------------------ the parameters
CHEXPERT = "chexpert-convirt-100-finetune"


def test_its_name_is_a_system(default_params: Data) -> None:
    default_params["finetuned"] = {NAME: CHEXPERT}
    default_params["retrieval"]["systems"].append(NAME)
    default_params["matrix"]["init"].append(NAME)
    default_params["matrix"]["task"].remove("mura")  # of another corpus
    parse(default_params)


@pytest.mark.parametrize(
    ("runs", "changes", "told"),
    [
        ({"convirt": CHEXPERT}, {}, "a name of its own"),
        ({"imagenet": CHEXPERT}, {}, "a name of its own"),
        ({"of-mine": CHEXPERT}, {}, "a name of lower-case letters"),
        ({NAME: "chexpert-convirt"}, {}, "<task>-<init>-<percent>-<protocol>"),
        ({NAME: "chexpert-convirt-0-finetune"}, {}, "<task>-<init>-<percent>-<protocol>"),
        ({NAME: "chexpert-convirt-010-finetune"}, {}, "<task>-<init>-<percent>-<protocol>"),
        ({NAME: "chexpert-convirt-100-linear"}, {}, "a fine-tuned run"),
        ({NAME: "chexpert-convirt-1-finetune"}, {}, "one of the runs in matrix"),
        ({NAME: "chexpert-simclr-100-finetune"}, {}, "one of the runs in matrix"),
        ({NAME: CHEXPERT}, {"matrix.protocol": ["linear"]}, "one of the runs in matrix"),
        ({NAME: "chexpert-imagenet-100-finetune"}, {}, "from a pretrained encoder"),
        ({NAME: CHEXPERT}, {"matrix.init": ["convirt", NAME]}, "the only corpus"),
        ({NAME: "mura-convirt-100-finetune"}, {"retrieval.systems": [NAME]}, "the only corpus"),
        ({NAME: CHEXPERT}, {"ablation.variants": {NAME: {}}}, "a name of its own"),
    ],
)
def test_parameters_that_are_refused(
    default_params: Data, runs: dict[str, str], changes: Data, told: str
) -> None:
    default_params["finetuned"] = runs
    for key, value in changes.items():
        set_key(default_params, key, value)
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    (problem,) = caught.value.problems
    assert told in problem.expected


@pytest.mark.parametrize(
    ("runs", "circles"),
    [
        ({"one": "chexpert-one-100-finetune"}, ["one from one"]),
        (
            {"one": "chexpert-two-100-finetune", "two": "rsna-one-100-finetune"},
            ["one from two from one", "two from one from two"],
        ),
    ],
)
def test_a_circle_is_told(default_params: Data, runs: dict[str, str], circles: list[str]) -> None:
    default_params["finetuned"] = runs
    default_params["matrix"]["init"] = ["convirt", *runs]
    default_params["matrix"]["task"].remove("mura")
    with pytest.raises(ParamsError) as caught:
        parse(default_params)
    assert [problem.found for problem in caught.value.problems] == circles
