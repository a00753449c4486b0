"""What a check before a run has found: notes, of which the worst decides."""

from __future__ import annotations

from dataclasses import dataclass, field

# From good to bad. "later": not there yet, but the pipeline will make it. "check": a run can start,
# but the user should look at this. "stop": a run cannot start.
LEVELS = ("ok", "later", "check", "stop")


@dataclass(frozen=True)
class Note:
    """One thing that was found.

    Attributes:
        level: One of `LEVELS`.
        text: What is there, or is missing.
        steps: What to type or do next, in this order; empty if there is nothing to do.
    """

    level: str
    text: str
    steps: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """The notes on one subject.

    Attributes:
        subject: Such as "mimic-cxr" or "model.image.weights".
        about: A word about the subject, such as its reader.
        notes: In the order in which they were added.
        images: How many images a data set will put into its store, as far as known.
    """

    subject: str
    about: str = ""
    notes: list[Note] = field(default_factory=list)
    images: int = 0

    def add(self, level: str, text: str, *steps: str) -> None:
        """Add a note."""
        self.notes.append(Note(level, text, steps))

    @property
    def level(self) -> str:
        """The worst level of all notes."""
        return max((note.level for note in self.notes), key=LEVELS.index, default="ok")
