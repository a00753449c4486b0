"""Sentences out of reports: what ends one and what does not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convirt.datasets.sentences import has_word, pieces, split, tokens


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No effusion. No edema.", ["No effusion.", "No edema."]),
        ("1. No effusion. 2. Edema.", ["No effusion.", "Edema."]),
        ("1. One\n 2. Two\n 3. Three", ["One", "Two", "Three"]),  # no full stops
        ("1) One\n2) Two", ["One", "Two"]),
        ("1. One 2. Two", ["One", "Two"]),  # on one line
        ("(1) One\n(2) Two (3) Three", ["One", "Two", "Three"]),
        ("1.One. 2.Two\n3.Three", ["One.", "Two", "Three"]),
        ("1. See image 3. Stable", ["See image 3.", "Stable"]),  # no 2 before it
        ("Lungs: clear\n Heart and aorta: normal", ["Lungs: clear", "Heart and aorta: normal"]),
        ("No change in the\n lungs: still clear", ["No change in the lungs: still clear"]),
        ("A .5 cm nodule, and 2.5 cm.", ["A .5 cm nodule, and 2.5 cm."]),
        ("A St. Jude pacemaker. Clear.", ["A St. Jude pacemaker.", "Clear."]),
        ("Told ___, R.N. by phone. So.", ["Told ___, R.N. by phone.", "So."]),
        ("A 1.5 cm nodule at T12. Stable.", ["A 1.5 cm nodule at T12.", "Stable."]),
        ("Torn 3. 2 cm decimal.", ["Torn 3. 2 cm decimal."]),
        ("Discussed with Dr. ___ by phone. Clear.", ["Discussed with Dr. ___ by phone.", "Clear."]),
        ("Per Dr. J. Smith, stable.", ["Per Dr. J. Smith, stable."]),
        ("Hepatitis C. The liver is large.", ["Hepatitis C.", "The liver is large."]),
        ("Better vs. prior, e.g. edema.", ["Better vs. prior, e.g. edema."]),
        ("At 3 p.m. by phone. At 4 p.m. It was.", ["At 3 p.m. by phone.", "At 4 p.m.", "It was."]),
        ("Compared to ___. No change.", ["Compared to ___.", "No change."]),
        ("A line\n that wraps.\n \n A paragraph", ["A line that wraps.", "A paragraph"]),
        ("Glued here.There is more.", ["Glued here.", "There is more."]),
        ("Is it free? No. Yes!", ["Is it free?", "No.", "Yes!"]),
        ("lower case. goes on.", ["lower case.", "goes on."]),
        ("___. 12. ...", []),
        ("No acute process", ["No acute process"]),
        ("- item one\r\n- item two", ["item one", "item two"]),
        ("", []),
    ],
)
def test_split(text: str, expected: list[str]) -> None:
    assert split(text) == expected


def test_a_long_row_of_stops_takes_no_longer_than_other_text() -> None:
    assert split(f"a {'.' * 200_000}b") == [f"a {'.' * 200_000}b"]  # minutes, if in its square
    assert split("Clear... Normal?! (So.) End.") == ["Clear...", "Normal?!", "(So.)", "End."]


def test_tokens_count_words_and_marks_as_the_paper_does() -> None:
    assert tokens("No change.") == ["No", "change", "."]
    assert tokens("___ x-ray") == ["___", "x", "-", "ray"]
    assert tokens(" \n ") == []
    assert tokens("a b c d", 3) == ["a", "b", "c"]


REPORTS = st.text() | st.lists(
    st.sampled_from(
        ["Dr.", "1.", "2)", "-", "___", "3.5 cm", "No edema.", "vs.", "p.m.", "\n", "\n \n", "T12.",
         "lungs", "J.", "no.", "(a.", "?", "..", "seen.The", "(3)",
         "1.No", "3. Two", "\n Heart: big"]
    ),
    max_size=30,
).map(" ".join)  # fmt: skip


@given(REPORTS)
def test_no_word_is_lost_or_moved(text: str) -> None:
    letters = re.compile(r"[^\W\d_]+")
    assert letters.findall(" ".join(split(text))) == letters.findall(text)


@given(REPORTS)
def test_sentences_are_clean(text: str) -> None:
    for sentence in split(text):
        assert has_word(sentence)
        assert sentence == " ".join(sentence.split())


@given(REPORTS)
def test_a_text_with_a_word_has_a_sentence(text: str) -> None:
    assert bool(split(text)) == has_word(text)


@given(REPORTS)
def test_a_sentence_is_one_sentence(text: str) -> None:
    for sentence in split(text):
        assert split(sentence) == [sentence]


@given(REPORTS)
def test_pieces_hold_the_sentences(text: str) -> None:
    assert [piece for piece in pieces(text) if has_word(piece)] == split(text)
    assert all(pieces(text))
