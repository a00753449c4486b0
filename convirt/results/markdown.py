"""Names, numbers and tables as the pages, the figures and the terminal show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

NAMES = {
    "convirt": "ConVIRT",
    "imagenet": "ImageNet",
    "random": "random",
    "caption_lstm": "Caption-LSTM",
    "caption_transformer": "Caption-Transformer",
    "binary": "Contrastive-Binary",
    "simclr": "SimCLR",
    "moco_v2": "MoCo v2",
    "report_labels": "report labels",
    "siglip": "SigLIP",
    "convirt_soft": "ConVIRT, soft targets",
    "convirt_supervised": "ConVIRT + CheXpert supervised",
    "image_image": "image → image",
    "text_image": "text → image",
    "auroc": "AUROC",
    "finetune": "fine-tuned",
    "linear": "linear probe",
}


def name(key: str) -> str:
    """The displayed name of an initialisation, a direction, a metric or a protocol."""
    return NAMES.get(key, key)


def percent(value: float | None) -> str:
    """A fraction in percent, as the paper prints it: 0.915 is 91.5; a missing cell is a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def interval(value: float, low: float, high: float) -> str:
    """A fraction with its interval, in percent: 91.5 [90.1, 92.8]."""
    return f"{percent(value)} [{percent(low)}, {percent(high)}]"


def points(difference: float) -> str:
    """A difference of fractions in signed percentage points: +0.7, −0.5, +0.0, or 0.0 if none.

    The sign of a difference that rounds to nothing stays: it says which interval is above 0.
    """
    return f"{100 * difference:+.1f}".replace("-", "−") if difference else "0.0"


def between(counts: Sequence[int]) -> str:
    """The number if all are the same, else the least and the greatest: 40 to 42."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def points_interval(cell: Mapping[str, float]) -> str:
    """A difference, with its interval if it has one, in points: +2.1 [−0.5, +4.7]."""
    if "low" not in cell:
        return points(cell["difference"])
    return f"{points(cell['difference'])} [{points(cell['low'])}, {points(cell['high'])}]"


def above_zero(cell: Mapping[str, float]) -> str:
    """Whether the interval of a difference is above 0: yes or no; "" if it has no interval."""
    if "low" not in cell:
        return ""
    return "yes" if cell["low"] > 0 else "no"


def data_name(sets: Iterable[str], made_up: frozenset[str]) -> str:
    """What figures and column heads call the data that were measured on here."""
    sets = set(sets)
    if sets <= made_up:
        return "made-up data"
    return "given and made-up data" if sets & made_up else "given data"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of numbers are aligned to the right."""

    def number(cell: str) -> bool:
        told = cell.replace(" of ", "")  # "3 of 4" counts as a number
        return told[:1] in "0123456789+−–" and not any(sign.isalpha() for sign in told)

    numeric = [all(number(row[i]) for row in rows) for i in range(len(head))]
    lines = ["| " + " | ".join(head) + " |"]
    lines.append("|" + "|".join("---:" if right else "---" for right in numeric) + "|")
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
