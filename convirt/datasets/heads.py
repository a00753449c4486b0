"""Which section of a radiology report a head opens, whatever its wording or spelling."""

from __future__ import annotations

import re
from functools import lru_cache

IMPRESSION, FINDINGS = "impression", "findings"
# Sections about something other than what is on the film.
INDICATION, HISTORY, EXAMINATION = "indication", "history", "examination"
TECHNIQUE, COMPARISON, RECOMMENDATIONS = "technique", "comparison", "recommendations"
NOTIFICATION, ADDENDUM, WET_READ = "notification", "addendum", "wet read"
OTHER = "other"
# "CHEST, TWO VIEWS:" may open the findings or be a mere title.
VIEWS = "views"
# "HEART:", "NOTE:": a subheading inside the findings, elsewhere a section of no interest.
UNKNOWN = ""

# Tried in this order on the words of the head: "REASON FOR EXAM" opens the indication, "FINDINGS
# AND IMPRESSION" the impression, "NOTIFICATION OF CRITICAL FINDINGS" a notification.
_RULES = (
    (NOTIFICATION, "NOTIFICATION NOTIFICATIONS NOTIFIED COMMUNICATED COMMUNICATION CRITICAL"),
    (NOTIFICATION, "DISCUSSED CONVEYED RELAYED"),
    (HISTORY, "PFI"),
    (IMPRESSION, "IMPRESSION IMPRESSIONS CONCLUSION CONCLUSIONS"),
    (FINDINGS, "FINDING FINDINGS"),
    (ADDENDUM, "ADDENDUM ADDENDA"),
    (WET_READ, "WET WETREAD"),
    (COMPARISON, "COMPARISON COMPARISONS PRIOR PRIORS REFERENCE"),
    (INDICATION, "INDICATION INDICATIONS REASON"),
    (HISTORY, "HISTORY CLINICAL INFORMATION PATIENT DIAGNOSIS"),
    (TECHNIQUE, "TECHNIQUE TECHNIQUES CONTRAST DOSE"),
    (RECOMMENDATIONS, "RECOMMENDATION RECOMMENDATIONS RECOMMEND"),
    (EXAMINATION, "PROCEDURE PROCEDURES"),
    (OTHER, "COMMENT COMMENTS SIGNED DICTATED ATTENDING RADIOLOGIST RADIOLOGISTS PHYSICIAN"),
    (OTHER, "ACCESSION"),
    (VIEWS, "CHEST PORTABLE UPRIGHT SUPINE ERECT AP PA LATERAL FRONTAL VIEW VIEWS RADIOGRAPH"),
    (VIEWS, "RADIOGRAPHS XRAY XRAYS RAY RAYS FILM FILMS RIB RIBS ABDOMEN"),
    # "CHEST STUDY:" and "PORTABLE CHEST, TIME 8:00:" are views, "EXAMINATION:" alone is not.
    (EXAMINATION, "EXAM EXAMS EXAMINATION EXAMINATIONS STUDY STUDIES"),
    (OTHER, "DATE TIME REPORT"),
)
_NAMES = tuple((name, frozenset(words.split())) for name, words in _RULES)
# Words whose misspellings are corrected: "IMPRESSOIN", "FINDNGS", "NDICATION". All
# misspellings that MIT-LCP/mimic-cxr (txt/section_parser.py) lists are one slip away.
_MENDED = (
    "IMPRESSION", "CONCLUSION", "FINDINGS", "COMPARISON", "COMPARISONS", "INDICATION", "HISTORY",
    "EXAMINATION", "TECHNIQUE", "RECOMMENDATION", "RECOMMENDATIONS", "NOTIFICATION", "ADDENDUM",
)  # fmt: skip
_KNOWN = frozenset().union(*(words for _, words in _NAMES))
_WORD = re.compile(r"[A-Z]+")


@lru_cache(maxsize=1 << 14)
def name(head: str) -> str:
    """Return the name of the section that a head opens.

    Args:
        head: The head without its colon, in upper or lower case.

    Returns:
        One of the names above; UNKNOWN for a head that no rule covers.
    """
    words = {mend(word) for word in _WORD.findall(head.upper().replace("X-RAY", "XRAY"))}
    return next((found for found, known in _NAMES if words & known), UNKNOWN)


def mend(word: str) -> str:
    """The word that was meant, if `word` (in capitals) is one slip away from a usual one."""
    if word in _KNOWN:
        return word
    return next((right for right in _MENDED if _one_slip(word, right)), word)


def _one_slip(word: str, right: str) -> bool:
    """Whether one letter is missing, added or wrong, or two neighbours are swapped."""
    if abs(len(word) - len(right)) > 1:
        return False
    start = 0
    while start < min(len(word), len(right)) and word[start] == right[start]:
        start += 1
    word, right = word[start:], right[start:]
    while word and right and word[-1] == right[-1]:
        word, right = word[:-1], right[:-1]
    swapped = len(word) == 2 and word == right[::-1]
    return swapped or max(len(word), len(right)) <= 1
