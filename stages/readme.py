"""Put the committed results into the README, between its two marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from convirt import files
from convirt.errors import InputError
from convirt.results import markdown
from convirt.results.summary import made_up_sets, recall_key
from stages._results import read_json
from stages._told import told

BEGIN, END = "<!-- results -->", "<!-- /results -->"
CELLS = [("imagenet", 10), ("imagenet", 100), ("convirt", 10), ("convirt", 100)]

app = typer.Typer(add_completion=False)


@app.command()
def main(
    check: bool = typer.Option(False, "--check", help="Write nothing; fail if it is outdated."),
) -> None:
    """Rewrite the results in README.md from metrics/summary.json."""
    page = Path("README.md")
    with told():
        old = page.read_text(encoding="utf-8")
        new = fill(old, read_json(Path.cwd(), "metrics/summary.json", "report"))
        if not check:
            files.write_text(page, new)
        elif old != new:
            raise InputError(page, "the results of metrics/summary.json", "others", "make readme")


def fill(page: str, summary: dict[str, Any]) -> str:
    """The README with the tables of a summary between its marks."""
    return between(page, tables(summary), "README.md")


def between(page: str, text: str, name: str) -> str:
    """The page `name` with a text between its marks.

    Raises:
        InputError: The marks are not there once each, in their order.
    """
    if not page.count(BEGIN) == page.count(END) == 1 or page.index(BEGIN) > page.index(END):
        found = f"{page.count(BEGIN)} and {page.count(END)} of them"
        raise InputError(name, f"{BEGIN} and after it {END}", found, f"git checkout {name}")
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def tables(summary: dict[str, Any]) -> str:
    """Markdown tables of fine-tuned transfer with the claim, and of retrieval, if not empty."""
    made_up = made_up_sets(summary)
    claim = summary.get("claim", {})  # none without both fractions and both encoders
    rows = []
    for task, cells in summary.get("finetune", {}).items():
        shown = (cells.get(init, {}).get(str(fraction)) for init, fraction in CELLS)
        values = [markdown.percent(cell and cell["value"]) for cell in shown]
        rows.append(
            [task, *values, markdown.points_interval(claim[task]) if task in claim else "–"]
        )
    head = [
        f"fine-tuned, {markdown.data_name(summary.get('finetune', {}), made_up)}",
        *(f"{markdown.name(init)} {fraction}%" for init, fraction in CELLS),
        "ConVIRT 10% − ImageNet 100%",
    ]
    found = summary.get("retrieval", {})
    kinds = {
        f"{markdown.name(direction)}, {markdown.name(system)}": found[system][direction]
        for direction in ("image_image", "text_image")
        for system in ("convirt", "imagenet")
        if direction in found.get(system, {})
    }
    ks = sorted(
        {int(key[5:]) for cell in kinds.values() for key in cell if key.startswith("p_at_")}
    )
    recall = recall_key(found)
    columns = [*(f"p_at_{k}" for k in ks), "chance", *([recall] if recall else [])]
    precision = [
        [kind, *(markdown.percent(cell.get(column)) for column in columns)]
        for kind, cell in kinds.items()
    ]
    heads = [column.replace("p_at_", "P@").replace("_at_", "@") for column in columns]
    searched = markdown.data_name(summary["data"]["searched"], made_up)
    both = ((head, rows), ([f"retrieval, {searched}", *heads], precision))
    return "\n\n".join(markdown.table(*one) for one in both if one[1])


if __name__ == "__main__":
    app()
