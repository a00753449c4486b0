"""The paper's numbers, spot-checked against arXiv 2010.00747v2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from convirt.datasets import covidx, mimic_cxr, rsna
from convirt.results import paper


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (("linear", "rsna", "random", 1), 0.550),
        (("linear", "chexpert", "imagenet", 10), 0.797),
        (("linear", "covidx", "convirt", 100), 0.917),
        (("linear", "mura", "caption_lstm", 10), 0.815),
        (("finetune", "rsna", "convirt", 10), 0.915),
        (("finetune", "chexpert", "caption_transformer", 100), 0.882),
        (("finetune", "covidx", "imagenet", 10), 0.844),
        (("finetune", "mura", "binary", 1), 0.806),
        (("finetune", "covidx", "convirt", 1), None),  # the paper leaves this column out
        (("finetune", "rsna", "convirt", 50), None),
        (("finetune", "kermany", "convirt", 10), None),
        (("finetune", "rsna", "simclr", 10), None),
        (("zero-shot", "rsna", "convirt", 10), None),
    ],
)
def test_table_1(cell: tuple[str, str, str, int], expected: float | None) -> None:
    assert paper.transfer(*cell) == expected


def test_table_1_is_whole() -> None:
    tasks = ("rsna", "chexpert", "covidx", "mura")
    for protocol in paper.PROTOCOLS:
        for init in paper.INITS:
            row = [paper.transfer(protocol, t, init, f) for t in tasks for f in (1, 10, 100)]
            assert sum(value is not None for value in row) == 11
            assert all(0.5 < value < 0.93 for value in row if value is not None)


# the sum of each row in points, added up from the paper
ROWS = {
    "linear": (695.1, 880.7, 899.1, 945.6, 941.2, 966.0),
    "finetune": (840.5, 929.3, 950.3, 947.7, 961.8, 975.7),
    "image_image": (37.5, 44.2, 80.8, 95.8, 105.1, 123.6, 162.0),
    "text_image": (37.5, 43.7, 166.3),
    "table 3": (172.9, 181.3, 188.5, 219.5),
    "table 4": (191.1, 152.2, 145.6, 186.1, 179.9, 187.2),
}


def test_no_digit_is_wrong() -> None:
    held: dict[str, Mapping[str, Sequence[float]]] = {**paper._TABLE_1, **paper._TABLE_2}
    held |= {"table 3": paper._TABLE_3, "table 4": paper._TABLE_4}
    sums = {
        name: tuple(round(sum(row), 1) for row in table.values()) for name, table in held.items()
    }
    assert sums == ROWS


def test_convirt_is_best_in_the_cells_in_which_the_paper_says_so() -> None:
    best = {}
    for protocol in paper.PROTOCOLS:
        wins = []
        for task in ("rsna", "chexpert", "covidx", "mura"):
            for fraction in (1, 10, 100):
                cells = {i: paper.transfer(protocol, task, i, fraction) for i in paper.INITS}
                if cells["convirt"] is not None:
                    wins.append(cells["convirt"] == max(v for v in cells.values() if v is not None))
        best[protocol] = (sum(wins), len(wins))
    assert best == {"linear": (11, 11), "finetune": (10, 11)}


def test_the_claim_of_the_abstract() -> None:
    tasks = ("rsna", "chexpert", "covidx", "mura")
    assert [paper.difference("finetune", t) for t in tasks] == [0.007, 0.005, 0.0, -0.005]
    assert [paper.difference("linear", t) for t in tasks] == [0.048, 0.058, -0.027, 0.061]
    assert [paper.difference("finetune", t, 10) for t in tasks] == [0.042, 0.033, 0.059, 0.047]
    assert paper.difference("finetune", "kermany") is None


def test_tables_2_to_4() -> None:
    assert [paper.retrieval("image_image", "convirt", k) for k in (5, 10, 50)] == [
        0.45,
        0.429,
        0.357,
    ]
    assert [paper.retrieval("text_image", "convirt", k) for k in (5, 10, 50)] == [0.6, 0.575, 0.488]
    assert paper.retrieval("image_image", "imagenet", 5) == 0.148
    assert paper.retrieval("text_image", "imagenet", 5) is None
    assert paper.retrieval("image_image", "convirt", 100) is None
    assert paper.retrieval("image_text", "convirt", 5) is None
    assert paper.image_only("moco_v2", "image_image_p_at_10") == 0.206
    assert paper.image_only("moco_v2", "mura") is None
    assert paper.setting("tau-0-01", "text_image_p_at_10") == 0.21
    assert paper.setting("tau-2", "text_image_p_at_10") is None


def test_numbers_of_the_paper_outside_its_tables() -> None:
    assert paper.CORRELATIONS == {"linear": 0.91, "image_image": 0.93, "text_image": 0.88}
    assert rsna.PAPER == {"train": 25184, "val": 1500, "test": 3000}
    assert covidx.PAPER == {"train": 13598, "val": 300, "test": 300}
    assert mimic_cxr.PAPER == {
        "studies": 217000,
        "images_per_study": 1.7,
        "sentences_per_study": 6.0,
        "val": 5000,
    }
