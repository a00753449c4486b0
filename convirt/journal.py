"""The journal of a piece: one line per decoded block of rows, so that a kill loses one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from convirt.datasets.squares import Block, Packed

NAME = "journal.jsonl"


def line(block: Block) -> bytes:
    """A block as one line of JSON."""
    results = [[r.reason, r.converted, *r.box, int(r.dark)] for r in block.results]
    value = {"check": block.check, "first": block.first, "results": results, "stamp": block.stamp}
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def read(folder: Path) -> dict[int, Block]:
    """First row -> finished block, the latest if decoded twice; repairs an incomplete last line."""
    path = folder / NAME
    data = path.read_bytes() if path.is_file() else b""
    blocks = {block.first: block for block in _parse(data)}
    if data and not data.endswith(b"\n"):  # killed within a line: the next starts a new one
        with path.open("ab") as file:
            file.write(b"\n")
    return blocks


def _parse(data: bytes) -> Iterator[Block]:
    for text in data.splitlines():
        try:
            value = json.loads(text)
            results = []
            for reason, converted, top, left, height, width, dark in value["results"]:
                box = (top, left, height, width)
                results.append(Packed(reason, converted, box, bool(dark)))
            yield Block(value["first"], results, value["stamp"], value["check"])
        except (ValueError, KeyError, TypeError):
            continue  # incomplete, so not finished
