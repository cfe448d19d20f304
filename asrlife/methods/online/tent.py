"""TENT: less entropy, by the norms alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from asrlife.methods.online import entropies
from asrlife.methods.online.descent import Heard, Tuning, descend, kept
from asrlife.methods.online.losses import Losses
from asrlife.methods.online.method import Step
from asrlife.methods.online.state import State
from asrlife.methods.settings import CountOrZero, Positive
from asrlife.models.handle import Emissions, Recogniser


@dataclass(frozen=True)
class Tent(Tuning):
    """Entropy minimisation (arXiv 2006.10726): mean over all frames of H(softmax(logits / temperature)), one step for each utterance.

    What is learnt is kept. `episodic` is how the field ports it to speech (arXiv 2506.07078): blank frames are left out, and each
    utterance starts from the source. `steps` None: 1, or 10 where `episodic`. An utterance with blanks alone takes no step.
    """

    name: ClassVar[str] = "tent"
    scope: str = "norms"
    temperature: Positive = 1.0
    steps: CountOrZero | None = None
    episodic: bool = False

    def start(self, model: Recogniser) -> State:
        """The source weights of the scope with fresh moments; nothing where `episodic`."""
        names = model.select(self.scope)
        return State(model.fingerprint()) if self.episodic else State.of(model, names, count=0)

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Adapt to a batch of utterances, each stream on its own."""
        rows, adam = self.fresh(model, model.select(self.scope), len(heard)) if self.episodic else self.resumed(model, heard)
        steps = self.steps if self.steps is not None else 10 if self.episodic else 1
        waveforms = [one.waveform for one in heard]
        attempts, _ = self.tried(
            model, waveforms, rows, lambda batch, path: descend(model, batch, path, rows, adam.step, steps, lambda e: self.losses(model, e))
        )
        if self.episodic:
            return [(attempt.hypothesis, one.state, (attempt.event,)) for one, attempt in zip(heard, attempts, strict=True)]
        return kept(heard, attempts, adam)

    def losses(self, model: Recogniser, emissions: Emissions) -> Losses:
        """The entropy of every utterance of a batch."""
        spoken = entropies.spoken(emissions, model.blank)
        counted = spoken if self.episodic else entropies.valid(emissions)
        entropy = entropies.mean(entropies.shannon(emissions.logits, self.temperature), counted)
        return Losses(entropy, torch.zeros_like(entropy), entropy, spoken.any(1))
