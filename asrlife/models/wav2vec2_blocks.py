"""Attention and feed-forward of fixed weights with their gradients written out, for a few seconds of audio at a time.

There what stands around the matrix products costs as much as they do, and a core's cache holds all scores of attention. Measured on one
thread with an utterance of 3 s in a network 192 wide: a tenth less time than with autograd over torch's own attention, which is the faster
one from about 5 s on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_FRAMES = 256  # of a batch, up to which the blocks here are the faster ones
_ENTRIES = 2**18  # of a matrix, up to which second copies, joined or transposed, pay
_LEAVES = ("weight", "transposed", "bias")

Slopes = tuple[Tensor | None, ...]


def short(states: Tensor) -> bool:
    """Whether the blocks are the faster way for states (batch, frames, width); they do not follow autocast."""
    return states.shape[0] * states.shape[1] <= _FRAMES and not torch.is_autocast_enabled(states.device.type)


def for_attention(name: str, known: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    """What `attend` needs beside the weights of the attention `name`, where they are all known and small: else nothing."""
    if not _held(known, [f"{name}.{part}_proj" for part in ("q", "k", "v", "out")]):
        return {}
    query, key, value = ([known[f"{name}.{part}_proj.{leaf}"] for leaf in ("weight", "bias")] for part in "qkv")
    scale = (len(query[0]) // heads) ** -0.5
    weight, bias = (torch.cat((first * scale, second, third)) for first, second, third in zip(query, key, value, strict=True))
    inner = {f"{name}.inner.weight": weight, f"{name}.inner.bias": bias, f"{name}.inner.transposed": weight.T.contiguous()}
    return inner | {f"{name}.out_proj.transposed": known[f"{name}.out_proj.weight"].T.contiguous()}


def for_feed_forward(name: str, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `feed` needs beside the weights of the feed-forward `name`, where they are all known and small: else nothing."""
    parts = [f"{name}.intermediate_dense", f"{name}.output_dense"]
    return {f"{part}.transposed": known[f"{part}.weight"].T.contiguous() for part in parts} if _held(known, parts) else {}


def attend(residual: Tensor, states: Tensor, name: str, known: Mapping[str, Tensor], heads: int, hidden: Tensor | None) -> Tensor:
    """residual + softmax(q k') v W' + b over states (batch, frames, width), where keys `hidden` (batch, frames) are not seen.

    (q, k, v) = states U' + c: U (3 width, width) and c are query, key and value of the network as one, and hold the scale of the scores.
    Forward takes the transposes of U and W, backward U and W: to transpose on the way costs a tenth of a product of so few rows.
    """
    weights = (known[f"{name}.{part}.{leaf}"] for part in ("inner", "out_proj") for leaf in _LEAVES)
    found: Tensor = _Attention.apply(residual, states, *weights, heads, hidden)
    return found


def feed(residual: Tensor, states: Tensor, name: str, known: Mapping[str, Tensor]) -> Tensor:
    """residual + gelu(states U' + c) W' + b over states (batch, frames, width), U and W as in `attend`."""
    weights = (known[f"{name}.{part}.{leaf}"] for part in ("intermediate_dense", "output_dense") for leaf in _LEAVES)
    found: Tensor = _FeedForward.apply(residual, states, *weights)
    return found


def _held(known: Mapping[str, Tensor], parts: Sequence[str]) -> bool:
    names = [(f"{part}.weight", f"{part}.bias") for part in parts]
    return all(weight in known and bias in known and known[weight].numel() <= _ENTRIES for weight, bias in names)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, states: Tensor, inner: Tensor, inner_transposed: Tensor, inner_bias: Tensor, outer: Tensor,
        outer_transposed: Tensor, outer_bias: Tensor, heads: int, hidden: Tensor | None,
    ) -> Tensor:  # fmt: skip
        batch, frames, _ = states.shape
        inputs = _by_head(torch.addmm(inner_bias, states.flatten(0, 1), inner_transposed).view(batch, frames, 3 * heads, -1), 3)
        query, key, value = inputs.unbind()
        scores = torch.bmm(query, key.transpose(1, 2))
        if hidden is not None:
            scores.view(batch, heads, frames, frames).masked_fill_(hidden[:, None, None], -torch.inf)
        likely = torch.softmax(scores, -1)
        ctx.save_for_backward(inputs, likely, inner, outer)
        mixed = _by_frame(torch.bmm(likely, value)[None], batch)
        return torch.addmm(residual.flatten(0, 1), mixed, outer_transposed).add_(outer_bias).view_as(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Slopes:
        inputs, likely, inner, outer = ctx.saved_tensors
        (query, key, value), (batch, frames, _) = inputs.unbind(), gradient.shape
        mixed = _by_head((gradient.flatten(0, 1) @ outer).view(batch, frames, len(query) // batch, -1), 1)[0]
        scores = torch._softmax_backward_data(torch.bmm(mixed, value.transpose(1, 2)), likely, -1, likely.dtype)
        slopes = torch.empty_like(inputs)
        torch.bmm(scores, key, out=slopes[0])
        torch.bmm(scores.transpose(1, 2), query, out=slopes[1])
        torch.bmm(likely.transpose(1, 2), mixed, out=slopes[2])
        return gradient, (_by_frame(slopes, batch) @ inner).view_as(gradient), *(None,) * 8


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, residual: Tensor, states: Tensor, inner: Tensor, inner_transposed: Tensor, inner_bias: Tensor, outer: Tensor,
        outer_transposed: Tensor, outer_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        between = torch.addmm(inner_bias, states.flatten(0, 1), inner_transposed)
        ctx.save_for_backward(between, inner, outer)
        return torch.addmm(residual.flatten(0, 1), F.gelu(between), outer_transposed).add_(outer_bias).view_as(states)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Slopes:
        between, inner, outer = ctx.saved_tensors
        slope = torch.ops.aten.gelu_backward(gradient.flatten(0, 1) @ outer, between)
        return gradient, (slope @ inner).view_as(gradient), *(None,) * 6


def _by_head(states: Tensor, parts: int) -> Tensor:
    """(batch, frames, parts * heads, n) -> (parts, batch * heads, frames, n)"""
    batch, frames, _, size = states.shape
    return states.view(batch, frames, parts, -1, size).permute(2, 0, 3, 1, 4).reshape(parts, -1, frames, size)


def _by_frame(states: Tensor, batch: int) -> Tensor:
    """(parts, batch * heads, frames, n) -> (batch * frames, parts * heads * n)"""
    parts, _, frames, _ = states.shape
    return states.unflatten(1, (batch, -1)).permute(1, 3, 0, 2, 4).reshape(batch * frames, -1)
