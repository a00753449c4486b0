"""The two protocols of the stage finetune: what each trains on what, and which weights it keeps."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from convirt.essence import digest_of
from stages._scratch import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd
    from torch import Tensor, nn

    from convirt.labelled import Images
    from convirt.params import FullProtocol, LinearProtocol, Params, Task
    from convirt.recipe import Recipe
    from convirt.store import Store
    from convirt.transfer import Classifier, EpochReport
    from stages._stage import Stage

    Report = Callable[[EpochReport], None]


class Protocol(StrEnum):
    """How an encoder is transferred."""

    finetune = "finetune"
    linear = "linear"


APART = 1000  # repeat i of seed s is run with seed s * APART + i, so repeats are at most so many
WEIGHTS = {Protocol.finetune: "model.safetensors", Protocol.linear: "head.safetensors"}


class Setting(NamedTuple):
    """What a protocol trains, and on what.

    Attributes:
        part: The images of a split, or their features.
        records: Row i describes image i, or the features in row i.
        build: A model with a fresh head.
        train: Takes model, training and validation part, recipe, report and scratch folder; leaves
            the model in its best state and returns how it got there.
        weights: The weights of a trained model that are kept.
    """

    part: Callable[[str], Images]
    records: pd.DataFrame
    build: Callable[[Recipe], Any]
    train: Callable[[Any, Images, Images, Recipe, Report, Path], dict[str, float]]
    weights: Callable[[Any], dict[str, Tensor]]


def own(p: Params, protocol: str) -> FullProtocol | LinearProtocol:
    """The parameters that only this protocol reads."""
    return p.finetune.linear if protocol == Protocol.linear else p.finetune.finetune


def recipe(p: Params, spec: Task, protocol: str, repeat: int) -> Recipe:
    """The recipe from params.yaml; each repeat of each seed is a run with a seed of its own."""
    from convirt.recipe import Recipe

    f = p.finetune
    phase: dict[str, Any] = {}
    if protocol == Protocol.finetune:
        phase = {"head_steps": f.finetune.head_steps, "head_lr": f.finetune.head_lr}
    return Recipe(
        protocol=protocol,
        kind=spec.kind,
        metric=spec.metric,
        lr=spec.lr,
        batch_size=f.batch_size,
        weight_decay=f.weight_decay,
        dropout=f.dropout,
        patience=f.patience,
        factor=f.factor,
        stop=f.stop,
        max_epochs=own(p, protocol).max_epochs,
        seed=p.seed * APART + repeat,
        device=p.compute.device,
        bfloat16=p.compute.precision == "bfloat16",
        **phase,
    )


class Given(NamedTuple):
    """What both protocols start from.

    Attributes:
        stage: The stage that runs them.
        store: The store of the task.
        encoder: The folder of the encoder.
        spec: The task.
        inputs: Digests of store and encoder.
        scratch: Where features are kept.
        check: Called before each batch; raises to end the run.
    """

    stage: Stage
    store: Store
    encoder: Path
    spec: Task
    inputs: dict[str, str]
    scratch: Path
    check: Callable[[], None]


def setting(protocol: Protocol, given: Given) -> Setting:
    """Prepare a protocol."""
    return _fine_tuned(given) if protocol is Protocol.finetune else _linear(given)


def _fine_tuned(given: Given) -> Setting:
    """All weights, on images."""
    from convirt import image_encoder, labelled, resident, transfer

    store, spec, compute = given.store, given.spec, given.stage.params.compute
    config, device = image_encoder.read_image_config(given.encoder), compute.device

    def build(recipe: Recipe) -> nn.Module:
        network, _ = image_encoder.load_image_encoder(given.encoder)
        model = transfer.Classifier(network, config.width, len(spec.labels), recipe)
        return model.to(device)

    prepare = partial(image_encoder.to_input, config=config)
    images = resident.placed(store.images, compute.store, device)
    split = partial(labelled.split_of, images, store.records, spec.labels, spec.unit)
    part = partial(split, prepare=prepare, device=device, check=given.check)
    return Setting(part, store.records, build, _by_epochs, _named_for_timm)


def _linear(given: Given) -> Setting:
    """A linear head, on features."""
    import numpy as np

    from convirt import image_encoder, labelled, transfer

    spec, p, records = given.spec, given.stage.params, given.store.records
    device, own = p.compute.device, p.finetune.linear
    rows = np.flatnonzero(records["split"].isin(labelled.SPLITS))
    width = image_encoder.read_image_config(given.encoder).width
    features = _features(given, rows)

    def build(recipe: Recipe) -> nn.Module:
        return transfer.linear_head(width, len(spec.labels), recipe).to(device)

    def by_steps(*arguments: Any) -> dict[str, float]:
        with transfer.one_thread():
            return _by_epochs(*arguments)

    def exact(
        head: nn.Sequential, train: Images, val: Images, recipe: Recipe, *rest: object
    ) -> dict[str, float]:
        choice = transfer.probe(head, train, val, recipe, own.l2)
        return {"l2": choice.l2, "steps": choice.steps}

    def weights(head: nn.Sequential) -> dict[str, Tensor]:
        return dict(head[1].state_dict())

    records = records.iloc[rows]
    split = partial(labelled.split_of, features, records, spec.labels, spec.unit)
    part = partial(split, prepare=labelled.as_they_are, device=device, check=given.check)
    train = exact if own.solver == "lbfgs" else by_steps
    return Setting(part, records, build, train, weights)


def _features(given: Given, rows: np.ndarray) -> np.ndarray:
    """Features of the images `rows`, (n, width), which another run may have left in scratch."""
    from convirt import devices, feature_cache, provenance

    stage, encoder, compute = given.stage, given.encoder, given.stage.params.compute
    root = Path(__file__).resolve().parents[1]
    # its imports, and what makes torch deterministic
    modules = (
        *provenance.import_closure(Path(feature_cache.__file__), root),
        Path(provenance.__file__),
    )
    key = {
        **given.inputs,
        "code": {path.relative_to(root).as_posix(): digest_of(path) for path in modules},
        "versions": provenance.versions(),
        "hardware": devices.hardware(compute.device),
        # sums on a CPU are split among threads; features are float32 whatever the precision
        "threads": compute.threads if compute.device == "cpu" else None,
    }
    folder = given.scratch / f"features-{provenance.digest(key)[:24]}"
    images = given.store.images
    get = partial(feature_cache.features, folder, images, rows, encoder, compute.device)
    if (folder / feature_cache.FILE).exists():
        return get()

    def waiting(process: str) -> None:
        stage.say(f"waiting for process {process}, which is computing the same features")

    name = f"features of {encoder.relative_to(stage.root)}"
    with stage.progress(name, len(rows), "images") as bar:

        def report(images: int) -> None:
            bar.update(images)
            stage.poll()
            given.check()

        found = get(report, stage.confirm, waiting, given.check)
    size = f"{found.nbytes / 1e6:.0f} MB"
    stage.say(f"{name}: {size} in {SCRATCH}/{folder.name}; `make clean` removes them")
    return found


def _by_epochs(
    model: nn.Module, train: Images, val: Images, recipe: Recipe, report: Report, scratch: Path
) -> dict[str, float]:
    """The paper's way to train: Adam, a plateau schedule, the best epoch."""
    from convirt import transfer

    outcome = transfer.transfer(model, train, val, recipe, report, scratch)
    return {"best_epoch": outcome.best_epoch, "epochs": outcome.epochs}


def _named_for_timm(classifier: Classifier) -> dict[str, Tensor]:
    """The classifier's weights under the names that timm gives to the same architecture."""
    head = str(getattr(classifier.encoder, "default_cfg", {}).get("classifier", "head"))
    weights = dict(classifier.encoder.state_dict())
    weights |= {f"{head}.{name}": value for name, value in classifier.head[1].state_dict().items()}
    return weights
