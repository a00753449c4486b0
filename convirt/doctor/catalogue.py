"""Official facts about each set: where it comes from, which lists it has, how long they are.

Names and numbers only; `docs/datasets/` explains the rest. A test compares the table of
`docs/datasets/README.md` with this module, and the lists with what the readers open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from convirt.datasets import rsna_files, rsna_release

OPEN, REGISTRATION, CREDENTIALED, YOURS = "open", "registration", "credentialed", "yours"


@dataclass(frozen=True)
class ListFile:
    """A list of the layout.

    Attributes:
        names: The file, relative to what holds the set; further names are alternatives. Fields such
            as `{version}` are filled in from the reader's options.
        rows: Official number of rows, header excluded; 0 where there is none.
        columns: Columns that must be there.
        header: Whether there is a header; if not, `columns` are all columns.
        when: Option that must be set for the list to be read; "" for always.
        version: The version that `rows` is for, where there are several; "" for all.
    """

    names: tuple[str, ...]
    rows: int = 0
    columns: tuple[str, ...] = ()
    header: bool = True
    when: str = ""
    version: str = ""


@dataclass(frozen=True)
class Folder:
    """A flat folder of the layout, whose files are cheap to count.

    Attributes:
        name: Relative to what holds the set.
        suffix: Suffix of the files to count.
        files: Official number of these files.
    """

    name: str
    suffix: str
    files: int


@dataclass(frozen=True)
class Facts:
    """What is officially known about the set that a reader reads.

    Attributes:
        title: Name of the set.
        kind: What it is for: "pairs", "labels" or "retrieval".
        access: OPEN, REGISTRATION (an account, terms to accept), CREDENTIALED (training and a
            signed agreement) or YOURS.
        page: Official page.
        size: Size of the download.
        images: Official number of images that come into the store.
        holds: What `root` has to contain.
        steps: How to get the set into `{root}`, in its `{release}`.
        reports: How to get the reports alone, where they are a separate download.
        homes: Folders that may hold the lists, relative to the root.
        lists: The lists that the reader opens.
        folders: Folders whose files can be counted as well.
        quick: Whether the reader takes only seconds for the whole set.
        paths: Option that names a file or folder -> the reader whose facts say where that comes
            from, "" for none.
        release: The one that `steps` get, unless the root is named after another.
    """

    title: str
    kind: str
    access: str
    page: str
    size: str
    images: int
    holds: str
    steps: tuple[str, ...]
    lists: tuple[ListFile, ...]
    reports: tuple[str, ...] = ()
    homes: tuple[str, ...] = ("",)
    folders: tuple[Folder, ...] = ()
    quick: bool = True
    paths: Mapping[str, str] = field(default_factory=dict)
    release: str = ""


def _mimic_list(name: str) -> tuple[str, ...]:
    """File names of a list, packed or unpacked; release 2.1.0 still calls its lists 2.0.0."""
    stems = [f"mimic-cxr-{version}-{name}.csv" for version in ("2.0.0", "2.1.0")]
    return tuple(f"{stem}{ending}" for stem in stems for ending in (".gz", ""))


def _covidx_list(part: str) -> tuple[str, ...]:
    """A list at the root, or in labels/ as in the repository of the lists."""
    return tuple(f"{folder}{part}_{{version}}.txt" for folder in ("", "labels/"))


def _packed(*folders: str) -> tuple[str, ...]:
    """The root itself, the download's own folder in it, or its zip file."""
    return ("", *(f"{zipped}{name}" for name in folders for zipped in ("", f"{name}.zip/")))


_YOUR_STEPS = (
    "write the list as docs/your-data.md shows, into {root}; "
    "or name the one that is there in options.file",
)

FACTS: Mapping[str, Facts] = {
    "mimic-cxr": Facts(
        title="MIMIC-CXR-JPG and the reports of MIMIC-CXR",
        kind="pairs",
        access=CREDENTIALED,
        page="https://physionet.org/content/mimic-cxr-jpg/2.0.0/",
        size="about 570 GB",
        images=377_110,
        release="2.0.0",
        holds="mimic-cxr-2.0.0-metadata.csv[.gz], files/p10/..., mimic-cxr-reports.zip",
        steps=(
            "get access: https://physionet.org/content/mimic-cxr-jpg/2.0.0/ (an account, CITI"
            " training, the data use agreement)",
            "wget -r -N -c -np -nH --cut-dirs=3 -P {root} --user YOU --ask-password"
            " https://physionet.org/files/mimic-cxr-jpg/{release}/",
            "wget -N -c -P {root} --user YOU --ask-password"
            " https://physionet.org/files/mimic-cxr/{release}/mimic-cxr-reports.zip",
        ),
        reports=(
            "wget -N -c -P {root} --user YOU --ask-password"
            " https://physionet.org/files/mimic-cxr/{release}/mimic-cxr-reports.zip",
            "or set options.reports of this source in params.yaml",
        ),
        lists=(
            ListFile(
                _mimic_list("metadata"),
                377_110,
                ("dicom_id", "subject_id", "study_id", "ViewPosition"),
            ),
            ListFile(_mimic_list("split"), 377_110, ("dicom_id", "split"), when="official_split"),
        ),
        quick=False,
        paths={"reports": "", "images": ""},
    ),
    "open-i": Facts(
        title="Open-i, the chest films and reports of Indiana University",
        kind="pairs",
        access=OPEN,
        page="https://openi.nlm.nih.gov/faq",
        size="1.3 GB of PNG, 1 MB of reports",
        images=7_470,
        holds="ecgen-radiology/ (or NLMCXR_reports.tgz), NLMCXR_png/",
        steps=(
            "mkdir -p {root}/NLMCXR_png",
            "curl -L https://openi.nlm.nih.gov/imgs/collections/NLMCXR_reports.tgz"
            " -o {root}/NLMCXR_reports.tgz",
            "curl -L https://openi.nlm.nih.gov/imgs/collections/NLMCXR_png.tgz | tar -xz -C"
            " {root}/NLMCXR_png",
        ),
        lists=(),
        folders=(Folder("ecgen-radiology", ".xml", 3_955), Folder("NLMCXR_png", ".png", 7_470)),
        paths={"reports": "", "images": ""},
    ),
    "chexpert": Facts(
        title="CheXpert v1.0 (or v1.0-small)",
        kind="labels",
        access=REGISTRATION,
        page="https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2",
        size="about 440 GB, the small one about 11 GB",
        images=223_648,
        holds="train.csv, valid.csv, train/, valid/",
        steps=(
            "register and download:"
            " https://stanfordaimi.azurewebsites.net/datasets/8cbd9ed4-2eb9-4565-affc-111cf4f7ebe2",
            "put CheXpert-v1.0-small.zip, or what it holds, into {root}",
        ),
        lists=tuple(
            ListFile((f"{part}.csv",), rows, ("Path", "Frontal/Lateral", "AP/PA"))
            for part, rows in (("train", 223_414), ("valid", 234))
        ),
        homes=_packed("CheXpert-v1.0-small", "CheXpert-v1.0"),
        paths={"exclude": "chexpert-8x200"},
    ),
    "chexpert-8x200": Facts(
        title="CheXpert 8x200, the retrieval lists of the paper",
        kind="retrieval",
        access=OPEN,
        page="https://github.com/yuhaozhang/convirt",
        size="under 1 MB; the images are CheXpert's",
        images=1_680,
        holds="image-retrieval/, text-retrieval/",
        # without .git, which `depends` would hash and which differs from clone to clone
        steps=("git clone https://github.com/yuhaozhang/convirt {root} && rm -rf {root}/.git",),
        lists=(
            ListFile(("image-retrieval/candidate.csv",), 1_600, ("Path",)),
            ListFile(("image-retrieval/query.csv",), 80, ("Variable", "Path")),
            ListFile(("text-retrieval/query.csv",), 40, ("Variable", "Text")),
        ),
        paths={"images": "chexpert"},
    ),
    "rsna": Facts(
        title="RSNA Pneumonia Detection Challenge 2018, stage 2",
        kind="labels",
        access=REGISTRATION,
        page="https://www.kaggle.com/c/rsna-pneumonia-detection-challenge",
        size="about 4 GB",
        images=26_684,
        holds="stage_2_train_labels.csv, stage_2_train_images/",
        steps=(
            "accept the rules: https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/rules",
            "kaggle competitions download -c rsna-pneumonia-detection-challenge -p {root}",
            "unzip -d {root} {root}/rsna-pneumonia-detection-challenge.zip",
        ),
        lists=(ListFile(("stage_2_train_labels.csv",), 30_227, ("patientId", "Target")),),
        folders=(Folder("stage_2_train_images", ".dcm", 26_684),),
        paths={"patients": "", "annotations": ""},
    ),
    "rsna-release": Facts(
        title="RSNA Pneumonia Detection Challenge 2018, RSNA's own release",
        kind="labels",
        access=OPEN,
        page="https://www.rsna.org/rsnai/ai-image-challenge/rsna-pneumonia-detection-challenge-2018",
        size="4.0 GB",
        images=29_684,
        holds=f"{rsna_release.FILMS}.zip, {rsna_files.ANNOTATIONS}, {rsna_files.MAPPING}",
        steps=tuple(
            rsna_release.GET + name
            for name in (
                f"{rsna_release.FILMS}.zip",
                rsna_files.ANNOTATIONS,
                rsna_files.MAPPING,
            )
        ),
        lists=(),
        paths={"images": ""},
    ),
    "covidx": Facts(
        title="COVIDx4",
        kind="labels",
        access=REGISTRATION,
        page="https://github.com/lindawangg/COVID-Net/blob/master/docs/COVIDx.md",
        size="no download of its own: put together from five public sets",
        images=14_198,
        holds="labels/train_COVIDx4.txt, labels/test_COVIDx4.txt, data/train/, data/test/",
        steps=(
            "git clone https://github.com/lindawangg/COVID-Net {root}",
            "docs/datasets/covidx.md names the five sources of {root}/data/train and "
            "{root}/data/test (Kaggle's COVIDx archives are of later versions)",
        ),
        lists=(
            ListFile(_covidx_list("train"), 13_898, version="COVIDx4"),
            ListFile(_covidx_list("test"), 300, version="COVIDx4"),
        ),
    ),
    "mura": Facts(
        title="MURA v1.1",
        kind="labels",
        access=REGISTRATION,
        page="https://stanfordmlgroup.github.io/competitions/mura/",
        size="about 3 GB",
        images=40_005,
        holds="MURA-v1.1.zip, MURA-v1.1/, or train_image_paths.csv, ..., train/, valid/",
        steps=(
            "register and download: https://stanfordmlgroup.github.io/competitions/mura/",
            "put MURA-v1.1.zip, or what it holds, into {root}",
        ),
        lists=(
            ListFile(("train_image_paths.csv",), 36_808, ("path",), header=False),
            ListFile(("valid_image_paths.csv",), 3_197, ("path",), header=False),
            ListFile(("train_labeled_studies.csv",), 13_457, ("path", "label"), header=False),
            ListFile(("valid_labeled_studies.csv",), 1_199, ("path", "label"), header=False),
        ),
        homes=_packed("MURA-v1.1"),
    ),
    "pairs": Facts(
        title="your own images with reports",
        kind="pairs",
        access=YOURS,
        page="docs/your-data.md",
        size="yours",
        images=0,
        holds="pairs.csv",
        steps=_YOUR_STEPS,
        lists=(ListFile(("{file}",), 0, ("image", "text", "patient")),),
        quick=False,
    ),
    "labels": Facts(
        title="your own images with labels",
        kind="labels",
        access=YOURS,
        page="docs/your-data.md",
        size="yours",
        images=0,
        holds="labels.csv",
        steps=_YOUR_STEPS,
        lists=(ListFile(("{file}",), 0, ("image", "patient")),),
        quick=False,
    ),
    "retrieval": Facts(
        title="your own queries and candidates",
        kind="retrieval",
        access=YOURS,
        page="docs/your-data.md",
        size="yours",
        images=0,
        holds="queries.csv, candidates.csv",
        steps=_YOUR_STEPS,
        lists=(
            ListFile(("candidates.csv",), 0, ("image", "label")),
            ListFile(("queries.csv",), 0, ("label",)),
        ),
        quick=False,
    ),
}
