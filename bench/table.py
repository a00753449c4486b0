"""Put the figures of bench/results into docs/speed.md, between its two marks; measures nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from bench._measure import RESULTS
from convirt import files
from convirt.results import markdown
from stages.readme import between

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
HEAD = ["what", "batch", "unit", "ours", "plain", "ours / plain", "compute only", "ours / compute"]


def fill(page: str, results: list[dict[str, Any]]) -> str:
    """The page with one table per result between its marks."""
    return between(page, "\n\n".join(one(result) for result in results), "docs/speed.md")


def one(result: dict[str, Any]) -> str:
    """A result's table, with its machine and date above."""
    rows = []
    for row in result["rows"]:
        ours, plain, compute = row["ours"], row["plain"], row["compute_only"]
        rows.append(
            [
                row["name"],
                f"{row['batch']:,}",
                row["unit"],
                rate(ours),
                rate(plain),
                f"{ours / plain:.2f}" if plain else "–",
                rate(compute),
                f"{ours / compute:.2f}" if compute else "–",
            ]
        )
    about = f"{result['device']}, torch {result['versions']['torch']}, {result['date']}:"
    return f"{about}\n\n{markdown.table(HEAD, rows)}"


def rate(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def read() -> list[dict[str, Any]]:
    """All results, by the name of their file."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def main() -> None:
    """Rewrite the tables of docs/speed.md."""
    files.write_text(PAGE, fill(PAGE.read_text(encoding="utf-8"), read()))


if __name__ == "__main__":
    typer.run(main)
