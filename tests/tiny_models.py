"""A pair encoder and a corpus so small that a training step takes a few milliseconds."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from convirt.augment import Augmentation
from convirt.feed import Corpus
from convirt.image_encoder import ImageConfig
from convirt.objectives import base
from convirt.pair_encoder import PairEncoder, ProjectionConfig
from convirt.pairs import Pairs
from convirt.schedule import TrainConfig
from convirt.text_encoder import TextEncoder, Tokenizer, create_text_encoder, create_tokenizer
from convirt.training import Result, pretrain, resumed_step

WORDS = ["no", "acute", "finding", "left", "right", "upper", "lower", "small", "large"]
WORDS += ["opacity", "effusion", "the", "heart", "lung", "is", ".", ","]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
SIDE = 16  # pixels of a stored image and of the encoder's input
PAPER = Augmentation(
    crop=(0.6, 1.0),
    flip=0.5,
    degrees=20.0,
    translate=0.1,
    scale=(0.95, 1.05),
    brightness=0.4,
    contrast=0.4,
    blur_sigma=(0.1, 3.0),
    blur_kernel=5,
)


class TinyImageEncoder(nn.Module):
    """(N, 3, H, W) to (N, 8), with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward_features(self, x: Tensor) -> Tensor:
        """The map before pooling, (N, 8, H / 4, W / 4)."""
        features: Tensor = self.two(self.norm(self.one(x)).relu()).relu()
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Encode."""
        return self.forward_features(x).mean(dim=(2, 3))


def write_bert(folder: Path, layers: int = 3, seed: int = 0, dropout: float = 0.1) -> Path:
    """Save a random BERT of width 32 with its WordPiece vocabulary, as transformers does."""
    from transformers import BertConfig, BertModel, BertTokenizer

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=80,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    folder.mkdir(parents=True)
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def text_encoder(folder: Path, frozen: int = 1) -> tuple[TextEncoder, Tokenizer]:
    """A text encoder from a folder of `write_bert`."""
    return create_text_encoder(f"file:{folder}", frozen, 24)


def pair_encoder(folder: Path, frozen: int = 1) -> PairEncoder:
    """A pair encoder, the same at each call, in the memory format of the stage."""
    text, tokenizer = text_encoder(folder, frozen)
    torch.manual_seed(1)
    image = TinyImageEncoder().to(memory_format=torch.channels_last)
    config = ImageConfig("tiny", SIDE, 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    torch.manual_seed(CONFIG.seed)  # as an objective does
    return PairEncoder(image, config, text, tokenizer, ProjectionConfig(dim=6))


def tables(
    train: int, val: int, seed: int = 0, words: int = 8
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Records (one image per row) and sentences of studies with 1 to 3 of each, shuffled.

    Sentences have 1 to `words` words.
    """
    rng = np.random.default_rng(seed)
    images, said = [], []
    for number in range(train + val):
        study = f"s{number:03d}"
        split = "train" if number < train else "val"
        images += [(study, split)] * int(rng.integers(1, 4))
        for _ in range(rng.integers(1, 4)):
            said.append((study, " ".join(rng.choice(WORDS, rng.integers(1, words + 1)))))
    records = pd.DataFrame(images, columns=["study", "split"])
    sentences = pd.DataFrame(said, columns=["study", "sentence"])
    return records.sample(frac=1, random_state=seed, ignore_index=True), sentences


def corpus(train: int = 21, val: int = 9, seed: int = 0, words: int = 8) -> Corpus:
    """Noise images and random sentences."""
    records, sentences = tables(train, val, seed, words)
    codes, distinct = pd.factorize(sentences["sentence"])
    rows = pd.DataFrame({"study": sentences["study"], "row": codes})
    rng = np.random.default_rng(seed)
    return Corpus(
        images=rng.integers(0, 256, (len(records), SIDE, SIDE)).astype(np.uint8),
        boxes=np.tile([1, 0, SIDE - 2, SIDE], (len(records), 1)),
        texts=list(distinct),
        train=Pairs(records, rows, "train"),
        val=Pairs(records, rows, "val"),
    )


CONFIG = TrainConfig(
    lr=1e-3,
    weight_decay=1e-6,
    batch_size=4,
    tau=0.1,
    lam=0.75,
    eval_every=4,
    evaluations=4,
    max_passes=100,
    warmup=2,
    schedule="plateau",
    patience=1,
    factor=0.5,
    milestones=(0.6, 0.8),
    optimiser="adam",
    keep_every=0,
    checkpoint_every=3,
    seed=5,
    chunk=0,
    compile=False,
    graphs=False,
    precision="float32",
    cache_frozen=True,
)


def parts(
    folder: Path,
    data: Corpus,
    config: TrainConfig = CONFIG,
    frozen: int = 1,
    options: dict[str, Any] | None = None,
    layers: int = 2,
) -> base.Parts:
    """What an objective is built from: the tiny encoders, the same at each call."""
    torch.manual_seed(1)
    image = TinyImageEncoder().to(memory_format=torch.channels_last)
    return base.Parts(
        image=image,
        image_config=ImageConfig("tiny", SIDE, 8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
        text=lambda: text_encoder(folder, frozen),
        tokenizer=lambda: create_tokenizer(f"file:{folder}", 24),
        texts=data.texts,
        train=data.train,
        val=data.val,
        config=config,
        projection=ProjectionConfig(dim=6, hidden=0, layers=layers),
        options=options or {},
        corpus="tiny",
    )


def objective(name: str, folder: Path, data: Corpus, **changes: Any) -> base.Objective:
    """An objective on the tiny encoders; `changes` as in `parts`."""
    return base.find(name)(parts(folder, data, **changes))


def train(
    name: str,
    folder: Path,
    config: TrainConfig = CONFIG,
    scratch: Path | None = None,
    report: Callable[[dict[str, float]], None] = lambda _: None,
    spec: Augmentation = PAPER,
    words: int = 8,
    **changes: Any,
) -> tuple[base.Objective, Result]:
    """One pretraining from the initial weights; `changes` as in `parts`."""
    data = corpus(words=words)
    model = objective(name, folder, data, config=config, **changes)
    return model, pretrain(model, data, spec, config, scratch, report)


class KilledError(Exception):
    """Raised in a report callback, as if the process had died there."""


def killed_at(step: int) -> Callable[[dict[str, float]], None]:
    """A report callback that raises `KilledError` after a step."""

    def report(status: dict[str, float]) -> None:
        if status["step"] == step:
            raise KilledError

    return report


def killed_and_resumed(
    name: str, folder: Path, config: TrainConfig, scratch: Path, steps: list[int], **changes: Any
) -> tuple[base.Objective, Result, list[int]]:
    """A run that dies after each of `steps`, then runs to its end; and the steps resumed from."""
    taken_up = []
    for step in steps:
        with contextlib.suppress(KilledError):
            train(name, folder, config, scratch, killed_at(step), **changes)
            raise AssertionError(f"no step {step}")
        taken_up.append(resumed_step(scratch))
    model, result = train(name, folder, config, scratch, **changes)
    return model, result, taken_up


def gradients(objective: base.Objective) -> dict[str, Tensor]:
    """Copies of the gradients that there are."""
    return {n: p.grad.clone() for n, p in objective.named_parameters() if p.grad is not None}


def assert_same_run(one: tuple[base.Objective, Result], two: tuple[base.Objective, Result]) -> None:
    """Both ended with the same bits."""
    first, second = one[0].state_dict(), two[0].state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    for name in ("history", "best_step", "steps"):
        assert getattr(one[1], name) == getattr(two[1], name), name
