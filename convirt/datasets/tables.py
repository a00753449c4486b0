"""What every reader returns, whatever the layout: tables, and a funnel of what was dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from convirt.datasets.splits import Split

# Reasons to leave an item out by choice; such items do not count against `max_dropped`.
VIEW_NOT_CHOSEN = "view not chosen"
ON_EXCLUDE_LIST = "on the exclude list"
LISTED_TWICE = "listed twice"
PERSON_HELD_OUT = "patient is in val or test"
UNCERTAIN = "uncertain label"
NO_FINAL_LABEL = "without a final label"
LEFTOVER = "no image, a leftover of macOS"
CHOICES = frozenset(
    {
        VIEW_NOT_CHOSEN,
        ON_EXCLUDE_LIST,
        LISTED_TWICE,
        PERSON_HELD_OUT,
        UNCERTAIN,
        NO_FINAL_LABEL,
        LEFTOVER,
    }
)

# Reasons to drop a study because of its report.
NO_REPORT = "report missing"
NO_SECTION = "no findings or impression"
EMPTY_REPORT = "empty report"
SHORT_REPORT = "report under 3 tokens"

SPLITS = ("train", "val", "test")
IMAGE_COLUMNS = ("image", "path", "study", "patient", "split", "view")
RETRIEVAL_COLUMNS = ("role", "label")


@dataclass
class Count:
    """Items of one sort: how many came in, and which were dropped for which reason.

    Attributes:
        found: How many came in.
        dropped: Reason -> ids, each item under one reason only.
    """

    found: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, ids: Iterable[str]) -> None:
        """Count `ids` as dropped for `reason`; without ids nothing is noted."""
        ids = list(ids)
        if ids:
            self.dropped.setdefault(reason, []).extend(ids)

    @property
    def lost(self) -> int:
        """How many were dropped."""
        return sum(map(len, self.dropped.values()))

    @property
    def kept(self) -> int:
        """How many are left."""
        return self.found - self.lost

    @property
    def excluded(self) -> int:
        """How many were dropped by choice (a view, an exclude list)."""
        return sum(len(ids) for reason, ids in self.dropped.items() if reason in CHOICES)

    def to_dict(self) -> dict[str, Any]:
        """``in = kept + sum(dropped)``, as written to the funnel's JSON."""
        dropped = {reason: len(ids) for reason, ids in sorted(self.dropped.items())}
        return {"in": self.found, "dropped": dropped, "kept": self.kept}


@dataclass
class Funnel:
    """From what the layout lists to what the store holds.

    Attributes:
        studies: Studies listed.
        images: Images listed.
        sentences: Sentences of the studies whose reports are kept.
        converted: What was converted in kept images ("16 bit", "RGB", ...) -> how many.
        split: Split -> sort of item -> how many the store holds.
        paper: Counts that the paper states for this set, for comparison.
        notes: Sentences that a user should read: what is doubtful about this set, and what to do
            about it. Nothing was dropped because of them.
        examples: Note -> the first few ids that it is about, for the terminal only.
    """

    studies: Count = field(default_factory=Count)
    images: Count = field(default_factory=Count)
    sentences: Count = field(default_factory=Count)
    converted: dict[str, int] = field(default_factory=dict)
    split: dict[str, dict[str, int]] = field(default_factory=dict)
    paper: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, number: int, examples: str = "") -> None:
        """Add a count to the notes, unless it is zero."""
        if number:
            self.notes.append(f"{number} {what}")
            self.examples[self.notes[-1]] = examples

    def note_lines(self) -> list[str]:
        """The notes with their examples."""
        examples = ((note, self.examples.get(note, "")) for note in self.notes)
        return [note + f"; for example {few}" * bool(few) for note, few in examples]

    def leave_out(self, images: pd.DataFrame, out: pd.Series, reason: str) -> pd.DataFrame:
        """Drop the images that `out` marks, and the studies that lose their last image.

        Returns:
            The images that are kept.
        """
        kept = images[~out]
        self.images.drop(reason, images.loc[out, "image"])
        self.studies.drop(reason, sorted(set(images["study"]) - set(kept["study"])))
        return kept

    @property
    def dropped_share(self) -> float:
        """Share of images that were lost, among those not left out by choice."""
        wanted = self.images.found - self.images.excluded
        return (self.images.lost - self.images.excluded) / wanted if wanted else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The funnel as plain JSON values; ids stay out of it."""
        value: dict[str, Any] = {
            "studies": self.studies.to_dict(),
            "images": self.images.to_dict(),
            "sentences": self.sentences.to_dict(),
            "converted": dict(sorted(self.converted.items())),
            "split": self.split,
        }
        if self.paper:
            value["paper"] = self.paper
        if self.notes:
            value["notes"] = self.notes
        return value


@dataclass(frozen=True)
class Tables:
    """One data set, ready to be packed.

    Attributes:
        images: One row per image, sorted by ``image``: image (unique id, mostly a relative posix
            path), path (absolute), study, patient, split ("train", "val" or "test"), view (""
            if unknown), then one 0/1 column per label. Retrieval sets also have role ("query" or
            "candidate") and label (a class name).
        reports: Pretraining sets: study, text (findings and impression).
        queries: Retrieval sets: text, label.
        labels: Names of the 0/1 columns of `images`.
        funnel: What was dropped so far.
        source: The list file that an error should name.
        reader: Name of the reader.
    """

    images: pd.DataFrame
    reports: pd.DataFrame | None
    queries: pd.DataFrame | None
    labels: tuple[str, ...]
    funnel: Funnel
    source: Path = Path()
    reader: str = ""

    @property
    def kind(self) -> str:
        """What the set is for: "pairs", "retrieval" or "labels"."""
        if self.reports is not None:
            return "pairs"
        return "retrieval" if "role" in self.images else "labels"


Reader = Callable[[Path, "Split", dict[str, Any]], Tables]
