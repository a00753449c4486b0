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


def test_tokens_count_words_and_marks_as_the_paper_does() -> None:
    assert tokens("No change.") == ["No", "change", "."]
    assert tokens("___ x-ray") == ["___", "x", "-", "ray"]
    assert tokens(" \n ") == []


REPORTS = st.text() | st.lists(
    st.sampled_from(
        ["Dr.", "1.", "2)", "-", "___", "3.5 cm", "No edema.", "vs.", "p.m.", "\n", "\n \n", "T12.",
         "lungs", "J.", "no.", "(a.", "?", "..", "seen.The"]
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
