"""One client that speaks in real time: what it hears back, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.client import Adapted, AsyncClient, Closed, Final, Interim, Refined

RATE, CHUNK = 16_000, 0.1  # Hz; s
PRE_ROLL, POST_ROLL, STOP = 0.3, 0.24, 0.48  # s, the server's defaults
_PHRASES = (
    "turn on the kitchen light", "set an alarm for seven please", "play some music in the garden", "what time is it now", "call home",
    "bin blue at f two now", "open the front door", "remind me to buy milk tomorrow", "stop the music", "close all the windows",
)  # fmt: skip


@dataclass(frozen=True)
class Speech:
    """What one client says: phrases with pauses in noise, and their words."""

    samples: np.ndarray
    text: str
    phrases: int

    @classmethod
    def of(cls, seed: int, seconds: float) -> Speech:
        """At least `seconds` of it, the same for a seed."""
        rng, noise = random.Random(seed), np.random.default_rng(seed)
        parts, words = [np.zeros(RATE // 2, np.float32)], list[str]()
        while sum(map(len, parts)) < seconds * RATE:
            words.append(rng.choice(_PHRASES))
            voice = rng.choice(("en-us", "en-us+f3"))
            parts += [speak(words[-1], voice=voice).resampled(RATE).samples, np.zeros(int(RATE * rng.uniform(0.8, 1.6)), np.float32)]
        sound = np.concatenate(parts)
        return cls((sound + noise.standard_normal(len(sound)) * 0.004).astype(np.float32), " ".join(words), len(words))


@dataclass
class Heard:
    """What came back on one stream; delays in s. `lost` says what is missing."""

    finals: list[str] = field(default_factory=list)
    refined: dict[int, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    first_partial: list[float] = field(default_factory=list)
    final: list[float] = field(default_factory=list)
    after_speech: list[float] = field(default_factory=list)
    refinement: list[float] = field(default_factory=list)
    lost: str = ""
    _told: dict[int, float] = field(default_factory=dict)
    _begun: set[int] = field(default_factory=set)

    @property
    def text(self) -> str:
        """The last word on every utterance."""
        return " ".join(self.refined.get(index, final) for index, final in enumerate(self.finals))

    def take(self, event: Any, now: float, sent: Sequence[float]) -> None:
        """An event that came at `now`; `sent` holds when each chunk went."""
        if isinstance(event, Interim) and event.index not in self._begun:
            self._begun.add(event.index)
            self.first_partial.append(now - _at(sent, event.start + PRE_ROLL))
        elif isinstance(event, Final):
            self.finals.append(event.text)
            self._told[event.index] = now
            self.final.append(now - _at(sent, event.end - POST_ROLL + STOP))
            self.after_speech.append(now - _at(sent, event.end - POST_ROLL))
        elif isinstance(event, Refined):
            self.refined[event.index] = event.text
            self.refinement.append(now - self._told[event.index])
        elif isinstance(event, Adapted) and event.kind == "skipped":
            self.skipped.append(str(event.reason))


def _at(sent: Sequence[float], second: float) -> float:
    """When the chunk went that holds this second of the stream."""
    return sent[min(len(sent) - 1, max(0, int(second / CHUNK)))]


async def _chunks(speech: Speech, sent: list[float]) -> AsyncIterator[Waveform]:
    loop, size = asyncio.get_running_loop(), int(RATE * CHUNK)
    began = loop.time()
    for index, start in enumerate(range(0, len(speech.samples), size)):
        await asyncio.sleep(max(0.0, began + (index + 1) * CHUNK - loop.time()))  # a microphone has a chunk when it is over
        sent.append(loop.time())
        yield Waveform(speech.samples[start : start + size], RATE)


async def spoken(client: AsyncClient, speech: Speech, adapt: str, interim: float | None, delay: float) -> Heard:
    """Begin after `delay` s and speak to the end."""
    await asyncio.sleep(delay)
    loop, heard, sent, closed = asyncio.get_running_loop(), Heard(), list[float](), None
    try:
        async for event in client.stream(_chunks(speech, sent), adapt=adapt, interim=interim):
            heard.take(event, loop.time(), sent)
            closed = event if isinstance(event, Closed) else closed
    except Exception as error:  # a stream that fails is a result
        heard.lost = f"{type(error).__name__}: {error}"[:200]
        return heard
    seconds, there = len(speech.samples) / RATE, 0.0 if closed is None else closed.audio
    if abs(there - seconds) > 0.01:
        heard.lost = f"{seconds:.2f} s were sent, {there:.2f} s arrived"
    elif closed is not None and closed.utterances != len(heard.finals):
        heard.lost = f"{closed.utterances} utterances, {len(heard.finals)} finals"
    elif adapt != "none" and len(heard.refined) + len(heard.skipped) < len(heard.finals):
        heard.lost = "utterances with neither a refinement nor a reason"
    return heard
