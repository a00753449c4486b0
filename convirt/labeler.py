"""Rules that turn the sentences of a report into labels: stated, denied, doubted, not mentioned.

The approach that ConVIRT's abstract argues against. A mention is positive unless a cue denies or
doubts it. A cue reaches forwards or backwards over its clause, up to a word such as "but". If
several cues reach a mention, the one separated by the fewest commas, "and" and "or" counts; on a
tie, a denial wins over a doubt. The phrases are in `convirt.label_rules` and `convirt.label_cues`.

Nothing is parsed, so some sentences are read wrongly: in "nodules, effusion and edema have
resolved" only what follows the comma is denied, and "the heart, which is enlarged" does not count
as cardiomegaly.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from convirt import label_cues as cues
from convirt.label_rules import Rule, Vocabulary

POSITIVE, NEGATIVE, UNCERTAIN, BLANK = 1, 0, -1, -2
_RANKED = (BLANK, NEGATIVE, UNCERTAIN, POSITIVE)  # later ones win over earlier ones

_SHORT = {"and/or": "or", "w/o": "without", "c/w": "consistent with", "r/o": "rule out"}
_SHORT_FORM = re.compile(r"\b(?:and/or|w/o|c/w|r/o)\b")
_MARK = re.compile(r"(?<!\d)\.|\.(?!\d)|[,;:?()\[\]]")
# A cue's gap ends at "and" as well: "has decreased and the pneumothorax has resolved".
_GAP, _CUE_GAP = (
    rf"(?:(?!(?:{'|'.join((*cues.GAPLESS, *more))}) )\w[^ ]* ){{0,5}}?" for more in ((), ("and",))
)
_SEPARATOR = re.compile(r"(?<= )(?:,|and|or|nor)(?= )")
_NEW_STATEMENT = re.compile(rf"(?<= )(?:,|and) (?=(?:{'|'.join(cues.ASSERTS).replace('/', '|')}) )")
_LIST = re.compile(r" n?or ")
_LIST_COMMA = re.compile(r"(?<= ), (?!(?:and|or|nor) )")
_EITHER = re.compile(r"(?: \w[^ ]*){0,3}? or (?:\w[^ ]* ){0,3}?")

_DENY, _DOUBT, _ASIDE, _BREAK, _NEUTRAL = "deny", "doubt", "aside", "break", "neutral"
_FORWARDS, _BACKWARDS, _BOTH, _NEAR = "forwards", "backwards", "both", "near"
_ORDER = (_ASIDE, _DENY, _DOUBT)  # of equally near effects the first counts
_CUES = (
    (cues.NEUTRAL, _NEUTRAL, ""),
    (cues.DENY_AFTER, _DENY, _FORWARDS),
    (cues.DENY_BEFORE, _DENY, _BACKWARDS),
    (cues.DENY_NEAR, _DENY, _NEAR),
    (cues.DOUBT_AFTER, _DOUBT, _FORWARDS),
    (cues.DOUBT_BEFORE, _DOUBT, _BACKWARDS),
    (cues.DOUBT_AROUND, _DOUBT, _BOTH),
    (cues.DOUBT_NEAR, _DOUBT, _NEAR),
    (cues.ASIDE, _ASIDE, _FORWARDS),
    ((*cues.BREAKS, "(", ")", "[", "]"), _BREAK, ""),
)


class _Scope(NamedTuple):
    """The reach of a cue: its effect on the mentions inside text[start:end].

    `forwards` is true if the cue stands before `start`, false if it stands after `end`.
    """

    effect: str
    start: int
    end: int
    forwards: bool


class _Mention(NamedTuple):
    """Words of a label, text[start:end]; `state` holds if no cue reaches them."""

    start: int
    end: int
    label: int
    state: int


def label(sentences: Iterable[str], vocabulary: Vocabulary) -> np.ndarray:
    """Label sentences, each by itself.

    Args:
        sentences: M sentences as written in a report.
        vocabulary: One of `label_rules.VOCABULARIES`.

    Returns:
        (M, L) int8 of POSITIVE, NEGATIVE, UNCERTAIN and BLANK, in the order of
        `vocabulary.labels`. The column of `vocabulary.normal` is BLANK: only a whole report is
        normal.
    """
    patterns = [_patterns(rule) for rule in vocabulary.rules.values()]
    rows = [_label_one(_normalise(sentence), patterns) for sentence in sentences]
    return np.array(rows, np.int8).reshape(len(rows), len(patterns))


def combine(
    states: np.ndarray, reports: Sequence[np.ndarray], vocabulary: Vocabulary
) -> np.ndarray:
    """The labels of reports, from those of their sentences.

    A label is positive if it is so in any sentence, else uncertain, else negative, else blank. The
    normal label is blank if any label that is not harmless is positive or uncertain, else positive.
    Both rules are those of CheXpert's labeler (Irvin et al., 2019).

    Args:
        states: (M, L), see `label`.
        reports: N arrays of rows of `states`; any may be empty.
        vocabulary: That of `states`.

    Returns:
        (N, L) int8.
    """
    if len(reports) == 0:
        return np.empty((0, states.shape[1]), np.int8)
    ranks = np.zeros((len(states) + 1, states.shape[1]), np.int8)
    for rank, state in enumerate(_RANKED):
        ranks[:-1][states == state] = rank
    # Each report ends with the blank last row, since reduceat cannot handle an empty range.
    rows = np.concatenate([part for own in reports for part in (own, [len(states)])]).astype(int)
    starts = np.cumsum([0, *(len(own) + 1 for own in reports[:-1])])
    told = np.array(_RANKED, np.int8)[np.maximum.reduceat(ranks[rows], starts)]
    others = [name not in {vocabulary.normal, *vocabulary.harmless} for name in vocabulary.labels]
    abnormal = np.isin(told[:, others], (POSITIVE, UNCERTAIN)).any(axis=1)
    told[:, vocabulary.labels.index(vocabulary.normal)] = np.where(abnormal, BLANK, POSITIVE)
    return np.asarray(told)


# ------------------------------------------------------------------------------ one sentence


def _label_one(text: str, patterns: Sequence[_Patterns]) -> list[int]:
    """The states of all labels in a normalised sentence."""
    states = [BLANK] * len(patterns)
    mentions = sorted(m for i, own in enumerate(patterns) for m in _mentions(text, i, own))
    if not mentions:
        return states
    scopes = list(_scopes(text))
    found = [(mention, _resolve(text, mention, scopes)) for mention in mentions]
    either = {
        mention
        for (one, state), (other, its) in pairwise(found)
        if state == its == POSITIVE
        and one.label != other.label
        and _EITHER.fullmatch(text, one.end, other.start)
        for mention in (one, other)
    }
    for mention, state in found:
        told = UNCERTAIN if mention in either else state  # "atelectasis or pneumonia"
        states[mention.label] = max(states[mention.label], told, key=_RANKED.index)
    return states


def _mentions(text: str, number: int, patterns: _Patterns) -> Iterator[_Mention]:
    homonyms = [match.span() for match in patterns.homonyms.finditer(text)]
    for pattern, state in (
        (patterns.mentions, POSITIVE),
        (patterns.hints, UNCERTAIN),
        (patterns.denials, NEGATIVE),
    ):
        for match in pattern.finditer(text):
            start, end = match.span()
            if not any(start < its_end and its_start < end for its_start, its_end in homonyms):
                yield _Mention(start, end, number, state)


def _resolve(text: str, mention: _Mention, scopes: Sequence[_Scope]) -> int:
    """The state of a mention, given the cues around it."""
    reached = []
    for scope in scopes:
        if scope.start <= mention.start and mention.end <= scope.end:
            cue_to_it = (scope.start, mention.start) if scope.forwards else (mention.end, scope.end)
            steps = len(_SEPARATOR.findall(text, *cue_to_it))
            if mention.state == NEGATIVE and steps:
                continue  # "no effusion, alignment is normal"
            reached.append((steps, _ORDER.index(scope.effect), scope.effect))
    if not reached:
        return mention.state
    effect = min(reached)[2]
    if mention.state == NEGATIVE:  # a denied or doubted denial, "heart size may not be normal"
        return UNCERTAIN if effect == _DOUBT else BLANK
    return {_DENY: NEGATIVE, _DOUBT: UNCERTAIN, _ASIDE: BLANK}[effect]


# ------------------------------------------------------------------------------ scopes


def _scopes(text: str) -> Iterator[_Scope]:
    """The reaches of all cues in a normalised sentence."""
    found = [(*match.span(), *_WHAT[match.lastgroup or ""]) for match in _CUE.finditer(text)]
    breaks = [(start, end) for start, end, effect, _ in found if effect == _BREAK]
    for start, end, effect, reach in found:
        if effect in (_BREAK, _NEUTRAL):
            continue
        first = max((stop for _, stop in breaks if stop <= start), default=0)
        last = min((stop for stop, _ in breaks if stop >= end), default=len(text))
        if reach == _NEAR:
            reach = _FORWARDS if text[end:last].strip(" ,") else _BACKWARDS
        if reach in (_FORWARDS, _BOTH):
            yield _Scope(effect, end, _end_of_list(text, end, last), True)
        if reach in (_BACKWARDS, _BOTH):
            yield _Scope(effect, _start_of_clause(text, first, start), start, False)


def _end_of_list(text: str, start: int, end: int) -> int:
    """Where a new statement begins after a cue: "no effusion, | small nodule".

    A list with "or" continues: "no effusion, large nodule, or pneumothorax".
    """
    for match in _NEW_STATEMENT.finditer(text, start, end):
        if not _LIST.search(text, match.end(), end):
            return match.start()
    return end


def _start_of_clause(text: str, start: int, end: int) -> int:
    """Where the clause before a cue begins: "stable nodule, | the effusion has resolved"."""
    end = start + len(text[start:end].rstrip(" ,"))
    for pattern in (_NEW_STATEMENT, _LIST_COMMA):
        for match in pattern.finditer(text, start, end):
            start = max(start, match.end())
    return start


# ------------------------------------------------------------------------------ phrases


class _Patterns(NamedTuple):
    """A rule's phrases, compiled."""

    mentions: re.Pattern[str]
    hints: re.Pattern[str]
    denials: re.Pattern[str]
    homonyms: re.Pattern[str]


def _normalise(sentence: str) -> str:
    """Lower case, one blank between words and marks, and one at either end."""
    text = _SHORT_FORM.sub(lambda match: _SHORT[match.group()], sentence.lower())
    text = _MARK.sub(lambda match: f" {match.group()} ", text.replace("/", " or "))
    return f" {' '.join(text.replace('-', ' ').split())} "


def _patterns(rule: Rule) -> _Patterns:
    groups = (rule.mentions, rule.hints, rule.denials, rule.homonyms)
    return _Patterns(*(re.compile(_any_of(phrases)) for phrases in groups))


def _any_of(phrases: Sequence[str]) -> str:
    """A pattern of any of the phrases, longer ones first; without phrases it matches nothing."""
    longest_first = sorted(phrases, key=lambda phrase: -len(phrase.split()))
    choices = "|".join(_phrase(phrase, _GAP) for phrase in longest_first)
    return f"(?<= )(?:{choices})(?= )" if phrases else r"(?!)"


def _phrase(phrase: str, gap: str) -> str:
    pattern = ""
    for word in phrase.split():
        if word == "...":
            pattern += gap
        else:
            forms = [re.escape(form).replace(r"\*", "[^ ]*") for form in word.split("/")]
            pattern += f"(?:{'|'.join(forms)}) "
    return pattern[:-1]


def _cue_pattern() -> re.Pattern[str]:
    """All cues, longer ones first, each in a group whose name identifies its effect."""
    phrases = [(phrase, number) for number, row in enumerate(_CUES) for phrase in row[0]]
    phrases.sort(key=lambda one: -len(one[0].split()))
    groups = [
        rf"(?P<c{number}_{i}>{_phrase(p, _CUE_GAP)})" for i, (p, number) in enumerate(phrases)
    ]
    return re.compile(rf"(?<= )(?:{'|'.join(groups)})(?= )")


_CUE = _cue_pattern()
_WHAT = {name: _CUES[int(name[1:].split("_")[0])][1:] for name in _CUE.groupindex}
