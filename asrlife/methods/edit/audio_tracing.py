"""Causal tracing of a Whisper recogniser: where in encoder and decoder a word is, found by noise on its sound and clean states put back.

Source: arXiv 2202.05262, section 2, with log-mel frames in place of the subject's embeddings. P is the probability of one token of the word
after the text before it; TE = P(clean) - P(corrupted), IE = P(restored) - P(corrupted).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, inf
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from asrlife.errors import InputError
from asrlife.methods.edit.heard import Heard, find
from asrlife.methods.edit.restoring import Stack, kept
from asrlife.models.handle import Batch
from asrlife.models.whisper_encoder import above, front

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.models.whisper import WhisperRecogniser

Part = Literal["encoder", "decoder", "feed-forward", "cross-attention"]
PARTS: tuple[Part, ...] = ("encoder", "decoder", "feed-forward", "cross-attention")
"""States of the encoder by time; states of the decoder, what its feed-forwards and what its cross-attention put out, by token."""
_FRAMES, _ROWS = 20_000, 64  # in one forward: of the encoder, of the decoder
_NEAR = 0.5  # s before and after the word that are restored in windows: further away nothing is left of it


@dataclass(frozen=True)
class Window:
    """A part of the sound, in s: all "before" the word, all of the "word", all "after" it with the silence behind, or a "window" of it."""

    name: Literal["before", "word", "after", "window"]
    start: float
    end: float


@dataclass(frozen=True, eq=False)
class AudioTrace:
    """One word traced. `effects` has IE by part: (windows, layers) of the encoder, (tokens, layers) of the decoder.

    `tokens` are those of the decoder up to the one that says `answer`; `span` is that of the noise, in s.
    """

    heard: Heard
    span: tuple[float, float]
    tokens: tuple[str, ...]
    answer: str
    clean: float
    corrupted: float
    noise: float
    windows: tuple[Window, ...]
    effects: Mapping[Part, Tensor]

    @property
    def total(self) -> float:
        """TE."""
        return self.clean - self.corrupted

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        names = ("tokens", "answer", "clean", "corrupted", "total", "noise")
        found = {"text": self.heard.text, "word": self.heard.word, "span": list(self.span), **{name: getattr(self, name) for name in names}}
        windows = [vars(window) for window in self.windows]
        return {**found, "windows": windows, "effects": {part: effect.tolist() for part, effect in self.effects.items()}}


@torch.no_grad()
def trace_word(
    model: WhisperRecogniser, waveform: Waveform, word: str, *, nth: int = 1, parts: Sequence[Part] = PARTS, noise: float | None = None,
    samples: int = 5, window: int = 1, seconds: float = 0.1, span: tuple[float, float] | None = None, margin: float = 0.1,
    seed: int = 0, advance: Callable[[], None] = lambda: None,
) -> AudioTrace:  # fmt: skip
    """Trace the `nth` time that the model hears `word`, after its own text before it.

    Noise N(0, noise^2) is added to the log-mel frames of `span` in s, in `samples` copies. Unless given, the span is the model's own times
    of the word and `margin` on both sides, as such times are not exact, and the noise three times the deviation of the sound's features.
    The token that is traced is the first of the word at which the corrupted network says another one, the first of all where it says none.
    Encoder states are restored in windows of `seconds` near the word, and before, in and after it; `window` layers together in the
    decoder's feed-forward and cross-attention.
    Raises InputError for silence, a word that is not heard, a span outside the sound, and sound beyond the model's window.
    """
    if min(window, samples) < 1 or not 0 <= (noise or 0) < inf or not 0 < seconds < inf:
        raise InputError(f"window {window}, {samples} samples, noise {noise}, {seconds:g} s: give at least 1, 1, 0 and more than 0 s")
    found = find(model, waveform, word, nth)
    own = (max(0.0, found.span[0] - margin), min(found.length, found.span[1] + margin))
    case = _case(model, waveform, found, span or own, noise, samples, seed)
    effects = {part: case.of_encoder(seconds, advance) if part == "encoder" else case.of_decoder(part, window, advance) for part in parts}
    path = [*model.control.prompt(None, False), *found.tokens[: case.place]]
    return AudioTrace(
        found, case.span, tuple(_named(model, token) for token in path), _named(model, found.tokens[case.place]).strip(),
        case.clean, case.corrupted, case.noise, case.windows(seconds), effects,
    )  # fmt: skip


def _named(model: WhisperRecogniser, token: int) -> str:
    control = model.control
    names = {control.start: "<start>", control.transcribe or -1: "<transcribe>", control.no_timestamps: "<no times>"}
    names |= {place: f"<{code}>" for code, place in control.languages.items()}
    return names.get(token) or model.spelling.text([token])


@dataclass(frozen=True, eq=False)
class _Case:
    """One word with what the encoder makes of it: `states` going into each layer and out of the last, clean (1, ...) and corrupted."""

    model: WhisperRecogniser
    batch: Batch
    found: Heard
    span: tuple[float, float]
    noise: float
    states: tuple[Sequence[Tensor], Sequence[Tensor]]
    place: int
    clean: float
    corrupted: float

    def of_encoder(self, seconds: float, advance: Callable[[], None]) -> Tensor:
        """IE (windows, layers) of states put back into the corrupted encoder."""
        frames = [self._frames(window) for window in self.windows(seconds)]
        return torch.stack([self.put_back(layer, frames, advance) for layer in range(len(self._encoder.layers))], 1)

    @torch.no_grad()
    def put_back(self, layer: int, windows: Sequence[slice], advance: Callable[[], None] = lambda: None) -> Tensor:
        """IE (windows,) of what `layer` puts out in each window of frames."""
        clean, corrupted = (made[layer + 1] for made in self.states)
        samples, found = len(corrupted), []
        per = max(1, _FRAMES // (samples * corrupted.shape[1]))
        for first in range(0, len(windows), per):
            some = windows[first : first + per]
            mixed = corrupted.repeat(len(some), 1, 1)
            for row, frames in enumerate(some):
                mixed[row * samples : (row + 1) * samples, frames] = clean[:, frames]
            found.append(self._probability(above(self._encoder, mixed, layer + 1)).reshape(len(some), samples).mean(1))
        advance()
        return torch.cat(found).cpu() - self.corrupted

    def of_decoder(self, part: Part, window: int, advance: Callable[[], None]) -> Tensor:
        """IE (tokens, layers) of outputs put back into the decoder, which listens to the corrupted sound."""
        blocks = self._network.decoder.layers
        inner: dict[Part, str] = {"feed-forward": "fc2", "cross-attention": "encoder_attn"}
        modules = [getattr(block, inner[part]) if part in inner else block for block in blocks]
        clean, corrupted = (self._encoder.layer_norm(made[-1]) for made in self.states)
        with kept(modules, True) as outputs:
            self._probability(clean)
        with kept(list(blocks), False) as inputs:
            self._probability(corrupted)
        with _known(blocks, corrupted) as of_rows:

            def probability(of: Tensor) -> Tensor:
                of_rows.append(of)
                return self._probability(corrupted[of])

            stack = Stack(blocks, modules, probability, _ROWS)
            return stack.effects([made[0] for made in outputs], inputs, self.corrupted, 0, window if part in inner else 1, advance)

    def _probability(self, states: Tensor) -> Tensor:
        """P (rows,) given what the encoder puts out, (rows, frames, width)."""
        path = self.found.tokens[: self.place + 1]
        return _said(self.model, self.batch, states, path)[:, -1, path[-1]]

    def windows(self, seconds: float) -> tuple[Window, ...]:
        """The word, what is before and after it, and the sound near it in pieces of `seconds`, without empty ones."""
        start, end = self.span
        length, room = self.found.length, float(self.model.window)
        found = [Window("before", 0.0, start), Window("word", start, end), Window("after", end, room)]
        near = range(int(max(0.0, start - _NEAR) / seconds), ceil(min(length, end + _NEAR) / seconds))
        found += [Window("window", n * seconds, min(length, (n + 1) * seconds)) for n in near]
        return tuple(one for one in found if range(*self._frames(one).indices(self.states[0][0].shape[1])))

    def _frames(self, window: Window) -> slice:
        """Frames of the encoder; those of the silence that a model wants before the sound are before the word."""
        hop = 2 * self.model.extractor.hop_length
        first, last = (round((moment * self.model.rate + self.model.edge) / hop) for moment in (window.start, window.end))
        return slice(0 if window.name == "before" else first, None if window.name == "after" else last)

    @property
    def _network(self) -> Any:
        inner: Any = self.model.module
        return inner.model

    @property
    def _encoder(self) -> Any:
        return self._network.encoder


@torch.no_grad()
def _case(
    model: WhisperRecogniser, waveform: Waveform, found: Heard, span: tuple[float, float], noise: float | None, samples: int, seed: int
) -> _Case:  # fmt: skip
    batch = model.prepare([waveform])
    hop = model.extractor.hop_length
    first, last = int((span[0] * model.rate + model.edge) / hop), ceil((span[1] * model.rate + model.edge) / hop)
    if not 0 <= span[0] < span[1] <= waveform.duration + 0.02:
        raise InputError(
            f"the span {span[0]:g} to {span[1]:g} s does not lie in {waveform.duration:.2f} s of sound: give its start and end"
        )
    sound = batch.inputs[0, :, : ceil(int(batch.lengths[0]) / hop)]
    noise = 3.0 * float(sound.std()) if noise is None else noise
    generator, mel = torch.Generator().manual_seed(seed), batch.inputs.repeat(samples, 1, 1)
    drawn = noise * torch.randn(samples, mel.shape[1], mel[0, :, first:last].shape[1], generator=generator)
    mel[:, :, first:last] += drawn.to(mel)
    states = (_layers(model, batch.inputs), _layers(model, mel))
    network: Any = model.module
    clean, corrupted = (_said(model, batch, network.model.encoder.layer_norm(made[-1]), found.tokens).mean(0) for made in states)
    place = next((p for p in found.places if int(corrupted[p].argmax()) != found.tokens[p]), found.places[0])
    token = found.tokens[place]
    return _Case(model, batch, found, span, noise, states, place, float(clean[place, token]), float(corrupted[place, token]))


def _layers(model: WhisperRecogniser, mel: Tensor) -> list[Tensor]:
    """What goes into each layer of the encoder and out of the last one, each (rows, frames, width)."""
    network: Any = model.module
    encoder = network.model.encoder
    found = [front(encoder, mel) + encoder.embed_positions.weight]
    for layer in encoder.layers:
        found.append(layer(found[-1], None))
    return found


def _said(model: WhisperRecogniser, batch: Batch, states: Tensor, path: Sequence[int]) -> Tensor:
    """Probabilities at each token of the path, (rows, tokens, classes), given encoder states (rows, frames, width)."""
    rows = replace(batch.rows([0] * len(states)), known={"states": states})
    paths = torch.tensor([list(path)] * len(states), device=model.device)
    return model.emissions(rows, paths, closed=True).logits.softmax(-1)


class _Given(nn.Module):
    """In place of a projection of the sound: what it made of each sample, for the rows of the forward that was announced last."""

    def __init__(self, made: Tensor, of_rows: list[Tensor]) -> None:
        super().__init__()
        self.made, self.of_rows = made, of_rows

    def forward(self, states: Tensor) -> Tensor:
        return self.made[self.of_rows[-1]]


@contextmanager
def _known(blocks: nn.ModuleList, states: Tensor) -> Iterator[list[Tensor]]:
    """Keys and values of the sound are computed once, not for every token and layer; tell the list which sample each row is of."""
    of_rows: list[Tensor] = []
    kept = [(block.encoder_attn, name, getattr(block.encoder_attn, name)) for block in blocks for name in ("k_proj", "v_proj")]
    try:
        for attention, name, projection in kept:
            setattr(attention, name, _Given(projection(states), of_rows))
        yield of_rows
    finally:
        for attention, name, projection in kept:
            setattr(attention, name, projection)
