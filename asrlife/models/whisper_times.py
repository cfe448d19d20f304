"""When the words of a Whisper decoder are said: from its cross-attention, or from the time tokens it writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asrlife.models.align import smoothed_attention, time_warp
from asrlife.models.whisper_tokens import TICK_S, Control, Spelling, words
from asrlife.text.hypothesis import Word

Head = tuple[int, int]  # layer, head


@dataclass(frozen=True, eq=False)
class Following:
    """Queries and keys of the `heads` that follow the audio, from one forward; `width` is that of one head."""

    heads: Sequence[Head]
    width: int
    seen: Mapping[str, Tensor]

    def starts(self, row: int, prompt: int, count: int, frames: int) -> np.ndarray:
        """First frame of each of `count` tokens behind the prompt and of the end token, (count + 1,), among the first `frames`."""
        weights = torch.stack([self._weights(row, layer, head, frames) for layer, head in self.heads])
        return time_warp(-smoothed_attention(weights[:, prompt - 1 : prompt + count]))

    def _weights(self, row: int, layer: int, head: int, frames: int) -> Tensor:
        part = slice(head * self.width, (head + 1) * self.width)
        query, key = self.seen[f"{layer}.q_proj"][row, :, part], self.seen[f"{layer}.k_proj"][row, :frames, part]
        return (query @ key.T * self.width**-0.5).softmax(-1)


@contextmanager
def following(decoder: Any, heads: Sequence[Head]) -> Iterator[Following]:
    """Keep queries and keys of the forwards inside: fused attention gives no weights away."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    hooks = []
    for layer in {layer for layer, _ in heads}:
        attention = decoder.layers[layer].encoder_attn
        hooks += [getattr(attention, part).register_forward_hook(keep(f"{layer}.{part}")) for part in ("q_proj", "k_proj")]
    try:
        yield Following(heads, decoder.config.d_model // decoder.config.decoder_attention_heads, seen)
    finally:
        for hook in hooks:
            hook.remove()


def timed_words(row: Sequence[int], chosen: Tensor, starts: np.ndarray, control: Control, spelling: Spelling) -> Iterator[Word]:
    """Words of the tokens `row`, given their log-probabilities `chosen` (tokens,) and `starts` in s, the end token's last."""
    for word, places in words(row, control.end, spelling):
        yield Word(word, float(starts[places[0]]), float(starts[places[-1] + 1]), exp(float(chosen[places].mean())))


def segments(row: Sequence[int], chosen: Tensor, length: float, edge: float, control: Control, spelling: Spelling) -> Iterator[Word]:
    """What stands between time tokens, as one Word each; times in s from `edge` on, within `length`."""
    start, places = 0.0, list[int]()
    for place, token in enumerate([*row, control.no_timestamps + 1 + round((length + edge) / TICK_S)]):
        if token < control.end:
            places.append(place)
        if (seconds := control.seconds(token)) is not None:
            moment = min(max(seconds - edge, 0.0), length)
            if text := spelling.text([row[index] for index in places]).strip():
                yield Word(text, start, moment, exp(float(chosen[places].mean())))
            start, places = moment, []


def aligning(heads: Sequence[Sequence[int]] | None, config: Any) -> tuple[tuple[int, int], ...]:
    """The heads that follow the audio: those named, else all of the upper half of the decoder."""
    if heads:
        return tuple((layer, head) for layer, head in heads)
    upper = range(config.decoder_layers // 2, config.decoder_layers)
    return tuple((layer, head) for layer in upper for head in range(config.decoder_attention_heads))
