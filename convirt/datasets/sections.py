"""Finding the findings and the impression in a radiology report.

MIMIC-CXR's reports are plain text: every line starts with one space, a blank line is a lone space,
section heads are capitals with a colon, removed names are ``___``, and an addendum or a wet read
stands above the report, separated from it by a line of underscores.

`own_reports`, which has other rules, reads a user's own reports.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from convirt.datasets import heads
from convirt.datasets.heads import FINDINGS, IMPRESSION, OTHER

MAIN = (
    r"(?:FINDINGS?|IMPRESSIONS?|CONCLUSIONS?)"
    r"(?:[ \t]*(?:AND|/|&)[ \t]*(?:FINDINGS?|IMPRESSIONS?))?"
)
# Where one block of a report ends and the next begins: a line of underscores, or a title.
RULE = r"_{8,}|(?:(?:FINAL|PRELIMINARY|INTERIM|PROVISIONAL)[ \t]+)?(?:REPORT|ADDENDUM)"
# A head in capitals: "PA AND LATERAL VIEWS, ___ AT 8:45 A.M.".
CAPITALS = r"[A-Z](?:[A-Z0-9 \t()/,.&'\"_#+*?@\[\]-]|:(?=\d)){0,79}?"
# The marks of a report, each at the start of a line, tried in this order:
# - a rule, alone on its line;
# - the two sections that matter, in upper or lower case: "Findings:" (other lower case is text, and
#   so is "findings:" inside a paragraph: a sentence was wrapped before the word);
# - the same in capitals without a colon, "IMPRESSION" alone on its line or "IMPRESSION;";
# - capitals, then a colon and white space.
_MARK = re.compile(
    rf"^[^\S\n]*(?:(?P<rule>{RULE})[^\S\n]*$"
    rf"|(?P<main>(?i:(?:FINAL[ \t]+|PRELIMINARY[ \t]+)?{MAIN}))[^\S\n]*:"
    rf"|(?P<bare>{MAIN})[^\S\n]*(?:;|$)"
    rf"|(?P<head>{CAPITALS})[^\S\n]*:(?=\s|$))",
    re.MULTILINE,
)


class Section(NamedTuple):
    """One section: its name (see `heads`) and its text, without leading and trailing blanks."""

    name: str
    text: str


class _Part(NamedTuple):
    """The text between two marks.

    Attributes:
        head: The head; None before the first mark and after a rule.
        text: The lines from there to the next mark.
    """

    head: str | None
    text: str


def sections(report: str) -> list[Section]:
    """Cut a report into its sections.

    A head inside the findings or the impression that opens no known section ("HEART:", "LINES AND
    TUBES:") is a subheading: it begins a paragraph and stays in the text, as in the report.

    Args:
        report: Text as distributed.

    Returns:
        Sections in order; text before the first head of a block is OTHER. Lines keep their breaks
        but lose leading and trailing blanks, so an empty line ends a paragraph.
    """
    found: list[tuple[str, list[str]]] = []
    named = False  # whether this block of the report has a head that says "findings"
    for head, text in _parts(report):
        if head is None:
            found.append((OTHER, [text]))
            named = False
            continue
        name = heads.name(head)
        if name in (heads.VIEWS, heads.UNKNOWN) and found[-1][0] in (FINDINGS, IMPRESSION):
            found[-1][1].append(f"\n{head}:{text}")
            continue
        named = named or name == FINDINGS
        if name == heads.VIEWS:
            name = OTHER if named else FINDINGS
        found.append((name or OTHER, [text]))
    return [Section(name, tidy("".join(texts))) for name, texts in found]


def headed(report: str, name: str) -> str:
    """The text under the last head of that name, up to the next head of any kind; "" if none.

    Args:
        report: Text as distributed.
        name: A name of `heads`, or the words of any other head ("note").
    """
    last = ""
    for head, text in _parts(report):
        if head is not None and name in (heads.name(head), head.lower()):
            last = tidy(text)
    return last


def findings_and_impression(report: str) -> str:
    """The text that a report is trained on: its findings, a blank line, its impression.

    Empty sections count as absent. Of several sections of one name the last is taken: an addendum
    stands above the report that it corrects, and a wet read above the final text.

    Args:
        report: Text as distributed.

    Returns:
        The text; "" if the report has neither section.
    """
    last = {name: text for name, text in sections(report) if text}
    return "\n\n".join(last[name] for name in (FINDINGS, IMPRESSION) if name in last)


def last_paragraph(report: str) -> str:
    """What follows the first blank line of the last section; else the text of the comparison.

    If a report has neither findings nor impression, the reading is often there. These are the
    fallbacks of MIMIC-CXR's authors (MIT-LCP/mimic-cxr, txt/create_section_files.py).

    Args:
        report: Text as distributed.

    Returns:
        The text; "" if there is none.
    """
    found = [section for section in sections(report) if section.text]
    if not found:
        return ""
    _, _, text = found[-1].text.partition("\n\n")
    compared = [section.text for section in found if section.name == heads.COMPARISON]
    return text.strip() or (compared[-1] if compared else "")


def _parts(report: str) -> list[_Part]:
    """Cut at every mark; the first part has no head."""
    report = unify_lines(report)
    parts, head, start = [], None, 0
    for mark in _MARK.finditer(report):
        if (mark["main"] or "").islower() and not _opens_a_paragraph(report, mark.start()):
            continue
        parts.append(_Part(head, report[start : mark.start()]))
        head = mark["main"] or mark["bare"] or mark["head"]
        start = mark.end()
    return [*parts, _Part(head, report[start:])]


def _opens_a_paragraph(report: str, start: int) -> bool:
    """Whether the line before the one at `start` is blank, or a rule, or there is none."""
    end = start - 1
    line = report[report.rfind("\n", 0, end) + 1 : end].strip() if start else ""
    return not line or re.fullmatch(RULE, line) is not None


def unify_lines(report: str) -> str:
    """The report with one character for each line end, whatever system wrote it."""
    return report.replace("\r\n", "\n").replace("\r", "\n")


def tidy(text: str) -> str:
    """The text with blanks stripped from its start and end, and from those of each line."""
    return "\n".join(line.strip() for line in text.split("\n")).strip()
