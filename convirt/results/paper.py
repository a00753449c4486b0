"""The numbers that the paper prints, as data.

Source of everything here: Zhang et al., "Contrastive Learning of Medical Visual Representations
from Paired Images and Text", arXiv 2010.00747v2, Tables 1 to 4. The tables print percentages, and
so do the literals below, to be compared with the paper at a glance. Every function returns a
fraction between 0 and 1, or None where the paper has no such cell. All were measured on the
paper's own real data, each cell of Table 1 as the mean of five runs, without an interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convirt.params import Params

SOURCE = "arXiv 2010.00747v2"

INITS: dict[str, str] = {
    "random": "Random Init.",
    "imagenet": "ImageNet Init.",
    "caption_transformer": "Caption-Transformer",
    "caption_lstm": "Caption-LSTM",
    "binary": "Contrastive-Binary-Loss",
    "convirt": "ConVIRT",
}
"""Our name of an initialisation, and the paper's."""

PROTOCOLS: dict[str, str] = {"linear": "Table 1(a)", "finetune": "Table 1(b)"}
"""Protocol, and where the paper prints it."""

SETTINGS: dict[str, str] = {
    "image encoder": "ResNet-50, torchvision's ImageNet weights",
    "text encoder": "BERT-base, ClinicalBERT weights",
    "input side, pixels": "224",
    "pairs in a batch, N": "32",
    "learning rate of pretraining": "0.0001",
    "temperature τ": "0.1",
    "weight λ of image to text": "0.75",
    "independent runs per cell": "5",
}
"""Settings that a reader has to know before comparing any number (sections 3, 4.1, appendix A)."""

VARIANTS: dict[str, str] = {
    "default": "ConVIRT (default)",
    "tau-0-01": "τ = 0.01",
    "tau-1": "τ = 1",
    "batch-16": "batch size 16",
    "batch-128": "batch size 128",
    "linear-projections": "linear projections",
}
"""Our name of a setting of Table 4, and the paper's; the default is τ 0.1, batch size 32, heads
with a hidden layer."""

SUPERVISED: dict[str, str] = {"convirt_supervised": "ConVIRT + CheXpert Supervised"}
"""The row of Table 2 that the paper calls an upper bound: fine-tuned on all labels of CheXpert."""

FIGURE_3: tuple[str, ...] = (
    "Pneumonia",
    "Pleural Effusion",
    "Pneumothorax",
    "Cardiomegaly",
    "Atelectasis",
)
"""The classes of the t-SNE plots."""

FIGURE_4: tuple[str, ...] = ("Atelectasis", "Cardiomegaly", "Edema", "Pleural Effusion")
"""The classes of the saliency maps."""

FIGURE_4_SYSTEMS: tuple[str, ...] = ("imagenet", "simclr", "moco_v2", "convirt")

METRICS = {"rsna": "auroc", "chexpert": "auroc", "covidx": "accuracy", "mura": "auroc"}
"""What Table 1 counts, by task."""

UNITS = {"rsna": "image", "chexpert": "image", "covidx": "image", "mura": "patient"}
"""What its metrics score: each image, or the mean of a patient's images (appendix B)."""

SEARCHED = "chexpert-8x200"
"""The reader of the set that Table 2 searched."""

FIGURE_5 = ("rsna", 1, 10)
"""Task and percent of the labels of the probe, and k of the precision, that Figure 5 is about."""

CORRELATIONS: dict[str, float] = {"linear": 0.91, "image_image": 0.93, "text_image": 0.88}
"""Pearson's r of minus the validation loss and a score, over the 40 states of Figure 5; taken from
the coordinates in the PDF, the paper prints none."""

TABLE_1_COLUMNS: tuple[tuple[str, int], ...] = (
    *(("rsna", fraction) for fraction in (1, 10, 100)),
    *(("chexpert", fraction) for fraction in (1, 10, 100)),
    *(("covidx", fraction) for fraction in (10, 100)),
    *(("mura", fraction) for fraction in (1, 10, 100)),
)
"""Task and percent of the labels; there is no 1% column of COVIDx, so they are 11."""

# fmt: off
_TABLE_1: dict[str, dict[str, tuple[float, ...]]] = {
    # Table 1(a): linear classification.  RSNA | CheXpert | COVIDx | MURA
    "linear": {
        "random":              (55.0, 67.3, 72.3, 58.2, 63.7, 66.2, 69.2, 73.5, 50.9, 56.8, 62.0),
        "imagenet":            (82.8, 85.4, 86.9, 75.7, 79.7, 81.0, 83.7, 88.6, 63.8, 74.1, 79.0),
        "caption_transformer": (84.8, 87.5, 89.5, 77.2, 82.6, 83.9, 80.0, 89.0, 66.5, 76.3, 81.8),
        "caption_lstm":        (89.8, 90.8, 91.3, 85.2, 85.3, 86.2, 84.5, 91.7, 75.2, 81.5, 84.1),
        "binary":              (88.9, 90.5, 90.8, 84.5, 85.6, 85.8, 80.5, 90.8, 76.8, 81.7, 85.3),
        "convirt":             (90.7, 91.7, 92.1, 85.9, 86.8, 87.3, 85.9, 91.7, 81.2, 85.1, 87.6),
    },
    # Table 1(b): fine-tuning.
    "finetune": {
        "random":              (71.9, 82.2, 88.5, 70.4, 81.1, 85.8, 75.4, 87.7, 56.8, 61.6, 79.1),
        "imagenet":            (83.1, 87.3, 90.8, 80.1, 84.8, 87.6, 84.4, 90.3, 72.1, 81.8, 87.0),
        "caption_transformer": (86.3, 89.2, 92.1, 81.5, 86.4, 88.2, 88.3, 92.3, 75.2, 83.2, 87.6),
        "caption_lstm":        (87.2, 88.0, 91.0, 83.5, 85.8, 87.8, 83.8, 90.8, 78.7, 83.3, 87.8),
        "binary":              (87.7, 89.9, 91.2, 86.2, 86.1, 87.7, 89.5, 90.5, 80.6, 84.0, 88.4),
        "convirt":             (88.8, 91.5, 92.7, 87.0, 88.1, 88.1, 90.3, 92.4, 81.3, 86.5, 89.0),
    },
}

# Table 2: zero-shot retrieval on CheXpert 8x200, Precision@5, @10, @50.
_TABLE_2: dict[str, dict[str, tuple[float, float, float]]] = {
    "image_image": {
        "random":              (12.5, 12.5, 12.5),
        "imagenet":            (14.8, 14.4, 15.0),
        "caption_transformer": (29.8, 28.0, 23.0),
        "caption_lstm":        (34.8, 32.9, 28.1),
        "binary":              (38.8, 36.6, 29.7),
        "convirt":             (45.0, 42.9, 35.7),
        # fine-tuned on all labels of CheXpert; the paper calls it an upper bound
        "convirt_supervised":  (56.8, 56.3, 48.9),
    },
    "text_image": {
        "random":              (12.5, 12.5, 12.5),
        "binary":              (15.5, 14.5, 13.7),
        "convirt":             (60.0, 57.5, 48.8),
    },
}
RETRIEVAL_K: tuple[int, ...] = (5, 10, 50)
RANDOM = "The paper's row Random is a random guess; ours is an encoder with random weights."
"""A note for every table that sets the two beside each other."""

# Table 3: image-only contrastive learning. RSNA linear 1%, CheXpert linear 1%, image-image P@10.
TABLE_3_COLUMNS: tuple[str, ...] = ("rsna_linear_1", "chexpert_linear_1", "image_image_p_at_10")
_TABLE_3: dict[str, tuple[float, float, float]] = {
    "imagenet": (82.8, 75.7, 14.4),
    "simclr":   (86.3, 77.4, 17.6),
    "moco_v2":  (86.6, 81.3, 20.6),
    "convirt":  (90.7, 85.9, 42.9),
}

# Table 4: hyper-parameters. RSNA linear 1%, image-image P@10, text-image P@10.
TABLE_4_COLUMNS: tuple[str, ...] = ("rsna_linear_1", "image_image_p_at_10", "text_image_p_at_10")
_TABLE_4: dict[str, tuple[float, float, float]] = {
    "default":            (90.7, 42.9, 57.5),   # tau 0.1, batch 32, heads with a hidden layer
    "tau-0-01":           (90.7, 40.5, 21.0),
    "tau-1":              (89.6, 25.0, 31.0),
    "batch-16":           (90.3, 40.0, 55.8),
    "batch-128":          (90.3, 39.3, 50.3),
    "linear-projections": (90.6, 40.8, 55.8),
}
# fmt: on


def transfer(
    protocol: str,
    task: str,
    init: str,
    fraction: int,
    metric: str | None = None,
    unit: str | None = None,
) -> float | None:
    """One cell of Table 1: AUC, or accuracy for COVIDx.

    Args:
        protocol: ``"linear"`` (Table 1a) or ``"finetune"`` (Table 1b).
        task: ``"rsna"``, ``"chexpert"``, ``"covidx"`` or ``"mura"``.
        init: A key of `INITS`.
        fraction: Percent of the training labels, 1, 10 or 100.
        metric: Metric of the number to stand beside it. Unless it is the task's in `METRICS`, the
            result is None. The default is the paper's metric.
        unit: What that number scores, likewise as in `UNITS`.
    """
    if not comparable(task, metric, unit):
        return None
    row = _TABLE_1.get(protocol, {}).get(init)
    if row is None or (task, fraction) not in TABLE_1_COLUMNS:
        return None
    return _share(row[TABLE_1_COLUMNS.index((task, fraction))])


def searched(p: Params) -> bool:
    """Whether the set to search has the layout of the paper's."""
    return p.datasets.sources[p.retrieval.dataset].reader == SEARCHED


def comparable(task: str, metric: str | None, unit: str | None = None) -> bool:
    """Whether a `metric` over a `unit` may stand beside the paper's; None is the paper's own."""
    return metric in (None, METRICS.get(task)) and unit in (None, UNITS.get(task))


def difference(
    protocol: str,
    task: str,
    baseline_fraction: int = 100,
    metric: str | None = None,
    unit: str | None = None,
) -> float | None:
    """ConVIRT at 10% of the labels minus ImageNet at `baseline_fraction`% (Table 1).

    With 100 this is the abstract's claim, with 10 the comparison at equal fractions. `metric` and
    `unit` are as in `transfer`.
    """
    ours = transfer(protocol, task, "convirt", 10, metric, unit)
    theirs = transfer(protocol, task, "imagenet", baseline_fraction, metric, unit)
    return None if ours is None or theirs is None else round(ours - theirs, 4)


def retrieval(direction: str, init: str, k: int) -> float | None:
    """Precision@k of Table 2.

    Args:
        direction: ``"image_image"`` or ``"text_image"``.
        init: A key of `INITS`, or ``"convirt_supervised"``.
        k: 5, 10 or 50.
    """
    row = _TABLE_2.get(direction, {}).get(init)
    return None if row is None or k not in RETRIEVAL_K else _share(row[RETRIEVAL_K.index(k)])


def image_only(objective: str, column: str) -> float | None:
    """Table 3: `objective` is imagenet, simclr, moco_v2 or convirt.

    `column` is ``"rsna_linear_1"``, ``"chexpert_linear_1"`` or ``"image_image_p_at_10"``.
    """
    row = _TABLE_3.get(objective)
    known = row is not None and column in TABLE_3_COLUMNS
    return _share(row[TABLE_3_COLUMNS.index(column)]) if row is not None and known else None


def setting(name: str, column: str) -> float | None:
    """Table 4: ConVIRT with one hyper-parameter changed.

    `name` is a key of `VARIANTS`; `column` is ``"rsna_linear_1"``, ``"image_image_p_at_10"`` or
    ``"text_image_p_at_10"``.
    """
    row = _TABLE_4.get(name)
    known = row is not None and column in TABLE_4_COLUMNS
    return _share(row[TABLE_4_COLUMNS.index(column)]) if row is not None and known else None


def _share(percent: float) -> float:
    """A percentage with one decimal as a fraction, without rounding errors (not 0.90700001)."""
    return round(percent / 100, 4)
