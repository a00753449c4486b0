"""Pictures of the made-up radiographs for the documentation; no part of the pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages._stage import PARAMS, Stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from convirt.datasets.phantom import Finding, LimbCase

    Tile = tuple[NDArray[np.uint8], str]  # a film and its title

READS = ["demo.seed", "demo.side"]
CHEST_VIEWS = ("PA", "AP", "PA", "AP", "PA", "AP", "LATERAL")
LIMB_FINDINGS = ("", "fracture", "lesion", "degenerative", "osteopenia")  # "" is a normal limb
DRAWS = 10_000  # after so many, a finding counts as one that the phantom does not know

OUT: Path = typer.Option("docs", help="Folder for the two pictures.")

app = typer.Typer(add_completion=False)


@app.command()
def main(out: Path = OUT, params: Path = PARAMS) -> None:
    """Draw films of every finding, one row per finding.

    Reads only params.yaml (demo.seed, demo.side). Writes OUT/phantom-chest.png (mild on the left,
    severe on the right, a side view in the last column) and OUT/phantom-limbs.png (one column per
    body part).
    """
    with Stage(__file__, reads=READS, params=params) as stage:
        from convirt.results import plots

        demo = stage.params.demo
        for name, draw in (("chest", chest_tiles), ("limbs", limb_tiles)):
            films, titles = zip(*draw(demo.seed, demo.side), strict=True)
            path = out / f"phantom-{name}.png"
            plots.save(plots.contact_sheet(films, titles, 7), path)
            _shrink(path)


def chest_tiles(seed: int, side: int) -> list[Tile]:
    """Seven films per row: first without any finding, then with one finding and nothing else."""
    import numpy as np

    from convirt.datasets import phantom

    tiles = []
    for row, finding in enumerate(("", *phantom.CHEST_FINDINGS)):
        rng = np.random.default_rng([seed, 0, row])
        cases = [phantom.chest_case(rng, only=finding) for _ in CHEST_VIEWS]
        cases.sort(key=lambda case: sum(one.severity for one in case.findings))
        for case, view in zip(cases, CHEST_VIEWS, strict=True):
            device = "no device" if case.device == "none" else case.device
            title = f"{finding or 'No finding'}, {view}\n{_told(case.findings) or device}"
            tiles.append((phantom.draw_chest(rng, case, side, view), title))
    return tiles


def limb_tiles(seed: int, side: int) -> list[Tile]:
    """Seven films per row, one per body part: first normal ones, then with one finding alone."""
    import numpy as np

    from convirt.datasets import phantom

    tiles = []
    for row, finding in enumerate(LIMB_FINDINGS):
        rng = np.random.default_rng([seed, 1, row])
        for part in phantom.LIMB_PARTS:
            case = _limb_case(rng, part, finding)
            extra = "nothing beside" if case.extra == "none" else case.extra
            title = f"{finding or 'normal'}, {part.lower()}\n{_told(case.findings) or extra}"
            tiles.append((phantom.draw_limb(rng, case, side), title))
    return tiles


def _limb_case(rng: np.random.Generator, part: str, finding: str) -> LimbCase:
    """A case that shows exactly `finding`, "" for none."""
    from convirt.datasets import phantom

    for _ in range(DRAWS):
        case = phantom.limb_case(rng, abnormal=bool(finding), part=part)
        if [one.name for one in case.findings] == [finding] * bool(finding):
            return case
    raise ValueError(f"the phantom never draws {finding!r} alone: correct LIMB_FINDINGS")


def _told(findings: tuple[Finding, ...]) -> str:
    """The findings as a title states them, such as: severe, left lower."""
    return "; ".join(f"{one.grade}{_place(one)}" for one in findings)


def _place(finding: Finding) -> str:
    """Side and site, where the finding is drawn at one."""
    if finding.side == "bilateral" or finding.name in ("degenerative", "osteopenia"):
        return ""
    return ", " + f"{finding.side} {finding.site}".strip()


def _shrink(path: Path) -> None:
    """Keep 32 greys: noise compresses badly, and git keeps every picture that it ever saw."""
    from PIL import Image

    from convirt.files import atomic

    with Image.open(path) as image, atomic(path) as temporary:
        image.convert("L").quantize(32).save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    app()
