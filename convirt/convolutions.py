"""Convolutions that oneDNN computes slowly on a CPU, computed in another way: the same function.

For the weight gradient of a depthwise convolution, oneDNN has a fast routine if the kernel is at
most three wide and not wider than the map; others go to a generic one, ten to forty times
slower. That was a fifth of a training step of EfficientNet-Lite0 on one core. Here such a gradient
is assembled from vertical strips, at most three wide, of a map that is padded first.

A 1 x 1 convolution on a map of a few pixels is faster as a matrix product.

Gradients of all these weights may be left to another thread (`deferred`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convirt.deferred import of_weight

WIDEST = 3  # columns of a depthwise kernel that oneDNN is fast with
FEW = 16  # pixels of a map, up to which a product is faster than a 1 x 1 convolution

Pair = tuple[int, int]  # vertical, horizontal
Around = tuple[int, int, int, int]  # left, right, top, bottom; negative values crop


class Depthwise(nn.Module):
    """A depthwise convolution of (N, C, H, W), with the parameters of the module it replaces."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over `conv`, whose padding may be timm's "same", by the size of the input."""
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
        if on_cpu and _is_trained(self.weight):
            return _plus(_Depthwise.apply(x, self.weight, self.stride, padding), self.bias)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, 1, len(self.weight))

    def _around(self, x: Tensor) -> Around:
        """Padding of timm's "same", which no convolution has: more at the end than at the start."""
        from timm.layers import get_same_padding

        sides = zip(x.shape[2:], self.weight.shape[2:], self.stride, strict=True)
        height, width = (get_same_padding(side, k, step, 1) for side, k, step in sides)
        return width // 2, width - width // 2, height // 2, height - height // 2


class Pointwise(nn.Module):
    """A 1 x 1 convolution of (N, C, H, W), with the parameters of the module it replaces."""

    def __init__(self, conv: nn.Conv2d) -> None:
        """Take over `conv`."""
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        if x.device.type != "cpu":
            return F.conv2d(x, self.weight, self.bias)
        if _is_trained(self.weight):
            return _plus(_Pointwise.apply(x, self.weight), self.bias)
        return _pointwise(x, self.weight, self.bias)


def quicken(encoder: nn.Module) -> None:
    """Replace the depthwise and 1 x 1 convolutions of an encoder, in place."""
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


def _is_trained(weight: Tensor) -> bool:
    """Whether a gradient is wanted; in lower precision, torch's own gradient is used."""
    wanted = torch.is_grad_enabled() and weight.requires_grad
    return wanted and not torch.is_autocast_enabled("cpu")


def _plus(y: Any, bias: Tensor | None) -> Tensor:
    return cast(Tensor, y if bias is None else y + bias.view(1, -1, 1, 1))


def weight_gradient(x: Tensor, dy: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Gradient with respect to the weights of a depthwise convolution.

    Args:
        x: The input, (N, C, H, W).
        dy: Gradient with respect to the output, (N, C, H', W').
        kernel: Height and width of the kernel.
        stride: Of the convolution.
        padding: On either side.

    Returns:
        (C, 1, height, width).
    """
    edges = _beyond(x, kernel, stride, padding)
    if any(edges):  # those weights have no gradient
        inner = kernel[0] - 2 * edges[0], kernel[1] - 2 * edges[1]
        less = padding[0] - edges[0], padding[1] - edges[1]
        around = edges[1], edges[1], edges[0], edges[0]
        return F.pad(weight_gradient(x, dy, inner, stride, less), around)
    (height, width), across = kernel, dy.shape[3]
    if width <= min(WIDEST, across):
        return _native(x, dy, kernel, stride, padding)
    rows = (dy.shape[2] - 1) * stride[0] + height
    strips = []
    for left in range(0, width, WIDEST):
        wide = min(WIDEST, width - left)
        columns = (across - 1) * stride[1] + wide
        start = padding[1] - left  # negative: the strip begins inside the map
        sides = (start, columns - start - x.shape[3])
        ends = (padding[0], rows - padding[0] - x.shape[2])
        strips.append(_native(padded(x, (*sides, *ends)), dy, (height, wide), stride, (0, 0)))
    return torch.cat(strips, dim=3)


def _beyond(x: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Pair:
    """Rows and columns at each edge of a centred kernel that always lie beyond a small map."""
    centred = all(k == 2 * p + 1 for k, p in zip(kernel, padding, strict=True))
    if not centred or stride != (1, 1):
        return 0, 0
    return max(0, padding[0] + 1 - x.shape[2]), max(0, padding[1] + 1 - x.shape[3])


def padded(x: Tensor, around: Around) -> Tensor:
    """Like `F.pad` with zeros, in half the time: the middle is written only once."""
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
    """The place among `new` rows of those of `old` that are kept; perhaps empty."""
    start = min(max(margin, 0), new)
    return slice(start, max(start, min(margin + old, new)))


def _native(x: Tensor, dy: Tensor, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    shape = x.new_empty(x.shape[1], 1, *kernel)  # only its shape is used
    return _by_weight(dy, x, shape, stride, padding)


def _by_input(dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    return cast(Tensor, _gradients(dy, x, weight, stride, padding, [True, False, False])[0])


def _by_weight(dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    return cast(Tensor, _gradients(dy, x, weight, stride, padding, [False, True, False])[1])


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, which: list[bool]
) -> Any:
    groups = x.shape[1] // weight.shape[1]
    return torch.ops.aten.convolution_backward(
        dy, x, weight, None, stride, padding, [1, 1], False, [0, 0], groups, which
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        (dy,), (x, weight), how = dys, ctx.saved_tensors, (ctx.stride, ctx.padding)
        kernel = (weight.shape[2], weight.shape[3])
        dw = of_weight(weight, lambda: weight_gradient(x, dy, kernel, *how))
        dx = _by_input(dy, x, weight, *how) if ctx.needs_input_grad[0] else None
        return dx, dw, None, None


class _Pointwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _pointwise(x, weight, None)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        (dy,), (x, weight), how = dys, ctx.saved_tensors, ((1, 1), (0, 0))
        few, wanted = _has_few_pixels(x), ctx.needs_input_grad[0]
        if few:
            dw = of_weight(weight, lambda: (_rows(dy).t() @ _rows(x)).view_as(weight))
            dx = _as_map(_rows(dy) @ weight.flatten(1), dy) if wanted else None
        else:
            dw = of_weight(weight, lambda: _by_weight(dy, x, weight, *how))
            dx = _by_input(dy, x, weight, *how) if wanted else None
        return dx, dw


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if _has_few_pixels(x):
        return _as_map(F.linear(_rows(x), weight.flatten(1), bias), x)
    return F.conv2d(x, weight, bias)


def _has_few_pixels(x: Tensor) -> bool:
    return x.shape[2] * x.shape[3] <= FEW


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) to (N H W, C); no copy if the layout is channels_last."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _as_map(rows: Tensor, like: Tensor) -> Tensor:
    """(N H W, C) to (N, C, H, W), with N, H and W from `like`."""
    n, _, height, width = like.shape
    return rows.view(n, height, width, -1).permute(0, 3, 1, 2)


class _Pad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, around: Around) -> Tensor:
        ctx.around = around
        return padded(x, around)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        (dy,), (left, right, top, bottom) = dys, ctx.around
        return dy[:, :, top : dy.shape[2] - bottom, left : dy.shape[3] - right], None
