"""E-BATS: shift what enters the encoder until the sound is usual and the hypothesis sure, without a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from asrlife.delta.rows import source
from asrlife.errors import InputError
from asrlife.methods.online import entropies
from asrlife.methods.online.descent import Attempt, Heard, Learner, skipped
from asrlife.methods.online.evolution import Evolution
from asrlife.methods.online.method import Event, Step
from asrlife.methods.online.state import State
from asrlife.methods.settings import Count, CountOrZero, Positive, Share, Weight
from asrlife.models.handle import Batch, Emissions, Recogniser
from asrlife.models.statistics import HOW, Statistics, beside
from asrlife.text.hypothesis import Hypothesis

_SHIFTED = ("feature_projection.projection.bias", "encoder.conv2.bias")  # what front-ends end with
_DEAF = 10.0  # nats: the published loss where nothing is heard, more than the entropy of any letter
_AT_ONCE = 64  # candidates in one forward
_APART = 1_000_003  # of the noise of two seeds


@dataclass(frozen=True)
class Ebats(Learner):
    """Backpropagation-free adaptation in the manner of E-BATS (arXiv 2506.07078): a search for the bias in front of the encoder.

    CMA-ES, its covariance diagonal, looks for the shift that lowers mean(H) over the frames that are not blank, with
    softmax(logits / temperature), + alignment * D, where D is `Statistics.distance` of the utterance's mean states at the encoder's
    input and output from those of clean speech; the published sum runs over all layers and is not scaled. `sigma` is the first step size
    in deviations of the input. The search ends after `iterations` of `population` candidates, or when `patience` of them in a row gain
    less than `least`; the best candidate is recognised. The next utterance starts from the moving averages (`gamma`) of centre, variance
    and step size. `alignment` 0 needs no statistics, `sigma` then being in the units of the input. `statistics` is a file; None: the one
    in the model's folder. The noise follows from `seed` and the number of utterances heard, and from nothing else.
    """

    name: ClassVar[str] = "ebats"
    population: Count = 16
    iterations: CountOrZero = 8
    sigma: Positive = 0.3
    temperature: Positive = 2.0
    alignment: Weight = 2.0
    gamma: Share = 0.9
    patience: Count = 3
    least: Weight = 1e-3
    seed: CountOrZero = 0
    statistics: str | None = None

    def start(self, model: Recogniser) -> State:
        """The source's bias; raises InputError for a front-end without one, and where statistics are missing, impossible or of another."""
        name = shifted(model)
        bias = source(model.module, (name,))
        base = model.fingerprint()
        self.usual(model, base)
        return State(base, (name,), {"weights": bias, "variance": torch.ones_like(bias)}, {"seen": 0, "size": self.sigma})

    def learn(self, model: Recogniser, heard: Sequence[Heard]) -> list[Step]:
        """Search for each utterance, recognise it with what was best, and carry the averages on."""
        with torch.no_grad():
            hunt = _Hunt.of(self, model, heard)
            start = hunt.judged(torch.arange(len(heard), device=hunt.own.device), hunt.bias)
            search, best, steps = hunt.run(start)
            before, after = hunt.decoded(start), hunt.decoded(best)
            states = hunt.averaged(search)
        found: list[Step] = []
        for row, (one, state) in enumerate(zip(heard, states, strict=True)):
            attempt = self._attempt(start[row], best[row], before[row], after[row], steps[row], hunt.path is not None)
            seen = one.state.record["seen"] + 1
            found.append((attempt.hypothesis, (state if attempt.fit else one.state).updated(seen=seen), (attempt.event,)))
        return found

    def usual(self, model: Recogniser, base: str) -> Statistics | None:
        """The statistics of clean speech; None where they are not asked for."""
        if not self.alignment:
            return None
        if model.blank is None:
            raise InputError(f"ebats aligns CTC recognisers only, and {model.name} is none: set alignment=0")
        path = Path(self.statistics) if self.statistics else beside(model)
        if not path.is_file():
            raise InputError(f"ebats needs {path}, which is not there: {HOW}; or set alignment=0")
        return Statistics.read(path, base)

    def _attempt(self, start: Trial, best: Trial, before: Hypothesis, after: Hypothesis, steps: int, guarded: bool) -> Attempt:
        if not bool(torch.isfinite(best.value)):
            return skipped(before, "diverged", fit=False)
        if not bool(best.hears):
            return skipped(before, "no speech", fit=False)
        if guarded and (fault := self.guard(before, after)):
            return skipped(before, fault, fit=True)
        losses = {"loss_before": float(start.value), "loss_after": float(best.value)}
        entropy = {"entropy_before": float(start.entropy), "entropy_after": float(best.entropy)}
        return Attempt(after, Event("stepped", {"steps": steps, **losses, **entropy, "before": before.text}), fit=True)


@dataclass(frozen=True, eq=False)
class Trial:
    """Biases (rows, n), what they are worth and the entropies they give (rows,), and whether anything is heard with them (rows,)."""

    bias: Tensor
    value: Tensor
    entropy: Tensor
    hears: Tensor

    def __getitem__(self, rows: Tensor | int) -> Trial:
        """Some of them."""
        return Trial(self.bias[rows], self.value[rows], self.entropy[rows], self.hears[rows])

    def beaten(self, other: Trial, rows: Tensor) -> Trial:
        """With `other` in place of `rows` where it is worth less."""
        better = other.value < self.value[rows]
        pairs = zip(vars(self).values(), vars(other[better]).values(), strict=True)
        return Trial(*(mine.index_put((rows[better],), theirs) for mine, theirs in pairs))


@dataclass(frozen=True, eq=False)
class _Hunt:
    """Utterances and the biases (rows, n) from which the searches start; `own` (n,) is the source's, `scale` (n,) a step of size 1."""

    method: Ebats
    model: Recogniser
    states: Sequence[State]
    usual: Statistics | None
    batch: Batch
    path: Tensor | None
    bias: Tensor
    own: Tensor
    scale: Tensor

    @classmethod
    def of(cls, method: Ebats, model: Recogniser, heard: Sequence[Heard]) -> _Hunt:
        """What lies below the bias is computed once."""
        states = [one.state for one in heard]
        (name,) = states[0].names
        bias = torch.stack([state["weights"] for state in states])
        batch = model.cached(model.prepare([one.waveform for one in heard]), (name,))
        usual, own = method.usual(model, states[0].base), source(model.module, (name,))
        scale = torch.ones_like(own) if usual is None else usual.input_deviation.to(own)
        return cls(method, model, states, usual, batch, model.path(batch, {name: bias}), bias, own, scale)

    def run(self, start: Trial) -> tuple[Evolution, Trial, list[int]]:
        """Where the search of each row ended, its best trial, and its iterations."""
        generators = [torch.Generator().manual_seed(self.method.seed * _APART + state.record["seen"]) for state in self.states]
        search, best = self._begun(), start
        stale, steps = (torch.zeros(len(self.states), dtype=torch.long) for _ in range(2))
        for _ in range(self.method.iterations):
            alive = (stale < self.method.patience).nonzero()[:, 0]
            if not len(alive):
                break
            noise = torch.stack([self._noise(generators[row]) for row in alive.tolist()]).to(self.own)
            search, trial = self._generation(search, alive.to(self.own.device), noise)
            earlier, best = best, best.beaten(trial, alive.to(self.own.device))
            gained = (earlier.value - best.value > self.method.least).cpu()
            stale = torch.where(gained, 0, stale + 1)
            steps[alive] += 1
        return search, best, steps.tolist()

    def judged(self, rows: Tensor, bias: Tensor) -> Trial:
        """What biases (trials, n) do to the utterances `rows` (trials,)."""
        parts = zip(rows.split(_AT_ONCE), bias.split(_AT_ONCE), strict=True)
        found = [self._judged(self.batch.rows(some), None if self.path is None else self.path[some], values) for some, values in parts]
        return Trial(bias, *(torch.cat(column) for column in zip(*found, strict=True)))

    def decoded(self, trial: Trial) -> list[Hypothesis]:
        """What is recognised with a bias for each row."""
        return self.model.decode(self.batch, weights={self.states[0].names[0]: trial.bias})

    def averaged(self, search: Evolution) -> list[State]:
        """The states that the next utterances start from."""
        gamma, begun = self.method.gamma, self._begun()
        centre, variance, size = (
            gamma * getattr(begun, name) + (1 - gamma) * getattr(search, name) for name in ("centre", "variance", "size")
        )
        bias = self.own + self.scale * centre
        rows = zip(self.states, bias, variance, size.tolist(), strict=True)
        return [state.updated({"weights": b.clone(), "variance": v.clone()}, size=s) for state, b, v, s in rows]

    def _begun(self) -> Evolution:
        variance = torch.stack([state["variance"] for state in self.states])
        size = torch.tensor([state.record["size"] for state in self.states]).to(self.own)
        return Evolution.at((self.bias - self.own) / self.scale, variance, size)

    def _noise(self, generator: torch.Generator) -> Tensor:
        return torch.randn(self.method.population, self.own.numel(), generator=generator)

    def _generation(self, search: Evolution, alive: Tensor, noise: Tensor) -> tuple[Evolution, Trial]:
        """One generation of the rows `alive`, and the best trial of each of them."""
        part = search.rows(alive)
        count = noise.shape[1]
        trials = self.judged(alive.repeat_interleave(count), (self.own + self.scale * part.candidates(noise)).flatten(0, 1))
        values = trials.value.view(-1, count)
        firsts = torch.arange(len(alive), device=alive.device) * count
        return search.replaced(alive, part.told(noise, values)), trials[firsts + values.argmin(1)]

    def _judged(self, batch: Batch, path: Tensor | None, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        emissions, distance = self._heard(batch, path, {self.states[0].names[0]: bias})
        spoken = entropies.spoken(emissions, self.model.blank)
        hears = spoken.any(1)
        entropy = torch.where(hears, entropies.mean(entropies.shannon(emissions.logits, self.method.temperature), spoken), _DEAF)
        value = entropy + self.method.alignment * distance
        return value.nan_to_num(torch.inf, torch.inf, torch.inf), entropy, hears

    def _heard(self, batch: Batch, path: Tensor | None, weights: dict[str, Tensor]) -> tuple[Emissions, Tensor | float]:
        """Scores, and the distance from usual speech."""
        if self.usual is None:
            return self.model.emissions(batch, path, weights), 0.0
        outputs = self.model.states(batch, None, weights)
        distance = self.usual.distance(self.model.states(batch, 0, weights).mean, outputs.mean)
        head = self.model.module.get_submodule("lm_head")
        return Emissions(head(outputs.values).float(), outputs.lengths), distance


def shifted(model: Recogniser) -> str:
    """The bias that the front-end ends with; raises InputError where there is none."""
    for name, _ in model.module.named_parameters():
        if name.endswith(_SHIFTED):
            return name
    raise InputError(f"ebats shifts what a wav2vec2, HuBERT or Whisper front-end gives, and {model.name} has none: use suta")
