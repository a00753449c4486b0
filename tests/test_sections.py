"""Findings and impression out of reports as they are really typed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw import REPORT

from convirt.datasets import heads
from convirt.datasets.heads import FINDINGS, IMPRESSION, OTHER
from convirt.datasets.sections import findings_and_impression, headed, last_paragraph, sections


def lines(*texts: str) -> str:
    """A report as MIMIC formats it: every line begins with one space."""
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
    after = lines("FINDINGS:  Clear.", "TECHNIQUE:  None.", "CHEST, TWO VIEWS:", "As requested.")
    assert findings_and_impression(after) == "Clear."


def test_a_colon_within_a_line_is_no_head() -> None:
    report = lines("FINDINGS:  Seen at 3:00 PM. NOTE: unchanged", "since 4:30 PM.")
    assert findings_and_impression(report) == "Seen at 3:00 PM. NOTE: unchanged\nsince 4:30 PM."


def test_sections_in_order() -> None:
    report = lines("INDICATION:  Cough.", "FINDINGS:  Clear.", "IMPRESSION:  Normal.")
    assert sections(report) == [
        (OTHER, ""),
        ("indication", "Cough."),
        (FINDINGS, "Clear."),
        (IMPRESSION, "Normal."),
    ]


MISSPELT = {  # all that MIMIC-CXR's authors list (txt/section_parser.py)
    IMPRESSION: "IMPRESSON IMPRRESSION IMORESSION IMPRESSOIN IMPRSSION IMPRESION IMPERSSION"
    " MPRESSION IMPESSION",
    FINDINGS: "FINDING FINDINS FINDINDGS FINDGINGS FINDNGS FINDNINGS FINIDNGS",
    "comparison": "COMPARISION COMPARSION COMPARRISON COMPARISIONS",  # codespell:ignore
    "indication": "NDICATION IDICATION",  # codespell:ignore
}


@pytest.mark.parametrize(
    ("word", "name"), [(word, name) for name, words in MISSPELT.items() for word in words.split()]
)
def test_misspelt_heads(word: str, name: str) -> None:
    assert heads.name(word) == name
    # "ndication" was taken for an impression by the authors' table
    report = lines("EXAMINATION:  CHEST", f"{word}:  What stands here.")
    wanted = "What stands here." if name in (FINDINGS, IMPRESSION) else ""
    assert findings_and_impression(report) == wanted


@pytest.mark.parametrize("word", ["COMPRESSION", "DEPRESSION", "BINDING", "STORY", "INDICATOR"])
def test_other_words_are_not_mended(word: str) -> None:
    assert heads.mend(word) == word


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("FINDINGS/ IMPRESSION", IMPRESSION),
        ("CONCLUSION", IMPRESSION),
        ("REFERENCE FINDINGS", FINDINGS),
        ("REASON FOR EXAM", "indication"),
        ("CLINICAL INDICATION", "indication"),
        ("CLINICAL INFORMATION", "history"),
        ("PFI", "history"),
        ("REFERENCE EXAM", "comparison"),
        ("COMPARISON FILM", "comparison"),
        ("TYPE OF EXAMINATION", "examination"),
        ("RECOMMENDATION(S)", "recommendations"),
        ("WETREAD", "wet read"),
        ("NOTIFICATION OF CRITICAL FINDINGS", "notification"),
        ("FINDINGS DISCUSSED WITH", "notification"),
        ("IMPRESSION WAS CONVEYED BY PHONE", "notification"),
        ("CHEST, TWO VIEWS", heads.VIEWS),
        ("PORTABLE CHEST STUDY", heads.VIEWS),
        ("2 X-RAYS", heads.VIEWS),
        ("REASON FOR CHEST X-RAY", "indication"),
        ("STUDY DATE", "examination"),
        ("LINES AND TUBES", heads.UNKNOWN),
        ("", heads.UNKNOWN),
    ],
)
def test_what_a_head_opens(head: str, name: str) -> None:
    assert heads.name(head) == name


@pytest.mark.parametrize(
    "head",
    [
        "CHEST, 2 VIEWS:",  # digits
        "PORTABLE CHEST, ___ AT 6:45 A.M.:",  # a colon that ends no head
        'AP & LATERAL CHEST (#2, "UPRIGHT"):',
    ],
)
def test_heads_with_digits_and_other_marks(head: str) -> None:
    report = lines("INDICATION:  Cough.", "", head, "Clear lungs.")
    assert findings_and_impression(report) == "Clear lungs."


@pytest.mark.parametrize("head", ["IMPRESSION", "IMPRESSION;", "IMPRESSION :", "Impression:"])
def test_a_main_head_without_a_proper_colon(head: str) -> None:
    report = lines("FINDINGS", "Clear lungs.", head, "Normal.", "The IMPRESSION stands.")
    assert findings_and_impression(report) == "Clear lungs.\n\nNormal.\nThe IMPRESSION stands."


def test_a_word_in_capitals_inside_a_line_is_no_head() -> None:
    report = lines("FINDINGS:  The", "IMPRESSION of the", "Findings are old.")
    assert findings_and_impression(report) == "The\nIMPRESSION of the\nFindings are old."


def test_a_wet_read_above_and_an_addendum_below() -> None:
    report = lines(
        "WET READ: ___ ___ 6:43 PM", "  Wrong.", "IMPRESSION:  Wrong as well.", "_" * 78,
        " " * 32 + "FINAL REPORT", "FINDINGS:  Right.", "IMPRESSION:  Normal.",
        "WETREAD VERSION 2:  Wrong.", " " * 32 + "FINAL ADDENDUM", "Called Dr. ___.",
    )  # fmt: skip
    assert findings_and_impression(report) == "Right.\n\nNormal."


def test_an_addendum_without_a_colon_ends_the_impression() -> None:
    report = lines("IMPRESSION:  Normal.", "ADDENDUM", "Called Dr. ___.")
    assert findings_and_impression(report) == "Normal."


def test_a_title_above_the_history_is_no_findings() -> None:
    """The first flaw that MIMIC-CXR's authors name: "CHEST, PA LATERAL:" with nothing below."""
    report = lines("CHEST, PA LATERAL:", "", "INDICATION:  Cough.", "IMPRESSION:  Normal.")
    assert findings_and_impression(report) == "Normal."


def test_the_last_paragraph() -> None:
    report = lines("EXAMINATION:  CHEST", "", "Clear lungs.", "No effusion.", "", "Normal.")
    assert last_paragraph(report) == "Clear lungs.\nNo effusion.\n\nNormal."
    compared = lines("COMPARISON:  ___. Clear lungs.", "INDICATION:  Cough.")
    assert last_paragraph(compared) == "___. Clear lungs."
    assert last_paragraph(lines("INDICATION:  Cough.")) == last_paragraph("") == ""


def test_findings_inside_a_sentence_open_no_section() -> None:
    report = lines("FINDINGS: The heart is large. Dr. ___ agreed with these", "findings: edema.")
    assert findings_and_impression(report).startswith("The heart is large.")
    assert findings_and_impression(report).endswith("findings: edema.")
    for before in ([""], ["_" * 60], []):
        assert findings_and_impression(lines(*before, "findings: Clear.")) == "Clear."


def test_critical_findings_are_no_findings() -> None:
    report = lines("FINDINGS: Clear.", "IMPRESSION: Normal.", "CRITICAL FINDINGS: none")
    assert findings_and_impression(report) == "Clear.\n\nNormal."


def test_headed() -> None:
    report = lines("NOTE:  Old.", "FINDINGS:  x", "NOTE:  New", "text.", "HEART:  Large.")
    assert headed(report, "note") == "New\ntext."
    assert headed(report, "technique") == ""
    assert headed(lines("REASON FOR EXAM:  Cough."), "indication") == "Cough."


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
    last_paragraph(report)


HEADS = st.sampled_from(["FINDINGS", "IMPRESSION", "CHEST, 2 VIEWS", "WET READ", "Findings", "A"])


@given(st.lists(st.tuples(HEADS | st.text(max_size=9), st.sampled_from(":;. \n"), st.text())))
def test_random_heads(parts: list[tuple[str, str, str]]) -> None:
    report = lines(*(head + mark + text for head, mark, text in parts))
    names = {section.name for section in sections(report)}
    assert bool(findings_and_impression(report)) <= bool(names & {FINDINGS, IMPRESSION})


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
