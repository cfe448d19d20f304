"""Convolutions over frames (batch, time, width), each row of the batch with its own kernels where they are tuned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Kernels = tuple[Tensor, Tensor]

_EXPECTED = 100  # frames, for which oneDNN chooses a layout that serves any number of them


def convolved(frames: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """Frames by kernels (rows, out, width, taps) and biases (rows, out), rows 1 or batch, without padding; float32 under autocast."""
    if torch.is_autocast_enabled(frames.device.type):
        with torch.autocast(frames.device.type, enabled=False):
            return convolved(frames.float(), kernel, bias, stride)
    found: Tensor = _Convolution.apply(frames.contiguous(), kernel, bias, stride)
    return found


def placed(frames: Tensor, kernels: Kernels, groups: int) -> Tensor:
    """As many frames as there are, by the first of the `kernels` of `there_and_back`, no gradient for them; float32 under autocast."""
    with torch.autocast(frames.device.type, enabled=False):
        found: Tensor = _Placement.apply(frames.float(), *kernels, groups)
    return found


def placed_by_row(frames: Tensor, kernels: Tensor, groups: int) -> Tensor:
    """As many frames as there are, by kernels (rows, width, width / groups, taps), rows 1 or batch."""
    (batch, time, width), taps = frames.shape, kernels.shape[-1]
    channels = frames.transpose(1, 2)
    if len(kernels) == 1:
        return F.conv1d(channels, kernels[0], padding=taps // 2, groups=groups)[..., :time].transpose(1, 2)
    apart = channels.reshape(1, batch * width, time)
    found = F.conv1d(apart, kernels.flatten(0, 1), padding=taps // 2, groups=batch * groups)[..., :time]
    return found.view(batch, width, time).transpose(1, 2)


def there_and_back(kernel: Tensor, groups: int) -> Kernels:
    """Kernels (width, width / groups, 1, odd taps) of a convolution of equal length and of its gradient, laid out for the device.

    A kernel of even length gets a tap of zeros behind it, so that no frame has to be cut off.
    """
    odd = F.pad(kernel, (0, 1 - kernel.shape[-1] % 2))
    turned = odd.unflatten(0, (groups, -1)).transpose(1, 2).flip(-1).flatten(0, 1)
    return _laid_out(odd[:, :, None], groups), _laid_out(turned[:, :, None], groups)


def _laid_out(kernel: Tensor, groups: int) -> Tensor:
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    if kernel.device.type != "cpu" or kernel.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return kernel
    # oneDNN's own layout, into which it would bring the kernel at every call: a third of the time of a short utterance
    images = [1, len(kernel), 1, _EXPECTED]
    found: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
        kernel.contiguous(), [0, kernel.shape[-1] // 2], [1, 1], [1, 1], groups, images
    )
    return found


class _Convolution(torch.autograd.Function):
    """One matrix product over windows, which leaves frames as they lie and takes a matrix for each row."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, kernel: Tensor, bias: Tensor | None, stride: int) -> Tensor:
        matrix = kernel.transpose(2, 3).flatten(2)
        ctx.save_for_backward(frames, matrix)
        ctx.taps, ctx.stride = kernel.shape[-1], stride
        windows, factors = _windows(frames, ctx.taps, stride), matrix.transpose(1, 2).expand(len(frames), -1, -1)
        return torch.bmm(windows, factors) if bias is None else torch.baddbmm(bias[:, None], windows, factors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        frames, matrix = ctx.saved_tensors
        to_frames = to_kernel = to_bias = None
        if ctx.needs_input_grad[0]:
            to_frames = _spread(gradient, matrix, frames, ctx.taps, ctx.stride)
        if ctx.needs_input_grad[1]:
            found = torch.bmm(gradient.transpose(1, 2), _windows(frames, ctx.taps, ctx.stride))
            to_kernel = _summed(found, len(matrix)).unflatten(-1, (ctx.taps, -1)).transpose(2, 3)
        if ctx.needs_input_grad[2]:
            to_bias = _summed(gradient.sum(1), len(matrix))
        return to_frames, to_kernel, to_bias, None


class _Placement(torch.autograd.Function):
    """oneDNN is twice as fast at this gradient when it is asked for as a convolution."""

    @staticmethod
    def forward(ctx: Any, frames: Tensor, there: Tensor, back: Tensor, groups: int) -> Tensor:
        ctx.back, ctx.groups = back, groups
        return _slid(frames, there, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return _slid(gradient, ctx.back, ctx.groups), None, None, None


def _slid(frames: Tensor, kernel: Tensor, groups: int) -> Tensor:
    # two dimensions, as only there frames count as an image whose channels are last in memory, for which oneDNN is at its best
    image, padding = frames.transpose(1, 2)[:, :, None], [0, kernel.shape[-1] // 2]
    if kernel.is_mkldnn:
        found = torch.ops.mkldnn._convolution_pointwise(image, kernel, None, padding, [1, 1], [1, 1], groups, "none", [], "")
    else:
        found = F.conv2d(image, kernel, padding=padding, groups=groups)
    return found[:, :, 0].transpose(1, 2).contiguous()


def _windows(frames: Tensor, taps: int, stride: int) -> Tensor:
    """The windows (batch, windows, taps * width) of contiguous frames."""
    batch, time, width = frames.shape
    shape = (batch, (time - taps) // stride + 1, taps * width)
    return frames.as_strided(shape, (time * width, stride * width, 1)).contiguous()


def _spread(gradient: Tensor, matrix: Tensor, frames: Tensor, taps: int, stride: int) -> Tensor:
    """The gradient of frames: one product for every `stride` taps, whose windows do not overlap and can be added to where they are."""
    batch, time, width = frames.shape
    found = torch.zeros_like(frames)
    for tap in range(0, taps, stride):
        first, last = tap * width, min(tap + stride, taps) * width
        part = found.as_strided((batch, gradient.shape[1], last - first), (time * width, stride * width, 1), first)
        part.baddbmm_(gradient, matrix[..., first:last].expand(batch, -1, -1))
    return found


def _summed(gradient: Tensor, rows: int) -> Tensor:
    return gradient if len(gradient) == rows else gradient.sum(0, keepdim=True)
