"""A made-up grid of results: everything that the stage `tables` reads, for all twelve systems.

Skill grows with the share of labels and from system to system as in the paper. The metrics in the
JSON files of transfer and retrieval are those of the predictions and rankings that go with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from convirt import checkpoint, files, metrics
from convirt.image_encoder import create_image_encoder, save_image_encoder
from convirt.results.summary import matrix_keys

SYSTEMS = ["random", "imagenet", "caption_transformer", "caption_lstm", "binary", "convirt"]
SYSTEMS += ["convirt_supervised", "simclr", "moco_v2", "report_labels", "siglip", "convirt_soft"]
SKILL = dict(
    zip(SYSTEMS, (0.2, 0.8, 0.9, 1.2, 1.15, 1.5, 1.7, 0.9, 1.0, 1.4, 1.45, 1.6), strict=True)
)
TEXT = {"binary": 0.1, "convirt": 1.5, "siglip": 1.4, "convirt_soft": 1.7}
VARIANTS = {"tau-0-01": 1.2, "tau-1": 0.9, "batch-16": 1.35, "batch-128": 1.55}
VARIANTS |= {"linear-projections": 1.45}
TASKS = {"rsna": "auroc", "chexpert": "auroc", "covidx": "accuracy", "mura": "auroc"}
LABELS = {"rsna": 1, "chexpert": 5, "covidx": 3, "mura": 1}
CLASSES = ["Atelectasis", "Cardiomegaly", "Edema", "Fracture", "Pleural Effusion", "Pneumonia"]
CLASSES += ["Pneumothorax", "No Finding"]
PROBED = ["Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion"]
DEPTH, SIDE = 50, 64
ENOUGH = 100  # from this many resamples on, a run's interval is a real one


def params(data: dict[str, Any]) -> dict[str, Any]:
    """The committed parameters, `data`, asking for the whole grid."""
    objectives = [s for s in SYSTEMS if s not in ("random", "imagenet", "convirt_supervised")]
    data["objectives"] = {name: {} for name in objectives}
    data["objectives"]["convirt"] = {"train": {"keep_every": 2}}
    data["model"]["baselines"] = ["random", "imagenet"]
    data["finetuned"] = {"convirt_supervised": "chexpert-convirt-100-finetune"}
    inits = [s for s in SYSTEMS if s != "convirt_supervised"]  # it has seen chest films only
    data["matrix"] |= {"init": inits, "fraction": [1, 10, 100]}
    data["matrix"]["protocol"] = ["linear", "finetune"]
    data["retrieval"]["systems"] = SYSTEMS
    data["ablation"] |= {"variants": {name: {} for name in VARIANTS}, "trajectory": ["convirt"]}
    data["zeroshot"] |= {"task": ["rsna", "chexpert"], "system": ["convirt", "siglip"]}
    data["finetune"]["bootstrap"] = 12
    data["tables"] = ["tables"]
    return data


def provenance(name: str) -> dict[str, Any]:
    return {"code": f"{name}-code", "params": f"{name}-params", "versions": {}, "inputs": {}}


def transfer_run(root: Path, key: str, skill: float, patients: int, draws: int) -> None:
    """The JSON and the predictions of one run."""
    *_, fraction, protocol = key.split("-")
    task, init = key.split("-", 1)[0], key.split("-", 1)[1].rsplit("-", 2)[0]
    world = np.random.default_rng(11)  # the same patients for every system
    labels = LABELS[task]
    if labels == 3:
        y = np.eye(3)[np.arange(patients) % 3]
    else:
        y = (world.random((patients, labels)) < 0.4).astype(float)
    hard = world.normal(size=y.shape)
    rng = np.random.default_rng(sum(map(ord, key)))
    reach = skill * {1: 0.75, 10: 0.9, 100: 1.05}[int(fraction)]
    reach += 0.1 * (protocol == "finetune")
    names = [f"i{i:04}" for i in range(patients)]
    tables = []
    for repeat in range(3 if protocol == "linear" else 1):
        p = reach * y + 0.8 * hard + 0.6 * rng.normal(size=y.shape)
        table = {"repeat": repeat, "image": names, "patient": names, "unit": names}
        table |= {f"y_{i}": y[:, i] for i in range(labels)}
        table |= {f"p_{i}": p[:, i] for i in range(labels)}
        tables.append(pd.DataFrame(table))
    predictions = pd.concat(tables, ignore_index=True)
    found = (
        metrics.estimate(predictions, TASKS[task], draws, 0)
        if draws >= ENOUGH
        else _rough(y, tables, TASKS[task])
    )
    files.write_parquet(root / f"models/finetune/{key}/predictions.parquet", predictions)
    cell = {"task": task, "init": init, "fraction": int(fraction), "protocol": protocol}
    cell |= {"metric": TASKS[task], "value": found.value, "low": found.low, "high": found.high}
    cell |= {"repeats": list(found.repeats), "provenance": provenance("finetune")}
    corpus = None if init in ("random", "imagenet") else "bone" if task == "mura" else "chest"
    cell |= {"unit": "patient" if task == "mura" else "image", "corpus": corpus}
    cell |= {"n_train": [4 * int(fraction)] * len(tables)}
    files.write_json(root / f"metrics/finetune/{key}.json", cell)


def _rough(y: np.ndarray, tables: list[pd.DataFrame], metric: str) -> metrics.Estimate:
    """The metric itself, with a cheap stand-in for its interval: tests do not look at the width."""
    scores = [t.filter(like="p_").to_numpy(float) for t in tables]
    values = tuple(float(metrics.METRICS[metric](y, p, None)[0]) for p in scores)
    mean = float(np.mean(values))
    low, high = mean - 0.04, min(1.0, mean + 0.03)
    return metrics.Estimate(mean, low, high, len(y), len(y), values, (low, high), None)


def search(root: Path, system: str, skill: float, text: float | None) -> None:
    """The JSON, rankings and embeddings of one system's retrieval."""
    records = pd.read_parquet(root / "data/stores/chexpert-8x200/records.parquet")
    rng = np.random.default_rng(sum(map(ord, system)))
    centres = np.random.default_rng(3).normal(size=(len(CLASSES), 16))
    label = records["label"].to_numpy(str)
    code = np.array([CLASSES.index(name) for name in label])
    h = 0.35 * skill * centres[code] + rng.normal(size=(len(records), 16))
    folder = root / "data/retrieval" / system
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save_safetensors(folder / "embeddings.safetensors", {"h": torch.tensor(h).float()})
    blocks, cell = [], {"system": system, "corpus": "chest", "provenance": provenance("retrieve")}
    for direction, own, each in (("image_image", 0.6 * skill, 10), ("text_image", text, 5)):
        if own is None:
            continue
        wanted = np.repeat(CLASSES, each)
        chance = 1 / len(CLASSES)
        rate = np.clip(chance + 0.25 * own + 0.1 * rng.normal(size=len(wanted)), 0.02, 0.98)
        right = rng.random((len(wanted), DEPTH)) < rate[:, None]
        block = pd.DataFrame(
            {
                "direction": direction,
                "query": np.repeat([f"{direction} {i}" for i in range(len(wanted))], DEPTH),
                "query_label": np.repeat(wanted, DEPTH),
                "rank": np.tile(np.arange(1, DEPTH + 1), len(wanted)),
                "candidate": "c",
                "candidate_label": "?",
                "right": right.ravel(),
            }
        )
        blocks.append(block)
        scores = {f"p_at_{k}": float(right[:, :k].mean()) for k in (5, 10, 50)}
        cell[direction] = scores | {"chance": chance, "queries": len(wanted), "candidates": 1600}
    files.write_parquet(folder / "rankings.parquet", pd.concat(blocks, ignore_index=True))
    files.write_json(root / f"metrics/retrieval/{system}.json", cell)


def store(root: Path, per_class: int) -> None:
    """The retrieval set: candidates and 10 image queries per class."""
    rng = np.random.default_rng(5)
    roles = ["candidate"] * per_class + ["query"] * 10
    table = pd.DataFrame(
        {"label": np.repeat(CLASSES, len(roles)), "role": roles * len(CLASSES)},
    )
    table["image"] = [f"i{i}" for i in range(len(table))]
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    film = 200 * np.exp(-8 * (x**2 + y**2))
    noise = rng.normal(scale=12, size=(len(table), SIDE, SIDE))
    folder = root / "data/stores/chexpert-8x200"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", np.clip(film + noise, 0, 255).astype(np.uint8))
    table.to_parquet(folder / "records.parquet")
    meta = {"format": 1, "images": len(table), "size": SIDE, "kind": "retrieval", "digest": "d"}
    (folder / "store.json").write_text(json.dumps(meta))


def probe(root: Path, system: str) -> None:
    """A tiny encoder, and the head that a linear run leaves."""
    model, config = create_image_encoder("test_resnet", "random", SIDE, len(system))
    encoder = f"models/encoders/{system}/chest"
    (root / encoder).mkdir(parents=True, exist_ok=True)
    save_image_encoder(model, config, root / encoder)
    folder = root / f"models/finetune/chexpert-{system}-1-linear"
    head = torch.nn.Linear(config.width, len(PROBED))
    checkpoint.save_safetensors(folder / "head.safetensors", head.state_dict())
    sha256 = files.sha256(root / encoder / "image_encoder.safetensors")
    about = {"encoder": {"folder": encoder, "sha256": sha256}, "labels": PROBED}
    files.write_json(folder / "config.json", about)


def curve(root: Path, name: str, corpus: str, criterion: str, skill: float) -> None:
    """The history and the JSON of one pretraining."""
    step = np.arange(1, 21) * 35
    rng = np.random.default_rng(sum(map(ord, name + corpus)))
    loss = 3.4 - skill * (1 - np.exp(-step / 250)) + 0.02 * rng.normal(size=len(step))
    table = pd.DataFrame({"step": step, "train_loss": loss - 0.05, "val_loss": loss, "lr": 1e-3})
    table["chance"] = np.log(32) if criterion == "val_loss" and name != "binary" else np.nan
    if criterion != "val_loss":
        table[criterion] = 0.2 * skill * (1 - np.exp(-step / 250))
    best = step[int(np.argmin(loss))]
    path = root / f"metrics/pretrain/{name}-{corpus}"
    files.write_json(path.with_name(path.name + ".json"), _curve_facts(criterion, int(best)))
    table.to_csv(path.with_name(path.name + ".csv"), index=False)


def _curve_facts(criterion: str, best: int) -> dict[str, Any]:
    return {"criterion": criterion, "best_step": best, "provenance": provenance("pretrain")}


def build(root: Path, data: dict[str, Any], patients: int = 60, per_class: int = 12) -> None:
    """Write everything that the stage reads for the parameters `data`."""
    matrix, draws = data["matrix"], data["finetune"]["bootstrap"]
    store(root, per_class)
    for key in matrix_keys(*(matrix[axis] for axis in ("task", "init", "fraction", "protocol"))):
        transfer_run(root, key, SKILL[key.split("-")[1]], patients, draws)
    for system in data["retrieval"]["systems"]:
        search(root, system, SKILL[system], TEXT.get(system))
    for name, skill in VARIANTS.items():
        transfer_run(root, f"rsna-{name}-1-linear", skill, patients, draws)
        search(root, name, skill, skill)
        curve(root, name, "chest", "val_loss", skill / 2)
    for name in data["objectives"]:
        for corpus in data["corpora"]:
            criterion = "cider" if name.startswith("caption") else "val_loss"
            curve(root, name, corpus, criterion, SKILL[name] / 1.5)
    for system in ("imagenet", "simclr", "moco_v2", "convirt"):
        probe(root, system)
    for task in data["zeroshot"]["task"]:
        for system in data["zeroshot"]["system"]:
            cell = {"task": task, "system": system, "metric": "auroc", "value": 0.7, "low": 0.65}
            cell |= {"high": 0.76, "provenance": provenance("zeroshot")}
            files.write_json(root / f"metrics/zeroshot/{task}-{system}.json", cell)
    rng = np.random.default_rng(0)
    loss = np.linspace(3.3, 2.5, 20) + 0.03 * rng.normal(size=20)
    states = pd.DataFrame({"step": np.arange(1, 21) * 35, "val_loss": loss})
    states["linear"] = 0.9 - 0.08 * (loss - 2.5) + 0.004 * rng.normal(size=20)
    states["image_image"] = 0.6 - 0.3 * (loss - 2.5) + 0.02 * rng.normal(size=20)
    states["text_image"] = 0.9 - 0.6 * (loss - 2.5) + 0.03 * rng.normal(size=20)
    (root / "metrics/trajectory").mkdir(parents=True, exist_ok=True)
    states.to_csv(root / "metrics/trajectory/convirt.csv", index=False)
