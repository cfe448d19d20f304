"""CTC recognisers of the wav2vec2 family: anything AutoModelForCTC loads that takes raw audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import ctc_loss

from asrlife.errors import InputError
from asrlife.models.confidence import calibrated
from asrlife.models.ctc_decode import Clock, beam_search, greedy, n_best
from asrlife.models.frames import Frames
from asrlife.models.handle import Batch, Emissions, Handle, Weights, checked_options
from asrlife.models.rowwise import weighted
from asrlife.models.states import States, before_head
from asrlife.models.vocabulary import Vocabulary
from asrlife.models.wav2vec2 import Network, Prepared

if TYPE_CHECKING:
    from asrlife.audio.waveform import Waveform
    from asrlife.text.hypothesis import Hypothesis

_LEAST_BEAM = 32  # below it, greedy's labels are missed now and then


@dataclass(frozen=True, eq=False)
class CtcRecogniser(Handle):
    """A CTC network over raw audio.

    `masked`: the network takes an attention mask and its results do not depend on padding. Where it is False (a group norm over
    time in the front-end, convolutions behind it), rows of one length go through the network together and others apart.
    """

    vocabulary: Vocabulary
    frames: Frames
    normalised: bool = True
    masked: bool = True
    _fixed: Prepared = field(default_factory=Prepared, init=False, repr=False)

    @property
    def capabilities(self) -> frozenset[str]:
        """Emissions without a path, a supervised loss, times of words, more than one hypothesis."""
        return frozenset({"emissions", "loss", "timestamps", "alternatives"})

    @property
    def blank(self) -> int:
        """The CTC blank class."""
        return self.vocabulary.blank

    def prepare(self, waveforms: Sequence[Waveform]) -> Batch:
        """Right-padded audio (batch, samples): resampled, silence at the edges where the card asks for it, zero mean and unit variance.

        Audio too short for one frame is padded with silence. Raises InputError for no audio at all.
        """
        if not waveforms:
            raise InputError("nothing to recognise: give at least one waveform")
        rows = [self._row(waveform) for waveform in waveforms]
        lengths = torch.tensor([len(row) for row in rows])
        inputs = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
        mask = (torch.arange(inputs.shape[1]) < lengths[:, None]).long() if self.masked else None
        return Batch(inputs.to(self.device), None if mask is None else mask.to(self.device), lengths.to(self.device))

    def _row(self, waveform: Waveform) -> np.ndarray:
        samples = np.pad(waveform.resampled(self.rate).samples, self.edge)
        samples = np.pad(samples, (0, max(0, self.frames.least - len(samples))))
        if self.normalised:
            samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        return samples.astype(np.float32)

    def cached(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The batch with the frames of the convolutional front-end, where none of `names` lies in it."""
        network = Network.of(self.module, {})
        if network is None:
            return batch
        with torch.no_grad():
            apart = any(".feature_extractor." in name for name in names)
            known = {} if apart else {"frames": network.front(batch.inputs, batch.lengths)}
        return replace(batch, known=known, fixed=self._fixed.of(network, names))

    def states(self, batch: Batch, layer: int | None = None, weights: Weights | None = None) -> States:
        """What the head is given, or the output of transformer layer `layer` (0: the input of the first), with gradient.

        Raises InputError for a network without `lm_head`, and for inner layers of any but wav2vec2 and HuBERT.
        """
        network = Network.of(self.module, weights or {}, batch.fixed)
        if network is not None:
            return self._encoded(network, batch, layer)
        if layer is not None:
            raise InputError(f"the inner layers of {type(self.module).__name__} cannot be read: give a wav2vec2 or HuBERT recogniser")
        alone = (partial(self._alone, batch, row, weights or {}) for row in range(len(batch.lengths)))
        values = [before_head(self.module, forward)[0] for forward in alone]
        return States(torch.nn.utils.rnn.pad_sequence(values, batch_first=True), torch.tensor([len(v) for v in values], device=self.device))

    def _encoded(self, network: Network, batch: Batch, layer: int | None = None) -> States:
        lengths = self.frames.count(batch.lengths)
        frames = batch.known["frames"] if "frames" in batch.known else network.front(batch.inputs, batch.lengths)
        return States(network.encode(frames, lengths, layers=layer), lengths)

    def _alone(self, batch: Batch, row: int, weights: Weights) -> Emissions:
        """One row without its padding."""
        part, samples = slice(row, row + 1), int(batch.lengths[row])
        mask = None if batch.mask is None else batch.mask[part, :samples]
        own = {name: tensor[part] if len(tensor) > 1 else tensor for name, tensor in weights.items()}
        return self.emissions(Batch(batch.inputs[part, :samples], mask, batch.lengths[part]), None, own)

    def path(self, batch: Batch, weights: Weights | None = None) -> None:
        """CTC emissions follow no path."""
        return None

    def emissions(self, batch: Batch, path: Tensor | None = None, weights: Weights | None = None) -> Emissions:
        """Differentiable logits (batch, frames, classes); what stands behind the last frame of a row means nothing."""
        network = Network.of(self.module, weights or {}, batch.fixed)
        if network is not None:
            states = self._encoded(network, batch)
            return Emissions(network.scores(states.values).float(), states.lengths)
        if self.masked:
            with weighted(self.module, weights):
                return Emissions(self.logits(batch.inputs, batch.mask).float(), self.frames.count(batch.lengths))
        return self._bucketed(batch, weights or {})

    def _bucketed(self, batch: Batch, weights: Weights) -> Emissions:
        """Rows of one length together, as padding would change what the network makes of them."""
        rows: dict[int, Tensor] = {}
        for samples in batch.lengths.unique().tolist():
            (members,) = torch.where(batch.lengths == samples)
            with weighted(self.module, {name: own[members] if len(own) > 1 else own for name, own in weights.items()}):
                found = self.logits(batch.inputs[members, :samples], None).float()
            rows |= dict(zip(members.tolist(), found, strict=True))
        ordered = [rows[row] for row in range(len(batch.lengths))]
        lengths = torch.tensor([len(row) for row in ordered], device=self.device)
        return Emissions(torch.nn.utils.rnn.pad_sequence(ordered, batch_first=True), lengths)

    def logits(self, inputs: Tensor, mask: Tensor | None) -> Tensor:
        """The network alone: (batch, samples) -> (batch, frames, classes)."""
        return self.module(inputs, attention_mask=mask).logits if mask is not None else self.module(inputs).logits

    def decode(
        self, batch: Batch, emissions: Emissions | None = None, beam: int = 1, lm: str | None = None, weights: Weights | None = None
    ) -> list[Hypothesis]:
        """Greedy (`beam` 1 and no n-gram) or beam search; raises InputError for a beam below 1 or an n-gram that cannot be read."""
        if beam < 1:
            raise InputError(f"beam must be 1 (greedy) or more, not {beam}")
        rows = self._scored(batch, emissions, weights)
        if beam == 1 and lm is None:
            found = [greedy(row, self.vocabulary, clock) for row, clock in rows]
        else:
            found = [beam_search(row, self.vocabulary, clock, beam, lm) for row, clock in rows]
        return [calibrated(hypothesis, self.card, adapted=bool(weights)) for hypothesis in found]

    def alternatives(self, waveform: Waveform, count: int) -> list[Hypothesis]:
        """Up to `count` hypotheses of different texts for one utterance, by beam search, the likeliest first."""
        ((row, clock),) = self._scored(self.prepare([waveform]), None, None)
        return [calibrated(found, self.card) for found in n_best(row, self.vocabulary, clock, max(_LEAST_BEAM, 4 * count), count)]

    def _scored(self, batch: Batch, emissions: Emissions | None, weights: Weights | None) -> list[tuple[Tensor, Clock]]:
        """Log-probabilities (frames, classes) of each row, and when its frames are."""
        with torch.inference_mode():
            scored = emissions or self.emissions(batch if batch.fixed else self.cached(batch, tuple(weights or {})), None, weights)
            log_probs = self._heard(scored.logits.detach().log_softmax(-1).cpu())
        sizes = zip(batch.lengths.tolist(), scored.lengths.tolist(), strict=True)
        return [(row[:steps], self.clock(samples, steps)) for row, (samples, steps) in zip(log_probs, sizes, strict=True)]

    def _heard(self, log_probs: Tensor) -> Tensor:
        """The same, but blank where scores overflowed: no NaN leaves."""
        nothing = torch.full(log_probs.shape[-1:], -torch.inf)
        nothing[self.blank] = 0.0
        return torch.where(log_probs.isnan().any(-1, keepdim=True), nothing, log_probs)

    def clock(self, samples: int, steps: int) -> Clock:
        """When the `steps` frames of `samples` samples are, without the silence at the edges."""
        offset = (self.frames.centre(0) - self.edge) / self.rate
        return Clock(offset, self.frames.hop / self.rate, max(0, samples - 2 * self.edge) / self.rate)

    def transcribe(self, waveforms: Sequence[Waveform], beam: int = 1, batch_size: int = 8, **options: Any) -> list[Hypothesis]:
        """One hypothesis for each waveform, batched by length; option `lm` as in `decode`."""
        lm = checked_options(options, ("lm",)).get("lm")
        order = sorted(range(len(waveforms)), key=lambda index: waveforms[index].duration)
        found: dict[int, Hypothesis] = {}
        for first in range(0, len(order), max(1, batch_size)):
            members = order[first : first + max(1, batch_size)]
            batch = self.prepare([waveforms[index] for index in members])
            found |= dict(zip(members, self.decode(batch, beam=beam, lm=lm), strict=True))
        return [found[index] for index in range(len(waveforms))]

    def loss(self, batch: Batch, texts: Sequence[str], weights: Weights | None = None) -> Tensor:
        """CTC loss per label, mean over rows; raises InputError for letters the model cannot spell."""
        labels = [self.vocabulary.encode(text) for text in texts]
        emissions = self.emissions(batch, None, weights)
        log_probs = emissions.logits.log_softmax(-1).transpose(0, 1)
        targets = torch.tensor([label for row in labels for label in row], device=log_probs.device)
        counts = torch.tensor([len(row) for row in labels], device=log_probs.device)
        return ctc_loss(log_probs, targets.long(), emissions.lengths, counts, self.blank, zero_infinity=True)
