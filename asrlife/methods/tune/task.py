"""What tuning needs of a model, alike for CTC, Whisper and causal language models."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import nn

from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError
from asrlife.methods.tune.masking import masked, shown
from asrlife.models.handle import Batch, Taught
from asrlife.text.normalise import normalise

if TYPE_CHECKING:
    from asrlife.models.handle import Recogniser
    from asrlife.models.text import TextModel

HELD_S = 3600.0  # of sound that stays in memory
HIDING = ("_mask_hidden_states", "_mask_input_features")  # of the parts of transformers' networks that do SpecAugment
AT_ONCE = 8  # utterances in one call when the dev set is scored

Change = Callable[[Waveform, np.random.Generator], Waveform]


@dataclass(frozen=True, eq=False)
class Item:
    """An utterance that can be learnt from, and its size: s of sound, or tokens."""

    utterance: Utterance
    text: str
    size: float


@dataclass(frozen=True, eq=False)
class Given:
    """A batch as the model takes it."""

    texts: tuple[str, ...]
    batch: Batch | None = None


class Task(Protocol):
    """A model and how it learns; `model.module` is what moves."""

    @property
    def model(self) -> Any:
        """The handle."""

    @property
    def unit(self) -> str:
        """What sizes are counted in."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """What `score` finds, the most telling first."""

    def of(self, model: Any) -> Task:
        """The same task for another handle of the model."""

    def identity(self, utterance: Utterance) -> str:
        """A digest of what is heard or read: equal for the same recording under any name."""

    def item(self, utterance: Utterance) -> Item:
        """The utterance as an item; raises InputError where the model cannot learn from it."""

    def given(self, items: Sequence[Item], change: Change | None = None, rng: np.random.Generator | None = None) -> Given:
        """A batch of the items, each changed by `change` where that is given."""

    def taught(self, given: Given, hide: bool = False) -> Taught:
        """The loss and the scores; with `hide` SpecAugment hides parts of the input, where the module trains."""

    def score(self, items: Sequence[Item]) -> dict[str, float]:
        """Each of `metrics` over the items under the weights of now; the module is in evaluation mode afterwards."""


def task_of(model: Recogniser | TextModel) -> Task:
    """The task of a loaded model; raises InputError for a recogniser without a supervised loss."""
    if hasattr(model, "speller"):
        return Reading(model)
    if "loss" not in model.capabilities:
        raise InputError(f"{model.name} has no supervised loss: tune a CTC recogniser that spells letters, or Whisper")
    return Listening(model)


@dataclass(frozen=True, eq=False)
class Listening:
    """A recogniser learns from sound and its text."""

    model: Any
    _held: dict[str, Waveform] = field(default_factory=dict, repr=False)

    @property
    def unit(self) -> str:
        """Seconds."""
        return "s"

    @property
    def metrics(self) -> tuple[str, ...]:
        """WER, and the loss where WERs are equal."""
        return ("wer", "loss")

    def of(self, model: Any) -> Listening:
        """The same task for another handle of the model."""
        return replace(self, model=model)

    def identity(self, utterance: Utterance) -> str:
        """SHA-256 of the audio's bytes."""
        audio = utterance.audio
        return hashlib.sha256(audio.samples.tobytes() if isinstance(audio, Waveform) else Path(audio).read_bytes()).hexdigest()

    def item(self, utterance: Utterance) -> Item:
        """Its size is the duration; raises InputError for no text, one the model cannot spell or has no room for, or too much sound."""
        text = _worded(utterance)
        wave = self._heard(utterance)
        if not len(wave.samples):
            raise InputError("holds no sound; record it again, or leave the row out")
        self.model.fits(wave, text)
        return Item(utterance, text, wave.duration)

    def given(self, items: Sequence[Item], change: Change | None = None, rng: np.random.Generator | None = None) -> Given:
        """Sound and texts."""
        waves = [self._heard(item.utterance) for item in items]
        if change is not None and rng is not None:
            waves = [self._changed(item, wave, change, rng) for item, wave in zip(items, waves, strict=True)]
        return Given(tuple(item.text for item in items), self.model.prepare(waves))

    def taught(self, given: Given, hide: bool = False) -> Taught:
        """One forward over the sound."""
        assert given.batch is not None
        with shown(self.model, given.batch, hide):
            found: Taught = self.model.taught(masked(self.model, given.batch), given.texts)
        return found

    def score(self, items: Sequence[Item]) -> dict[str, float]:
        """WER, and the loss per label."""
        self.model.module.eval()
        fresh = replace(self.model)  # what a handle keeps of weights would be of those before the last step
        wrong = words = total = 0.0
        for first in range(0, len(items), AT_ONCE):
            some = items[first : first + AT_ONCE]
            heard = fresh.transcribe([self._heard(item.utterance) for item in some], batch_size=AT_ONCE)
            with torch.inference_mode():
                total += len(some) * float(self.of(fresh).taught(self.given(some)).loss)
            for item, hypothesis in zip(some, heard, strict=True):
                errors, count = word_errors(item.text, hypothesis.text)
                wrong, words = wrong + errors, words + count
        return {"wer": wrong / max(1.0, words), "loss": total / len(items)}

    def _changed(self, item: Item, wave: Waveform, change: Change, rng: np.random.Generator) -> Waveform:
        changed = change(wave, rng)
        try:
            self.model.fits(changed, item.text)
        except InputError:  # too slow for the window, or too fast for its letters
            return wave
        return changed

    def _heard(self, utterance: Utterance) -> Waveform:
        if isinstance(utterance.audio, Waveform):
            return utterance.waveform(self.model.rate)
        key = str(utterance.audio)  # and not the id, which another manifest may have for another recording
        if key in self._held:
            return self._held[key]
        wave = utterance.waveform(self.model.rate)
        if sum(known.duration for known in self._held.values()) + wave.duration < HELD_S:
            self._held[key] = wave
        return wave


@dataclass(frozen=True, eq=False)
class Reading:
    """A language model learns from texts alone."""

    model: Any

    @property
    def unit(self) -> str:
        """Tokens."""
        return "tokens"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss."""
        return ("loss",)

    def of(self, model: Any) -> Reading:
        """The same task for another handle of the model."""
        return replace(self, model=model)

    def identity(self, utterance: Utterance) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256((utterance.text or "").encode()).hexdigest()

    def item(self, utterance: Utterance) -> Item:
        """Its size is the number of tokens; raises InputError for no text, or one that the model has no room for."""
        text = _worded(utterance)
        count = len(self.model.ids(text)) + 1
        room = self.model.places
        if count > room:
            raise InputError(f"has {count} tokens, the model takes {room}; split it")
        return Item(utterance, text, count)

    def given(self, items: Sequence[Item], change: Change | None = None, rng: np.random.Generator | None = None) -> Given:
        """Texts."""
        return Given(tuple(item.text for item in items))

    def taught(self, given: Given, hide: bool = False) -> Taught:
        """One forward over the texts."""
        found: Taught = self.model.taught(given.texts)
        return found

    def score(self, items: Sequence[Item]) -> dict[str, float]:
        """The loss per token, all tokens weighing the same."""
        self.model.module.eval()
        total, labels = 0.0, 0
        for first in range(0, len(items), AT_ONCE):
            with torch.inference_mode():
                found = self.taught(self.given(items[first : first + AT_ONCE]))
            total, labels = total + float(found.loss) * found.labels, labels + found.labels
        return {"loss": total / labels}


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Wrong words and words of the reference, both texts normalised as in reports."""
    import jiwer

    found = jiwer.process_words(normalise(reference), normalise(hypothesis))
    return found.substitutions + found.deletions + found.insertions, found.hits + found.substitutions + found.deletions


def train(module: nn.Module, dropout: bool, hides: bool) -> None:
    """Training mode, with `dropout` or without, running statistics left alone: they would move outside the delta, and batches are small."""
    module.train(dropout)
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
        elif hides and (part is module or any(hasattr(part, name) for name in HIDING)):
            part.training = True  # this part alone


def _worded(utterance: Utterance) -> str:
    text = " ".join((utterance.text or "").split())
    if not text:
        raise InputError("has no text to learn from; write one, or leave the row out")
    return text
