"""RSNA Pneumonia Detection Challenge 2018, stage 2, the labelled part.

    stage_2_train_labels.csv          patientId,x,y,width,height,Target: one row per BOX
    stage_2_detailed_class_info.csv   patientId,class: as many rows
    stage_2_train_images/<patientId>.dcm

There is no official split, so the films of train, val and test are in one folder. Most files hold a
baseline JPEG as in the real set; one in six is uncompressed MONOCHROME1 (bright air), which occurs
in real archives too and which a reader has to invert.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from convirt.datasets import phantom
from convirt.datasets.layouts._tools import (
    JPEG_QUALITY,
    Layout,
    csv_text,
    hexadecimal,
    pick,
    stream,
    write_text,
)

_POSITIVE = 0.35
_NORMAL = 0.43  # share of the negatives; the others are "No Lung Opacity / Not Normal"
_MONOCHROME1 = 1 / 6
_SPLIT_BOX = 0.25  # share of opacities that a radiologist framed in two boxes
_OPACITIES = ("Pneumonia", "Consolidation")
# Where an opacity is drawn: offset from the middle in halves of the longer side. Tilt and zoom of
# the film are not known here, so the boxes are rough; nothing trains on them.
_BOX_X = {"right": -0.42, "left": 0.42}
_BOX_Y = {"upper": -0.42, "mid": -0.02, "lower": 0.36}
_BOX_HALF = 0.26

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Film:
    """What the tables need to know of one film; a negative one has no boxes."""

    patient: str
    kind: str
    boxes: tuple[Box, ...]


def plan(seed: int, counts: Mapping[str, int]) -> list[int]:
    """One unit per image: its number."""
    return list(range(sum(counts.values())))


def draw(root: Path, seed: int, side: int, index: int) -> Film:
    """Write one DICOM file."""
    rng = stream(seed, "rsna", index)
    patient = hexadecimal(rng, 8, 4, 4, 4, 12)
    kind, case = _case(rng)
    view = pick(rng, {"PA": 0.54, "AP": 0.46})
    film = phantom.draw_chest(rng, case, side, view)
    boxes = _boxes(rng, case, film.shape) if kind == "Lung Opacity" else ()
    path = root / "stage_2_train_images" / f"{patient}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    _dicom(rng, patient, view, film).save_as(path, enforce_file_format=True)
    return Film(patient, kind, boxes)


def _case(rng: np.random.Generator) -> tuple[str, phantom.ChestCase]:
    """Draw a class, and a case that belongs to it."""
    if rng.random() < _POSITIVE:
        kind = "Lung Opacity"
    elif rng.random() < _NORMAL:
        return "Normal", phantom.chest_case(rng, only="")
    else:
        kind = "No Lung Opacity / Not Normal"
    while True:  # about 1 in 4 natural cases has an opacity, 1 in 2 another finding
        case = phantom.chest_case(rng)
        opacity = not case.labels.isdisjoint(_OPACITIES)
        if case.labels and "COVID-19" not in case.labels and opacity == (kind == "Lung Opacity"):
            return kind, case


def _boxes(
    rng: np.random.Generator, case: phantom.ChestCase, shape: tuple[int, ...]
) -> tuple[Box, ...]:
    """Frame every opacity: x, y, width, height in pixels from the top left corner."""
    height, width = shape
    longer = max(height, width)
    boxes: list[Box] = []
    for finding in case.findings:
        if finding.name not in _OPACITIES:
            continue
        middle_x = (_BOX_X[finding.side] * longer + width) / 2
        middle_y = (_BOX_Y[finding.site] * longer + height) / 2
        half = _BOX_HALF * longer / 2
        x0, x1 = max(0, round(middle_x - half)), min(width, round(middle_x + half))
        y0, y1 = max(0, round(middle_y - half)), min(height, round(middle_y + half))
        cuts = (y0, (y0 + y1) // 2, y1) if rng.random() < _SPLIT_BOX else (y0, y1)
        for top, bottom in pairwise(cuts):
            boxes.append((float(x0), float(top), float(x1 - x0), float(bottom - top)))
    return tuple(boxes)


def _dicom(rng: np.random.Generator, patient: str, view: str, film: np.ndarray) -> Dataset:
    """A Secondary Capture object with the tags that the real files carry."""
    inverted = rng.random() < _MONOCHROME1
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian if inverted else JPEGBaseline8Bit
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient, "instance"])
    # Set explicitly: pydicom would put its own version here, and the bytes would depend on it.
    meta.ImplementationClassUID = generate_uid(entropy_srcs=["convirt demo"])
    meta.ImplementationVersionName = "CONVIRT_DEMO"
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    data.StudyInstanceUID = generate_uid(entropy_srcs=[patient, "study"])
    data.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, "series"])
    data.Modality, data.ConversionType, data.BodyPartExamined = "CR", "WSD", "CHEST"
    data.PatientName = data.PatientID = patient
    data.PatientSex = pick(rng, {"M": 0.57, "F": 0.43})
    # Without the "Y" that DICOM asks for, as in the real files: pydicom must not complain.
    age = str(rng.integers(18, 90))
    data.add(DataElement("PatientAge", "AS", age, validation_mode=pydicom.config.IGNORE))
    data.ViewPosition = view
    data.PixelSpacing = [0.168, 0.168]
    data.Rows, data.Columns = film.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    if inverted:
        data.PhotometricInterpretation = "MONOCHROME1"
        pixels = (255 - film).tobytes()
        data.PixelData = pixels + b"\0" * (len(pixels) % 2)
        data["PixelData"].VR = "OB"
    else:
        buffer = io.BytesIO()
        Image.fromarray(film).save(buffer, "JPEG", quality=JPEG_QUALITY)
        data.PhotometricInterpretation = "MONOCHROME2"
        data.LossyImageCompression = "01"
        data.PixelData = encapsulate([buffer.getvalue()])
        data["PixelData"].is_undefined_length = True
        data["PixelData"].VR = "OB"
    return data


def tables(root: Path, counts: Mapping[str, int], records: list[Any]) -> None:
    """Write the two lists, sorted by patientId; a film with two boxes has two rows in both."""
    films: list[Film] = sorted(records, key=lambda film: film.patient)
    labels: list[tuple[object, ...]] = []
    kinds: list[tuple[str, str]] = []
    for film in films:
        labels += [(film.patient, *box, 1) for box in film.boxes]
        if not film.boxes:
            labels.append((film.patient, "", "", "", "", 0))
        kinds += [(film.patient, film.kind)] * max(1, len(film.boxes))
    header = ("patientId", "x", "y", "width", "height", "Target")
    write_text(root / "stage_2_train_labels.csv", csv_text(header, labels))
    write_text(root / "stage_2_detailed_class_info.csv", csv_text(("patientId", "class"), kinds))


LAYOUT = Layout(("train", "val", "test"), plan, draw, tables)
