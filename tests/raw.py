"""Small official layouts with awkward rows, written by hand for the tests of the readers."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def film(seed: int = 0, height: int = 24, width: int = 20) -> np.ndarray:
    """A picture of noise, never of one value; (height, width) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def save(path: Path, seed: int = 0, mode: str = "L", height: int = 24, width: int = 20) -> Path:
    """Write a picture of noise in the format of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(film(seed, height, width)).convert(mode).save(path)
    return path


def write(path: Path, text: str, packed: bool = False) -> Path:
    """Write a text file, gzipped if `packed`, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return path


def dicom(
    path: Path,
    stored: np.ndarray,
    photometric: str = "MONOCHROME2",
    jpeg: bool = False,
    **tags: object,
) -> Path:
    """Write a DICOM file of one grey picture, optionally as JPEG Baseline like RSNA's."""
    import io

    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    bits = stored.dtype.itemsize * 8
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    if jpeg:
        buffer = io.BytesIO()
        Image.fromarray(stored).save(buffer, "JPEG", quality=95)
        dataset.PixelData = encapsulate([buffer.getvalue()])
    else:
        dataset.PixelData = stored.tobytes()
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


# --------------------------------------------------------------------------- MIMIC-CXR

REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)
 
 INDICATION:  ___F with cough  // pneumonia?
 
 FINDINGS:
 
 The heart is mildly enlarged. There is no
 effusion or pneumothorax.
 
 IMPRESSION:
 
 1. Mild cardiomegaly.
 2. No pneumonia.
"""  # noqa: W293 - MIMIC's blank lines are a lone space

METADATA = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,"
    "StudyDate,StudyTime,ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,"
    "PatientOrientationCodeSequence_CodeMeaning"
)
MIMIC_ROWS = [  # dicom, subject, study, view
    ("aa-01", "10000032", "50414267", "PA"),
    ("aa-02", "10000032", "50414267", "LATERAL"),
    ("aa-03", "10000032", "53911762", "AP"),
    ("bb-01", "11000764", "57375967", "AP"),
    ("cc-01", "12000935", "50578979", ""),
    ("dd-01", "13000980", "50985099", "PA"),
]


def mimic(
    root: Path,
    rows: Iterable[tuple[str, str, str, str]] = tuple(MIMIC_ROWS),
    reports: dict[str, str] | None = None,
    zipped: bool = True,
    suffix: str = ".jpg",
    packed: bool = True,
) -> Path:
    """A MIMIC-CXR-JPG tree with the reports in the same root."""
    rows = list(rows)
    lines = [METADATA]
    texts: dict[str, str] = {}
    for i, (image, subject, study, view) in enumerate(rows):
        folder = f"files/p{subject[:2]}/p{subject}/s{study}"
        if suffix == ".dcm":
            dicom(root / folder / f"{image}.dcm", film(i))
        else:
            save(root / folder / f"{image}{suffix}", i)
        lines.append(
            f"{image},{subject},{study},CHEST,{view},24,20,21800506,80556.875,CHEST,,Erect"
        )
        texts[f"{folder}.txt"] = (reports or {}).get(study, REPORT)
    ending = ".gz" if packed else ""
    write(root / f"mimic-cxr-2.0.0-metadata.csv{ending}", "\n".join(lines) + "\n", packed)
    names = ["train", "validate", "test"]
    subjects = sorted({row[1] for row in rows})
    split = ["dicom_id,study_id,subject_id,split"] + [
        f"{image},{study},{subject},{names[subjects.index(subject) % 3]}"
        for image, subject, study, _ in rows
    ]
    write(root / f"mimic-cxr-2.0.0-split.csv{ending}", "\n".join(split) + "\n", packed)
    if zipped:
        with zipfile.ZipFile(root / "mimic-cxr-reports.zip", "w") as archive:
            for name, text in texts.items():
                archive.writestr(name, text)
    else:
        for name, text in texts.items():
            write(root / name, text)
    return root


# --------------------------------------------------------------------------- CheXpert

CHEXPERT_HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
# Labels in the order of the header, with blank, uncertain and denied ones among them.
_EDEMA = ",,-1.0,1.0,,1.0,-1.0,,-1.0,0.0,-1.0,,,"
_NONE = "1.0,,,,,,,,,0.0,,,,1.0"


def chexpert_path(part: str, patient: int, study: int = 1, view: str = "view1_frontal") -> str:
    """A path as the lists write it."""
    return f"CheXpert-v1.0-small/{part}/patient{patient:05d}/study{study}/{view}.jpg"


def chexpert(root: Path, patients: int = 6, nested: bool = False) -> Path:
    """train.csv with a lateral film and valid.csv, with the films."""
    home = root / "CheXpert-v1.0-small" if nested else root
    train = [CHEXPERT_HEADER]
    for patient in range(1, patients + 1):
        labels = _EDEMA if patient % 2 else _NONE
        train.append(f"{chexpert_path('train', patient)},Female,68,Frontal,AP,{labels}")
    train.append(f"{chexpert_path('train', 1, 1, 'view2_lateral')},Female,0,Lateral,,{_EDEMA}")
    zeros = ",".join(["0.0"] * 13)
    valid = [CHEXPERT_HEADER] + [
        f"{chexpert_path('valid', 64540 + i)},Male,40,Frontal,PA,{i % 2}.0,{zeros}" for i in (1, 2)
    ]
    for name, lines in (("train", train), ("valid", valid)):
        write(home / f"{name}.csv", "\n".join(lines) + "\n")
        for i, line in enumerate(lines[1:]):
            save(home / line.split(",")[0].split("/", 1)[1], i)
    return root


def retrieval_lists(
    root: Path, queries: tuple[int, ...] = (1,), pool: tuple[int, ...] = (2, 3)
) -> Path:
    """The ConVIRT lists; CRLF and no final newline in the queries, as in the real ones."""
    rows = [f"Edema,{chexpert_path('train', patient)}" for patient in queries]
    write(root / "image-retrieval/query.csv", "\r\n".join(["Variable,Path", *rows]))
    text = "Variable,Text\r\nEdema,There is edema.\r\nFracture,A rib is broken, badly."
    text = text.replace("A rib is broken, badly.", '"A rib is broken, badly."')
    write(root / "text-retrieval/query.csv", text)
    lines = [CHEXPERT_HEADER]
    for i, patient in enumerate(pool):
        one = ["0.0"] * 14
        one[5 if i % 2 else 12] = "1.0"
        lines.append(f"{chexpert_path('train', patient)},Male,42,Frontal,AP,{','.join(one)}")
    for folder in ("image-retrieval", "text-retrieval"):
        write(root / folder / "candidate.csv", "\n".join(lines) + "\n")
    return root


# --------------------------------------------------------------------------- RSNA, COVIDx, MURA


def rsna(root: Path, images: int = 8) -> Path:
    """Boxes (several per image), JPEG DICOM, one film MONOCHROME1."""
    lines = ["patientId,x,y,width,height,Target"]
    for i in range(images):
        name = f"id-{i:02d}"
        boxes = i % 3
        lines += [f"{name},264.0,152.0,213.0,379.0,1"] * boxes or [f"{name},,,,,0"]
        inverted = i == 1
        path = root / f"stage_2_train_images/{name}.dcm"
        dicom(path, film(i), "MONOCHROME1" if inverted else "MONOCHROME2", jpeg=i % 2 == 0)
    write(root / "stage_2_train_labels.csv", "\n".join(lines) + "\n")
    return root


def rsna_release(root: Path, inner: str = "") -> Path:
    """RSNA's own release: eight films of four people, one without a final label.

    Args:
        root: Of the set.
        inner: What the archive of the films calls their folder, with its "/".
    """
    rows: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for i in range(8):
        uids: dict[str, object] = {
            "StudyInstanceUID": f"1.2.{i}",
            "SeriesInstanceUID": f"1.3.{i}",
            "SOPInstanceUID": f"1.4.{i}",
        }
        dicom(root / f"{inner}1.2.{i}/1.3.{i}/1.4.{i}.dcm", film(i), jpeg=i % 2 == 0)
        nih = f"{i // 2 + 1:08d}_{i % 2:03d}.png"
        rows.append({"subset_img_id": f"id-{i:02d}", "img_id": nih, "orig_labels": []} | uids)
        annotations += [{"labelId": "Q", "data": None} | uids] * (i % 2)
        if i % 3 == 0:  # a box each
            annotations += [{"labelId": "O", "data": {"x": 1, "y": 2}} | uids] * 2
        elif i != 7:  # the label of a study
            label = "N" if i % 3 == 1 else "A"
            annotations.append({"labelId": label, "StudyInstanceUID": uids["StudyInstanceUID"]})
    names = {"O": "Lung Opacity", "N": "Normal", "A": "No Lung Opacity / Not Normal"}
    groups = {"Calculated": names, "Quality": {"Q": "Exclude"}}
    export = {
        "labelGroups": [
            {"name": group, "labels": [{"id": key, "name": name} for key, name in held.items()]}
            for group, held in groups.items()
        ],
        "datasets": [{"annotations": annotations}],
    }
    write(root / "pneumonia-challenge-dataset-mappings_2018.json", json.dumps(rows))
    name = "pneumonia-challenge-annotations-adjudicated-kaggle_2018.json"
    write(root / name, json.dumps(export))
    return root


COVIDX_TRAIN = [
    "3 SARS-Fig8a-day0.jpeg pneumonia cohen",
    "COVID 1 COVID(1).png COVID-19 sirm",  # a space in the patient id
    "47c78742-4998 47c78742-4998.png normal rsna",
    "287 000001-27.jpg pneumonia cohen",
    "340 000001-27.jpg pneumonia cohen",  # listed twice in the official v4
    "55 a.png normal rsna",
]
COVIDX_TEST = ["t1 t1.png normal", "t2 t2.png COVID-19 fig1", "t3 t3.jpg pneumonia"]


def covidx(
    root: Path,
    train: Iterable[str] = tuple(COVIDX_TRAIN),
    test: Iterable[str] = tuple(COVIDX_TEST),
    data: str = "data/",
    lists: str = "labels/",
) -> Path:
    """The label lists and the images that they name."""
    modes = ("L", "RGB", "RGBA")
    for name, lines in (("train", list(train)), ("test", list(test))):
        write(root / f"{lists}{name}_COVIDx4.txt", "\n".join(lines) + "\n")
        for i, line in enumerate(lines):
            file = next((f for f in line.split() if f[-4:] in (".png", ".jpg", "jpeg")), None)
            if file:
                mode = modes[i % 3] if file.endswith("png") else "L"
                save(root / f"{data}{name}/{file}", i, mode)
    return root


MURA_TRAIN = [  # the same patient with two limbs and both labels
    "XR_SHOULDER/patient00001/study1_positive/image1.png",
    "XR_SHOULDER/patient00001/study1_positive/image2.png",
    "XR_WRIST/patient00001/study1_negative/image1.png",
    "XR_HAND/patient00002/study1_negative/image1.png",
    "XR_HAND/patient00003/study1_positive/image1.png",
]
MURA_VALID = ["XR_WRIST/patient11185/study1_positive/image1.png"]


def mura(root: Path, nested: bool = True, header: bool = False) -> Path:
    """The four headerless lists and the images, with a stray macOS file."""
    home = root / "MURA-v1.1" if nested else root
    for name, paths in (("train", MURA_TRAIN), ("valid", MURA_VALID)):
        full = [f"MURA-v1.1/{name}/{path}" for path in paths]
        studies = sorted({path.rsplit("/", 1)[0] + "/" for path in full})
        lines = [f"{study},{int('positive' in study)}" for study in studies]
        write(
            home / f"{name}_labeled_studies.csv", "\n".join(["Path,Label"] * header + lines) + "\n"
        )
        write(home / f"{name}_image_paths.csv", "\n".join(["Path"] * header + full) + "\n")
        for i, path in enumerate(paths):
            save(home / name / path, i)
    write(home / "train" / Path(MURA_TRAIN[0]).parent / "._image1.png", "no picture")
    return root


# --------------------------------------------------------------------------- bring your own


def pairs(root: Path, rows: Iterable[str], header: str = "image,text,patient") -> Path:
    """pairs.csv and a picture for each row."""
    rows = list(rows)
    write(root / "pairs.csv", "\n".join([header, *rows]) + "\n")
    for i, row in enumerate(rows):
        save(root / row.split(",")[0], i)
    return root


def ten_pairs(root: Path) -> Path:
    """Ten pairs of ten patients."""
    return pairs(root, [f"f/{i}.png,There is finding number {i}.,p{i}" for i in range(10)])
