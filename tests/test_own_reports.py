"""Findings and impression of own reports: nothing read off the film is lost, no name is kept."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from convirt.datasets import own_reports, sections
from convirt.datasets.own_reports import findings_and_impression


def lines(*texts: str) -> str:
    """A report with one line per text."""
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("Findings: Clear.\nImpression: Normal.", "Clear.\n\nNormal."),
        ("IMPRESSION:No blank after it.", "No blank after it."),
        ("FINDINGS AND IMPRESSION:\nNormal chest.", "Normal chest."),
        ("FINDINGS\nClear.\nIMPRESSION;\nNormal.", "Clear.\n\nNormal."),
        ("FINDNGS: Clear.\r\nimpressoin : Normal.", "Clear.\n\nNormal."),
        ("IMPRESSION: Normal.\nFINDINGS: Clear.", "Clear.\n\nNormal."),
        ("FINDINGS:\nIMPRESSION: Normal.", "Normal."),  # an empty section is absent
        ("IMPRESSION AND RECOMMENDATION(S): Edema, see CT.", "Edema, see CT."),
        ("HISTORY: Cough.\nNo head of ours.", ""),
        ("", ""),
    ],
)
def test_which_text(report: str, expected: str) -> None:
    assert findings_and_impression(report) == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (
            lines("FINDINGS: Large right pneumothorax.", "OTHER FINDINGS: None.",
                  "IMPRESSION: See above."),
            "Large right pneumothorax.\n\nOTHER FINDINGS: None.\n\nSee above.",
        ),
        (
            lines("CARDIAC FINDINGS: Large heart.", "BONE FINDINGS: No fracture."),
            "CARDIAC FINDINGS: Large heart.\n\nBONE FINDINGS: No fracture.",
        ),
        (
            lines("Findings: Large heart.", "Impression: Big.", "Other findings: None."),
            "Large heart.\n\nOther findings: None.\n\nBig.",
        ),
        ("IMPRESSION #1: edema.\nIMPRESSION #2: effusion.", "edema.\n\neffusion."),
        (
            lines("FINDINGS: Effusion.", "IMPRESSION: Edema.", "", "EXAM: HAND",
                  "FINDINGS: Fracture.", "IMPRESSION: Broken."),
            "Effusion.\n\nFracture.\n\nEdema.\n\nBroken.",
        ),
        (
            lines("FINDINGS: Effusion.", "ADDENDUM:", "FINDINGS: A fracture as well."),
            "Effusion.\n\nA fracture as well.",
        ),
    ],
)  # fmt: skip
def test_sections_of_one_name_are_joined(report: str, expected: str) -> None:
    assert findings_and_impression(report) == expected


@pytest.mark.parametrize("first", [True, False])
def test_a_preliminary_section_counts_only_alone(first: bool) -> None:
    preliminary, final = "PRELIMINARY IMPRESSION: Normal.", "IMPRESSION: Edema."
    report = lines(*([preliminary, final] if first else [final, preliminary]))
    assert findings_and_impression(report) == "Edema."
    assert findings_and_impression(preliminary) == "Normal."


@pytest.mark.parametrize(
    "head",
    ["HEART:", "LUNGS:", "BONES:", "Right lung:", "ORAL CONTRAST:", "STUDY QUALITY:",
     "PATIENT POSITION:", "PRIOR CABG:", "TIME OF NOTE:", "ABDOMEN:", "Note:"],
)  # fmt: skip
def test_a_subheading_keeps_its_text_and_what_follows(head: str) -> None:
    report = lines("FINDINGS:", "Effusion.", f"{head} As said.", "Edema.", "IMPRESSION: Ill.")
    text = findings_and_impression(report)
    assert text.split() == f"Effusion. {head} As said. Edema. Ill.".split()


@pytest.mark.parametrize("head", ["COMPARISON: None.", "Technique: PA.", "CONTRAST: 100 ml."])
def test_organs_lead_back_to_the_findings(head: str) -> None:
    report = lines("FINDINGS: Effusion.", head, "LUNGS: Edema.", "HEART: Large.", "IMPRESSION: x.")
    assert findings_and_impression(report) == "Effusion.\n\nLUNGS: Edema.\n\nHEART: Large.\n\nx."


def test_organs_open_the_findings_where_nothing_else_does() -> None:
    report = lines("TECHNIQUE: PA.", "LUNGS: Clear.", "HEART: Large.", "IMPRESSION: Big heart.")
    expected = "LUNGS: Clear.\n\nHEART: Large.\n\nBig heart."
    assert findings_and_impression(report) == expected
    assert findings_and_impression("IMPRESSION:\nLUNGS: Edema.") == "LUNGS: Edema."


ENDING = [
    "Comparison:", "COMPARISON:", "History:", "History of present illness:", "Indication:",
    "Reason for exam:", "Technique:", "Recommendation:", "RECOMMENDATION(S):", "Follow-up:",
    "Attending:", "attending:", "ATTENDING M.D.:", "Dictated by:", "REPORTED BY:", "Signed by:",
    "Electronically signed by:", "ELECTRONICALLY SIGNED BY:", "Verified by:", "VERIFIED BY:",
    "Referring physician:", "Patient's name:", "PATIENT ID:", "Date of birth:", "Accession number:",
    "CLINICAL FINDINGS:", "Prior impression:", "NOTIFICATION OF CRITICAL FINDINGS:", "Wet read:",
]  # fmt: skip


@pytest.mark.parametrize("head", ENDING)
@pytest.mark.parametrize("section", ["Findings", "IMPRESSION"])
def test_heads_that_end_a_section(head: str, section: str) -> None:
    report = lines(f"{section}: Edema.", f"{head} DR. JOHN SMITH on 2021-03-04", "and more of it.")
    assert findings_and_impression(report) == "Edema."


def test_a_report_in_title_case() -> None:
    report = lines(
        "Indication: Cough.", "Technique: PA and lateral.", "Findings: Clear lungs.",
        "Comparison: None.", "Impression: Normal.", "Recommendation: CT in 3 months.",
        "Electronically signed by: Dr. Smith on 2021-03-04",
    )  # fmt: skip
    assert findings_and_impression(report) == "Clear lungs.\n\nNormal."


@pytest.mark.parametrize(
    "line",
    [
        "Large heart: seen.",
        "There is a history: none.",
        "Seen at 3:00 PM.",
        "Clear. History: none.",
    ],
)
def test_other_lines_with_a_colon_are_text(line: str) -> None:
    report = lines("Findings: Clear.", line, "Edema.")
    assert findings_and_impression(report) == f"Clear.\n{line}\nEdema."


def test_views_head_the_findings_where_nothing_else_does() -> None:
    head = "PORTABLE AP CHEST, ___ AT 6:45 A.M.:"
    report = lines(head, "Clear lungs.", "IMPRESSION:  Normal.")
    assert findings_and_impression(report) == "Clear lungs.\n\nNormal."
    named = lines("CHEST, TWO VIEWS:", "As requested.", "FINDINGS:  Clear.")
    assert findings_and_impression(named) == "Clear."


def test_a_line_of_underscores_ends_a_section() -> None:
    assert findings_and_impression(lines("IMPRESSION: Normal.", "_" * 40, "Dr. Smith")) == "Normal."


def test_the_page_lists_the_words() -> None:
    page = (ROOT / "docs" / "your-data.md").read_text()
    (block,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    told: list[tuple[str, frozenset[str]]] = []
    for line in filter(None, block.splitlines()):
        name, before = line[:13].strip(), frozenset[str]()
        if not name:
            name, before = told.pop()
        told.append((name, before | set(line[13:].upper().split())))
    assert told == [
        ("findings", own_reports.FINDINGS_WORDS),
        ("impression", own_reports.IMPRESSION_WORDS),
        ("ends them", own_reports.ENDS),
        ("beside it", own_reports.BESIDE),
        ("organ", own_reports.ORGANS),
        ("beside it", own_reports.BESIDE_ORGANS),
    ]


def test_mimic_reports_keep_the_rules_of_their_authors() -> None:
    report = lines("IMPRESSION: Edema.", "IMPRESSION: Normal.", "Signed by: ___")
    assert sections.findings_and_impression(report) == "Normal.\nSigned by: ___"
    assert findings_and_impression(report) == "Edema.\n\nNormal."


HEADS = st.sampled_from(
    ["FINDINGS", "Impression", "IMPRESSION #2", "OTHER FINDINGS", "HEART", "NOTE", "Lungs"]
)
BODY = st.lists(st.sampled_from(["clear.", "3:00", "___", "Edema seen", ""]), max_size=4)


@given(st.lists(st.tuples(HEADS, BODY), min_size=1))
def test_no_word_is_lost_where_nothing_ends_a_section(parts: list[tuple[str, list[str]]]) -> None:
    """All words of the sections after a first FINDINGS come back."""
    report = lines("FINDINGS: First.", *(lines(f"{head}: x", *body) for head, body in parts))
    found = findings_and_impression(report).split()
    wanted = " ".join(f"x {' '.join(body)}" for _, body in parts).split()
    assert [word for word in sorted(found) if word in set(wanted)] == sorted(wanted)


@given(st.text(alphabet=st.sampled_from("FINDGSMPRES:. \n_1ab"), max_size=200) | st.text())
def test_any_text_is_read(report: str) -> None:
    text = findings_and_impression(report)
    assert text == text.strip()
    squeezed = "".join(report.split())
    assert all("".join(line.split()) in squeezed for line in text.split("\n"))
