"""A data set as the parameters describe it: what the doctor has to check."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from convirt.datasets import registry
from convirt.datasets.splits import Split
from convirt.doctor import catalogue
from convirt.doctor.catalogue import Facts
from convirt.errors import InputError

if TYPE_CHECKING:
    from convirt.params import Task


@dataclass(frozen=True)
class Use:
    """What a set is used for.

    Attributes:
        key: The parameter that names it, such as "tasks.rsna".
        kind: "pairs", "labels" or "retrieval".
        labels: Label columns that the set must have.
        splits: Splits that the set must have; empty stands for those that its kind needs.
        batch: For pairs: the key of the largest batch, and its size.
        task: For labels: how they are scored; None if that does not matter.
        most: For a retrieval set: the key of the number of candidates asked for, and that number.
        blind: Likewise: the systems without a text encoder.
    """

    key: str
    kind: str
    labels: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    batch: tuple[str, int] = ("train.batch_size", 0)
    task: Task | None = None
    most: tuple[str, int] = ("retrieval.k", 0)
    blind: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """A data set as the parameters describe it.

    Attributes:
        name: Name of the source.
        reader: Name of the reader, and so of the layout.
        root: The root as written, with variables.
        split: Seed and sizes.
        options: The reader's switches.
        uses: What the parameters use the set for.
        made_up: Whether the pipeline draws the set, so that official counts do not apply.
        maker: A path as written -> the command that makes it; "" if it is a path of the pipeline
            that nothing makes; None for a path of the user.
        max_dropped: Share of the images that may be missing.
        fault: Why the list that `split_file` names cannot be used, if so.
    """

    name: str
    reader: str
    root: str
    split: Split = field(default_factory=lambda: Split(0))
    options: Mapping[str, Any] = field(default_factory=dict)
    uses: tuple[Use, ...] = ()
    made_up: bool = False
    maker: Callable[[str], str | None] = lambda text: None
    max_dropped: float = 0.0
    fault: InputError | None = None

    @property
    def facts(self) -> Facts | None:
        """What is officially known about the set of this reader; None if nothing."""
        return catalogue.FACTS.get(self.reader)

    @property
    def module(self) -> Any:
        """The reader's module."""
        return sys.modules[registry.READERS[self.reader].__module__]
