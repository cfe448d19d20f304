"""The server and the offline fold are one fold: same audio, same texts, same state."""

from __future__ import annotations

import asyncio

import pytest

import asrlife
from asrlife.audio.read import write
from asrlife.audio.speak import speak
from asrlife.client import AsyncClient, Closed, Control, Final, Refined
from asrlife.data.corpus import Corpus
from asrlife.data.utterance import Utterance
from asrlife.methods.online import make, run
from asrlife_server.config import ServerConfig
from asrlife_server.main import Server

TEXTS = ("turn on the kitchen light", "set an alarm for seven", "play some music", "bin blue at f two now", "what time is it", "call home")
SETTINGS = {"buffer": "2", "fast_steps": "2", "lr": "0.001"}


@pytest.fixture(scope="module")
def model():
    return asrlife.load("embedded:ctc")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    for index, text in enumerate(TEXTS):
        write(folder / f"{index}.wav", speak(text, voice=("en-us", "en-us+f3")[index % 2]))
    Corpus(tuple(Utterance(str(index), folder / f"{index}.wav", text) for index, text in enumerate(TEXTS)), None).write(folder / "m.jsonl")
    return folder / "m.jsonl"


@pytest.fixture
async def server(model):
    server = Server(ServerConfig.read(None, {"port": 0, "limits.adaptation_wait_ms": 600_000}), model)
    await server.start()
    yield server
    await server.stop(0)


def spoken(utterances):
    for utterance in utterances:
        yield utterance.waveform()
        yield Control.FINALIZE


async def streamed(server, utterances, method, settings):
    texts, finals, closed = [], [], None
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        async for event in client.stream(spoken(utterances), adapt=method, settings=settings, endpointing="external", interim=0.5):
            if isinstance(event, Refined):
                texts.append(event.text)
            elif isinstance(event, Final):
                finals.append(event.text)
            elif isinstance(event, Closed):
                closed = event
    return texts, finals, closed


@pytest.mark.slow
async def test_a_streamed_manifest_gives_the_texts_and_the_state_of_the_offline_fold(server, model, manifest):
    corpus = Corpus.read(manifest)
    fold = run(make("dsuta", SETTINGS, model), model, corpus)
    offline = [hypothesis.text for _, hypothesis, _ in fold]
    before = model.fingerprint()
    texts, finals, closed = await streamed(server, corpus, "dsuta", SETTINGS)
    assert texts == offline
    assert closed.state_digest == fold.state.digest() and closed.state_version == len(TEXTS)
    assert finals == [hypothesis.text for hypothesis in model.transcribe([utterance.waveform() for utterance in corpus], batch_size=1)]
    assert model.fingerprint() == before
    assert fold.state.digest() != make("dsuta", SETTINGS, model).start(model).digest()


@pytest.mark.slow
async def test_streams_side_by_side_end_in_the_states_they_reach_alone(server, manifest):
    utterances = list(Corpus.read(manifest))[:4]
    halves = utterances[:2], utterances[2:]
    alone = [await streamed(server, half, "dsuta", SETTINGS) for half in halves]
    together = await asyncio.gather(*(streamed(server, half, "dsuta", SETTINGS) for half in halves))
    assert [(texts, closed.state_digest) for texts, _, closed in together] == [(texts, closed.state_digest) for texts, _, closed in alone]
    assert alone[0][2].state_digest != alone[1][2].state_digest
