"""Finding the findings and the impression in a radiology report.

MIMIC-CXR's reports are plain text: every line starts with one space, a blank line is a lone space,
section heads are capitals with a colon, removed names are ``___``, and an addendum stands above
the report, divided from it by a line of underscores.
"""

from __future__ import annotations

import re

IMPRESSION, FINDINGS, OTHER = "impression", "findings", "other"

_DIVIDER = re.compile(r"^\s*_{8,}\s*$")
# Capitals at the start of a line, then a colon and white space: "PA AND LATERAL VIEWS OF CHEST:".
_HEAD = re.compile(r"^\s*([A-Z][A-Z0-9 ()/,.&'\"_-]{0,79}?)\s*:(?=\s|$)")
# The two that matter are known in any case; other heads in lower case are ordinary text.
_KNOWN = re.compile(
    r"^\s*((?:final |preliminary )?(?:findings?|impressions?|conclusions?)"
    r"(?:\s*(?:and|/|&)\s*(?:findings?|impressions?))?)\s*:",
    re.IGNORECASE,
)
# Heads that end the findings. Any other head inside them ("HEART:", "LINES AND TUBES:") is a
# subheading of a structured report and stays.
_ADMINISTRATIVE = re.compile(
    r"\b(?:EXAM|EXAMS|EXAMINATIONS?|STUDY|STUDIES|PROCEDURES?|TECHNIQUES?|COMPARISONS?|INDICATIONS?"
    r"|NDICATION|HISTORY|CLINICAL|REASON|INFORMATION|REPORT|NOTIFICATIONS?|RECOMMENDATIONS?"
    r"|RECOMMEND|ADDENDUM|ADDENDA|DATE|TIME|COMMENTS?|WET READ|DOSE|SIGNED|DICTATED|ATTENDING"
    r"|RADIOLOGISTS?|PHYSICIAN|ACCESSION|PATIENT|PRIOR|DIAGNOSIS|CONTRAST)\b"
)
# "CHEST, TWO VIEWS:" or "PORTABLE AP CHEST RADIOGRAPH:" with a text after it heads the findings.
_VIEW = re.compile(
    r"\b(?:CHEST|PORTABLE|UPRIGHT|SUPINE|ERECT|AP|PA|LATERAL|FRONTAL|VIEWS?|RADIOGRAPHS?"
    r"|X-?RAYS?|FILMS?|RIBS?|ABDOMEN)\b"
)


def sections(report: str) -> list[tuple[str, str]]:
    """Cut a report at its heads.

    Args:
        report: Text as distributed.

    Returns:
        (kind, text) in order; kind is "impression", "findings" or "other". The text before the
        first head is "other". Lines keep their breaks, without leading and trailing blanks, so a
        paragraph ends in an empty line.
    """
    found: list[tuple[str, list[str]]] = [(OTHER, [])]
    named = False  # whether this block of the report has a head that says "findings"
    for line in report.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if _DIVIDER.match(line):
            found.append((OTHER, []))
            named = False
            continue
        match = _KNOWN.match(line) or _HEAD.match(line)
        kind = _kind(match.group(1), found[-1][0], named) if match else None
        if match is None or kind is None:
            # A subheading begins a paragraph, so that no sentence runs across it.
            found[-1][1].extend(["", line.strip()] if match else [line.strip()])
            continue
        named = named or (kind == FINDINGS and "FINDING" in match.group(1).upper())
        found.append((kind, [line[match.end() :].strip()]))
    return [(kind, "\n".join(lines).strip()) for kind, lines in found]


def _kind(head: str, current: str, named: bool) -> str | None:
    """What a head opens; None if it is a subheading of the section that it stands in."""
    head = head.upper()
    if "IMPRESSION" in head or "CONCLUSION" in head:
        return IMPRESSION  # also "FINDINGS AND IMPRESSION"
    if "FINDING" in head:
        return FINDINGS
    if _ADMINISTRATIVE.search(head):
        return OTHER
    if current in (FINDINGS, IMPRESSION):
        return None
    if _VIEW.search(head) and not named:
        return FINDINGS
    return OTHER


def findings_and_impression(report: str) -> str:
    """The text that a report is trained on: its findings, a blank line, its impression.

    Sections that are empty count as absent. Of several the last is taken: an addendum stands above
    the report that it corrects, and a wet read above the final text.

    Args:
        report: Text as distributed.

    Returns:
        The text, "" if the report has neither section.
    """
    last: dict[str, str] = {}
    for kind, text in sections(report):
        if text:
            last[kind] = text
    return "\n\n".join(last[kind] for kind in (FINDINGS, IMPRESSION) if kind in last)
