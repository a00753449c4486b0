"""The journal of a piece: one line a block of rows that is decoded, so that a kill loses a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from convirt.datasets.squares import Block, Packed

NAME = "journal.jsonl"


def line(block: Block) -> bytes:
    """A block as one line of JSON."""
    results = [[r.reason, r.converted, *r.box] for r in block.results]
    value = {"check": block.check, "first": block.first, "results": results, "stamp": block.stamp}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def read(folder: Path) -> dict[int, Block]:
    """First row -> finished block, the last of those that were decoded twice; mends a torn end."""
    path = folder / NAME
    data = path.read_bytes() if path.is_file() else b""
    blocks = {block.first: block for block in _parse(data)}
    if data and not data.endswith(b"\n"):  # killed inside a line: the next shall start its own
        with path.open("ab") as file:
            file.write(b"\n")
    return blocks


def _parse(data: bytes) -> Iterator[Block]:
    for text in data.splitlines():
        try:
            value = json.loads(text)
            results = []
            for reason, converted, top, left, height, width in value["results"]:
                results.append(Packed(reason, converted, (top, left, height, width)))
            yield Block(value["first"], results, value["stamp"], value["check"])
        except (ValueError, KeyError, TypeError):
            continue  # torn, so not finished
