"""What is done to an utterance each time it is drawn: hidden parts (SpecAugment), another speed, noise."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from asrlife.audio.noise import add_noise, pink, white
from asrlife.audio.waveform import Waveform
from asrlife.models.handle import Batch

if TYPE_CHECKING:
    from torch import nn

    from asrlife.methods.tune.settings import Settings

NOISE_SPAN = 20.0  # dB between the noisiest and the quietest draw
_RATE = 16_000


@contextmanager
def masking(module: nn.Module, settings: Settings) -> Iterator[None]:
    """Let the network hide the settings' shares of its input while it trains, by transformers' own SpecAugment where it has one.

    Wav2vec2, HuBERT, WavLM and conformers hide spans of the front-end's frames, Whisper spans of its log-mels (`masked`). Networks of other
    libraries hide nothing, and those made without the vector that stands for a hidden frame hide features alone.
    """
    config = getattr(module, "config", None)
    blind = any(hasattr(part, "_mask_hidden_states") and not hasattr(part, "masked_spec_embed") for part in module.modules())
    wanted = {
        "apply_spec_augment": settings.mask_time > 0 or settings.mask_features > 0,
        "mask_time_prob": 0.0 if blind else settings.mask_time, "mask_time_length": settings.mask_span, "mask_time_min_masks": 0,
        "mask_feature_prob": settings.mask_features, "mask_feature_length": settings.mask_span, "mask_feature_min_masks": 0,
    }  # fmt: skip
    before = {key: getattr(config, key) for key in wanted if hasattr(config, key)}
    try:
        for key in before:
            setattr(config, key, wanted[key])
        yield
    finally:
        for key, value in before.items():
            setattr(config, key, value)


def masked(model: Any, batch: Batch) -> Batch:
    """The batch with what Whisper's network hides of the sound, never of the silence behind it; other networks hide inside."""
    hide = getattr(getattr(model.module, "model", None), "_mask_input_features", None)
    if hide is None or not model.module.training:
        return batch
    hop = model.extractor.hop_length
    frames = torch.arange(batch.inputs.shape[-1], device=batch.inputs.device)
    heard = (frames < (batch.lengths / hop).ceil()[:, None]).long()
    return replace(batch, inputs=hide(batch.inputs.clone(), heard))


@contextmanager
def shown(model: Any, batch: Batch, hide: bool) -> Iterator[None]:
    """Hide nothing of the batch inside, unless `hide`, and nothing either where its frames are too few for a span."""
    config: Any = getattr(model.module, "config", None)
    frames = getattr(model, "frames", None)
    span = getattr(config, "mask_time_length", 0)
    short = frames is not None and int(frames.count(batch.lengths).min()) <= span
    if not hasattr(config, "apply_spec_augment") or (hide and not short):
        yield
        return
    before = config.apply_spec_augment
    try:
        config.apply_spec_augment = False
        yield
    finally:
        config.apply_spec_augment = before


@dataclass(frozen=True)
class Augment:
    """Another speed, pitch with it, between 1 - `speed` and 1 + `speed`, and white or pink noise at `noise` to `noise` + 20 dB."""

    speed: float = 0.0
    noise: float | None = None

    def __call__(self, wave: Waveform, rng: np.random.Generator) -> Waveform:
        """A changed copy at the same rate."""
        if self.speed:
            # whole percents, so that the resampler's kernels stay small
            wave = Waveform(wave.samples, wave.rate * (100 + round(100 * rng.uniform(-self.speed, self.speed))) // 100).resampled(wave.rate)
        if self.noise is not None:
            made = (white if rng.random() < 0.5 else pink)(max(_RATE, len(wave.samples)), rng)
            wave = add_noise(wave, made, self.noise + NOISE_SPAN * rng.random(), rng)
        return wave

    @property
    def idle(self) -> bool:
        """Whether nothing is changed."""
        return not self.speed and self.noise is None


@contextmanager
def drawn(*key: int) -> Iterator[np.random.Generator]:
    """A generator, with torch's and numpy's global ones set, all from `key` alone; the global ones go on afterwards as if untouched.

    What a step draws so depends on its number and not on the steps before it: a run that was interrupted needs no state of theirs.
    """
    sequence = np.random.SeedSequence([abs(part) for part in key])
    first, second = (int(word) for word in sequence.generate_state(2))
    kept = np.random.get_state()
    with torch.random.fork_rng():
        torch.manual_seed(first)
        np.random.seed(second)
        try:
            yield np.random.default_rng(sequence)
        finally:
            np.random.set_state(kept)
