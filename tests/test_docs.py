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
from convirt.params import from_yaml, parse, read_yaml
from stages.readme import fill

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
SETTING = re.compile(r"`([a-z][\w.-]*): ([^`]+)`")
BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
OWN = "docs/your-data.md"


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


def test_data_of_ones_own_may_be_added_to_dvc_and_stays_out_of_git() -> None:
    """As docs/exactness.md advises for `dvc exp run --temp`."""
    ignored = {"data/raw/it/pairs.csv": 0, "data/raw/it.csv": 0, "data/raw/it.dvc": 1}
    for name, code in (ignored | {"data/demo/it.dvc": 0, "data/stores/it": 0}).items():
        git = ["git", "check-ignore", "--quiet", "--no-index", name]
        assert subprocess.run(git, cwd=ROOT, check=False).returncode == code, name


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
        if key == "tasks.mura.corpus":  # a suggestion, not the committed value
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


def merged(base: dict[str, Any], block: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of a block: mappings are merged by key, all else is replaced."""
    both = {key: merged(base[key], block[key]) for key in base.keys() & block.keys()
            if isinstance(base[key], dict) and isinstance(block[key], dict)}  # fmt: skip
    return {**base, **block, **both}


def blocks(page: str) -> list[str]:
    """The YAML blocks of a page, in order."""
    return BLOCK.findall((ROOT / page).read_text())


def test_your_data_has_a_block_a_format() -> None:
    readers = [from_yaml(block, OWN)["datasets"]["sources"] for block in blocks(OWN)]
    assert [next(iter(one.values()))["reader"] for one in readers] == [
        "pairs",
        "labels",
        "retrieval",
    ]


@pytest.mark.parametrize(
    "chosen", [(0,), (0, 1), (0, 1, 2), (0, 2), (1,), (2,), (1, 2)], ids=lambda chosen: f"{chosen}"
)
def test_blocks_of_your_data_are_parameters(chosen: tuple[int, ...]) -> None:
    """Merged into the demo profile, alone or together; without own pairs, the corpus is chest."""
    data = read_yaml(ROOT / "profiles/demo.yaml")
    for number in chosen:
        block = blocks(OWN)[number]
        if 0 not in chosen:
            assert block.count("corpus: my-pairs") == 1
            block = block.replace("corpus: my-pairs", "corpus: chest")
        data = merged(data, from_yaml(block, OWN))
    parse(data, OWN)


def test_pairs_of_ones_own_beside_the_demo() -> None:
    source = from_yaml(blocks(OWN)[0], OWN)["datasets"]
    data = merged(read_yaml(ROOT / "profiles/demo.yaml"), {"datasets": source})
    assert "`corpora: [chest, bone, my-pairs]`" in (ROOT / OWN).read_text()
    parse({**data, "corpora": ["chest", "bone", "my-pairs"]}, OWN)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "datasets"], ids=lambda page: page.name
)
def test_blocks_of_the_data_sets_are_parameters(page: Path) -> None:
    for block in blocks(str(page.relative_to(ROOT))):
        parse(merged(read_yaml(ROOT / "profiles/demo.yaml"), from_yaml(block, page)), page)
