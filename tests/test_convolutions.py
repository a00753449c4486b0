"""Convolutions computed in another way: the same function and gradients as torch's."""

from __future__ import annotations

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from convirt import convolutions, image_encoder
from convirt.convolutions import Depthwise, Pointwise

KERNELS = [(1, 1), (3, 3), (5, 5), (7, 7), (3, 5), (5, 3), (2, 4)]
SIDES = [(1, 1), (2, 2), (4, 3), (9, 8)]
CASES = list(itertools.product(KERNELS, SIDES))


def gradients(conv: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Gradients by input and parameters, of a sum that weighs every output differently."""
    x = x.clone().requires_grad_()
    y = conv(x)
    weights = torch.arange(y.numel(), dtype=y.dtype).view(y.shape).cos()
    return list(torch.autograd.grad((y * weights).sum(), [x, *conv.parameters()]))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "side"), CASES)
@pytest.mark.parametrize("bias", [False, True])
def test_padded_as_told(
    kernel: tuple[int, int], side: tuple[int, int], stride: int, bias: bool
) -> None:
    torch.manual_seed(0)
    padding = (kernel[0] // 2, kernel[1] // 2)
    conv = nn.Conv2d(6, 6, kernel, stride, padding, groups=6, bias=bias).double()
    x = torch.randn(3, 6, *side, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    ours = Depthwise(conv)
    assert torch.allclose(ours(x), conv(x), rtol=0, atol=1e-12)
    for mine, theirs in zip(gradients(ours, x), gradients(conv, x), strict=True):
        assert mine.shape == theirs.shape
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "side"), CASES)
def test_padded_by_the_size_of_the_input(
    kernel: tuple[int, int], side: tuple[int, int], stride: int
) -> None:
    torch.manual_seed(0)
    conv = Conv2dSame(6, 6, kernel, stride, groups=6, bias=False).double()
    x = torch.randn(3, 6, *side, dtype=torch.float64)
    ours = Depthwise(conv)
    assert torch.allclose(ours(x), conv(x), rtol=0, atol=1e-12)
    for mine, theirs in zip(gradients(ours, x), gradients(conv, x), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("around", list(itertools.product([-1, 0, 2], repeat=4)))
def test_padding_is_that_of_torch(around: tuple[int, int, int, int]) -> None:
    x = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    assert torch.equal(convolutions.padded(x, around), F.pad(x, around))


def test_a_whole_encoder_keeps_its_function_and_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "tf_efficientnet_lite0"  # 3 and 5 wide, strides 1 and 2, maps down to 2 x 2
    encoder, _ = image_encoder.create_image_encoder(name, "random", 64, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(convolutions, "quicken", lambda encoder: None)
        usual, _ = image_encoder.create_image_encoder(name, "random", 64, seed=1)
    quick = [module for module in encoder.modules() if isinstance(module, Depthwise)]
    assert len(quick) == 16
    points = [module for module in encoder.modules() if isinstance(module, Pointwise)]
    assert len(points) == 32
    assert list(encoder.state_dict()) == list(usual.state_dict())
    assert list(encoder.state_dict()) == list(timm.create_model(name, num_classes=0).state_dict())

    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    for model in (encoder, usual):
        model.double().train()(x.double()).square().mean().backward()
    for mine, theirs in zip(encoder.parameters(), usual.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert torch.allclose(mine.grad, theirs.grad, rtol=1e-7, atol=1e-10)
    assert torch.allclose(encoder.eval()(x.double()), usual.eval()(x.double()), rtol=1e-9)


@pytest.mark.parametrize("side", [(1, 1), (2, 2), (1, 3), (5, 4)])
@pytest.mark.parametrize("bias", [False, True])
def test_one_pixel_wide(side: tuple[int, int], bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 10, 1, bias=bias).double()
    x = torch.randn(3, 6, *side, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    ours = Pointwise(conv)
    assert torch.allclose(ours(x), conv(x), rtol=0, atol=1e-12)
    assert ours(x).is_contiguous(memory_format=torch.channels_last)
    for mine, theirs in zip(gradients(ours, x), gradients(conv, x), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-11)


def test_other_convolutions_stay() -> None:
    dense, grouped = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2)
    wide, dilated = nn.Conv2d(4, 8, 3, groups=4), nn.Conv2d(4, 4, 3, groups=4, dilation=2)
    circular = nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="circular")
    fitting = nn.Conv2d(4, 4, 3, groups=4, padding="same")
    strided, padded = nn.Conv2d(4, 8, 1, stride=2), nn.Conv2d(4, 8, 1, padding=1)
    model = nn.Sequential(dense, grouped, wide, dilated, circular, fitting, strided, padded)
    convolutions.quicken(model)
    assert {type(module) for module in model} == {nn.Conv2d}


def test_frozen_weights_get_no_gradient() -> None:
    conv = Depthwise(nn.Conv2d(4, 4, 5, groups=4, padding=2))
    conv.requires_grad_(False)
    x = torch.randn(2, 4, 6, 6, requires_grad=True)
    conv(x).sum().backward()
    assert x.grad is not None and conv.weight.grad is None


def test_a_lower_precision_is_left_to_torch() -> None:
    encoder, _ = image_encoder.create_image_encoder("test_efficientnet", "random", 64, seed=1)
    x = torch.randn(4, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        encoder(x).float().square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
