"""Reading MIMIC-CXR's lists and reports, against a plain loop over the same archive.

    python -m bench.read_mimic                     # a tenth of the size
    python -m bench.read_mimic --studies 227835 --rounds 1    # MIMIC-CXR's size

Lists and a zip of made-up reports are drawn as large as asked, in MIMIC-CXR's proportions; there
are no images, since the reader does not open any. The reader checks and joins the lists, cuts the
reports into sections, drops what cannot be used and draws the validation patients; then its texts
are cut into sentences. The plain loop does what a script would do: read the list, unpack each
report, find two headings with a regular expression, split at full stops. The two run in turn, each
in its own process; peak memory is that of the process, including the interpreter and its libraries.
"""

from __future__ import annotations

import csv
import gzip
import io
import multiprocessing
import random
import re
import resource
import statistics
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from convirt.datasets import mimic_cxr, phantom, sentences
from convirt.datasets.layouts.mimic_cxr import METADATA
from convirt.datasets.layouts.mimic_report import write_report
from convirt.datasets.splits import Split

STUDIES = 227_835  # of MIMIC-CXR 2.0.0
IMAGES, PATIENTS = 377_110 / STUDIES, 65_379 / STUDIES  # per study
REST = (3056, 2544, 21800506, "213014.531", "CHEST (PA AND LAT)", "postero-anterior", "Erect")
DISTINCT = 2_000  # reports that are drawn; the set repeats them


def write_set(root: Path, studies: int) -> None:
    """The list of images and the zip of reports."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(DISTINCT):
        said = phantom.chest_report(rng, phantom.chest_case(rng))
        texts.append(write_report(rng, "CHEST (PA AND LAT)", *said))
    patients = 10_000_000 + np.sort(rng.choice(9_999_999, round(studies * PATIENTS), False))
    owners = np.sort(np.concatenate([patients, rng.choice(patients, studies - len(patients))]))
    numbers = 50_000_000 + rng.choice(9_999_999, studies, False)
    images = 1 + rng.multinomial(round(studies * (IMAGES - 1)), np.full(studies, 1 / studies))
    draw = random.Random(0)
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(METADATA)
    with zipfile.ZipFile(
        root / "mimic-cxr-reports.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        for i, (patient, study) in enumerate(zip(owners.tolist(), numbers.tolist(), strict=True)):
            name = f"files/p{patient // 1_000_000}/p{patient}/s{study}.txt"
            archive.writestr(name, texts[i % DISTINCT])
            for _ in range(images[i]):
                film = "-".join(f"{draw.getrandbits(32):08x}" for _ in range(5))
                view = draw.choice(["AP", "PA", "LATERAL", ""])
                rows.writerow([film, patient, study, "CHEST (PA AND LAT)", view, *REST])
    data = gzip.compress(lines.getvalue().encode(), compresslevel=1)
    (root / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(data)


def reader(root: Path, val: int) -> tuple[int, int]:
    """Run the reader and cut its texts into sentences; return numbers of studies and sentences."""
    tables = mimic_cxr.read(root, Split(0, val=val), {})
    assert tables.reports is not None
    return len(tables.reports), sum(len(sentences.split(text)) for text in tables.reports["text"])


def plain(root: Path, val: int) -> tuple[int, int]:
    """What a script would do."""
    section = re.compile(r"(?:FINDINGS|IMPRESSION):(.*?)(?=\n [A-Z ()/,-]+:|\Z)", re.DOTALL)
    with gzip.open(root / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as handle:
        rows = list(csv.DictReader(handle))
    studies = sorted({(row["subject_id"], row["study_id"]) for row in rows})
    kept, said = [], 0
    with zipfile.ZipFile(root / "mimic-cxr-reports.zip") as archive:
        for patient, study in studies:
            text = archive.read(f"files/p{patient[:2]}/p{patient}/s{study}.txt").decode()
            parts = " ".join(" ".join(section.findall(text)).split())
            if parts:
                kept.append(study)
                said += len([part for part in parts.split(". ") if part])
    random.Random(0).shuffle(kept)
    return len(kept[val:]) + len(kept[:val]), said


def measure(way: str, root: Path, val: int) -> tuple[float, float, int, int]:
    """Run one way in this process; return seconds, peak MiB, studies and sentences."""
    start = time.perf_counter()
    kept, said = {"reader": reader, "plain": plain}[way](root, val)
    seconds = time.perf_counter() - start
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, kept, said


def main(
    studies: int = typer.Option(STUDIES // 10, help=f"Studies to draw; MIMIC-CXR has {STUDIES:,}."),
    rounds: int = typer.Option(3, help="How often each way runs."),
) -> None:
    """Print time, rate and peak memory of both ways, and the ratio."""
    ways = {"reader": "convirt.datasets.mimic_cxr", "plain": "plain loop"}
    taken: dict[str, list[tuple[float, float, int, int]]] = {way: [] for way in ways}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        write_set(root, studies)
        for _ in range(rounds):
            for way in ways:
                with ProcessPoolExecutor(1, context) as fresh:
                    taken[way].append(fresh.submit(measure, way, root, studies // 45).result())
    title = f"{studies:,} studies, {round(studies * IMAGES):,} images, one process"
    table = Table(
        "way", "seconds", "studies/s", "peak MiB", "studies kept", "sentences", title=title
    )
    for way, results in taken.items():
        seconds = statistics.median(result[0] for result in results)
        peak = max(result[1] for result in results)
        table.add_row(ways[way], f"{seconds:.1f}", f"{studies / seconds:,.0f}", f"{peak:,.0f}",
                      f"{results[0][2]:,}", f"{results[0][3]:,}")  # fmt: skip
    console = Console(width=110)
    console.print(table)
    pairs = zip(taken["reader"], taken["plain"], strict=True)
    ratio = statistics.median(a[0] / b[0] for a, b in pairs)
    console.print(f"the reader takes {ratio:.2f} times as long as the plain loop")


if __name__ == "__main__":
    typer.run(main)
