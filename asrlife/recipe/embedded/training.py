"""What both trainings share: mixtures, length buckets, the schedule, the loop with its log and its checkpoint."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from asrlife.files import atomic
from asrlife.recipe.embedded.augment import augment
from asrlife.recipe.embedded.muon import Muon
from asrlife.recipe.embedded.speech import RATE, Speech

Batch = list[tuple[np.ndarray, str]]
Given = TypeVar("Given")
Mixture = list[tuple[Speech, float]]
OUTER = ("lm_head.weight", "head.weight", "embed_tokens.weight", "embed_positions.weight", "proj_out.weight")  # rows are classes


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up and a cosine down to `floor` of the peak; `matrices` is the peak of Muon where it is wanted, else AdamW has all."""

    steps: int
    peak: float = 1.2e-3
    matrices: float | None = None
    warmup: int = 100
    floor: float = 0.03
    seconds: float = 48.0  # of audio in a batch
    longest: float = 60.0  # s, of one utterance before augmentation
    seed: int = 1

    def share(self, step: int) -> float:
        """Share of the peak learning rate at a step counted from 0."""
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.steps)))
        return min(1.0, (step + 1) / self.warmup) * (self.floor + (1 - self.floor) * cosine)


def optimisers(model: torch.nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the network where the schedule has a peak for it, AdamW for what remains."""
    inner = (
        {n for n, p in model.named_parameters() if p.ndim == 2 and p.requires_grad and not n.endswith(OUTER)}
        if schedule.matrices
        else set()
    )
    matrices = [p for n, p in model.named_parameters() if n in inner]
    rest = [p for n, p in model.named_parameters() if n not in inner and p.requires_grad]
    adam = torch.optim.AdamW(rest, schedule.peak, (0.9, 0.98), weight_decay=0.01)
    if schedule.matrices is None:
        return [adam]
    if torch.cpu._is_avx512_bf16_supported():
        return [adam, torch.optim.Muon(matrices, lr=schedule.matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")]
    return [adam, Muon(matrices, schedule.matrices)]


def batches(mixture: Mixture, seconds: float, seed: int, longest: float = 60.0) -> Iterator[Batch]:
    """Yield augmented batches for ever: sources drawn by share, lengths alike within a batch, none above `longest` seconds."""
    rng = np.random.default_rng(seed)
    shares = np.array([share for _, share in mixture])
    while True:
        which = rng.choice(len(mixture), 600, p=shares / shares.sum())
        pool = [(int(w), int(rng.integers(len(mixture[w][0])))) for w in which]
        pool = [(w, i) for w, i in pool if mixture[w][0].seconds_of(i) <= longest]
        pool.sort(key=lambda wi: mixture[wi[0]][0].seconds_of(wi[1]))
        for group in rng.permutation(np.array(_cut(pool, mixture, seconds), dtype=object)):
            yield [(augment(mixture[w][0][i], rng), mixture[w][0].texts[i]) for w, i in group]


def _cut(pool: list[tuple[int, int]], mixture: Mixture, seconds: float) -> list[tuple[tuple[int, int], ...]]:
    groups: list[tuple[tuple[int, int], ...]] = []
    group: list[tuple[int, int]] = []
    for w, i in pool:
        if group and (len(group) + 1) * (mixture[w][0].seconds_of(i) + 0.5) > seconds:
            groups.append(tuple(group))
            group = []
        group.append((w, i))
    return [*groups, tuple(group)]


def mixed() -> torch.autocast:
    """bfloat16 where the processor has instructions for it; without them it is many times slower than float32."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def pad(waves: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-pad with zeros; returns (batch, samples) audio and its mask."""
    longest = max(map(len, waves))
    audio, mask = torch.zeros(len(waves), longest), torch.zeros(len(waves), longest, dtype=torch.long)
    for row, wave in enumerate(waves):
        audio[row, : len(wave)] = torch.from_numpy(wave)
        mask[row, : len(wave)] = 1
    return audio, mask


def fit(
    model: torch.nn.Module,
    loss: Callable[[Batch], torch.Tensor],
    evaluate: Callable[[], dict[str, float]],
    mixture: Mixture,
    schedule: Schedule,
    checkpoint: Path,
    every: int = 500,
) -> None:
    """Train in place on augmented speech; see `drill`."""

    def stream(first: int) -> Iterator[Batch]:
        return batches(mixture, schedule.seconds, schedule.seed + first, schedule.longest)

    drill(model, loss, evaluate, stream, schedule, checkpoint, every)


def drill(
    model: torch.nn.Module,
    loss: Callable[[Given], torch.Tensor],
    evaluate: Callable[[], dict[str, float]],
    stream: Callable[[int], Iterator[Given]],
    schedule: Schedule,
    checkpoint: Path,
    every: int = 500,
) -> None:
    """Train in place on what `stream(first step)` yields, writing a line of progress and a resumable checkpoint every `every` steps."""
    algorithms = optimisers(model, schedule)
    groups = [(group, group["lr"]) for algorithm in algorithms for group in algorithm.param_groups]
    first = _resume(model, algorithms, checkpoint)
    given, losses, started = stream(first), [], time.time()
    for step in range(first, schedule.steps):
        for group, peak in groups:
            group["lr"] = peak * schedule.share(step)
        model.train()
        value = loss(next(given))
        value.backward()
        if torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite():  # bfloat16 overflows once in some thousand steps
            for algorithm in algorithms:
                algorithm.step()
        model.zero_grad(set_to_none=True)
        losses.append(float(value.detach()))
        if (step + 1) % 50 == 0:
            say(step=step + 1, loss=round(float(np.nanmean(losses[-50:])), 4), seconds=round(time.time() - started))
        if (step + 1) % every == 0 or step + 1 == schedule.steps:
            model.eval()
            say(step=step + 1, **evaluate())
            _save(model, algorithms, step + 1, checkpoint)


def say(**values: float) -> None:
    """One line of progress on standard error."""
    print(json.dumps(values), file=sys.stderr, flush=True)


def _save(model: torch.nn.Module, algorithms: list[torch.optim.Optimizer], step: int, path: Path) -> None:
    with atomic(path) as file:
        torch.save({"model": model.state_dict(), "optimisers": [a.state_dict() for a in algorithms], "step": step}, file)


def _resume(model: torch.nn.Module, algorithms: list[torch.optim.Optimizer], path: Path) -> int:
    if not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    for algorithm, state in zip(algorithms, saved["optimisers"], strict=True):
        algorithm.load_state_dict(state)
    return int(saved["step"])


def error_rates(sets: dict[str, Speech], transcribe: Callable[[list[np.ndarray]], list[str]], chunk: int = 20) -> dict[str, float]:
    """WER and CER in per cent of each set, decoded `chunk` utterances at a time."""
    import jiwer

    rates = {}
    for name, speech in sets.items():
        waves = [speech[i] for i in range(len(speech))]
        texts = [t for i in range(0, len(waves), chunk) for t in transcribe(waves[i : i + chunk])]
        rates[f"{name}_wer"] = round(100 * jiwer.wer(speech.texts, texts), 2)
        rates[f"{name}_cer"] = round(100 * jiwer.cer(speech.texts, texts), 2)
    return rates


__all__ = ["RATE", "Batch", "Mixture", "Schedule", "batches", "drill", "error_rates", "fit", "mixed", "pad"]
