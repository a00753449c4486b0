"""Words of a report that deny or doubt the findings around them, as plain data.

Phrases are written as in `convirt.label_rules`; of several that match at one place, the one with
the most words counts.
"""

from __future__ import annotations

# The gap "..." of a phrase holds none of these.
GAPLESS = ("no", "not", "nor", "or", "but", "with", "without", "which", "however", "versus", "than")

# These look like a cue or the end of a scope, but are neither.
NEUTRAL = (
    "no/without ... change* in/of/to/since/from",
    "no/without interval/significant change*",
    "not ... change/changed",
    "no/without ... increase/decrease/improvement/worsening/progression in/of",
    "not ... increased/decreased/improved/worsened/progressed",
    "not/never/incompletely/partially/partly/nearly/almost/largely resolved",
    "near/partial/incomplete/without/no ... resolution of",
    "not/partially/nearly/almost/largely cleared",
    "not been removed",
    "not only",
    "no doubt",
    "without ... doubt",
    "no longer only",
    "consistent/compatible/associated with",
    "in keeping with",
    "correlate/correlation with",
    "in comparison with",
    "compared with",
)
# What follows is denied.
DENY_AFTER = (
    "no",
    "not",
    "nor",
    "neither",
    "never",
    "without",
    "negative for",
    "absence of",
    "lack of",
    "free of/from",
    "clear of",
    "excludes",
    "rather than",
    "instead of",
    "no longer",
    "resolution of",
    "clearing of",
    "removal of",
)
# What follows is denied; if nothing follows in the clause, what precedes.
DENY_NEAR = ("resolved", "absent")
# What precedes is denied.
DENY_BEFORE = (
    "has/have/had resolved",
    "has/have ... resolved",
    "is/are/now/since/interval/completely/fully resolved",
    "has/have ... cleared",
    "has/have ... been removed",
    "is/are/was/were removed",
    "no longer seen/present/visible/visualized/identified/apparent/evident/demonstrated",
    "is/are no longer ... seen/present/visible/visualized/identified/apparent/evident",
    "is/are/was/were not ... seen/present/visible/visualized/identified/apparent/evident",
    "is/are/was/were not ... appreciated/demonstrated",
    "not seen/present/visible/visualized/identified/apparent/evident/appreciated/demonstrated",
    "is/are absent",
    "ruled out",
    "is/are excluded",
    "has/have been excluded",
)
# What follows is uncertain. Words for "more likely than not" (likely, probably, consistent with,
# favored) are not cues: they leave a mention positive.
DOUBT_AFTER = (
    "may/might/could",
    "possibly",
    "possibility of",
    "perhaps",
    "question of",
    "equivocal",
    "suspicious/concerning/worrisome/suggestive for/of",
    "suspicion/concern for/of",
    "suspect",
    "suggest/suggests/suggesting",
    "cannot/not exclude",
    "cannot/not rule out",
    "could/can not ... exclude",
    "rule out",
    "to exclude",
    "evaluate/assess/evaluation for",
    "not definitely",
    "differential ... includes/include",
)
# What follows is uncertain; if nothing follows in the clause, what precedes.
DOUBT_NEAR = (
    "possible",
    "suspected",
    "questionable",
    "less likely",
    "unlikely",
    "difficult/hard to exclude",
    "?",
)
# What precedes is uncertain.
DOUBT_BEFORE = (
    "cannot/not ... excluded",
    "cannot/not be ... ruled out",
    "not ruled out",
    "can/could not be ... excluded",
    "cannot/not be ... differentiated/distinguished",
    "is/are/also ... possible",
    "is/are ... unlikely/suspected/questioned/questionable",
    "is/are ... less likely",
    "remains/remain possible",
    "may/might/could be present",
    "may/might/could ... be ... considered",
    "should be considered",
    "is/are ... a/in consideration/possibility",
    "in the differential",
    "is/are ... in the differential",
)
# Both sides are uncertain.
DOUBT_AROUND = ("versus", "vs", "v s", "as opposed to")
# What follows is about another time.
ASIDE = ("history of", "previous history of", "known history of")
# Ends every scope.
BREAKS = (
    ";",
    ":",
    ".",
    "but",
    "however",
    "although",
    "though",
    "yet",
    "while",
    "whereas",
    "except",
    "apart/aside from",
    "other than",
    "which",
    "with",
    "secondary to",
    "due to",
    "because of",
)
# After a comma or "and" these open a new statement, unless the clause continues with "or".
ASSERTS = (
    "there/the/a/an/it/this/these/his/her",
    "heart/lungs/lung/left/right/bilateral/bibasilar",
    "small/tiny/trace/minimal/slight/mild/mildly/moderate/moderately/large/marked/severe/extensive",
    "new/stable/unchanged/persistent/increased/improved/worsening/interval/low",
)
