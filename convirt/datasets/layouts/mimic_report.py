"""The form of a MIMIC-CXR report: heads, blanks, marks, addenda.

ASCII, lines under 80 characters, each beginning with ONE space (a blank line is a lone space);
"FINAL REPORT" is centred; heads are capitals with a colon; removed words are "___"; an addendum
or a wet read stands above the report, separated from it by a line of underscores.
"""

from __future__ import annotations

import re
import textwrap

import numpy as np

from convirt.datasets.layouts._tools import pick

EMPTY = 0.005  # share of reports with neither findings nor impression

_WIDTH = 78
_RULE = " " + "_" * _WIDTH
_TITLE = " " * 33 + "FINAL REPORT"
_FINDINGS = {
    "FINDINGS:": 0.94,
    "CHEST, TWO VIEWS:": 0.03,
    "PA AND LATERAL CHEST:": 0.03,
}
_IMPRESSION = {"IMPRESSION:": 0.96, "CONCLUSION:": 0.04}
# None of these says what is on the film.
_INDICATIONS = (
    "___F with cough and fever.  // eval for pneumonia",
    "___M with shortness of breath, evaluate for acute process.",
    "History: ___M with chest pain  // acute cardiopulm process?",
    "___ year old woman with hypoxia.  // interval change",
    "___-year-old man status post fall.",
    "___F with weakness, now with leukocytosis.  // ?infiltrate",
    "Preoperative evaluation.",
)
_COMPARISONS = (
    "___.",
    "None.",
    "Chest radiograph from ___.",
    "Multiple prior radiographs, most recent on ___.",
)


def write_report(rng: np.random.Generator, procedure: str, findings: str, impression: str) -> str:
    """Lay a report out.

    Args:
        rng: Source of all randomness.
        procedure: Text under the EXAMINATION head, as in the metadata's procedure column.
        findings: Text, or "" for a report without that section.
        impression: Likewise.

    Returns:
        The file's text. A few reports (`EMPTY`) have neither section, some of these no text at all.
    """
    if rng.random() < EMPTY:
        if rng.random() < 0.4:
            return ""
        findings = impression = ""
    paragraphs = [*_opening(rng, procedure), *_body(rng, findings, impression)]
    lines = [_TITLE, *_above(rng, impression), *_join(paragraphs)]
    if len(lines) > 1 and lines[1].startswith(" WET READ"):
        lines = lines[1:]  # a wet read comes before the first title
    return "\n".join(lines) + "\n"


def _opening(rng: np.random.Generator, procedure: str) -> list[str]:
    """The heads before the findings."""
    indication = str(rng.choice(_INDICATIONS))
    views = "PA and lateral" if "LAT" in procedure else "Portable AP"
    parts = [
        (0.85, f"EXAMINATION:  {procedure}"),
        (0.9, f"INDICATION:  {indication}"),
        (0.6, f"TECHNIQUE:  {views} views of the chest were obtained."),
        (0.8, f"COMPARISON:  {rng.choice(_COMPARISONS)}"),
    ]
    kept = [text for share, text in parts if rng.random() < share]
    return kept or [parts[1][1]]


def _body(rng: np.random.Generator, findings: str, impression: str) -> list[str]:
    """Findings, impression and, rarely, a notification."""
    paragraphs: list[str] = []
    for heads, text in ((_FINDINGS, findings), (_IMPRESSION, impression)):
        head, alone = pick(rng, heads), rng.random() < 0.5
        if not text:
            continue
        if heads is _IMPRESSION and rng.random() < 0.2:
            text = _numbered(text)
        paragraphs += [f"{head} ", text] if alone or "\n" in text else [f"{head}  {text}"]
    if impression and rng.random() < 0.05:
        told = "The findings were discussed with Dr. ___ by telephone at ___ on ___."
        paragraphs.append(f"NOTIFICATION:  {told}")
    return paragraphs


def _numbered(text: str) -> str:
    """One numbered line per sentence; a lone sentence stays as it is."""
    sentences = re.split(r"(?<=\.) (?=[A-Z])", text)
    if len(sentences) < 2:
        return text
    return "\n".join(f"{i}.  {sentence}" for i, sentence in enumerate(sentences, start=1))


def _above(rng: np.random.Generator, impression: str) -> list[str]:
    """An addendum or a wet read, the rule and the report's title; mostly just a blank line."""
    kind = pick(rng, {"": 0.95, "addendum": 0.03, "wet read": 0.02})
    first = re.split(r"(?<=\.) ", impression)[0]
    if kind == "addendum":
        told = "ADDENDUM:  Findings were communicated to Dr. ___ by telephone at ___."
        return [*_join([told]), _RULE, _TITLE, " "]
    if kind == "wet read" and first:
        head = " WET READ: ___ ___ 6:43 PM"
        return [
            head,
            *(f"  {line}" for line in textwrap.wrap(first, _WIDTH - 1)),
            " WET READ VERSION #1",
            _RULE,
            _TITLE,
            " ",
        ]
    return [" "]


def _join(paragraphs: list[str]) -> list[str]:
    """Wrap paragraphs; every line begins with a space, and a lone space separates paragraphs."""
    lines: list[str] = []
    for paragraph in paragraphs:
        for line in paragraph.split("\n"):
            # A head on its own keeps the blank after its colon, as in the real files.
            lines += [f" {part}" for part in textwrap.wrap(line, _WIDTH, drop_whitespace=True)]
        if paragraph.endswith(": "):
            lines[-1] += " "
        lines.append(" ")
    return lines[:-1]
