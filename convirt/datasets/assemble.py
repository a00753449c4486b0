"""The last step of every reader: unique ids, views, usable reports, splits, one fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from convirt.datasets import inputs, sentences, split_lists
from convirt.datasets.splits import Split, assign, given_splits
from convirt.datasets.tables import (
    EMPTY_REPORT,
    IMAGE_COLUMNS,
    NO_REPORT,
    NO_SECTION,
    RETRIEVAL_COLUMNS,
    SHORT_REPORT,
    VIEW_NOT_CHOSEN,
    Funnel,
    Tables,
)
from convirt.errors import InputError

MIN_TOKENS = 3  # "... or less than 3 tokens" are dropped: paper, section 4.1 and appendix A
# What a reader found in a study's report: its findings and impression, "" if the file is empty,
# or one of the two reasons why there is no text.
Reports = Mapping[str, str]
NO_TEXT = frozenset({NO_REPORT, NO_SECTION})
NO_USABLE_TEXT = (EMPTY_REPORT, SHORT_REPORT)


def assemble(
    images: pd.DataFrame,
    split: Split,
    source: Path,
    *,
    labels: Iterable[str] = (),
    reports: Reports | None = None,
    queries: pd.DataFrame | None = None,
    views: Iterable[str] = (),
    funnel: Funnel | None = None,
) -> Tables:
    """Check, filter, divide and sort what a reader has gathered.

    Args:
        images: One row per image: image, path, study, patient, and where known view and split
            ("" = to be drawn), label columns, role and label.
        split: Seed and sizes of the splits, counted in studies for a pair set, else in images.
        source: The list file that error messages name.
        labels: 0/1 columns of `images`.
        reports: Pair sets: study -> text, or NO_REPORT or NO_SECTION.
        queries: Text queries of a retrieval set.
        views: Views to keep; empty keeps all.
        funnel: Counts so far, if the reader has dropped items; by default all of `images` came in.

    Raises:
        InputError: Duplicate image ids, a study of two patients, a view that no image has, a
            patient in two splits, a split list drawn from another set, or no image left.
    """
    images = images.copy()
    for column in ("view", "split"):
        if column not in images:
            images[column] = ""
    if funnel is None:
        funnel = Funnel()
        funnel.images.found = len(images)
        funnel.studies.found = images["study"].nunique()
    _unique(images["image"], source)
    _one_patient_a_study(images, source)
    inputs.no_blank(images, ("image", "study", "patient"), source)

    images = _choose_views(images, tuple(views), source, funnel)
    texts = None
    if reports is not None:
        images, texts = _usable_reports(images, reports, funnel)
    if images.empty:
        hint = "check the root"
        reasons = {**funnel.images.to_dict()["dropped"]} or "an empty list"
        if reports is not None and set(funnel.images.dropped) & set(NO_USABLE_TEXT):
            hint = f"look at the texts: each needs at least {MIN_TOKENS} words and numbers"
        elif NO_SECTION in funnel.images.dropped:
            hint = "look at the reports: only their findings and impression are used"
        raise InputError(source, "at least one usable image", str(reasons), hint)

    if split.listed is not None:
        images = split_lists.apply(images, split, split.listed, source, funnel)
        texts = None if texts is None else texts[texts["study"].isin(images["study"])]
    else:
        images["split"] = _divide(images, split, source, by_study=reports is not None)
    images = images.sort_values("image", kind="stable", ignore_index=True)
    extra = [name for name in RETRIEVAL_COLUMNS if name in images]
    images = images[[*IMAGE_COLUMNS, *extra, *labels]]
    return Tables(images, texts, queries, tuple(labels), funnel, source)


def _unique(ids: pd.Series, source: Path) -> None:
    twice = ids[ids.duplicated()]
    if len(twice):
        raise InputError(
            source,
            "each image once",
            f"`{twice.iloc[0]}` again ({len(twice)} duplicate ids)",
            "remove the duplicate rows",
        )


def _one_patient_a_study(images: pd.DataFrame, source: Path) -> None:
    owners = images[["study", "patient"]].drop_duplicates()
    torn = owners.loc[owners["study"].duplicated(), "study"]
    if len(torn):
        patients = ", ".join(sorted(owners.loc[owners["study"] == torn.iloc[0], "patient"])[:3])
        raise InputError(
            source,
            "one patient per study",
            f"study `{torn.iloc[0]}` of patients {patients}",
            "correct the study or patient column",
        )


def _choose_views(
    images: pd.DataFrame, views: tuple[str, ...], source: Path, funnel: Funnel
) -> pd.DataFrame:
    """Keep the images of the chosen views; a study may lose all of its images that way."""
    if not views:
        return images
    known = sorted(set(images["view"]))
    if not any(known):
        hint = "add it, or remove datasets.sources.<name>.options.views"
        raise InputError(source, "a filled column `view`", "no image with a view", hint)
    for view in views:
        if view not in known:
            raise InputError(
                source,
                "views that occur in this set: " + ", ".join(f"`{name}`" for name in known),
                f"`{view}`",
                "correct datasets.sources.<name>.options.views",
            )
    return funnel.leave_out(images, ~images["view"].isin(views), VIEW_NOT_CHOSEN)


def _usable_reports(
    images: pd.DataFrame, reports: Reports, funnel: Funnel
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Drop studies without a text of at least MIN_TOKENS tokens, and their images."""
    studies = sorted(set(images["study"]))
    problem = {study: _problem(reports.get(study, NO_REPORT)) for study in studies}
    reasons = images["study"].map(problem)
    for reason in sorted(set(problem.values()) - {""}):
        funnel.studies.drop(reason, [study for study in studies if problem[study] == reason])
        funnel.images.drop(reason, images.loc[reasons == reason, "image"])
    kept = [study for study in studies if not problem[study]]
    texts = pd.DataFrame({"study": kept, "text": [reports[study] for study in kept]}, dtype=str)
    return images[reasons == ""], texts


def _problem(text: str) -> str:
    """Why a report cannot be used, or ""."""
    if text in NO_TEXT:
        return text
    if not sentences.has_word(text):
        return EMPTY_REPORT
    return SHORT_REPORT if len(sentences.tokens(text, MIN_TOKENS)) < MIN_TOKENS else ""


def _divide(images: pd.DataFrame, split: Split, source: Path, by_study: bool) -> pd.Series:
    """Assign splits; in a pair set the sizes count studies."""
    table = images[["study", "patient"]].assign(given=images["split"])
    if not by_study:
        return assign(table, split, source)
    given = table.groupby("study", sort=True).agg(
        patient=("patient", "first"), given=("given", "first")
    )
    names = given_splits(table, source).replace("", "train").groupby(table["study"]).nunique()
    torn = names.index[names > 1]
    if len(torn):
        raise InputError(
            source,
            "one split per study",
            f"study `{torn[0]}` in several (a blank means train)",
            "move all rows of a study to one split",
        )
    return images["study"].map(assign(given, split, source))
