"""The small project: its parameters, and the runs of stages that make all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from conftest import TINY_PIPELINE

SETS: dict[str, dict[str, int]] = {
    "mimic-cxr": {"studies": 24},
    "rsna": {"train": 16, "val": 8, "test": 16},
    "chexpert": {"train": 4, "val": 4, "test": 4, "per_class": 2, "queries": 1, "texts": 1},
}
KEPT = {
    "datasets.sources": ("chest", "rsna", "chexpert-8x200"),
    "tasks": ("rsna",),
    "zeroshot.prompts": ("rsna",),
}
CHANGES: dict[str, Any] = {
    **TINY_PIPELINE,
    "demo.sets": SETS,
    "train.eval_every": 5,
    "train.evaluations": 3,
    "train.max_passes": 100,
    "train.checkpoint_every": 3,
    "train.keep_every": 1,
    "corpora": ["chest"],
    "matrix.task": ["rsna"],
    "matrix.init": ["imagenet", "convirt"],
    "matrix.fraction": [100],
    "matrix.protocol": ["finetune", "linear"],
    "finetune.batch_size": 8,
    "finetune.finetune.max_epochs": 2,
    "finetune.finetune.repeats": 2,
    "finetune.linear.max_epochs": 2,
    "finetune.linear.repeats": 2,
    "zeroshot.task": ["rsna"],
    "zeroshot.system": ["convirt"],
    "finetuned": {"tuned": "rsna-convirt-100-finetune"},
    "ablation.fraction": 100,
    "ablation.k": 2,
    "ablation.variants": {"tau-1": {"train": {"tau": 1.0}}},
    "ablation.trajectory": ["convirt"],
    "tables": ["tables"],
}


@dataclass(frozen=True)
class Step:
    """One run of a stage, as in dvc.yaml.

    Attributes:
        command: The stage and its arguments.
        reads: What it is given, besides params.yaml.
        writes: What it leaves.
    """

    command: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for people to read."""
        return "-".join(self.command)


def _step(command: str, reads: str, writes: str) -> Step:
    return Step(tuple(command.split()), tuple(reads.split()), tuple(writes.split()))


def _transfer(init: str, encoder: str, protocol: str) -> Step:
    key = f"rsna-{init}-100-{protocol}"
    return _step(
        f"finetune rsna {init} 100 {protocol}",
        f"data/stores/rsna models/encoders/{encoder}",
        f"models/finetune/{key} metrics/finetune/{key}.json",
    )


def _search(system: str, encoder: str) -> Step:
    return _step(
        f"retrieve {system}",
        f"data/stores/chexpert-8x200 models/encoders/{encoder}",
        f"data/retrieval/{system} metrics/retrieval/{system}.json",
    )


def _pretraining(command: str, name: str) -> Step:
    metrics = f"metrics/pretrain/{name}-chest"
    return _step(
        command,
        "bert data/stores/chest",
        f"models/encoders/{name}/chest models/kept/{name}/chest {metrics}.json {metrics}.csv",
    )


def _packing(name: str, demo: str) -> Step:
    return _step(
        f"preprocess {name}", f"data/demo/{demo}", f"data/stores/{name} metrics/funnel/{name}.json"
    )


STEPS = (
    _step("code", "convirt stages", "metrics/code"),
    *(_step(f"demo {name}", "", f"data/demo/{name}") for name in SETS),
    _packing("chest", "mimic-cxr"),
    _packing("rsna", "rsna"),
    _packing("chexpert-8x200", "chexpert"),
    _step("encoder imagenet", "", "models/encoders/imagenet"),
    _pretraining("pretrain convirt chest", "convirt"),
    _pretraining("vary tau-1 convirt chest", "tau-1"),
    _transfer("convirt", "convirt/chest", "finetune"),
    _transfer("convirt", "convirt/chest", "linear"),
    _transfer("imagenet", "imagenet", "finetune"),
    _transfer("imagenet", "imagenet", "linear"),
    _transfer("tau-1", "tau-1/chest", "linear"),
    _step("supervised tuned", "models/finetune/rsna-convirt-100-finetune", "models/encoders/tuned"),
    _search("convirt", "convirt/chest"),
    _search("imagenet", "imagenet"),
    _search("tau-1", "tau-1/chest"),
    _step(
        "zeroshot rsna convirt",
        "data/stores/rsna models/encoders/convirt/chest",
        "data/zeroshot/rsna-convirt metrics/zeroshot/rsna-convirt.json",
    ),
    _step(
        "trajectory convirt chest rsna",
        "data/stores/rsna data/stores/chexpert-8x200 models/encoders/convirt/chest "
        "models/kept/convirt/chest",
        "metrics/trajectory/convirt.csv",
    ),
    _step(
        "report",
        "metrics/finetune metrics/funnel metrics/pretrain metrics/retrieval",
        "metrics/summary.json metrics/report.md metrics/figures",
    ),
    _step(
        "tables",
        "data/retrieval data/stores/chexpert-8x200 metrics/finetune metrics/pretrain "
        "metrics/retrieval metrics/trajectory metrics/zeroshot models/finetune",
        "data/tables metrics/tables",
    ),
)
ALIKE = ["demo-rsna", "demo-chexpert", "preprocess-rsna", "preprocess-chexpert-8x200"]
ALIKE += ["finetune-rsna-imagenet-100-finetune", "finetune-rsna-imagenet-100-linear"]
ALIKE += ["finetune-rsna-tau-1-100-linear", "retrieve-imagenet", "retrieve-tau-1"]
TESTED = tuple(step for step in STEPS if step.name not in ALIKE)  # each stage once, both protocols

BY_NAME = {step.name: step for step in STEPS}
