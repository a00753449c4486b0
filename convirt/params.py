"""The strict, typed view of `params.yaml`: the only module that knows its structure.

The file is read as YAML 1.2, as DVC reads it: `lr: 1e-05`, which `dvc exp run -S train.lr=1e-5`
writes, is a float here, while PyYAML (YAML 1.1) would return the text "1e-05". Nothing is
converted silently: a quoted number is an error, and so is an unknown or missing key.
The comments of `params.yaml` explain each key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PrivateAttr,
    StringConstraints,
    ValidationError,
)

from convirt.contradictions import compared, finetuned, reserved, tabled, zeroshot
from convirt.faults import (
    LAUNCHER,
    MODULE_NAME,
    NAME,
    Problem,
    explain,
    known_keys,
    nearest,
    one_of,
    show,
)
from convirt.faults import ParamsError as ParamsError  # callers of `load` catch it
from convirt.objectives import available

# ------------------------------------------------------------------------------ kinds of value
T = TypeVar("T")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _filled(values: tuple[T, ...]) -> tuple[T, ...]:
    if not values:
        raise ValueError("a list that is not empty")
    return values


def _unique(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) < len(values):
        raise ValueError("a list without duplicates")
    return values


def _ascending(values: tuple[T, ...]) -> tuple[T, ...]:
    if list(values) != sorted(values):  # type: ignore[type-var]
        raise ValueError("numbers in ascending order")
    return values


def _odd(value: int) -> int:
    if value % 2 == 0:
        raise ValueError("an odd number")
    return value


def _share_or_count(value: float) -> float:
    if value >= 1 and value != int(value):
        raise ValueError("a share below 1 or a whole number")
    return value


# names a folder and a DVC stage, and is part of dotted keys
Name = Annotated[str, StringConstraints(pattern=NAME)]
# names a file too
ModuleName = Annotated[str, StringConstraints(pattern=MODULE_NAME)]
# starts a pretraining stage; part of a command in dvc.yaml, so it has no shell syntax
Launcher = Annotated[str, StringConstraints(pattern=LAUNCHER)]
Text = Annotated[str, StringConstraints(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Repeats = Annotated[int, Field(ge=1, le=1000)]  # seeds are 1000 apart: stages/_protocols.py
Natural = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]  # torch takes no larger one
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]  # both ends included
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Percent = Annotated[int, Field(ge=1, le=100)]
Holdout = Annotated[float, Field(ge=0), AfterValidator(_share_or_count)]
Odd = Annotated[Count, AfterValidator(_odd)]
_Range = (BeforeValidator(_as_tuple), AfterValidator(_ascending))
_List = (BeforeValidator(_as_tuple), AfterValidator(_unique))
_Filled = (*_List, AfterValidator(_filled))
Range = Annotated[tuple[Positive, Positive], *_Range]
ShareRange = Annotated[tuple[PositiveShare, PositiveShare], *_Range]
Counts = Annotated[tuple[Count, ...], *_Filled, AfterValidator(_ascending)]
Shares = Annotated[tuple[Fraction, ...], *_Range]
Penalties = Annotated[tuple[Positive, ...], *_Filled, AfterValidator(_ascending)]
Names = Annotated[tuple[Name, ...], *_List]
Labels = Annotated[tuple[Text, ...], *_Filled]
Axis = Annotated[tuple[Name, ...], *_Filled]


# ------------------------------------------------------------------------------ the shape
class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Compute(_Strict):
    """`compute.*`; of these, `workers` and `store` have no effect on any output."""

    device: Literal["cpu", "cuda"]
    threads: Count
    workers: Count
    precision: Literal["float32", "bfloat16"]
    store: Literal["auto", "gpu", "ram"]
    compile: bool
    graphs: bool


class Demo(_Strict):
    """`demo.*`; `sets` maps a set's name to how much of each kind is drawn for it."""

    seed: Seed
    side: Annotated[int, Field(ge=16)]
    sets: dict[Name, dict[Name, Natural]]


class Source(_Strict):
    """`datasets.sources.<name>`; the reader itself checks `options`."""

    reader: Name
    root: Text
    depends: Text
    val: Holdout
    test: Holdout
    options: dict[str, JsonValue]
    split_file: str = ""
    max_dropped: Share | None = None

    def most_dropped(self, usual: float) -> float:
        """The share of its images that may be dropped: its own, else the `usual` one."""
        return usual if self.max_dropped is None else self.max_dropped


class Datasets(_Strict):
    """`datasets.*`."""

    image_size: Annotated[int, Field(ge=8)]
    max_dropped: Share
    sources: dict[Name, Source]


class ImageModel(_Strict):
    """`model.image.*`."""

    architecture: Text
    weights: Text
    size: Annotated[int, Field(ge=8)]


class TextModel(_Strict):
    """`model.text.*`."""

    weights: Text
    frozen_layers: Natural
    max_tokens: Annotated[int, Field(ge=3)]  # [CLS], one token, [SEP]
    cache_frozen: bool


class Projection(_Strict):
    """`model.projection.*`."""

    dim: Count
    hidden: Natural
    layers: Literal[1, 2]


class Model(_Strict):
    """`model.*`."""

    baselines: Names
    image: ImageModel
    text: TextModel
    projection: Projection


class Augment(_Strict):
    """`augment.*` (section 3 and appendix A of the paper)."""

    crop: ShareRange
    flip: Share
    degrees: Annotated[float, Field(ge=0, le=180)]
    translate: Share
    scale: Range
    brightness: Share
    contrast: Share
    blur_sigma: Range
    blur_kernel: Odd


class Train(_Strict):
    """`train.*` (section 3 and appendix A of the paper)."""

    lr: Positive
    weight_decay: NonNegative
    batch_size: Annotated[int, Field(ge=2)]  # one pair has no negative
    tau: Positive
    lam: PositiveShare
    eval_every: Count
    evaluations: Count
    max_passes: Count
    warmup: Natural
    schedule: Literal["plateau", "cosine", "steps"]
    patience: Count
    factor: Fraction
    milestones: Shares
    optimiser: Literal["adam", "sgd"]
    keep_every: Natural
    checkpoint_every: Count
    chunk: Natural
    launcher: Launcher


class Objective(_Strict):
    """`objectives.<name>`: values that differ from the general blocks, and its own settings.

    The objective itself checks `options`.
    """

    train: dict[str, JsonValue] = {}
    augment: dict[str, JsonValue] = {}
    projection: dict[str, JsonValue] = {}
    options: dict[str, JsonValue] = {}


class Pretraining(_Strict):
    """One objective's blocks, with its overrides applied."""

    train: Train
    augment: Augment
    projection: Projection
    options: dict[str, JsonValue]


class Task(_Strict):
    """`tasks.<name>`."""

    corpus: Name
    kind: Literal["binary", "multilabel", "multiclass"]
    labels: Labels
    metric: Literal["auroc", "accuracy"]
    unit: Literal["image", "study", "patient"]
    lr: Positive


class Matrix(_Strict):
    """`matrix.*`: the axes of the transfer runs; without a task there are no runs."""

    task: Names
    init: Axis
    fraction: Annotated[tuple[Percent, ...], *_Filled]
    protocol: Annotated[tuple[Literal["finetune", "linear"], ...], *_Filled]


class FullProtocol(_Strict):
    """`finetune.finetune.*`: training of all weights."""

    head_steps: Natural
    head_lr: Positive
    max_epochs: Count
    repeats: Repeats
    repeats_at: dict[Percent, Repeats]

    def repeats_with(self, fraction: int) -> int:
        """The number of independent runs with `fraction` percent of the labels."""
        return self.repeats_at.get(fraction, self.repeats)


class LinearProtocol(_Strict):
    """`finetune.linear.*`: training of a linear head alone."""

    solver: Literal["adam", "lbfgs"]
    l2: Penalties
    max_epochs: Count
    repeats: Repeats

    def repeats_with(self, fraction: int) -> int:
        """As `FullProtocol.repeats_with`; here it is the same for all shares."""
        return self.repeats


class Finetune(_Strict):
    """`finetune.*`: what both transfer protocols share, and each one's own settings."""

    batch_size: Count
    weight_decay: NonNegative
    dropout: Annotated[float, Field(ge=0, lt=1)]
    patience: Count
    factor: Fraction
    stop: Count
    bootstrap: Count
    finetune: FullProtocol
    linear: LinearProtocol


class Retrieval(_Strict):
    """`retrieval.*`."""

    dataset: Name
    corpus: Name
    systems: Names
    index: Literal["exact", "hnsw"]
    k: Counts


class ZeroShotPrompts(_Strict):
    """`zeroshot.prompts.<task>.<label>`; mutually exclusive classes need no negative prompts."""

    positive: Labels
    negative: Annotated[tuple[Text, ...], *_List] = ()


class ZeroShot(_Strict):
    """`zeroshot.*`."""

    task: Names
    system: Names
    tau: Positive
    prompts: dict[Name, dict[Text, ZeroShotPrompts]]


class Ablation(_Strict):
    """`ablation.*`: Table 4 and Figure 5."""

    objective: ModuleName
    corpus: Name
    task: Name
    fraction: Percent
    protocol: Literal["finetune", "linear"]
    k: Count
    variants: dict[Name, Objective]
    trajectory: Names


class Params(_Strict):
    """All of `params.yaml`."""

    seed: Seed
    compute: Compute
    demo: Demo
    datasets: Datasets
    model: Model
    augment: Augment
    train: Train
    objectives: dict[ModuleName, Objective]
    corpora: Names
    tasks: dict[Name, Task]
    matrix: Matrix
    finetune: Finetune
    retrieval: Retrieval
    zeroshot: ZeroShot
    finetuned: dict[ModuleName, Name]
    ablation: Ablation
    tables: Annotated[tuple[Literal["tables"], ...], *_List]
    _source: str = PrivateAttr("params.yaml")

    def get(self, key: str) -> Any:
        """The plain, JSON-able value at a dotted key, such as `get("tasks.rsna")`.

        Raises:
            ParamsError: There is no such key; the message names the nearest one.
        """
        value: Any = self.model_dump(mode="json")
        known = list(known_keys(Params, value))
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                hint = f"nearest known key: {nearest(key, known)}"
                problem = Problem(key, "a known parameter", "no such key", hint)
                raise ParamsError(self._source, [problem])
            value = value[part]
        return value


# ------------------------------------------------------------------------------ reading
def load(path: Path) -> Params:
    """Read and check a parameter file.

    Raises:
        ParamsError: The file is missing, is no YAML mapping, or a key or value in it is unknown,
            missing, of another type, out of range, or in conflict with another one.
    """
    return parse(read_yaml(path), path)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML 1.2 file that holds a mapping, without checking it.

    Raises:
        ParamsError: The file is missing, not valid YAML (repeated keys included), or no mapping.
    """
    try:
        return from_yaml(path.read_bytes(), path)
    except FileNotFoundError:
        problem = Problem("(file)", "a parameter file", "none", "git checkout params.yaml")
        raise ParamsError(path, [problem]) from None


def from_yaml(text: str | bytes, source: Path | str) -> dict[str, Any]:
    """The mapping in a YAML 1.2 text, unchecked; errors name `source`.

    Raises:
        ParamsError: The text is not valid YAML (repeated keys included), or no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        # pure: the resolver of YAML 1.2, whichever C extension is installed
        value = YAML(typ="safe", pure=True).load(text)
    # ValueError: no UTF-8, or no value of its kind, such as the date 2024-13-45
    except (YAMLError, ValueError, RecursionError) as error:
        found = " ".join(str(error).split())
        raise ParamsError(source, [Problem("(file)", "YAML", found, "correct that line")]) from None
    if not isinstance(value, dict):
        problem = Problem("(file)", "a mapping of keys to values", show(value), "see params.yaml")
        raise ParamsError(source, [problem])
    return value


def parse(data: Mapping[str, Any], source: Path | str = "params.yaml") -> Params:
    """Check plain data, as read from YAML; errors name `source`.

    Raises:
        ParamsError: As in `load`.
    """
    try:
        params = Params.model_validate(dict(data))
    except ValidationError as error:
        raise ParamsError(
            source, explain(error.errors(include_url=False), known_keys(Params, data))
        ) from None
    if problems := list(_contradictions(params)):
        raise ParamsError(source, problems)
    params._source = str(source)
    return params


def pretraining(params: Params, objective: str, variant: str | None = None) -> Pretraining:
    """The blocks that an objective is trained with: the general ones, overridden by its own values.

    `params` may be the view of a stage that declared train, augment, model.projection and
    objectives.<objective>. A variant overrides these in turn and also needs
    ablation.variants.<variant>.

    Raises:
        ParamsError: One of its own values has a key that the block lacks, or is out of range.
    """
    layers = {f"objectives.{objective}": params.objectives[objective]}
    if variant is not None:
        layers[f"ablation.variants.{variant}"] = params.ablation.variants[variant]
    blocks = {
        "train": params.train,
        "augment": params.augment,
        "projection": params.model.projection,
    }
    options: dict[str, Any] = {}
    for where, own in layers.items():
        if "launcher" in own.train:
            hint = "set train.launcher: dvc.yaml starts all pretraining with it"
            problem = Problem(f"{where}.train.launcher", "no launcher of its own", "one", hint)
            raise ParamsError("params.yaml", [problem])
        for name, block in blocks.items():
            data = {**block.model_dump(), **getattr(own, name)}
            try:
                blocks[name] = type(block).model_validate(data)
            except ValidationError as error:
                found = explain(error.errors(include_url=False), known_keys(type(block), data))
                problems = [p._replace(key=f"{where}.{name}.{p.key}") for p in found]
                raise ParamsError("params.yaml", problems) from None
        options |= own.options
    return Pretraining.model_validate({**blocks, "options": options})


# ------------------------------------------------------------------------------ checking pairs
def _contradictions(params: Params) -> Iterator[Problem]:
    """Contradictions between two keys."""
    p = params
    if p.compute.precision == "bfloat16" and p.compute.device != "cuda":
        found = f"bfloat16 on compute.device: {p.compute.device}"
        yield Problem(
            "compute.precision", "float32 without a GPU", found, "set float32, or device: cuda"
        )
    if p.compute.store == "gpu" and p.compute.device != "cuda":
        found = f"gpu on compute.device: {p.compute.device}"
        yield Problem(
            "compute.store", "auto or ram without a GPU", found, "set auto, or device: cuda"
        )
    if p.compute.graphs and p.compute.device != "cuda":
        found = f"true on compute.device: {p.compute.device}"
        yield Problem("compute.graphs", "false without a GPU", found, "set false, or device: cuda")
    for name in p.objectives:
        if name in p.model.baselines:
            hint = "remove it from model.baselines or from objectives"
            yield Problem("model.baselines", "encoders without pretraining", name, hint)
        elif name not in available():
            expected = f"an objective that has a file: {', '.join(available())}"
            hint = f"correct it, or write convirt/objectives/{name}.py (docs/objectives.md)"
            yield Problem(f"objectives.{name}", expected, "no such file", hint)
        yield from _own_values(p, name)
    systems = (*p.model.baselines, *p.objectives, *p.finetuned)
    for i, init in enumerate(p.matrix.init):
        yield from one_of(f"matrix.init.{i}", init, systems)
    for i, name in enumerate(p.retrieval.systems):
        yield from one_of(f"retrieval.systems.{i}", name, systems)
    for i, corpus in enumerate(p.corpora):
        yield from one_of(f"corpora.{i}", corpus, p.datasets.sources)
    for i, name in enumerate(p.matrix.task):
        yield from one_of(f"matrix.task.{i}", name, p.tasks)
        if name not in p.tasks:
            continue
        yield from one_of(f"matrix.task.{i} (its store)", name, p.datasets.sources)
        if {*p.objectives, *p.finetuned} & set(p.matrix.init):
            yield from one_of(f"tasks.{name}.corpus", p.tasks[name].corpus, p.corpora)
    for name, task in p.tasks.items():
        yield from _task(f"tasks.{name}", task)
    yield from _ablation(p)
    yield from compared(p)
    yield from finetuned(p)
    yield from reserved(p)
    yield from tabled(p)
    yield from zeroshot(p)
    yield from one_of("retrieval.dataset", p.retrieval.dataset, p.datasets.sources)
    own = p.ablation
    if set(p.retrieval.systems) - set(p.model.baselines) or own.variants or own.trajectory:
        yield from one_of("retrieval.corpus", p.retrieval.corpus, p.corpora)


def _own_values(p: Params, objective: str, variant: str | None = None) -> Iterator[Problem]:
    try:
        augment = pretraining(p, objective, variant).augment
    except ParamsError as error:
        yield from error.problems
        return
    most = 2 * p.model.image.size - 1  # half of the kernel is mirrored at the border
    if augment.blur_kernel > most:
        hint = f"set it to {most}, or raise model.image.size"
        yield Problem("augment.blur_kernel", f"at most {most}", str(augment.blur_kernel), hint)


def _ablation(p: Params) -> Iterator[Problem]:
    own = p.ablation
    for i, name in enumerate(own.trajectory):
        yield from one_of(f"ablation.trajectory.{i}", name, p.objectives)
    if not own.variants and not own.trajectory:
        return
    yield from one_of("ablation.objective", own.objective, p.objectives)
    yield from one_of("ablation.corpus", own.corpus, p.corpora)
    yield from one_of("ablation.task", own.task, p.tasks)
    yield from one_of("ablation.task (its store)", own.task, p.datasets.sources)
    for name in own.trajectory:
        if name in p.objectives and not _keeps_states(p, name):
            hint = f"set train.keep_every, or objectives.{name}.train.keep_every"
            yield Problem("train.keep_every", f"1 or more, for the trajectory of {name}", "0", hint)
    for name in own.variants:
        if name in p.objectives or name in p.model.baselines or name in p.finetuned:
            hint = "name it after what it changes, such as tau-1"
            yield Problem(f"ablation.variants.{name}", "a name of its own", name, hint)
        elif own.objective in p.objectives:
            yield from _own_values(p, own.objective, name)


def _keeps_states(p: Params, objective: str) -> bool:
    try:
        return pretraining(p, objective).train.keep_every > 0
    except ParamsError:  # reported elsewhere
        return True


def _task(key: str, task: Task) -> Iterator[Problem]:
    n = len(task.labels)
    if task.kind == "binary" and n != 1:
        yield Problem(
            f"{key}.labels", "one label, as kind is binary", f"{n}", "name one, or use multilabel"
        )
    if task.kind == "multiclass" and n < 2:
        yield Problem(f"{key}.labels", "at least two classes", f"{n}", "name all classes")
    if task.kind == "multilabel" and task.metric == "accuracy":
        hint = "use auroc, the mean over labels"
        yield Problem(f"{key}.metric", "auroc, as kind is multilabel", "accuracy", hint)
