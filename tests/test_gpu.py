"""The same code on a GPU and in bfloat16: close to float32 on the CPU, and as robust.

Without a GPU, bfloat16 is tested on the CPU; tests that need a GPU are skipped with that reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from test_recorded import RECORDABLE, Again
from test_transfer import RECIPE, Encoder, split
from tiny_models import CONFIG, PAPER, assert_same_run
from torch._inductor.utils import fresh_cache

from convirt import devices, recorded, resident, transfer
from convirt.image_encoder import create_image_encoder
from convirt.labelled import Source, features
from convirt.objectives.base import Objective
from convirt.recorded import Step
from convirt.schedule import TrainConfig
from convirt.training import Result, autocast_of, pretrain, resumed_step

pytestmark = pytest.mark.usefixtures("deterministic")

GPU = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)
STEPS = replace(CONFIG, eval_every=5, evaluations=10)
SHORT = 8  # a run that dies here resumes at step 6, whose sentences are of the rarer length


def run(
    bert: Path,
    config: TrainConfig,
    device: str,
    scratch: Path | None = None,
    stop: int = 0,
    dropout: bool = False,
    name: str = "convirt",
) -> tuple[Objective, Result | None]:
    """A pretraining of 50 steps; it dies after `stop` of them, if that is not 0."""
    data = tiny_models.corpus(words=20)  # lengths of up to 16 and of up to 32 tokens
    model = tiny_models.objective(name, bert, data, config=config)
    # dropout draws from the device's generator: devices can be compared only without it
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and not dropout:
            module.p = 0.0

    def report(status: dict[str, float]) -> None:
        if status["step"] == stop:
            raise KeyboardInterrupt

    try:
        return model, pretrain(model, data, PAPER, config, scratch, report, device)
    except KeyboardInterrupt:
        return model, None


def curve(result: Result | None) -> np.ndarray:
    """Training and validation losses, (evaluations, 2)."""
    assert result is not None
    return np.array([[row["train_loss"], row["val_loss"]] for row in result.history[1:]], float)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["tf_efficientnet_lite0", "resnet50"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_encoders_have_deterministic_kernels(
    device: str, architecture: str, precision: str
) -> None:
    """Unlike the paper's, the demo's encoder has depthwise convolutions; cuDNN has few for them."""
    encoder, _ = create_image_encoder(architecture, "random", 32, 0)
    encoder = encoder.to(device).train()
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    found = []
    for _ in range(2):
        encoder.zero_grad(set_to_none=True)
        with autocast_of(x.device, precision)():
            h = encoder(x)
        h.float().square().mean().backward()
        found.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
    assert found[0] and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_bfloat16_follows_float32(bert: Path, device: str, cache: bool) -> None:
    config = replace(STEPS, cache_frozen=cache)
    exact = curve(run(bert, config, "cpu")[1])
    model, result = run(bert, replace(config, precision="bfloat16"), device)
    assert abs(curve(result) - exact).max() < 0.1  # 8 bits of mantissa over 50 steps
    assert not np.array_equal(curve(result), exact)
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())


@pytest.mark.parametrize("device", [GPU])
def test_gpu_follows_the_cpu_in_float32(bert: Path, device: str) -> None:
    assert abs(curve(run(bert, STEPS, device)[1]) - curve(run(bert, STEPS, "cpu")[1])).max() < 0.01


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", [GPU])
def test_compiled_encoders_follow_eager_steps(
    bert: Path, device: str, precision: str, graphs: bool, tmp_path: Path
) -> None:
    """In CUDA graphs of their own or of whole steps; a killed and resumed run ends the same."""
    config = replace(STEPS, precision=precision, cache_frozen=False)
    eager = curve(run(bert, config, device)[1])
    config = replace(config, compile=True, graphs=graphs)
    assert abs(curve(run(bert, config, device)[1]) - eager).max() < (
        0.01 if precision == "float32" else 0.1
    )
    one = partial(run, bert, config, device, dropout=True)
    whole = one()
    one(scratch=tmp_path, stop=SHORT)
    # as another process on another machine, which has seen no shape and compiled nothing yet
    torch._dynamo.reset()
    with fresh_cache():
        assert_same(one(scratch=tmp_path), whole)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", RECORDABLE)
@pytest.mark.parametrize("device", [GPU])
def test_recorded_steps_are_the_usual_ones(
    bert: Path,
    device: str,
    name: str,
    precision: str,
    cache: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bit for bit those whose kernels are launched one by one, with dropout too."""
    config = replace(STEPS, precision=precision, graphs=True, cache_frozen=cache)
    one = partial(run, bert, config, device, dropout=True, name=name)
    record, taken = recorded.Capture.record, []

    def counted(
        self: recorded.Capture, step: Callable[[], Step]
    ) -> tuple[Step, Callable[[], None]]:
        taken.append(step)
        return record(self, step)

    monkeypatch.setattr(recorded.Capture, "record", counted)
    whole = one()
    # a second length of sentences drops the recording of the first, which is then taken again
    assert len(taken) == (1 if name == "simclr" else 3)
    one(scratch=tmp_path, stop=SHORT)
    assert_same(one(scratch=tmp_path), whole)
    monkeypatch.setattr(recorded, "Capture", Again)
    monkeypatch.setattr(Again, "device", device)
    monkeypatch.setattr(Again, "names", ("scale", "bias") if name == "siglip" else ())
    assert_same(one(), whole)


def assert_same(one: tuple[Objective, Result | None], two: tuple[Objective, Result | None]) -> None:
    """Both ended with the same bits."""
    assert one[1] is not None and two[1] is not None
    assert_same_run((one[0], one[1]), (two[0], two[1]))


@pytest.mark.parametrize("device", [GPU])
def test_chunks_on_a_gpu(bert: Path, device: str) -> None:
    """In bfloat16, where autocast caches what it has cast."""
    config = replace(STEPS, precision="bfloat16", chunk=2)
    exact = curve(run(bert, replace(STEPS, chunk=2), "cpu")[1])
    assert abs(curve(run(bert, config, device)[1]) - exact).max() < 0.1


@pytest.mark.parametrize("device", [GPU])
def test_images_on_the_gpu_give_the_same_run(bert: Path, device: str) -> None:
    curves = []
    for where in ("ram", "gpu"):
        data = tiny_models.corpus()
        data.images = resident.placed(np.asarray(data.images), where, device)
        assert isinstance(data.images, torch.Tensor) == (where == "gpu")
        model = tiny_models.objective("convirt", bert, data, config=STEPS)
        curves.append(curve(pretrain(model, data, PAPER, STEPS, None, lambda _: None, device)))
    assert np.array_equal(curves[0], curves[1])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_killed_and_resumed_is_the_same_run(
    bert: Path, tmp_path: Path, device: str, precision: str
) -> None:
    config = replace(STEPS, precision=precision)
    whole = run(bert, config, device)
    run(bert, config, device, tmp_path, stop=31)
    assert resumed_step(tmp_path) == 30
    assert_same(run(bert, config, device, tmp_path), whole)


@pytest.mark.parametrize("protocol", ["finetune", "linear"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_transfer_in_bfloat16(device: str, protocol: str) -> None:
    losses = []
    for bfloat16, where in ((False, "cpu"), (True, device)):
        recipe = replace(RECIPE, protocol=protocol, device=where, bfloat16=bfloat16, dropout=0.0)
        images = replace(split(48, 0), device=where)
        classifier = transfer.Classifier(Encoder(), 6, 1, recipe).to(where)
        model: torch.nn.Module = classifier
        data: Source = images
        if protocol == "linear":
            model, data = classifier.head, features(classifier.encoder, images)
        outcome = transfer.transfer(model, data, data, recipe)
        losses.append([-score.minus_loss for score in outcome.history])
        logits = transfer.predict(model, data)
        assert logits.dtype == torch.float32 and logits.device.type == "cpu"
    assert losses[0] != losses[1]
    assert np.allclose(losses[0], losses[1], atol=0.02)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_device_that_is_there(device: str) -> None:
    assert devices.require(device) == device
