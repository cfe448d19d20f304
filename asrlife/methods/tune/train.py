"""The loop: batches, penalties, steps, scores, and a checkpoint at each score."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from asrlife.errors import InputError
from asrlife.methods.tune import checkpoint
from asrlife.methods.tune.batches import stream
from asrlife.methods.tune.evidence import Evidence
from asrlife.methods.tune.hold import Hold, Seen
from asrlife.methods.tune.masking import drawn
from asrlife.methods.tune.scope import Moving
from asrlife.methods.tune.settings import Settings
from asrlife.methods.tune.task import Change, Item, Task, train
from asrlife.methods.tune.watch import Watch

BETAS = (0.9, 0.98)  # of AdamW, as wav2vec2 and Whisper were tuned; 0.999 would hardly see the end of a short run
WORST = 1e9  # a score that is not finite, in JSON


@dataclass
class Standing:
    """Where a run stands; all of it is JSON but the best weights, which are beside it in the checkpoint.

    `history` has a line for each score: step, the mean training `loss` since the last one, scores of the dev set, the learning rate, steps
    `skipped` so far for gradients that were not finite, and seconds.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best_step: int = 0
    best_score: list[float] | None = None
    misses: int = 0
    skipped: int = 0
    seconds: float = 0.0
    stopped: str = ""


@dataclass(frozen=True, eq=False)
class Loop:
    """Everything that a run needs; `items` are new utterances, `dev` those that choose the best weights, `steps` the length of the run."""

    task: Task
    moving: Moving
    items: Sequence[Item]
    dev: Evidence | None
    settings: Settings
    steps: int
    holds: Sequence[Hold]
    change: Change | None
    accelerator: Accelerator
    watch: Watch
    run: Mapping[str, Any]
    path: Path | None

    def __call__(self) -> tuple[Standing, dict[str, Tensor]]:
        """Train to the end, from where an earlier run stopped; where the run ended, and the weights that count."""
        optimiser = torch.optim.AdamW(list(self.moving.leaves), self.settings.rate, BETAS, weight_decay=self.settings.decay)
        standing, best = self._resumed(optimiser)
        begun = time.monotonic() - standing.seconds
        if standing.step == 0 and not standing.history:
            best = self._scored(standing, best, None)
        batches = stream(self.items, self._most, self.settings.seed, standing.step * self.settings.accumulate)
        losses: list[float] = []
        with self.watch.stage("tuning", self.steps) as advance:
            for _ in range(standing.step):
                advance()
            while standing.step < self.steps and not standing.stopped:
                losses.append(self._step(standing, optimiser, batches))
                standing.step += 1
                advance()
                standing.seconds = time.monotonic() - begun
                if standing.step % self._every == 0 or standing.step == self.steps:
                    best = self._scored(standing, best, losses)
                    self._keep(standing, best, optimiser)
                    losses = []
        return standing, best

    @property
    def _every(self) -> int:
        return self.settings.every or max(1, math.ceil(self.steps / 10))

    @property
    def _size(self) -> float:
        return self.settings.batch_seconds if self.task.unit == "s" else self.settings.batch_tokens

    @property
    def _most(self) -> float:
        """Size of what is new in a batch."""
        return self._size * (1 - sum(hold.share for hold in self.holds))

    def _step(self, standing: Standing, optimiser: torch.optim.Optimizer, batches: Iterator[list[Item]]) -> float:
        """One step of the optimiser; its loss without penalties."""
        self.moving.zero()
        train(self.task.model.module, self.settings.dropout, self.settings.hides)
        rate = self.settings.rate * self.settings.share(standing.step, self.steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        told = []
        for micro in range(self.settings.accumulate):
            with self.accelerator.accumulate(), drawn(self.settings.seed, standing.step, micro) as rng:
                loss, plain = self._loss(next(batches), rng)
                self.accelerator.backward(loss)
                told.append(plain)
        length = self.accelerator.clip_grad_norm_(list(self.moving.leaves), self.settings.clip)
        if math.isfinite(float(length)):
            optimiser.step()
        else:
            standing.skipped += 1
        self.watch.tell(self._line(standing, told[-1]))
        return sum(told) / len(told)

    def _loss(self, items: Sequence[Item], rng: Any) -> tuple[Tensor, float]:
        """The loss with its penalties, and without."""
        given = self.task.given(items, self.change, rng)
        with self.accelerator.autocast():
            taught = self.task.taught(given, hide=True)
            loss = (1 - sum(hold.share for hold in self.holds)) * taught.loss
            seen = Seen(given, taught, self.moving.moved() if self.holds else {}, rng, self._size, self.change)
            for hold in self.holds:
                loss = loss + hold.penalty(seen)
        return loss, float(taught.loss.detach())

    def _scored(self, standing: Standing, best: dict[str, Tensor], losses: Sequence[float] | None) -> dict[str, Tensor]:
        """Score the weights of now, and keep them where they are the best."""
        if losses and standing.history and standing.skipped - standing.history[-1]["skipped"] == len(losses):
            raise InputError(f"no gradient since step {standing.history[-1]['step']} was finite: give a lower rate, or look at the data")
        scores = {} if self.dev is None else self.task.score(self.dev.items)
        mean = [loss for loss in losses or [] if math.isfinite(loss)]
        line: dict[str, Any] = {"step": standing.step, "loss": sum(mean) / len(mean) if mean else None}
        line |= {f"dev_{name}": value if math.isfinite(value) else None for name, value in scores.items()}
        rate = self.settings.rate * self.settings.share(max(0, standing.step - 1), self.steps)
        standing.history.append(line | {"rate": rate, "skipped": standing.skipped, "seconds": round(standing.seconds, 3)})
        self.watch.tell(self._line(standing, None))
        return self._chosen(standing, best, scores)

    def _chosen(self, standing: Standing, best: dict[str, Tensor], scores: Mapping[str, float]) -> dict[str, Tensor]:
        """The best weights after this score; without a dev set those of now."""
        score = [scores[name] if math.isfinite(scores[name]) else WORST for name in self._order if name in scores]
        if not score or standing.best_score is None or score < standing.best_score:
            standing.best_step, standing.best_score, standing.misses = standing.step, score or None, 0
            return self.moving.state()
        standing.misses += 1
        if self.settings.patience and standing.misses >= self.settings.patience:
            standing.stopped = f"no better {self._order[0]} on the dev set in {standing.misses} scores"
        return best

    @property
    def _order(self) -> tuple[str, ...]:
        """The metrics that choose: the wanted one, then those that break ties."""
        metrics = self.task.metrics
        return metrics[metrics.index(self.settings.metric) :] if self.settings.metric in metrics else metrics

    def _line(self, standing: Standing, loss: float | None) -> str:
        last = standing.history[-1] if standing.history else {}
        shown = last.get("loss") if loss is None else loss
        parts = [] if shown is None else [f"loss {shown:.3f}"]
        if last.get("dev_wer") is not None:
            parts.append(f"dev WER {100 * last['dev_wer']:.1f} %")
        elif last.get("dev_loss") is not None:
            parts.append(f"dev loss {last['dev_loss']:.3f}")
        return ", ".join(parts)

    def _keep(self, standing: Standing, best: Mapping[str, Tensor], optimiser: torch.optim.Optimizer) -> None:
        if self.path is None:
            return
        tensors = {f"now.{name}": tensor for name, tensor in self.moving.state().items()} | {f"best.{name}": t for name, t in best.items()}
        steps = 0
        for place, leaf in enumerate(self.moving.leaves):
            moments = optimiser.state.get(leaf, {})
            if moments:
                tensors |= {f"first.{place}": moments["exp_avg"], f"second.{place}": moments["exp_avg_sq"]}
                steps = int(moments["step"])
        checkpoint.write(self.path, self.run, asdict(standing) | {"optimiser_steps": steps}, tensors)

    def _resumed(self, optimiser: torch.optim.Optimizer) -> tuple[Standing, dict[str, Tensor]]:
        """Where an earlier run stopped, with weights and moments put back; the beginning where there is none."""
        kept = None if self.path is None else checkpoint.read(self.path, self.run)
        if kept is None:
            return Standing(), self.moving.state()
        state, tensors = kept
        steps = state.pop("optimiser_steps")
        self.moving.load({name.removeprefix("now."): tensor for name, tensor in tensors.items() if name.startswith("now.")})
        for place, leaf in enumerate(self.moving.leaves):
            if f"first.{place}" in tensors:
                first, second = (tensors[f"{which}.{place}"].to(leaf.device) for which in ("first", "second"))
                optimiser.state[leaf] = {"step": torch.tensor(float(steps)), "exp_avg": first, "exp_avg_sq": second}
        best = {name.removeprefix("best."): tensor for name, tensor in tensors.items() if name.startswith("best.")}
        return Standing(**state), best
