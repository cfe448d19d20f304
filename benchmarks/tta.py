"""Test-time adaptation beside the loop that was published: CPU-seconds for an adapted utterance, and utterances a second for many streams.

    python benchmarks/tta.py                        the embedded model on sentences that espeak reads, with white noise
    python benchmarks/tta.py --model M --manifest F --limit 20 --streams 1 4 16 64 --json

The published loop (arXiv 2203.14222 and its code) copies the state dict of the whole model and of the optimiser before each utterance
and once more to put it back, runs an extra forward after every step (2 steps + 1 in all), and takes one utterance at a time. Here it is
re-implemented as it is on transformers' own forward, once with each tuned tensor listed once, so that both do the same arithmetic, and
once (scope norms+features) with the repeats of the published list, against the preset "paper". Both sides are timed in turns on the same
audio. The device is the model's: --device cuda where there is one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.methods.online import State, Suta
from asrlife.methods.online.adam import listed
from asrlife.methods.online.losses import suta
from asrlife.models.handle import Batch, Emissions, Recogniser
from asrlife.models.load import load

SENTENCES = (
    "turn on the lights in the kitchen", "what is the weather like tomorrow", "set an alarm for seven in the morning",
    "play some music please", "place blue at f three now", "call my brother on the phone",
    "add milk to my shopping list", "how far is the moon",
)  # fmt: skip
SNR_DB = 8.0


class Published:
    """The published loop around a recogniser of its own; its forwards are counted."""

    def __init__(self, model: Recogniser, method: Suta) -> None:
        self.model, self.method, self.forwards = model, method, 0
        model.module.requires_grad_(False)
        names = model.select(method.scope)
        times = [1] * len(names) if method.preset == "clean" else [span[1] for span in listed(model, names)]
        repeated = [name for name, count in zip(names, times, strict=True) for _ in range(count)]
        self.parameters = [model.module.get_parameter(name).requires_grad_(True) for name in repeated]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=method.lr, weight_decay=0)
        self.start = deepcopy(model.module.state_dict()), deepcopy(self.optimiser.state_dict())

    def hear(self, waveform: Waveform) -> str:
        """Restore everything, adapt, and decode after every step; the last text counts."""
        weights, moments = deepcopy(self.start[0]), deepcopy(self.start[1])
        self.model.module.load_state_dict(weights)
        self.optimiser.load_state_dict(moments)
        batch = self.model.prepare([waveform])
        text = self._decoded(batch)
        for _ in range(self.method.steps):
            emissions = self._forward(batch)
            found = suta(emissions.logits, emissions.lengths, self.model.blank, self.method.temperature, self.method.em_weight)
            self.model.module.zero_grad()
            found.total.sum().backward()
            self.optimiser.step()
            text = self._decoded(batch)
        return text

    def _decoded(self, batch: Batch) -> str:
        with torch.no_grad():
            return self.model.decode(batch, self._forward(batch))[0].text

    def _forward(self, batch: Batch) -> Emissions:
        self.forwards += 1
        model: Any = self.model
        return Emissions(model.logits(batch.inputs, batch.mask).float(), model.frames.count(batch.lengths))


@dataclass(frozen=True)
class Duel:
    """One scope and list of parameters, both sides in CPU-seconds for an utterance."""

    scope: str
    preset: str
    published: float
    asrlife: float
    ratio: float
    equal: int
    utterances: int


@dataclass(frozen=True)
class Throughput:
    """Adapted utterances per second of wall time with all cores: one by one, and `streams` at once."""

    streams: int
    threads: int
    published: float
    one_by_one: float
    together: float


def spoken() -> Iterator[Utterance]:
    """Sentences in two voices under white noise."""
    from asrlife.audio.speak import speak

    rng = np.random.default_rng(0)
    for index, text in enumerate(SENTENCES):
        samples = speak(text, voice=("en-us", "en-gb-x-rp+f3")[index % 2]).samples
        noise = rng.standard_normal(len(samples)) * np.sqrt(np.mean(samples**2) / 10 ** (SNR_DB / 10))
        yield Utterance(f"spoken-{index}", Waveform((samples + noise).astype(np.float32), 16_000), text)


def duel(model: Recogniser, audio: Sequence[Waveform], method: Suta) -> Duel:
    """Both sides in turns on each utterance, as the machine may be busy."""
    published, start, ours, theirs, equal = Published(deepcopy(model), method), method.start(model), 0.0, 0.0, 0
    for waveform in audio:
        begin = time.process_time()
        text = heard(model, method, start, [waveform])[0]
        middle = time.process_time()
        other = published.hear(waveform)
        theirs, ours = theirs + time.process_time() - middle, ours + middle - begin
        equal += text == other
    count = len(audio)
    return Duel(method.scope, method.preset, theirs / count, ours / count, ours / theirs, equal, count)


def heard(model: Recogniser, method: Suta, start: State, audio: Sequence[Waveform]) -> list[str]:
    """The adapted texts of one utterance of each stream; a stream starts once, as the published loop is built once."""
    found = method.together(model, [start] * len(audio), [Utterance(str(i), waveform) for i, waveform in enumerate(audio)])
    return [hypothesis.text for hypothesis, _, _ in found]


def throughput(model: Recogniser, audio: Sequence[Waveform], method: Suta, streams: int) -> Throughput:
    """Rates with one thread and with all cores, the better of the two; those one by one from a few utterances."""
    chosen = [audio[index % len(audio)] for index in range(streams)]
    published, start = Published(deepcopy(model), method), method.start(model)
    best: dict[str, tuple[float, int]] = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        rates = {
            "published": rate(lambda: [published.hear(waveform) for waveform in chosen[:4]], min(streams, 4)),
            "one_by_one": rate(lambda: [heard(model, method, start, [waveform]) for waveform in chosen[:8]], min(streams, 8)),
            "together": rate(lambda: heard(model, method, start, chosen), streams),
        }
        for name, found in rates.items():
            best[name] = max(best.get(name, (0.0, 0)), (found, threads))
    return Throughput(streams, best["together"][1], *(best[name][0] for name in ("published", "one_by_one", "together")))


def rate(call: Callable[[], object], utterances: int) -> float:
    """Utterances per second of wall time."""
    began = time.perf_counter()
    call()
    return utterances / (time.perf_counter() - began)


def main() -> None:
    """Print a table of duels and one of rates, or both as JSON."""
    options = _options()
    torch.set_num_threads(1)
    model = load(options.model)
    model.module.to(options.device)
    method = Suta(lr=options.lr, steps=options.steps)
    corpus = Corpus.read(options.manifest) if options.manifest else spoken()
    audio = [utterance.waveform() for utterance in corpus][: options.limit]
    duel(model, audio[:1], replace(method, steps=1))  # first calls import and allocate
    kinds = [("norms+features", "clean"), ("norms+features", "paper"), ("norms", "clean")]
    duels = [duel(model, audio, replace(method, scope=scope, preset=preset)) for scope, preset in kinds]
    rates = [throughput(model, audio, replace(method, scope=scope), n) for scope in ("norms+features", "norms") for n in options.streams]
    if options.json:
        print(json.dumps({"duels": [asdict(row) for row in duels], "throughput": [asdict(row) for row in rates]}, indent=2))
        return
    seconds = sum(waveform.duration for waveform in audio) / len(audio)
    print(f"{options.model}, {len(audio)} utterances of {seconds:.1f} s, {options.steps} steps; CPU-seconds for one, one thread")
    print(f"{'scope':16}{'parameters':12}{'published':>10}{'asrlife':>9}{'ratio':>7}  same text")
    for row in duels:
        print(f"{row.scope:16}{row.preset:12}{row.published:10.3f}{row.asrlife:9.3f}{row.ratio:7.2f}  {row.equal} of {row.utterances}")
    print(f"\nadapted utterances a second, best of one thread and {len(os.sched_getaffinity(0))}")
    print(f"{'scope':16}{'streams':>8}{'published':>11}{'one by one':>12}{'together':>10}{'over published':>16}{'over one by one':>17}")
    for scope, row in zip([scope for scope in ("norms+features", "norms") for _ in options.streams], rates, strict=True):
        gains = f"{row.together / row.published:15.2f}x{row.together / row.one_by_one:16.2f}x"
        print(f"{scope:16}{row.streams:8}{row.published:11.2f}{row.one_by_one:12.2f}{row.together:10.2f}{gains}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:ctc")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--limit", type=int, default=len(SENTENCES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
