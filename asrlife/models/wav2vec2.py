"""The forward pass of wav2vec2 and HuBERT CTC networks as a function of weights, each utterance with its own where they are tuned.

The same sums as in transformers' modules, in an order that wastes less: frames stay in the last dimension but one, so that a convolution
is one matrix product over windows, and a tuned tensor (rows, ...) multiplies its own row of the batch. What no tuned tensor changes can be
made once for an utterance and handed in again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from asrlife.models.frames import Frames
from asrlife.models.wav2vec2_blocks import attend, feed, for_attention, for_feed_forward, short
from asrlife.models.wav2vec2_convolutions import Kernels, convolved, placed, placed_by_row, there_and_back

_BODIES = {"Wav2Vec2ForCTC": "wav2vec2", "HubertForCTC": "hubert"}
_POSITION = ("position.there", "position.back")
_SELECTIONS = 4  # of tuned parameters, for which second copies of the rest are kept
_CONV_EPSILON = 1e-5  # the norms of the front-end do not follow layer_norm_eps

Stamp = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Network:
    """The network `module` with `weights` in place of its own tensors; a weight (rows, ...) has a row for each utterance, or one for all.

    `known` may hold what `prepared` found; no gradient goes to that.
    """

    module: Any
    body: str
    weights: Mapping[str, Tensor]
    known: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module, weights: Mapping[str, Tensor], known: Mapping[str, Tensor] | None = None) -> Network | None:
        """The network, or None where `module` is another kind, or trains (and drops at random).

        Raises ValueError for a tuned weight that `known` takes for fixed.
        """
        body = _BODIES.get(type(module).__name__)
        if not body or module.training or not _plain(module.config):
            return None
        if known and not known.keys().isdisjoint(weights):
            raise ValueError(f"{min(known.keys() & weights)} is both tuned and known: prepare with the names of what is tuned")
        return cls(module, body, weights, known or {})

    def prepared(self, tuned: Collection[str] = ()) -> dict[str, Tensor]:
        """What `of` may take as `known` while none but the parameters `tuned` change: the others by name, and what is made of them once."""
        config = self.module.config
        with torch.no_grad():
            known = {name: own.detach() for name, own in self.module.named_parameters() if name not in tuned}
            if not any(".pos_conv_embed." in name for name in tuned):
                known |= dict(zip(_POSITION, self.position(), strict=True))
            for layer in range(config.num_hidden_layers):
                name = f"{self.body}.encoder.layers.{layer}"
                known |= for_attention(f"{name}.attention", known, config.num_attention_heads)
                known |= for_feed_forward(f"{name}.feed_forward", known)
        return known

    def position(self) -> Kernels:
        """The kernels of the positional convolution, norm and direction multiplied, as `placed` takes them."""
        return there_and_back(self._kernels()[0].detach(), self.module.config.num_conv_pos_embedding_groups)

    def front(self, audio: Tensor, counts: Tensor) -> Tensor:
        """Frames (batch, frames, width) of audio (batch, samples), of which `counts` (batch,) samples are sound."""
        config = self.module.config
        frames = audio[:, :, None]
        for layer, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride, strict=True)):
            name = f"{self.body}.feature_extractor.conv_layers.{layer}"
            bias = self._row(f"{name}.conv.bias", 1) if config.conv_bias else None
            frames = convolved(frames, self._row(f"{name}.conv.weight", 3), bias, stride)
            if config.feat_extract_norm == "layer":
                frames = self._normed(frames, f"{name}.layer_norm", _CONV_EPSILON)
            elif layer == 0:
                frames = self._grouped(frames, f"{name}.layer_norm", Frames(((kernel, stride, 0),)).count(counts))
            frames = F.gelu(frames)
        return frames

    def encode(self, frames: Tensor, lengths: Tensor, layers: int | None = None) -> Tensor:
        """Hidden states (batch, frames, width) from the front-end's frames, of which `lengths` (batch,) are valid.

        Those behind the first `layers` transformer layers where that is given.
        """
        config, body = self.module.config, self.body
        states = self._normed(frames, f"{body}.feature_projection.layer_norm", config.layer_norm_eps)
        states = self._linear(states, f"{body}.feature_projection.projection")
        hidden = _behind(states, lengths)
        if hidden is not None:
            states = states.masked_fill(hidden[..., None], 0)
        states = states + self._placed(states)
        stable = config.do_stable_layer_norm
        if not stable:
            states = self._normed(states, f"{body}.encoder.layer_norm", config.layer_norm_eps)
        for layer in range(config.num_hidden_layers if layers is None else layers):
            states = self._layer(states, f"{body}.encoder.layers.{layer}", hidden, stable)
        return self._normed(states, f"{body}.encoder.layer_norm", config.layer_norm_eps) if stable and layers is None else states

    def scores(self, states: Tensor) -> Tensor:
        """Logits (batch, frames, classes); a hook in front of the head, as `repair.surgery` sets one, is not passed by."""
        for hook in self.module.lm_head._forward_pre_hooks.values():
            changed = hook(self.module.lm_head, (states,))
            states = states if changed is None else changed[0] if isinstance(changed, tuple) else changed
        return self._linear(states, "lm_head")

    def _layer(self, states: Tensor, name: str, hidden: Tensor | None, stable: bool) -> Tensor:
        epsilon = self.module.config.layer_norm_eps
        if stable:
            states = self._attended(states, self._normed(states, f"{name}.layer_norm", epsilon), f"{name}.attention", hidden)
            return self._fed(states, self._normed(states, f"{name}.final_layer_norm", epsilon), f"{name}.feed_forward")
        states = self._normed(self._attended(states, states, f"{name}.attention", hidden), f"{name}.layer_norm", epsilon)
        return self._normed(self._fed(states, states, f"{name}.feed_forward"), f"{name}.final_layer_norm", epsilon)

    def _attended(self, residual: Tensor, states: Tensor, name: str, hidden: Tensor | None) -> Tensor:
        heads = self.module.config.num_attention_heads
        if f"{name}.inner.weight" in self.known and short(states):
            return attend(residual, states, name, self.known, heads, hidden)
        parts = (self._linear(states, f"{name}.{part}_proj") for part in "qkv")
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
        seen = None if hidden is None else ~hidden[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return residual + self._linear(mixed.transpose(1, 2).flatten(2), f"{name}.out_proj")

    def _fed(self, residual: Tensor, states: Tensor, name: str) -> Tensor:
        inner, outer = f"{name}.intermediate_dense", f"{name}.output_dense"
        if f"{inner}.transposed" in self.known and short(states):
            return feed(residual, states, name, self.known)
        return residual + self._linear(F.gelu(self._linear(states, inner)), outer)

    def _placed(self, states: Tensor) -> Tensor:
        groups = self.module.config.num_conv_pos_embedding_groups
        if _POSITION[0] in self.known:
            found = placed(states, (self.known[_POSITION[0]], self.known[_POSITION[1]]), groups)
        else:
            found = placed_by_row(states, self._kernels(), groups)
        return F.gelu(found + self._row(f"{self._positional}.bias", 1)[:, None])

    def _kernels(self) -> Tensor:
        """Kernels (rows, width, width / groups, taps) of the positional convolution."""
        names = [f"{self._positional}.parametrizations.weight.original{index}" for index in range(2)]
        if not any(name in self.weights for name in names):
            return self._row(f"{self._positional}.weight", 3)
        norm, direction = (self._row(name, 3) for name in names)
        return direction * (norm / torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True))

    @property
    def _positional(self) -> str:
        return f"{self.body}.encoder.pos_conv_embed.conv"

    def _normed(self, frames: Tensor, name: str, epsilon: float) -> Tensor:
        weight, bias = self._row(f"{name}.weight", 1), self._row(f"{name}.bias", 1)
        width = frames.shape[-1:]
        if len(weight) == len(bias) == 1:
            return F.layer_norm(frames, width, weight.squeeze(0), bias.squeeze(0), epsilon)
        return torch.addcmul(bias[:, None], F.layer_norm(frames, width, None, None, epsilon), weight[:, None])

    def _grouped(self, frames: Tensor, name: str, counts: Tensor) -> Tensor:
        """A norm over time, for each channel, that does not see the frames behind the sound."""
        sound = (torch.arange(frames.shape[1], device=frames.device) < counts[:, None])[..., None]
        count = counts[:, None, None]
        mean = (frames * sound).sum(1, keepdim=True) / count
        spread = ((frames - mean).square() * sound).sum(1, keepdim=True) / count
        scale = (spread + _CONV_EPSILON).rsqrt() * self._row(f"{name}.weight", 1)[:, None]
        return (frames - mean) * scale + self._row(f"{name}.bias", 1)[:, None]

    def _linear(self, frames: Tensor, name: str) -> Tensor:
        weight, bias = self._row(f"{name}.weight", 2), self._row(f"{name}.bias", 1)
        if len(weight) == len(bias) == 1:
            return F.linear(frames, weight.squeeze(0), bias.squeeze(0))
        return torch.matmul(frames, weight.transpose(1, 2)) + bias[:, None]

    def _row(self, name: str, rank: int) -> Tensor:
        found = self._tensor(name)
        return found if found.ndim > rank else found[None]

    def _tensor(self, name: str) -> Tensor:
        for place in (self.weights, self.known):
            if name in place:
                return place[name]
        owner, _, leaf = name.rpartition(".")
        found: Tensor = getattr(self.module.get_submodule(owner), leaf)
        return found


class Prepared:
    """What `Network.prepared` found for one network, kept for as long as its tensors stay what they are."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], tuple[Stamp, dict[str, Tensor]]] = OrderedDict()

    def __reduce__(self) -> tuple[type[Prepared], tuple[()]]:
        """A copy belongs to another network and starts empty."""
        return Prepared, ()

    def of(self, network: Network, tuned: Sequence[str]) -> Mapping[str, Tensor]:
        """For these tuned parameters."""
        key, stamp = tuple(tuned), tuple((tensor.data_ptr(), tensor._version) for tensor in network.module.parameters())
        made_for, found = self._kept.pop(key, (None, {}))
        if made_for != stamp:
            with torch.inference_mode(False):  # or no later gradient could pass them
                found = network.prepared(tuned)
        self._kept[key] = stamp, found
        while len(self._kept) > _SELECTIONS:
            self._kept.popitem(last=False)
        return found


def _behind(frames: Tensor, lengths: Tensor) -> Tensor | None:
    """Which frames (batch, frames) stand behind the last valid one; None where none does."""
    found = torch.arange(frames.shape[1], device=frames.device) >= lengths[:, None]
    return found if bool(found.any()) else None


def _plain(config: Any) -> bool:
    acts = {config.feat_extract_activation, config.hidden_act} == {"gelu"}
    odd = (
        getattr(config, "add_adapter", False) or getattr(config, "adapter_attn_dim", None) or getattr(config, "conv_pos_batch_norm", False)
    )
    return acts and not odd and getattr(config, "feat_proj_layer_norm", True)
