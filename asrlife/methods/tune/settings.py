"""How a model is fine-tuned, as a value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from asrlife.errors import InputError
from asrlife.methods.settings import Count, CountOrZero, NotNegative, Positive, Share, check

Within = Annotated[float, Field(ge=0, lt=0.5)]


@dataclass(frozen=True)
class Settings:
    """What moves, how far and how fast; the defaults suit an hour of speech and a network of some million weights.

    `scope` as in `asrlife.methods.tune.scope.selection`, less tensors of the roles in `without`. `rank` is that of scope "lora".
    `steps` of the optimiser, or, where it is 0, `epochs` over the data. `rate` is the peak learning rate of AdamW (arXiv 1711.05101) with
    `decay`; it rises linearly over the share `warmup` of the steps and then falls by `schedule`. A step sees `accumulate` batches of at
    most `batch_seconds` of padded sound (`batch_tokens` for language models), its gradient clipped to the length `clip`.
    `mask_time` and `mask_features` are the shares that SpecAugment hides (arXiv 1904.08779), in spans of `mask_span` frames. `dropout`: as
    the checkpoint's configuration has it. `speed` 0.1 plays each utterance 0.9 to 1.1 times as fast, `noise` is the least SNR in dB of
    white or pink noise (up to 20 dB more); None adds none. `precision` "bf16" is mixed precision on a CPU or a GPU.
    The dev set is scored by `metric` every `every` steps (0: ten times in all), and `patience` scores without a better one end the run
    (0: never). `seed` decides the order, masks, noise and factors.
    """

    scope: str = "full"
    without: tuple[str, ...] = ()
    rank: Count = 8
    steps: CountOrZero = 0
    epochs: Count = 10
    rate: Positive = 1e-4
    decay: NotNegative = 0.0
    warmup: Share = 0.1
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    batch_seconds: Positive = 48.0
    batch_tokens: Count = 4096
    accumulate: Count = 1
    clip: Positive = 1.0
    mask_time: Within = 0.05
    mask_features: Within = 0.0
    mask_span: Count = 10
    dropout: bool = True
    speed: Within = 0.0
    noise: float | None = None
    precision: Literal["no", "bf16"] = "no"
    metric: Literal["wer", "loss"] = "wer"
    every: CountOrZero = 0
    patience: CountOrZero = 5
    seed: CountOrZero = 0

    @property
    def name(self) -> str:
        """What a fault of a setting is told under."""
        return "tune"

    def __post_init__(self) -> None:
        check(self)
        if self.noise is not None and not math.isfinite(self.noise):
            raise InputError(f"tune: noise: {self.noise} is no SNR in dB; give a finite number")

    @property
    def hides(self) -> bool:
        """Whether SpecAugment hides anything."""
        return self.mask_time > 0 or self.mask_features > 0

    def share(self, step: int, steps: int) -> float:
        """The share of the peak rate at `step`, counted from 0, of `steps`: (step + 1) / w in the warm-up of w steps, then the schedule."""
        warm = round(self.warmup * steps)
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, steps - warm)
        return {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[self.schedule]
