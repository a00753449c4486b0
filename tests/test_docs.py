"""The documents agree with the parameters, and their links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from ruamel.yaml import YAML

from bench import table
from convirt.params import read_yaml
from stages.readme import fill

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SETTING = re.compile(r"`([a-z][\w.-]*): ([^`]+)`")


def settings(column: int) -> list[tuple[str, Any]]:
    """Every `key: value` in a column of the table of deviations."""
    found = []
    for line in (ROOT / "docs" / "deviations.md").read_text().splitlines():
        cells = line.strip().strip("|").split("|")
        if line.startswith("| ") and len(cells) == 5:
            pairs = SETTING.findall(cells[column])
            found += [(key, YAML(typ="safe").load(value)) for key, value in pairs]
    return found


def committed(name: str) -> None:
    """Skip where an experiment has changed a file: the documents describe the committed state."""
    git = ["git", "diff", "--quiet", "HEAD", "--", name]
    if subprocess.run(git, cwd=ROOT, check=False).returncode:
        pytest.skip(f"{name} differs from the committed one")


def test_speed_shows_the_committed_results() -> None:
    results = table.read()
    assert results
    page = (ROOT / "docs" / "speed.md").read_text()
    assert table.fill(page, results) == page, "run `python -m bench.table`"


def test_the_demo_profile_is_the_default() -> None:
    committed("params.yaml")
    assert (ROOT / "profiles/demo.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_readme_shows_the_committed_results() -> None:
    committed("metrics")
    summary = json.loads((ROOT / "metrics" / "summary.json").read_text())
    page = (ROOT / "README.md").read_text()
    assert fill(page, summary) == page, "run `make readme`"


@pytest.mark.parametrize(("column", "file"), [(2, "params.yaml"), (3, "profiles/paper.yaml")])
def test_deviations_quote_the_parameters(column: int, file: str) -> None:
    committed(file)
    data = read_yaml(ROOT / file)
    quoted = settings(column)
    assert len(quoted) > 20
    for key, value in quoted:
        if key == "tasks.mura.corpus":  # what one may set, not what is set
            continue
        held: Any = data
        for part in key.split("."):
            held = held[part]
        assert held == value, f"docs/deviations.md says {key}: {value}, {file} {held}"


def test_pages_are_found() -> None:
    assert len(PAGES) >= 7


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"
