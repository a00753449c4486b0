"""Findings and impression out of reports as they are really typed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw import REPORT

from convirt.datasets.sections import FINDINGS, IMPRESSION, OTHER, findings_and_impression, sections


def lines(*texts: str) -> str:
    """A report in MIMIC's dress: every line begins with one space."""
    return "".join(f" {text}\n" for text in texts)


def test_mimic_report() -> None:
    assert findings_and_impression(REPORT) == (
        "The heart is mildly enlarged. There is no\neffusion or pneumothorax.\n\n"
        "1. Mild cardiomegaly.\n2. No pneumonia."
    )


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (lines("IMPRESSION:  No acute process."), "No acute process."),  # only an impression
        (lines("FINDINGS:", "", "Clear lungs."), "Clear lungs."),  # only findings
        (lines("CONCLUSION:  Normal chest."), "Normal chest."),
        (lines("FINDINGS AND IMPRESSION:", "Normal chest."), "Normal chest."),
        ("FINDINGS: at the very first line", "at the very first line"),
        ("Findings: Clear.\nImpression: Normal.", "Clear.\n\nNormal."),  # bring-your-own texts
        ("IMPRESSION:No blank after it.", "No blank after it."),
        (lines("FINDINGS:", "IMPRESSION:", "Normal."), "Normal."),  # an empty section is absent
        ("FINDINGS: a b c\r\nIMPRESSION: d e f\r\n", "a b c\n\nd e f"),
        ("", ""),
        (" \n \n", ""),
        (lines("EXAMINATION:  CHEST (PA AND LAT)", "", "Unchanged since ___."), ""),
        (lines("There is no head at all in here."), ""),
    ],
)
def test_which_text(report: str, expected: str) -> None:
    assert findings_and_impression(report) == expected


def test_the_last_impression_counts() -> None:
    report = lines(
        "ADDENDUM:  The IMPRESSION below was changed.",
        "IMPRESSION:  Wrong.",
        "_" * 78,
        "FINAL REPORT",
        "FINDINGS:  Right findings.",
        "IMPRESSION:  Right.",
        "",
        "RECOMMENDATION(S):  Follow up.",
    )
    assert findings_and_impression(report) == "Right findings.\n\nRight."


def test_an_addendum_below_a_divider_is_no_part_of_the_impression() -> None:
    report = lines("IMPRESSION:  Normal.", "_" * 40, "Dictated by ___.")
    assert findings_and_impression(report) == "Normal."


def test_a_deidentified_line_is_no_divider() -> None:
    assert findings_and_impression(lines("IMPRESSION:  Compared to", "___", "no change.")) == (
        "Compared to\n___\nno change."
    )


def test_subheadings_stay_in_the_findings() -> None:
    report = lines("FINDINGS:", "LUNGS: Clear.", "HEART: Normal size.", "COMPARISON:  None.")
    assert findings_and_impression(report) == "LUNGS: Clear.\n\nHEART: Normal size."


def test_a_view_heads_the_findings_where_nothing_else_does() -> None:
    report = lines("PORTABLE AP CHEST, ___:", "Clear lungs.", "IMPRESSION:  Normal.")
    assert findings_and_impression(report) == "Clear lungs.\n\nNormal."
    named = lines("CHEST, TWO VIEWS:", "HISTORY:  Cough.", "FINDINGS:  Clear.")
    assert findings_and_impression(named) == "Clear."


def test_a_colon_within_a_line_is_no_head() -> None:
    report = lines("FINDINGS:  Seen at 3:00 PM. NOTE: unchanged", "since 4:30 PM.")
    assert findings_and_impression(report) == "Seen at 3:00 PM. NOTE: unchanged\nsince 4:30 PM."


def test_kinds_in_order() -> None:
    report = lines("INDICATION:  Cough.", "FINDINGS:  Clear.", "IMPRESSION:  Normal.")
    assert sections(report) == [
        (OTHER, ""),
        (OTHER, "Cough."),
        (FINDINGS, "Clear."),
        (IMPRESSION, "Normal."),
    ]


@given(st.text(alphabet=st.sampled_from("FINDGSMPRES:. \n_1ab"), max_size=200) | st.text())
def test_any_text_is_cut_without_loss_of_words_or_order(report: str) -> None:
    """Whatever is found stands in the report, in order, save for white space."""
    squeeze = "".join(report.split())
    position = 0
    for _, text in sections(report):
        for line in text.split("\n"):
            bare = "".join(line.split())
            found = squeeze.find(bare, position)
            assert found >= 0
            position = found + len(bare)
    assert findings_and_impression(report) == findings_and_impression(report).strip()


WORDS = st.lists(st.sampled_from(["lungs", "are", "clear.", "___", "1.", "3.5 cm"]), min_size=1)


@given(findings=WORDS, impression=WORDS, wrap=st.integers(2, 6))
def test_what_is_written_under_the_heads_comes_back(
    findings: list[str], impression: list[str], wrap: int
) -> None:
    def body(words: list[str]) -> list[str]:
        return [" ".join(words[i : i + wrap]) for i in range(0, len(words), wrap)]

    report = lines("COMPARISON:  None.", "FINDINGS:", "", *body(findings), "", "IMPRESSION:",
                   "", *body(impression))  # fmt: skip
    found = re.split(r"\n\n", findings_and_impression(report))
    assert [text.split() for text in found] == [
        " ".join(findings).split(),
        " ".join(impression).split(),
    ]
