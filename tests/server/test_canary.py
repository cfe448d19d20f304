"""Many streams at once, none of which hears, or learns from, another: each ends as it would alone."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import numpy as np
import pytest
import torch

import asrlife
from asrlife.audio.speak import speak
from asrlife.audio.waveform import Waveform
from asrlife.client import AsyncClient, Control, Final, Refined
from asrlife.data.utterance import Utterance
from asrlife.methods.online import make, run
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server
from asrlife_server.session import Session

STREAMS, EACH = 64, 2
# one slow step for every utterance; Adam turns the rounding of a gradient that is nearly zero into a whole step of `lr`
SETTINGS = {"scope": "norms", "buffer": "1", "fast_steps": "1", "lr": "0.0001"}
STATE, CONFIDENCE = 2e-4, 1e-4  # two slow steps at most, where a gradient is nothing but rounding
WHAT, WHERE, WHEN = ("light", "music", "alarm", "door"), ("kitchen", "garden", "office", "hall"), ("now", "later", "today", "tonight")


@pytest.fixture(scope="module")
def model() -> Any:
    return asrlife.load("embedded:ctc")


@pytest.fixture(scope="module")
def canaries() -> list[list[Utterance]]:
    """For each stream two phrases that no other stream says, in noise of its own."""
    return [[spoken(stream, turn, words) for turn in range(EACH)] for stream, words in enumerate(itertools.product(WHAT, WHERE, WHEN))]


def spoken(stream: int, turn: int, words: tuple[str, ...]) -> Utterance:
    clean = speak(" ".join(words if turn else reversed(words)), voice=("en-us", "en-us+f3")[stream % 2])
    rng = np.random.default_rng((stream, turn))
    noisy = clean.samples + rng.standard_normal(len(clean.samples)) * 0.002 * (1 + stream % 8)
    return Utterance(f"{stream}/{turn}", Waveform(np.clip(noisy, -1, 1).astype(np.float32), clean.rate).quantised())


def sound(utterances: list[Utterance]):
    for utterance in utterances:
        yield utterance.waveform()
        yield Control.FINALIZE


async def streamed(client: AsyncClient, index: int, utterances: list[Utterance]) -> tuple[list[str], list[Any]]:
    finals, refined = [], []
    given = {"adapt": "dsuta", "settings": SETTINGS, "endpointing": "external", "session": str(index)}
    async for event in client.stream(sound(utterances), **given):
        if isinstance(event, Refined):
            refined.append((event.text, event.confidence))
        elif isinstance(event, Final):
            finals.append(event.text)
    return finals, refined


async def served(model: Any, canaries: list[list[Utterance]], monkeypatch: pytest.MonkeyPatch, **settings: Any):
    """What every stream was told and where its state ended, all streams at once, and the sizes of the batches."""
    states, true = {}, Session.closed
    monkeypatch.setattr(Session, "closed", lambda self, digest: states.__setitem__(int(self.name), self.state) or true(self, digest))
    given = {"port": 0, "state.backend": "memory", "limits.adaptation_wait_ms": 3_600_000, "limits.streams": STREAMS}
    server = Server(ServerConfig.read(None, {**given, **settings}), model)
    sizes: dict[str, list[float]] = {"final": [], "adapt": []}
    server.engine._observe = lambda row, value, label: sizes[label].append(value) if row == "batch_size" and label in sizes else None
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{server.port}") as client:
            told = await asyncio.gather(*(streamed(client, index, each) for index, each in enumerate(canaries)))
    finally:
        await server.stop(0)
    return told, [states[index] for index in range(len(canaries))], sizes


@pytest.fixture(scope="module")
def alone(model: Any, canaries: list[list[Utterance]]) -> list[tuple[list[Any], list[Any], Any]]:
    """Finals, refinements and the last state of every stream by itself."""
    found = []
    for utterances in canaries:
        fold = run(make("dsuta", SETTINGS, model), model, utterances)
        refined = [hypothesis for _, hypothesis, _ in fold]
        found.append(([model.transcribe([each.waveform()])[0].text for each in utterances], refined, fold.state))
    return found


@pytest.mark.slow
async def test_64_streams_end_to_the_last_bit_as_they_would_alone(model, canaries, alone, monkeypatch):
    told, states, sizes = await served(model, canaries, monkeypatch)
    for (finals, refined), state, (expected, hypotheses, last) in zip(told, states, alone, strict=True):
        assert finals == expected
        assert [text for text, _ in refined] == [hypothesis.text for hypothesis in hypotheses]
        assert state.digest() == last.digest()
    assert set(sizes["final"]) == set(sizes["adapt"]) == {1}
    assert len({tuple(finals) for finals, _ in told}) > STREAMS / 2  # the canaries are heard apart


@pytest.mark.slow
async def test_64_streams_in_batches_end_as_they_would_alone(model, canaries, alone, monkeypatch):
    told, states, sizes = await served(model, canaries, monkeypatch, **{"batching.recognitions": 16, "batching.adaptations": 16})
    for (finals, refined), state, (expected, hypotheses, last) in zip(told, states, alone, strict=True):
        assert finals == expected
        assert [text for text, _ in refined] == [hypothesis.text for hypothesis in hypotheses]
        assert [sure for _, sure in refined] == pytest.approx([each.confidence for each in hypotheses], abs=CONFIDENCE)
        for name, vector in last.vectors.items():
            torch.testing.assert_close(state[name], vector, rtol=0, atol=STATE)
    assert max(sizes["adapt"]) > 4
