"""The reports of MIMIC-CXR whose text no rule about sections finds correctly.

The authors of MIMIC-CXR looked through the reports of release 2.0.0 whose sections could not be
identified by their heads, and published which studies these are and where their text is (54
studies of 227,835). These are their findings, as facts.

Source: github.com/MIT-LCP/mimic-cxr, txt/section_parser.py, `custom_mimic_cxr_rules`, commit
3190146 (2020-07-13).
"""

from __future__ import annotations

# Study -> the usual name of the section under whose head the reading of the film was typed.
MISNAMED = {
    "s50058765": "indication",
    "s50743547": "examination",
    "s50808053": "technique",
    "s50913680": "recommendations",
    "s51491012": "history",
    "s51966317": "indication",
    "s53202765": "technique",
    "s53356173": "examination",
    "s54365831": "indication",
    "s54654948": "indication",
    "s55124749": "indication",
    "s55157853": "examination",
    "s56451190": "note",
    "s56482935": "recommendations",
    "s57936451": "indication",
    "s58157373": "recommendations",
    "s58375018": "recommendations",
    "s59067458": "recommendations",
    "s59087630": "recommendations",
    "s59215320": "examination",
    "s59279892": "technique",
    "s59363654": "examination",
    "s59768032": "recommendations",
}

# Study -> where the reading begins and ends in the text (end excluded), with each line end as one
# character. An empty span means that the authors found nothing of use in the whole report.
SPANS = {
    "s50196495": (59, 399),
    "s50525523": (201, 349),
    "s50798377": (0, 0),
    "s51410602": (47, 320),
    "s52035334": (0, 0),
    "s52119491": (179, 454),
    "s52648681": (292, 631),
    "s52674888": (145, 296),
    "s53071062": (0, 0),
    "s53182247": (59, 412),
    "s53488209": (149, 475),
    "s53514462": (73, 377),
    "s53607029": (0, 0),
    "s54168089": (0, 0),
    "s54231141": (0, 0),
    "s54875119": (234, 988),
    "s54986978": (59, 306),
    "s55258338": (192, 568),
    "s56412866": (522, 822),
    "s56579911": (59, 218),
    "s56724958": (0, 0),
    "s56760320": (219, 457),
    "s57150433": (61, 394),
    "s57564132": (233, 554),
    "s58235663": (0, 0),
    "s59003148": (262, 505),
    "s59330497": (140, 655),
    "s59505494": (59, 450),
    "s59562049": (158, 348),
    "s59889364": (172, 453),
    "s59982525": (313, 717),
}
