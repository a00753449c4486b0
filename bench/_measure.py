"""What the benches share: alternating runs, ratios, and a JSON of figures and their machine."""

from __future__ import annotations

import datetime
import json
import os
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from convirt import checkpoint, devices, essence, files, provenance
from convirt.results import plots

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
Run = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One line of a bench: ours beside named alternatives from the same call.

    Attributes:
        name: What was measured.
        batch: Items per batch; each bench says which items.
        unit: The unit of the three rates.
        ours: The rate of this repository.
        plain: The rate of the plain way, which the bench describes; None where not measured.
        compute_only: The rate of the part that no data path can avoid; None likewise.
        peak_memory_gib: While our way runs: of the GPU, or on a CPU that of the process so far.
        seconds: Those of each run that the rates are medians of, by way; a bench says of how many
            items.
    """

    name: str
    batch: int
    unit: str
    ours: float
    plain: float | None
    compute_only: float | None
    peak_memory_gib: float
    seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)


def interleaved(
    runs: Mapping[str, Run], seconds: float = 0.0, rounds: int = 1
) -> dict[str, list[float]]:
    """Seconds of each run, in rounds of all of them, after one round that does not count.

    Args:
        runs: By name, calls that take a while.
        seconds: Measure for at least so long.
        rounds: Measure at least so many rounds.
    """
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds
    while rounds > 0 or time.perf_counter() < end:
        rounds -= 1
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            taken[name].append(time.perf_counter() - start)
    return taken


def as_stages(run: Run, threads: int) -> Run:
    """The same run as stages compute: deterministic, in exact float32, with `threads`."""

    def so() -> Any:
        provenance.make_deterministic(threads, 0)
        return run()

    return so


def as_usual(run: Run) -> Run:
    """The same run as scripts compute: on all cores, with the kernels that torch prefers."""

    def so() -> Any:
        import torch

        torch.set_num_threads(devices.cores())
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = True
        return run()

    return so


def watched(run: Run, device: str, peaks: list[float]) -> Run:
    """The same run, which then appends its peak of memory, in GiB, to `peaks`."""

    def so() -> Any:
        if device != "cpu":
            import torch

            torch.cuda.reset_peak_memory_stats()
        found = run()
        peaks.append(peak_memory(device))
        return found

    return so


@contextmanager
def turn(path: Path | None) -> Iterator[None]:
    """Wait for the others that name the same file; without a file, do not wait."""
    if path is None:
        yield
        return
    with path.open("a") as file:
        checkpoint.wait_for(file.fileno(), lambda: None)
        yield


def row(
    what: tuple[str, int, str],
    items: Mapping[str, int],
    taken: Mapping[str, Sequence[float]],
    memory: float,
) -> Row:
    """A row from the seconds of "ours" and perhaps "compute" and "plain", by medians.

    Args:
        what: Name, batch and unit of the row.
        items: How many items one run of each way processes.
        taken: Seconds of the runs of each way.
        memory: Peak of our way, GiB.
    """
    rate = {way: items[way] / statistics.median(times) for way, times in taken.items()}
    told = {way: [float(f"{s:.4g}") for s in times] for way, times in taken.items()}
    return Row(*what, rate["ours"], rate.get("plain"), rate.get("compute"), memory, told)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast `fast` is: the median over pairs of neighbouring runs."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def peak_memory(device: str, of: int = resource.RUSAGE_SELF) -> float:
    """The most that the GPU's allocator held, or that this process had resident, in GiB.

    On a CPU `of` may be `resource.RUSAGE_CHILDREN`: the largest child process that has ended.
    """
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    kilo = resource.getrusage(of).ru_maxrss
    return kilo / (2**30 if sys.platform == "darwin" else 2**20)


def machine(device: str) -> str:
    """The device by name, such as "NVIDIA H100 80GB HBM3" or "AMD EPYC, 2 cores"."""
    name = devices.hardware(device)
    if device != "cpu":
        return name
    make, _, _ = name.rpartition(", ")  # without the instruction set
    return f"{make}, {devices.cores()} cores"


def tell(
    bench: str, device: str, rows: Sequence[Row], facts: Mapping[str, Any], beside: bool = False
) -> Path:
    """Print the rows and write bench/results/<bench>-<device>.json.

    Args:
        bench: Its name.
        device: cpu or cuda.
        rows: The figures.
        facts: Anything else worth knowing, such as the models; goes into the JSON as it is.
        beside: Whether to keep rows of that file that have another batch or name and were measured
            with the same code, versions and settings on the same day. Without it a file has the
            rows of one call.

    Returns:
        The JSON's path.
    """
    name = machine(device)
    table = Table("what", "batch", "unit", "ours", "plain", "× plain", "compute", "share", "GiB")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.batch:,}",
            row.unit,
            _rate(row.ours),
            _rate(row.plain),
            f"{row.ours / row.plain:.2f}" if row.plain else "",
            _rate(row.compute_only),
            f"{row.ours / row.compute_only:.0%}" if row.compute_only else "",
            f"{row.peak_memory_gib:.2f}",
        )
    table.title = f"{bench} on {name}"
    Console(width=110).print(table)
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = RESULTS / f"{bench}-{slug}.json"
    told = {
        "device": name,
        "versions": provenance.versions(),
        "date": datetime.date.today().isoformat(),
        "code": code_of(bench),
        "load": round(os.getloadavg()[0], 2),
        **facts,
        "rows": [asdict(row) for row in rows],
    }
    files.write_json(path, _beside(told, path) if beside else told)
    return path


def code_of(bench: str) -> str:
    """Digest of the code that a bench runs, from its name or the name of its results."""
    entry = ROOT / "bench" / f"{bench.partition('-')[0]}.py"
    entries = [entry, *entry.parent.glob("_*.py")]
    modules = {path for entry in entries for path in provenance.import_closure(entry, ROOT)}
    digests = {str(path.relative_to(ROOT)): essence.digest_of(path) for path in sorted(modules)}
    return provenance.digest(digests)[:12]


def _beside(told: dict[str, Any], path: Path) -> dict[str, Any]:
    """What was measured now, and rows of the same day in the file that were not measured again."""
    if not path.is_file():
        return told
    before = json.loads(path.read_text(encoding="utf-8"))
    settings = [key for key, value in told.items() if not isinstance(value, (float, dict, list))]
    if any(before.get(key) != told[key] for key in ("versions", *settings)):
        return told
    new = {(row["name"], row["batch"]) for row in told["rows"]}
    stay = [row for row in before["rows"] if (row["name"], row["batch"]) not in new]
    whole = {
        key: before.get(key, {}) | value for key, value in told.items() if isinstance(value, dict)
    }
    rows = sorted([*stay, *told["rows"]], key=lambda row: (row["name"], row["batch"]))
    return {**told, **whole, "rows": rows}


@plots.styled
def growth(
    counts: Sequence[int], lines: Mapping[str, Sequence[float | None]], across: str, up: str
) -> Figure:
    """Rates over a number of items, both axes logarithmic."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for (name, values), marker in zip(lines.items(), plots.MARKERS, strict=False):
        kept = [(n, value) for n, value in zip(counts, values, strict=True) if value is not None]
        axes.loglog(*zip(*kept, strict=True), marker=marker, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.legend()
    return figure


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
