"""Cutting a report into sentences, adapted to how radiology reports are typed."""

from __future__ import annotations

import re
from itertools import islice

# "Dr. Smith", "vs. the prior", "e.g. edema": a full stop after these never ends a sentence.
_NEVER = {"dr", "drs", "mr", "mrs", "ms", "prof", "vs", "cf", "approx", "ca", "resp"}
_NEVER |= {"fig", "figs", "eg", "e.g", "ie", "i.e", "incl", "dept", "st"}
# After these it ends one only before a capital: "3 p.m. Findings were", not "3 p.m. by phone".
_BEFORE_CAPITAL = {"am", "pm", "etc", "md", "inc", "jr", "sr", "al", "hr", "hrs", "min"}
# "3 p.m.", "___, R.N.", "M.D.": letters with stops between them are treated in the same way.
_INITIALS = re.compile(r"(?:[a-z]\.)+[a-z]$")
_TITLES = {"dr", "drs", "mr", "mrs", "ms", "prof"}

# A stop, its closing marks, and white space; or a stop glued to the next word ("seen.The").
# Only the first of several stops is tried, or a long row of them would take its length squared.
_STOP = re.compile(r"(?<![.!?])[.!?]+[\"')\]]*(?=\s|$)|(?<=[a-z]{2})\.(?=[A-Z][a-z])")
_PARAGRAPH = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
# A line that begins with "2.", "2.Edema", "(2)", "- " or "Heart: " is a new item, whatever ended
# the line before.
_ITEM_LINE = re.compile(
    r"\n[ \t]*(?=(?:\(?\d{1,2}[.)]|[-*•])[ \t]+\S|\d{1,2}[.)][A-Z][a-z]"
    r"|[A-Z][a-z]+(?:[ /,&-]+[A-Za-z]+){0,4}:\s)"
)
_ITEM_MARK = re.compile(r"^(?:(?:\(?\d{1,2}[.)]|[-*•])(?:\s+|$)|\d{1,2}[.)](?=[A-Z][a-z]))+")
# "1. No effusion 2. Edema": items on one line without full stops.
_FIRST_ITEM = re.compile(r"\(?(\d{1,2})[.)]\s")
_NEXT_ITEM = re.compile(r"(?<=\s)\(?(\d{1,2})[.)]\s+(?=[A-Z])")
_BARE_NUMBER = re.compile(r"^\(?\d{1,2}$")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NEAR = 200  # characters on each side of a stop that decide whether it ends a sentence
_LETTER = re.compile(r"[^\W\d_]")


def tokens(text: str, limit: int | None = None) -> list[str]:
    """Words and single punctuation marks, the unit of the paper's "less than 3 tokens".

    Args:
        text: Any text.
        limit: The most tokens to return; None for all.
    """
    return [match.group() for match in islice(_TOKEN.finditer(text), limit)]


def has_word(text: str) -> bool:
    """Whether there is a letter in `text`; if so, `split` finds at least one sentence in it."""
    return _LETTER.search(text) is not None


def split(text: str) -> list[str]:
    """The sentences of a text: those of its `pieces` that hold a word.

    Args:
        text: A report, or part of one.

    Returns:
        Sentences in order, each on one line with single spaces.
    """
    return [piece for piece in pieces(text) if has_word(piece)]


def pieces(text: str) -> list[str]:
    """Cut a text at the ends of its sentences.

    A blank line and the start of a list item always end a sentence; a single line break never
    does (reports are wrapped at 80 characters). Enumeration marks ("1.") are removed; decimals,
    titles, abbreviations and the de-identification mark ``___`` stay whole.

    Args:
        text: A report, or part of one.

    Returns:
        Pieces in order, none empty; some may hold no word ("___.").
    """
    found: list[str] = []
    for paragraph in _PARAGRAPH.split(text.replace("\r\n", "\n").replace("\r", "\n")):
        for item in _ITEM_LINE.split(paragraph):
            for line in _items(" ".join(item.split())):
                found += _cut(line)
    return found


def _items(line: str) -> list[str]:
    """Cut "1. No effusion 2. Edema" before each number that is one more than the last."""
    first = _FIRST_ITEM.match(line)
    if first is None:
        return [line]
    found, start, number = [], 0, int(first[1])
    for mark in _NEXT_ITEM.finditer(line):
        if int(mark[1]) == number + 1:
            found.append(line[start : mark.start()])
            start, number = mark.start(), number + 1
    return [*found, line[start:]]


def _cut(line: str) -> list[str]:
    """Cut one line of running text."""
    found, start = [], 0
    for stop in _STOP.finditer(line):
        if stop.start() >= start and _ends(line, start, stop):
            found.append(line[start : stop.end()])
            start = stop.end()
    found.append(line[start:])
    bare = (_ITEM_MARK.sub("", piece.strip()).strip() for piece in found)
    return [piece for piece in bare if piece]


def _ends(line: str, start: int, stop: re.Match[str]) -> bool:
    """Whether the stop at `stop` ends the sentence that began at `start`."""
    # no more than needed, or a long text without an end would be read again for each stop
    before = line[max(start, stop.start() - _NEAR) : stop.start()]
    after = line[stop.end() : stop.end() + _NEAR].lstrip()
    if not after or stop.group()[0] != ".":
        return True
    words = before.split()
    if not words:
        return False
    word = words[-1].lstrip("([\"'").lower()
    if word in _NEVER:
        return False
    if word in _BEFORE_CAPITAL or _INITIALS.match(word):
        return after[0].isupper()
    if word == "no":
        return not after[0].isdigit()  # "No. 2 of 3"
    if len(word) == 1 and word.isalpha() and len(words) > 1:
        # "Dr. J. Smith"; but "hepatitis C. The" ends.
        previous = words[-2].rstrip(".").lower()
        initial = len(previous) == 1 and previous.isalpha() and words[-2].endswith(".")
        if previous in _TITLES or initial:
            return False
    if _BARE_NUMBER.match(word):
        # "1. No effusion" (a mark of enumeration) and "3. 2 cm" (a torn decimal).
        marks_only = all(_ITEM_MARK.match(f"{word} ") for word in words[:-1])
        return not marks_only and not after[0].isdigit()
    return True
