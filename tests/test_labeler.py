"""The rule-based labels against sentences labelled by hand, and the aggregation over a report."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convirt import label_cues, labeler
from convirt.label_rules import CHEXPERT, LIMB, VOCABULARIES, Vocabulary
from convirt.labeler import BLANK, NEGATIVE, POSITIVE, UNCERTAIN

# Sentence -> "label state" of every label that is not blank; + stated, - denied, ? doubted.
CHEST = {
    # plain statements and synonyms
    "There is a small left pleural effusion.": "+Pleural Effusion",
    "Airspace opacities are seen bilaterally.": "+Lung Opacity",
    "Enlarged cardiomediastinal silhouette.": "+Enlarged Cardiomediastinum",
    "The cardiac silhouette shows mild enlargement.": "+Cardiomegaly",
    "Moderate pulmonary vascular congestion.": "+Edema",
    "A 1.2 cm nodule projects over the right lung.": "+Lung Lesion",
    "Pleural-based calcified pleural plaques are noted.": "+Pleural Other",
    "The endotracheal tube ends above the carina.": "+Support Devices",
    "Overlying monitoring leads are noted.": "",
    "Comparison is made to the prior study of ___.": "",
    # denials and how far they reach
    "No pneumothorax or large effusion.": "-Pneumothorax -Pleural Effusion",
    "No focal consolidation, pleural effusion.": "-Consolidation -Pleural Effusion",
    "The lungs are clear without focal consolidation, effusion, or pneumothorax.": (
        "-Lung Opacity -Consolidation -Pleural Effusion -Pneumothorax"
    ),
    "No consolidation, large effusion, or pneumothorax.": (
        "-Consolidation -Pleural Effusion -Pneumothorax"
    ),
    "No pneumothorax, small left effusion.": "-Pneumothorax +Pleural Effusion",
    "No pneumothorax and the effusion is unchanged.": "-Pneumothorax +Pleural Effusion",
    "No pneumothorax but moderate effusion.": "-Pneumothorax +Pleural Effusion",
    "No evidence of pneumonia or edema; there is a small effusion.": (
        "-Pneumonia -Edema +Pleural Effusion"
    ),
    "No abnormality other than a small effusion.": "+Pleural Effusion",
    "Moderate cardiomegaly without edema.": "+Cardiomegaly -Edema",
    "Large pneumothorax without shift, with moderate effusion.": (
        "+Pneumothorax +Pleural Effusion"
    ),
    "There is no opacity consistent with pneumonia.": "-Lung Opacity -Pneumonia",
    "Neither effusion nor pneumothorax is seen.": "-Pleural Effusion -Pneumothorax",
    "Atelectasis or pneumonia is not seen.": "-Atelectasis -Pneumonia",
    "Right-sided effusion w/o pneumothorax.": "+Pleural Effusion -Pneumothorax",
    "Scarring from prior tuberculosis.": "",
    "Central linear opacity in the left lung.": "+Lung Opacity",
    "Both chest tubes and the central lines are unchanged.": "+Support Devices",
    "Endotracheal tube ends 4.5 cm above the carina, no pneumothorax.": (
        "+Support Devices -Pneumothorax"
    ),
    # denied outright
    "Heart size is normal.": "-Cardiomegaly",
    "The heart is not enlarged.": "-Cardiomegaly",
    "Heart and mediastinal contours are normal.": "-Cardiomegaly -Enlarged Cardiomediastinum",
    "Heart size and pulmonary vasculature are within normal limits.": "-Cardiomegaly -Edema",
    "Pulmonary vascularity is normal.": "-Edema",
    "Costophrenic angles are sharp.": "-Pleural Effusion",
    "Pneumothorax was ruled out.": "-Pneumothorax",
    "Clear lungs.": "-Lung Opacity",
    # doubt
    "Pneumonia cannot be excluded.": "?Pneumonia",
    "Cannot exclude early pneumonia.": "?Pneumonia",
    "Effusion is not excluded.": "?Pleural Effusion",
    "Effusion has been excluded.": "-Pleural Effusion",
    "Left basilar opacity may represent atelectasis or early pneumonia.": (
        "+Lung Opacity ?Atelectasis ?Pneumonia"
    ),
    "Findings are concerning for pneumonia, although atelectasis is possible.": (
        "?Pneumonia ?Atelectasis"
    ),
    "Atelectasis, pneumonia cannot be excluded.": "+Atelectasis ?Pneumonia",
    "No effusion, pneumonia cannot be excluded.": "-Pleural Effusion ?Pneumonia",
    "May be atelectasis, small left effusion.": "?Atelectasis +Pleural Effusion",
    "May represent atelectasis without pneumonia.": "?Atelectasis -Pneumonia",
    "Possible pneumonia.": "?Pneumonia",
    "Pneumonia possible.": "?Pneumonia",
    "?pneumonia": "?Pneumonia",
    "Pneumonia is unlikely.": "?Pneumonia",
    "Linear opacity likely represents atelectasis.": "+Lung Opacity +Atelectasis",
    "Evaluate for pneumonia.": "?Pneumonia",
    "Heart size is at the upper limits of normal.": "?Cardiomegaly",
    "Borderline heart size.": "?Cardiomegaly",
    "Blunting of the left costophrenic angle.": "?Pleural Effusion",
    "No blunting of the costophrenic angle.": "-Pleural Effusion",
    # one or the other
    "Left basilar atelectasis or pneumonia.": "?Atelectasis ?Pneumonia",
    "Atelectasis/infiltrate at the left base.": "?Atelectasis ?Lung Opacity",
    "Atelectasis versus pneumonia.": "?Atelectasis ?Pneumonia",
    "Atelectasis rather than pneumonia.": "+Atelectasis -Pneumonia",
    "Displaced or comminuted fracture.": "+Fracture",
    # comparisons
    "No change in the effusion.": "+Pleural Effusion",
    "No significant interval change in the effusion.": "+Pleural Effusion",
    "Not significantly changed left effusion.": "+Pleural Effusion",
    "The effusion is unchanged.": "+Pleural Effusion",
    "The previously seen effusion has resolved.": "-Pleural Effusion",
    "Resolved left effusion.": "-Pleural Effusion",
    "Left effusion, resolved.": "-Pleural Effusion",
    "Effusion has not resolved.": "+Pleural Effusion",
    "Nearly resolved edema.": "+Edema",
    "Pneumothorax is no longer seen.": "-Pneumothorax",
    "The effusion has decreased and the pneumothorax has resolved.": (
        "+Pleural Effusion -Pneumothorax"
    ),
    "Possible pneumonia has resolved.": "-Pneumonia",
    "No new consolidation.": "-Consolidation",
    "Interval removal of the endotracheal tube.": "-Support Devices",
    # mentions of something else
    "Pericardial effusion is seen.": "",
    "Fracture of a sternal wire.": "+Support Devices",
    "Mass effect on the trachea.": "",
    "Subcutaneous edema is seen.": "",
    "Soft tissue edema of the neck.": "",
    "History of pneumonia.": "",
    "No history of pneumonia.": "",
}
LIMBS = {
    "No fracture or dislocation.": "-Fracture -Dislocation",
    "The bones are intact and the joint spaces are preserved.": "-Fracture -Degenerative Change",
    "Degenerative changes without acute fracture.": "+Degenerative Change -Fracture",
    "Osteophytes and sclerosis at the joint, mild.": "+Degenerative Change",
    "Transverse lucency of the shaft.": "?Fracture",
    "Lucency, fracture versus vascular channel.": "?Fracture",
    "A small area of bone destruction.": "+Bone Lesion",
    "Mild demineralization of the bones.": "+Osteopenia",
    "No joint effusion, alignment is normal.": "-Joint Effusion -Dislocation",
    "A soft tissue lesion is noted.": "",
    "Soft tissue swelling, no fracture.": "+Soft Tissue Swelling -Fracture",
    "A plate and screws fix a healed fracture.": "+Hardware +Fracture",
    "The growth plates are normal.": "",
    "The epiphyseal plates are open.": "",
    "Plate-like sclerosis.": "",
    "Overlying cast material obscures fine bony detail.": "+Hardware",
}
SIGNS = {"+": POSITIVE, "-": NEGATIVE, "?": UNCERTAIN}


def expected(told: str, vocabulary: Vocabulary) -> dict[str, int]:
    """The states assigned by hand, of labels that are not blank."""
    parts = re.findall(r"([-+?])([^-+?]+)", told)
    assert {name.strip() for _, name in parts} <= set(vocabulary.labels)
    return {name.strip(): SIGNS[sign] for sign, name in parts}


def states(sentence: str, vocabulary: Vocabulary) -> dict[str, int]:
    """The states that the rules assign, of labels that are not blank."""
    row = labeler.label([sentence], vocabulary)[0]
    return {
        name: int(state)
        for name, state in zip(vocabulary.labels, row, strict=True)
        if state != BLANK
    }


@pytest.mark.parametrize("sentence", CHEST)
def test_chest_sentence_is_labelled_as_by_hand(sentence: str) -> None:
    assert states(sentence, CHEXPERT) == expected(CHEST[sentence], CHEXPERT)


@pytest.mark.parametrize("sentence", LIMBS)
def test_limb_sentence_is_labelled_as_by_hand(sentence: str) -> None:
    assert states(sentence, LIMB) == expected(LIMBS[sentence], LIMB)


@pytest.mark.parametrize("change", [str.upper, lambda s: s.replace(" ", "\n  "), str.title])
def test_case_and_line_breaks_do_not_matter(change: object) -> None:
    assert callable(change)
    changed = labeler.label([change(sentence) for sentence in CHEST], CHEXPERT)
    assert (changed == labeler.label(CHEST, CHEXPERT)).all()


def test_labels_are_those_of_chexpert_in_its_order() -> None:
    from convirt.datasets.layouts.chexpert import LABELS

    assert CHEXPERT.labels == LABELS


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values())
def test_every_mention_is_found_and_nothing_else(vocabulary: Vocabulary) -> None:
    """A typing error in the table would disable a phrase."""
    for name, rule in vocabulary.rules.items():
        for phrase in rule.mentions:
            words = [word.split("/")[0].replace("*", "x") for word in phrase.split()]
            sentence = " ".join(word for word in words if word != "...")
            assert states(sentence, vocabulary).get(name) == POSITIVE, phrase


@pytest.mark.parametrize("phrase", [*label_cues.DENY_AFTER, *label_cues.DOUBT_AFTER])
def test_every_cue_before_a_mention_works(phrase: str) -> None:
    cue = " ".join(word.split("/")[0] for word in phrase.split() if word != "...")
    state = NEGATIVE if phrase in label_cues.DENY_AFTER else UNCERTAIN
    assert states(f"{cue} pneumothorax", CHEXPERT) == {"Pneumothorax": state}


@pytest.mark.parametrize("phrase", [*label_cues.DENY_BEFORE, *label_cues.DOUBT_BEFORE])
def test_every_cue_behind_a_mention_works(phrase: str) -> None:
    cue = " ".join(word.split("/")[0] for word in phrase.split() if word != "...")
    state = NEGATIVE if phrase in label_cues.DENY_BEFORE else UNCERTAIN
    assert states(f"pneumothorax {cue}", CHEXPERT) == {"Pneumothorax": state}


@pytest.mark.parametrize("phrase", [*label_cues.DENY_NEAR, *label_cues.DOUBT_NEAR])
def test_cue_reaches_back_where_nothing_follows(phrase: str) -> None:
    cue = phrase.split("/")[0].replace("difficult", "difficult to exclude")
    state = NEGATIVE if phrase in label_cues.DENY_NEAR else UNCERTAIN
    for sentence in (f"{cue} pneumothorax", f"pneumothorax {cue}", f"pneumothorax, {cue}."):
        assert states(sentence, CHEXPERT) == {"Pneumothorax": state}


# ------------------------------------------------------------------------------ reports


def report(*sentences: str, vocabulary: Vocabulary = CHEXPERT) -> dict[str, int]:
    """The labels of one report that are not blank."""
    rows = [np.arange(len(sentences))]
    row = labeler.combine(labeler.label(sentences, vocabulary), rows, vocabulary)[0]
    named = zip(vocabulary.labels, row, strict=True)
    return {name: int(state) for name, state in named if state != BLANK}


def test_positive_beats_uncertain_beats_negative() -> None:
    no, perhaps, yes = "No edema.", "Edema cannot be excluded.", "There is edema."
    assert report(no, yes, perhaps) == {"Edema": POSITIVE}
    assert report(perhaps, no) == {"Edema": UNCERTAIN}
    assert report(no) == {"Edema": NEGATIVE, "No Finding": POSITIVE}


def test_no_finding_tolerates_devices_and_no_doubt() -> None:
    assert report() == {"No Finding": POSITIVE}
    assert report("A pacemaker is in place.") == {
        "No Finding": POSITIVE,
        "Support Devices": POSITIVE,
    }
    assert report("A pacemaker is in place.", "Possible edema.") == {
        "Support Devices": POSITIVE,
        "Edema": UNCERTAIN,
    }
    assert report("Overlying cast.", vocabulary=LIMB) == {
        "No Finding": POSITIVE,
        "Hardware": POSITIVE,
    }


def test_reports_share_sentences_and_may_be_empty() -> None:
    table = labeler.label(["No edema.", "Cardiomegaly."], CHEXPERT)
    rows = [np.array([0, 1]), np.array([], int), np.array([1]), np.array([1, 0, 0])]
    together = labeler.combine(table, rows, CHEXPERT)
    alone = [labeler.combine(table, [one], CHEXPERT)[0] for one in rows]
    assert together.dtype == np.int8 and (together == np.array(alone)).all()
    assert (together[0] == together[3]).all() and not (together[0] == together[2]).all()
    assert labeler.combine(table, [], CHEXPERT).shape == (0, 14)


# ------------------------------------------------------------------------------ anything at all

_WORDS = sorted(
    {
        word.replace("*", "").split("/")[0]
        for phrases in (
            label_cues.NEUTRAL,
            label_cues.DENY_AFTER,
            label_cues.DENY_BEFORE,
            label_cues.DOUBT_AFTER,
            label_cues.DOUBT_AROUND,
            label_cues.BREAKS,
        )
        for phrase in phrases
        for word in phrase.split()
    }
    | {"effusion", "pneumonia", "heart", "normal", "and", "or", ",", "(", "small", "fracture"}
)


@given(st.lists(st.text() | st.lists(st.sampled_from(_WORDS)).map(" ".join), max_size=4))
@settings(deadline=None, max_examples=200)
def test_any_text_has_labels(sentences: list[str]) -> None:
    for vocabulary in VOCABULARIES.values():
        table = labeler.label(sentences, vocabulary)
        assert table.shape == (len(sentences), len(vocabulary.labels))
        assert np.isin(table, (POSITIVE, NEGATIVE, UNCERTAIN, BLANK)).all()
        whole = labeler.combine(table, [np.arange(len(sentences))], vocabulary)
        assert whole.shape == (1, len(vocabulary.labels))
