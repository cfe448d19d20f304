"""SUTA beside the loop that was published: CPU seconds of both on the same audio, and whether they hear the same.

    python benchmarks/suta.py                        the embedded model on sentences that espeak reads, with white noise
    python benchmarks/suta.py --model M --manifest F --limit 20

The published loop (arXiv 2203.14222 and its code) copies the state dict of the whole model and of the optimiser before each utterance
and once more to put it back, and runs an extra forward after every step: 2 steps + 1 forwards. Here it is re-implemented as it is, but
for its repeated parameters, so that both do the same arithmetic.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from asrlife.audio.waveform import Waveform
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.methods.online import Suta, run
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
    """The published loop around a recogniser; its forwards are counted."""

    def __init__(self, model: Recogniser, method: Suta) -> None:
        self.model, self.method, self.forwards = model, method, 0
        model.module.requires_grad_(False)
        self.parameters = [model.module.get_parameter(name).requires_grad_(True) for name in model.select(method.scope)]
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
        return self.model.emissions(batch)


def spoken() -> Iterator[Utterance]:
    """Sentences in two voices under white noise."""
    from asrlife.audio.speak import speak

    rng = np.random.default_rng(0)
    for index, text in enumerate(SENTENCES):
        samples = speak(text, voice=("en-us", "en-gb-x-rp+f3")[index % 2]).samples
        noise = rng.standard_normal(len(samples)) * np.sqrt(np.mean(samples**2) / 10 ** (SNR_DB / 10))
        yield Utterance(f"spoken-{index}", Waveform((samples + noise).astype(np.float32), 16_000), text)


def compare(model: Recogniser, utterances: Sequence[Utterance], method: Suta) -> tuple[float, float, int]:
    """CPU seconds of the published loop and of ours, taken in turns on a busy machine, and how many transcripts are equal."""
    audio = [utterance.waveform() for utterance in utterances]
    ours, theirs, equal = 0.0, 0.0, 0
    fold = run(method, model, [Utterance(u.id, waveform) for u, waveform in zip(utterances, audio, strict=True)])
    published = Published(deepcopy(model), method)  # its weights change
    for waveform in audio:
        begin = time.process_time()
        _, hypothesis, _ = next(fold)
        middle = time.process_time()
        text = published.hear(waveform)
        theirs, ours = theirs + time.process_time() - middle, ours + middle - begin
        equal += text == hypothesis.text
    return theirs, ours, equal


def main() -> None:
    """Print one line for each loop and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:ctc")
    parser.add_argument("--manifest", type=Path)
    parser.add_argument("--limit", type=int, default=len(SENTENCES))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=2e-4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, method = load(arguments.model), Suta(lr=arguments.lr, steps=arguments.steps)
    utterances = list(Corpus.read(arguments.manifest) if arguments.manifest else spoken())[: arguments.limit]
    compare(model, utterances[:1], Suta(steps=1))  # first calls import and allocate
    theirs, ours, equal = compare(model, utterances, method)
    seconds = sum(utterance.waveform().duration for utterance in utterances)
    print(f"{arguments.model}, {len(utterances)} utterances, {seconds:.1f} s of audio, {arguments.steps} steps, one thread")
    print(f"published loop  {theirs:8.2f} CPU s  {theirs / seconds:6.2f} per second of audio  {2 * arguments.steps + 1} forwards")
    print(f"asrlife         {ours:8.2f} CPU s  {ours / seconds:6.2f} per second of audio  {arguments.steps + 1} forwards")
    print(f"ratio           {theirs / ours:8.2f}        transcripts equal: {equal} of {len(utterances)}")


if __name__ == "__main__":
    main()
