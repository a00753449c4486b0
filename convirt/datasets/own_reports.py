"""Findings and impression of a user's own reports, however their heads are typed.

`sections` reads MIMIC-CXR as its authors do: heads in capitals, and the last of several findings,
since a correction is typed above what it corrects. Other reports repeat a head to continue ("BONE
FINDINGS:"), type "Signed by:" and have no such order. So here heads may be in upper or lower case,
are recognised by the words below, and sections of one name are joined. The lists of words are those
of docs/your-data.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from convirt.datasets import heads, sections
from convirt.datasets.heads import FINDINGS, IMPRESSION, OTHER, UNKNOWN, VIEWS

# Sections that count only if the report has no other section of that kind.
SPARE = {FINDINGS: "preliminary findings", IMPRESSION: "preliminary impression"}
ORGAN = "organ"  # "HEART:", which belongs to the findings
_TAKEN = frozenset({*SPARE, *SPARE.values()})


def _words(text: str) -> frozenset[str]:
    return frozenset(text.upper().split())


FINDINGS_WORDS = _words("finding findings")
IMPRESSION_WORDS = _words("impression impressions conclusion conclusions")
PRELIMINARY = _words("preliminary interim provisional")
# "CLINICAL FINDINGS" and "NOTIFICATION OF CRITICAL FINDINGS" do not describe the film.
NOT_ON_FILM = _words(
    "clinical prior priors previous"
    " notification notifications notified communication communicated discussed"
)
# A head with one of these words ends the findings or the impression ...
ENDS = NOT_ON_FILM | _words(
    "comparison comparisons reference"
    " history indication indications reason information diagnosis complaint patient"
    " exam exams examination examinations study studies procedure procedures"
    " technique techniques contrast dose"
    " recommendation recommendations recommend recommended follow followup plan"
    " addendum addenda wet wetread"
    " attending radiologist radiologists physician physicians doctor resident provider reader"
    " technologist radiographer transcriptionist"
    " dictated reported signed signature read interpreted transcribed typed verified approved"
    " reviewed authenticated finalized finalised authorized authorised"
    " referred requested ordered"
    " name date time dob birth mrn sex gender age accession cc"
)
# ... if its other words are among those above or these: "HISTORY OF PRESENT ILLNESS".
BESIDE = PRELIMINARY | _words(
    "a an and at by for from in of on or the to up was were with s m d md dr"
    " final report reports result results critical electronic electronically digitally"
    " chief present presenting illness medical surgical past current relevant pertinent question"
    " type number no id code description performed details data first last"
    " film films image images radiation total"
    " staff referring ordering requesting reading interpreting consulting responsible primary"
)
ORGANS = _words(
    "lung lungs pulmonary parenchyma airway airways trachea bronchi pleura pleural diaphragm"
    " heart cardiac cardiomediastinal cardiovascular mediastinum mediastinal hilum hila hilar"
    " aorta vessels vascular vasculature bone bones bony osseous skeleton skeletal spine rib ribs"
    " joint joints tissue tissues line lines tube tubes device devices"
    " liver spleen kidneys pancreas gallbladder bladder bowel stomach"
)
BESIDE_ORGANS = _words(
    "other additional left right upper lower bilateral soft support chest abdomen wall"
    " size contour contours silhouette space spaces field fields volume volumes"
)
_ALL = FINDINGS_WORDS | IMPRESSION_WORDS | ENDS | BESIDE | ORGANS | BESIDE_ORGANS
_PLAIN = FINDINGS_WORDS | IMPRESSION_WORDS | ENDS | BESIDE

_WORD = re.compile(r"[^\W\d_]+")
# The marks of `sections`, and any text that begins a line and ends with a colon, in either case.
_MARK = re.compile(
    rf"^[^\S\n]*(?:(?P<rule>{sections.RULE})[^\S\n]*$"
    rf"|(?P<bare>{sections.MAIN})[^\S\n]*(?:;|$)"
    rf"|(?P<capitals>{sections.CAPITALS})[^\S\n]*:(?=\s|$)"
    r"|(?P<head>[^\W\d_][^:\n]{0,79}):)",
    re.MULTILINE,
)


class _Part(NamedTuple):
    """The text between two heads.

    Attributes:
        name: FINDINGS, IMPRESSION, one of SPARE, ORGAN, VIEWS, OTHER or UNKNOWN.
        head: The head; "" where it says no more than the name.
        text: The lines from there to the next head.
    """

    name: str
    head: str
    text: str


def findings_and_impression(report: str) -> str:
    """The text that a user's report is trained on: its findings, a blank line, its impression.

    Sections of one name are joined in order; empty ones count as absent.

    Args:
        report: The text as the list gives it.

    Returns:
        The text; "" if the report has neither section.
    """
    found = _sections(report)
    chosen: list[str] = []
    for name, spare in SPARE.items():
        final = [text for kind, text in found if kind == name]
        chosen += final or [text for kind, text in found if kind == spare]
    return "\n\n".join(chosen)


def _sections(report: str) -> list[tuple[str, str]]:
    """Name and text of each section that has text, in order.

    A head that only names what is looked at on the film stays in the text and begins a paragraph.
    Outside the findings and the impression, an organ's head opens findings, and a head of views
    opens preliminary findings.
    """
    found: list[tuple[str, list[str]]] = [(OTHER, [])]
    for name, head, text in _parts(report):
        said = f"{head}:{text}" if head else text
        if name == UNKNOWN or (name in (ORGAN, VIEWS) and found[-1][0] in _TAKEN):
            found[-1][1].append(f"\n{said}")
        elif name == ORGAN:
            found.append((FINDINGS, [said]))
        elif name == VIEWS:
            found.append((SPARE[FINDINGS], [text]))
        else:
            found.append((name, [said if text.strip() else ""]))
    tidy = [(name, sections.tidy("".join(texts))) for name, texts in found]
    return [(name, text) for name, text in tidy if text]


def _parts(report: str) -> Iterator[_Part]:
    """Cut at every recognised head; others, such as "There is a history: none.", are text."""
    report = sections.unify_lines(report)
    name, shown, start = OTHER, "", 0
    for mark in _MARK.finditer(report):
        head = mark["bare"] or mark["capitals"] or mark["head"] or ""
        opened = OTHER if mark["rule"] else _name(head)
        if opened == UNKNOWN and not head.isupper():
            continue
        yield _Part(name, shown, report[start : mark.start()])
        name, start = opened, mark.end()
        shown = "" if opened not in (ORGAN, VIEWS, UNKNOWN) and _spoken(head) <= _PLAIN else head
    yield _Part(name, shown, report[start:])


@lru_cache(maxsize=1 << 14)
def _name(head: str) -> str:
    """What a head opens; beside "findings" or "impression" in capitals, any word may stand."""
    words, capitals = _spoken(head), head.isupper()
    if words & NOT_ON_FILM and words <= _PLAIN:
        return OTHER
    for name, own in ((IMPRESSION, IMPRESSION_WORDS), (FINDINGS, FINDINGS_WORDS)):
        if words & own and (capitals or words <= _ALL):
            return SPARE[name] if words & PRELIMINARY else name
    if words & ENDS and words <= ENDS | BESIDE:
        return OTHER
    if words & ORGANS and words <= ORGANS | BESIDE_ORGANS | BESIDE:
        return ORGAN
    return VIEWS if capitals and heads.name(head) == VIEWS else UNKNOWN


def _spoken(head: str) -> frozenset[str]:
    """The words of a head in capitals, with usual misspellings corrected."""
    return frozenset(heads.mend(word) for word in _WORD.findall(head.upper()))
