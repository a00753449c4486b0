"""The paper's tables and figures, ours beside the paper's: CSV, pictures and one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from convirt import files
from stages import _pictures, _table_cells, _table_inputs
from stages._results import is_made_up
from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    from convirt.params import Params
    from convirt.results.html import Page
    from stages._pictures import Drawn
    from stages._table_cells import Measured

READS = [
    "seed",
    "compute.threads",
    "ablation",
    "corpora",
    "datasets.sources",
    "finetune.bootstrap",
    "matrix",
    "objectives",
    "retrieval",
    "zeroshot.task",
    "zeroshot.system",
]
MADE_UP = (
    "The films and their reports were drawn by a program; none is a patient’s. These numbers show "
    "that the code runs methods and protocols from end to end, and how the systems compare on this "
    "data. The data was designed so that reports help to read films, and was adjusted after full "
    "runs had been seen. A lead of ConVIRT here would be no evidence for the method, and would say "
    "nothing about patients (docs/phantom.md). The paper’s numbers beside ours were measured on "
    "other, real data."
)
MIXED = (
    "Made up, drawn by a program: {}. The other sets are given data. The paper’s numbers beside "
    "ours were measured on the paper’s own data."
)
GIVEN = "The paper’s numbers beside ours were measured on the paper’s own data and splits."
PATIENTS = (
    "Pictures that contain images. Those of given data stay here, in DVC’s cache and wherever it "
    "is pushed, like the stores, and out of git; those of made-up data are in metrics/tables.\n"
)

app = typer.Typer(add_completion=False)


@app.command()
def main(params: Path = PARAMS) -> None:
    """Lay out all results as Tables 1 to 4 and Figures 3 to 5 of the paper.

    Reads the results that params.yaml asks for (matrix, retrieval.systems, ablation, zeroshot,
    pretraining), their raw predictions and rankings for paired intervals,
    data/retrieval/*/embeddings.safetensors, the linear probes on 1% of CheXpert, and the store of
    the retrieval set. A missing file is an error that names the command.

    Writes metrics/tables/ (table1.csv to table4.csv, zeroshot.csv, figure5.csv, cells.json, one PNG
    per table and figure, index.html) and data/tables/ (what may not be in git: saliency maps beside
    images of given data).
    """
    with Stage(__file__, reads=READS, params=params) as stage:
        from convirt import provenance
        from convirt.results import html

        p, root = stage.params, stage.root
        provenance.make_deterministic(p.compute.threads, p.seed)
        measured = _table_cells.gather(stage)
        sources = p.datasets.sources
        made_up = frozenset(s for s, source in sources.items() if is_made_up(root, source))
        drawn = _pictures.draw(stage, measured, made_up)
        page = _page(p, measured, drawn, made_up)
        stage.confirm()
        with files.fresh_directory(root / "data" / "tables") as folder:
            files.write_text(folder / "README.txt", PATIENTS)
            for key, png in drawn.private.items():
                (folder / f"{key}.png").write_bytes(png)
        with files.fresh_directory(root / "metrics" / "tables") as folder:
            _write(folder, measured, drawn)
            files.write_text(folder / "index.html", html.render(page))
        for claim in page.claims:
            stage.say(f"{claim.question} {claim.answer}: {claim.text}")


def _write(folder: Path, measured: Measured, drawn: Drawn) -> None:
    import pandas as pd

    from convirt.results.tables import FILES, as_json, csv_rows

    for table, columns in FILES.items():
        rows = pd.DataFrame(csv_rows(table, measured.cells), columns=list(columns))
        files.write_text(folder / f"{table}.csv", rows.to_csv(index=False, lineterminator="\n"))
    rows = pd.DataFrame(measured.correlations, columns=list(_table_inputs.CORRELATION))
    files.write_text(folder / "figure5.csv", rows.to_csv(index=False, lineterminator="\n"))
    files.write_json(folder / "cells.json", {"cells": [as_json(cell) for cell in measured.cells]})
    for key, png in drawn.public.items():
        (folder / f"{key}.png").write_bytes(png)


def _page(p: Params, measured: Measured, drawn: Drawn, made_up: frozenset[str]) -> Page:
    from convirt.results import html, verdict
    from convirt.results.markdown import data_name
    from convirt.results.tables import DEFAULT

    cells = measured.cells
    scores = {str(c.column[1]): (c.metric, c.unit) for c in cells if c.table == "table1"}
    claims = [
        verdict.efficiency(measured.efficiency.get("finetune", {}), "finetune", scores),
        verdict.first(cells, "linear"),
        verdict.retrieval(cells, measured.chance),
        verdict.images(cells),
        verdict.efficiency(measured.efficiency.get("linear", {}), "linear", scores),
        verdict.first(cells, "finetune"),
    ]
    data = data_name(measured.sets(p), made_up)
    # Table 3 and the default of Table 4 repeat cells of Tables 1 and 2
    own = [c for c in cells if c.table != "table3" and (c.table, c.system) != ("table4", DEFAULT)]
    shown = {id(e.cell) for grid in drawn.grids for _, row in grid.rows for e in row if e.cell}
    more = sum(id(cell) not in shown for cell in own)
    beside = (
        f"; {more} of them fit no column of the paper (such as COVIDx with 1% of the labels) and "
        "are only in the CSV files"
    )
    facts = [
        f"{len(own)} numbers{beside if more else ''}. For each, <code>cells.json</code> names "
        "the file that it comes from and the digests of the code and parameters that made it.",
        "Intervals of transfer runs come from their JSON; those of retrieval and differences, from "
        f"{p.finetune.bootstrap} bootstrap resamples of the queries or the test patients.",
        "Made by <code>dvc repro tables</code>; <code>docs/tables.md</code> explains what each "
        "file holds.",
    ]
    if drawn.absent:
        facts.insert(
            0,
            "Not here, with what it takes in params.yaml: "
            + html.sentences([", ".join(drawn.absent)]),
        )
    return html.Page(
        data=data,
        origin=_origin(measured.sets(p), made_up),
        claims=claims,
        grids=drawn.grids,
        pictures=drawn.pictures,
        rule=html.marks(),
        facts=facts,
    )


def _origin(sets: set[str], made_up: frozenset[str]) -> str:
    if sets <= made_up:
        return MADE_UP
    return MIXED.format(", ".join(sorted(sets & made_up))) if sets & made_up else GIVEN


if __name__ == "__main__":
    app()
