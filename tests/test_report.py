"""The report stage, on fabricated results: what it writes, refuses and tells apart."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from rich.table import Table
from typer.testing import CliRunner, Result

from convirt import files
from convirt.errors import InputError
from convirt.metrics import paired_difference
from convirt.params import read_yaml
from convirt.results import console, paper
from convirt.results.report_text import Results, render
from convirt.results.summary import matrix_keys
from stages import readme
from stages.report import app

TASKS = {"rsna": "auroc", "chexpert": "auroc", "covidx": "accuracy", "mura": "auroc"}
LABELS = {"rsna": 1, "chexpert": 5, "covidx": 3, "mura": 1}
VERSIONS = {"python": "3.11", "torch": "2"}


def provenance(name: str) -> dict[str, Any]:
    return {"code": f"{name}-code-0123456789", "params": f"{name}-params", "versions": VERSIONS}


COUNTS = {
    "n_val": 15,
    "n_train_studies": [30],
    "patients_fewest": 20,
    "max_epochs": 12,
    "encoder_finetuned": None,
}


def fabricate_run(root: Path, key: str) -> None:
    task, init, fraction, protocol = key.split("-")
    rng = np.random.default_rng(7)
    count, labels = 60, LABELS[task]
    if labels == 3:
        y = np.eye(3)[np.arange(count) % 3]
    else:
        y = (rng.random((count, labels)) < 0.5).astype(float)
    skill = (1.0 if init == "convirt" else 0.3) + int(fraction) / 1000
    names = [f"i{i:03}" for i in range(count)]
    table = {"repeat": 0, "image": names, "patient": names, "unit": names}
    table |= {f"y_{i}": y[:, i] for i in range(labels)}
    table |= {f"p_{i}": rng.normal(size=count) + skill * y[:, i] for i in range(labels)}
    files.write_parquet(root / f"models/finetune/{key}/predictions.parquet", pd.DataFrame(table))
    cell = {"task": task, "init": init, "fraction": int(fraction), "protocol": protocol}
    cell |= {"metric": TASKS[task], "value": 0.7, "low": 0.61, "high": 0.789, "n_test": count}
    cell |= {"unit": "patient" if task == "mura" else "image"}
    cell |= {"patients_test": 59, "best_epoch": [0 if int(fraction) == 10 else 3]}
    cell |= {"n_train": [40], "repeats": [0.7], "corpus": "bone" if task == "mura" else "chest"}
    cell |= COUNTS | {"n_train_studies": [3 if int(fraction) == 10 else 30]}
    files.write_json(
        root / f"metrics/finetune/{key}.json", cell | {"provenance": provenance("finetune")}
    )


def fabricate(root: Path, params: dict[str, Any]) -> None:
    """Everything that the stages before the report write, made up."""
    matrix = params["matrix"]
    for key in matrix_keys(*(matrix[axis] for axis in ("task", "init", "fraction", "protocol"))):
        fabricate_run(root, key)
    for i, corpus in enumerate(params["corpora"]):
        name = f"convirt-{corpus}"
        step = np.arange(0, 100, 25)
        curve = {"step": step, "train_loss": 4.1 - step / 90, "val_loss": 4 - step / 99}
        table = pd.DataFrame(curve | {"lr": 0.1, "chance": np.log(64)})
        path = root / f"metrics/pretrain/{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(path, index=False)
        cell = {
            "objective": "convirt",
            "corpus": corpus,
            "val_loss": 3.25,
            "best": 2.75,
            "chance": float(np.log(64)),
            "pairs": 1000 + i,
        }
        cell |= {"start": 4.2, "criterion": "val_loss", "steps": 75, "best_step": 75}
        cell |= {"provenance": provenance("pretrain")}
        files.write_json(path.with_suffix(".json"), cell)
    for name in params["datasets"]["sources"]:
        count = {"in": 1010, "dropped": {"truncated": 10}, "kept": 1000}
        none = {"in": 0, "dropped": {}, "kept": 0}
        split = {"train": {"images": 400}, "val": {"images": 100}, "test": {"images": 500}}
        funnel = {"images": count, "studies": none, "sentences": none, "split": split}
        funnel |= {"converted": {"16 bit": 3}, "paper": {"train_images": 25184}}
        files.write_json(root / f"metrics/funnel/{name}.json", funnel)
    cell = {"p_at_5": 0.41, "p_at_10": 0.39, "p_at_50": 0.3, "chance": 0.125}
    cell |= {"queries": 80, "candidates": 1600}
    text = {"text_image": cell | {"p_at_5": 0.55, "queries": 40}}
    for system in params["retrieval"]["systems"]:
        found = {"image_image": cell, **(text if system == "convirt" else {})}
        found |= {"provenance": provenance("retrieve")}
        files.write_json(root / f"metrics/retrieval/{system}.json", found)


Report = Callable[..., Result]


@pytest.fixture
def params(default_params: dict[str, Any]) -> dict[str, Any]:
    default_params["finetune"]["bootstrap"] = 40
    return default_params


@pytest.fixture
def report(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    params: dict[str, Any],
    write_params: Callable[..., Path],
) -> Report:
    """Runs the stage in a folder of fabricated results; `changes` are changes of parameters."""
    monkeypatch.chdir(tmp_path)
    fabricate(tmp_path, params)

    def run(**changes: Any) -> Result:
        write_params(params, **changes)
        return CliRunner().invoke(app, [])

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Path, str]:
    """A folder in which the stage ran on the committed parameters, and what it printed."""
    folder = tmp_path_factory.mktemp("done")
    fabricate(folder, read_yaml(root / "params.yaml"))
    shutil.copy(root / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, [])
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def summary(root: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((root / "metrics/summary.json").read_text())
    return value


def page(root: Path) -> str:
    return (root / "metrics/report.md").read_text(encoding="utf-8")


def test_it_writes_summary_page_and_figures(done: tuple[Path, str]) -> None:
    folder, printed = done
    cells = summary(folder)
    assert set(cells) == {"finetune", "claim", "retrieval", "pretrain", "data"}
    assert len(cells["finetune"]) == 4
    assert cells["finetune"]["rsna"]["convirt"]["10"] == {"value": 0.7, "low": 0.61, "high": 0.789}
    assert set(cells["claim"]) == {*TASKS, "equal_fraction", "mean"}
    assert all(cells["claim"]["equal_fraction"][task]["difference"] > 0 for task in TASKS)
    assert cells["retrieval"]["imagenet"]["image_image"]["p_at_5"] == 0.41
    assert cells["pretrain"]["convirt"]["bone"]["pairs"] == 1001
    figures = folder / "metrics/figures"
    made = {path.relative_to(figures).as_posix() for path in figures.rglob("*.*")}
    assert made == {
        *(f"{name}.png" for name in ("loss", "efficiency", "retrieval")),
        *("efficiency.csv", "retrieval.csv", "loss/convirt-chest.csv", "loss/convirt-bone.csv"),
    }
    loss = pd.read_csv(figures / "loss/convirt-chest.csv")
    assert list(loss) == ["step", "train_loss", "val_loss", "chance"]
    assert "recall" not in printed + page(folder)
    for text in ("Transfer, fine-tuned", "made-up data", "above 0", "70.0 [61.0, 78.9]", "P@50"):
        assert text in printed


def test_the_same_results_give_the_same_bytes(done: tuple[Path, str], tmp_path: Path) -> None:
    copy = shutil.copytree(done[0], tmp_path / "elsewhere")
    shutil.rmtree(copy / "metrics/figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        assert CliRunner().invoke(app, []).exit_code == 0
    outputs = [
        {path.name: path.read_bytes() for path in (root / "metrics").glob(pattern)}
        for root in (done[0], copy)
        for pattern in ("*.*", "figures/*.*", "figures/loss/*")
    ]
    assert outputs[:3] == outputs[3:]
    assert [len(part) for part in outputs[:3]] == [2, 5, 2]


def test_it_follows_the_matrix_and_not_the_files(report: Report, tmp_path: Path) -> None:
    assert report(**{"matrix.task": ["rsna"], "matrix.fraction": [100]}).exit_code == 0
    cells = summary(tmp_path)
    assert set(cells["finetune"]) == {"rsna"}
    assert set(cells["finetune"]["rsna"]["convirt"]) == {"100"}
    assert "claim" not in cells  # the 10% runs are still there
    assert "covidx-" not in page(tmp_path)
    assert "## The claim" not in page(tmp_path)


@pytest.mark.parametrize(
    ("missing", "command"),
    [
        ("metrics/finetune/mura-convirt-10-finetune.json", "finetune@mura-convirt-10-finetune"),
        (
            "models/finetune/mura-imagenet-100-finetune/predictions.parquet",
            "finetune@mura-imagenet-100-finetune",
        ),
        ("metrics/pretrain/convirt-bone.json", "pretrain@convirt-bone"),
        ("metrics/pretrain/convirt-bone.csv", "pretrain@convirt-bone"),
        ("metrics/funnel/rsna.json", "preprocess@rsna"),
        ("metrics/retrieval/imagenet.json", "retrieve@imagenet"),
    ],
)
def test_a_missing_result_names_the_command(
    report: Report, tmp_path: Path, missing: str, command: str
) -> None:
    (tmp_path / missing).unlink()
    result = report()
    assert result.exit_code == 1
    assert missing in result.output
    assert re.search(rf"dvc repro {re.escape(command)}$", result.output, re.M)
    assert not (tmp_path / "metrics/summary.json").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "Expecting property name"),
        ("[]", "list"),
        ('{"task": "rsna"}', "no corpus, encoder_finetuned"),
    ],
)
def test_a_broken_result_is_refused(report: Report, tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "metrics/finetune/rsna-convirt-10-finetune.json").write_text(text)
    result = report()
    assert result.exit_code == 1
    assert found in result.output
    assert "dvc repro -f finetune@rsna-convirt-10-finetune" in result.output


def test_nothing_is_searched(report: Report, tmp_path: Path) -> None:
    result = report(**{"retrieval.systems": []})
    assert result.exit_code == 0, result.output
    assert "retrieval" not in summary(tmp_path)
    assert not (tmp_path / "metrics/figures/retrieval.png").exists()
    shown = readme.tables(summary(tmp_path))
    assert "| fine-tuned, made-up data |" in shown and "retrieval" not in shown


def test_nothing_is_transferred(report: Report, tmp_path: Path) -> None:
    result = report(**{"matrix.task": []})
    assert result.exit_code == 0, result.output
    assert set(summary(tmp_path)) == {"data", "pretrain", "retrieval"}
    assert not (tmp_path / "metrics/figures/efficiency.png").exists()
    assert "## Transfer" not in page(tmp_path) and "## Zero-shot" in page(tmp_path)
    assert "fine-tuned" not in readme.tables(summary(tmp_path))


def test_nothing_is_pretrained(report: Report, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"objectives": {}, "matrix.init": ["imagenet"]}
    result = report(**changes, **{"retrieval.systems": ["imagenet"]})
    assert result.exit_code == 0, result.output
    assert "pretrain" not in summary(tmp_path)
    assert not (tmp_path / "metrics/figures/loss.png").exists()
    assert "image → image, ImageNet" in readme.tables(summary(tmp_path))


def test_another_metric_has_no_number_of_the_paper(
    done: tuple[Path, str], report: Report, tmp_path: Path
) -> None:
    """The paper's 90.3 for COVIDx are accuracy."""
    printed, cells = "90.3", "| covidx | AUROC |"
    assert printed in done[1] and printed in page(done[0])
    for path in (tmp_path / "metrics/finetune").glob("covidx-*"):
        files.write_json(path, json.loads(path.read_text()) | {"metric": "auroc"})
    result = report()
    assert result.exit_code == 0, result.output
    lines = [line for line in page(tmp_path).splitlines() if line.startswith(cells)]
    assert lines and all(line.endswith("| – |") for line in lines)
    assert printed not in page(tmp_path) and printed not in result.output
    claim = next(line for line in page(tmp_path).splitlines() if line.startswith("- **covidx**"))
    assert "Paper" not in claim
    efficiency = pd.read_csv(tmp_path / "metrics/figures/efficiency.csv")
    theirs = efficiency[efficiency["source"] == "paper"]
    assert set(theirs["task"]) == {"rsna", "chexpert", "mura"}
    assert summary(tmp_path)["data"]["other_score"] == {"covidx": 1.0}


def test_the_result_of_another_run_is_refused(report: Report, tmp_path: Path) -> None:
    folder = tmp_path / "metrics/finetune"
    shutil.copy(folder / "rsna-imagenet-10-finetune.json", folder / "rsna-convirt-10-finetune.json")
    result = report()
    assert result.exit_code == 1
    assert "the result of rsna-convirt-10-finetune" in result.output


def test_the_page_tells_made_up_data_from_the_papers(done: tuple[Path, str]) -> None:
    text = page(done[0])
    head, transfer = text.split("## Transfer")
    assert "All data behind the columns called “here” is made up" in head
    assert "cannot be compared with the paper's" in head
    assert paper.SOURCE in head
    header = next(line for line in transfer.splitlines() if line.startswith("| task"))
    assert "here, made-up data | paper, Table 1(b), its real data |" in header
    row = next(line for line in text.splitlines() if "| mura | AUROC | made up | ConVIRT" in line)
    assert "ConVIRT (bone pairs) | 10% | 40 | 60 | 59 | 70.0 [61.0, 78.9] | 86.5 |" in row
    assert (
        "- **rsna** (made-up data): ConVIRT with 10% of the labels minus ImageNet with 100%" in text
    )
    assert re.search(
        r"points: \*\*(better|undecided|worse)\*\*, .* Paper, on its data: \+0\.7", text
    )
    assert "no evidence for the method" in head
    assert "P@5 here, made-up data" in text
    assert "P@5 paper, CheXpert 8x200" in text
    assert "| 80 | 1,600 | 41.0 | 39.0 | 30.0 | 45.0 | 42.9 | 35.7 | 12.5 |" in text
    assert "| ConVIRT | chest | made-up data | 1,000 | 75 | 75 | 3.250 | 4.159 |" in text
    assert "| rsna | `rsna` | made-up data | 0 of 0 | 1,000 of 1,010 |" in text
    assert "10 images: truncated | 3 16 bit | 25,184 train images |" in text
    assert "`finetune-code`" not in text
    assert "| `finetune-cod` | `finetune-par` |" in text
    assert "Versions in all stages: python 3.11, torch 2." in text


def test_each_protocol_stands_beside_the_papers_of_it(report: Report, tmp_path: Path) -> None:
    for init in ("imagenet", "convirt"):
        fabricate_run(tmp_path, f"rsna-{init}-10-linear")
    changes = {"matrix.task": ["rsna"], "matrix.fraction": [10]}
    result = report(**changes, **{"matrix.protocol": ["finetune", "linear"]})
    assert result.exit_code == 0, result.output
    tuned, probed = page(tmp_path).split("### Linear probe")
    start = "| rsna | AUROC | made up | ConVIRT (chest pairs) | 10% | 40 | 60 | 59 | "
    start += "70.0 [61.0, 78.9] |"
    assert f"{start} 91.5 |" in tuned
    assert f"{start} 91.7 |" in probed


@pytest.mark.parametrize(
    ("low", "high", "sure", "told"),
    [
        (0.001, 0.04, "yes", "**better**, by its interval"),
        (-0.013, 0.04, "no", "**undecided**, at most 1.3 points worse"),
        (-0.04, -0.001, "no", "**worse**, by its interval"),
    ],
)
def test_a_difference_is_what_its_interval_says(
    low: float, high: float, sure: str, told: str
) -> None:
    run: dict[str, Any] = {"task": "rsna", "protocol": "finetune", "metric": "auroc"}
    run |= {"unit": "image"}
    run |= {"corpus": "chest", "n_train": [40], "n_test": 60, "value": 0.7, "low": 0.6, "high": 0.8}
    run |= {"patients_test": 59, "repeats": [0.7]} | COUNTS
    starts = [("convirt", 10), ("imagenet", 10), ("imagenet", 100)]
    runs = [run | {"init": init, "fraction": fraction} for init, fraction in starts]
    cells = {"rsna": {"difference": 0.02, "low": low, "high": high}, "mean": {"difference": 0.02}}
    results = Results(
        summary={"claim": cells | {"equal_fraction": cells}},
        runs=runs,
        retrieval={},
        retrieval_set="squares",
        pretrain=[],
        funnels={},
        readers={},
        made_up=frozenset({"rsna"}),
    )
    claim, equal = render(results).split("## Equal fraction")
    assert f"] points: {told}. Paper, on its data: +0.7." in claim
    assert f" | {sure} | +4.2 |" in equal


def test_single_runs_and_heads_alone_are_told(report: Report, tmp_path: Path) -> None:
    changes = {"matrix.task": ["rsna"]}
    assert report(**changes).exit_code == 0
    text = page(tmp_path)
    one = "Each number for fine-tuning comes from one run"
    assert one in text.split("## The claim")[1].split("## Equal")[0]
    told = "In 2 of these 4 cells, the best validation score of a run came before its encoder"
    assert told in text
    assert "(epoch 0): rsna ImageNet (chest pairs) 10%, rsna ConVIRT (chest pairs) 10%." in text
    for path in (tmp_path / "metrics/finetune").iterdir():
        run = json.loads(path.read_text())
        files.write_json(path, run | {"repeats": [0.7, 0.7], "best_epoch": [3, 4]})
    assert report(**changes).exit_code == 0
    assert "one run" not in page(tmp_path) and "epoch 0" not in page(tmp_path)
    path = tmp_path / "metrics/finetune/rsna-imagenet-100-finetune.json"
    files.write_json(path, json.loads(path.read_text()) | {"repeats": [0.7]})
    assert report(**changes).exit_code == 0
    some = page(tmp_path).split("## The claim")[1].split("## Equal")[0]
    assert "Each of these numbers for fine-tuning comes from one run" in some
    assert "another pretraining: rsna ImageNet (chest pairs) 100%." in some
    for init in ("imagenet", "convirt"):  # linear probes have one repeat, fine-tuning has more
        for fraction in (10, 100):
            fabricate_run(tmp_path, f"rsna-{init}-{fraction}-linear")
    assert report(**changes, **{"matrix.protocol": ["finetune", "linear"]}).exit_code == 0
    assert "Each number for linear probe comes from one run" in page(tmp_path)


def test_few_patients_have_no_interval(report: Report, tmp_path: Path) -> None:
    for path in (tmp_path / "models/finetune").rglob("*.parquet"):
        table = pd.read_parquet(path)
        files.write_parquet(path, table.assign(patient=table["patient"].str[-1].replace("9", "8")))
    result = report()
    assert result.exit_code == 0, result.output
    assert set(summary(tmp_path)["claim"]["rsna"]) == {"difference"}
    assert page(tmp_path).count("points: no interval, fewer than 10 test patients of a class.") == 4


def test_what_a_reader_of_the_cells_has_to_know(report: Report, tmp_path: Path) -> None:
    changes = {"matrix.task": ["rsna"]}
    assert report(**changes).exit_code == 0
    text = page(tmp_path)
    assert "(the paper does not say on how many): 15 of rsna." in text
    for absent in ("last epoch", "are drawn by image", "intervals there are too narrow"):
        assert absent not in text
    for path in (tmp_path / "metrics/finetune").glob("rsna-*.json"):
        run = json.loads(path.read_text())
        if run["fraction"] == 10:
            run |= {"n_train": [40, 42, 41], "n_train_studies": [8, 9, 8], "best_epoch": [3, 12]}
            if run["init"] == "convirt":
                run |= {"encoder_finetuned": {"task": "rsna", "fraction": 100}}
        else:
            run |= {"n_train": [400]}
        files.write_json(path, run | {"patients_fewest": 9})
    assert report(**changes).exit_code == 0
    text = page(tmp_path)
    assert "| 10% | 40 to 42 | 60 |" in text
    assert "10% of rsna comes from 30.0% of its studies." in text
    for path in (tmp_path / "metrics/finetune").glob("rsna-*-10-*.json"):
        files.write_json(path, json.loads(path.read_text()) | {"n_train": [120]})
    assert report(**changes).exit_code == 0
    assert "are drawn by image" not in page(tmp_path)  # more images than the share, as of 1%
    assert (
        "In 2 of these 4 cells, the best validation score of a run came in the last epoch" in text
    )
    assert "test patients of a class (9 in rsna): intervals there are too narrow." in text
    assert "more labels than they have: rsna ConVIRT (chest pairs) 10%." in text


def test_what_was_noted_of_the_data_is_on_the_page(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "metrics/funnel/rsna.json"
    files.write_json(path, json.loads(path.read_text()) | {"notes": ["3 pictures are odd"]})
    assert report(**{"datasets.sources.rsna.root": "elsewhere"}).exit_code == 0
    assert "Please check:\n\n- rsna: 3 pictures are odd" in page(tmp_path)
    made_up = {"datasets.sources.rsna.root": "data/demo/rsna"}  # with all its oddities
    assert report(**made_up).exit_code == 0
    assert "Please check" not in page(tmp_path)


def test_a_search_of_another_set_has_no_numbers_of_the_paper(
    report: Report, tmp_path: Path
) -> None:
    for path in (tmp_path / "metrics/retrieval").iterdir():
        found = json.loads(path.read_text())
        for direction, highest in (("image_image", 0.375), ("text_image", 0.25)):
            if direction in found:  # ImageNet's, the first, has no text
                found[direction]["highest_at_50"] = highest
        files.write_json(path, found)
    changes: dict[str, Any] = {"datasets.sources.chexpert-8x200.reader": "retrieval"}
    result = report(**changes)
    assert result.exit_code == 0, result.output
    text = page(tmp_path).split("## Zero-shot retrieval")[1].split("## Pretraining")[0]
    assert "P@5 here" in text and "paper" not in text
    assert (
        "no ranking can exceed these precisions" in text
        and "50 of image → image: 37.5; 50 of text → image: 25.0" in text
    )
    table = result.output.split("Zero-shot retrieval")[1].split("Pretraining")[0]
    assert "P@5" in table and "paper" not in table


def test_the_page_names_the_sets_of_a_user(report: Report, tmp_path: Path) -> None:
    root = str(tmp_path / "somewhere")
    changes: dict[str, Any] = {
        "datasets.sources.rsna.root": root,
        "model.image.weights": f"{root}/resnet.pt",
    }
    changes |= {"matrix.task": ["rsna", "mura"]}
    assert report(**changes).exit_code == 0
    text = page(tmp_path)
    head = text.split("## Transfer")[0]
    assert "the sets `rsna` (reader `rsna`) are **given data**." in head
    assert re.search(r"\*\*Made up, drawn by `stages/demo.py`\*\*: .*`chest`", head)
    assert "| rsna | AUROC | `rsna` | ConVIRT (chest pairs) |" in text
    assert "here, given and made-up data" in text
    assert "- **rsna** (given data)" in text
    assert "- **mura** (made-up data)" in text
    assert "`resnet.pt`" in text
    assert str(tmp_path) not in text
    made_up = summary(tmp_path)["data"]["made_up"]
    assert (made_up["rsna"], made_up["mura"]) == (0, 1)


def test_every_table_names_its_own_data(report: Report, tmp_path: Path) -> None:
    """Given chest films, made-up bones, and a made-up set that is searched."""
    changes = {f"datasets.sources.{name}.root": "elsewhere" for name in ("rsna", "chest")}
    shown = report(**changes, **{"matrix.task": ["rsna"]}).output
    for table, data in (("Transfer, fine-tuned", "given"), ("retrieval", "made-up")):
        assert re.search(rf"{table}: [^\n]*here on {data} data *\n", shown), table
    assert "fine-tuned: difference in points, here on given data" in shown
    assert "Pretraining: loss in nats, here on given and made-up data" in shown
    text = readme.tables(summary(tmp_path))
    assert "| fine-tuned, given data |" in text and "| retrieval, made-up data |" in text


@pytest.mark.parametrize("random", [True, False])
def test_random_weights_are_told_from_the_papers_random_guess(
    report: Report, tmp_path: Path, random: bool
) -> None:
    systems = ["convirt", *(["random"] if random else [])]
    shutil.copy(
        tmp_path / "metrics/retrieval/imagenet.json", tmp_path / "metrics/retrieval/random.json"
    )
    changes: dict[str, Any] = {
        "retrieval.systems": systems,
        "model.baselines": ["random", "imagenet"],
    }
    assert report(**changes).exit_code == 0
    assert (paper.RANDOM in page(tmp_path)) == random


@pytest.mark.parametrize("page", ["", readme.BEGIN, readme.END + readme.BEGIN, 2 * readme.BEGIN])
def test_a_damaged_readme_stays_as_it_is(done: tuple[Path, str], page: str) -> None:
    cells = summary(done[0])
    with pytest.raises(InputError, match=r"git checkout README\.md"):
        readme.fill(page, cells)
    assert readme.fill(f"a{readme.BEGIN}old{readme.END}z", cells)[::-1].startswith("z")


def test_the_claim_is_of_the_seed_and_the_resamples_that_are_asked_for(
    report: Report, tmp_path: Path
) -> None:
    assert report(**{"seed": 3, "finetune.bootstrap": 40, "matrix.task": ["rsna"]}).exit_code == 0
    ours, theirs = (
        pd.read_parquet(tmp_path / f"models/finetune/rsna-{run}-finetune/predictions.parquet")
        for run in ("convirt-10", "imagenet-100")
    )
    wanted = paired_difference(ours, theirs, "auroc", 40, 3)
    found = summary(tmp_path)["claim"]["rsna"]
    assert found == {"difference": wanted.value, "low": wanted.low, "high": wanted.high}


def test_an_approximate_search_is_named_with_its_recall(report: Report, tmp_path: Path) -> None:
    for path in (tmp_path / "metrics/retrieval").iterdir():
        found = json.loads(path.read_text())
        for direction in {"image_image", "text_image"} & set(found):
            found[direction]["recall_at_50"] = 0.987
        files.write_json(path, found)
    result = report(**{"retrieval.index": "hnsw"})
    assert result.exit_code == 0
    assert "**approximate** search" in page(tmp_path) and "| recall@50 |" in page(tmp_path)
    assert "recall@50" in result.stdout and "98.7" in result.stdout
    cells = summary(tmp_path)
    assert cells["retrieval"]["convirt"]["text_image"]["recall_at_50"] == 0.987
    assert "| recall@50 |" in readme.tables(cells) and "98.7" in readme.tables(cells)


def test_the_page_knows_neither_clock_nor_machine(done: tuple[Path, str]) -> None:
    text = page(done[0])
    assert str(done[0]) not in text
    assert not re.search(r"20\d\d-\d\d-\d\d|\d\d:\d\d", text)


def test_show_prints_the_tables_from_the_summary_alone(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.write_json(tmp_path / "metrics/summary.json", summary(done[0]))
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["--show"])
    assert shown.exit_code == 0
    assert shown.stdout == done[1]
    assert [path.name for path in tmp_path.rglob("*.*")] == ["summary.json"]


def test_no_number_is_cut_off_on_a_narrow_terminal(
    done: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(done[0])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = CliRunner().invoke(app, ["--show"], color=True)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.stdout).splitlines()
    assert 60 < max(map(len, lines)) <= 80
    assert "…" not in shown.stdout and "78.9]" in shown.stdout


def test_a_terminal_without_the_minus_sign_gets_another(done: tuple[Path, str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.report", "--show"]
    shown = subprocess.run(command, cwd=done[0], env=environment, capture_output=True)
    assert shown.returncode == 0, shown.stderr
    assert b"image ? image" in shown.stdout


def test_show_of_an_earlier_summary_names_the_command(
    done: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = summary(done[0])
    cells["data"] = {"made_up": 1.0, "papers_search": 1.0}
    files.write_json(tmp_path / "metrics/summary.json", cells)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--show"])
    assert result.exit_code == 1
    assert "of an earlier version" in result.output and "dvc repro report" in result.output


def test_show_without_a_summary_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--show"])
    assert result.exit_code == 1
    assert "dvc repro report" in result.output


def rows_of(table: Table) -> list[tuple[str, ...]]:
    """The heads of a table for the terminal, then its rows."""
    heads = tuple(str(column.header) for column in table.columns)
    return [heads, *zip(*(tuple(map(str, column.cells)) for column in table.columns), strict=True)]


def test_the_terminal_shows_each_number_under_its_head() -> None:
    low = {"value": 0.7, "low": 0.61, "high": 0.789}
    runs = {"10": low, "100": low | {"value": 0.75}}
    equal = {"rsna": {"difference": 0.05, "low": -0.01, "high": 0.09}, "mean": {"difference": 0.05}}
    claim = {"rsna": {"difference": 0.02, "low": 0.01, "high": 0.03}, "mean": {"difference": 0.02}}
    found = {"p_at_5": 0.41, "p_at_10": 0.39, "p_at_50": 0.3, "chance": 0.125}
    loss = {"pairs": 1001, "val_loss": 3.25, "chance": 4.0, "below_chance": 0.1875}
    told = {
        "data": {"made_up": {"rsna": 1.0, "bone": 1.0}, "searched": {"found": 1.0}},
        "finetune": {"rsna": {"convirt": runs, "imagenet": runs}},
        "claim": {**claim, "equal_fraction": equal},
        "retrieval": {"convirt": {"image_image": found}},
        "pretrain": {"convirt": {"bone": loss}},
    }
    transfer, claims, retrieval, pretrain = map(rows_of, console.tables(told))
    heads = ("10% of labels", "paper, 10%", "100% of labels", "paper, 100%")
    here = ("70.0 [61.0, 78.9]", "75.0 [61.0, 78.9]")
    assert transfer == [
        ("task", "start", *heads),
        ("rsna", "ImageNet", here[0], "87.3", here[1], "90.8"),
        ("rsna", "ConVIRT", here[0], "91.5", here[1], "92.7"),
    ]
    sure = ("above 0", "paper")
    assert claims == [
        ("task", "minus ImageNet 100%", *sure, "minus ImageNet 10%", *sure),
        ("rsna", "+2.0 [+1.0, +3.0]", "yes", "+0.7", "+5.0 [−1.0, +9.0]", "no", "+4.2"),
        ("mean", "+2.0", "", "", "+5.0", "", ""),
    ]
    assert retrieval == [
        ("direction", "encoder", "P@5", "paper", "P@10", "paper", "P@50", "paper", "chance"),
        ("image → image", "ConVIRT", "41.0", "45.0", "39.0", "42.9", "30.0", "35.7", "12.5"),
    ]
    assert pretrain == [
        ("objective", "corpus", "pairs", "validation loss", "chance", "below chance"),
        ("ConVIRT", "bone", "1,001", "3.250", "4.000", "18.8%"),
    ]
