"""What a check before a run has found: notes, the worst of which decides."""

from __future__ import annotations

from dataclasses import dataclass, field

# From good to bad. "later": not there yet, and made by the pipeline. "check": a run starts, but
# look at it. "stop": a run cannot start.
LEVELS = ("ok", "later", "check", "stop")


@dataclass(frozen=True)
class Note:
    """One thing that was found.

    Attributes:
        level: One of `LEVELS`.
        text: What is there, or is not.
        steps: What to type or do next, in this order; empty where nothing is to be done.
    """

    level: str
    text: str
    steps: tuple[str, ...] = ()


@dataclass
class Diagnosis:
    """The notes on one subject.

    Attributes:
        subject: Such as "mimic-cxr" or "model.image.weights".
        about: A word on it, such as its reader.
        notes: In the order in which they were taken.
        images: How many images a data set will put into its store, as far as known.
    """

    subject: str
    about: str = ""
    notes: list[Note] = field(default_factory=list)
    images: int = 0

    def add(self, level: str, text: str, *steps: str) -> None:
        """Take a note."""
        self.notes.append(Note(level, text, steps))

    @property
    def level(self) -> str:
        """The worst level of all notes."""
        return max((note.level for note in self.notes), key=LEVELS.index, default="ok")
