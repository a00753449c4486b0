"""Convolutions that oneDNN is slow with on a CPU, computed otherwise: the same function.

It has a kernel of its own for the weights' gradient of a depthwise convolution if the kernel is at
most three wide and not wider than the map; others go to one for any grouping, ten to forty times
slower. That was a fifth of a training step of EfficientNet-Lite0 on one core. Here such a gradient
is put together from vertical strips, three wide at most, of a map that was padded before.

A convolution of 1 x 1 on a map of a few pixels is a product of matrices, and quicker as one.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST = 3  # columns of a depthwise kernel that oneDNN is quick with
FEW = 4  # pixels of a map on which a product is quicker than a convolution of 1 x 1

Pair = tuple[int, int]  # vertical, horizontal
Around = tuple[int, int, int, int]  # left, right, top, bottom; below zero it cuts off


class Depthwise(nn.Module):
    """A depthwise convolution of (N, C, H, W), with the parameters of the module it replaces."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over `conv`, whose padding may be timm's "same": by the size of the input."""
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding = cast(Pair, conv.stride), cast(Pair, conv.padding)
        self.same = type(conv) is not nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H', W')."""
        on_cpu, padding = x.device.type == "cpu", self.padding
        if self.same:
            around = self._around(x)
            x = cast(Tensor, _Pad.apply(x, around)) if on_cpu else F.pad(x, around)
            padding = (0, 0)
        if on_cpu and torch.is_grad_enabled() and self.weight.requires_grad:
            y = cast(Tensor, _Strips.apply(x, self.weight, self.stride, padding))
            return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, len(self.weight))

    def _around(self, x: Tensor) -> Around:
        """What timm's "same" pads, which no convolution can: more at the end than at the start."""
        from timm.layers import get_same_padding

        sides = zip(x.shape[2:], self.weight.shape[2:], self.stride, strict=True)
        height, width = (get_same_padding(side, k, step, 1) for side, k, step in sides)
        return width // 2, width - width // 2, height // 2, height - height // 2


class Pointwise(nn.Module):
    """A convolution of 1 x 1 of (N, C, H, W), with the parameters of the module it replaces."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over `conv`."""
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        if x.device.type == "cpu" and x.shape[2] * x.shape[3] <= FEW:
            y = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
            return y.permute(0, 3, 1, 2)
        return F.conv2d(x, self.weight, self.bias)


def quicken(encoder: nn.Module) -> None:
    """Replace, in place, the convolutions that this is for."""
    from timm.layers import Conv2dSame

    for parent in list(encoder.modules()):
        for name, child in parent.named_children():
            if type(child) not in (nn.Conv2d, Conv2dSame):
                continue
            conv = cast(nn.Conv2d, child)
            if _is_depthwise(conv):
                setattr(parent, name, Depthwise(conv))
            elif _is_pointwise(conv):
                setattr(parent, name, Pointwise(conv))


def _is_depthwise(conv: nn.Conv2d) -> bool:
    alone = conv.groups == conv.in_channels == conv.out_channels > 1
    plain = conv.padding_mode == "zeros" and set(conv.dilation) == {1}
    return alone and plain and not isinstance(conv.padding, str)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    unpadded = conv.padding in ((0, 0), "valid") and conv.stride == (1, 1)
    return conv.groups == 1 and conv.kernel_size == (1, 1) and unpadded


def weight_gradient(x: Tensor, dy: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Gradient of a depthwise convolution by its weights.

    Args:
        x: The input, (N, C, H, W).
        dy: Gradient by the output, (N, C, H', W').
        kernel: Its height and width.
        stride: Of the convolution.
        padding: On either side.

    Returns:
        (C, 1, height, width).
    """
    (height, width), across = kernel, dy.shape[3]
    if width <= min(WIDEST, across):
        return _native(x, dy, kernel, stride, padding)
    rows = (dy.shape[2] - 1) * stride[0] + height
    strips = []
    for left in range(0, width, WIDEST):
        wide = min(WIDEST, width - left)
        columns = (across - 1) * stride[1] + wide
        start = padding[1] - left  # below zero: the strip begins inside the map
        sides = (start, columns - start - x.shape[3])
        ends = (padding[0], rows - padding[0] - x.shape[2])
        strips.append(_native(padded(x, (*sides, *ends)), dy, (height, wide), stride, (0, 0)))
    return torch.cat(strips, dim=3)


def padded(x: Tensor, around: Around) -> Tensor:
    """`F.pad` with zeros, in half the time: the middle is written once."""
    left, right, top, bottom = around
    n, c, height, width = x.shape
    size = (n, c, height + top + bottom, width + left + right)
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    rows, columns = _inside(top, height, size[2]), _inside(left, width, size[3])
    y[:, :, : rows.start], y[:, :, rows.stop :] = 0, 0
    y[:, :, rows, : columns.start], y[:, :, rows, columns.stop :] = 0, 0
    kept = (
        slice(rows.start - top, rows.stop - top),
        slice(columns.start - left, columns.stop - left),
    )
    y[:, :, rows, columns] = x[:, :, kept[0], kept[1]]
    return y


def _inside(margin: int, old: int, new: int) -> slice:
    """Where among `new` rows those of `old` that are kept come to lie; perhaps none."""
    start = min(max(margin, 0), new)
    return slice(start, max(start, min(margin + old, new)))


def _native(x: Tensor, dy: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    shape = x.new_empty(x.shape[1], 1, *kernel)  # of no other use
    return cast(Tensor, _gradients(dy, x, shape, stride, padding, [False, True, False])[1])


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, which: list[bool]
) -> Any:
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, stride, padding, [1, 1], False, [0, 0], x.shape[1], which
    )


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        (dy,), (x, weight) = dys, ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            which = [True, False, False]
            dx = _gradients(dy, x, weight, ctx.stride, ctx.padding, which)[0]
        kernel = (weight.shape[2], weight.shape[3])
        return dx, weight_gradient(x, dy, kernel, ctx.stride, ctx.padding), None, None


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, around: Around) -> Tensor:
        ctx.around = around
        return padded(x, around)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        left, right, top, bottom = ctx.around
        return padded(dys[0], (-left, -right, -top, -bottom)), None
