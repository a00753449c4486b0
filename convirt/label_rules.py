"""The words of a report that name, hint at or rule out a finding: two vocabularies, as plain data.

The rules are our own, in the spirit of NegEx (Chapman et al., 2001), NegBio (Peng et al., 2018) and
the labeler of CheXpert (Irvin et al., 2019). `convirt.labeler` applies them together with the cues
of `convirt.label_cues`. A phrase consists of lower-case words, in which

    word*    stands for any ending: opacit* is opacity and opacities
    one/two  stands for either word
    ...      stands for at most five words, none of them in `label_cues.GAPLESS`
    a space  also stands for the hyphen of a compound: air space is air-space
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """The phrases of one label.

    Attributes:
        mentions: Name the finding; positive unless denied or doubted.
        hints: Signs that leave the finding open; uncertain unless denied.
        denials: State that the finding is absent ("heart size is normal").
        homonyms: Contain a mention but mean something else ("pericardial effusion").
    """

    mentions: tuple[str, ...]
    hints: tuple[str, ...] = ()
    denials: tuple[str, ...] = ()
    homonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The labels of a kind of film.

    Attributes:
        rules: Label -> its phrases, in the order of the columns.
        normal: The label of a report in which no other label is positive or uncertain.
        harmless: Labels beside which `normal` still holds.
    """

    rules: dict[str, Rule]
    normal: str
    harmless: frozenset[str]

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels, in order."""
        return tuple(self.rules)


# ------------------------------------------------------------------------------ chest

_NORMAL = "normal/unremarkable"
CHEXPERT = Vocabulary(
    rules={
        "No Finding": Rule(()),
        "Enlarged Cardiomediastinum": Rule(
            mentions=(
                "enlarged/widened/prominent mediastin*/cardiomediastin*",
                "mediastinal widening/enlargement/prominence",
                "widening/enlargement/prominence of ... mediastin*/cardiomediastin*",
                "mediastin*/cardiomediastin* ... enlarged/widened/prominent",
            ),
            denials=(
                f"mediastin*/cardiomediastin* ... {_NORMAL}",
                f"{_NORMAL} ... mediastin*/cardiomediastin*",
                "mediastin*/cardiomediastin* ... within normal limits",
                "mediastin*/cardiomediastin* ... not ... enlarged/widened",
            ),
        ),
        "Cardiomegaly": Rule(
            mentions=(
                "cardiomegal*",
                "heart/cardiac ... enlarged/enlargement",
                "enlarged ... heart/cardiac",
                "enlargement of ... heart/cardiac",
            ),
            hints=(
                "heart/cardiac ... upper limit*",
                "heart/cardiac ... top normal",
                "borderline ... heart/cardiac",
                "heart/cardiac ... borderline",
            ),
            denials=(
                f"heart/cardiac ... {_NORMAL}",
                f"{_NORMAL} ... heart/cardiac",
                f"cardiomediastin* ... {_NORMAL}",
                f"{_NORMAL} ... cardiomediastin*",
                "heart/cardiac/cardiomediastin* ... within normal limits",
                "heart/cardiac ... not ... enlarged",
            ),
        ),
        "Lung Opacity": Rule(
            mentions=(
                "opacit*",
                "opacif*",
                "infiltrat*",
                "air space disease",
                "airspace disease",
                "haze",
                "haziness",
                "interstitial marking*",
                "ground glass",
            ),
            denials=("lung* ... clear", "clear lung*"),
        ),
        "Lung Lesion": Rule(
            mentions=(
                "nodul*",
                "mass",
                "masses",
                "lung/pulmonary/cavitary lesion*",
                "tumor*",
                "neoplas*",
                "carcinoma*",
                "metasta*",
            ),
            homonyms=("mass effect",),
        ),
        "Edema": Rule(
            mentions=(
                "edema",
                "heart failure",
                "chf",
                "vascular congestion",
                "pulmonary congestion",
                "venous congestion",
                "volume/fluid overload",
            ),
            denials=(
                f"vascularity/vasculature ... {_NORMAL}",
                f"{_NORMAL} ... vascularity/vasculature",
            ),
            homonyms=("soft tissue edema", "subcutaneous edema"),
        ),
        "Consolidation": Rule(mentions=("consolidat*",)),
        "Pneumonia": Rule(mentions=("pneumonia*", "infection*", "infectious process*")),
        "Atelectasis": Rule(
            mentions=("atelecta*", "lobe/lobar/lung collapse", "collapse of ... lobe/lung")
        ),
        "Pneumothorax": Rule(mentions=("pneumothora*", "hydropneumothora*")),
        "Pleural Effusion": Rule(
            mentions=("effusion*", "pleural fluid", "hydropneumothora*", "hemothora*"),
            hints=("blunt* ... costophrenic", "costophrenic ... blunt*"),
            denials=("costophrenic angle* ... sharp/clear", "sharp/clear costophrenic"),
            homonyms=("pericardial effusion*", "pericardial ... pleural effusion*"),
        ),
        "Pleural Other": Rule(
            mentions=(
                "pleural ... thickening",
                "pleural plaque*",
                "pleural scar*",
                "pleural calcification*",
                "fibrothorax",
            )
        ),
        "Fracture": Rule(
            mentions=("fracture*",),
            denials=("bones/ribs/osseous ... intact",),
            homonyms=("fracture* ... wire*", "wire* ... fracture*"),
        ),
        "Support Devices": Rule(
            mentions=(
                "pacemaker*",
                "pacer*",
                "pacing lead*",
                "defibrillator*",
                "icd",
                "aicd",
                "catheter*",
                "picc",
                "port a cath",
                "central/venous/jugular/subclavian line/lines",
                "tube/tubes",
                "swan ganz",
                "sternotomy/sternal wire*",
                "stent*",
                "drain",
                "drains",
                "balloon pump",
                "prosthe*",
                "hardware",
            ),
        ),
    },
    normal="No Finding",
    harmless=frozenset({"Support Devices"}),
)

# ------------------------------------------------------------------------------ limbs

LIMB = Vocabulary(
    rules={
        "No Finding": Rule(()),
        "Fracture": Rule(
            mentions=("fracture*",),
            hints=("transverse/linear lucency", "cortical irregularit*/disruption"),
            denials=("bones/osseous ... intact",),
        ),
        "Dislocation": Rule(
            mentions=("dislocat*", "sublux*", "malalign*"),
            denials=(f"alignment ... {_NORMAL}/anatomic/maintained", "normal/anatomic alignment"),
        ),
        "Bone Lesion": Rule(
            mentions=("lesion*", "bone/bony/osseous destruction", "tumor*", "metasta*"),
            homonyms=("soft tissue lesion*",),
        ),
        "Degenerative Change": Rule(
            mentions=(
                "degenerat*",
                "osteoarthr*",
                "osteophyt*",
                "arthrosis",
                "joint ... narrowing",
            ),
            denials=("joint space* ... preserved/maintained/normal",),
        ),
        "Osteopenia": Rule(
            mentions=("osteopeni*", "demineral*", "osteopor*"),
            denials=("mineralization ... normal", "normal ... mineralization"),
        ),
        "Joint Effusion": Rule(mentions=("effusion*", "hemarthros*")),
        "Soft Tissue Swelling": Rule(
            mentions=("swelling", "soft tissue edema"),
            denials=(f"soft tissues ... {_NORMAL}",),
        ),
        "Hardware": Rule(
            mentions=(
                "hardware",
                "plate",
                "plates",
                "screw*",
                "k wire*",
                "intramedullary rod/nail",
                "prosthe*",
                "arthroplast*",
                "cast",
                "splint*",
            ),
            homonyms=("growth/volar/physeal/epiphyseal/end plate*", "plate like"),
        ),
    },
    normal="No Finding",
    harmless=frozenset({"Hardware"}),
)

VOCABULARIES = {"chexpert": CHEXPERT, "limb": LIMB}
